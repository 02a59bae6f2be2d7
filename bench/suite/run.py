"""One run of the suite: how long it took, what came of it, and what there is afterwards that was not there before."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import place
from bench.suite import database
from bench.suite.contenders import Contender
from bench.suite.left import Seen, seen

_CASES = Path(__file__).with_name("cases.py")
_DIRECTORIES = tuple(Path(path) for path in place.PRIVATE)
_SETTLED = 10.0  # seconds after a kill in which whoever cleans up by itself has done so
_PATIENCE = 600.0  # seconds for the first tests


@dataclass(frozen=True)
class Whole:
    """A run to its end."""

    wall: float  # seconds
    cpu: float  # the same, of all processes there: pytest's, podman's, the databases'
    passed: int
    failed: int
    left: Seen


@dataclass(frozen=True)
class Killed:
    """A run that was killed, its workers too, after so many tests; what it left, and what of that cleaning does."""

    done: int
    left: Seen
    cleaned: Seen


class Run:
    def __init__(self, work: Path, tests: int, workers: int) -> None:
        self.work, self.tests, self.workers = work, tests, workers
        self._temporary = work / "tmp"
        self._temporary.mkdir()

    def whole(self, contender: Contender, tests: int) -> Whole:
        command, env = self._command(contender), self._env(contender, tests)
        before, used, begun = self._seen(), _cpu(), time.monotonic()
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
        wall, cpu = time.monotonic() - begun, _cpu() - used
        print(done.stdout if done.returncode else done.stdout.rstrip().rpartition("\n")[2], file=sys.stderr)
        more = self._seen() - before
        print(more.shown(), file=sys.stderr)
        return Whole(wall, cpu, _count(done.stdout, "passed"), _count(done.stdout, "failed|errors?"), more)

    def killed(self, contender: Contender) -> Killed:
        """As where a job of CI is stopped: by SIGKILL, and all of it."""
        before, marks = self._seen(), self.work / "marks"
        marks.mkdir()
        env = self._env(contender, self.tests) | {database.DONE: str(marks)}
        command = self._command(contender)
        done = kill_midway(command, env, marks, self.tests // 4, self._temporary / "said")
        shutil.rmtree(marks)
        time.sleep(_SETTLED)
        more = self._seen() - before
        contender.clean()
        cleaned = self._seen() - before
        print(more.shown(), cleaned.shown(), sep="\n  -- cleaned:\n", file=sys.stderr)
        return Killed(done, more, cleaned)

    def _command(self, contender: Contender) -> list[str]:
        """pytest, without what the project's own tests have in its configuration."""
        words = ["-q", "-c", os.devnull, "--rootdir", str(place.ROOT), "-p", "no:cacheprovider"]
        words += ["-n", str(self.workers), "--basetemp", str(self._temporary / "pytest"), *contender.words]
        return [sys.executable, "-m", "pytest", *words, str(_CASES)]

    def _env(self, contender: Contender, tests: int) -> dict[str, str]:
        more = {database.TESTS: str(tests), "TMPDIR": str(self._temporary), "PYTHONPATH": str(place.ROOT)}
        return {**os.environ, **more, **contender.env}

    def _seen(self) -> Seen:
        """Without what pytest keeps of three runs for people to look at."""
        shutil.rmtree(self._temporary)
        self._temporary.mkdir()
        return seen([*_DIRECTORIES, self.work])


def kill_midway(
    command: Sequence[str], env: Mapping[str, str], marks: Path, wanted: int, said: Path, patience: float = _PATIENCE
) -> int:
    """Run pytest, and kill all of it once so many tests have left their marks; how many have.

    RuntimeError, with what it said (kept in the file `said`), if it ends before that or does not come so far.
    """
    with said.open("wb") as file:
        pytest = subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    until = time.monotonic() + patience
    while (done := len(list(marks.iterdir()))) < wanted and pytest.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    if pytest.poll() is None:  # else it is reaped, and its number may be another's
        os.killpg(pytest.pid, signal.SIGKILL)
    code = pytest.wait()
    if done < wanted or code != -signal.SIGKILL:
        how = f"was not so far in {patience:.0f} s" if code == -signal.SIGKILL else f"ended with {code} by itself"
        raise RuntimeError(f"pytest is to be killed after {wanted} tests, and {how}, {done} done:\n{said.read_text()}")
    return done


def _cpu() -> float:
    """What all processes of the place have used; no controller is needed for that."""
    used = re.search(r"^usage_usec (\d+)", Path("/sys/fs/cgroup/cpu.stat").read_text(), re.M)
    assert used
    return int(used[1]) / 1e6


def _count(said: str, what: str) -> int:
    return sum(int(count) for count in re.findall(rf"(\d+) (?:{what})\b", said.rstrip().rpartition("\n")[2]))
