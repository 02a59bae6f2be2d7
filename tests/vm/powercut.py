"""In the VM, by test_powercut.py: python -m tests.vm.powercut KIND...; one verb after another, on a disk of each kind.

Whoever reads the log of a disk's writes (writelog.py) must know which verb had returned by when: so after each verb its
name, and what the files then say, is written behind the file system.  That is no flush, and forces nothing to the disk.
"""

import contextlib
import hashlib
import json
import mmap
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import ve

TOP = Path("/mnt")  # here and where the writes are replayed: files of ours name their place
DISK = TOP / "disk"
STATE, NETWORK, IDS, OVER = DISK / "state", DISK / "network", DISK / "id", DISK / "over"
SPARE = 1 << 20  # bytes behind the file system, for marks
MARK = b"verb: "
# ext4 must not guess what a rename is for, and nothing may come to the disk by itself sooner than it has to.
MOUNTED = {"ext4": "noauto_da_alloc,commit=300", "xfs": "nouuid", "btrfs": "commit=300"}

UNFINISHED = re.compile(r'^unfinished = ".*"\n', re.MULTILINE)  # of a conf file: the next who needs its upper does it

Contents = dict[str, str]
VEIDS = (101, 102, 103, 104, 105)
MARKERS = ("one", "two", "loop")  # files in a VE that say what they are called
Acts = dict[str, Callable[[ve.Host], object]]
VERBS: Acts = {
    "template build": lambda host: host.templates.build("busybox"),
    "network add": lambda host: host.networks.add("lan", ["10.9.0.0/24"]),
    "create": lambda host: host.create(
        101, template="busybox", name="mars", hostname="red", memory="64M", numproc=40, addresses=["10.9.0.5"]
    ),
    "create, sticky": lambda host: host.create(102, template="busybox", name="pluto", addresses=["auto:lan:sticky"]),
    "set limits": lambda host: host.get(101).set(memory="96M", numproc=50, save=True),
    "set hostname": lambda host: host.get(101).set(hostname="blue", description="x" * 5000, save=True),
    "set addresses": lambda host: host.get(101).set(addresses=["10.9.0.6"], save=True),
    "start": lambda host: host.get(101).start(),
    "start, sticky": lambda host: host.get(102).start(),
    "ubc": lambda host: host.beancounters(),
    "set, running": lambda host: host.get(101).set(memory="80M", addresses=["10.9.0.7"], save=True),
    "ubc --reset": lambda host: host.get(101).reset_beancounters(),
    "restart": lambda host: host.get(101).restart(timeout=0),
    "stop": lambda host: host.get(101).stop(fast=True),
    "stop, sticky": lambda host: host.get(102).stop(fast=True),
    "rename": lambda host: host.get(101).rename("venus"),
    "rename to what was freed": lambda host: host.get(102).rename("mars"),
    "set no address": lambda host: host.get(101).set(addresses=[], save=True),
    "snapshot create": lambda host: change(host, 101, "one").checkpoint("first"),
    "snapshot create, second": lambda host: change(host, 101, "two").checkpoint("second"),
    "fork": lambda host: host.get(101).snapshot("first").fork(veid=104),
    "clone": lambda host: host.get(101).clone(105),
    "start, with layers": lambda host: host.get(101).start(),
    "snapshot create, running": lambda host: host.get(101).checkpoint("third"),
    "reset, running": lambda host: host.get(101).reset(),
    "stop, after reset": lambda host: host.get(101).stop(fast=True),
    "snapshot restore": lambda host: host.get(101).restore("second"),
    "snapshot restore, of less": lambda host: host.get(101).restore("first"),
    "snapshot delete": lambda host: host.get(101).snapshot("second").delete(),
    "snapshot delete, of a fork's": lambda host: host.get(101).snapshot("first").delete(),
    "destroy, fork": lambda host: host.get(104).destroy(),
    "destroy, clone": lambda host: host.get(105).destroy(),
    "template build again": lambda host: host.templates.build("busybox"),
    "template remove": lambda host: host.templates.remove("busybox:2"),
    "create, loop": lambda host: host.create(103, template="busybox", area="loop", disk="16M"),
    "snapshot create, loop": lambda host: change(host, 103, "loop").checkpoint("first"),
    "snapshot restore, loop": lambda host: host.get(103).restore("first"),
    "reset, loop": lambda host: host.get(103).reset(),
    "destroy, loop": lambda host: host.get(103).destroy(),
    "network add, second": lambda host: host.networks.add("wan", ["10.10.0.0/24"]),
    "network remove": lambda host: host.networks.remove("wan"),
    "destroy": lambda host: host.get(101).destroy(),
    "create anew": lambda host: host.create(101, template="busybox", name="venus", addresses=["10.9.0.5"]),
    "destroy again": lambda host: host.get(101).destroy(),
    "destroy, sticky": lambda host: host.get(102).destroy(),
    "create anew, without address": lambda host: host.create(102, template="busybox"),
    "destroy, last": lambda host: host.get(102).destroy(),
    "network remove, last": lambda host: host.networks.remove("lan"),
    "template remove, last": lambda host: host.templates.remove("busybox"),
    "template build, in a container": lambda _: build_contained(),
}  # fmt: skip

# What of the markers is in a VE once a verb has returned, and which templates there are in a container.
BEGUN = {"101": "", "103": "", "over": ""}
BECOME = {
    "snapshot create": {"101": "one"},
    "snapshot create, second": {"101": "one two"},
    "fork": {"104": "one"},
    "clone": {"105": "one two"},
    "reset, running": {"101": ""},
    "snapshot restore": {"101": "one two"},
    "snapshot restore, of less": {"101": "one"},
    "snapshot create, loop": {"103": "loop"},
    "reset, loop": {"103": ""},
    "destroy": {"101": ""},
    "template build, in a container": {"over": "busybox:1"},
}


