"""A stand-in for a VE that holds what a test asks for: an init in namespaces of its own, which runs a piece of Python.

    with holder.running("s = [socket.socket() for _ in range(5)]") as pid: ...      # the init's pid, once it has run

Its root is empty but for /tmp, /dev/fuse and a devpts of its own: a program has what is in KNOWN, and imports nothing.
Its loopback is up, and its user namespace was made by the host's uid BASE.
"""

import contextlib
import ctypes
import encodings.idna  # noqa: F401  which a connect wants
import fcntl
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ve import namespaces
from ve._linux import syscalls as s

BASE = 1879113728  # of the ids, where nobody has any
KNOWN = {each.__name__: each for each in (ctypes, fcntl, mmap, os, signal, socket, struct)} | {"s": s}
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


@contextlib.contextmanager
def running(program: str, base: int = BASE) -> Iterator[int]:
    """Ends with all that it made; its init becomes a zombie when it ends before."""
    command = [sys.executable, "-m", "tests.kernel.holder", str(base), program]
    root = Path(__file__).resolve().parent.parent.parent
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as holder:
        assert holder.stdin and holder.stdout
        try:
            assert holder.stdout.readline() == "mine\n"
            namespaces.map_ids(holder.pid, [(0, base, 65536)])
            print("mapped", file=holder.stdin, flush=True)
            pid = int(holder.stdout.readline())
            assert holder.stdout.readline() == "ready\n"
            yield pid
        finally:
            holder.kill()  # and its init with it, PR_SET_PDEATHSIG


def _hold(base: int, program: str) -> None:
    os.setgroups([])
    os.setresgid(base, base, base)
    os.setresuid(base, base, base)
    s.unshare(s.CLONE_NEWUSER)
    print("mine", flush=True)
    assert sys.stdin.readline() == "mapped\n"
    s.unshare(s.CLONE_NEWIPC | s.CLONE_NEWNET | s.CLONE_NEWNS | s.CLONE_NEWPID)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    wait, go = os.pipe()
    init = os.fork()
    if init == 0:
        os.read(wait, 1)  # for its pid to be said before anything else is
        os.close(wait)
        os.close(go)
        s.prctl(s.PR_SET_PDEATHSIG, signal.SIGKILL)
        _init(program)
    os.write(1, b"%d\n" % init)
    os.write(go, b"x")
    os.waitid(os.P_PID, init, os.WEXITED | os.WNOWAIT)
    os.close(1)  # it has ended, perhaps before it was ready
    signal.pause()


def _init(program: str) -> None:
    s.mount(None, "/", None, s.MS_REC | s.MS_PRIVATE)
    s.mount("tmpfs", "/mnt", "tmpfs", 0)
    os.chdir("/mnt")
    for name in ("dev", "dev/pts", "tmp"):
        os.mkdir(name)
    s.mount("devpts", "dev/pts", "devpts", 0, "newinstance,ptmxmode=0666")
    os.symlink("pts/ptmx", "dev/ptmx")
    os.close(os.open("dev/fuse", os.O_CREAT | os.O_WRONLY))
    s.mount("/dev/fuse", "dev/fuse", None, s.MS_BIND)
    s.pivot_root(".", ".")
    s.umount2(".", s.MNT_DETACH)
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    exec(program, KNOWN)
    os.write(1, b"ready\n")
    while True:
        signal.pause()


if __name__ == "__main__":
    _hold(int(sys.argv[1]), sys.argv[2])
