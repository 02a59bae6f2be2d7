"""What the near side of exec asks of the far side: subprocess's arguments, checked, as plain data."""

import contextlib
import os
import stat
import subprocess
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias, TypedDict

from ve import terminal

Word: TypeAlias = str | bytes | os.PathLike[Any]
Arguments: TypeAlias = Word | Sequence[Word]


class Target(NamedTuple):
    """The running VE that a command shall enter; pidfd must stay open until the command runs, and no longer."""

    pidfd: int  # of its init
    pid: int  # of its init, on the host
    cgroup: str  # <cgroup2>/<tag>/<VEID>
    env: Mapping[str, str]  # what a command has in its environment if nobody says otherwise
    veid: int
    filters: tuple[bytes, ...]  # of system calls, for seccomp(2)
    rlimits: Mapping[str, int] = MappingProxyType({})  # that it was given at its start, by name
    memory: str = "physpages"  # the beancounter whose limit its memory has


class Options(TypedDict, total=False):
    """subprocess.Popen's arguments that a command inside a VE can have as well, and some of its own."""

    executable: Word | None
    shell: bool
    cwd: Word | None  # inside; "/" if not given
    env: Mapping[Any, Any] | None  # exactly this; the VE's own environment, and the user's HOME, if not given
    add_env: Mapping[Any, Any] | None  # ours: beside what there is without env
    user: str | int | None  # by the VE's passwd; also USER:GROUP
    group: str | int | None
    extra_groups: Sequence[str | int] | None
    umask: int
    cpu_time: float | None  # ours: seconds that the command and all it starts may use of the CPUs; then they are killed
    bufsize: int
    pipesize: int
    text: bool | None
    encoding: str | None
    errors: str | None
    universal_newlines: bool | None
    start_new_session: bool  # whatever it says, it is so


class Streams(Options, total=False):
    """The same, and the standard descriptors, as subprocess has them."""

    stdin: Any
    stdout: Any
    stderr: Any
    enter_timeout: float | None  # seconds until the command runs; TimeoutExpired


class Run(Streams, total=False):
    """And what subprocess.run has beside."""

    input: Any
    capture_output: bool
    timeout: float | None
    check: bool


_OF_STREAMS = {"bufsize", "pipesize", "text", "encoding", "errors", "universal_newlines"}
_REFUSED = {  # argument of subprocess.Popen that has no meaning here, and its default
    "preexec_fn": None,
    "close_fds": True,
    "pass_fds": (),
    "startupinfo": None,
    "creationflags": 0,
    "restore_signals": True,
    "process_group": None,
}


class Request(NamedTuple):
    """What goes to the far side, what goes to subprocess, and what the caller called things, for error messages."""

    data: dict[str, Any]
    streams: dict[str, Any]
    names: dict[str, Any]


