"""The addresses of VEs: claimed, given, and taken again, while a VE is started or runs.

An address is a VE's by two things: a claim (ve/claims.py) for what was asked for as such, and the lease that is its
host route (ve/leases.py).  Who takes either looks for the other afterwards, and who has leased one of a pool looks
whether there still is that pool; so of two who meet one always gives way, and it is never both who keep it.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from ve import claims, forwarding, leading, leases, leasing, pool, poolhosts, publishing, venet, wire
from ve.addressed import Given
from ve.addresses import Address, Wish
from ve.errors import InUse, InvalidValue

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterable, Sequence

    from ve.state import State

# --- claims -------------------------------------------------------------------------------------------------------


def claim(state: State, veid: int, wishes: Sequence[str], had: Container[str] = ()) -> None:
    """Have the addresses that are asked for as such, and of the sticky ones those that it has.

    InUse names who has one, or what the host does with it; NotFound if there is no such pool, NotSupported if the host
    has no such family; InvalidValue for what a pool gives to nobody.  Then nothing has changed.  Under the VE's lock.
    Of what it had before the pool may be gone: it keeps what it was given.
    """
    asked = [Wish.parse(text) for text in wishes]
    claimant = claims.Claimant(state, veid)
    before = claimant.claims()
    if not asked and not before:
        return
    _refuse_lacking(veid, [wish for text, wish in zip(wishes, asked, strict=True) if text not in had])
    wanted = [wish.address for wish in asked if wish.address]
    new = [address for address in wanted if not claimant.has(address)]
    for address in wanted:
        leasing.refuse_taken(claimant, address)
    for address in new:
        if why := next(filter(None, (each.refusal(address) for each in pool.pools())), ""):
            raise InvalidValue(f"cannot give {address} to {veid}: {why}")
    claims.claim(state, veid, wanted + _kept(claimant, asked))
    with contextlib.ExitStack() as undo:
        undo.callback(claims.claim, state, veid, before)
        for address in new:
            _await_way(claimant, address)
        undo.pop_all()


def _refuse_lacking(veid: int, asked: Iterable[Wish]) -> None:
    for wish in asked:
        cannot = f"cannot give {wish} to {veid}"
        for version in (wish.address.version,) if wish.address else pool.families(wish, cannot):
            venet.require(version, cannot)


def _await_way(claimant: claims.Claimant, address: Address) -> None:
    """Who leased it while we claimed it gives it back; InUse if that was before, so that it does not."""
    deadline = time.monotonic() + leasing.DYING
    while (holder := leases.holder(address)) and not leasing.is_own(claimant, holder):
        if time.monotonic() > deadline:
            leasing.refuse_taken(claimant, address)
        time.sleep(0.01)


def _kept(claimant: claims.Claimant, asked: Iterable[Wish]) -> list[Address]:
    """What it has claimed of the pools that it wants a sticky address of, unless another VE has it by now.

    So it is with a copy of a state dir, as the original keeps its addresses.
    """
    claimed = claimant.claims()
    sticky = [wish for wish in asked if wish.sticky] if claimed else []
    pools = pool.pools() if sticky else []
    return [each for each in claimed if _is_one_of(each, sticky, pools) and leasing.is_free(claimant, each)]


def _is_one_of(address: Address, wishes: Iterable[Wish], pools: Iterable[pool.Pool]) -> bool:
    """Is it of one of these pools that is wished for, and of a family of that?"""
    wanted = {wish.pool for wish in wishes if wish.family in (0, address.version)}
    return any(each.name in wanted and address in each for each in pools)


# --- what a running VE has ----------------------------------------------------------------------------------------


def add(
    state: State,
    veid: int,
    before: Given,
    wishes: Sequence[str],
    pidfd: int,
    *,
    ephemeral: bool,
    going: Collection[Address] = (),
) -> Given:
    """Give it these too; of none that it was refused, or all.

    going: what it has by words that it is to lose, and so may have by another.
    """
    if not wishes:
        return before
    now, claimant = before, claims.Claimant(state, veid)
    with contextlib.ExitStack() as undo:
        if not ephemeral:
            undo.callback(claims.claim, state, veid, claimant.claims())
        neighbours = []
        for text in wishes:
            found, wanted = [], Wish.parse(text)
            if wanted.address in going:
                now = now._replace(addresses=(*now.addresses, (text, (wanted,))))
                continue
            for wish, address, link in leasing.leased(claimant, before.interface, wanted, ephemeral=ephemeral):
                undo.callback(_give_back, before.interface, address)
                publishing.forget_dead(address)  # what led to who came and went while we leased it
                poolhosts.forget(address)
                found.append(wish)
                neighbours += [(link, address)] if link else []
            now = now._replace(addresses=(*now.addresses, (text, tuple(found))))
        leading.note(state, veid, now)
        new = [each for each in now.all() if each not in before.all()]
        undo.callback(venet.remove, pidfd, new)
        venet.add(pidfd, before.interface, new)
        for link, address in neighbours:
            _answer(link, address)
        undo.pop_all()
    return now


def _answer(link: str, address: Address) -> None:
    """For a VE, where its neighbours on this link ask for it."""
    forwarding.answer_on(link, address.version, f"cannot answer for {address} on {link}")
    wire.proxy(link, address)
    wire.announce(link, address)


def _give_back(interface: str, address: Address) -> None:
    venet.give_back(interface, address)
    leading.answer_no_more(address)


def as_it_is(known: Given, pidfd: int) -> Given:
    """What the kernel says that a running VE has of this; what it has besides, which nobody knows of, is taken from it.

    A change that was killed leaves more than it has noted, or less, or something that leads there still.
    """
    held = leases.of(known.interface)
    if not held and not leases.interface(known.interface):
        return Given()
    true = known.only([text for text, given in known.addresses if held.issuperset(each.address for each in given)])
    strays = tuple(Wish(address, address.max_prefixlen) for address in held.difference(true.held()))
    narrow(known._replace(addresses=(*known.addresses, ("", strays))), true, pidfd)
    return true


def widen(
    state: State,
    veid: int,
    before: Given,
    pid: int,
    pidfd: int,
    wishes: Sequence[str],
    undo: contextlib.ExitStack,
    *,
    ephemeral: bool,
) -> Given:
    """Let a running VE have these besides what it has, which narrow() takes from it; what it has then.

    InUse if its root has made something else of its interface.
    """
    if not before.interface and wishes:
        undo.callback(leading.disconnect, state, veid)
        leading.disconnect(state, veid)  # what a killed change has left
        before = linked(state, veid, pidfd, pid)
    had = [text for text, _ in before.addresses]
    going = {*before.held()} - {*before.only(wishes).held()}
    more = [text for text in wishes if text not in had]
    try:
        after = add(state, veid, before, more, pidfd, ephemeral=ephemeral, going=going)
    except venet.Refused as error:
        why = f"its {venet.INSIDE} is not as it was given ({error.strerror})"
        raise InUse(f"cannot give {', '.join(more)} to {veid}: {why}", f"ve restart {veid}") from error
    undo.callback(narrow, after, before, pidfd)
    return after


def narrow(has: Given, to: Given, pidfd: int) -> None:
    """Take from it what it has besides; what leads to an address goes before it does."""
    gone = [each for each in has.all() if each not in to.all()]
    if not gone:
        return
    lost = [each.address for each in gone if each.address and each.address not in to.held()]
    for address in lost:
        publishing.forget(address, has.interface)
    venet.remove(pidfd, gone)
    with contextlib.suppress(OSError):  # of a VE whose root has taken its network apart
        venet.add(pidfd, has.interface, to.all())  # with the first of a network the kernel takes all others of it
    for address in lost:
        _give_back(has.interface, address)


def linked(state: State, veid: int, pidfd: int, pid: int) -> Given:
    with open(f"/proc/{pid}/ns/net") as theirs:
        linked = Given(venet.connect(pidfd, theirs.fileno(), state.tag, veid, state.path))
    leading.note(state, veid, linked)
    return linked
