"""How a VE comes to have an address: the lease of the very one that it wants, or of any of a pool that is free.

Who leases looks for a claim afterwards, and who claims for a lease (ve/network.py); so of two who meet one gives way.
"""

import contextlib
import time
import zlib
from collections.abc import Iterator

from ve import claims, leases, linknames, pool, publishing, venet, wire
from ve.addresses import Address, Wish
from ve.errors import InUse, InvalidValue
from ve.facts import lives
from ve.state import State

DYING = 2.0  # seconds within which the kernel takes back what was in a network namespace without a process
_MANY = 32  # refusals after which it is cheaper to ask for all leases of the host than for one more


def leased(
    claimant: claims.Claimant, interface: str, wish: Wish, *, ephemeral: bool
) -> Iterator[tuple[Wish, Address, str | None]]:
    """The addresses that this wish gets it, each with the link that it is on; a lease before the next is looked for."""
    if wish.address:
        yield wish, wish.address, _lease(claimant, interface, wish.address)
        return
    if wish.sticky and ephemeral:
        why = "it is thrown away, and keeps nothing"
        raise InvalidValue(f"cannot give {wish} to {claimant.veid}: {why}", f"{wish}".removesuffix(":sticky"))
    source, cannot = pool.get(wish.pool), f"cannot give {wish} to {claimant.veid}"
    kept = [address for address in claimant.claims() if address in source and claimant.has(address)]
    for version in pool.families(wish, cannot):
        venet.require(version, cannot)
        own = [address for address in kept if address.version == version] if wish.sticky else []
        if own:
            address, link = own[0], _lease(claimant, interface, own[0])
        else:
            address, link = _any_of(claimant, interface, source, version, sticky=wish.sticky)
        yield Wish(address, address.max_prefixlen), address, link


def _lease(claimant: claims.Claimant, interface: str, address: Address) -> str | None:
    """This very address, as soon as a VE that has just ended, or has leased it while we claimed it, gives it back.

    The link of the host that it is on, if it is on one.  InUse says who has it.
    """
    deadline, link = time.monotonic() + DYING, None
    while True:
        with contextlib.suppress(FileExistsError):
            claims.refuse_claimed(claimant, address)
            link = wire.uplink(address)  # its own route will be the answer from the next line on
            _take(interface, address)
            break
        holder = leases.holder(address)
        if holder and holder.interface == interface:
            raise InUse(f"cannot give {address} to {claimant.veid}: it has that already, by another word")
        if holder and _is_dead(holder):
            venet.cut(holder.interface)
        elif time.monotonic() > deadline:
            refuse_taken(claimant, address)
            raise InUse(f"cannot give {address} to {claimant.veid}: this host has another route to it", claims.HINT)
        time.sleep(0.01)  # the kernel tells nobody when it has taken a namespace apart
    with contextlib.ExitStack() as undo:
        undo.callback(venet.give_back, interface, address)
        claims.refuse_claimed(claimant, address)
        _refuse_answered(claimant, link, address)
        undo.pop_all()
    return link


def _take(interface: str, address: Address) -> None:
    """Lease it, when nothing leads there any more that led to who had it before; FileExistsError if another has it."""
    publishing.forget_dead(address)
    venet.lease(interface, address)


def _refuse_answered(claimant: claims.Claimant, link: str | None, address: Address) -> None:
    if link and wire.answers(link, address):
        raise InUse(f"cannot give {address} to {claimant.veid}: a machine on {link} answers for it", "choose another")


def _any_of(
    claimant: claims.Claimant, interface: str, source: pool.Pool, version: int, *, sticky: bool
) -> tuple[Address, str | None]:
    """One of a pool that is nobody's, and its link; InUse if none is, not even of VEs that have ended."""
    for address in _candidates(claimant, source, version):
        with contextlib.ExitStack() as undo, contextlib.suppress(InUse, FileExistsError):
            link = wire.uplink(address)
            _take(interface, address)
            undo.callback(venet.give_back, interface, address)
            claims.refuse_claimed(claimant, address)
            _refuse_answered(claimant, link, address)
            if not pool.exists(source.name):
                break
            if sticky:
                claims.claim(claimant.state, claimant.veid, [*claimant.claims(), address])
            undo.pop_all()
            return address, link
    pool.get(source.name)
    cannot = f"cannot lease an address of pool {source.name} for {claimant.veid}"
    why = f"none of {source.size(version)} of IPv{version} is free"
    raise InUse(f"{cannot}: {why}", f"ve network show {source.name} says by whom")


def _candidates(claimant: claims.Claimant, source: pool.Pool, version: int) -> Iterator[Address]:
    """Addresses of a pool that look free, from one on that few others begin at."""
    seed = zlib.crc32(claimant.conf.encode())
    taken: set[Address] = set()
    for count, address in enumerate(source.addresses(version, seed)):
        if count == _MANY:
            taken = {each for each, _ in leases.all_leases()}
        if address not in taken and is_free(claimant, address):
            yield address
    for address, holder in leases.all_leases():
        if address.version == version and address in source and _is_dead(holder):
            venet.cut(holder.interface)
            yield address


def _is_dead(holder: leases.Holder) -> bool:
    """Has its VE ended, so that the kernel is about to take back what it had?  No, where we cannot know."""
    if not holder.state_dir or not holder.veid:
        return False
    facts = State(holder.state_dir).read_facts(holder.veid)
    return bool(facts and facts.extra.get("interface") == holder.interface and not lives(facts))


# --- whose it is ---------------------------------------------------------------------------------------------------


def refuse_taken(claimant: claims.Claimant, address: Address) -> None:
    """InUse if another VE has this address, or this host itself."""
    cannot = f"cannot give {address} to {claimant.veid}"
    claims.refuse_claimed(claimant, address)
    holder, use = leases.look(address)
    if holder and not is_own(claimant, holder):
        raise InUse(f"{cannot}: {holder.named(claimant.state.path)} has it", claims.HINT)
    if use:
        raise InUse(f"{cannot}: {use}", "choose another address")


def is_own(claimant: claims.Claimant, holder: leases.Holder) -> bool:
    return holder.name == linknames.alternative_name(claimant.state.tag, claimant.veid)


def is_free(claimant: claims.Claimant, address: Address) -> bool:
    with contextlib.suppress(InUse):
        refuse_taken(claimant, address)
        return True
    return False
