"""Pools: networks of this host, each under a name, whose addresses VEs are given.

They are the host's, as its routes are, whatever state dir a VE is in: /var/lib/ve/network/<POOL>.toml, or in the
directory that VE_NETWORK_DIR names.  Which of its addresses are taken no file says: see ve/claims.py and ve/leases.py.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from math import gcd

from ve import lock
from ve.addresses import Address, Network, Wish, network
from ve.errors import SPENT, BrokenConfig, Exists, InvalidValue, NotFound, nearest
from ve.netdir import directory
from ve.tomlfile import Broken, refuse_unknown, table
from ve.veid import check_name
from ve.wholefile import create_whole, read_regular, remove_all_asides, sync, writing

VERSION = 1
_KEYS = ("networks", "nat", "hosts")
_SIZE_MAX = 1 << 20  # bytes
PATIENCE = 10.0  # seconds to wait for who has the claims locked, and may be waiting for a disk
_HINT = "run as root, or set VE_NETWORK_DIR to another directory, the same one for every state dir of this host"


@dataclass(frozen=True)
class Pool:
    """A name, its networks, and how they reach out."""

    name: str
    networks: tuple[Network, ...]
    nat: bool = False  # what leaves the host from there has the host's address
    hosts: bool = False  # its VEs find each other by name

    def __contains__(self, address: Address) -> bool:
        return any(address in network for network in self.networks if network.version == address.version)

    def refusal(self, address: Address) -> str:
        """Why it gives this one to nobody, though it is in one of its networks; empty if it does, or is not."""
        for each in self.networks:
            if address == each.network_address:
                return f"it is the address of the network {each} of pool {self.name} itself"
            if address == each.broadcast_address and each.version == 4:
                return f"it is the broadcast address of {each} of pool {self.name}"
        return ""

    @cached_property
    def versions(self) -> tuple[int, ...]:
        return tuple(sorted({network.version for network in self.networks}))

    def size(self, version: int) -> int:
        return sum(len(_usable(network)) for network in self.networks if network.version == version)

    def addresses(self, version: int, seed: int) -> Iterator[Address]:
        """Each address of this family once, in an order that few other seeds, of 32 bits, give.

        By steps that have no factor in common with their number: so of a pool that is half full half are free whatever
        was taken before, where neighbours would have neighbours.
        """
        spans = [_usable(network) for network in self.networks if network.version == version]
        size = sum(map(len, spans))
        step = next(step for step in count(1 + seed // 65521) if gcd(step, max(1, size)) == 1)
        for offset in range(size):
            index = (seed + offset * step) % size
            for span in spans:
                if index < len(span):
                    yield IPv4Address(span[index]) if version == 4 else IPv6Address(span[index])
                    break
                index -= len(span)


def _usable(network: Network) -> range:
    """Without the network's own (IPv6: that of any router) and, of IPv4, the broadcast address; 2**32 at most."""
    first, last = int(network.network_address) + 1, int(network.broadcast_address) - (network.version == 4)
    return range(first, min(last + 1, first + (1 << 32)))


# --- the pools of this host ---------------------------------------------------------------------------------------


def pools() -> list[Pool]:
    """All of them, by name; BrokenConfig names a file that is none."""
    return [pool for name in names() if (pool := _find(name))]


def names() -> list[str]:
    """Those of all files that are to be pools."""
    with contextlib.suppress(FileNotFoundError):
        found = [name.removesuffix(".toml") for name in os.listdir(directory()) if name.endswith(".toml")]
        return sorted(filter(_can_be, found))
    return []


def _can_be(name: str) -> bool:
    """Can there be a pool of this name?  Other files are somebody else's."""
    with contextlib.suppress(InvalidValue):
        return bool(_path(name))
    return False


def get(name: str) -> Pool:
    """NotFound, BrokenConfig."""
    if pool := _find(name):
        return pool
    known = [pool.name for pool in pools()]
    hint = (
        (nearest(name, known) or "ve network list shows all")
        if known
        else f"ve network add {name} --cidr 10.9.0.0/24 --nat"
    )
    raise NotFound(f"cannot find pool {name}: there is none", hint)


