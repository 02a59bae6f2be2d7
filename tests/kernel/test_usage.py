"""What stopped a command and what it used; told by what the command itself was told, as getrusage(2) has it inside."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ve import calling, outcome, process
from ve.process import Popen, Target

MIB = 1 << 20
SPIN = "while :; do :; done"
WORK = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"


@pytest.fixture(autouse=True)
def nothing_left(target: Target) -> Iterator[None]:
    yield
    process.sweep(target.cgroup)
    assert list(Path(target.cgroup).glob("exec.*")) == []


def run(target: Target, script: str, **options: Any) -> outcome.CompletedProcess:
    return process.run(["sh", "-c", script], target=target, stdout=subprocess.PIPE, text=True, **options)


def told(times: str) -> float:
    """Seconds that a shell's `times` says: of itself and of the children that it waited for, as user and in all."""
    return sum(int(minutes) * 60 + float(seconds) for minutes, seconds in re.findall(r"(\d+)m([\d.]+)s", times))


@pytest.mark.parametrize("script", [WORK, f"({WORK}) & ({WORK}) & wait"])
def test_cpu_time_is_that_of_its_tree(target: Target, script: str) -> None:
    done = run(target, f"{script}; times")
    usage = done.usage
    assert usage and usage.cpu == usage.user + usage.system
    assert told(done.stdout) - 0.02 < usage.cpu < told(done.stdout) * 1.2 + 0.1, done
    assert usage.user > usage.system


def test_cpu_time_of_children_that_nobody_waited_for(target: Target) -> None:
    """They went to init: only their cgroup tells of them."""
    script = f"mkfifo /tmp/$$; (sh -c '{WORK}; times >/tmp/'$$ &) ; cat /tmp/$$; rm /tmp/$$"
    done = run(target, script)
    assert done.usage and done.usage.cpu > told(done.stdout) - 0.02 > 0, done


def test_memory_is_the_most_that_there_was_at_once(target: Target) -> None:
    done = run(target, "dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null; echo")
    assert done.usage and 64 * MIB <= done.usage.max_memory < 96 * MIB
    done = run(target, "echo")
    assert done.usage and done.usage.max_memory < 32 * MIB


@pytest.mark.parametrize(
    ("script", "code", "by"),
    [
        ("true", 0, None),
        ("exit 7", 7, None),
        ("exit 143", 143, None),  # it may have been any command's own
        ("kill -TERM $$", -signal.SIGTERM, "SIGTERM"),
        ("kill -KILL $$", -signal.SIGKILL, "SIGKILL"),
        ("kill -ABRT $$", -signal.SIGABRT, "SIGABRT"),
        ("kill -37 $$", -37, "SIGRTMIN+3"),
        ("kill -XCPU $$", -signal.SIGXCPU, "cpu"),
        ("sh -c 'kill -XCPU $$'; exit $?", 128 + signal.SIGXCPU, "cpu"),
    ],
)
def test_what_stopped_it(target: Target, script: str, code: int, by: str | None) -> None:
    done = run(target, script)
    assert (done.returncode, done.stopped_by) == (code, by)


def test_its_own_limit_of_cpu_time(target: Target) -> None:
    """The soft one, at which the kernel sends SIGXCPU; the hard one is a SIGKILL like any."""
    done = run(target, f"ulimit -St 1; {SPIN}")
    assert (done.returncode, done.stopped_by) == (-signal.SIGXCPU, "cpu")


@pytest.mark.parametrize("script", [SPIN, f"({SPIN}) & {SPIN}", f"while :; do sh -c '{WORK}'; done"])
def test_cpu_time_ends_the_whole_tree(target: Target, script: str) -> None:
    with Popen(["sh", "-c", f"trap '' XCPU TERM; {script}"], target=target, cpu_time=0.3) as command:
        command.wait()
        assert (command.returncode, command.stopped_by) == (-signal.SIGKILL, "cpu")
        assert "cpu_time" in command.why
        assert command.usage and command.usage.cpu > 0.28


def test_who_does_not_use_it_up_goes_on(target: Target) -> None:
    done = run(target, f"{WORK}; sleep 0.5; exit 3", cpu_time=60)
    assert (done.returncode, done.stopped_by) == (3, None)


@pytest.mark.parametrize("seconds", [1e9, sys.maxsize, sys.float_info.max])
def test_who_may_use_more_than_anybody_can(target: Target, seconds: float) -> None:
    done = run(target, "read word; echo $word; exit 3", cpu_time=seconds, input="here\n")
    assert (done.stdout, done.returncode, done.stopped_by) == ("here\n", 3, None)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_no_cpu_time(target: Target, seconds: float) -> None:
    with pytest.raises(ValueError, match=rf"cpu_time is {seconds}"):
        run(target, "true", cpu_time=seconds)


def test_a_timeout(target: Target) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run(target, f"echo begun; {SPIN}", timeout=5)
    error = caught.value
    assert isinstance(error, outcome.TimeoutExpired) and error.stopped_by == "timeout"
    assert (error.cmd[0], error.timeout, error.output) == ("sh", 5, b"begun\n")
    assert error.usage and error.usage.cpu > 0.05


def test_a_timeout_on_the_way_in(target: Target) -> None:
    with pytest.raises(outcome.TimeoutExpired) as caught:
        run(target, "true", timeout=0)
    assert caught.value.usage is None


def test_a_kill_of_ours(target: Target) -> None:
    with Popen(["sleep", "1000"], target=target) as command:
        command.kill()
        command.wait()
        assert (command.stopped_by, command.why) == ("SIGKILL", "")
        assert command.usage


def test_a_failure_has_them_too(target: Target) -> None:
    with pytest.raises(outcome.CalledProcessError) as caught:
        run(target, "kill -TERM $$", check=True)
    assert caught.value.stopped_by == "SIGTERM" and caught.value.usage
    assert "used up" not in str(caught.value)
    with pytest.raises(outcome.CalledProcessError, match=r"Its CPU time was used up") as caught:
        run(target, SPIN, check=True, cpu_time=0.1)
    code = calling.call(["sh", "-c", "kill -TERM $$"], target=target)
    assert (code, code.stopped_by, code.why) == (143, "SIGTERM", "") and code.usage


def test_nobody_tells_when_the_far_side_was_killed(target: Target) -> None:
    with Popen(["sleep", "1000"], target=target) as command:
        os.kill(command.pid, signal.SIGKILL)
        command.wait()
        assert (command.usage, command.stopped_by) == (None, "SIGKILL")
