"""Which limit stopped a command, by the kernel's counters before and after it."""

import subprocess
from pathlib import Path

import pytest

from ve.outcome import CalledProcessError, CompletedProcess, ExitCode, Kills, no_process


class Group:
    """A VE's cgroup, as files."""

    def __init__(self, path: Path, *, delegated: bool = True) -> None:
        self.ve, self.commands = path, path / "exec"
        self.commands.mkdir()
        self.kills = self.commands if delegated else path
        self.write(0, 0)
        (path / "memory.max").write_text("67108864\n")

    def write(self, oom: int, oom_kill: int, elsewhere: int = 0) -> None:
        (self.ve / "memory.events.local").write_text(f"low 0\nhigh 0\nmax 9\noom {oom}\noom_kill 0\n")
        (self.ve / "memory.events").write_text(f"oom {oom}\noom_kill {oom_kill + elsewhere}\noom_group_kill 0\n")
        (self.kills / "memory.events").write_text(f"oom 0\noom_kill {oom_kill}\noom_group_kill 0\n")


@pytest.mark.parametrize("delegated", [True, False])
@pytest.mark.parametrize("returncode", [-9, 137])
def test_its_own_limit(tmp_path: Path, delegated: bool, returncode: int) -> None:
    group = Group(tmp_path, delegated=delegated)
    group.write(3, 2)
    kills = Kills(str(group.commands), "physpages")
    assert kills.stopped(returncode) == (None, "")  # somebody killed it
    group.write(4, 3)
    assert kills.stopped(returncode) == ("physpages", "physpages 64M was used up")
    named = Kills(str(group.commands), "privvmpages")
    (tmp_path / "memory.max").write_text("max\n")
    group.write(5, 4)
    assert named.stopped(returncode) == ("privvmpages", "privvmpages was used up")
    assert kills.stopped(0) == kills.stopped(1) == kills.stopped(-15) == (None, "")


def test_memory_that_is_not_the_ve_s_to_use_up(tmp_path: Path) -> None:
    group = Group(tmp_path)
    kills = Kills(str(group.commands), "physpages")
    group.write(0, 1)
    name, why = kills.stopped(-9)
    assert name == "physpages" and why.startswith("memory of the host")


def test_what_befell_a_service_is_not_laid_to_a_command(tmp_path: Path) -> None:
    group = Group(tmp_path)
    kills = Kills(str(group.commands), "physpages")
    group.write(1, 0, elsewhere=1)
    assert kills.stopped(-9) == (None, "")


def test_a_host_without_the_controller(tmp_path: Path) -> None:
    assert Kills(str(tmp_path / "exec"), "physpages").stopped(-9) == (None, "")


def test_they_are_subprocess_s_own_types() -> None:
    done = CompletedProcess(["a"], -9, b"", None, "physpages")
    assert isinstance(done, subprocess.CompletedProcess) and done.stopped_by == "physpages"
    with pytest.raises(subprocess.CalledProcessError):
        done.check_returncode()
    failed = CalledProcessError(-9, ["a"], b"o", b"e", "physpages")
    assert isinstance(failed, subprocess.CalledProcessError)
    assert (failed.returncode, failed.cmd, failed.stdout, failed.stderr) == (-9, ["a"], b"o", b"e")
    assert "SIGKILL" in str(failed) and "physpages was used up" in str(failed)
    assert "used up" not in str(CalledProcessError(1, ["a"], b"", b"", None))
    assert ExitCode.of(137, "physpages", "x") == 137
    assert (ExitCode(3).stopped_by, ExitCode(3).why) == (None, "")


@pytest.mark.parametrize(
    ("current", "most", "why"), [(40, 40, "numproc 40 of 40 is used up"), (12, 40, ""), (3, "max", "")]
)
def test_why_no_process_is_started(tmp_path: Path, current: int, most: int | str, why: str) -> None:
    (tmp_path / "pids.current").write_text(f"{current}\n")
    (tmp_path / "pids.max").write_text(f"{most}\n")
    assert no_process(str(tmp_path / "exec")) == why


def test_nobody_knows_without_the_controller(tmp_path: Path) -> None:
    assert no_process(str(tmp_path / "exec")) == ""
