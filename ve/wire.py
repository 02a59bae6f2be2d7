"""The host's own links: who answers for an address there, and that we do from now on.

A pool may lie within the host's own subnet.  Then an address of it may be a machine's that nobody has told us of, so
the wire is asked before it is taken; and the neighbours of the host, who look for it on their link, are answered by the
host in its place (proxy ARP, RFC 1027; proxy neighbour discovery, RFC 4389).  All is of the network namespace of the
calling thread, and needs CAP_NET_ADMIN and CAP_NET_RAW there.
"""

import errno
import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ve import leases, netlink, rtnetlink
from ve.addresses import Address

PROBES, PAUSE = 3, 0.1  # how often an address is asked for, and how many seconds each waits for an answer

_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD
_ARPHRD_ETHER, _PACKET_OUTGOING = 1, 4  # <linux/if_arp.h>, <linux/if_packet.h>
_SIOCGIFFLAGS, _SIOCGIFADDR, _IFF_NOARP = 0x8913, 0x8915, 0x80  # netdevice(7)
_BROADCAST = b"\xff" * 6
_NOBODY4, _NOBODY6 = bytes(4), bytes(16)
# RFC 826: of Ethernet and IPv4, an operation, and the addresses of who asks and who is asked for
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_KIND, _REQUEST = (1, 0x0800, 6, 4), 1
# RFC 4861, 4.3 and 4.4; 8200
_SOLICITATION, _ADVERTISEMENT, _TARGET_LINK_ADDRESS, _OVERRIDE = 135, 136, 2, 0x20000000
_ND = struct.Struct("!BBHI16s")
_IPV6 = struct.Struct("!IHBB16s16s")
_ALL_NODES, _SOLICITED = "ff02::1", bytes.fromhex("ff0200000000000000000001ff")
_ICMP6_FILTER, _IPV6_HOPLIMIT, _IPV6_RECVHOPLIMIT = 1, 52, 51  # <linux/icmpv6.h>, <linux/in6.h>
_LAST_HOP = 255  # from a router it would be less
# <linux/rtnetlink.h>, <linux/neighbour.h>
_NUD_PERMANENT, _NTF_PROXY = 0x80, 0x8
_NDA_DST, _NDA_PROTOCOL = 1, 12
_OURS = 0x76  # as the origin of a proxy entry; /etc/iproute2/rt_protos has no such number


# --- who is there -------------------------------------------------------------------------------------------------


def answers(interface: str, address: Address) -> bool:
    """Does anybody on this link have the address, or ask for it at this moment?  No after PROBES * PAUSE seconds.

    Never by an interface that has no Ethernet addresses, where nobody could be asked.  OSError if it is down or there
    is none.

    A host that answers for its VEs does so after up to net.ipv4.neigh.IF.proxy_delay (net.ipv6 has the same; 0.8 s),
    too late for us, and never to an ARP probe (arp_process in the kernel's arp.c).  So IPv4 is asked for in the
    ordinary way, too; and where VEs are answered for, that delay should be 0.
    """
    with _ASKING[address.version](interface, address) as asking:
        return asking is not None and any(_is_answered(asking) for _ in range(PROBES))


def _is_answered(asking: "_Asking") -> bool:
    asking.ask()
    until = time.monotonic() + PAUSE
    while (left := until - time.monotonic()) > 0:
        if _readable(asking.listener, left) and asking.hears():
            return True
    return False


@dataclass(frozen=True)
class _Asking:
    """For one address on one link: hears() takes what the listener has, and says whether that is an answer."""

    listener: socket.socket
    ask: Callable[[], object]
    hears: Callable[[], bool]