def change(host: ve.Host, veid: int, marker: str) -> ve.Environment:
    """A file more in a VE, that nobody syncs: whoever keeps it has to."""
    env = host.get(veid)
    env.path("/", marker).write_text(marker)
    return env


def seen(host: ve.Host) -> Contents:
    """As BECOME has it, of what there is; what nobody has synced yet may be there without its contents."""
    found = {}
    for env in host.list():
        if (STATE / f"private/{env.veid}").exists():
            paths = {marker: env.path("/", marker) for marker in MARKERS}
            there = [marker for marker, path in paths.items() if path.exists() and path.read_text() == marker]
            found[str(env.veid)] = " ".join(there)
    if OVER.exists():
        with contained() as inner:
            found["over"] = " ".join(template.ref for template in inner.templates.list())
    return found


@contextlib.contextmanager
def contained() -> Iterator[ve.Host]:
    """A state dir on an overlay, as in a container, for which ve makes a file system in a file."""
    root, state = TOP / "root", TOP / "root/state"
    for path in (TOP / "lower", root, OVER / "upper", OVER / "work"):
        path.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={TOP}/lower,upperdir={OVER}/upper,workdir={OVER}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", root], check=True)
    try:
        yield ve.Host(state)
    finally:
        if state.is_mount():
            subprocess.run(["umount", state], check=True)
        subprocess.run(["umount", root], check=True)


def build_contained() -> None:
    with contained() as host:
        host.templates.build("busybox")


def contents() -> Contents:
    """What the files say that are to be old or new: by path, what is in each, or where a link leads."""
    found = {}
    for where in ("state/conf", "state/ubc", "state/traffic", "state/name", "state/address", "network"):
        for path in sorted(DISK.joinpath(where).glob("[!.]*")):
            if path.is_symlink():
                found[f"{where}/{path.name}"] = f"-> {path.readlink()}"
            elif path.is_file() and path.name != "lock":
                found[f"{where}/{path.name}"] = UNFINISHED.sub("", path.read_bytes().decode(errors="backslashreplace"))
    for link in sorted(NETWORK.glob("address/[0-9]*")):
        found[f"network/address/{link.name}"] = f"-> {link.readlink()}"
    for path in sorted(STATE.glob("template/[!.]*/*.toml")):
        found[f"{path.relative_to(DISK)}"] = path.read_bytes().decode(errors="backslashreplace")
        found[f"{path.with_suffix('').relative_to(DISK)}"] = digest(path.with_suffix(""))
    for path in sorted(STATE.glob("layer/[!.]*/upper")):
        found[f"{path.relative_to(DISK)}"] = digest(path)
    for path in sorted(STATE.glob("private/*")):
        found[f"{path.relative_to(DISK)}"] = private(path)
    for path in OVER.glob("upper/state/*.img"):
        found[f"{path.relative_to(DISK)}"] = f"an area of {path.stat().st_size}"
    return found


def private(path: Path) -> str:
    """Its file system in a file is a disk of its own, whose contents change below; what is in both, seen() tells."""
    area, conf = path / "area.img", STATE / f"conf/{path.name}.toml"
    if area.exists():
        return f"an area of {area.stat().st_size}"
    unfinished = conf.exists() and UNFINISHED.search(conf.read_text())
    return "there" if unfinished or path.joinpath("upper").is_dir() else "broken"


def digest(tree: Path) -> str:
    """Of all names, modes and contents."""
    seen = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        about = path.lstat()
        said = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        seen.update(f"{path.relative_to(tree)} {about.st_mode} {about.st_uid} {len(said)} ".encode() + said)
    return seen.hexdigest() if tree.is_dir() else "missing"


def elsewhere() -> None:
    """Have what is the host's on the disk, too."""
    os.environ.update(VE_ID_DIR=str(IDS), VE_NETWORK_DIR=str(NETWORK))


def mark(device: Path, verb: str, inside: Contents) -> None:
    text = MARK + json.dumps([verb, contents(), inside]).encode()
    with mmap.mmap(-1, -(-len(text) // mmap.PAGESIZE) * mmap.PAGESIZE) as page:
        page[: len(text)] = text
        fd = os.open(device, os.O_WRONLY | os.O_DIRECT)
        try:
            os.pwrite(fd, page, os.lseek(fd, 0, os.SEEK_END) - SPARE)
        finally:
            os.close(fd)


def device_of(kind: str) -> Path:
    [block] = [path for path in Path("/sys/block").glob("vd*") if (path / "serial").read_text().strip() == kind]
    assert (block / "queue/write_cache").read_text() == "write back\n"  # else there are no flushes to be missed
    return Path("/dev", block.name)


def run(kind: str) -> None:
    device = device_of(kind)
    subprocess.run(["mount", "-t", kind, "-o", MOUNTED[kind], device, DISK], check=True)
    try:
        os.sync()
        mark(device, "", BEGUN)
        host, inside = ve.Host(STATE), BEGUN
        for verb, act in VERBS.items():
            act(host)
            inside = inside | BECOME.get(verb, {})
            mark(device, verb, inside)
            print(f"{kind}: {verb}", flush=True)
    finally:
        subprocess.run(["umount", DISK], check=True)  # its last flush ends the log


if __name__ == "__main__":
    elsewhere()
    subprocess.run(["mount", "-t", "tmpfs", "powercut", TOP], check=True)
    DISK.mkdir()
    Path("/proc/sys/vm/dirty_writeback_centisecs").write_text("0")
    for each in sys.argv[1:]:
        run(each)
