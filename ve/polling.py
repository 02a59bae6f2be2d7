"""Waiting for descriptors to become readable: poll(2)."""

from __future__ import annotations

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_LONG = 86400.0  # seconds; poll(2) counts milliseconds in an int, and a deadline may be infinite


def readable(fds: Sequence[int], seconds: float) -> list[int]:
    """Which of them are, or are hung up, within so many seconds, in their order."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    ready = dict(poll.poll(max(0.0, min(seconds, _LONG)) * 1000))
    return [fd for fd in fds if fd in ready]