@contextmanager
def _by_arp(interface: str, address: Address) -> Iterator[_Asking | None]:
    """RFC 5227, 2.1.1: a probe has no sender, so that nobody who hears it learns anything wrong."""
    with _sender(interface, _ETH_P_ARP) as (channel, mac):
        senders = [_NOBODY4, *([own] if (own := _own_ipv4(interface)) else [])]

        def ask() -> None:
            for sender in senders:
                _send_arp(channel, interface, mac, sender, address)

        def hears() -> bool:
            data, about = channel.recvfrom(256)
            if about[2] == _PACKET_OUTGOING or len(data) < _ARP.size:
                return False
            *kind, operation, theirs, sender, _, target = _ARP.unpack_from(data)
            is_probe = operation == _REQUEST and sender == _NOBODY4 and target == address.packed
            return tuple(kind) == _ARP_KIND and theirs != mac and (sender == address.packed or is_probe)

        yield _Asking(channel, ask, hears) if mac else None


@contextmanager
def _by_discovery(interface: str, address: Address) -> Iterator[_Asking | None]:
    """RFC 4862, 5.4: what who has the address or wants it says to all, as we ask without an address of our own."""
    group = _SOLICITED + address.packed[-3:]
    with _sender(interface, _ETH_P_IPV6) as (channel, mac), _icmpv6(interface) as listener:
        membership = group + struct.pack("=I", socket.if_nametoindex(interface))
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
        heard = {_ADVERTISEMENT, _SOLICITATION}
        listener.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _all_but(heard))
        listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVHOPLIMIT, 1)
        solicitation = _ND.pack(_SOLICITATION, 0, 0, 0, address.packed)

        def ask() -> None:
            packet = _ipv6(_NOBODY6, group, solicitation)
            channel.sendto(packet, (interface, _ETH_P_IPV6, 0, 0, b"\x33\x33" + group[-4:]))

        def hears() -> bool:
            data, ancillary, _, source = listener.recvmsg(256, socket.CMSG_SPACE(4))
            hops = [int.from_bytes(each, "little") for _, kind, each in ancillary if kind == _IPV6_HOPLIMIT]
            if hops != [_LAST_HOP] or len(data) < _ND.size:
                return False
            kind, _, _, _, target = _ND.unpack_from(data)
            asks = kind == _SOLICITATION and source[0] != "::"  # who only wants to talk to whoever has it
            return bool(target == address.packed and not asks)

        yield _Asking(listener, ask, hears) if mac else None


_ASKING = {4: _by_arp, 6: _by_discovery}


# --- who we are ---------------------------------------------------------------------------------------------------


def announce(interface: str, address: Address) -> None:
    """Tell all on this link that the address is to be found here, in place of where they have found it (RFC 5227, 2.3).

    Nothing by an interface that has no Ethernet addresses or, of IPv6, no link-local address to speak from.
    """
    with _sender(interface, _ETH_P_ARP) as (channel, mac):
        if not mac:
            return
        if address.version == 4:
            _send_arp(channel, interface, mac, address.packed, address)
            return
    option = struct.pack("!BB6s", _TARGET_LINK_ADDRESS, 1, mac)
    advertisement = _ND.pack(_ADVERTISEMENT, 0, 0, _OVERRIDE, address.packed) + option
    with _icmpv6(interface) as sender:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _LAST_HOP)
        try:
            sender.sendto(advertisement, (_ALL_NODES, 0, 0, socket.if_nametoindex(interface)))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise


def uplink(address: Address) -> str | None:
    """The interface whose own network has this address, so that its neighbours look for it on their link; or None.

    To be asked before the address is leased: then its own route is the answer, which is no network.
    """
    found = leases.route(address)
    if not found or found.type != leases.UNICAST or not 0 < found.length < address.max_prefixlen:
        return None
    if found.gateway or not found.index:
        return None
    name = socket.if_indextoname(found.index)
    with _sender(name, _ETH_P_ARP) as (_, mac):
        return name if mac else None


