"""The launcher: the process that far sides are cloned from; ve/interpreter.py starts it and asks it.

A fresh interpreter takes 11 ms to begin, and its imports as long again.  A clone of one that has both behind it takes
less than one; and unlike the process that calls the library, which may be large and may have threads, it is small and
alone.  A clone is made with CLONE_PARENT, so it is a child of who asked, who waits for it as for any other.  All clones
of one launcher have the same layout of memory, which those that enter a VE hide from it (farside.hide).

    near (ve/interpreter.py)       launcher                       far side
    numbers, descriptors  ------->
                                   -- clone3 ------------------>  main(*fds) of the module
                          <-------   its pid, or an errno
    end of file           ------->   ends
"""

from __future__ import annotations

import _socket
import errno
import gc
import marshal
import os
import resource
import struct
from importlib import import_module

from ve import farside
from ve._linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

WARM = ("ve.setup", "ve.enter")  # what is imported ahead: what a start and a command need
DESCRIPTORS = 253  # SCM_MAX_FD of unix(7), in one message
_INT, _UCRED = struct.Struct("i"), struct.Struct("iII")
_SPACE = _socket.CMSG_SPACE(DESCRIPTORS * _INT.size) + _socket.CMSG_SPACE(_UCRED.size)


def main(near: int) -> NoReturn:
    """Serve who has the other end, until that is closed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # for the numbers that descriptors have over there
    farside.begin_signals()
    channel = _socket.socket(fileno=near)
    os.set_inheritable(near, False)
    for module in WARM:
        import_module(module)
    gc.collect()
    gc.freeze()  # or the first collection of each clone would copy every page that has an object on it
    while True:
        data, ancillary, _, _ = channel.recvmsg(65536, _SPACE, _socket.MSG_CMSG_CLOEXEC)
        if not data:
            os._exit(0)
        here = [fd for _, kind, each in ancillary if kind == _socket.SCM_RIGHTS for (fd,) in _INT.iter_unpack(each)]
        who = [_UCRED.unpack(each) for _, kind, each in ancillary if kind == _socket.SCM_CREDENTIALS]
        channel.send(marshal.dumps(_answer(data, here, who)))
        for fd in here:
            os.close(fd)


def _answer(data: bytes, here: list[int], who: list[tuple[int, ...]]) -> tuple[int, int]:
    """The pid of what was asked for, or 0 and an errno.

    Who asks must have the ids that it began us with: a program that has given them up since is not to have them again.
    """
    if [each[1:] for each in who] != [(os.getuid(), os.getgid())]:
        return 0, errno.EPERM
    module, fds, numbers, flags = marshal.loads(data)
    try:
        pid = syscalls.clone3(syscalls.CLONE_PARENT | flags, 0)
    except OSError as error:
        return 0, error.errno or errno.EINVAL
    if pid == 0:
        farside.begin(module, fds, dict(zip(numbers, here, strict=True)))
    return pid, 0
