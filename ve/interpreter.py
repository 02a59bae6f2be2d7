"""The processes of ours that go into a VE, or do what a process with threads cannot: the far sides, as their near sides
start them.

    far = interpreter.FarSide("ve.enter", request, channel, pidfd)      # a subprocess.Popen of main(*fds) in there

Each begins as a clone of something small that is single-threaded: of this process's launcher (ve/launcher.py), which
holds nobody's secrets, or of this very process, if it is the ve command (ve/caller.py). What a far side shall do
comes marshalled in a memfd: of any size, and read without the 10 ms that importing json would take; both ends are the
same Python.
"""

import atexit
import contextlib
import gc
import marshal
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import cache
from importlib.util import find_spec
from typing import Any

from ve import caller, descriptors, farside, procfs
from ve._linux import syscalls
from ve.errors import Error, NotSupported


class FarSide(subprocess.Popen[Any]):
    """subprocess.Popen of a process of ours, a child of this one, that calls main(*fds) of a module and nothing else.

    Each descriptor in fds and passed has the same number there, and no other of ours is open but the standard ones,
    which options give as subprocess has them.  It leads a session of its own, in /; with CLONE_NEWPID in flags it is
    PID 1 of a new namespace.  Error if it cannot be made.
    """

    def __init__(self, module: str, *fds: int, passed: Iterable[int] = (), flags: int = 0, **options: Any) -> None:
        self._begins = module, fds, passed, flags
        super().__init__([module], **options)

    if sys.version_info < (3, 12):

        def _get_handles(self, *streams: Any) -> tuple[int, ...]:
            """What subprocess opens for them, one after the other: its own, up to Python 3.11, leaves what it has open
            if there is no descriptor for the next.
            """
            pipes: list[int] = []
            with ExitStack() as undo:
                undo.callback(self._close_null)
                for place, stream in enumerate(streams):
                    alone = [stream if each == place else None for each in range(3)]
                    if stream == subprocess.STDOUT and streams[1] is not None:
                        pipes += [-1, pipes[3]]
                    else:
                        pipes += super()._get_handles(*alone)[2 * place : 2 * place + 2]  # type: ignore[misc]
                    if stream == subprocess.PIPE:
                        undo.callback(os.close, pipes[-2])
                        undo.callback(os.close, pipes[-1])
                undo.pop_all()
            return tuple(pipes)

        def _close_null(self) -> None:
            if (null := vars(self).pop("_devnull", None)) is not None:
                os.close(null)

    def _execute_child(self, *arguments: Any) -> None:
        """What subprocess calls once its pipes are made; as its own does it, but for how the process is made.

        Of its parameters 10 to 15 are the two ends of each pipe, since Python 3.2; -1 is for what is given on.
        """
        pipes = arguments[10:16]
        module, fds, passed, flags = self._begins
        sys.audit("subprocess.Popen", module, arguments[0], None, None)
        given = {fd: fd for fd in (*_open_stdio(), *fds, *passed)}
        given |= {number: fd for number, fd in enumerate((pipes[0], pipes[3], pipes[5])) if fd >= 0}
        itself = caller.is_the_command and len(os.listdir("/proc/self/task")) == 1
        try:
            with contextlib.nullcontext() if itself else _lock, _no_signals():  # until we know whom to wait for
                self.pid = (_cloned if itself else _launched)(module, fds, given, flags)
                self._child_created = True
        finally:
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def _open_stdio() -> Iterator[int]:
    """As exec would hand them on: where the caller has closed one, its number may be that of something of ours."""
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            if os.get_inheritable(fd):
                yield fd


