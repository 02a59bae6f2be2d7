"""What is true of a VE, asked of the kernel and of the disk: never of our own getters."""

import contextlib
import hashlib
import os
import re
import select
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ve
from tests.verbs import commandline

ROOT = Path(__file__).resolve().parent.parent.parent
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
START = "import sys, ve; ve.Host(sys.argv[1]).get(int(sys.argv[2])).start()"


# ---- processes ------------------------------------------------------------------------------------------------------


def init(state_dir: Path, veid: int) -> int:
    """The host's pid of the process in its cgroup that is PID 1 inside."""
    return commandline.processes(state_dir, veid)[1]


def runs(state_dir: Path, veid: int) -> bool:
    """Is any process in its cgroup?"""
    try:
        return "populated 1" in (commandline.cgroup(state_dir, veid) / "cgroup.events").read_text()
    except FileNotFoundError:
        return False


def tell_when_booted(state_dir: Path, veid: int) -> None:
    """Give a VE of the busybox template that is stopped a last start script, for wait_until_booted."""
    upper = state_dir / f"private/{veid}/upper"
    os.mkfifo(upper / "booted")
    (upper / "etc/init.d").mkdir(parents=True, exist_ok=True)
    (upper / "etc").chmod(0o755)
    script = upper / "etc/init.d/S99booted"
    script.write_text("#!/bin/sh\ntest $1 = start && echo booted >/booted\n")
    script.chmod(0o755)


def wait_until_booted(state_dir: Path, veid: int) -> None:
    assert Path(f"/proc/{init(state_dir, veid)}/root/booted").read_text() == "booted\n"


def wait_empty(state_dir: Path, veid: int) -> None:
    """Until no process is in its cgroup: each change of cgroup.events is a POLLPRI."""
    try:
        fd = os.open(commandline.cgroup(state_dir, veid) / "cgroup.events", os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        while "populated 1" in os.pread(fd, 4096, 0).decode():
            assert poll.poll(commandline.PATIENCE * 1000), "processes of it go on"
    finally:
        os.close(fd)


def wait_stopped(env: "ve.Environment") -> None:
    """Until its init has ended too, which it has a moment after its cgroup is empty."""
    deadline = time.monotonic() + commandline.PATIENCE
    while env.status != ve.Status.STOPPED:
        assert time.monotonic() < deadline, "it goes on"
        select.select([], [], [], 0.02)


def namespaces(pid: int | str) -> dict[str, str]:
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES}


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def base(pid: int) -> int:
    """The host's id of the root of the user namespace that a process is in."""
    inside, outside, count = Path(f"/proc/{pid}/uid_map").read_text().split()
    assert (inside, count) == ("0", "65536")
    return int(outside)


def enter(pid: int, *command: str, namespaces: str = "--all") -> str:
    """What a command of the host prints in the namespaces of a process (nsenter's letters, as in "-n")."""
    return subprocess.check_output(["nsenter", f"--target={pid}", namespaces, *command], text=True)


def python(script: str, *args: object, before: tuple[str, ...] = (), **options: Any) -> "subprocess.Popen[str]":
    """Another program that imports ve, with pipes."""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([*before, sys.executable, "-c", script, *map(str, args)], cwd=ROOT, **options)


