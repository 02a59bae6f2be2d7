"""Processes that are given addresses as a start is, each for a network namespace of its own; no VE is needed.

    with lessees.nursery(hostnet.words) as new:
        one = new(state_dir, 101)
        one.ask("auto"); given = one.answer()       # {"interface": ..., "addresses": [...]} or {"refused": ...}
        one.release(); one.answer()
        one.kill()                                    # at any point, and its namespace with it

One process has imported everything and forks the others, so that a new one costs nothing.
"""

import contextlib
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ve import leading, network, rtnetlink
from ve._linux import syscalls
from ve.errors import Error
from ve.state import State

_PR_SET_PDEATHSIG = 1
_MOST = 1 << 16
ANY = ipaddress.ip_address("10.9.0.1")
_STEPS = ("os.symlink", "os.rename", "os.remove", "os.mkdir", "fcntl.flock", "socket.__new__")
ROOT = Path(__file__).resolve().parent.parent.parent


class Lessee:
    """One of them, as its test has it."""

    def __init__(self, channel: socket.socket, veid: int) -> None:
        self.channel, self.veid = channel, veid
        self.pid, self.init = map(int, channel.recv(_MOST).split())

    def ask(self, *wishes: str, die_at: int = 0) -> None:
        """die_at: be killed before the so-many-th thing that it does to files or asks of the kernel."""
        self.channel.send(json.dumps([wishes, die_at]).encode())

    def release(self) -> None:
        self.channel.send(json.dumps([None, 0]).encode())

    def answer(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.channel.recv(_MOST) or '{"refused": "it has ended"}')
        return found

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.channel.recv(_MOST)  # b"" once it is no more, or what it had said before
        self.channel.close()

    def end_init(self) -> None:
        """Only what holds its namespace ends, as a VE does that halts."""
        os.kill(self.init, signal.SIGKILL)


@contextlib.contextmanager
def nursery(before: list[str]) -> Iterator[Callable[[Path, int], Lessee]]:
    """before: the words that stand before a command, so that it is on the host that is played."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [*before, sys.executable, "-m", "tests.kernel.lessees", str(theirs.fileno())]
    made: list[Lessee] = []

    def new(state_dir: Path, veid: int) -> Lessee:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            socket.send_fds(ours, [json.dumps([str(state_dir), veid]).encode()], [its.fileno()])
        made.append(Lessee(mine, veid))
        return made[-1]

    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT)
    theirs.close()
    try:
        yield new
    finally:
        for each in made:
            with contextlib.suppress(OSError):
                each.kill()
        ours.close()
        process.wait()


def _serve(channel: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that are killed
    # which imports the classes of these messages
    rtnetlink.up(1), rtnetlink.address(rtnetlink.NEWADDR, 1, ANY), rtnetlink.host_route(rtnetlink.NEWROUTE, 1, ANY)
    while True:
        words, fds, _, _ = socket.recv_fds(channel, _MOST, 1)
        if not words:
            return
        state_dir, veid = json.loads(words)
        if os.fork() == 0:
            channel.close()
            _lease(socket.socket(fileno=fds[0]), State(state_dir), veid)
            os._exit(0)
        os.close(fds[0])


def _lease(channel: socket.socket, state: State, veid: int) -> None:
    syscalls.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    init = _hold_namespace(channel)
    pidfd = os.pidfd_open(init)
    channel.send(f"{os.getpid()} {init}".encode())
    while words := channel.recv(_MOST):
        wishes, die_at = json.loads(words)
        if die_at:
            sys.addaudithook(_Killer(die_at))
        try:
            if wishes is None:
                leading.disconnect(state, veid)
                answer: dict[str, Any] = {}
            else:
                given = network.connect(state, veid, wishes, pidfd, init, ephemeral=False)
                answer = {"interface": given.interface, "addresses": [str(each) for each in given.all()]}
        except Error as error:
            leading.disconnect(state, veid)
            answer = {"refused": str(error)}
        channel.send(json.dumps(answer).encode())


class _Killer:
    """An audit hook."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, event: str, _: object) -> None:
        self.left -= event in _STEPS
        if event in _STEPS and self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _hold_namespace(channel: socket.socket) -> int:
    """The pid of a process that waits in a namespace of its own, and ends with us."""
    parent = os.getpid()
    wait, go = os.pipe()
    init = os.fork()
    if init == 0:
        syscalls.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        channel.close()
        syscalls.unshare(syscalls.CLONE_NEWNET)
        os.close(wait)
        os.write(go, b"1")
        while os.getppid() == parent:
            signal.pause()
        os._exit(0)
    os.close(go)
    os.read(wait, 1)
    os.close(wait)
    return init


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
