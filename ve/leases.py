"""Who has which address just now: the kernel's answer, which is the route to that address alone.

One address is asked for by itself (RTM_GETROUTE), so what that costs does not grow with the VEs of the host; all of
them only where a person wants to see them, or where a pool seems to be full.
"""

import contextlib
import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ve import netlink, rtnetlink
from ve.addresses import Address
from ve.linknames import PREFIX

# <linux/rtnetlink.h>, <linux/if_link.h>, <linux/netlink.h>
_RTNEXTHOP = struct.Struct("=HBBi")
_RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA = 4, 5, 9, 18
_RTM_F_FIB_MATCH = 0x2000  # the route itself, not what came of it for this destination
UNICAST = 1
_IFLA_IFALIAS, _IFLA_EXT_MASK, _IFLA_PROP_LIST, _IFLA_ALT_IFNAME = 20, 29, 52, 53
_SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12
_ALONE = {4: 32, 6: 128}  # the length of a route to one address
# None at all, and the routes of the types unreachable, blackhole and prohibit; of a family that the host lacks, too.
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES, errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
# What a host does with an address that no VE can be given: the type of its route there.
_USES = {2: "this host has it itself", 3: "it is a broadcast address of this host", 4: "this host answers to it"}
_GATEWAY = "this host sends by it to other networks"


@dataclass(frozen=True)
class Holder:
    """An interface of a VE, and whose it is: the state dir's tag and VEID are its alternative name."""

    interface: str
    name: str = ""
    state_dir: str = ""

    @property
    def veid(self) -> int | None:
        _, _, veid = self.name.rpartition("-")
        return int(veid) if veid.isdecimal() else None

    def named(self, seen_from: str = "") -> str:
        """As people call it who look at the VEs of this state dir."""
        if self.veid is None:
            return f"the interface {self.interface}"
        return f"VE {self.veid}" + (f" of {self.state_dir}" if self.state_dir not in ("", seen_from) else "")


@dataclass(frozen=True)
class Route:
    """One, as the kernel has it for an address."""

    type: int
    length: int
    index: int  # of the interface
    gateway: bool


def holder(address: Address) -> Holder | None:
    """The interface of a VE that has this address."""
    found = route(address)
    return _holder(found) if found and found.length == _ALONE[address.version] else None


def interface(name: str) -> Holder | None:
    """The interface of this name, and whose it is."""
    with contextlib.suppress(OSError):
        return _link(rtnetlink.look(name))[1]
    return None


def look(address: Address) -> tuple[Holder | None, str]:
    """The same, and else why no VE can have it, if this host has a use for it: two messages at most."""
    found = route(address)
    if found is None:
        return None, ""
    if found.type in _USES:
        return None, _USES[found.type]
    if found.length == _ALONE[address.version]:
        holder = _holder(found)
        return holder, "" if holder else "this host has another route to it"
    on_link = found.type == UNICAST and not found.gateway
    return None, _GATEWAY if on_link and address in _gateways(address.version, found.index) else ""


def of(interface: str) -> set[Address]:
    """Those that the VE of this interface has."""
    found = set()
    with contextlib.suppress(OSError):  # there is no such interface any more
        via = netlink.attribute(_RTA_OIF, struct.pack("=i", socket.if_nametoindex(interface)))
        for version in rtnetlink.FAMILIES:
            found |= {address for address, _ in _alone(version, via)}
    return found


def all_leases() -> list[tuple[Address, Holder]]:
    """Every address that a VE of this host has."""
    holders = {index: each for index, each in _links() if each.interface.startswith(PREFIX)}
    found = [pair for version in rtnetlink.FAMILIES for pair in _alone(version)]
    return [(address, holders[index]) for address, index in found if index in holders]


# --- routes -------------------------------------------------------------------------------------------------------


def route(address: Address) -> Route | None:
    """By which route the kernel sends there; None if by none."""
    length = _ALONE[address.version]
    header = rtnetlink.RTMSG.pack(rtnetlink.FAMILIES[address.version], length, 0, 0, 0, 0, 0, 0, _RTM_F_FIB_MATCH)
    try:
        with netlink.connect(socket.NETLINK_ROUTE) as channel:
            request = header + netlink.attribute(rtnetlink.RTA_DST, address.packed)
            body = netlink.get(channel, rtnetlink.GETROUTE, request)
    except OSError as error:
        if error.errno in _NO_ROUTE:
            return None
        raise
    attributes = dict(netlink.attributes(body, rtnetlink.RTMSG.size))
    index = _index(attributes[_RTA_OIF]) if _RTA_OIF in attributes else 0
    return Route(body[7], body[1], index, not {_RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA}.isdisjoint(attributes))