def _find(name: str) -> Pool | None:
    """None if there is none of this name, or none any more."""
    path = _path(name)
    try:
        data = read_regular(path, _SIZE_MAX)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in SPENT:
            raise
        raise BrokenConfig(f"cannot read {path}: {error.strerror}") from error
    return _parse(name, path, data)


def families(wish: Wish, cannot: str) -> tuple[int, ...]:
    """Those of which it is to get an address of its pool.  InvalidValue if that lacks the one; NotFound."""
    versions = get(wish.pool).versions
    if wish.family and wish.family not in versions:
        raise InvalidValue(f"{cannot}: pool {wish.pool} has no IPv{wish.family}", f"ve network show {wish.pool}")
    return (wish.family,) if wish.family else versions


def exists(name: str) -> bool:
    return os.path.exists(_path(name))


def check(pool: Pool) -> None:
    """Exists if there is one of this name, InvalidValue if its networks are none, or another's too."""
    check_name(pool.name, "pool name")
    if pool.name in ("sticky", "auto"):
        raise InvalidValue(f"cannot add pool {pool.name}: that word means another thing", "choose another name")
    if not pool.networks:
        raise InvalidValue(f"cannot add pool {pool.name}: it has no network", "--cidr 10.9.0.0/24")
    if os.path.lexists(_path(pool.name)):
        raise Exists(f"cannot add pool {pool.name}: it exists", f"ve network remove {pool.name}")
    _refuse_overlap(pool)


def add(pool: Pool) -> None:
    """As check; then there is this pool."""
    with alone(make=True):
        remove_all_asides(directory())
        check(pool)
        create_whole(_path(pool.name), _dump(pool), 0o644)


def remove(name: str) -> Pool:
    """It, as it was; NotFound.  The caller has seen that nobody uses it."""
    with alone():
        pool = get(name)
        remove_all_asides(directory())
        os.unlink(_path(name))
        sync(directory())
    return pool


def _refuse_overlap(pool: Pool) -> None:
    for index, each in enumerate(pool.networks):
        others = [(pool.name, other) for other in pool.networks[:index]]
        others += [(other.name, network) for other in pools() if other.name != pool.name for network in other.networks]
        for name, other in others:
            if each.version == other.version and each.overlaps(other):
                raise InvalidValue(f"cannot add pool {pool.name}: {each} overlaps {other} of pool {name}")


def _path(name: str) -> str:
    return os.path.join(directory(), f"{check_name(name, 'pool name')}.toml")


def _dump(pool: Pool) -> bytes:
    import tomli_w  # only who writes pays for it

    found = {"version": VERSION, "networks": [str(network) for network in pool.networks]}
    return tomli_w.dumps(found | {key: True for key in ("nat", "hosts") if getattr(pool, key)}).encode()


def _parse(name: str, path: str, data: bytes) -> Pool:
    try:
        found = table(data, VERSION)
        refuse_unknown(found, _KEYS)
        if "networks" not in found:
            raise Broken("key networks: is missing")
        return Pool(name, _networks(found.pop("networks")), **{key: _switch(key, found[key]) for key in found})
    except Broken as error:
        raise error.of(path, data) from None


def _networks(raw: object) -> tuple[Network, ...]:
    if type(raw) is not list or not raw or not all(isinstance(each, str) for each in raw):
        raise Broken("key networks: must be an array of strings", at=("networks",))
    found = []
    for index, each in enumerate(raw):
        try:
            found.append(network(each))
        except InvalidValue as error:
            where = ("networks", re.escape(each))
            raise Broken(f"key networks[{index}]: {error}", error.hint, where) from None
    return tuple(found)


def _switch(key: str, raw: object) -> bool:
    if type(raw) is not bool:
        raise Broken(f"key {key}: must be true or false", at=(key,))
    return raw


@contextlib.contextmanager
def alone(*, make: bool = False) -> Iterator[None]:
    """Hold the pools and claims of this host alone; Locked after ten seconds.  Without make, they need not be there."""
    with writing(f"the networks in {directory()}", _HINT):
        if make:
            os.makedirs(os.path.join(directory(), "address"), 0o755, exist_ok=True)
        elif not os.path.isdir(directory()):
            yield
            return
        fd = lock.acquire(os.path.join(directory(), "lock"), "the networks of this host", PATIENCE)
        with lock.released(fd):
            yield
