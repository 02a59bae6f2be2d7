"""Changing what was asked for: what a running VE takes at once, what a conf file keeps, and what waits for a start."""

import contextlib
import os
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ve import (
    addressed,
    addresses,
    attachment,
    claims,
    describe,
    enforce,
    files,
    granting,
    hardware,
    leading,
    limits,
    looparea,
    mounts,
    names,
    network,
    outfit,
    ports,
    ptys,
    quota,
    sharedmemory,
)
from ve.addressed import Given
from ve.amounts import UNLIMITED
from ve.beancounter import BY_NAME
from ve.errors import Error, InUse, InvalidValue, NotSupported
from ve.facilities import require
from ve.facts import Facts
from ve.instance import Instance
from ve.model import Config, Status

Undo = contextlib.ExitStack
_NAMES = ("nameservers", "searchdomains")
_LIVE_OF_NETWORK = ("addresses", "publish", "rate", "delay", "loss", *_NAMES)
_LISTS = {name: (f"add_{name}", f"remove_{name}") for name in ("addresses", "publish")}  # and what changes one
_WORDS_OF_LISTS = {word for words in _LISTS.values() for word in words}
_AT_START = ("nofile", *(name for name, row in BY_NAME.items() if not row.live))  # of limits, for the init's processes


def change(
    instance: Instance, asked: dict[str, Any], save: bool, preset: Iterable[str] = (), network: str | None = None
) -> list[str]:
    """Change these values of its Config; the names of those that wait for the next start.  Under the VE's lock.

    Of a running VE's own files "names: WHY" (below it perhaps "hint: CURE") is among them where these cannot be told:
    its root shall keep nobody from taking an address from it.  InvalidValue if something can neither change now nor is
    saved; then nothing has changed.  network: as that was typed.  preset: those limits that nobody asked for by name,
    so that they are left out where that is so; their names are returned, too.
    """
    with instance.init() as init, contextlib.ExitStack() as undo:
        lost = [name for name in preset if init and not save and limits.canonical(name) in _AT_START]
        if lost:
            asked = asked | {"limits": {name: text for name, text in asked["limits"].items() if name not in lost}}
        before, facts = instance.config, init[0] if init else None
        begun = outfit.begun_with(facts, before)
        known = _known(before, begun, facts)
        words, asked = asked, _with_lists(instance.veid, asked, vars(before), known)
        wanted = _changed(before, asked)
        wanted.refuse_idle()
        if facts and save and begun["addresses"] and not wanted.addresses and "addresses" not in asked:
            _refuse_unsaved(wanted, _with_live(wanted, begun), network)
        attachment.check(wanted if save or not facts else _with_live(wanted, begun), network)
        begun = begun if facts else outfit.begun_with(None, wanted)
        is_live = {begun["network"], wanted.network} <= {"", "routed"}  # what is not routed waits for the next start
        _refuse_lost(instance.veid, _waiting(asked, facts is not None, is_live), save)
        _check_host(wanted, asked)
        now = _take(instance, init, before, begun, asked, undo) if init else begun
        if {*quota.WORDS} & asked.get("limits", {}).keys():
            _limit_disk(instance, begun["limits"] if facts else before.limits, now["limits"], wanted.account_only, undo)
        if asked.keys() & {*_LIVE_OF_NETWORK} and (is_live or not facts):
            now, facts = _reconnect(instance, init, words, known, wanted if save else before, now, undo)
        if init and facts and (now != begun or facts != init[0]):
            undo.callback(instance.state.write_facts, instance.veid, init[0])
            _note(instance, facts, now)
        if save:
            instance.save(wanted)
        undo.pop_all()
        if init and facts and is_live:
            _let_go(instance, facts, init[1], now)
        untold = _tell(instance.veid, init[1], _told(init[0], begun), _told(facts, now)) if init and facts else []
        if init and is_live:  # it has these; its conf file may be without what was not saved before
            asked = {name: value for name, value in asked.items() if name not in _LIVE_OF_NETWORK}
        return sorted([*_late(now, wanted, asked), *lost, *untold])


