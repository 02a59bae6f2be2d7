"""The C floor as a contender: bench/programs/, with the filters that ve compiles."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.measure import Once, Way
from bench.ours import Lines
from ve import devices, outfit, seccomp

PROGRAMS = Path(__file__).resolve().parent / "programs"
SOURCES = {
    "floor": ("floor.c", "cgroup.c", "sides.c", "mounts.c", "link.c"),
    "true": ("true.c",),
    "pause": ("pause.c",),
    "memlock.so": ("memlock.c",),
}
_FLAGS = {"memlock.so": ("-shared", "-fPIC")}


def build(where: Path) -> Path:
    """The C programs, compiled into a directory that is made."""
    where.mkdir(exist_ok=True)
    for name, sources in SOURCES.items():
        flags = ("-O2", "-Wall", "-Wextra", "-Werror", *_FLAGS.get(name, ("-static",)))
        paths = [str(PROGRAMS / source) for source in sources]
        subprocess.run(["gcc", *flags, "-o", str(where / name), *paths], check=True)
    return where


class Floor:
    """The program, and what it is told: see the head of floor.c."""

    def __init__(self, work: Path, programs: Path, template: str, cgroup: Path = Path("/sys/fs/cgroup/floor")) -> None:
        filters, scratch = work / "filters", work / "scratch"
        for path in (filters, cgroup, scratch):
            path.mkdir(exist_ok=True)
        passing, refusing = seccomp.compile()
        device = devices._program(outfit.may_open(()))
        for name, program in (("pass", passing), ("refuse", refusing), ("device", device)):
            (filters / f"{name}.bpf").write_bytes(program)
        self.command = [str(programs / "floor"), template, str(cgroup), str(scratch), str(filters)]

    def process(self) -> Lines:
        return Lines(self.command, 1 / 1000)

    def way(self, operation: str) -> Way:
        """Again and again from one process, as the library is measured."""

        @contextlib.contextmanager
        def ready() -> Iterator[Once]:
            with self.process() as floor:
                if operation == "exec":
                    floor.do("up")
                yield lambda: floor.do(operation)
                if operation == "exec":
                    floor.do("down")

        return Way("the same in C", ready)
