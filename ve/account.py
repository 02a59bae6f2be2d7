"""What VEs use, have used and were refused: the kernel's numbers now, and the ledger of what went before."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True)
class _Look:
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
    beans = [_beancounter(row, seen, past, asked, runs) for row in RESOURCES]
    return {bean.name: bean for bean in (*beans, *_disk(look.instance, asked, past))}, past


def _asked(instance: Instance) -> limits.Limits:
    """What its next start gives it."""
    try:
        return limits.resolve(instance.config.limits, account_only=True)
    except (BrokenConfig, NotFound):
        return limits.Limits()


def _beancounter(row: Resource, look: Look, past: Ledger, asked: limits.Limits, runs: bool) -> Beancounter:
    bound = asked.bound(row.name)
    return Beancounter(
        name=row.name,
        unit=row.unit,
        grade=row.grade,
        held=look.held(row) if runs else None,
        maxheld=past.maxheld.get(row.name),
        sampled=row.name in past.sampled,
        barrier=_barrier(row, look, asked, bound),
        limit=_taken(row.limit, row, look, bound.limit) if asked.is_met(row.name) else bound.limit,
        failcnt=past.failcnt(row.name) if asked.is_met(row.name) and past.is_counted(row.name) else None,
        looked=past.looked or None,
        gap=past.gap or None,
    )


def _disk(instance: Instance, asked: limits.Limits, past: Ledger) -> list[Beancounter]:
    """Of its private area: what is counted, running or not; of what is in memory only what it may have."""
    held = instance.disk() or quota.Held(None, None, *(asked.others.get(word, UNLIMITED) for word in quota.WORDS))
    numbers = ((held.space, held.space_limit), (held.inodes, held.inodes_limit))
    return [
        Beancounter(
            *(row.name, row.unit, row.grade, now, None, False, most, most, None, past.looked or None, past.gap or None)
        )
        for row, (now, most) in zip(DISK, numbers, strict=True)
    ]


def _barrier(row: Resource, look: Look, asked: limits.Limits, bound: Bound) -> int:
    if bound.barrier in (0, bound.limit) or not asked.is_crossed(row.name):
        return bound.barrier
    return _taken(row.barrier, row, look, bound.barrier)


def _taken(source: str, row: Resource, look: Look, asked: int) -> int:
    """What the kernel has of a barrier or limit where that is a file of its own, else what was asked for."""
    if row.name == "privvmpages" or not is_file(source):
        return asked
    taken = look.reading.number(source, row.unit)
    return asked if taken is None else min(taken, UNLIMITED)
