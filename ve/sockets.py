"""The sockets of a network namespace: how many there are, and how much their buffers hold.

How many, /proc/PID/net tells without looking at any: sockstat of all together, protocols of each kind.  What is in
their buffers only sock_diag(7) knows, socket by socket; so it is asked for those kinds alone of which there are some.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from socket import AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, IPPROTO_RAW, IPPROTO_UDP
from typing import NamedTuple

from ve import netlink, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from socket import socket

NETLINK_SOCK_DIAG = 4
# <linux/sock_diag.h>, <linux/inet_diag.h>, <linux/unix_diag.h>, <linux/packet_diag.h>, <linux/netlink_diag.h>
_TCPDIAG_GETSOCK, _SOCK_DIAG_BY_FAMILY = 18, 20
_INET_DIAG_SKMEMINFO, _UNIX_DIAG_MEMINFO, _PACKET_DIAG_MEMINFO, _NETLINK_DIAG_MEMINFO = 7, 5, 6, 0
_UDIAG_SHOW_MEMINFO, _PACKET_SHOW_MEMINFO, _NDIAG_SHOW_MEMINFO = 0x20, 0x10, 0x1
_NDIAG_PROTO_ALL = 255
_IPPROTO_UDPLITE = 136
_EXT = 1 << (_INET_DIAG_SKMEMINFO - 1)
_EVERY_STATE = 0xFFFFFFFF
# <net/tcp_states.h>: those in which a socket has buffers: not LISTEN, nor what is no socket yet or any more.
_TCP_STATES = sum(1 << state for state in (1, 2, 4, 5, 7, 8, 9, 11))
_MEMINFO = struct.Struct("=6I")  # the first of enum: RMEM_ALLOC, RCVBUF, WMEM_ALLOC, SNDBUF, FWD_ALLOC, WMEM_QUEUED
_RMEM_ALLOC, _WMEM_ALLOC, _WMEM_QUEUED = 0, 2, 5
_IN_USE = re.compile(rb"\n(\S+) +[0-9]+ +([1-9][0-9]*) ")  # of net/protocols: protocol, size, sockets
_INET_HEADER, _UNIX_HEADER, _PACKET_HEADER, _NETLINK_HEADER = 72, 16, 16, 28  # bytes of a message before its attributes


class Kind(NamedTuple):
    """Sockets of one kind: as net/protocols names them, how to ask for them, and where an answer has their memory."""

    names: tuple[str, ...]
    message: int
    request: bytes
    header: int
    attribute: int
    send: int = _WMEM_ALLOC


def _inet(name: str, family: int, protocol: int) -> Kind:
    request = struct.pack("=BBBxI48x", family, protocol, _EXT, _EVERY_STATE)
    return Kind((name,), _SOCK_DIAG_BY_FAMILY, request, _INET_HEADER, _INET_DIAG_SKMEMINFO)


def _tcp(states: int) -> Kind:
    """By the oldest form of request, which alone gets both families in one walk over the host's table."""
    request = struct.pack("=BxxB48xII", AF_INET, _EXT, states, 0)
    return Kind(("TCP", "TCPv6"), _TCPDIAG_GETSOCK, request, _INET_HEADER, _INET_DIAG_SKMEMINFO, _WMEM_QUEUED)


_TCP, _TCP_LISTENING = _tcp(_TCP_STATES), _tcp(1 << 10)
_UNIX = Kind(
    ("UNIX", "UNIX-STREAM"),
    _SOCK_DIAG_BY_FAMILY,
    struct.pack("=BBxxIII8x", AF_UNIX, 0, _EVERY_STATE, 0, _UDIAG_SHOW_MEMINFO),
    _UNIX_HEADER,
    _UNIX_DIAG_MEMINFO,
)
_DATAGRAMS = (
    _inet("UDP", AF_INET, IPPROTO_UDP),
    _inet("UDPv6", AF_INET6, IPPROTO_UDP),
    _inet("UDP-Lite", AF_INET, _IPPROTO_UDPLITE),
    _inet("UDPLITEv6", AF_INET6, _IPPROTO_UDPLITE),
    _inet("RAW", AF_INET, IPPROTO_RAW),
    _inet("RAWv6", AF_INET6, IPPROTO_RAW),
    Kind(
        ("PACKET",),
        _SOCK_DIAG_BY_FAMILY,
        struct.pack("=BBxxII8x", AF_PACKET, 0, 0, _PACKET_SHOW_MEMINFO),
        _PACKET_HEADER,
        _PACKET_DIAG_MEMINFO,
    ),
    Kind(
        ("NETLINK",),
        _SOCK_DIAG_BY_FAMILY,
        struct.pack("=BBxxII8x", AF_NETLINK, _NDIAG_PROTO_ALL, 0, _NDIAG_SHOW_MEMINFO),
        _NETLINK_HEADER,
        _NETLINK_DIAG_MEMINFO,
    ),
)


