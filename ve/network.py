"""The network of a VE with addresses: what a start gives it, what changes while it runs, and what its end takes back.

An address is a VE's by two things: a claim (ve/claims.py) for what was asked for as such, and the lease that is its
host route (ve/leases.py).  Who takes either looks for the other afterwards, and who has leased one of a pool looks
whether there still is that pool; so of two who meet one always gives way, and it is never both who keep it.
"""

import contextlib
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from ve import (
    bandwidth,
    bridgeports,
    claims,
    firewall,
    forwarding,
    leases,
    linknames,
    pool,
    poolhosts,
    publishing,
    rates,
    venet,
    wire,
)
from ve.addresses import Address, Wish
from ve.errors import InUse, InvalidValue
from ve.facts import Facts, lives
from ve.ports import port
from ve.state import State

DYING = 2.0  # seconds within which the kernel takes back the leases of a network namespace that has no process any more
_MANY = 32  # refusals after which it is cheaper to ask for all leases of the host than for one more


@dataclass(frozen=True)
class Given:
    """What a running VE has: its interface on the host, and the addresses that each wish has got it."""

    interface: str = ""
    addresses: tuple[tuple[str, tuple[Wish, ...]], ...] = ()

    def all(self) -> list[Wish]:
        return [each for _, given in self.addresses for each in given]

    def held(self) -> list[Address]:
        """The same, without the lengths of their networks."""
        return [each.address for each in self.all() if each.address]

    def noted(self) -> dict[str, str]:
        """As facts keep it."""
        if self == Given():
            return {}
        import json  # only a VE with a network pays for it

        table = {wish: list(map(str, given)) for wish, given in self.addresses}
        return {"interface": self.interface, "addresses": json.dumps(table)}


def given(facts: Facts | None) -> Given:
    """What the facts of a running VE say."""
    if not facts or "interface" not in facts.extra:
        return Given()
    import json

    table = json.loads(facts.extra["addresses"])
    addresses = tuple((wish, tuple(map(Wish.parse, each))) for wish, each in table.items())
    return Given(facts.extra["interface"], addresses)


def addresses(facts: Facts | None, wishes: Sequence[str]) -> list[str]:
    """What `ve list` says: those of a VE that runs, else those that it was asked to have."""
    if facts:
        return [str(each) for each in given(facts).all()]
    return [text for text in wishes if Wish.parse(text).address]


# --- claims -------------------------------------------------------------------------------------------------------


def claim(state: State, veid: int, wishes: Sequence[str]) -> None:
    """Have the addresses that are asked for as such, and of the sticky ones those that it has.

    InUse names who has one, or what the host does with it; NotFound if there is no such pool, NotSupported if the host
    has no such family; InvalidValue for what a pool gives to nobody.  Then nothing has changed.  Under the VE's lock.
    """
    asked = [Wish.parse(text) for text in wishes]
    claimant = claims.Claimant(state, veid)
    before = claimant.claims()
    if not asked and not before:
        return
    _refuse_lacking(veid, asked)
    wanted = [wish.address for wish in asked if wish.address]
    new = [address for address in wanted if not claimant.has(address)]
    for address in wanted:
        _refuse_taken(claimant, address)
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
        versions = (wish.address.version,) if wish.address else pool.get(wish.pool).versions
        for version in versions:
            venet.require(version, f"cannot give {wish} to {veid}")


def _refuse_taken(claimant: claims.Claimant, address: Address) -> None:
    """InUse if another VE has this address, or this host itself."""
    cannot = f"cannot give {address} to {claimant.veid}"
    claims.refuse_claimed(claimant, address)
    holder, use = leases.look(address)
    if holder and not _is_own(claimant, holder):
        raise InUse(f"{cannot}: {holder.named(claimant.state.path)} has it", claims.HINT)
    if use:
        raise InUse(f"{cannot}: {use}", "choose another address")


def _await_way(claimant: claims.Claimant, address: Address) -> None:
    """Who leased it while we claimed it gives it back; InUse if that was before, so that it does not."""
    deadline = time.monotonic() + DYING
    while (holder := leases.holder(address)) and not _is_own(claimant, holder):
        if time.monotonic() > deadline:
            _refuse_taken(claimant, address)
        time.sleep(0.01)


def _is_own(claimant: claims.Claimant, holder: leases.Holder) -> bool:
    return holder.name == linknames.alternative_name(claimant.state.tag, claimant.veid)


