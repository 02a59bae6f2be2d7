"""What is said of processes that even SIGKILL does not end."""

from typing import Any

import pytest

from ve import shutdown
from ve.errors import StopFailed


class Stuck:
    """A cgroup whose processes hang in the kernel."""

    killed = False

    def kill(self) -> None:
        self.killed = True

    def wait_empty(self, _: float) -> bool:
        return False

    def pids(self) -> list[int]:
        return [7, 8]


def test_which_ve_and_which_processes() -> None:
    group: Any = Stuck()
    with pytest.raises(StopFailed, match=r"^cannot stop 101: 2 processes outlive SIGKILL: 7 8$") as caught:
        shutdown.end(101, group)
    assert group.killed and caught.value.pids == (7, 8)
