"""The words for addresses: what a VE may be given, and what a pool has.

10.9.0.5  10.9.0.5/24  fd00:9::5          these
auto                                      one of the pool "default" (of each family that it has), while it runs
auto:web  auto:sticky  auto:web:sticky    one of the pool "web"; the same one at each start
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ve.errors import InvalidValue

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_POOL = "default"
_POOL = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}")
_WORDS = "an address such as 10.9.0.5 or fd00:9::5, auto, auto:POOL or auto:POOL:sticky"
_TEST = ipaddress.ip_network("240.0.0.0/4")  # class E, which the kernel does not route


@dataclass(frozen=True)
class Wish:
    """One thing asked for: an address with the length of its network, or (None) one of a pool."""

    address: Address | None = None
    length: int = 0
    pool: str = ""
    sticky: bool = False

    @classmethod
    def parse(cls, text: str) -> Wish:
        """InvalidValue says what is wrong with it."""
        if text == "auto" or text.startswith("auto:"):
            return _of_pool(text)
        address, length = _with_length(text, "address", _WORDS)
        return cls(check_usable(address, text), length)

    def __str__(self) -> str:
        if self.address is None:
            return ":".join(["auto", *([self.pool] * (self.pool != DEFAULT_POOL)), *(["sticky"] * self.sticky)])
        return str(self.address) + (f"/{self.length}" if self.length != self.address.max_prefixlen else "")


def _of_pool(text: str) -> Wish:
    words = text.split(":")[1:]
    sticky = words[-1:] == ["sticky"]
    names = words[:-1] if sticky else words
    if len(names) > 1 or not all(_POOL.fullmatch(name) for name in names):
        raise InvalidValue(f"cannot use address {text!r}: it is not {_WORDS}")
    return Wish(pool=names[0] if names else DEFAULT_POOL, sticky=sticky)


def network(text: str) -> Network:
    """A CIDR of a pool; InvalidValue if it has bits beyond its length, or no room for addresses."""
    address, length = _with_length(text, "network", "one such as 10.9.0.0/24 or fd00:9::/64")
    found = ipaddress.ip_network((address, length), strict=False)
    if found.network_address != address:
        raise InvalidValue(f"cannot use network {text!r}: it has bits beyond /{length}", f"did you mean {found}?")
    check_usable(address, text, "network")
    if "/" not in text or length > address.max_prefixlen - 2:
        raise InvalidValue(f"cannot use network {text!r}: it has no room for addresses", "a pool is a /30 or larger")
    return found


def nameserver(text: str) -> str:
    """An address that may be asked for names: also one on the link."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise InvalidValue(f"cannot use nameserver {text!r}: it is not an address") from None


def check_usable(address: Address, text: str, what: str = "address") -> Address:
    """InvalidValue for what no VE can have, since it has a meaning of its own."""
    for means, is_so in {
        "it is for all, or for none": address.is_unspecified or str(address) == "255.255.255.255",
        "it is a multicast address": address.is_multicast,
        "each VE has a loopback of its own": address.is_loopback,
        "it is for one link alone, and the way to the host is one": address.is_link_local,
        "it is reserved": address in _TEST if address.version == 4 else address.ipv4_mapped is not None,
    }.items():
        if is_so:
            raise InvalidValue(f"cannot use {what} {text!r}: {means}")
    return address


def _with_length(text: str, what: str, expected: str) -> tuple[Address, int]:
    """The parts of ADDRESS[/LENGTH]."""
    word, slash, length = text.partition("/")
    try:
        address = ipaddress.ip_address(word)
        if slash and not re.fullmatch("[0-9]{1,3}", length):
            raise ValueError
        if "%" in word:
            raise ValueError
        number = int(length) if slash else address.max_prefixlen
        if not 0 < number <= address.max_prefixlen:
            raise ValueError
    except ValueError:
        raise InvalidValue(f"cannot use {what} {text!r}: it is not {expected}") from None
    if number == address.max_prefixlen - 1:
        raise InvalidValue(f"cannot use {what} {text!r}: a /{number} has no room for addresses")
    return address, number


def check(words: Sequence[str]) -> None:
    """InvalidValue for one that is none, or that is there twice."""
    wishes = [Wish.parse(word) for word in words]
    for index, wish in enumerate(wishes):
        if any((wish.address, wish.pool) == (other.address, other.pool) for other in wishes[:index]):
            raise InvalidValue(f"cannot use address {words[index]!r}: it is there twice")
