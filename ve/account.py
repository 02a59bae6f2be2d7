"""What VEs use, have used and were refused: the kernel's numbers now, and the ledger of what went before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from ve import cgroups, insidefile, ledger, limits, outfit, quota, sample
from ve.amounts import UNLIMITED, Bound
from ve.beancounter import DISK, RESOURCES, Beancounter, Resource, is_file
from ve.cgroups import Cgroup
from ve.errors import BrokenConfig, Error, NotFound
from ve.facts import Facts
from ve.instance import Instance
from ve.ledger import Ledger, Look

Seen = tuple[dict[str, Beancounter], Ledger]


def beancounters(
    instances: Iterable[Instance], broken: Callable[[Error], object] | None = None
) -> dict[int, dict[str, Beancounter]]:
    """The beancounters of each VE, by VEID and name; what is seen of them is noted in their ledgers.

    broken: is told why a VE is not among them; without it that is raised.
    """
    seen, failed = looks(instances, {})
    for error in failed.values():
        if broken is None:
            raise error
        broken(error)
    return {veid: table for veid, (table, _) in seen.items()}


def looks(instances: Iterable[Instance], memory: Mapping[int, Ledger]) -> tuple[dict[int, Seen], dict[int, Error]]:
    """The same with their ledgers, and why others cannot be looked at, which is no reason not to look at these.

    memory: the ledgers of ephemeral VEs, which only who goes on looking can remember.
    """
    instances = list(instances)
    states = {each.state.path: each.state for each in instances}
    groups = {
        path: cgroups.several(state.tag, (each.veid for each in instances if each.state.path == path))
        for path, state in states.items()
    }
    found, seen, broken = list[_Look](), dict[int, Seen](), dict[int, Error]()
    for each in instances:
        group = groups[each.state.path].pop(0)
        try:
            found.append(_Look(each, _facts(each), group))
        except Error as error:
            broken[each.veid] = error
    subjects = {look.veid: sample.Subject(of.pid, of.base, look.group.pids()) for look in found if (of := look.facts)}
    samples = dict(zip(subjects, sample.many([*subjects.values()]), strict=True))
    with contextlib.ExitStack() as held:
        for state in states.values():
            held.enter_context(ledger.held(state))
        for look in found:
            try:
                seen[look.veid] = _of(look, samples.get(look.veid, {}), memory)
            except Error as error:
                broken[look.veid] = error
    for look in found:
        if look.facts and look.veid in seen:
            insidefile.refresh(look.instance.state, look.veid, seen[look.veid][0])
    return seen, broken


class _Look(NamedTuple):
    """A VE as it is looked at; facts: None if it does not run."""

    instance: Instance
    facts: Facts | None
    group: Cgroup

    @property
    def veid(self) -> int:
        return self.instance.veid


def _facts(instance: Instance) -> Facts | None:
    with instance.init() as init:
        return init[0] if init else None


def _of(look: _Look, samples: Mapping[str, int], memory: Mapping[int, Ledger]) -> Seen:
    state, veid, runs = look.instance.state, look.veid, look.facts is not None
    begun = outfit.limits(look.facts or state.read_facts(veid)) or limits.Limits()
    seen, past = ledger.note(
        *(state, veid, look.group, samples, begun.warnings()),
        memory=memory.get(veid, Ledger()) if look.instance.ephemeral else None,
    )
    asked = begun if runs else _asked(look.instance)
    when = past.looked or None, past.gap or None
    beans = [_beancounter(row, seen, past, asked, runs, when) for row in RESOURCES]
    return {bean.name: bean for bean in (*beans, *_disk(look.instance, asked, when))}, past


def _asked(instance: Instance) -> limits.Limits:
    """What its next start gives it."""
    try:
        return limits.resolve(instance.config.limits, account_only=True)
    except (BrokenConfig, NotFound):
        return limits.Limits()


def _beancounter(
    row: Resource, look: Look, past: Ledger, asked: limits.Limits, runs: bool, when: tuple[float | None, float | None]
) -> Beancounter:
    name, bound = row.name, asked.bound(row.name)
    barrier, limit = _taken(row, look, asked, bound) if name in _TAKEN else bound
    held, maxheld = look.held.get(name) if runs else None, past.maxheld.get(name)
    failcnt = past.failcnt(name) if past.is_counted(name) and asked.is_met(name) else None
    return Beancounter(
        *(name, row.unit, row.grade, held, maxheld, name in past.sampled, barrier, limit, failcnt, *when)
    )


def _disk(instance: Instance, asked: limits.Limits, when: tuple[float | None, float | None]) -> Iterator[Beancounter]:
    """Of its private area: what is counted, running or not; of what is in memory only what it may have."""
    held = instance.disk() or quota.Held(None, None, *(asked.others.get(word, UNLIMITED) for word in quota.WORDS))
    numbers = ((held.space, held.space_limit), (held.inodes, held.inodes_limit))
    for row, (now, most) in zip(DISK, numbers, strict=True):
        yield Beancounter(row.name, row.unit, row.grade, now, None, False, most, most, None, *when)


# Those of which the kernel has the barrier or the limit in a file of its own: not privvmpages, which are two together.
_TAKEN = {row.name for row in RESOURCES if is_file(row.barrier or row.limit)} - {"privvmpages"}


def _taken(row: Resource, look: Look, asked: limits.Limits, bound: Bound) -> Bound:
    """What the kernel has of them, else what was asked for."""

    def number(source: str, asked: int) -> int:
        taken = look.reading.number(source, row.unit) if is_file(source) else None
        return asked if taken is None else min(taken, UNLIMITED)

    barrier, limit = bound
    if barrier not in (0, limit) and asked.is_crossed(row.name):
        barrier = number(row.barrier, barrier)
    return Bound(barrier, number(row.limit, limit) if asked.is_met(row.name) else limit)
