"""How many entries the firewall of a network namespace has, nftables' and the legacy iptables'."""

import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

from ve import netlink, procfs
from ve._linux import visits

# <linux/netfilter/nfnetlink.h>, nf_tables.h
_NFNL_SUBSYS_NFTABLES = 10
_NFT_MSG_GETTABLE, _NFT_MSG_GETCHAIN, _NFT_MSG_GETRULE, _NFT_MSG_GETSET, _NFT_MSG_GETSETELEM = 1, 4, 7, 10, 13
_NFTA_SET_TABLE, _NFTA_SET_NAME, _NFTA_SET_COUNT = 1, 2, 20
_NFTA_SET_ELEM_LIST_TABLE, _NFTA_SET_ELEM_LIST_SET, _NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3
_NFGENMSG = 4  # bytes: family, version, resource
_NFPROTO_UNSPEC = 0
# <linux/netfilter_ipv4/ip_tables.h>: struct ipt_getinfo; that of IPv6 is the same.
_IPT_SO_GET_INFO = 64
_IPT_GETINFO = struct.Struct("=32s13I")
_LEGACY = (
    ("net/ip_tables_names", socket.AF_INET, socket.IPPROTO_IP),
    ("net/ip6_tables_names", socket.AF_INET6, socket.IPPROTO_IPV6),
)


def has_nftables() -> bool:
    """Is nf_tables loaded or built in?  Who only looks does not load it; where it is not, nobody has an entry.

    A module is in /sys/module; and where nfnetlink is one, so is nf_tables.
    """
    if os.path.isdir("/sys/module/nf_tables"):
        return True
    return not os.path.isdir("/sys/module/nfnetlink") and _has_nfnetlink()


def nftables() -> int:
    """Rules, chains and elements of sets, in the network namespace of the calling thread.

    Elements are the kernel's: an interval in most sets is two, its start and its end.
    """
    with netlink.connect(netlink.NETFILTER) as channel:
        if not _number(channel, _NFT_MSG_GETTABLE):
            return 0  # whatever there is, is in a table
        elements = sum(_elements(message) for message in _dump(channel, _NFT_MSG_GETSET))
        return _number(channel, _NFT_MSG_GETRULE) + _number(channel, _NFT_MSG_GETCHAIN) + elements


def legacy(directory: int) -> int:
    """Entries of the iptables, in the calling thread's namespace, which is that of the process at directory.

    As iptables' own replace request counts them, and OpenVZ did: with the policy of each built-in chain.
    """
    total = 0
    for file, family, level in _LEGACY:
        try:
            names = procfs.contents(file, directory).split()
        except FileNotFoundError:
            continue  # this kernel has them not, or not in use
        if names:
            with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
                total += sum(info(asking.fileno(), level, name)[-2] for name in names)
    return total


def info(asking: int, level: int, table: bytes) -> tuple[Any, ...]:
    """Of a legacy table: name, hooks, entries of 5, underflows of 5, number of entries, their size."""
    question = _IPT_GETINFO.pack(table, *[0] * 13)
    return _IPT_GETINFO.unpack(visits.getsockopt(asking, level, _IPT_SO_GET_INFO, question))


def _elements(message: memoryview) -> int:
    """Of a set: its message says how many, or on older kernels (before 6.16) all are asked for."""
    about = {number: bytes(value) for number, value in netlink.attributes(message, _NFGENMSG)}
    if _NFTA_SET_COUNT in about:
        return int.from_bytes(about[_NFTA_SET_COUNT], "big")
    wanted = netlink.attribute(_NFTA_SET_ELEM_LIST_TABLE, about[_NFTA_SET_TABLE])
    wanted += netlink.attribute(_NFTA_SET_ELEM_LIST_SET, about[_NFTA_SET_NAME])
    with netlink.connect(netlink.NETFILTER) as channel:  # one of its own: the dump of sets is still under way
        return sum(
            sum(1 for _ in netlink.attributes(value))
            for part in _dump(channel, _NFT_MSG_GETSETELEM, message[0], wanted)
            for number, value in netlink.attributes(part, _NFGENMSG)
            if number == _NFTA_SET_ELEM_LIST_ELEMENTS
        )


def _number(channel: socket.socket, kind: int) -> int:
    return sum(1 for _ in _dump(channel, kind))


def _dump(channel: socket.socket, kind: int, family: int = _NFPROTO_UNSPEC, about: bytes = b"") -> Iterator[memoryview]:
    return netlink.dump(channel, _NFNL_SUBSYS_NFTABLES << 8 | kind, bytes((family, 0, 0, 0)) + about)


def _has_nfnetlink() -> bool:
    """Has it a socket of the kernel's in the host's namespace?  /proc/net/netlink: address, protocol, port, ..."""
    with open("/proc/self/net/netlink", "rb") as file:
        return any(line.split(None, 2)[1] == b"%d" % netlink.NETFILTER for line in file)
