"""The network of a VE with addresses: what a start gives it, what changes while it runs, and what its end takes back.

An address is a VE's by two things: a claim (ve/claims.py) for what was asked for as such, and the lease that is its
host route (ve/venet.py).  Who takes either looks for the other afterwards; so of two who meet one always gives way.
"""

import contextlib
import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from ve import bandwidth, claims, firewall, pool, publishing, rates, venet
from ve.addresses import Address, Wish
from ve.errors import InUse, InvalidValue
from ve.facts import Facts
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

    def noted(self) -> dict[str, str]:
        """As facts keep it."""
        if not self.interface:
            return {}
        table = {wish: list(map(str, given)) for wish, given in self.addresses}
        return {"interface": self.interface, "addresses": json.dumps(table)}


def given(facts: Facts | None) -> Given:
    """What the facts of a running VE say."""
    if not facts or "interface" not in facts.extra:
        return Given()
    table = json.loads(facts.extra["addresses"])
    return Given(facts.extra["interface"], tuple((wish, tuple(map(Wish.parse, each))) for wish, each in table.items()))


def addresses(facts: Facts | None, wishes: Sequence[str]) -> list[str]:
    """What `ve list` says: those of a VE that runs, else those that it was asked to have."""
    if facts:
        return [str(each) for each in given(facts).all()]
    return [text for text in wishes if Wish.parse(text).address]


# --- claims -------------------------------------------------------------------------------------------------------


def claim(state: State, veid: int, wishes: Sequence[str]) -> None:
    """Have the addresses that are asked for as such, and of the sticky ones those that it has.

    InUse names who has one.  Under the lock of veid.
    """
    asked = [Wish.parse(text) for text in wishes]
    wanted = [wish.address for wish in asked if wish.address]
    for address in wanted:
        if owner := claims.holder(str(address), claims.Claimant(state, veid)):
            raise InUse(f"cannot give {address} to {veid}: VE {owner.veid} of {owner.state.path} has it")
        _refuse_leased(state, veid, address)
    claims.claim(state, veid, wanted + _kept(state, veid, asked))


def _kept(state: State, veid: int, asked: Iterable[Wish]) -> list[Address]:
    """What it has claimed of the pools that it wants a sticky address of."""
    claimed = [ip_address(text) for text in claims.Claimant(state, veid).claims()]
    pools = [pool.get(wish.pool) for wish in asked if wish.sticky] if claimed else []
    return [address for address in claimed if any(address in each for each in pools)]


def _refuse_leased(state: State, veid: int, address: Address) -> None:
    interface, owner = venet.owner(address)
    if interface and owner != venet.alternative_name(state.tag, veid):
        raise InUse(f"cannot give {address} to {veid}: {_named(interface, owner)} has it", "ve list -o veid,addresses")


def _named(interface: str, owner: str) -> str:
    _, _, veid = owner.rpartition("-")
    return f"VE {veid}" if veid.isdecimal() else f"the interface {interface}"


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
    for each in known.all():
        if each.address:
            publishing.forget(each.address)
    venet.disconnect(state.tag, veid)
    if known.interface:
        bandwidth.release(known.interface)


# --- changes ------------------------------------------------------------------------------------------------------


def add(state: State, veid: int, before: Given, wishes: Sequence[str], pidfd: int, *, ephemeral: bool) -> Given:
    """Give it these too; of none that it was refused, or all."""
    now = before
    with contextlib.ExitStack() as undo:
        for text in wishes:
            found = []
            for wish in _leased(state, veid, before.interface, Wish.parse(text)):
                undo.callback(venet.give_back, before.interface, wish.address)  # type: ignore[arg-type]
                found.append(wish)
            now = replace(now, addresses=(*now.addresses, (text, tuple(found))))
        new = now.all()[len(before.all()) :]
        if not ephemeral:
            _keep_sticky(state, veid, now)
        venet.add(pidfd, before.interface, new)
        undo.pop_all()
    return now


