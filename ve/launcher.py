"""The launcher: the process that far sides are cloned from; ve/interpreter.py starts it and asks it.

A fresh interpreter takes 11 ms to begin, and its imports as long again.  A clone of one that has both behind it takes
less than one; and unlike the process that calls the library, which may be large and may have threads, it is small and
alone.  A clone is made with CLONE_PARENT, so it is a child of who asked, who waits for it as for any other.

    near (ve/interpreter.py)       launcher                       far side
    numbers, descriptors  ------->
                                   -- clone3 ------------------>  main(*fds) of the module
                          <-------   its pid, or an errno
    end of file           ------->   ends
"""

from __future__ import annotations

import _socket
import fcntl
import gc
import marshal
import os
import resource
import struct
import sys
from importlib import import_module

from ve import farside
from ve._linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

WARM = ("ve.setup", "ve.enter")  # what is imported ahead: what a start and a command need
DESCRIPTORS = 253  # SCM_MAX_FD of unix(7), in one message


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
        data, ancillary, _, _ = channel.recvmsg(65536, _socket.CMSG_SPACE(4 * DESCRIPTORS), _socket.MSG_CMSG_CLOEXEC)
        if not data:
            os._exit(0)
        here = [fd for _, _, each in ancillary for (fd,) in struct.iter_unpack("i", each)]
        module, fds, numbers, flags = marshal.loads(data)
        try:
            pid = syscalls.clone3(syscalls.CLONE_PARENT | flags, 0)
        except OSError as error:
            channel.send(marshal.dumps((0, error.errno)))
        else:
            if pid == 0:
                begin(module, fds, dict(zip(numbers, here, strict=True)))
            channel.send(marshal.dumps((pid, 0)))
        for fd in here:
            os.close(fd)


def begin(module: str, fds: tuple[int, ...], given: dict[int, int]) -> NoReturn:
    """In a clone: be as a fresh interpreter would, and call main(*fds).

    given: each number that is to be open, and the descriptor here that it shall be.
    """
    try:
        os.setsid()  # Ctrl-C is for who asked
        above = max((2, *given, *given.values())) + 1
        aside = {number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for number, fd in given.items()}
        for number, fd in aside.items():
            os.dup2(fd, number)
        farside.close_all_but(*(number for number in given if number > 2))
        os.chdir("/")
        import_module(module).main(*fds)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)