class Count(NamedTuple):
    """How many sockets: in all, and of each kind that is in use, by its name in net/protocols."""

    used: int
    kinds: dict[str, int]

    def named(self) -> dict[str, int]:
        """numtcpsock and numothersock, which together are all sockets.

        The kernel counts a TCP socket as one while it listens, connects or is connected; else it is among the others.
        So are for some hundredths of a second the sockets of who looked before, which the kernel frees later.
        """
        tcp = sum(self.kinds.get(name, 0) for name in _TCP.names)
        return {"numtcpsock": tcp, "numothersock": max(0, self.used - tcp)}


def count(directory: int) -> Count:
    """Of the namespace of the process whose /proc/PID is open as directory; to be asked before the Meter is there."""
    used = procfs.contents("net/sockstat", directory)
    kinds = _IN_USE.findall(procfs.contents("net/protocols", directory))
    return Count(int(used.split(None, 3)[2]), {name.decode(): int(number) for name, number in kinds})


class Meter:
    """What is in the buffers of the sockets in the calling thread's network namespace; with Meter(missing) as meter.

    missing: the kinds that this kernel's sock_diag turned out not to have.  Hand the same one to the next: the kernel
    looks for a module whenever it is asked for such a kind.
    """

    def __init__(self, missing: set[Kind]) -> None:
        self.missing = missing
        self.channel: socket = netlink.connect(NETLINK_SOCK_DIAG)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def tcp(self, kinds: Mapping[str, int]) -> dict[str, int]:
        """tcpsndbuf and tcprcvbuf, in bytes: the queues, with what the kernel spends on each packet in them.

        Those that listen are looked at first: if these are all, there is no need for the walk over the host's table of
        all others, which takes long even when it is empty (0.2 ms on a host with 24 GiB).
        """
        sent = received = 0
        listening, _, _ = self._sum(_TCP_LISTENING, kinds)
        if listening < sum(kinds.get(name, 0) for name in _TCP.names):
            _, sent, received = self._sum(_TCP, kinds)
        return {"tcpsndbuf": sent, "tcprcvbuf": received}

    def others(self, kinds: Mapping[str, int]) -> dict[str, int]:
        """othersockbuf and dgramrcvbuf, in bytes.  OSError if there is a kind that sock_diag does not tell of.

        A unix socket's packets are its sender's until they are read.  Not asked for: ping sockets, of which sock_diag
        knows nothing, and those of rare families (SCTP, vsock, XDP, ...).
        """
        sums = [self._sum(kind, kinds) for kind in _DATAGRAMS if not kinds.keys().isdisjoint(kind.names)]
        _, unix, _ = self._sum(_UNIX, kinds)
        return {
            "othersockbuf": unix + sum(sent for _, sent, _ in sums),
            "dgramrcvbuf": sum(received for _, _, received in sums),
        }

    def _sum(self, kind: Kind, kinds: Mapping[str, int]) -> tuple[int, int, int]:
        """How many of a kind sock_diag knows, and the bytes that they have to send and have received."""
        if not any(name in kinds for name in kind.names):
            return 0, 0, 0
        if kind in self.missing:
            raise OSError(errno.ENOENT, f"sock_diag has no {kind.names[0]}")
        try:
            return self._walk(kind)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP):
                self.missing.add(kind)
            raise

    def _walk(self, kind: Kind) -> tuple[int, int, int]:
        number = sent = received = 0
        own = _own(self.channel) if kind.header == _NETLINK_HEADER else None
        for message in netlink.dump(self.channel, kind.message, kind.request):
            if own is not None and (message[16:20] == own or message[4:8] == _KERNEL):
                continue  # the one holds this very answer, the other this request
            if at := netlink.find(message, kind.attribute, kind.header):
                memory = _MEMINFO.unpack_from(message, at)
                number += 1
                sent += memory[kind.send]
                received += memory[_RMEM_ALLOC]
        return number, sent, received


_KERNEL = bytes(4)  # as ndiag_portid


def _own(channel: socket) -> bytes:
    """Our own socket as ndiag_ino of struct netlink_diag_msg."""
    return struct.pack("=I", os.fstat(channel.fileno()).st_ino & 0xFFFFFFFF)
