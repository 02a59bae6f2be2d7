"""What VEs use, have used and were refused: the kernel's numbers now, and the ledger of what went before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ve import describe, ledger, limits, outfit, sample
from ve.amounts import UNLIMITED, Bound
from ve.beancounter import RESOURCES, Beancounter, Resource, is_file
from ve.errors import BrokenConfig, NotFound
from ve.facts import Facts
from ve.instance import Instance
from ve.ledger import Ledger, Look


def beancounters(instances: Iterable[Instance]) -> dict[int, dict[str, Beancounter]]:
    """The beancounters of each VE, by VEID and name; what is seen of them is noted in their ledgers."""
    return {veid: table for veid, (table, _) in looks(instances, {}).items()}


def looks(
    instances: Iterable[Instance], memory: Mapping[int, Ledger]
) -> dict[int, tuple[dict[str, Beancounter], Ledger]]:
    """The same with their ledgers; memory: those of ephemeral VEs, which only who goes on looking can remember."""
    instances = list(instances)
    facts = {instance.veid: _facts(instance) for instance in instances}
    subjects = {each.veid: _subject(each, of) for each in instances if (of := facts[each.veid])}
    samples = dict(zip(subjects, sample.many([*subjects.values()]), strict=True))
    return {each.veid: _of(each, facts[each.veid], samples.get(each.veid, {}), memory) for each in instances}


def _facts(instance: Instance) -> Facts | None:
    """None if the VE does not run."""
    with instance.init() as init:
        return init[0] if init else None


def _subject(instance: Instance, facts: Facts) -> sample.Subject:
    """What to look at for what no cgroup counts."""
    return sample.Subject(facts.pid, facts.base, tuple(instance.cgroup.pids()))


def _of(
    instance: Instance, facts: Facts | None, samples: Mapping[str, int], memory: Mapping[int, Ledger]
) -> tuple[dict[str, Beancounter], Ledger]:
    state, veid = instance.state, instance.veid
    look, past = ledger.note(
        *(state, veid, instance.cgroup, samples, outfit.barriers(facts or state.read_facts(veid))),
        memory=memory.get(veid, Ledger()) if instance.ephemeral else None,
    )
    asked, runs = _asked(instance, facts), facts is not None
    return {row.name: _beancounter(row, look, past, asked.bound(row.name), runs) for row in RESOURCES}, past


def _asked(instance: Instance, facts: Facts | None) -> limits.Limits:
    """What it has been given, if it runs; else what its next start gives."""
    try:
        begun = describe.begun_with(facts, instance.config)
    except (BrokenConfig, NotFound):
        return limits.Limits()
    return limits.resolve(begun["limits"], account_only=True)


def _beancounter(row: Resource, look: Look, past: Ledger, asked: Bound, runs: bool) -> Beancounter:
    return Beancounter(
        name=row.name,
        unit=row.unit,
        grade=row.grade,
        held=look.held(row) if runs else None,
        maxheld=past.maxheld.get(row.name),
        sampled=row.name in past.sampled,
        barrier=asked.barrier if asked.barrier in (0, asked.limit) else _taken(row.barrier, row, look, asked.barrier),
        limit=_taken(row.limit, row, look, asked.limit),
        failcnt=past.failcnt(row.name) if row.failcnt else None,
    )


def _taken(source: str, row: Resource, look: Look, asked: int) -> int:
    """What the kernel has of a barrier or limit where that is a file of its own, else what was asked for."""
    if row.name == "privvmpages" or not is_file(source):
        return asked
    taken = look.reading.number(source, row.unit)
    return asked if taken is None else min(taken, UNLIMITED)