_EVERY = signal.valid_signals()


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    """No handler of Python's runs meanwhile, in this thread."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _EVERY)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def request(data: dict[str, Any]) -> int:
    """A descriptor to read the request from with marshal.load, for the caller to pass on and to close."""
    fd = os.memfd_create("ve-request")
    with open(fd, "wb", closefd=False) as file:
        marshal.dump(data, file)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def command(module: str, *arguments: int | str) -> list[str]:
    """The argv of a fresh interpreter that calls main(*arguments) of a module of ours, and nothing else.

    It is isolated (-I: no environment variable, no user directory) and starts without site (-S), which halves its cost;
    so it is told where we are, and where python-prctl is.
    """
    call = f"main({', '.join(map(repr, arguments))})"
    # Who ignores SIGCHLD hands that on by exec, and then nobody of ours would learn how a child ended (wait(2), NOTES).
    children = "import _signal; _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)"
    code = f"{children}; import sys; sys.path += {_paths()!r}; from {module} import main; {call}"
    utf8 = ("-X", "utf8") if sys.getfilesystemencoding() == "utf-8" else ()  # a path means the same on both sides
    return [sys.executable, "-I", "-S", *utf8, "-c", code]


def environment() -> dict[bytes, bytes]:
    """Ours, for such an interpreter: only what it needs itself, as no secret shall be in a process that enters a VE."""
    needed = (b"LANG", b"LC_", b"LD_LIBRARY_PATH")
    return {key: value for key, value in os.environb.items() if key.startswith(needed)}


@cache
def _paths() -> list[str]:
    return [_directory_of(name) for name in ("ve", "prctl")]


def _directory_of(name: str) -> str:
    """The directory that a top-level module or package is imported from."""
    spec = find_spec(name)
    assert spec is not None and spec.origin is not None
    directory, file = os.path.split(os.path.abspath(spec.origin))
    return os.path.dirname(directory) if file == "__init__.py" else directory


# --- clones of this process itself --------------------------------------------------------------------------------


def _cloned(module: str, fds: tuple[int, ...], given: dict[int, int], flags: int) -> int:
    """With signals blocked: a handler of ours that runs in the clone would take back what we are doing."""
    gc.freeze()  # as the launcher does, and for the same reason
    pid = syscalls.clone3(flags, signal.SIGCHLD)
    if pid == 0:
        try:
            gc.disable()
            farside.begin_signals()
            _forget_caller()
            farside.begin(module, fds, given)
        finally:
            os._exit(1)
    return pid


def _forget_caller() -> None:
    """The environment as environment() has it; and for who looks from the host or the VE, no command line.

    Both are in the memory where this process began.  What it has read since is guarded by farside.hide() alone.
    """
    kept = environment()
    os.environb.clear()
    os.environb.update(kept)
    numbers = procfs.contents("/proc/self/stat", None).rpartition(b")")[2].split()
    syscalls.overwrite(int(numbers[45]), int(numbers[48]))  # arg_start to env_end of proc_pid_stat(5)


# --- clones of its launcher ---------------------------------------------------------------------------------------

_launcher: "_Launcher | None" = None
_lock = threading.RLock()  # a signal may come between it and _no_signals(), and its handler start something, too
_PATIENCE = 2.0  # seconds for it to end when it is killed
_ANSWER = 30.0  # seconds for an answer, with which its own start is waited for
_OF_STATUS = (b"Umask", b"Uid", b"Gid", b"Groups", b"Cap", b"NoNewPrivs", b"Seccomp")


def _launched(module: str, fds: tuple[int, ...], given: dict[int, int], flags: int) -> int:
    """By this process's launcher, or by a new one if that was killed, or began where things were otherwise.

    Under the lock and with signals blocked.
    """
    surroundings = _surroundings()
    if _launcher and (_launcher.surroundings != surroundings or _launcher.process.poll() is not None):
        _end()
    try:
        try:
            return _asked(surroundings).clone(module, fds, given, flags)
        except ConnectionError:  # killed just now, and it has not read that
            _end()
            return _asked(surroundings).clone(module, fds, given, flags)
    except syscalls.SyscallError:
        raise
    except BaseException as error:  # or the next would be given the answer to this
        _end()
        if not isinstance(error, (ConnectionError, EOFError, TimeoutError)):
            raise
        what = "does not answer" if isinstance(error, TimeoutError) else "was killed"
        raise Error(f"cannot start {module}: its launcher {what}", "is there too little memory?  See dmesg") from error


def _asked(surroundings: tuple[object, ...]) -> "_Launcher":
    """The one that there is, or a new one."""
    global _launcher
    _launcher = _launcher or _Launcher(surroundings)
    return _launcher


class _Launcher:
    """One that was started by a thread with these surroundings."""

    def __init__(self, surroundings: tuple[object, ...]) -> None:
        self.surroundings = surroundings
        self.channel, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far, ExitStack() as stack:
            stack.callback(self.channel.close)
            self.channel.settimeout(_ANSWER)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # it learns who asks, from the first time on
            fd = descriptors.above_stdio(far.fileno(), stack)
            null = subprocess.DEVNULL  # or who reads a pipe of ours to its end would wait for ours
            options: Any = {"stdin": null, "stdout": null, "stderr": null, "start_new_session": True, "cwd": "/"}
            self.process = subprocess.Popen(command("ve.launcher", fd), pass_fds=[fd], env=environment(), **options)
            stack.pop_all()

    def clone(self, module: str, fds: tuple[int, ...], given: dict[int, int], flags: int) -> int:
        """Its pid.  TimeoutError; SyscallError if the kernel refused.

        EOFError if the launcher has ended, which may have made it; ConnectionError if it has not read that, which the
        kernel says of what is left unread.
        """
        message = marshal.dumps((module, fds, tuple(given), flags))
        socket.send_fds(self.channel, [message], [*given.values()])
        answer = self.channel.recv(64)
        if not answer:
            raise EOFError
        pid, number = marshal.loads(answer)
        if number:
            raise syscalls.SyscallError(number, "clone3")
        return int(pid)


def _surroundings() -> tuple[object, ...]:
    """What a clone of this thread would have of it that its launcher may have otherwise, having begun before.

    Limits, priorities and CPUs are set anew for what starts or enters a VE (ve/rlimits.py); what copies files or mounts
    has the launcher's.  NotSupported for who has a new PID namespace and is not in it.
    """
    status = procfs.contents("/proc/thread-self/status", None).splitlines()
    try:
        namespaces = [os.stat(f"/proc/thread-self/ns/{name}").st_ino for name in os.listdir("/proc/thread-self/ns")]
    except FileNotFoundError as error:
        why = "cannot start a process: the first one in this PID namespace must be a fork"
        raise NotSupported(why, "fork after unshare(CLONE_NEWPID), and call ve there") from error
    root = os.stat("/")
    return (
        [line for line in status if line.startswith(_OF_STATUS)],
        namespaces,
        (root.st_dev, root.st_ino),
        procfs.contents("/proc/thread-self/cgroup", None),
    )


def end_launcher() -> None:
    """End this process's launcher, for a program that is about to give up rights which that would keep.

    The next start or command begins another, with the rights that the program has then.
    """
    with _lock, _no_signals():
        _end()


def _end() -> None:
    global _launcher
    ended, _launcher = _launcher, None
    if ended:
        with contextlib.suppress(OSError):  # it has ended
            ended.channel.shutdown(socket.SHUT_RDWR)  # for any copy of it, too, that a fork of ours may have
        ended.channel.close()
        with contextlib.suppress(PermissionError):  # we are not who we were; it ends all the same
            ended.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # its cgroup is frozen: that ends with the thaw
            ended.process.wait(_PATIENCE)


def _end_at_exit() -> None:
    if _lock.acquire(timeout=_PATIENCE):  # a daemon thread may hold it for ever by now
        _end()
        _lock.release()


def _forget() -> None:
    """In a fork of this process: the launcher is the parent's, whose children its clones are."""
    global _launcher
    if _launcher:
        _launcher.channel.close()
        _launcher.process.returncode = 0  # not ours to wait for
        _launcher = None
    _lock.release()


os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forget)
atexit.register(_end_at_exit)
