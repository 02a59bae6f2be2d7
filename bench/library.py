"""What `import ve` costs a program."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from bench import measure
from bench.ground import Ground
from bench.measure import Once, Times, Way

_PROGRAM = """
import subprocess, typing, dataclasses, time
begun = time.perf_counter()
{}
print((time.perf_counter() - begun) * 1000)
"""
_NEW, _USED = "import ve", "from ve import Host"
_BESIDE = "import asyncio"  # what a program pays for one of the standard library


def imports(ground: Ground) -> dict[str, Times]:
    """The second line has what is put off until it is used, for a program that makes a VE."""
    found = measure.by_turns([_program(line) for line in (_NEW, _USED, _BESIDE)], ground.rounds)["spaced"]
    return {line: {line: found[line], _BESIDE: found[_BESIDE]} for line in (_NEW, _USED)}


def _program(line: str) -> Way:
    @contextlib.contextmanager
    def ready() -> Iterator[Once]:
        command = [sys.executable, "-c", _PROGRAM.format(line)]

        def once() -> float:
            return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)

        yield once

    return Way(line, ready)
