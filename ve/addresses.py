"""The words for addresses: what a VE may be given, and what a pool has.

10.9.0.5  10.9.0.5/24  fd00:9::5          these
auto                                      one of the pool "default" (of each family that it has), while it runs
auto:web  auto:sticky  auto:web:sticky    one of the pool "web"; the same one at each start
auto:4  auto:web:6  auto:web:6:sticky     of one family alone: no pool has such a name
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
_POOL = r"[A-Za-z_][A-Za-z0-9_.-]{0,62}"
_FAMILIES = {"4": 4, "6": 6}
_WORDS = "an address such as 10.9.0.5 or fd00:9::5, auto, auto:POOL, auto:POOL:4 or auto:POOL:sticky"
# What no VE can have, since it has a meaning of its own.
_SPECIAL = {
    ipaddress.ip_network(words): means
    for means, networks in {
        "it is for all, or for none": ("0.0.0.0/8", "255.255.255.255/32", "::/128"),
        "each VE has a loopback of its own": ("127.0.0.0/8", "::1/128"),
        "it is for one link alone, and the way to the host is one": ("169.254.0.0/16", "fe80::/10"),
        "it is a multicast address": ("224.0.0.0/4", "ff00::/8"),
        "it is reserved": ("240.0.0.0/4", "::ffff:0:0/96"),
    }.items()
    for words in networks
}


@dataclass(frozen=True)
class Wish:
    """One thing asked for: an address with the length of its network, or (None) one of a pool."""

    address: Address | None = None
    length: int = 0
    pool: str = ""
    family: int = 0  # 4 or 6; 0: each that the pool has
    sticky: bool = False

    @classmethod
    def parse(cls, text: str) -> Wish:
        """InvalidValue says what is wrong with it."""
        if text == "auto" or text.startswith("auto:"):
            return _of_pool(text)
        address, length = _with_length(text, "address", _WORDS)
        _refuse_ends(check_usable(address, text), length, text)
        return cls(address, length)

    def __str__(self) -> str:
        if self.address is None:
            pool, family = self.pool if self.pool != DEFAULT_POOL else "", str(self.family or "")
            return ":".join(filter(None, ("auto", pool, family, "sticky" * self.sticky)))
        return str(self.address) + (f"/{self.length}" if self.length != self.address.max_prefixlen else "")


def _refuse_ends(address: Address, length: int, text: str) -> None:
    """One that its own length makes the address of the network itself, or its broadcast address."""
    around = ipaddress.ip_network((address, length), strict=False)
    if length < address.max_prefixlen and address == around.network_address:
        raise InvalidValue(f"cannot use address {text!r}: it is that of the network itself")
    if length < address.max_prefixlen and address.version == 4 and address == around.broadcast_address:
        raise InvalidValue(f"cannot use address {text!r}: it is the broadcast address of {around}")


def _of_pool(text: str) -> Wish:
    names = text.split(":")[1:]
    sticky = names[-1:] == ["sticky"] and bool(names.pop())
    family = _FAMILIES[names.pop()] if names and names[-1] in _FAMILIES else 0
    if len(names) > 1 or not all(re.fullmatch(_POOL, name) and name != "sticky" for name in names):
        raise InvalidValue(f"cannot use address {text!r}: it is not {_WORDS}")
    return Wish(pool=names[0] if names else DEFAULT_POOL, family=family, sticky=sticky)


def network(text: str) -> Network:
    """A CIDR of a pool; InvalidValue if it has bits beyond its length, or no room for addresses."""
    address, length = _with_length(text, "network", "one such as 10.9.0.0/24 or fd00:9::/64")
    found = ipaddress.ip_network((address, length), strict=False)
    if found.network_address != address:
        raise InvalidValue(f"cannot use network {text!r}: it has bits beyond /{length}", f"did you mean {found}?")
    for special, means in _SPECIAL.items():
        if special.version == found.version and special.overlaps(found):
            within = "" if special.supernet_of(found) else f"{special} is in it: "  # type: ignore[arg-type]
            raise InvalidValue(f"cannot use network {text!r}: {within}{means}")
    if "/" not in text:
        raise InvalidValue(
            f"cannot use network {text!r}: it has no length", f"{text}/{24 if found.version == 4 else 64}"
        )
    if length > address.max_prefixlen - 2:
        raise InvalidValue(f"cannot use network {text!r}: it has no room for addresses", "a pool is a /30 or larger")
    return found


def plain(text: str, what: str) -> Address:
    """One of somebody else's, what that is: without a length, and also one on the link."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise InvalidValue(f"cannot use {what} {text!r}: it is not an address") from None


def check_gateways(words: Sequence[str]) -> None:
    """InvalidValue for what can be nobody's way out, or for two of one family."""
    seen: dict[int, str] = {}
    for word in words:
        address, cannot = plain(word, "gateway"), f"cannot use gateway {word!r}"
        if "%" in word:
            raise InvalidValue(
                f"{cannot}: it names an interface", "without %: a gateway is reached by its own interface"
            )
        for special, means in _SPECIAL.items():
            if address in special and not address.is_link_local:
                raise InvalidValue(f"{cannot}: {means}")
        if other := seen.get(address.version):
            raise InvalidValue(f"{cannot}: {other} is its way out of IPv{address.version} already")
        seen[address.version] = word


def check_reachable(gateways: Sequence[str], words: Sequence[str]) -> None:
    """InvalidValue for a gateway that is on no network of these addresses; of IPv6 one may also be of the link."""
    own = [each for each in map(Wish.parse, words) if each.address]
    around = [ipaddress.ip_network((each.address, each.length), strict=False) for each in own if each.address]
    for word in gateways:
        address, cannot = plain(word, "gateway"), f"cannot use gateway {word!r}"
        if any(each.address == address for each in own):
            raise InvalidValue(f"{cannot}: it is an address of its own")
        near = [each for each in around if address in each]
        if not near and not (address.version == 6 and address.is_link_local):
            raise InvalidValue(f"{cannot}: it is in no network of its addresses", "--ip with a length: 192.0.2.50/24")
        for each in near:
            if address.version == 4 and address in (each.network_address, each.broadcast_address):
                raise InvalidValue(f"{cannot}: {each} has it for itself or for all")


def check_usable(address: Address, text: str) -> Address:
    """InvalidValue for what no VE can have."""
    for special, means in _SPECIAL.items():
        if address in special:
            raise InvalidValue(f"cannot use address {text!r}: {means}")
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
        for word, other in zip(words, wishes[:index], strict=False):
            apart = wish.family and other.family and wish.family != other.family
            if (wish.address, wish.pool) == (other.address, other.pool) and not apart:
                why = "it is there twice" if word == words[index] else f"it is there as {word} already"
                raise InvalidValue(f"cannot use address {words[index]!r}: {why}")
