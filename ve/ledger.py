"""What a VE's beancounters came to since somebody reset them, over restarts of the VE and of the host.

    <state dir>/ubc/<VEID>      the ledger; when it was last written to is when somebody last looked
    <run dir>/ubc               held by who looks and writes

The kernel's counters die with the cgroup.  We remove that ourselves, and look before: so of a VE that ended between two
looks, its peaks and failures are in its cgroup still.  What a power cut takes is what came since the last look: the
ledger then knows when that was.  An ephemeral VE has no ledger: its counters end with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from ve import lock
from ve.amounts import ITEMS
from ve.beancounter import BY_NAME, RESOURCES, Files, Reading, is_file
from ve.cgroups import Cgroup
from ve.errors import SPENT, UPGRADE, BrokenConfig, DiskFull, NotSupported, newer
from ve.facts import boot_id
from ve.state import State
from ve.wholefile import read_regular, remove_asides, sync, write_whole

VERSION = 1
_SIZE_MAX = 1 << 20  # bytes
_COUNT_MAX = 1 << 64  # of what the kernel counts
_TIME_MAX = 1e11  # seconds of the epoch, which the year 5000 has
PATIENCE = 10.0  # seconds to wait for who looks at all VEs, which takes less than one


class Ledger(NamedTuple):
    """Numbers by resource, each in its own unit.

    life: the cgroup that last is of.  maxheld: of all lives; sampled: where that is only the most that somebody saw.
    ended: failures of the lives before, and less than 0 for those of this one that were reset.  last: failures of this
    life.  forgotten: this life's peaks when they were reset, which the kernel goes on telling.
    crossings: how often it went over its barrier, met: which that was the last time; above: what has not come back
    since.  over: the kernel's own counts of being over it, in this life.  told: by reader, the counts() that it has
    been told.
    closed: the last life whose end was seen.  gap: when somebody looked last before one ended unseen, by a power cut.
    looked: when somebody looked before; the file's mtime, not its content.
    """

    since: float = 0.0  # of the reset, in seconds of the epoch
    life: str = ""
    maxheld: Mapping[str, int] = {}
    sampled: tuple[str, ...] = ()
    ended: Mapping[str, int] = {}
    last: Mapping[str, int] = {}
    forgotten: Mapping[str, int] = {}
    crossings: Mapping[str, int] = {}
    met: Mapping[str, int] = {}
    above: tuple[str, ...] = ()
    over: Mapping[str, int] = {}
    told: Mapping[str, Mapping[str, int]] = {}
    closed: str = ""
    gap: float = 0.0
    looked: float = 0.0

    def failcnt(self, name: str) -> int:
        return self.ended.get(name, 0) + self.last.get(name, 0)

    def is_counted(self, name: str) -> bool:
        """Did a kernel ever tell how often it failed?"""
        return name in self.ended or name in self.last

    def counts(self) -> dict[str, int]:
        """Of all that is an event: how often, by "barrier NAME" and "failure NAME"."""
        crossed = {f"barrier {name}": count for name, count in self.crossings.items()}
        return crossed | {f"failure {name}": self.failcnt(name) for name in sorted({*self.ended, *self.last})}


def seen(
    before: Ledger, life: str, held: Mapping[str, int], peaks: Mapping[str, int], failures: Mapping[str, int]
) -> Ledger:
    """The ledger after a look at this life: what it holds, the peaks and failures that the kernel tells of it.

    The kernel's counts of a life only grow: one that is less, or missing, was read of a cgroup on its way out.
    """
    ended, forgotten, last = dict(before.ended), dict(before.forgotten), dict(failures)
    if life == before.life:
        last = _grown(before.last, failures)
    else:
        forgotten = {}
        for name, count in before.last.items():
            ended[name] = ended.get(name, 0) + count
    most, sampled = dict(before.maxheld), {*before.sampled}
    for name, value in held.items():
        peak = peaks.get(name, 0)
        told = name in peaks and (name not in forgotten or peak > forgotten[name])
        now = max(value, peak) if told else value
        if now > most.get(name, -1):
            most[name] = now
            sampled = sampled - {name} if told else sampled | {name}
        elif not told:
            sampled.add(name)
    return before._replace(
        life=life,
        maxheld=most,
        sampled=tuple(sorted(sampled)),
        ended=ended,
        last=last,
        forgotten=forgotten,
    )


def _grown(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    """Of each count the greater."""
    return {**before, **{name: max(count, before.get(name, 0)) for name, count in now.items()}}


def crossed(
    before: Ledger, now: Ledger, held: Mapping[str, int], barriers: Mapping[str, int], over: Mapping[str, int]
) -> Ledger:
    """What a look comes to with its crossings; over: how often the kernel says that each was over its barrier.

    One crossing lasts until a look sees less than 9/10 of the barrier: what the kernel holds there goes to and fro.
    """
    same = now.life == before.life
    above, crossings, met = {*before.above} if same else set(), dict(before.crossings), dict(before.met)
    for name, barrier in barriers.items():
        grown = over.get(name, 0) > (before.over.get(name, 0) if same else 0)
        risen = now.maxheld.get(name, 0) > barrier >= before.maxheld.get(name, 0)
        beyond = held.get(name, 0) > barrier or grown or risen
        if beyond and name not in above:
            crossings[name], met[name] = crossings.get(name, 0) + 1, barrier
        if not is_near(held.get(name, 0), barrier):
            above.discard(name)
        elif beyond:
            above.add(name)
    above &= barriers.keys()
    return now._replace(crossings=crossings, met=met, above=tuple(sorted(above)), over=dict(over))


def is_near(held: int, wall: int) -> bool:
    """Is a barrier or limit still being met that was met before?"""
    return 10 * held >= 9 * wall


def reset(before: Ledger, now: float, peaks: Mapping[str, int]) -> Ledger:
    """Count from now on; peaks: those of the life that goes on."""
    ended = {name: -count for name, count in before.last.items()}
    kept = Ledger(since=now, life=before.life, above=before.above, over=before.over, closed=before.closed)
    told: dict[str, dict[str, int]] = {reader: {} for reader in before.told}
    return kept._replace(ended=ended, last=before.last, forgotten=dict(peaks), told=told)


# --- the kernel's numbers -------------------------------------------------------------------------------------------

_COUNTED = [row for row in RESOURCES if is_file(row.held)]
_PEAKING, _CROSSED, _FAILING = (
    [row for row in RESOURCES if getattr(row, source)] for source in ("maxheld", "crossed", "failcnt")
)


class Look:
    """What the kernel tells of one VE at this moment; life: "" if it has no cgroup.  held: by resource."""

    def __init__(self, life: str, reading: Reading, samples: Mapping[str, int]) -> None:
        self.life, self.reading = life, reading
        counted = {row.name: reading.number(row.held, row.unit) for row in _COUNTED}
        self.held = {**{name: value for name, value in counted.items() if value is not None}, **samples}

    def peaks(self) -> dict[str, int]:
        """Of each resource of which the kernel keeps the maximum."""
        found = {row.name: self.reading.number(row.maxheld, row.unit) for row in _PEAKING}
        return {name: value for name, value in found.items() if value is not None}

    def over(self) -> dict[str, int]:
        """Of each resource of which the kernel counts how often it was over the barrier that the kernel has."""
        found = {row.name: self.reading.number(row.crossed, ITEMS) for row in _CROSSED}
        return {name: value for name, value in found.items() if value is not None}

    def met(self, barriers: Mapping[str, int]) -> dict[str, int]:
        """Of over(), those whose barrier it is: physpages and privvmpages share one, the lower."""
        taken = {row.name: self.reading.number(row.barrier, row.unit) for row in _CROSSED if row.name in barriers}
        return {name: count for name, count in self.over().items() if name in taken and barriers[name] == taken[name]}

    def failures(self) -> dict[str, int]:
        """Of each resource of which the kernel counts them."""
        found = {row.name: self.reading.number(row.failcnt, ITEMS) for row in _FAILING}
        return {name: value for name, value in found.items() if value is not None}


def note(
    state: State,
    veid: int,
    group: Cgroup,
    samples: Mapping[str, int],
    barriers: Mapping[str, int],
    *,
    memory: Ledger | None = None,
    ends: bool = False,
) -> tuple[Look, Ledger]:
    """Look at a VE's cgroup and note in its ledger what is seen; memory: that of an ephemeral VE, which has no file.

    ends: this is the last look at it.  Where there is no cgroup nothing is noted, so that the file still says when
    somebody saw one.  A disk that is full or read only keeps nobody from looking: the next look sees it again.  Held.
    """
    look = _look(group, samples)
    if memory is not None:
        return look, _after(memory, look, barriers)
    before = load(state, veid)
    now = _after(before, look, barriers)
    if look.life:  # else there was nothing to see, and when somebody last did is not to be forgotten
        with suppress(DiskFull, NotSupported):
            save(state, veid, before, now._replace(closed=look.life) if ends else now)
    return look, now


def note_end(state: State, veid: int, group: Cgroup, barriers: Mapping[str, int]) -> None:
    """The same of a cgroup that is about to be removed; a ledger that cannot be read keeps no VE from ending.

    Locked while others look: then the cgroup must stay, or what it counted would be lost.
    """
    if group.exists():
        with suppress(BrokenConfig), held(state):
            note(state, veid, group, {}, barriers, ends=True)


def tell(state: State, veid: int, reader: str, counts: Mapping[str, int]) -> None:
    """Note that a reader has been told so many of each event."""
    with held(state), suppress(DiskFull, NotSupported):
        before = load(state, veid)
        if before.told.get(reader) != counts and state.exists(veid):
            save(state, veid, before, before._replace(told={**before.told, reader: dict(counts)}))
            os.utime(state.ledger(veid), (before.looked, before.looked))  # it was no look


def begin(state: State, veid: int, group: Cgroup) -> None:
    """Count from now on, whatever was there; BrokenConfig if a newer ve has written that."""
    with held(state):
        look = _look(group, {})
        try:
            known = load(state, veid)
        except _NewerError:
            raise
        except BrokenConfig:  # whatever is there, it goes
            known = Ledger()
            remove(state, veid)
        above = known.above if known.life == look.life else ()
        before = Ledger(
            life=look.life, closed=known.closed, last=look.failures(), above=above, over=look.over(), told=known.told
        )
        save(state, veid, Ledger(), reset(before, time.time(), look.peaks()))


def _look(group: Cgroup, samples: Mapping[str, int]) -> Look:
    try:
        life = f"{boot_id()}:{os.stat(group.path).st_ino}"
    except FileNotFoundError:
        life = ""
    return Look(life, Reading(Files(group)), samples)


def _after(before: Ledger, look: Look, barriers: Mapping[str, int]) -> Ledger:
    if before.life not in ("", before.closed, look.life):
        before = before._replace(gap=before.looked)
    if not look.life:
        return before
    now = seen(before, look.life, look.held, look.peaks(), look.failures())
    over = _grown(before.over, look.over()) if before.life == look.life else look.over()
    return crossed(before, now, look.held, barriers, look.met(barriers))._replace(over=over)


# --- on disk --------------------------------------------------------------------------------------------------------


@contextmanager
def held(state: State) -> Iterator[None]:
    """Keep who else looks or resets away, so that no failure is counted twice or lost; Locked after 10 seconds."""
    path = os.path.join(state.make_dir(state.run_dir), "ubc")
    with state.writing():
        fd = lock.acquire(path, "the beancounters", PATIENCE)
    try:
        yield
    finally:
        os.close(fd)


def load(state: State, veid: int) -> Ledger:
    """An empty one if nobody has looked yet; BrokenConfig if what is there was not written by us, or by a newer ve."""
    path = state.ledger(veid)
    try:
        data = read_regular(path, _SIZE_MAX)
        return _parsed(data, os.stat(path).st_mtime) if data else Ledger()
    except FileNotFoundError:
        return Ledger()
    except OSError as error:
        if error.errno in SPENT:
            raise
        raise BrokenConfig(f"cannot read {path}: {error.strerror}") from error
    except _NewerError as error:
        raise _NewerError(f"cannot read {path}: {error}", error.hint) from None
    except BrokenConfig as error:
        raise BrokenConfig(str(error), error.hint or _begin_anew(veid)) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BrokenConfig(f"cannot read {path}: it is not a ledger", _begin_anew(veid)) from None


def _begin_anew(veid: int) -> str:
    return f"ve ubc {veid} --reset begins a new one"


class _NewerError(BrokenConfig):
    """It is of a newer ve, and to be left as it is."""


def _parsed(data: bytes, looked: float) -> Ledger:
    import json  # only who counts pays for it

    table = json.loads(data)
    version = table.pop("version")
    if why := newer(version, VERSION):
        raise _NewerError(why, UPGRADE)
    if version != VERSION:
        raise ValueError(version)
    for name, value in table.items():
        if not _SHAPES[name](value):
            raise ValueError(name)
    lists = {name: tuple(table.get(name, ())) for name in ("sampled", "above")}
    return Ledger(**table | lists, looked=looked)


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= _TIME_MAX  # and no NaN, which JSON has for Python


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and {*value} <= BY_NAME.keys()


def _is_amounts(value: Any) -> bool:
    return _is_counts(value) and value.keys() <= BY_NAME.keys()


def _is_counts(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    numbers = [0, *value.values()]
    return {*map(type, numbers)} == {int} and min(numbers) > -_COUNT_MAX and max(numbers) < _COUNT_MAX


def _is_readers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_counts, value.values()))


# Of each field what JSON may have there.
_SHAPES: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("since", "gap"), _is_time),
    **dict.fromkeys(("life", "closed"), _is_text),
    **dict.fromkeys(("sampled", "above"), _is_names),
    **dict.fromkeys(("maxheld", "ended", "last", "forgotten", "crossings", "met", "over"), _is_amounts),
    "told": _is_readers,
}


def save(state: State, veid: int, before: Ledger, now: Ledger) -> None:
    """Write it whole, if it has changed; note that somebody has looked.  Held."""
    import json

    path = state.ledger(veid)
    if now == before:
        with suppress(FileNotFoundError):
            os.utime(path)
            return
    state.make_dir(os.path.dirname(path))
    with state.writing():
        table = {name: value for name, value in now._asdict().items() if name != "looked"}
        write_whole(path, json.dumps({"version": VERSION, **table}).encode())


def remove(state: State, veid: int) -> None:
    """Of a VE that is destroyed; whatever somebody put in its place, too.

    Its cgroup must be gone: who looked before that has written by then, who looks later writes nothing.  Held.
    """
    path = state.ledger(veid)
    remove_asides(path)
    with suppress(FileNotFoundError, NotADirectoryError):
        if os.path.isdir(path) and not os.path.islink(path):
            import shutil

            shutil.rmtree(path)
        else:
            os.unlink(path)
        sync(os.path.dirname(path))  # or, after a power cut, the next VE of this number would have it
