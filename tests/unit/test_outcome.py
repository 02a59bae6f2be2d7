"""Which limit stopped a command, by the kernel's counters before and after it."""

import signal
import subprocess
from pathlib import Path

import pytest

from ve.outcome import CalledProcessError, CompletedProcess, Counters, ExitCode, Usage, no_process


class Group:
    """A VE's cgroup, as files."""

    def __init__(self, path: Path, *, delegated: bool = True) -> None:
        self.ve, self.commands = path, path / "exec"
        self.commands.mkdir()
        self.kills = self.commands if delegated else path
        self.write(0, 0)
        (path / "memory.max").write_text("67108864\n")

    def write(self, oom: int, oom_kill: int, elsewhere: int = 0, refusals: int = 5) -> None:
        (self.ve / "pids.events").write_text(f"max {refusals}\n")
        (self.ve / "memory.events.local").write_text(f"low 0\nhigh 0\nmax 9\noom {oom}\noom_kill 0\n")
        (self.ve / "memory.events").write_text(f"oom {oom}\noom_kill {oom_kill + elsewhere}\noom_group_kill 0\n")
        (self.kills / "memory.events").write_text(f"oom 0\noom_kill {oom_kill}\noom_group_kill 0\n")


@pytest.mark.parametrize("delegated", [True, False])
@pytest.mark.parametrize("returncode", [-9, 137])
def test_its_own_limit(tmp_path: Path, delegated: bool, returncode: int) -> None:
    group = Group(tmp_path, delegated=delegated)
    group.write(3, 2)
    counters = Counters(str(group.commands), "physpages")
    somebody = "SIGKILL" if returncode < 0 else None
    assert counters.stopped(returncode) == (somebody, "")
    group.write(4, 3)
    assert counters.stopped(returncode) == ("physpages", "physpages 64M was used up")
    named = Counters(str(group.commands), "privvmpages")
    (tmp_path / "memory.max").write_text("max\n")
    group.write(5, 4)
    assert named.stopped(returncode) == ("privvmpages", "privvmpages was used up")
    assert counters.stopped(0) == counters.stopped(1) == (None, "")
    assert counters.stopped(-15) == ("SIGTERM", "")
    assert counters.stopped(-9, killed=True) == ("SIGKILL", "")  # it was us


def test_memory_that_is_not_the_ve_s_to_use_up(tmp_path: Path) -> None:
    group = Group(tmp_path)
    counters = Counters(str(group.commands), "physpages")
    group.write(0, 1)
    name, why = counters.stopped(-9)
    assert name == "physpages" and why.startswith("memory of the host")


def test_what_befell_a_service_is_not_laid_to_a_command(tmp_path: Path) -> None:
    group = Group(tmp_path)
    counters = Counters(str(group.commands), "physpages")
    group.write(1, 0, elsewhere=1)
    assert counters.stopped(137) == (None, "")
    assert counters.stopped(-9) == ("SIGKILL", "")


@pytest.mark.parametrize("local", [True, False])
def test_the_number_of_processes(tmp_path: Path, local: bool) -> None:
    """By the failures that were the VE's own limit, where a kernel tells those from others."""
    group = Group(tmp_path)
    (tmp_path / "pids.max").write_text("40\n")
    if local:
        (tmp_path / "pids.events.local").write_text("max 5\n")
    counters = Counters(str(group.commands), "physpages")
    assert counters.stopped(2) == (None, "")
    group.write(0, 0, refusals=9)
    if local:
        assert counters.stopped(2) == (None, "")
        (tmp_path / "pids.events.local").write_text("max 6\n")
    why = "numproc", "numproc 40 was used up when it failed"
    assert counters.stopped(2) == counters.stopped(-signal.SIGABRT) == why
    assert counters.stopped(0) == (None, "")
    assert counters.stopped(-15) == ("SIGTERM", "")


def test_cpu_time(tmp_path: Path) -> None:
    counters = Counters(str(tmp_path / "exec"), "physpages")
    assert counters.stopped(-9, overran=True)[0] == counters.stopped(-signal.SIGXCPU)[0] == "cpu"


def test_a_host_without_the_controller(tmp_path: Path) -> None:
    assert Counters(str(tmp_path / "exec"), "physpages").stopped(-9) == ("SIGKILL", "")


def test_they_are_subprocess_s_own_types() -> None:
    done = CompletedProcess(["a"], -9, b"", None, "physpages")
    assert isinstance(done, subprocess.CompletedProcess) and done.stopped_by == "physpages"
    with pytest.raises(subprocess.CalledProcessError):
        done.check_returncode()
    failed = CalledProcessError(-9, ["a"], b"o", b"e", "physpages")
    assert isinstance(failed, subprocess.CalledProcessError)
    assert (failed.returncode, failed.cmd, failed.stdout, failed.stderr) == (-9, ["a"], b"o", b"e")
    assert "SIGKILL" in str(failed) and "physpages was used up" in str(failed)
    assert ExitCode.of(137, "physpages", "x") == 137
    assert (ExitCode(3).stopped_by, ExitCode(3).why, ExitCode(3).usage) == (None, "", None)
    assert Usage(0.5, 0.25, 1).cpu == 0.75
    for failed in (CalledProcessError(-15, ["a"], b"", b"", "SIGTERM"), CalledProcessError(1, ["a"], b"", b"", None)):
        assert "used up" not in str(failed)


@pytest.mark.parametrize(
    ("current", "most", "why"), [(40, 40, "numproc 40 of 40 is used up"), (12, 40, ""), (3, "max", "")]
)
def test_why_no_process_is_started(tmp_path: Path, current: int, most: int | str, why: str) -> None:
    (tmp_path / "pids.current").write_text(f"{current}\n")
    (tmp_path / "pids.max").write_text(f"{most}\n")
    assert no_process(str(tmp_path / "exec")) == why


def test_nobody_knows_without_the_controller(tmp_path: Path) -> None:
    assert no_process(str(tmp_path / "exec")) == ""