def make(args: Arguments, target: Target, streams: dict[str, Any], pty: bool, options: Options) -> Request:
    """ValueError or TypeError, as subprocess has them, for what cannot be meant."""
    _check(dict(options))
    argv, program = _command(args, options.get("executable"), options.get("shell", False))
    cwd, umask = options.get("cwd"), options.get("umask", -1)
    groups = options.get("extra_groups")
    _refuse_nul(os.fsencode(program), os.fsencode(cwd or "/"))
    if not -(1 << 31) <= umask < 1 << 31:
        raise OverflowError(f"umask {umask} is not one of the kernel's")
    if groups is not None and len(groups) > os.sysconf("SC_NGROUPS_MAX"):
        raise ValueError("too many groups")
    data: dict[str, Any] = {
        "argv": argv,
        "executable": os.fsencode(program),
        "cwd": os.fsencode(cwd or "/"),
        "umask": umask if umask >= 0 else 0o022,
        "extra_groups": None if groups is None else [_identity(group) for group in groups],
        "caller": os.getpid(),
        "pid": target.pid,
        "filters": target.filters,
        "rlimits": dict(target.rlimits),
        "cpu_time": _seconds(options.get("cpu_time")),
    }
    user, group = _who(options.get("user"), options.get("group"))
    data |= {"user": _identity(user), "group": _identity(group)}
    data |= _environment(target, options, pty) | _pty(pty, streams)
    if pty:
        streams = {"stderr": subprocess.DEVNULL} | {key: fd for key, fd in streams.items() if fd is not None}
        streams |= {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    _refuse_directories(streams)
    streams = streams | {key: value for key, value in options.items() if key in _OF_STREAMS}
    who = user if group is None else f"{user or ''}:{group}"
    return Request(data, streams, {"execute": program, "directory": cwd, "user": who})


def _check(arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        if name in Options.__annotations__:
            continue
        if name not in _REFUSED:
            raise TypeError(f"Popen() got an unexpected keyword argument {name!r}")
        if value != _REFUSED[name] and value != []:
            raise ValueError(f"{name} has no meaning for a command inside a VE")


def _seconds(cpu_time: float | None) -> float:
    """0.0 if there is no limit."""
    if cpu_time is not None and not 0 < cpu_time < float("inf"):
        raise ValueError(f"cpu_time is {cpu_time}, and not a number of seconds above 0")
    return float(cpu_time or 0)


def _refuse_directories(streams: dict[str, Any]) -> None:
    """Of the host, a command that is rid of its root could go anywhere from there (openat(2), "..")."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        given = number if streams[name] is None else streams[name]
        with contextlib.suppress(OSError):  # it is closed, or one of subprocess's words for what is not there yet
            if stat.S_ISDIR(os.fstat(given if isinstance(given, int) else given.fileno()).st_mode):
                raise ValueError(f"{name} is a directory, through which a command could leave the VE")


def _command(args: Arguments, executable: Any, shell: bool) -> tuple[list[bytes], Any]:
    """argv as bytes, and the program as the caller spelt it, for error messages."""
    given = [args] if isinstance(args, (str, bytes, os.PathLike)) else list(args)
    if shell:
        given = ["/bin/sh", "-c", *given]
        if executable:
            given[0] = executable
    argv = [os.fsencode(each) for each in given]
    _refuse_nul(*argv)
    return argv, given[0] if executable is None else executable


def _refuse_nul(*words: bytes) -> None:
    if any(b"\0" in each for each in words):
        raise ValueError("embedded null byte")


def _environment(target: Target, options: Options, pty: bool) -> dict[str, Any]:
    given = options.get("env")
    base = _encoded(target.env if given is None else given)
    added = _encoded(options.get("add_env") or {})
    if given is None and pty and "TERM" in os.environ:
        added = {b"TERM": os.fsencode(os.environ["TERM"])} | added
    path = added.get(b"PATH") or base.get(b"PATH") or os.fsencode(target.env.get("PATH", os.defpath))
    return {"env": base, "added": added, "path": path, "login": given is None}


def _encoded(env: Mapping[Any, Any]) -> dict[bytes, bytes]:
    encoded = {os.fsencode(key): os.fsencode(value) for key, value in env.items()}
    if any(not key or b"=" in key or b"\0" in key + value for key, value in encoded.items()):
        raise ValueError("illegal environment variable name")
    return encoded


def _who(user: str | int | None, group: str | int | None) -> tuple[str | int | None, str | int | None]:
    """A user may be USER:GROUP."""
    if isinstance(user, str) and ":" in user:
        user, _, named = user.partition(":")
        group = named if group is None else group
    return user or (None if user == "" else user), group or (None if group == "" else group)


def _identity(given: str | int | None) -> bytes:
    if isinstance(given, int) and not 0 <= given < 2**32 - 1:
        raise ValueError(f"User or group ID cannot be {given}")
    return b"" if given is None else os.fsencode(str(given))


def _pty(pty: bool, streams: dict[str, Any]) -> dict[str, Any]:
    """Which standard descriptors of the command its pty becomes, and how large that is."""
    if not pty:
        return {"pty": (), "window": b""}
    if streams["stdin"] is not None or streams["stdout"] is not None:
        raise ValueError("stdin and stdout are the terminal with pty=True")
    return {"pty": (0, 1) if streams["stderr"] is not None else (0, 1, 2), "window": terminal.window_size()}
