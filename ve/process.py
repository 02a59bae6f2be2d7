"""The near side of exec: subprocess for a command inside a VE.

Popen and run take subprocess's arguments, return its types and raise its exceptions.  What differs:

* user, group, cwd, env, umask and the lookup along PATH mean what they mean inside.  Without cwd it is "/", without
  env the VE's own environment, without user its root, without umask 022.
* The command leads a session of its own, so Ctrl-C at our terminal does not reach it, and has no descriptors of ours
  but its standard ones; arguments that only make sense for a child of ours are refused by name.
* pid is that of a process of ours on the host, which ends as the command does; host_pid and inside_pid are the
  command's.  send_signal() and terminate() reach the command, kill() its whole tree, also what left its session.
* enter_timeout bounds the way in, which a VE can hold up; run() takes it out of its timeout.
* cpu_time bounds what the command, with all that it starts, uses of the CPUs.
* stopped_by says what ended the command, unless it ended by itself, and usage what it used: see ve/outcome.py.
* A with block that is left by an exception, a timeout of run(), and our own death end the whole tree.  What a command
  leaves in the background when it ends by itself lives on, as that of a login would.

The conversation with the far side is drawn in ve/enter.py.  Each command has its own cgroup exec.PID.TIME.N, named
after the process that called us, so that what a killed caller leaves can be found: see ve/execgroup.py.
"""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import time
from typing import Any, NamedTuple, Unpack, cast

from ve import descriptors, execgroup, farside, interpreter, request, terminal
from ve._linux import syscalls
from ve.cgroups import Cgroup
from ve.errors import Error, InvalidValue, NotRunning, NotSupported
from ve.execgroup import sweep
from ve.facts import GOING, ended
from ve.outcome import CalledProcessError, CompletedProcess, Counters, TimeoutExpired, Usage, no_process
from ve.polling import readable
from ve.request import Arguments, Options, Target

__all__ = ["Popen", "Target", "run", "shell_code", "sweep"]


class Failure(NamedTuple):
    """What the far side says of a step of its way in."""

    step: str
    number: int  # of the error, 0 if it is none of the kernel's
    why: str

    @property
    def may_be_going(self) -> bool:
        """Who joins a VE that is just going is killed, or finds no process, a little before its init has ended."""
        return self.number == errno.ESRCH


