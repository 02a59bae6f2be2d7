"""Doing what an admin chose for an event: see ve/triggers.py for what that may be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ve import actions, cgroups, hardware, ledger, settings, triggers
from ve.amounts import UNLIMITED, Bound
from ve.beancounter import Beancounter
from ve.instance import Instance

Trigger = tuple[int, str, str]  # VEID, kind, beancounter


@dataclass
class Actor:
    """Acts once per crossing: of failures, the next crossing begins when the VE holds less than 9/10 of its limit."""

    _failing: set[tuple[int, str]] = field(default_factory=set)
    _programs: dict[Trigger, tuple[int, str]] = field(default_factory=dict)  # pid and path of what was begun

    def notice(self, veid: int, table: dict[str, Beancounter]) -> None:
        """What a look has seen of a VE."""
        for name in [name for each, name in self._failing if each == veid]:
            bean = table[name]
            if bean.held is None or bean.limit >= UNLIMITED or not ledger.is_near(bean.held, bean.limit):
                self._failing.discard((veid, name))

    def act(self, instance: Instance, kind: str, bean: Beancounter, text: str) -> str:
        """Do it; what was done in words, "" if that is nothing.  Error if it could not be done."""
        trigger = (instance.veid, kind, bean.name)
        if kind == triggers.FAILURE:
            if trigger[::2] in self._failing:
                return ""
            self._failing.add((instance.veid, bean.name))
        action = triggers.action(kind, bean.name, text)
        if action.verb == "freeze":
            return _freeze(instance)
        if action.verb == "raise":
            return _raise(instance, bean, action.share)
        return self._run(trigger, action.path, bean) if action.verb == "run" else ""

    def _run(self, trigger: Trigger, path: str, bean: Beancounter) -> str:
        if trigger in self._programs:
            return f"{path} has not ended yet, so it is not run again"
        veid, kind, name = trigger
        numbers = {key: getattr(bean, key.lower()) for key in ("HELD", "BARRIER", "LIMIT", "FAILCNT")}
        variables = {key: "" if number is None else str(number) for key, number in numbers.items()}
        pid = actions.begin(path, veid, {"RESOURCE": name, "KIND": kind, **variables})
        self._programs[trigger] = pid, path
        return f"{path} is run"

    def ended(self, *, wait: bool = False) -> Iterator[tuple[Trigger, str]]:
        """What there is to say of programs that have ended, badly; wait: for those that run, too."""
        for trigger, (pid, path) in [*self._programs.items()]:
            code = actions.ended(pid, wait=wait)
            if code is not None:
                del self._programs[trigger]
            if code:
                yield trigger, f"{path} ended with {code}"


def _freeze(instance: Instance) -> str:
    with instance.locked(), instance.running("freeze"):
        cgroups.freeze(instance.veid, instance.cgroup)
    return f"frozen; ve thaw {instance.veid} lets it go on"


def _raise(instance: Instance, bean: Beancounter, share: int) -> str:
    before = Bound(bean.barrier, bean.limit)
    after = raised(before, share, hardware.most(bean.name))
    if after == before:
        return "not raised: it may use all that this host has"
    with instance.locked(), instance.running("raise a limit of"):
        settings.change(instance, {"limits": {bean.name: str(after)}}, save=False)
    return f"raised from {before} to {after}"


def raised(bound: Bound, share: int, most: int) -> Bound:
    """Both by this many percent, and at least by one, as far as the host has so much; unlimited and 0 stay so."""

    def more(value: int) -> int:
        if value in (0, UNLIMITED):
            return value
        return max(value, min(value + max(1, value * share // 100), most, UNLIMITED - 1))

    limit = more(bound.limit)
    barrier = more(bound.barrier)
    if bound.barrier < bound.limit <= barrier == limit:  # a warning stays one, also where the host has no more
        barrier = max(bound.barrier, limit - 1)
    return Bound(barrier, limit)
