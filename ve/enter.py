"""The far side of exec: from a small process on the host to a program inside a VE.

It is single-threaded whatever its caller looks like (ve/interpreter.py).  Three processes are at work:

* the *middle* stays on the host, in a session of its own, for as long as the command runs;
* the *joiner*, its child, is cloned into the command's cgroup, enters all namespaces of the VE at once, clones
* the *command* with CLONE_PARENT, which makes it the middle's child too, and ends: so nothing of ours is in the
  VE's namespaces but the command itself, and nobody but its parent learns how it ended.

    near (ve/process.py)           middle                         joiner, command
    request (a memfd)     ------->
                                   <----------------------------  JOINED pid on the host
                                   <----------------------------  INSIDE pid in the VE, CPU time [its terminal's master]
    [TERMINAL]            <------  <----------------------------  end of file: exec closed the channel
    STARTED pid, pid      <------
    signal number         ------->                                (pidfd_send_signal)
    end of file, or its   ------->                                (cgroup.kill)
    pidfd says it ended
    USED                  <------                                 (it has ended: see ve/usage.py)

Instead of the answers there may be FAILED step, errno, why.  The middle ends as the command ended: with its exit code,
or by its signal.  The VE's files are hostile: before the first of them is looked at, the command has no descriptor of
the host but its standard ones, cannot be traced (PR_SET_DUMPABLE), and imports nothing any more.  So are its processes,
which see the command from the clone on: by then it is root of the VE and hidden.
"""

from __future__ import annotations

# ruff: noqa: SIM105 - contextlib would cost each command another 3 ms
import _signal  # type: ignore[import-not-found]
import _socket
import errno
import fcntl
import marshal
import os
import select
import stat

from ve import command, confinement, farside, procfs, rlimits, usage
from ve._linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from ve.farside import Request

_GROUP = {os.O_RDONLY: stat.S_IRGRP, os.O_WRONLY: stat.S_IWGRP, os.O_RDWR: stat.S_IRGRP | stat.S_IWGRP}


# --- the middle ---------------------------------------------------------------------------------------------------