def proxy(interface: str, address: Address) -> None:
    """Answer for the address on this link, until unproxy(), as long as the host forwards: also after the VE has ended.

    What must be set besides: net.ipv4.conf.IF.forwarding for IPv4; for IPv6 net.ipv6.conf.IF.forwarding and
    net.ipv6.conf.IF.proxy_ndp; and both proxy_delay, as answers() says.  forwarding.answer_on() does but the first two.
    """
    with netlink.connect(socket.NETLINK_ROUTE) as channel:
        netlink.ask(
            channel, netlink.request(rtnetlink.NEWNEIGH, _entry(interface, address), netlink.CREATE | netlink.REPLACE)
        )


def unproxy(interface: str, address: Address) -> None:
    """No longer; nothing if we did not."""
    try:
        with netlink.connect(socket.NETLINK_ROUTE) as channel:
            netlink.ask(channel, netlink.request(rtnetlink.DELNEIGH, _entry(interface, address)))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def _entry(interface: str, address: Address) -> bytes:
    index = socket.if_nametoindex(interface)
    fields = rtnetlink.NDMSG.pack(rtnetlink.FAMILIES[address.version], index, _NUD_PERMANENT, _NTF_PROXY, 0)
    about = netlink.attribute(_NDA_DST, address.packed) + netlink.attribute(_NDA_PROTOCOL, bytes([_OURS]))
    return fields + about


# --- packets ------------------------------------------------------------------------------------------------------


@contextmanager
def _sender(interface: str, ethertype: int) -> Iterator[tuple[socket.socket, bytes]]:
    """A packet(7) socket, and the interface's Ethernet address; b"" if it has none.

    It also hears ARP, if that is its type; all of IPv6 would be too much.
    """
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_PACKET, kind, 0) as channel:
        channel.bind((interface, ethertype if ethertype == _ETH_P_ARP else 0))
        *_, hardware, mac = channel.getsockname()
        yield channel, mac if hardware == _ARPHRD_ETHER and not _has_no_arp(channel, interface) else b""


def _has_no_arp(channel: socket.socket, interface: str) -> bool:
    request = struct.pack("16s24x", interface.encode())
    (flags,) = struct.unpack_from("=H", fcntl.ioctl(channel, _SIOCGIFFLAGS, request), 16)
    return bool(flags & _IFF_NOARP)


def _send_arp(channel: socket.socket, interface: str, mac: bytes, sender: bytes, address: Address) -> None:
    packet = _ARP.pack(*_ARP_KIND, _REQUEST, mac, sender, bytes(6), address.packed)
    channel.sendto(packet, (interface, _ETH_P_ARP, 0, 0, _BROADCAST))


def _own_ipv4(interface: str) -> bytes:
    """The first address that the interface has; b"" if none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            return fcntl.ioctl(channel, _SIOCGIFADDR, struct.pack("16s24x", interface.encode()))[20:24]
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return b""


@contextmanager
def _icmpv6(interface: str) -> Iterator[socket.socket]:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6) as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(interface))
        yield channel


def _all_but(kinds: set[int]) -> bytes:
    """struct icmp6_filter: a bit for each kind of message that is not wanted."""
    bits = (1 << 256) - 1 - sum(1 << kind for kind in kinds)
    return struct.pack("=8I", *(bits >> shift & 0xFFFFFFFF for shift in range(0, 256, 32)))


def _ipv6(source: bytes, target: bytes, message: bytes) -> bytes:
    """An ICMPv6 message that no router will pass on, with its checksum (RFC 4443, 2.3)."""
    pseudo = source + target + struct.pack("!II", len(message), socket.IPPROTO_ICMPV6)
    total = sum(struct.unpack(f"!{len(pseudo + message) // 2}H", pseudo + message))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    whole = message[:2] + struct.pack("!H", ~total & 0xFFFF) + message[4:]
    header = _IPV6.pack(6 << 28, len(message), socket.IPPROTO_ICMPV6, _LAST_HOP, source, target)
    return header + whole


def _readable(channel: socket.socket, timeout: float) -> bool:
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
