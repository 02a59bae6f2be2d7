"""What only a thread of its own can do: go into namespaces, or have other ids, and end.

setns(2) and the bare setresuid(2) change the calling thread alone.  So the caller's own stay as they are, whatever else
it is doing, and nothing is forked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from ve._linux import syscalls

T = TypeVar("T")


def in_a_thread(work: Callable[[], T]) -> T:
    """What it returns or raises.  Interrupted, we do not wait; the thread ends by itself."""
    outcome: list[T | BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, name="ve-errand")
    thread.start()
    thread.join()
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result


def inside(fd: int, work: Callable[[], T]) -> T:
    """Do it in a network namespace: fd is a descriptor of it, or a pidfd of who is there."""

    def there() -> T:
        syscalls.setns(fd, syscalls.CLONE_NEWNET)
        return work()

    return in_a_thread(there)
