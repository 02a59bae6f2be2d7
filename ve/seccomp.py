"""The filter of system calls that every process of a VE runs under, compiled by libseccomp from ve/rights.py.

It allows what libseccomp knows and the table does not refuse.  A system call that is newer than libseccomp is one that
we do not know either: it fails with ENOSYS, as on an older kernel, and programs do without it.
"""

from __future__ import annotations

import errno
import os
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ve.errors import NotSupported
from ve.rights import REFUSALS, Refusal

if TYPE_CHECKING:
    import pyseccomp

_NUMBERS = range(1024)  # where to look for system calls: the highest number is below 500 today
_TREE = 2  # seccomp_attr_set(3), SCMP_FLTATR_CTL_OPTIMIZE: a binary tree in place of a list
_INT = 0xFFFFFFFF  # the kernel looks at no more of an int argument


def name(refusals: tuple[Refusal, ...] = REFUSALS) -> str:
    """What compile()'s answer can be kept under: made of all that it is made of."""
    text = repr((refusals, os.uname().machine)).encode()
    return f"{zlib.crc32(text):08x}{zlib.adler32(text):08x}"  # as hashlib would bring OpenSSL to each start


def compile(refusals: tuple[Refusal, ...] = REFUSALS) -> tuple[bytes, bytes]:
    """The programs for seccomp(2), of which the stricter decides; 50 ms.  NotSupported where libseccomp is missing.

    One lets through what libseccomp knows, the other refuses what the table does: in a single program the two would
    meet in socketcall(2), which libseccomp allows for every system call that it can stand for.
    """
    pyseccomp, architectures = _libseccomp()
    known = system_calls()
    passing = _empty(pyseccomp, pyseccomp.ERRNO(errno.ENOSYS), architectures)
    for call in sorted(known):
        passing.add_rule(pyseccomp.ALLOW, call)
    refusing = _empty(pyseccomp, pyseccomp.ALLOW, architectures)
    for row in refusals:
        condition = [] if row.argument is None else [_is(pyseccomp, *row.argument)]
        for call in known.intersection(row.syscalls):
            refusing.add_rule(pyseccomp.ERRNO(getattr(errno, row.error)), call, *condition)
    return _program(passing), _program(refusing)


def _is(pyseccomp: Any, number: int, value: int) -> Any:
    """That an argument, an int, has this value."""
    return pyseccomp.Arg(number, pyseccomp.MASKED_EQ, _INT, value)


def number(name: str) -> int:
    """Of the system call of this name on this machine, negative if it has none."""
    import pyseccomp

    return int(pyseccomp.resolve_syscall(pyseccomp.system_arch(), name))


def system_calls() -> set[str]:
    """The names of all that libseccomp knows on this machine; NotSupported where it is missing."""
    pyseccomp, architectures = _libseccomp()
    return {call for each in architectures for call in _known(pyseccomp, each)}


def _libseccomp() -> tuple[Any, list[int]]:
    """The library, and the architectures of this machine's programs, its own first."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError, TypeError) as error:  # which one depends on what it found of libseccomp
        what = "cannot compile the filter of system calls: there is no libseccomp"
        raise NotSupported(what, "apt-get install libseccomp2") from error
    return pyseccomp, [pyseccomp.system_arch(), *(getattr(pyseccomp.Arch, each) for each in _narrow())]


def _narrow() -> tuple[str, ...]:
    """The architectures of 32-bit programs on this machine."""
    return {"x86_64": ("X86",), "aarch64": ("ARM",)}.get(os.uname().machine, ())


def _empty(pyseccomp: Any, default: int, architectures: list[int]) -> pyseccomp.SyscallFilter:
    rules = pyseccomp.SyscallFilter(default)
    rules.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.ERRNO(errno.ENOSYS))
    rules.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _TREE)
    for architecture in architectures[1:]:  # it has the first, which is the machine's
        rules.add_arch(architecture)
    return rules


def _known(pyseccomp: Any, architecture: int) -> set[str]:
    """The names of all system calls that libseccomp has numbers for."""
    found = set()
    for number in _NUMBERS:
        with suppress(ValueError):
            found.add(pyseccomp.resolve_syscall(architecture, number).decode())
    return found


def _program(rules: pyseccomp.SyscallFilter) -> bytes:
    import tempfile

    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
