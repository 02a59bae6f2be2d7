"""A fresh interpreter of ours: how each far side begins, in a process that is single-threaded and holds nothing.

It is isolated (-I: no environment variable, no user directory) and starts without site (-S), which halves its cost; so
it is told where we are, and where python-prctl is.  What it shall do comes marshalled in a memfd: of any size, and read
without the 10 ms that importing json would take; both ends are the same Python.
"""

import fcntl
import marshal
import os
import sys
from contextlib import ExitStack
from functools import cache
from importlib.util import find_spec
from typing import Any


def command(module: str, *arguments: int | str) -> list[str]:
    """The argv of an interpreter that calls main(*arguments) of a module of ours, and nothing else."""
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


def request(data: dict[str, Any]) -> int:
    """A descriptor to read the request from with marshal.load, for the caller to pass on and to close."""
    fd = os.memfd_create("ve-request")
    with open(fd, "wb", closefd=False) as file:
        marshal.dump(data, file)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def above_stdio(fd: int, stack: ExitStack) -> int:
    """fd, or a copy that cannot be taken for a standard descriptor, should the caller have closed its own."""
    if fd > 2 or fd < 0:
        return fd
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    stack.callback(os.close, copy)
    return copy


@cache
def _paths() -> list[str]:
    return [_directory_of(name) for name in ("ve", "prctl")]


def _directory_of(name: str) -> str:
    """The directory that a top-level module or package is imported from."""
    spec = find_spec(name)
    assert spec is not None and spec.origin is not None
    directory, file = os.path.split(os.path.abspath(spec.origin))
    return os.path.dirname(directory) if file == "__init__.py" else directory