def _alone(version: int, via: bytes = b"") -> Iterator[tuple[Address, int]]:
    """The addresses with a route of their own, and each its interface; via: an attribute that names the only one."""
    request = rtnetlink.RTMSG.pack(rtnetlink.FAMILIES[version], 0, 0, 0, 0, 0, 0, 0, 0) + via
    for body in _dump(rtnetlink.GETROUTE, request, strict=bool(via)):
        attributes = dict(netlink.attributes(body, rtnetlink.RTMSG.size))
        is_one = body[1] == _ALONE[version] and body[4] == rtnetlink.RT_TABLE_MAIN
        if is_one and {_RTA_OIF, rtnetlink.RTA_DST} <= {*attributes}:
            yield ipaddress.ip_address(bytes(attributes[rtnetlink.RTA_DST])), _index(attributes[_RTA_OIF])


def _gateways(version: int, index: int) -> set[Address]:
    """Those that routes through this interface go by."""
    request = rtnetlink.RTMSG.pack(rtnetlink.FAMILIES[version], 0, 0, 0, 0, 0, 0, 0, 0)
    request += netlink.attribute(_RTA_OIF, struct.pack("=i", index))
    found = set()
    for body in _dump(rtnetlink.GETROUTE, request, strict=True):
        attributes = dict(netlink.attributes(body, rtnetlink.RTMSG.size))
        hops = [attributes, *_hops(attributes.get(_RTA_MULTIPATH, memoryview(b"")))]
        found |= {ipaddress.ip_address(bytes(each[_RTA_GATEWAY])) for each in hops if _RTA_GATEWAY in each}
    return found


def _hops(multipath: memoryview) -> Iterator[dict[int, memoryview]]:
    at = 0
    while at < len(multipath):
        size, *_ = _RTNEXTHOP.unpack_from(multipath, at)
        yield dict(netlink.attributes(multipath[at : at + size], _RTNEXTHOP.size))
        at += size + 3 & ~3


# --- interfaces ---------------------------------------------------------------------------------------------------


def _holder(route: Route) -> Holder | None:
    """Whose interface a route leads to; None if to no VE's, or if it has just gone."""
    mask = netlink.attribute(_IFLA_EXT_MASK, struct.pack("=I", _SKIP_STATS))
    with contextlib.suppress(OSError), netlink.connect(socket.NETLINK_ROUTE) as channel:
        body = netlink.get(channel, rtnetlink.GETLINK, rtnetlink.IFINFOMSG.pack(0, 0, route.index, 0, 0) + mask)
        _, found = _link(body)
        return found if found.interface.startswith(PREFIX) else None
    return None


def _links() -> Iterator[tuple[int, Holder]]:
    mask = netlink.attribute(_IFLA_EXT_MASK, struct.pack("=I", _SKIP_STATS))
    return map(_link, _dump(rtnetlink.GETLINK, rtnetlink.IFINFOMSG.pack(0, 0, 0, 0, 0) + mask))


def _link(body: memoryview) -> tuple[int, Holder]:
    attributes = dict(netlink.attributes(body, rtnetlink.IFINFOMSG.size))
    others = netlink.attributes(attributes.get(_IFLA_PROP_LIST, memoryview(b"")))
    names = [_text(value) for kind, value in others if kind == _IFLA_ALT_IFNAME]
    alias = _text(attributes.get(_IFLA_IFALIAS, memoryview(b"")))
    return rtnetlink.IFINFOMSG.unpack_from(body)[2], Holder(
        _text(attributes[rtnetlink.IFLA_IFNAME]), next(iter(names), ""), alias
    )


def _dump(kind: int, request: bytes, *, strict: bool = False) -> list[memoryview]:
    """strict: the kernel leaves out what the request does not ask for (since 4.20)."""
    with netlink.connect(socket.NETLINK_ROUTE) as channel:
        if strict:
            channel.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        return netlink.whole(channel, kind, request)


def _index(value: memoryview) -> int:
    return int(struct.unpack("=i", value)[0])


def _text(value: memoryview) -> str:
    return bytes(value).rstrip(b"\0").decode(errors="surrogateescape")
