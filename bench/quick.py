"""What a change in hand costs, in system calls (strace) and instructions (callgrind): numbers that noise does not move.

    python -m bench --quick [--others 10 100]

Of each operation once with nobody beside it, and again with so many other VEs running: a number that grows with them is
work that is proportional to them.  Calls of all processes of ours are counted, from the caller to the VE's init; of a
warm operation only what one more of it takes.
"""

import argparse
import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import floor, place
from bench.crowd import of_ve
from bench.ours import COMMAND, IDLE, Ours, address, stopped

VEID = 101
_MORE = 4  # times that a warm operation is repeated: what once more takes is the quotient
# what -> lines for bench/worker.py, each time anew, or a command
WARM = {
    "library: Host.ephemeral(), its end": f"throw_away {IDLE}",
    "the same with an address": f"throw_away {IDLE} {address(0)}",
    "library: Host.create(), env.destroy()": f"create {VEID + 2} {IDLE}\ndestroy {VEID + 2}",
    'library: env.run(["true"])': f"run {VEID} true",
    "library: env.start(), env.stop()": f"start {VEID + 1}\nstop {VEID + 1}",
}
COLD: dict[str, tuple[str, ...]] = {
    "ve exec 101 true": ("exec", str(VEID), "true"),
    "ve run idle -- true": ("run", IDLE, "--", "true"),
    "ve list": ("list",),
    "ve ubc": ("ubc",),
}
READING = {
    "python -c pass": (sys.executable, "-c", "pass"),
    "import ve": (sys.executable, "-c", "import ve"),
    "from ve import Host": (sys.executable, "-c", "from ve import Host"),
    "ve --help": (COMMAND, "--help"),
}


class Counter:
    """Counts what commands do, in a work directory."""

    def __init__(self, ours: Ours, work: Path) -> None:
        self.ours, self._summary = ours, work / "strace"

    def calls(self, command: Sequence[str], text: str = "") -> int:
        """How many system calls it and all that it starts make; text is its standard input."""
        tracing = ["strace", "--follow-forks", "--summary-only", "--output", str(self._summary)]
        null = subprocess.DEVNULL
        done = subprocess.run(
            [*tracing, *command], input=text, stdout=null, stderr=subprocess.PIPE, text=True, cwd=place.ROOT
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
        total = re.search(r"^100\.00 +\S+ +(?:\S+ +)?(\d+)(?: +\d+)? total$", self._summary.read_text(), re.M)
        assert total, self._summary.read_text()
        return int(total[1])

    def warm(self, operation: str) -> int:
        worker = [sys.executable, "-m", "bench.worker", self.ours.path]
        once, often = (self.calls(worker, f"{operation}\n" * times) for times in (1, 1 + _MORE))
        return round((often - once) / _MORE)

    def cold(self, *words: str) -> int:
        return self.calls(self.ours.command(*words))

    def instructions(self, command: Sequence[str]) -> int:
        """Of the command alone, not of what it starts."""
        tracing = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *command]
        done = subprocess.run(tracing, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
        return int(re.findall(r"Collected : (\d+)", done.stderr)[0])

    def all(self) -> dict[str, int]:
        return {
            **{what: self.warm(operation) for what, operation in WARM.items()},
            **{what: self.cold(*words) for what, words in COLD.items()},
        }


def main(options: argparse.Namespace) -> int:
    work = Path(options.inside)
    ours = Ours(work, floor.build(work / "programs"))
    counter = Counter(ours, work)
    found: dict[int, dict[str, int]] = {}
    with _beside(ours), of_ve(ours) as crowd:
        for others in (0, *sorted(options.others)):
            crowd.resize(others)
            print(f"==> with {others} other VEs", file=sys.stderr, flush=True)
            found[others] = counter.all()
        crowd.resize(0)
    print(table(found))
    print(f"\n{table_of_instructions({what: counter.instructions(words) for what, words in READING.items()})}")
    return 0


@contextlib.contextmanager
def _beside(ours: Ours) -> Iterator[None]:
    """The VEs that the operations are of: one that runs, and one that does not."""
    ours.idle  # noqa: B018
    with ours.created(VEID, IDLE) as running, ours.created(VEID + 1, IDLE):
        running.start()
        yield
        stopped(running)


def table(found: dict[int, dict[str, int]]) -> str:
    """In Markdown: system calls by how many others there are."""
    heads = ["system calls", *(f"with {others} others" for others in found)]
    text = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * len(found)}"]
    for what in next(iter(found.values())):
        text.append(f"| {' | '.join([what, *(str(counts[what]) for counts in found.values())])} |")
    return "\n".join(text)


def table_of_instructions(found: dict[str, int]) -> str:
    """The same of what needs no system call that valgrind does not know, as most of ours do."""
    text = ["| instructions | million |", "|---|---:|"]
    return "\n".join([*text, *(f"| {what} | {count / 1e6:.0f} |" for what, count in found.items())])
