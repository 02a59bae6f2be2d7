"""Where all is measured, ve and its peers alike: namespaces of the benchmark's own, which end with it.

PID 1 of them is catatonit and its child the benchmark, so whatever ends that, a failure or Ctrl-C, ends each container,
monitor and VE there, and takes mounts and interfaces along.  Inside

    /sys/fs/cgroup   is a pure cgroup2, whatever the machine has there: crun and LXC know no other place for it
    /run, /dev/shm, /var/lib/{ve,lxc,containers,cni}   are empty: nothing of the machine's own is seen, or left changed
    eth0             192.0.2.1/24, the way out
    bench0           10.98.0.1/16, the bridge that LXC's containers are on

The work directory (below VE_BENCH_DIR or /var/tmp) and a cgroup are all that is outside: `inside` removes them.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRIVATE = ("/run", "/var/lib/ve", "/var/lib/lxc", "/var/lib/containers", "/var/lib/cni", "/dev/shm")
BRIDGE = "bench0"
_NETWORK = f"""
    ip link set lo up
    ip link add eth0 type veth peer name outside
    ip link set outside up
    ip link set eth0 up
    ip address add 192.0.2.1/24 dev eth0
    ip route add default via 192.0.2.9
    ip link add {BRIDGE} type bridge
    ip link set {BRIDGE} up
    ip address add 10.98.0.1/16 dev {BRIDGE}
"""
# PID 1 goes into the benchmark's cgroup before that becomes the root of the tree that is seen.
_UNSHARE = (
    *("unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"),
    *("--propagation", "private", "--", "sh", "-ec"),
    'echo 0 >"$1/cgroup.procs"; shift; exec unshare --cgroup -- /usr/bin/catatonit -- "$@"',
    "sh",
)


# --- from outside -------------------------------------------------------------------------------------------------


def inside(words: Sequence[str], module: str = "bench") -> int:
    """Run `python -m MODULE` with these words and --inside in a fresh place, and leave nothing of it; its exit code."""
    with _work_directory() as work, _own_cgroup() as cgroup, _mount_points():
        command = [*_UNSHARE, cgroup, sys.executable, "-m", module, *words, "--inside", work]
        process = subprocess.Popen(command, cwd=ROOT)
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # it has heard that too, and ends in its own time
                continue


@contextlib.contextmanager
def _work_directory() -> Iterator[str]:
    work = tempfile.mkdtemp(prefix="ve-bench.", dir=os.environ.get("VE_BENCH_DIR", "/var/tmp"))
    os.chmod(work, 0o755)
    try:
        yield work
    finally:
        shutil.rmtree(work)


@contextlib.contextmanager
def _mount_points() -> Iterator[None]:
    """Where there shall be something else inside; those that this machine lacks are there for as long."""
    made = [path for path in PRIVATE if not os.path.isdir(path)]
    for path in made:
        os.mkdir(path)
    try:
        yield
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # it is in use by now
                os.rmdir(path)


@contextlib.contextmanager
def _own_cgroup() -> Iterator[str]:
    """One beside all others, removed with what is below."""
    own = _cgroup2() / f"ve-bench-{os.getpid()}"
    own.mkdir()
    try:
        yield str(own)
    finally:
        for path, _, _ in os.walk(own, topdown=False):
            _remove_cgroup(path)


def _cgroup2() -> Path:
    """Where it is mounted on this machine, alone or beside the old ones."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 ") and fields.split()[3] == "/":
            return Path(fields.split()[4])
    raise SystemExit("bench: cannot find where cgroup2 is mounted\nhint: mount -t cgroup2 none /sys/fs/cgroup")


def _remove_cgroup(path: str) -> None:
    for _ in range(500):  # the last of what was in it goes a moment after its PID namespace
        try:
            os.rmdir(path)
            return
        except OSError:
            time.sleep(0.01)
    print(f"bench: cannot remove {path}: something is in it still", file=sys.stderr)


# --- from inside --------------------------------------------------------------------------------------------------


def arrange(work: Path) -> None:
    """Make of fresh namespaces what is drawn above, once."""
    _mount("sysfs", "/sys")
    _mount("cgroup2", "/sys/fs/cgroup")
    for path in PRIVATE:
        _mount("tmpfs", path, "-o", "mode=755")
    leaf = Path("/sys/fs/cgroup/ve-bench")  # or the controllers could not be given to others at the root
    leaf.mkdir()
    for pid in Path("/sys/fs/cgroup/cgroup.procs").read_text().split():
        (leaf / "cgroup.procs").write_text(pid)
    subprocess.run(["sh", "-ec", _NETWORK], check=True)
    for which in ("all", "default"):  # the kernel's own look at sources, which a new namespace has from the machine
        Path(f"/proc/sys/net/ipv4/conf/{which}/rp_filter").write_text("0")
    os.environ["VE_NETWORK_DIR"] = str(work / "network")
    os.environ["HOME"] = str(work)
    for name in (
        "XDG_RUNTIME_DIR",
        "PYTHONDONTWRITEBYTECODE",
    ):  # some images set the latter: all would be compiled anew
        os.environ.pop(name, None)


def _mount(kind: str, point: str, *options: str) -> None:
    subprocess.run(["mount", "-t", kind, *options, kind, point], check=True)