def _known(before: Config, begun: Mapping[str, Any], facts: Facts | None) -> dict[str, set[str]]:
    """What words may be taken from each list: what is kept there, and what the running VE has."""
    known = {name: {*vars(before)[name], *begun[name]} for name in _LISTS}
    known["addresses"] |= {word for word, _ in addressed.given(facts).addresses}
    return known


def _refuse_unsaved(wanted: Config, live: Config, network: str | None) -> None:
    """InvalidValue for what goes together only with the addresses that the running VE has, and that are not kept."""
    try:
        attachment.check(wanted, network)
    except InvalidValue as error:
        attachment.check(live, network)
        what, address = str(error).rpartition(": ")[0], live.addresses[0]
        hint = f"ve set {wanted.veid} --ip-add {address} --save"
        raise InvalidValue(f"{what} for good: its address {address} is not saved", hint) from None


def _check_host(wanted: Config, asked: Mapping[str, Any]) -> None:
    """Has this host what is asked for?"""
    mounts.check_given(asked.get("mounts", ()), asked.get("devices", ()))
    if asked.keys() & {"limits", "account_only"}:
        require(wanted)
        hardware.refuse_beyond(limits.resolve(limits.merged({}, asked.get("limits", {})), account_only=True))


def _with_lists(
    veid: int, asked: dict[str, Any], before: Mapping[str, Any], known: Mapping[str, Container[str]]
) -> dict[str, Any]:
    """The same, with whole lists in place of the words that add and remove some; known: what may be removed."""
    found = {name: value for name, value in asked.items() if name not in _WORDS_OF_LISTS}
    for name, (add, remove) in _LISTS.items():
        if not asked.keys() & {add, remove}:
            continue
        more, less = asked.get(add, ()), asked.get(remove, ())
        kept = [] if less == ("all",) else asked.get(name, before[name])
        for word in () if less == ("all",) else less:
            if word not in known[name]:
                raise InvalidValue(f"cannot take {word} from {veid}: it was not given", f"ve status {veid} has {name}")
        found[name] = (*(word for word in kept if word not in less), *more)
    return found


def _with_live(wanted: Config, begun: dict[str, Any]) -> Config:
    """What a running VE is to have, beside what is kept: its ports lead to the addresses that it has by now."""
    return replace(wanted, addresses=tuple(dict.fromkeys([*wanted.addresses, *begun["addresses"]])))


def _reconnect(
    instance: Instance,
    init: tuple[Facts, int] | None,
    words: dict[str, Any],
    known: Mapping[str, Container[str]],
    kept: Config,
    now: dict[str, Any],
    undo: Undo,
) -> tuple[dict[str, Any], Facts | None]:
    """Claim what is kept, and give a running VE the network that was asked for; what it has, and its facts, then.

    What it is to lose it has still: _let_go() takes that, when nothing can be refused any more.
    """
    state, veid = instance.state, instance.veid
    if init:
        leading.refuse_elsewhere(state, veid)
    lists = _with_lists(veid, words, now, known)
    asked = tuple(dict.fromkeys(lists.get("addresses", now["addresses"]))) if init else ()
    addresses.check(asked)
    if not instance.ephemeral and "addresses" in lists:
        undo.callback(claims.claim, state, veid, claims.Claimant(state, veid).claims())
        granting.claim(state, veid, list(dict.fromkeys([*kept.addresses, *asked])), known["addresses"])
    if not init:
        return now, None
    facts, pidfd = init
    wanted = now | {name: lists[name] for name in _LIVE_OF_NETWORK if name in lists} | {"addresses": asked}
    wanted["publish"] = list(dict.fromkeys(wanted["publish"]))
    ports.check(wanted["publish"])
    if asked or addressed.given(facts).held():
        network.have_rules()
    had = granting.as_it_is(addressed.given(facts), pidfd)
    given = granting.widen(state, veid, had, facts.pid, pidfd, asked, undo, ephemeral=instance.ephemeral)
    _lead(instance, had, given, now, wanted, undo)
    return wanted | {name: list(wanted[name]) for name in (*_LISTS, *_NAMES)}, _with(facts, given)


