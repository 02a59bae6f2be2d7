"""Descriptors on their way to a child, which is given others as its standard ones.

A program may have closed its own, and then what we open has such a number.
"""

from __future__ import annotations

import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import ExitStack


def above_stdio(fd: int, stack: ExitStack) -> int:
    """fd, or a copy that cannot be taken for a standard descriptor, which a child is given another in place of.

    What is negative is a word of subprocess's for no descriptor (DEVNULL, PIPE), and stays.
    """
    if fd > 2 or fd < 0:
        return fd
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    stack.callback(os.close, copy)
    return copy
