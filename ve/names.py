"""What a start tells a VE with addresses of names: those it is known by, and whom it asks for others."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ve import outfit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ve.addresses import Address
    from ve.model import Config
    from ve.ownfiles import Names
    from ve.pool import Pool

SHOWN = "dev/pool"  # in the VE's root: where it sees the directory of its pool's hosts
_LINK = f"/{SHOWN}/hosts"  # as ve/poolhosts.py calls it


class Told(NamedTuple):
    """What a VE is told of names."""

    addresses: Sequence[Address]
    hostname: str
    nameservers: Sequence[str]
    searchdomains: Sequence[str]


def shared_by(wishes: Sequence[str]) -> Pool | None:
    """The first of its pools whose VEs find each other by name; none of a pool that is none any more."""
    if not wishes:
        return None
    from ve import pool
    from ve.addresses import Wish

    asked = [Wish.parse(text) for text in wishes]
    pools = pool.pools()
    for wish in asked:
        found = [each for each in pools if (wish.address in each if wish.address else wish.pool == each.name)]
        if shared := [each for each in found if each.hosts]:
            return shared[0]
    return None


def binds(config: Config) -> tuple[tuple[str, str], ...]:
    """What of the host such a VE sees: the directory, and where in its root."""
    if not (shared := shared_by(config.addresses)):
        return ()
    from ve import poolhosts

    return ((poolhosts.directory(shared.name), SHOWN),)


def tell_others(wishes: Sequence[str], addresses: Sequence[Address], known: Sequence[str]) -> bool:
    """Let the VEs of its pool know a VE by these names, if they are to; the addresses are what it is leased."""
    shared = shared_by(wishes)
    if shared:
        from ve import leases, poolhosts, resolver

        line = " ".join(resolver.known_as(known))
        own = {address: line for address in addresses if address in shared and line}
        poolhosts.update(shared.name, own, leases.holder)
    return shared is not None


def rewritten(before: Told, now: Told) -> dict[str, str]:
    """What of it a running VE is to be told anew after a change; nothing if nothing, or if it never had an address."""
    from ve import resolver

    found = {}
    if before[:2] != now[:2] and (before.addresses or now.addresses):
        found["hosts"] = "\n".join(resolver.hosts(now.addresses, [now.hostname]))
    if now.addresses and (not before.addresses or before[2:] != now[2:]):
        found["resolv_conf"] = resolver.resolv_conf(now.nameservers, now.searchdomains)
    return found | {"link": _LINK} if found else {}


def wanted(config: Config, addresses: Sequence[Address], boots: bool) -> Names:
    """For init to write; the addresses are those that it has been leased.  Also tells the others of its pool."""
    from ve import resolver

    hostname = outfit.hostname(config)
    shared = tell_others(config.addresses, addresses, [hostname, config.name])
    return {
        "resolv_conf": resolver.resolv_conf(config.nameservers, config.searchdomains),
        "hosts": "\n".join(resolver.hosts(addresses, [hostname])),
        "link": _LINK if shared else "",
        "unmanaged": config.shape.inside if boots else "",
    }
