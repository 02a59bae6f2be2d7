"""Who calls the library: some program, or the ve command.

The command is small, has no threads while it starts something, and has no more in its memory than it was typed with and
has read for its one verb.  So its far sides are clones of itself (ve/interpreter.py), and no interpreter is started.
Its standard descriptors are open; a program may have closed its own.
"""

from __future__ import annotations

import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import ExitStack

is_the_command = False


def above_stdio(fd: int, stack: ExitStack) -> int:
    """fd, or a copy that cannot be taken for a standard descriptor, which a child is given another in place of."""
    if fd > 2 or fd < 0:
        return fd
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    stack.callback(os.close, copy)
    return copy