def _lead(
    instance: Instance,
    had: Given,
    given: Given,
    now: Mapping[str, Any],
    wanted: Mapping[str, Any],
    undo: Undo,
) -> None:
    """Let names and ports lead to the addresses that are asked for, and its interface be as fast."""
    veid, asked, called = instance.veid, wanted["addresses"], [now["hostname"], instance.config.name]
    undo.callback(names.tell_others, now["addresses"], had.held(), called)
    names.tell_others(asked, given.only(asked).held(), called)
    before = now["publish"] if had.held() else []
    undo.callback(network.publish, veid, had, before, wanted["publish"])
    network.publish(veid, given.only(asked), wanted["publish"], before)
    slow = now if given.interface == had.interface else {}  # a new interface is as fast as it comes
    undo.callback(network.limit, veid, given, slow, wanted)
    network.limit(veid, given, wanted, slow)


def _with(facts: Facts, given: Given) -> Facts:
    """Those of a VE that has these addresses."""
    return facts._replace(extra={**facts.extra, **given.noted()})


def _told(facts: Facts, begun: Mapping[str, Any]) -> names.Told:
    held = addressed.given(facts).only(begun["addresses"]).held()
    return names.Told(held, begun["hostname"], *(begun[name] for name in _NAMES))


def _tell(veid: int, pidfd: int, before: names.Told, now: names.Told) -> list[str]:
    """Write into a running VE what has changed of its names; if that cannot be, why, and its next start does it."""
    if wanted := names.rewritten(before, now):
        try:
            files.tell_names(files.Place(veid, pidfd=pidfd), wanted)
        except (Error, OSError) as error:
            hint = f"\nhint: {error.hint}" if isinstance(error, Error) and error.hint else ""
            return [f"names: {error}{hint}"]
    return []


def _let_go(instance: Instance, facts: Facts, pidfd: int, now: dict[str, Any]) -> None:
    """Take from a running VE what it has and is not to have any more: a killed one's facts say all that it had."""
    has = addressed.given(facts)
    kept = has.only(now["addresses"])
    if kept != has:
        granting.narrow(has, kept, pidfd)
        _note(instance, _with(facts, kept), now)


def _changed(before: Config, asked: Mapping[str, Any]) -> Config:
    """Limits are added to those that there are; all else takes the place of what there was."""
    asked = dict(asked)
    if "limits" in asked:
        asked["limits"] = limits.merged(before.limits, asked["limits"])
    return replace(before, **asked)


def _waiting(asked: Mapping[str, Any], running: bool, is_live: bool) -> list[str]:
    """What only a start gives to the VE, as it was asked for."""
    if not running:
        return sorted({*asked} - {"limits"} | {*asked.get("limits", ())})
    at_start = [name for name in asked.get("limits", ()) if limits.canonical(name) in _AT_START]
    live = {"hostname", "limits", "account_only", *(_LIVE_OF_NETWORK if is_live else ())}
    return sorted([*(asked.keys() - live), *at_start])


def _late(begun: dict[str, Any], wanted: Config, asked: Mapping[str, Any]) -> list[str]:
    """What the VE has not got yet of what was asked for."""
    late = describe.pending(begun, wanted).keys() & asked.keys() - {"limits"}
    of_limits = [name for name in asked.get("limits", ()) if begun["limits"].get(name) != wanted.limits.get(name)]
    return [*late, *of_limits]


def _refuse_lost(veid: int, waiting: list[str], save: bool) -> None:
    if waiting and not save:
        why = "only its conf file holds that"
        raise InvalidValue(f"cannot set {', '.join(waiting)} of {veid} without --save: {why}", hint="add --save")


def _take(
    instance: Instance,
    init: tuple[Facts, int],
    before: Config,
    begun: dict[str, Any],
    asked: Mapping[str, Any],
    undo: Undo,
) -> dict[str, Any]:
    """Give a running VE what it can have now; what it has from now on."""
    now, facts = dict(begun), init[0]
    if "hostname" in asked:
        now["hostname"] = outfit.hostname(replace(before, hostname=asked["hostname"]))
        describe.set_hostname(instance.veid, init, now["hostname"])
        undo.callback(describe.set_hostname, instance.veid, init, begun["hostname"])
        if begun["network"] in ("", "routed") and names.shared_by(begun["addresses"]):
            leading.refuse_elsewhere(instance.state, instance.veid)
            wishes, held = begun["addresses"], _told(facts, begun).addresses
            undo.callback(names.tell_others, wishes, held, [begun["hostname"], before.name])
            names.tell_others(wishes, held, [now["hostname"], before.name])
    if "limits" in asked:
        live = {name: text for name, text in asked["limits"].items() if limits.canonical(name) not in _AT_START}
        now["limits"] = limits.merged(begun["limits"], live)
        _limit(instance, facts, begun, now, asked.get("account_only", before.account_only), undo)
    return now


