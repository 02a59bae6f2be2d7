"""What does not agree: the files that say which VEs there are, what they and the kernel have of each, and what is left.

A verb mends the same for the VE that it is about, silently; the doctor goes through all that there is, and says so.
Whoever works on a VE has its lock: of that one nothing is said.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from ve import (
    bridgeports,
    cgroups,
    claims,
    ending,
    ids,
    layers,
    leases,
    ledger,
    linknames,
    looparea,
    netdir,
    network,
    nftables,
    pool,
    ruleset,
    traffic,
)
from ve.errors import BrokenConfig, Error, Locked, NotFound, NotSupported
from ve.instance import Instance
from ve.state import State
from ve.template import Store
from ve.veid import veid_named
from ve.wholefile import asides

FIX = "ve doctor --fix"
# What is named by VEIDs, below the state dir and below the run dir.
_KEPT = {
    "private": "a private area",
    "root": "a mount point",
    "lease": "host ids",
    "address": "addresses",
    "ubc": "a ledger",
    "traffic": "counted traffic",
}
_OF_THIS_BOOT = {
    "": "facts",
    "lease": "host ids of this boot",
    "log": "the log of one that is thrown away",
    "inside": "beancounters to be seen inside",
    "device": "a device of the host's",
}
# What is named by the alternative names of interfaces, below the networks' run directory.
_OF_NETWORK = {"leading": "what leads to its addresses", "guarded": "a port of a bridge"}
_OF_A_RUN = {"a cgroup", *_OF_THIS_BOOT.values(), *_OF_NETWORK.values()}
_WRITTEN = ("conf", "ubc", "traffic")


@dataclass(frozen=True)
class Trouble:
    """Something that does not agree, as a sentence; veid: None if it is about no VE.  cure: "" if it is mended."""

    veid: int | None
    text: str
    cure: str
    mended: bool = False


@dataclass(frozen=True)
class _Finding:
    """cure is for who has to do it, where we cannot mend it."""

    text: str
    cure: str = FIX
    mend: Callable[[], object] | None = None

    def trouble(self, veid: int | None, fix: bool) -> Trouble:
        if not fix or self.mend is None:
            return Trouble(veid, self.text, self.cure)
        try:
            self.mend()
        except (Error, OSError) as error:
            return Trouble(
                veid, f"{self.text}; {error}", getattr(error, "hint", "") or "see the manual, Troubleshooting"
            )
        return Trouble(veid, self.text, "", mended=True)


def examine(state: State, fix: bool) -> list[Trouble]:
    """All troubles of one state dir, by VEID; fix: mend what can be mended without losing anything of a VE's data."""
    found, going = list[Trouble](), set[int]()
    for veid, left in sorted(_remains(state).items()):
        with contextlib.suppress(Locked), state.lock(veid, 0):
            instance = Instance(state, veid)
            if not state.exists(veid) or instance.is_left():
                going.add(veid)
            found += [each.trouble(veid, fix) for each in _of(instance, left)]
            if not state.exists(veid):
                state.remove_lock(veid)
    # What is claimed for these goes with the rest of them, or is theirs again once their conf file is back.
    found += [each.trouble(veid, fix) for veid, each in _stray(state) if veid not in going]
    found.sort(key=lambda trouble: trouble.veid or 0)
    of_host = (*_half_written(state), *_of_templates(state), *_of_layers(state), *_broken_pools(), *_unguarded(state))
    return found + [each.trouble(None, fix) for each in of_host]


def _of(instance: Instance, left: list[str]) -> Iterator[_Finding]:
    if not instance.state.exists(instance.veid):
        yield _of_none(instance, left)
    elif error := _unknown(instance):
        yield _Finding(str(error), error.hint)
    elif instance.is_left():
        yield _Finding(
            "whoever made it to throw it away was killed, and it is still there",
            mend=partial(ending.remove_all, instance),
        )
    else:
        yield from _unfinished(instance)
        yield from _unreadable(instance)
        yield from _misnamed(instance)
        yield from _ended(instance, left)


def _unknown(instance: Instance) -> NotSupported | None:
    """What keeps every verb from it; nothing else that would be said of it is sure then."""
    try:
        instance.refuse_unknown()
    except NotSupported as error:
        return error
    return None


def _of_none(instance: Instance, left: list[str]) -> _Finding:
    """Of a VEID without a conf file: what a create or destroy left that was killed, or else an admin's mistake."""
    conf, private = instance.state.conf(instance.veid), instance.state.private(instance.veid)
    if instance.cgroup.populated():
        return _Finding(f"it runs, and has no conf file {conf}", "put that file back: then it can be stopped")
    if not instance.is_left() and (looparea.exists(private) or _entries(f"{private}/upper")):
        why = f"there is no such VE, and data of it: {private}"
        return _Finding(why, f"put {conf} back to have it again, or remove {private}")
    return _Finding(
        f"there is no such VE, and left of it: {', '.join(left)}", mend=partial(ending.remove_all, instance)
    )


def _unreadable(instance: Instance) -> Iterator[_Finding]:
    """What it needs and cannot have; nobody but an admin knows what was there."""
    looks: list[Callable[[], object]] = [lambda: instance.config, lambda: instance.template]
    if not instance.ephemeral:
        looks += [partial(_files, instance), partial(_snapshots, instance)]
        looks += [lambda: ledger.load(instance.state, instance.veid)]
        looks += [lambda: traffic.total(instance.state, instance.veid, None)]
    told = set()
    for look in looks:
        try:
            look()
        except Error as error:
            if str(error) not in told:
                yield _Finding(str(error), error.hint or "bring it back from a backup, or destroy the VE")
            told.add(str(error))