def _kept(claimant: claims.Claimant, asked: Iterable[Wish]) -> list[Address]:
    """What it has claimed of the pools that it wants a sticky address of, unless another VE has it by now.

    So it is with a copy of a state dir, as the original keeps its addresses.
    """
    claimed = claimant.claims()
    pools = [pool.get(wish.pool) for wish in asked if wish.sticky] if claimed else []
    of_pools = [address for address in claimed if any(address in each for each in pools)]
    return [address for address in of_pools if _is_free(claimant, address)]


def _is_free(claimant: claims.Claimant, address: Address) -> bool:
    with contextlib.suppress(InUse):
        _refuse_taken(claimant, address)
        return True
    return False


# --- a start ------------------------------------------------------------------------------------------------------


def connect(state: State, veid: int, wishes: Sequence[str], pidfd: int, pid: int, *, ephemeral: bool) -> Given:
    """Give a VE that is being started its interface and its addresses; disconnect() takes all back.

    InUse names who has an address, or a pool that has none left.
    """
    if not ephemeral:
        claim(state, veid, wishes)
    disconnect(state, veid)  # what a start has left that was killed
    return add(state, veid, _linked(state, veid, pidfd, pid), wishes, pidfd, ephemeral=ephemeral)


def disconnect(state: State, veid: int, had: Callable[[], Given] = Given) -> None:
    """Remove its interface and with it its leases, if there is one: also what a killed start has left.

    had: what is known that it had besides.  What leads to its addresses goes first, so that it never leads to another.
    """
    known = had()
    for address in known.held():
        publishing.forget(address)
    venet.disconnect(state.tag, veid)
    bridgeports.release(linknames.alternative_name(state.tag, veid))
    for address in known.held():
        _answer_no_more(address)


# --- changes ------------------------------------------------------------------------------------------------------


def add(state: State, veid: int, before: Given, wishes: Sequence[str], pidfd: int, *, ephemeral: bool) -> Given:
    """Give it these too; of none that it was refused, or all."""
    now, claimant = before, claims.Claimant(state, veid)
    with contextlib.ExitStack() as undo:
        if not ephemeral:
            undo.callback(claims.claim, state, veid, claimant.claims())
        neighbours = []
        for text in wishes:
            found = []
            for wish, address, link in _leased(claimant, before.interface, Wish.parse(text), ephemeral=ephemeral):
                undo.callback(_give_back, before.interface, address)
                publishing.forget(address)  # what led to who had it before
                poolhosts.forget(address)
                found.append(wish)
                neighbours += [(link, address)] if link else []
            now = replace(now, addresses=(*now.addresses, (text, tuple(found))))
        venet.add(pidfd, before.interface, now.all()[len(before.all()) :])
        for link, address in neighbours:
            forwarding.answer_on(link, address.version, f"cannot answer for {address} on {link}")
            wire.proxy(link, address)
            wire.announce(link, address)
        undo.pop_all()
    return now


def _give_back(interface: str, address: Address) -> None:
    venet.give_back(interface, address)
    _answer_no_more(address)


def _answer_no_more(address: Address) -> None:
    """For an address that no VE has: then the route to it is that of the link that it is on, if it is on one."""
    poolhosts.forget(address, leases.holder)
    if link := wire.uplink(address):
        wire.unproxy(link, address)


def remove(before: Given, wishes: Sequence[str], pidfd: int) -> Given:
    """Take these from it."""
    gone = [each for text, given in before.addresses if text in wishes for each in given]
    venet.remove(pidfd, gone)
    for each in gone:
        if each.address:
            _give_back(before.interface, each.address)
    return replace(before, addresses=tuple(pair for pair in before.addresses if pair[0] not in wishes))


def change(
    state: State,
    veid: int,
    facts: Facts,
    pidfd: int,
    wishes: Sequence[str],
    undo: contextlib.ExitStack,
    *,
    ephemeral: bool,
) -> Given:
    """Let a running VE have what it has of these, and the others too, and nothing else."""
    before = given(facts)
    had = [text for text, _ in before.addresses]
    if not before.interface and wishes:
        before = _linked(state, veid, pidfd, facts.pid)
        undo.callback(disconnect, state, veid)
    more, less = [text for text in wishes if text not in had], [text for text in had if text not in wishes]
    between = add(state, veid, before, more, pidfd, ephemeral=ephemeral)
    undo.callback(remove, between, more, pidfd)
    after = remove(between, less, pidfd)
    undo.callback(add, state, veid, after, less, pidfd, ephemeral=ephemeral)
    return after


def _linked(state: State, veid: int, pidfd: int, pid: int) -> Given:
    with open(f"/proc/{pid}/ns/net") as netns:
        return Given(venet.connect(pidfd, netns.fileno(), state.tag, veid, state.path))


# --- leases -------------------------------------------------------------------------------------------------------


