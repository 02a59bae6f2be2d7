"""What happens to VEs at their barriers and limits, as it happens or since somebody last asked.

An event is that a count of a VE's ledger has grown: so none is lost between two looks, none is told twice, and who asks
in the morning is told of the night.  Looks come when the kernel says that a file of the VE's cgroup has changed, and
every few seconds for what no file counts.  Who acts and who reads are told apart from each other.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ve import account, amounts, ids, ledger, lock, triggers
from ve.amounts import ITEMS, PAGE, PAGES, UNLIMITED
from ve.beancounter import BY_NAME, Beancounter
from ve.errors import BrokenConfig, Error, Locked, NotFound
from ve.instance import Instance
from ve.ledger import Ledger
from ve.limits import MEMORY
from ve.oom import KernelLog
from ve.react import Actor
from ve.state import State
from ve.watch import Watch

SAMPLE = 5.0  # seconds between two looks at what no file counts
REST = 1.0  # seconds between two looks at the same VE: a fork bomb would keep us writing otherwise
OOM, ACTION, ERROR = "oom", "action", "error"
_TAKEN_BACK = "the kernel took page cache back, swapped out, or killed"
KILLS = "oomguarpages"  # the beancounter whose failures are processes that the kernel killed


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    time: seconds of the epoch, when it was seen, or of a kill when it was.  kind and value: barrier, it went over its
    barrier: what it holds; failure: how often it was refused; oom: the host's pid of a process that the kernel killed
    for want of memory, 0 if the kernel log does not say; action: what was done about it, or not: 0; error: why the VE
    could not be looked at: 0.  text: that in words.  action: what the admin chose for it, or "".
    """

    time: float
    veid: int
    resource: str
    kind: str
    value: int
    text: str
    action: str = ""


def news(
    veid: int,
    mark: Mapping[str, int],
    counts: Mapping[str, int],
    table: Mapping[str, Beancounter],
    chosen: Mapping[str, Mapping[str, str]],
    barriers: Mapping[str, int],
) -> Iterator[Event]:
    """The events between two counts of a ledger; of kills there is one, whose value is how many.

    chosen: by kind and beancounter, the action.  barriers: those that were crossed.
    """
    now = time.time()
    for key, count in counts.items():
        grown = count - mark.get(key, 0)
        kind, name = key.split()
        if grown <= 0 or name not in table:
            continue
        bean, action = table[name], chosen.get(kind, {}).get(name, "")
        if kind == triggers.BARRIER:
            text = _crossed(bean, barriers.get(name, bean.barrier), grown)
            yield Event(now, veid, name, kind, bean.held or 0, text, action)
        elif name == KILLS:
            yield Event(now, veid, name, OOM, grown, "", action)
        elif bean.failcnt is not None:  # of memory it is one beancounter that refuses: see ve/limits.py
            yield Event(now, veid, name, kind, grown, _failed(bean, grown), action)


Tables = list[tuple[int, dict[str, Beancounter]]]


def follow(
    state: State,
    instances: Callable[[], Iterable[Instance]],
    *,
    on: bool,
    act: bool,
    write: Callable[[Tables], None] | None = None,
) -> Iterator[Event]:
    """The events of these VEs since they were last told; on: also those to come, for ever.

    instances is asked again and again, as VEs come and go.  act: do what their admin chose; Locked if somebody does.
    write: gets the beancounters of those that run, at each look at all VEs.
    """
    with contextlib.ExitStack() as held:
        if act:
            held.enter_context(_alone(state))
        watch = held.enter_context(contextlib.closing(Watch(state.tag))) if on else None
        follower = held.enter_context(contextlib.closing(_Follower(state, instances, act, write)))
        yield from follower.look(None)
        if watch is None:
            yield from follower.ended(wait=True)
            return
        sampled = time.monotonic()
        while True:
            changed: set[int] | None = watch.wait(sampled + SAMPLE - time.monotonic())
            if time.monotonic() >= sampled + SAMPLE:
                changed, sampled = None, time.monotonic()
            yield from follower.look(changed)
            time.sleep(REST)


@contextlib.contextmanager
def _alone(state: State) -> Iterator[None]:
    """Or what shall be done once would be done twice."""
    path = os.path.join(state.make_dir(state.run_dir), "act")
    try:
        with state.writing():
            fd = lock.acquire(path, "events", 0)
    except Locked as error:
        who = f"process {error.holder}" if error.holder else "another process"
        hint = "without --act they are only told"
        raise Locked(f"cannot act on events: {who} does so already", hint, error.holder) from None
    try:
        yield
    finally:
        os.close(fd)