def remove(before: Given, wishes: Sequence[str], pidfd: int) -> Given:
    """Take these from it."""
    gone = [each for text, given in before.addresses if text in wishes for each in given]
    venet.remove(pidfd, gone)
    for each in gone:
        if each.address:
            venet.give_back(before.interface, each.address)
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
        return Given(venet.connect(pidfd, netns.fileno(), state.tag, veid))


def _keep_sticky(state: State, veid: int, now: Given) -> None:
    """Claim the sticky addresses that it has been leased for the first time."""
    wanted = {wish.address for text, given in now.addresses for wish in given if _is_kept(Wish.parse(text))}
    claimed = set(claims.Claimant(state, veid).claims())
    if new := [address for address in wanted if address and str(address) not in claimed]:
        claims.claim(state, veid, [*map(ip_address, claimed), *new])


def _is_kept(wish: Wish) -> bool:
    return wish.sticky or wish.address is not None


def _leased(state: State, veid: int, interface: str, wish: Wish) -> Iterator[Wish]:
    """The addresses that this wish gets it; each is a lease before the next is looked for."""
    if wish.address:
        _lease(veid, interface, wish.address)
        yield wish
        return
    source = pool.get(wish.pool)
    claimant = claims.Claimant(state, veid)
    kept = [address for address in map(ip_address, claimant.claims()) if address in source] if wish.sticky else []
    for version in source.versions:
        own = [address for address in kept if address.version == version]
        if own:
            _lease(veid, interface, own[0])
        address = own[0] if own else _any_of(source, version, interface, claimant)
        yield Wish(address, address.max_prefixlen)


def _lease(veid: int, interface: str, address: Address) -> None:
    """This very address, as soon as a VE that has just ended gives it back."""
    deadline = time.monotonic() + DYING
    while True:
        with contextlib.suppress(FileExistsError):
            venet.lease(interface, address)
            return
        holder, owner = venet.owner(address)
        if holder and time.monotonic() > deadline:
            raise InUse(f"cannot give {address} to {veid}: {_named(holder, owner)} has it", "ve list -o veid,addresses")
        time.sleep(0.01)  # the kernel tells nobody when it has taken a namespace apart


def _any_of(source: pool.Pool, version: int, interface: str, claimant: claims.Claimant) -> Address:
    taken: set[Address] = set()
    refused = 0
    for address in source.addresses(version, zlib.crc32(claimant.conf.encode())):
        if address in taken or claims.holder(str(address), claimant):
            continue
        try:
            venet.lease(interface, address)
        except FileExistsError:
            refused += 1
            taken = {each for each, _ in venet.leases()} if refused == _MANY else taken
            continue
        if not claims.holder(str(address), claimant):
            return address
        venet.give_back(interface, address)
    count = source.size(version)
    why = f"all {count} of IPv{version} are taken"
    raise InUse(f"cannot lease an address of pool {source.name}: {why}", f"ve network show {source.name}")


# --- rules, ports, speed ------------------------------------------------------------------------------------------


def have_rules() -> None:
    """The rules that keep every VE to its own addresses; after a boot, what `ve network add --nat` was told as well."""
    firewall.ensure(lambda: [str(each) for source in pool.pools() if source.nat for each in source.networks])


def publish(veid: int, given: Given, words: Sequence[str], before: Sequence[str] = ()) -> None:
    """Let these ports of the host lead to it, and those before no more.  InvalidValue, Exists, InUse: as before."""
    addresses = [each.address for each in given.all() if each.address]
    if words and not addresses:
        raise InvalidValue(f"cannot publish {words[0]} of {veid}: it has no address", "--ip")
    wanted, had = set(map(port, words)), set(map(port, before))
    if wanted - had:
        publishing.publish(sorted(wanted - had), addresses, given.interface, f"VE {veid}")
    if had - wanted:
        publishing.unpublish(had - wanted, addresses)


def limit(given: Given, word: str, before: str = "") -> None:
    """Let it send and receive as fast as this word says, "" as fast as it goes."""
    if given.interface and word != before:
        bandwidth.limit(given.interface, rates.rate(word) if word else None)