def shell(env: "ve.Environment", script: str) -> str:
    """What a script prints inside; it must end well."""
    done = env.run(["sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def says_no(env: "ve.Environment", script: str) -> str:
    """What a script that must fail inside complains of."""
    done = env.run(["sh", "-c", script], capture_output=True, text=True)
    assert done.returncode != 0, f"{script} was not refused"
    return str(done.stderr)


# ---- mounts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MountLine:
    """A line of proc_pid_mountinfo(5)."""

    device: str  # MAJOR:MINOR of the super block
    root: str
    point: str
    options: frozenset[str]
    propagation: tuple[str, ...]
    kind: str
    source: str
    super_options: str


def mounts(pid: int | str = "self") -> list[MountLine]:
    return [_mount_line(line) for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]


def _mount_line(line: str) -> MountLine:
    left, _, right = line.partition(" - ")
    _, _, device, root, point, options, *propagation = left.split()
    kind, source, super_options = right.split()
    return MountLine(
        device, root, point, frozenset(options.split(",")), tuple(propagation), kind, source, super_options
    )


# ---- the disk -------------------------------------------------------------------------------------------------------


def look(path: Path) -> tuple[object, ...]:
    """All that matters of one file: kind, mode, owners, content."""
    at = path.lstat()
    content: object = at.st_rdev
    if stat.S_ISREG(at.st_mode):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    elif stat.S_ISLNK(at.st_mode):
        content = os.readlink(path)
    return (at.st_mode, at.st_uid, at.st_gid, content)


def tree(top: Path) -> dict[str, tuple[object, ...]]:
    return {str(path.relative_to(top)): look(path) for path in (top, *top.rglob("*"))}


# Templates count as their versions; what overlayfs and init write for themselves, and what the first start of a boot
# makes for all, do not count.
_NOT_ASKED_FOR = re.compile(
    r"(run/)?(lease|ubc)|run/(scratch|log)|run/filter(/.*)?|template/[^/]+/\d+/.*|private/\d+/(work/.*|log)"
)


def everything(state_dir: Path) -> dict[str, object]:
    """What a state dir holds, on disk and as cgroups."""
    paths = {str(path.relative_to(state_dir)): path for path in state_dir.rglob("*")}
    found: dict[str, object] = {name: look(path) for name, path in paths.items() if not _NOT_ASKED_FOR.fullmatch(name)}
    return found | {str(path): None for path in commandline.cgroup(state_dir, 0).parent.glob("[0-9]*")}


def left_of(state_dir: Path, veid: int) -> list[str]:
    """Everything that names this VEID."""
    found = [state_dir / place / str(veid) for place in ("private", "root", "run", "run/lock", "run/log", "ubc")]
    records = [state_dir / place / str(veid) for place in ("lease", "run/lease")]
    found += [path for place in ("conf", "run") for path in (state_dir / place).glob(f"*{veid}.*")]
    found += [commandline.cgroup(state_dir, veid)]
    names = [path for path in (state_dir / "name").glob("*") if os.readlink(path) == str(veid)]
    links = [link for link in names + records + leases(state_dir, veid) if link.is_symlink()]
    return [str(path) for path in (*found, *links) if path.exists() or path in links]


def leases(state_dir: Path, veid: int) -> list[Path]:
    """The leases of host ids that name this VE."""
    places = [Path(os.environ["VE_ID_DIR"]), Path(os.environ["VE_ID_DIR"], "run")]
    holders = [f"{state_dir}/{place}/{veid}.toml" for place in ("conf", "run")]
    return [link for place in places for link in place.glob("[0-9]*") if os.readlink(link) in holders]


@contextlib.contextmanager
def nothing_changes(state_dir: Path, but: str = "") -> Iterator[None]:
    """but: a pattern of what may change, as in "private/101/.*" of a VE that runs."""
    before = everything(state_dir)
    yield
    after = everything(state_dir)
    names = [name for name in before | after if before.get(name, ()) != after.get(name, ())]
    names = [name for name in names if not re.fullmatch(but, name)]
    assert not names, {name: (before.get(name, "was not"), after.get(name, "is gone")) for name in names}


def read_only(state_dir: Path) -> tuple[str, ...]:
    """What stands before a command that shall find this directory on a read-only file system."""
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, str(state_dir))


# ---- the command ----------------------------------------------------------------------------------------------------


def refused(state_dir: Path, code: int, sentence: str, *words: commandline.Word, before: tuple[str, ...] = ()) -> str:
    """Run a command line that must fail with this code and, after "ve: ", this sentence; gives the hint.

    before: what stands before `ve` in it, as in ("nice",).
    """
    line = [*before, *commandline.words(state_dir, *words)]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == code, done
    assert lines[:1] == [f"ve: {sentence}"], done
    assert lines[1:] == [] or (len(lines) == 2 and lines[1].startswith("hint: ")), done
    return lines[1].removeprefix("hint: ") if lines[1:] else ""
