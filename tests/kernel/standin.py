"""A stand-in for a VE, for the tests of what enters one: an init in namespaces, a root and a cgroup of its own.

with standin.running(directory) as target: ...        # directory: empty, any file system
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ve.process import Target

BASE = 1879048192  # of the ids, where nobody has any
ENV = {"PATH": "/usr/bin:/bin", "HOME": "/root", "TERM": "linux", "container": "ve"}
BUSYBOX = Path("/bin/busybox")
PASSWD = "root:x:0:0::/root:/bin/sh\nbob:x:1000:1001:Bob:/home/bob:/bin/sh\nlost:x:99999:99999::/:/bin/sh\n"
GROUP = "root:x:0:\ntty:x:5:\nbob:x:1001:\nwheel:x:10:root,bob\naudio:x:29:bob\n"
INIT = "trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait $!; done"


def cgroup2() -> str:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line:
            return line.split()[4]
    raise AssertionError("no cgroup2 here")


def make_root(root: Path) -> None:
    for name in ("bin", "dev", "etc", "home/bob", "proc", "root", "tmp", "old"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "bin/busybox").write_bytes(BUSYBOX.read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for applet in subprocess.check_output([BUSYBOX, "--list"], text=True).split():
        with contextlib.suppress(FileExistsError):
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)


def _setup(root: str, cgroup: str) -> None:
    """In a fresh interpreter: clone init, map its ids, say its pid, and wait for it."""
    from ve import namespaces
    from ve._linux import syscalls

    namespaces.start_clocks_at_zero()
    os.chdir(root)  # which nobody but the host's root may reach
    ready, go = os.pipe()
    fd = os.open(f"{cgroup}/init", os.O_PATH | os.O_CLOEXEC)
    pid = syscalls.clone3(namespaces.flags(namespaces.CLONE), signal.SIGCHLD, fd)
    if pid == 0:
        os.read(ready, 1)
        _init()
    namespaces.map_ids(pid, [(0, BASE, 65536)])
    sys.stderr.write(f"{pid}\n")
    sys.stderr.flush()
    os.write(go, b"x")
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 255)


def _init() -> None:
    from ve import namespaces
    from ve._linux import syscalls as s

    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    s.unshare(namespaces.flags(namespaces.INIT))
    s.mount(None, "/", None, s.MS_REC | s.MS_PRIVATE)
    tree = s.open_tree(s.AT_FDCWD, ".", s.OPEN_TREE_CLONE)
    s.move_mount(tree, s.AT_FDCWD, "/mnt")  # anywhere: soon it is the root
    os.fchdir(tree)
    s.mount("proc", "proc", "proc", s.MS_NOSUID)
    s.mount("tmpfs", "tmp", "tmpfs", s.MS_NOSUID, "mode=1777")
    s.mount("tmpfs", "dev", "tmpfs", s.MS_NOSUID, "mode=755")
    for name in ("null", "zero", "tty"):
        os.close(os.open(f"dev/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
        s.mount(f"/dev/{name}", f"dev/{name}", None, s.MS_BIND)
    os.mkdir("dev/pts")
    s.mount("devpts", "dev/pts", "devpts", s.MS_NOSUID, "newinstance,ptmxmode=0666,mode=620,gid=5")
    os.symlink("pts/ptmx", "dev/ptmx")
    s.pivot_root(".", ".")
    s.umount2(".", s.MNT_DETACH)
    os.execve("/bin/sh", ["sh", "-c", INIT], ENV)


@contextlib.contextmanager
def running(root: Path, name: str = "") -> Iterator[Target]:
    """A stand-in whose root is made in root."""
    make_root(root)
    cgroup = Path(cgroup2()) / f"ve-test-{os.getpid()}{name}"
    (cgroup / "init").mkdir(parents=True)
    command = [
        sys.executable,
        "-c",
        f"from tests.kernel import standin; standin._setup({str(root)!r}, {str(cgroup)!r})",
    ]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
            assert parent.stdout and parent.stderr
            pid = int(parent.stderr.readline())
            pidfd = os.pidfd_open(pid)
            try:
                assert parent.stdout.readline() == "ready\n"
                yield Target(pidfd=pidfd, pid=pid, cgroup=str(cgroup), env=ENV, veid=101, filters=())
            finally:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)
    finally:
        for directory in (*cgroup.glob("*/"), cgroup):
            directory.rmdir()