def _limit(
    instance: Instance, facts: Facts, begun: dict[str, Any], now: dict[str, Any], account_only: bool, undo: Undo
) -> None:
    """Give a running VE the limits that have changed."""
    old, new = (limits.resolve(each["limits"], account_only) for each in (begun, now))
    disk = old.on_disk or new.on_disk
    before, after = (outfit.cgroup_files(each, instance.state.path, disk=disk) for each in (old, new))
    after = {**dict.fromkeys(before, limits.WEIGHT), **after}  # what is not there any more is a weight
    changed = [name for name in after if after[name] != before.get(name)]
    undo.callback(enforce.apply, instance.cgroup, {name: before[name] for name in changed if name in before}, True)
    enforce.apply(instance.cgroup, {name: after[name] for name in changed}, account_only)
    for name, set_limit in _IN_NAMESPACES.items():
        if new.limit(name) != old.limit(name):
            undo.callback(set_limit, facts, old.limit(name))
            set_limit(facts, new.limit(name))


def _set_shmpages(facts: Facts, pages: int) -> None:
    sharedmemory.limit(facts.pid, facts.base, pages)


def _set_ptys(facts: Facts, most: int) -> None:
    try:
        ptys.limit(facts.pid, facts.base, outfit.devpts(most, facts.base))
    except OSError as error:
        raise Error(f"cannot set numpty: its /dev/pts cannot be changed from outside: {error.strerror}") from error


_IN_NAMESPACES: dict[str, Callable[[Facts, int], None]] = {"shmpages": _set_shmpages, "numpty": _set_ptys}


def _limit_disk(
    instance: Instance,
    old: Mapping[str, str],
    new: Mapping[str, str],
    account_only: bool,
    undo: Undo,
) -> None:
    """Let its private area hold what the new limits allow, running or stopped."""
    private, running = instance.state.private(instance.veid), instance.pid is not None
    if not os.path.isdir(private):
        why = "its changes are kept in memory, and limited from the start"
        raise NotSupported(f"cannot set the disk limits of {instance.veid}: {why}", "ve run --disk 1G --inodes 10000")
    here = hardware.disk(instance.state.path)  # asked of private it is what its project may have
    hardware.refuse_disk(limits.resolve(new, account_only=True), here)
    if looparea.exists(private):
        _resize(instance, old, new, undo)
        return
    undo.callback(quota.apply, private, limits.resolve(old, account_only=True), True, running)
    quota.apply(private, limits.resolve(new, account_only), account_only, running)


def _resize(instance: Instance, old: Mapping[str, str], new: Mapping[str, str], undo: Undo) -> None:
    """Of a loop area, which is of the size of --disk, for good."""
    before, after = (limits.resolve(each, account_only=True).others for each in (old, new))
    what, private = f"cannot resize the loop area of {instance.veid}", instance.state.private(instance.veid)
    if before.get("inodes") != after.get("inodes"):
        raise NotSupported(f"{what}: it has the inodes that it was made with", "ve cp -a moves files to another VE")
    if instance.status is not Status.STOPPED:
        raise InUse(f"{what}: it is in use", f"ve stop {instance.veid}; ve set {instance.veid} --disk SIZE --save")
    looparea.resize(private, after.get("disk", UNLIMITED))
    undo.callback(looparea.resize, private, before["disk"])


def _note(instance: Instance, facts: Facts, now: dict[str, Any]) -> None:
    """That the running VE has it."""
    import json  # only who changes a running VE pays for it

    noted = facts._replace(extra={**facts.extra, "asked": json.dumps(now)})
    instance.state.write_facts(instance.veid, noted)
