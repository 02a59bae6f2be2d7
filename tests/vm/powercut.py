"""In the VM, by test_powercut.py: python -m tests.vm.powercut KIND...; one verb after another, on a disk of each kind.

Whoever reads the log of a disk's writes (writelog.py) must know which verb had returned by when: so after each verb its
name, and what the files then say, is written behind the file system.  That is no flush, and forces nothing to the disk.
"""

import hashlib
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ve

TOP = Path("/mnt")  # here and where the writes are replayed: files of ours name their place
DISK = TOP / "disk"
STATE, NETWORK, IDS = DISK / "state", DISK / "network", DISK / "id"
SPARE = 1 << 20  # bytes behind the file system, for marks
MARK = b"verb: "
# ext4 must not guess what a rename is for, and nothing may come to the disk by itself sooner than it has to.
MOUNTED = {"ext4": "noauto_da_alloc,commit=300", "xfs": "nouuid", "btrfs": "commit=300"}

Contents = dict[str, str]
VEIDS = (101, 102, 103)
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
    "template build again": lambda host: host.templates.build("busybox"),
    "template remove": lambda host: host.templates.remove("busybox:2"),
    "create, loop": lambda host: host.create(103, template="busybox", area="loop", disk="16M"),
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
}  # fmt: skip


def contents() -> Contents:
    """What the files say that are to be old or new: by path, what is in each, or where a link leads."""
    found = {}
    for where in ("state/conf", "state/ubc", "state/traffic", "state/name", "state/address", "network"):
        for path in sorted(DISK.joinpath(where).glob("[!.]*")):
            if path.is_symlink():
                found[f"{where}/{path.name}"] = f"-> {path.readlink()}"
            elif path.is_file() and path.name != "lock":
                found[f"{where}/{path.name}"] = path.read_bytes().decode(errors="backslashreplace")
    for link in sorted(NETWORK.glob("address/[0-9]*")):
        found[f"network/address/{link.name}"] = f"-> {link.readlink()}"
    for path in sorted(STATE.glob("template/[!.]*/*.toml")):
        found[f"{path.relative_to(DISK)}"] = path.read_bytes().decode(errors="backslashreplace")
        found[f"{path.with_suffix('').relative_to(DISK)}"] = digest(path.with_suffix(""))
    for path in sorted(STATE.glob("private/*")):
        found[f"{path.relative_to(DISK)}"] = private(path)
    return found


def private(path: Path) -> str:
    area = path / "area.img"
    if area.exists():
        return hashlib.sha256(area.read_bytes()).hexdigest()
    return "there" if path.joinpath("upper").is_dir() else "broken"


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


def mark(device: Path, verb: str) -> None:
    text = MARK + json.dumps([verb, contents()]).encode()
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
        mark(device, "")
        host = ve.Host(STATE)
        for verb, act in VERBS.items():
            act(host)
            mark(device, verb)
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