def _unfinished(instance: Instance) -> Iterator[_Finding]:
    """What a verb that was killed had still to do to its upper; whoever needs that does it."""
    with contextlib.suppress(BrokenConfig):
        if instance.config.unfinished:
            text = "what it changed was about to become a layer, or to be replaced, by who was killed"
            yield _Finding(text, mend=instance.require_private)


def _files(instance: Instance) -> None:
    if not instance.config.unfinished:
        instance.require_private()


def _snapshots(instance: Instance) -> None:
    """NotFound if a layer of one is gone."""
    for words in instance.config.snapshots.values():
        layers.require(instance.state, instance.veid, tuple(words.split()))


def _misnamed(instance: Instance) -> Iterator[_Finding]:
    """Its conf file says its name, and a link says whose a name is."""
    state, veid = instance.state, instance.veid
    try:
        name = instance.config.name
    except BrokenConfig:
        return
    names = state.names(veid)
    for other in names:
        if other != name:
            text = f"the name {other} leads to it, and its own is {name or 'none'}"
            yield _Finding(text, mend=partial(state.release_name, other, veid))
    if name and name not in names:
        yield _Finding(f"its name {name} does not lead to it", mend=partial(state.claim_name, name, veid))


def _ended(instance: Instance, left: list[str]) -> Iterator[_Finding]:
    """What the kernel and the run dir have of a VE that does not run."""
    if instance.pid is not None or instance.ephemeral:
        return
    of_a_run = [what for what in left if what in _OF_A_RUN]
    own = linknames.alternative_name(instance.state.tag, instance.veid)
    if leases.interface(own) or leases.interface(own + linknames.QUEUES):
        of_a_run.append("an interface")
    if of_a_run:
        yield _Finding(
            f"it does not run, and left of it is: {', '.join(of_a_run)}", mend=partial(ending.clear, instance)
        )


def _stray(state: State) -> Iterator[tuple[int, _Finding]]:
    """What this host keeps for a VE that has not got it; somebody removed or put back files by hand."""
    rooms: list[tuple[str, list[tuple[int, str]], Callable[[State, str], None]]] = [
        ("host ids", ids.stray(state), ids.remove_stray),
        ("an address", claims.stray(state), claims.remove_stray),
    ]
    for what, found, remove in rooms:
        for veid, path in found:
            if state.is_locked(veid):
                continue
            yield veid, _Finding(f"claimed for it, and not its: {what}, by {path}", mend=partial(remove, state, path))


def _of_templates(state: State) -> Iterator[_Finding]:
    """What nobody can use of them, or has finished."""
    store = Store(state.template_dir)
    for path in store.left():
        yield _Finding(f"{path} is half a template: who made or removed it was killed", mend=store.sweep)
    for error in store.broken():
        yield _Finding(str(error), error.hint or "bring it back from a backup, or `ve template remove` it")


def _of_layers(state: State) -> Iterator[_Finding]:
    """What who was killed made and nobody uses, or had begun to remove."""
    for path in layers.left(state):
        yield _Finding(f"{path} is a layer of no VE", mend=partial(layers.sweep, state))


def _half_written(state: State) -> Iterator[_Finding]:
    """What a writer left aside that was killed: nobody reads it."""
    for directory in (*(os.path.join(state.path, name) for name in _WRITTEN), state.run_dir, netdir.directory()):
        for path in asides(directory):
            yield _Finding(f"{path} was half written by who was killed", mend=partial(os.unlink, path))


def _broken_pools() -> Iterator[_Finding]:
    """Whose VEs do not start, nor any VE that is given an address."""
    for name in pool.names():
        try:
            pool.get(name)
        except NotFound:  # just removed
            continue
        except Error as error:
            yield _Finding(str(error), error.hint or f"mend that file, or remove it, and ve network add {name} again")


def _unguarded(state: State) -> Iterator[_Finding]:
    """Somebody has flushed our rules while VEs run that they are for: only a start would make them again."""
    names = [linknames.alternative_name(state.tag, veid) for veid in state.veids()]
    linked = {name for name in names if leases.interface(name)}
    ports = linked.intersection(_entries(netdir.guarded("")))
    looks: list[tuple[set[str], ruleset.Table, Callable[[], object]]] = [
        (linked - ports, ruleset.INET, network.have_rules),
        (ports, ruleset.BRIDGE, bridgeports.ensure),
    ]
    for theirs, table, mend in looks:
        if theirs and not nftables.is_whole(*table.signs):
            text = f"nothing keeps VEs to their own addresses: the table {table.family} ve is gone or changed"
            yield _Finding(text, mend=mend)


def _remains(state: State) -> dict[int, list[str]]:
    """What there is, by VEID: of each VE, and of numbers that are no VE's any more."""
    found: dict[int, list[str]] = {veid: [] for veid in state.veids()}

    def note(names: list[str], what: str) -> None:
        for name in names:
            if veid := veid_named(name):
                found.setdefault(veid, []).append(what)

    for name, what in _KEPT.items():
        note(_entries(os.path.join(state.path, name)), what)
    for name, what in _OF_THIS_BOOT.items():
        note(_entries(os.path.join(state.run_dir, name)), what)
    note(_entries(os.path.join(cgroups.home(), state.tag)), "a cgroup")
    ours = linknames.alternative_name(state.tag, 0).removesuffix("0")
    for name, what in _OF_NETWORK.items():
        names = _entries(os.path.join(netdir.run_directory(), name))
        note([each.removeprefix(ours) for each in names if each.startswith(ours)], what)
    links = os.path.join(state.path, "name")
    for name in _entries(links):
        with contextlib.suppress(OSError):  # what is no link names nobody
            note([os.readlink(os.path.join(links, name))], "a name")
    return found


def _entries(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