def _leased(
    claimant: claims.Claimant, interface: str, wish: Wish, *, ephemeral: bool
) -> Iterator[tuple[Wish, Address, str | None]]:
    """The addresses that this wish gets it, each with the link that it is on; a lease before the next is looked for."""
    if wish.address:
        yield wish, wish.address, _lease(claimant, interface, wish.address)
        return
    if wish.sticky and ephemeral:
        why = "it is thrown away, and keeps nothing"
        raise InvalidValue(f"cannot give {wish} to {claimant.veid}: {why}", f"{wish}".removesuffix(":sticky"))
    source = pool.get(wish.pool)
    kept = [address for address in claimant.claims() if address in source and claimant.has(address)]
    for version in source.versions:
        venet.require(version, f"cannot give {wish} to {claimant.veid}")
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
            venet.lease(interface, address)
            break
        holder = leases.holder(address)
        if holder and holder.interface == interface:
            raise InUse(f"cannot give {address} to {claimant.veid}: it has that already, by another word")
        if holder and _is_dead(holder):
            venet.cut(holder.interface)
        elif time.monotonic() > deadline:
            _refuse_taken(claimant, address)
            raise InUse(f"cannot give {address} to {claimant.veid}: this host has another route to it", claims.HINT)
        time.sleep(0.01)  # the kernel tells nobody when it has taken a namespace apart
    with contextlib.ExitStack() as undo:
        undo.callback(venet.give_back, interface, address)
        claims.refuse_claimed(claimant, address)
        _refuse_answered(claimant, link, address)
        undo.pop_all()
    return link


def _refuse_answered(claimant: claims.Claimant, link: str | None, address: Address) -> None:
    if link and wire.answers(link, address):
        raise InUse(f"cannot give {address} to {claimant.veid}: a machine on {link} answers for it", claims.HINT)


def _any_of(
    claimant: claims.Claimant, interface: str, source: pool.Pool, version: int, *, sticky: bool
) -> tuple[Address, str | None]:
    """One of a pool that is nobody's, and its link; InUse if none is, not even of VEs that have ended."""
    for address in _candidates(claimant, source, version):
        with contextlib.ExitStack() as undo, contextlib.suppress(InUse, FileExistsError):
            link = wire.uplink(address)
            venet.lease(interface, address)
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
    why = f"all {source.size(version)} of IPv{version} are taken"
    raise InUse(f"cannot lease an address of pool {source.name}: {why}", f"ve network show {source.name} says by whom")


def _candidates(claimant: claims.Claimant, source: pool.Pool, version: int) -> Iterator[Address]:
    """Addresses of a pool that look free, from one on that few others begin at."""
    seed = zlib.crc32(claimant.conf.encode())
    taken: set[Address] = set()
    for count, address in enumerate(source.addresses(version, seed)):
        if count == _MANY:
            taken = {each for each, _ in leases.all_leases()}
        if address not in taken and _is_free(claimant, address):
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


# --- rules, ports, speed ------------------------------------------------------------------------------------------


def have_rules() -> None:
    """The rules that keep every VE to its own addresses; after a boot, what `ve network add --nat` was told as well."""
    bridgeports.ensure()
    if firewall.ensure(lambda: [str(each) for source in pool.pools() if source.nat for each in source.networks]):
        for source in [each for each in pool.pools() if each.nat]:
            forwarding.turn_on(source.versions, contextlib.ExitStack(), f"cannot let pool {source.name} reach out")


def publish(veid: int, given: Given, words: Sequence[str], before: Sequence[str] = ()) -> None:
    """Let these ports of the host lead to it, and those before no more.  InvalidValue, Exists, InUse: as before."""
    addresses = given.held()
    if words and not addresses:
        raise InvalidValue(f"cannot publish {words[0]} of {veid}: it has no address", "--ip")
    wanted, had = set(map(port, words)), set(map(port, before))
    if wanted - had:
        publishing.publish(sorted(wanted - had), addresses, given.interface, f"VE {veid}")
    if had - wanted:
        publishing.unpublish(had - wanted, addresses)


def limit(given: Given, words: Mapping[str, str], before: Mapping[str, str] = MappingProxyType({})) -> None:
    """Let it send and receive as fast, as late and as well as these words say: rate, delay, loss; "" is as it comes."""
    rate, delay, loss = (words[name] for name in ("rate", "delay", "loss"))
    if given.interface and rate != before.get("rate", ""):
        bandwidth.limit(given.interface, rates.rate(rate) if rate else None)
    if given.interface and (delay, loss) != (before.get("delay", ""), before.get("loss", "")):
        bandwidth.impair(given.interface, rates.delay(delay or "0"), rates.loss(loss or "0"))
