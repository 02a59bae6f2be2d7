"""What is said of processes that even SIGKILL does not end."""

import os
import subprocess
import sys
from typing import Any

import pytest

from ve import shutdown
from ve.cgroups import Cgroup
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


class Empty(Cgroup):
    def __init__(self) -> None:
        super().__init__("/nowhere")


def test_which_ve_and_which_processes() -> None:
    group: Any = Stuck()
    with pytest.raises(StopFailed, match=r"^cannot stop 101: 2 processes outlive SIGKILL: 7 8$") as caught:
        shutdown.end(101, group)
    assert group.killed and caught.value.pids == (7, 8)


@pytest.mark.parametrize("timeout", [float("inf"), 1e9])
def test_a_deadline_that_poll_cannot_count_to(timeout: float) -> None:
    """It takes milliseconds in an int."""
    script = (
        "import os, signal; signal.signal(signal.SIGPWR, lambda *_: os._exit(0)); print(flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as init:
        assert init.stdout and init.stdout.readline()
        pidfd = os.pidfd_open(init.pid)
        try:
            assert shutdown.shut_down(101, init.pid, pidfd, Empty(), timeout, lambda _: None)
        finally:
            os.close(pidfd)