class Popen(interpreter.FarSide):
    """subprocess.Popen for a command inside a VE; see above for what differs.

    Raises what subprocess raises (FileNotFoundError and the like, for the command or cwd), InvalidValue for an unknown
    user or group, NotRunning, and Error for what goes wrong on the way in.
    """

    _patience = execgroup.PATIENCE

    def __init__(
        self,
        args: Arguments,
        *,
        target: Target,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        pty: bool = False,
        enter_timeout: float | None = None,
        **options: Unpack[Options],
    ) -> None:
        streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        asked = request.make(args, target, streams, pty, options)
        self.target = target
        self.terminal: int | None = None  # the master of the command's pty, ours until attach() or the with block ends
        self.host_pid = self.inside_pid = 0
        self._names = asked.names
        self._channel: socket.socket | None = None
        self._killed = False
        self.returncode = None  # subprocess says so once it begins, and _abandon() may have to before
        self.stopped_by: str | None = None  # once it has ended: see ve/outcome.py
        self.why = ""  # that in words, where a limit did
        self.usage: Usage | None = None  # likewise; None if nobody could tell
        self._counters = Counters(target.cgroup, target.memory)
        self._cgroup = _make_cgroup(target)
        try:
            self._spawn(asked.data | {"cgroup": os.fsencode(self._cgroup.path)}, asked.streams)
            self.args = args
            self._begin(enter_timeout)
        except BaseException:
            self._abandon()
            raise

    def _spawn(self, data: dict[str, Any], streams: dict[str, Any]) -> None:
        with contextlib.ExitStack() as stack:
            self._channel, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.enter_context(far)
            memory = interpreter.request(data)
            stack.callback(os.close, memory)
            fds = [descriptors.above_stdio(fd, stack) for fd in (memory, far.fileno(), self.target.pidfd)]
            try:
                super().__init__("ve.enter", *fds, **streams)
            except syscalls.SyscallError as error:
                raise _refused(self.target, f"{error.syscall}: {error.strerror}", error.errno or 0) from error

    def _begin(self, timeout: float | None) -> None:
        """Hear what the far side says until the program runs, or raise why it does not; TimeoutExpired.

        The VE sees the command on its way, and may stop it for ever (SIGSTOP).
        """
        assert self._channel is not None
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if deadline is not None and not readable([self._channel.fileno()], deadline - time.monotonic()):
                raise subprocess.TimeoutExpired(self.args, cast(float, timeout))
            heard = self._hear()
            if isinstance(heard, Failure):
                raise self._refusal(heard, ended(self.target.pidfd, GOING if heard.may_be_going else 0))
            if heard:
                return

    def _hear(self) -> bool | Failure:
        """The next that the far side says on its way in: does the program run now?  Or what went wrong."""
        assert self._channel is not None
        message, fds = farside.receive(self._channel)
        if fds:
            self.terminal = fds[0]
        kind, *values = message or ("FAILED", "begin", 0, "the far side ended")
        if kind == "FAILED":
            return Failure(*values)
        if kind == "TERMINAL" and (self.terminal is None or not terminal.is_master(self.terminal)):
            raise Error(f"cannot enter {self.target.veid}: what it has as /dev/ptmx is no terminal")
        if kind == "STARTED":
            self.host_pid, self.inside_pid = values
        return bool(kind == "STARTED")

    def _refusal(self, failure: Failure, gone: bool) -> Exception:
        """What is raised of it; gone: the VE's init has ended by now."""
        step, number, why = failure
        name = self._names.get(step)
        if gone:
            return NotRunning(f"cannot enter {self.target.veid}: it is not running")
        if step in ("execute", "directory") and number:
            return OSError(number, os.strerror(number), name)
        if step == "user" and not number:
            return InvalidValue(f"cannot enter {self.target.veid} as {name}: {why}")
        return _refused(self.target, f"{step}: {why}", number)

    def _abandon(self) -> None:
        """After a failed start: leave no process, descriptor or cgroup."""
        if self._channel:
            self._channel.close()  # the far side ends when it sees that
        if self._child_created:
            for stream in (self.stdin, self.stdout, self.stderr):
                if stream:
                    stream.close()
            self.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel: sweep() finds it later
                subprocess.Popen.wait(self, self._patience)
        self._close_terminal()
        if self.returncode is not None:
            self._cgroup.wait_empty(self._patience)
        with contextlib.suppress(OSError):
            self._cgroup.remove()

    # --- as in subprocess

    def poll(self) -> int | None:
        code = super().poll()
        if code is not None:
            self._settle()
        return code

    def wait(self, timeout: float | None = None) -> int:
        code = super().wait(timeout)
        self._settle()
        return code

    def send_signal(self, sig: int) -> None:
        """Send a signal to the command; to it alone, as kill(2) would."""
        if not 0 <= sig <= signal.SIGRTMAX:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        channel = self._channel
        if self.poll() is None and channel is not None:
            farside.send(channel, int(sig))  # or it is just ending

    def kill(self) -> None:
        """SIGKILL to the command and all that it has started; nothing if wait() or poll() have seen it end."""
        if self.returncode is None:
            self._killed = True
            if self._channel:
                farside.send(self._channel, int(signal.SIGKILL))  # the command first: a login is not in our cgroup
            self._cgroup.kill()

    def __exit__(self, exc_type: Any, value: Any, traceback: Any) -> None:
        if exc_type is not None:
            self.kill()
        try:
            super().__exit__(exc_type, value, traceback)
        finally:
            self.wait()
            self._close_terminal()

    # --- beyond subprocess

    def attach(self) -> int:
        """Connect our terminal (descriptors 0 and 1) with the command's until it ends: its exit code, or 128+N.

        Signals that would end us go to the command meanwhile.  Only with pty=True; once.
        """
        if self.terminal is None:
            raise ValueError("attach() needs pty=True, and can be called once")
        ended = os.pidfd_open(self.pid) if self.poll() is None else os.eventfd(1, os.EFD_CLOEXEC)
        try:
            terminal.connect(self.terminal, ended, self.send_signal)
        finally:
            os.close(ended)
            self._close_terminal()  # the command hears of it by SIGHUP, should it still run
        return shell_code(self.wait())

    def _close_terminal(self) -> None:
        fd, self.terminal = self.terminal, None
        if fd is not None:
            os.close(fd)

    def _settle(self) -> None:
        """After the end: what runs on in the background is the VE's, no longer ours."""
        channel, self._channel = self._channel, None
        if channel is not None:
            with channel:
                overran = self._hear_usage(channel)
            if self._killed:
                self._cgroup.wait_empty(self._patience)
            self.stopped_by, self.why = self._counters.stopped(self.returncode, overran, self._killed)
            execgroup.set_free(self._cgroup)

    def _hear_usage(self, channel: socket.socket) -> bool:
        """What the middle has said at its end; did the command overrun its cpu_time?"""
        channel.setblocking(False)  # it may have been killed before, and a fork of ours have its end
        with contextlib.suppress(BlockingIOError):
            message, _ = farside.receive(channel)
            if message[:1] == ("USED",):
                _, overran, *used = message
                self.usage = Usage(*used)
                return bool(overran)
        return False


