"""Is a VE kept to its own addresses?  Tried by packets from inside it, not by a look at the rules.

They are sent as its root would send them if nothing inside kept it, through the VE's own interface, with headers of our
making: one from an address that is nobody's, then one from its own, to its host's end of the wire or to the bridge.
When the second one has come there, so has the first, if it could.  Firewalls that let nobody in answer pings yet: so
they are ICMP echo requests.  Only of the port of a bridge that is gone neither would come: there the rules are asked.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import socket
import struct
import time
from dataclasses import dataclass

from ve import netlink, nftables, rtnetlink, ruleset, venet
from ve.addresses import Address
from ve.errand import in_a_thread, inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

STRANGERS = {4: ipaddress.ip_address("203.0.113.66"), 6: ipaddress.ip_address("2001:db8:76::66")}  # RFC 5737, 3849
_LOOPBACK = {4: ipaddress.ip_address("127.0.0.1"), 6: ipaddress.ip_address("::1")}  # no bridge's host would answer this
PATIENCE, PAUSE = 5.0, 0.2  # seconds for the kernel to make both ends ready; and for a packet that is on its way
_GONE = (errno.ENODEV, errno.ENXIO, errno.ENETDOWN)  # what has no way out is kept
_ETHERTYPES = {4: 0x0800, 6: 0x86DD}
_PROTOCOLS, _ECHO_REQUEST = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}, {4: 8, 6: 128}
_HOPS = 1  # who forwards it nevertheless does so no further
_SOURCES = {4: slice(14 + 12, 14 + 16), 6: slice(14 + 8, 14 + 24)}  # where in an Ethernet frame it says from whom


@dataclass(frozen=True)
class _Way:
    """From a VE to its host: the number of the interface inside, both Ethernet addresses, the bridge if it is one."""

    inside: int
    source: bytes
    target: bytes
    bridge: str


def passed(pidfd: int, interface: str, mac: str, addresses: Sequence[Address]) -> str:
    """Why a VE is not kept to its addresses, or ""; by its interface on the host, in the calling thread's namespace.

    mac is the VE's own where that is a port of a bridge.  OSError is what the kernel refused us.
    """
    try:
        way = _way(interface, mac)
        if way is None and not nftables.is_whole(*ruleset.INET.signs):
            return "its bridge is gone, and the table inet ve, which would keep its host from hearing it, is not whole"
        for version in sorted({each.version for each in addresses}):
            own = next(each for each in addresses if each.version == version)
            if way and (why := _try(pidfd, interface, way, own)):
                return why
    except OSError as error:
        if error.errno not in _GONE:
            raise
    return ""


def _way(interface: str, mac: str) -> _Way | None:
    """None for the port of a bridge that is there no more: by the table inet ve, the host takes nothing from it."""
    about = _about(interface)
    peer, master = (
        int.from_bytes(about.get(kind, b""), "little") for kind in (rtnetlink.IFLA_LINK, rtnetlink.IFLA_MASTER)
    )
    if not master:
        venets = netlink.mac(venet.MAC)
        return _Way(peer, venets, venets, "") if about[rtnetlink.IFLA_ADDRESS] == venets else None
    bridge = socket.if_indextoname(master)
    return _Way(peer, netlink.mac(mac), _about(bridge)[rtnetlink.IFLA_ADDRESS], bridge)


def _about(interface: str) -> dict[int, bytes]:
    body = rtnetlink.look(interface)
    return {kind: bytes(value) for kind, value in netlink.attributes(body, rtnetlink.IFINFOMSG.size)}


def _try(pidfd: int, interface: str, way: _Way, own: Address) -> str:
    """Of the family of an address of its own; again and again, until something was heard from that."""
    family, stranger, word = own.version, STRANGERS[own.version], os.urandom(16)
    target, there = _LOOPBACK[family] if way.bridge else venet.GATEWAYS[family], way.bridge or "its host"
    head = way.target + way.source + struct.pack("!H", _ETHERTYPES[family])
    frames = [head + _packet(source, target, word) for source in (stranger, own)]
    until = time.monotonic() + PATIENCE
    with _listener(interface, way, family) as listener, inside(pidfd, lambda: _sender(way)) as sender:
        while time.monotonic() < until:
            in_a_thread(lambda: _send(sender, frames))
            heard = _heard(listener, way, own, word)
            if stranger in heard:
                return f"what it sent from {stranger}, which is not its own, came as far as {there}"
            if own in heard:
                return ""
    return f"it could not be tried: what it sends from its own {own} does not come as far as {there}"


def _listener(interface: str, way: _Way, version: int) -> socket.socket:
    """Behind what keeps a VE to its addresses: a packet(7) socket at its interface would be before that."""
    if way.bridge:
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        packets.bind((way.bridge, _ETHERTYPES[version]))
        return packets
    family = rtnetlink.FAMILIES[version]
    listener = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _PROTOCOLS[version])
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(interface))
    return listener


def _sender(way: _Way) -> socket.socket:
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    sender.bind((socket.if_indextoname(way.inside), 0))
    return sender


def _send(sender: socket.socket, frames: Sequence[bytes]) -> None:
    """In their order, which one CPU keeps: that of a thread which ends."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for frame in frames:
        try:
            sender.send(frame)
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # its interface has just come up
                raise


def _heard(listener: socket.socket, way: _Way, own: Address, word: bytes) -> set[Address]:
    """From where packets with our word came, until one from its own address did, or for PAUSE seconds."""
    found: set[Address] = set()
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    until = time.monotonic() + PAUSE
    while own not in found and (left := until - time.monotonic()) > 0:
        if poll.poll(left * 1000):
            data, about = listener.recvfrom(2048, socket.MSG_DONTWAIT)
            if word in data:  # its root, who may see it leave, may send it from where it can
                source = data[_SOURCES[own.version]] if way.bridge else str(about[0]).partition("%")[0]
                found.add(ipaddress.ip_address(source))
    return found


# --- packets ------------------------------------------------------------------------------------------------------


def _packet(source: Address, target: Address, payload: bytes) -> bytes:
    """An ICMP echo request, with its IP header."""
    version, ends = source.version, source.packed + target.packed
    protocol = _PROTOCOLS[version]
    message = struct.pack("!BBHI", _ECHO_REQUEST[version], 0, 0, 0) + payload
    pseudo = ends + struct.pack("!II", len(message), protocol) if version == 6 else b""
    message = _with_sum(message, 2, pseudo)
    if version == 6:
        return struct.pack("!IHBB", 6 << 28, len(message), protocol, _HOPS) + ends + message
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), 0, 0, _HOPS, protocol, 0)
    return _with_sum(head + ends, 10) + message


def _with_sum(data: bytes, at: int, pseudo: bytes = b"") -> bytes:
    """With the Internet checksum (RFC 1071) at that place, of this and what is only thought to be before it."""
    whole = pseudo + data
    total: int = sum(struct.unpack(f"!{(len(whole) + 1) // 2}H", whole + bytes(len(whole) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return data[:at] + struct.pack("!H", ~total & 0xFFFF) + data[at + 2 :]
