"""How a time is taken: by turns, at two paces, so that what disturbs one contender disturbs the others as much."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

Once = Callable[[], float]  # does it once: milliseconds
PAUSE = 0.03  # seconds before each spaced run: caches go cold, and what the kernel puts off is done
BURST = 5  # runs in a row


@dataclass(frozen=True)
class Way:
    """A contender: its command or call, as the report shows it, and what makes it ready."""

    name: str
    ready: Callable[[], AbstractContextManager[Once]]


Times = dict[str, list[float]]  # by the name of a way


def by_turns(ways: Iterable[Way], rounds: int) -> dict[str, Times]:
    """Each way so often, spaced and in bursts, after one run that is not counted."""
    with contextlib.ExitStack() as held:
        ready = {way.name: held.enter_context(way.ready()) for way in ways}
        for once in ready.values():
            once()
        return {"spaced": _spaced(ready, rounds), "burst": _burst(ready, rounds)}


def _spaced(ready: Mapping[str, Once], rounds: int) -> Times:
    found: Times = {name: [] for name in ready}
    for turn in range(rounds):
        for name in _order(ready, turn):
            time.sleep(PAUSE)
            found[name].append(ready[name]())
    return found


def _burst(ready: Mapping[str, Once], rounds: int) -> Times:
    found: Times = {name: [] for name in ready}
    for turn in range(-(-rounds // BURST)):
        for name in _order(ready, turn):
            ready[name]()
            found[name] += [ready[name]() for _ in range(BURST)]
    return found


def _order(ready: Mapping[str, Once], turn: int) -> list[str]:
    """Who comes after whom changes, so that nobody always follows the one that leaves the most behind."""
    names = list(ready)
    turn %= len(names)
    return names[turn:] + names[:turn]


def timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000


def run(command: Sequence[str]) -> float:
    """The milliseconds from its start to its end, which must be a good one."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    errors = os.memfd_create("stderr")
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdin=null, stdout=null, stderr=errors)
    code = process.wait()
    took = (time.perf_counter() - begun) * 1000
    said = os.pread(errors, 65536, 0).decode(errors="replace")
    for fd in (null, errors):
        os.close(fd)
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}: {said}")
    return took