def _refused(target: Target, why: str, number: int) -> Error:
    """What the kernel refused on the way in; that may be what this host lacks altogether, and then it is named."""
    from ve import check, facilities  # only who fails asks

    what = f"cannot enter {target.veid}: {why}"
    if number == errno.EAGAIN and (full := no_process(target.cgroup)):
        return Error(f"cannot enter {target.veid}: its {full}", f"ve set {target.veid} --numproc N gives it more")
    what, cure = check.explained(what, "/", facilities.ENTERING) if number else (what, "")
    return NotSupported(what, cure) if cure else Error(what)


def run(
    args: Arguments,
    *,
    target: Target,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **popen_args: Any,
) -> CompletedProcess:
    """subprocess.run for a command inside a VE; a timeout or exception ends its whole tree before it is raised."""
    popen_args |= piped(input, capture_output, **popen_args)
    process: Popen | None = None
    begun = time.monotonic()
    try:
        with Popen(args, target=target, enter_timeout=timeout, **popen_args) as process:
            left = None if timeout is None else max(0.0, begun + timeout - time.monotonic())
            stdout, stderr = process.communicate(input, left)  # on an exception the with block ends the tree
            process.wait()
    except subprocess.TimeoutExpired as error:
        used = process.usage if process else None
        raise TimeoutExpired(error.cmd, cast(float, timeout), error.output, error.stderr, used) from None
    return completed(process, stdout, stderr, check)


def piped(input: Any, capture_output: bool, stdin: Any = None, stdout: Any = None, stderr: Any = None, **_: Any) -> Any:
    """The standard descriptors that these two of run's arguments ask for, beside those that are given."""
    if input is not None and stdin is not None:
        raise ValueError("stdin and input arguments may not both be used.")
    if capture_output and not (stdout is stderr is None):
        raise ValueError("stdout and stderr arguments may not be used with capture_output.")
    names = ["stdin"] * (input is not None) + ["stdout", "stderr"] * capture_output
    return dict.fromkeys(names, subprocess.PIPE)


def completed(process: Popen, stdout: Any, stderr: Any, check: bool) -> CompletedProcess:
    """What run returns of one that has ended, or raises."""
    code, end = process.returncode, (process.stopped_by, process.usage)
    if check and code:
        raise CalledProcessError(code, process.args, stdout, stderr, *end)
    return CompletedProcess(process.args, code, stdout, stderr, *end)


def shell_code(returncode: int) -> int:
    """A returncode of subprocess as a shell tells it: 128+N for signal N."""
    return returncode if returncode >= 0 else 128 - returncode


def _make_cgroup(target: Target) -> Cgroup:
    try:
        return execgroup.create(target.cgroup)
    except OSError as error:
        if ended(target.pidfd) or error.errno == errno.ENOENT:
            raise NotRunning(f"cannot enter {target.veid}: it is not running") from error
        raise Error(f"cannot enter {target.veid}: make its cgroup: {error.strerror}") from error