class Middle:
    """The command's parent: passes signals on, ends all when the caller is gone, and then ends as the command did."""

    def __init__(self, request: Request, near: int, pidfd: int) -> None:
        self.request = request
        self.near = _socket.socket(fileno=near)
        self.pidfd = pidfd
        self.caller = os.pidfd_open(request["caller"])
        if os.getppid() != request["caller"]:
            os._exit(1)  # gone before we looked, and its number may be somebody else's by now
        self.child = -1  # its pidfd
        self.entering = self.joiner = 0.0, 0.0  # CPU time that the way in took
        self.left = 0.0  # seconds of CPU time that the command may use; 0: all it wants
        self.overran = False

    def run(self) -> NoReturn:
        rlimits.reset(self.request["rlimits"])
        self.request["confinement"] = confinement.of(self.request["pid"], self.request["filters"])
        _give_pipes(self.request["pid"])
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        cgroup = os.open(self.request["cgroup"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        joiner = syscalls.clone3(0, _signal.SIGCHLD, cgroup)
        if joiner == 0:
            command.join(self.request, self.pidfd, theirs)
        theirs.close()
        os.close(cgroup)
        _let_go_of_stdio()
        pid = self._listen(ours)
        self.joiner = usage.of(os.wait4(joiner, 0)[2])
        self.left = self.request["cpu_time"]
        self._until(self.child)
        _, status, own = os.wait4(pid, 0)
        if self.overran:
            self._wait_empty()
        used = usage.told(self.request["cgroup"], own, self.entering, self.joiner)
        farside.send(self.near, "USED", self.overran, *used)
        _leave(self.request["cgroup"])
        _end_as(status)

    def _listen(self, channel: _socket.socket) -> int:
        """What joiner and command say until exec; the pid of the command on the host."""
        pid = inside = 0
        while True:
            self._until(channel.fileno())
            message, fds = farside.receive(channel)
            if not message:
                break
            kind, *values = message
            if kind == "FAILED":
                self.fail(*values)
            if kind == "JOINED":
                [pid] = values
                self.child = os.pidfd_open(pid)
            if kind == "INSIDE":
                inside, self.entering = values
            if fds:
                farside.send(self.near, "TERMINAL", fds=fds)
                os.close(fds[0])
        if not pid:
            self.fail("join", errno.ESRCH, "killed")
        farside.send(self.near, "STARTED", pid, inside)
        return pid

    def _until(self, fd: int) -> None:
        """Wait until fd is readable, serving the caller meanwhile."""
        poll = select.poll()
        for each in (fd, self.near.fileno(), self.caller):
            poll.register(each, select.POLLIN)
        while True:
            ready = {each for each, _ in poll.poll(self._patience())}
            if self.caller in ready or (self.near.fileno() in ready and not self._pass_signal()):
                self._end_tree()
                os._exit(1)
            if fd in ready:
                return

    def _patience(self) -> float | None:
        """Milliseconds in which the command cannot use up its CPU time; one that has is killed, with its tree."""
        if not self.left:
            return None
        used = sum(usage.of_cgroup(self.request["cgroup"])) - sum(self.entering) - sum(self.joiner)
        if used < self.left:
            return usage.pause(self.left - used, os.cpu_count() or 1) * 1000
        self.left, self.overran = 0, True
        self._kill()
        return None

    def _pass_signal(self) -> bool:
        """Do what the caller says; False if there is no caller any more."""
        message, _ = farside.receive(self.near)
        if message and self.child >= 0:
            try:
                _signal.pidfd_send_signal(self.child, *message)
            except OSError:
                pass  # ended meanwhile, or no such signal: the caller checks the number
        return bool(message)

    def fail(self, step: str, number: int, why: str) -> NoReturn:
        farside.send(self.near, "FAILED", step, number, why)
        self._end_tree()
        os._exit(1)

    def _end_tree(self) -> None:
        """SIGKILL to all in the command's cgroup; returns when it is empty and removed."""
        self._kill()
        try:
            while True:
                os.waitpid(-1, 0)
        except ChildProcessError:
            pass
        self._wait_empty()
        try:
            os.rmdir(self.request["cgroup"])
        except OSError:
            pass  # something runs on in it, and near or sweep() decides about that; or the whole VE was removed

    def _kill(self) -> None:
        if self.child >= 0:
            try:
                _signal.pidfd_send_signal(self.child, _signal.SIGKILL)  # a login is no longer in that cgroup
            except OSError:
                pass
        try:
            with open(self.request["cgroup"] + b"/cgroup.kill", "wb", buffering=0) as file:
                file.write(b"1")
        except OSError:
            pass  # the whole VE was removed

    def _wait_empty(self) -> None:
        try:
            events = os.open(self.request["cgroup"] + b"/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # likewise
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        try:
            while b"populated 1" in os.pread(events, 4096, 0) and poll.poll(10000):
                pass
        except OSError:
            pass  # likewise
        os.close(events)


def _give_pipes(pid: int) -> None:
    """Let the VE root's group open the pipes among the standard descriptors as /dev/stdout and the like (pipe(7)).

    Only the way that it has them open: who could read what it writes would read what others of the host write there.
    They keep their owner, who could change that.
    """
    groups = procfs.host_ids(pid, "gid")
    for fd in (0, 1, 2):
        try:
            if groups and os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:["):
                bits = _GROUP[fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE]
                os.fchown(fd, -1, groups[0].start)
                os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | bits)
        except OSError:
            pass  # it is closed


def _let_go_of_stdio() -> None:
    """The command's standard descriptors are its own now: who reads a pipe of it must see the end when it ends."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _leave(cgroup: bytes) -> None:
    """Remove it; what still runs in it is the VE's, even if near is gone before it asks how the command ended."""
    try:
        os.rmdir(cgroup)
    except OSError:
        try:
            os.setxattr(cgroup, farside.ENDED, b"")
        except OSError:
            pass  # near or sweep() has removed it meanwhile


def _end_as(status: int) -> NoReturn:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:  # no core of ours: we are not dumpable
        farside.reset_signals()
        os.kill(os.getpid(), -code)
    os._exit(code & 255)


def main(request_fd: int, near: int, pidfd: int) -> NoReturn:
    """Read the request and become the middle.  Never returns."""
    farside.hide()  # the joiner and the command inherit it, until exec
    _signal.pthread_sigmask(_signal.SIG_SETMASK, _signal.valid_signals())  # near passes on what the command shall get
    with open(request_fd, "rb") as file:
        request: Request = marshal.load(file)
    farside.forget_imports()
    middle = Middle(request, near, pidfd)
    try:
        middle.run()
    except OSError as error:
        middle.fail(getattr(error, "syscall", "prepare"), error.errno or 0, os.strerror(error.errno or 0))
    except Exception as error:
        middle.fail("prepare", 0, f"unexpected {type(error).__name__}: {error}")