class _Follower:
    """Who is told, and what of: the counts of each VE that it knows of already."""

    def __init__(
        self,
        state: State,
        instances: Callable[[], Iterable[Instance]],
        act: bool,
        write: Callable[[Tables], None] | None,
    ) -> None:
        self._state, self._instances, self._write = state, instances, write
        self._reader = "acted" if act else "told"
        self._actor = Actor() if act else None
        self._log = KernelLog()
        self._marks: dict[int, tuple[float, dict[str, int]]] = {}  # since when, and how many of each
        self._memory: dict[int, Ledger] = {}  # of ephemeral VEs
        self._broken: dict[int, str] = {}
        self._first = True

    def close(self) -> None:
        self._log.close()

    def look(self, veids: set[int] | None) -> Iterator[Event]:
        """Look at these VEs, or at all, and tell what is new."""
        there = {each.veid: each for each in self._instances() if veids is None or each.veid in veids}
        for gone in [veid for veid in self._marks if (veids is None or veid in veids) and veid not in there]:
            del self._marks[gone]  # another VE may come by its number
            self._memory.pop(gone, None)
        try:
            looks, broken = account.looks(there.values(), self._memory)
        except Error as error:
            looks, broken = {}, dict.fromkeys(there, error)
        if self._write and veids is None:
            self._write([(veid, table) for veid, (table, _) in looks.items() if there[veid].pid is not None])
        for veid, why in broken.items():
            yield from self._error(veid, why)
        for veid, seen in looks.items():
            yield from self._tell(there[veid], *seen)
        yield from self.ended()
        self._first = False

    def ended(self, *, wait: bool = False) -> Iterator[Event]:
        """What there is to tell of programs that were run."""
        for (veid, _, name), text in self._actor.ended(wait=wait) if self._actor else ():
            yield Event(time.time(), veid, name, ACTION, 0, text)

    def _error(self, veid: int, error: Error) -> Iterator[Event]:
        """Once, not at each look."""
        if self._broken.get(veid) != str(error):
            self._broken[veid] = str(error)
            yield Event(time.time(), veid, "", ERROR, 0, str(error))

    def _tell(self, instance: Instance, table: dict[str, Beancounter], past: Ledger) -> Iterator[Event]:
        veid, told = instance.veid, past.told.get(self._reader)
        since, mark = self._marks.get(veid, (past.since, told or {}))
        # What there was before somebody acted for the first time is told only.
        acts = veid in self._marks or told is not None or not self._first
        counts = past.counts()
        if self._actor:
            self._actor.notice(veid, table)
        mark = mark if since == past.since else {}  # after a reset
        chosen = _chosen(instance) if counts != mark else {}
        for event in news(veid, mark, counts, table, chosen, past.met):
            yield from self._named(instance, event) if event.kind == OOM else (event,)
            if self._actor and acts and event.action:
                yield from self._act(self._actor, instance, event, table[event.resource])
        self._marks[veid] = past.since, counts
        self._broken.pop(veid, None)
        if instance.ephemeral:
            self._memory[veid] = past
        elif told != counts:
            with contextlib.suppress(Error):  # the next look tries again
                ledger.tell(self._state, veid, self._reader, counts)

    def _act(self, actor: Actor, instance: Instance, event: Event, bean: Beancounter) -> Iterator[Event]:
        kind = triggers.BARRIER if event.kind == triggers.BARRIER else triggers.FAILURE
        try:
            text = actor.act(instance, kind, bean, event.action)
        except (Error, OSError) as error:  # the next VE's turn comes all the same
            text = str(error)
        if text:
            yield replace(event, time=time.time(), kind=ACTION, value=0, text=text)

    def _named(self, instance: Instance, event: Event) -> Iterator[Event]:
        """One for each kill that the log has, and one for those that it has not."""
        kills = self._log.last(_ids(instance), event.value)
        for kill in kills:
            text = f"killed {kill.name} (pid {kill.pid}), which had {amounts.size_text(kill.memory)} of memory"
            yield replace(event, time=kill.time, value=kill.pid, text=text)
        if left := event.value - len(kills):
            yield replace(event, value=0, text=f"killed {'a process' if left == 1 else f'{left} processes'}: unknown")


def _chosen(instance: Instance) -> dict[str, Mapping[str, str]]:
    """By kind and beancounter, what shall be done."""
    try:
        config = instance.config
    except (BrokenConfig, NotFound):
        return {}
    return {triggers.BARRIER: config.on_barrier, triggers.FAILURE: config.on_failure}


def _ids(instance: Instance) -> list[range]:
    """The host's uids of its processes, those of VEs in it too."""
    try:
        inner = instance.config.rights.inner
        bases = ids.next_leases(instance.state, instance.veid, inner, ephemeral=instance.ephemeral)
    except Error:
        return []
    return [range(base, base + ids.IDS) for base in bases]


def _crossed(bean: Beancounter, barrier: int, count: int) -> str:
    holds = "" if bean.held is None else f", holds {_amount(bean, bean.held)} now"
    return f"went over its barrier {_amount(bean, barrier)}{_times(count)}{holds}"


def _failed(bean: Beancounter, count: int) -> str:
    if BY_NAME[bean.name].guaranteed:
        return f"was left less than its guarantee {_amount(bean, bean.barrier)}{_times(count)}"
    if bean.name in MEMORY:  # cgroup-v2.rst, memory.events: max
        return f"was about to go over its limit {_amount(bean, bean.limit)}{_times(count)}: {_TAKEN_BACK}"
    return f"was refused more than its limit {_amount(bean, bean.limit)}{_times(count)}"


def _times(count: int) -> str:
    return "" if count == 1 else f" {count} times"


def _amount(bean: Beancounter, value: int) -> str:
    if bean.unit == ITEMS or value >= UNLIMITED:
        return amounts.number_text(value)
    return amounts.size_text(value * PAGE if bean.unit == PAGES else value)
