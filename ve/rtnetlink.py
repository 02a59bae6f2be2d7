"""What rtnetlink(7) is asked for: links, addresses and routes, as messages for ve/netlink.py to send.

pyroute2 knows how each looks.  Its package imports all of itself, 200 ms, at the import of any part; of the classes of
its messages alone it is 30.
"""

from __future__ import annotations

import _thread
import errno
import math
import os
import socket
import struct
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from ve import caller, netlink, polling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, TypeAlias

    from ve.addresses import Address, Network

    Attributes: TypeAlias = Sequence[tuple[str, Any]]

# <linux/rtnetlink.h>, <linux/netlink.h>, <linux/if.h>, <linux/if_link.h>, <linux/neighbour.h>
NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR = 20, 21
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
NEWLINKPROP = 108
_REQUEST, _ACK = 0x1, 0x4
_RTNLGRP_LINK = 1
NEW = netlink.CREATE | netlink.EXCL  # EEXIST if there is one
IFF_UP, IFF_NOARP = 0x1, 0x80
RT_TABLE_MAIN, RTA_DST = 254, 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO, _IFLA_ALT_IFNAME = 1, 3, 5, 10, 18, 53
IFLA_INFO_KIND = 1
# How a message about a link, a route and a neighbour begins.
IFINFOMSG, RTMSG, NDMSG = struct.Struct("=BxHiII"), struct.Struct("=8BI"), struct.Struct("=BxxxiHBB")
FAMILIES = {4: int(socket.AF_INET), 6: int(socket.AF_INET6)}
_RTPROT_STATIC, _RTN_UNICAST = 4, 1
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253
_IFA_F_NODAD = 0x02
_ADDR_GEN_NONE = 1  # IN6_ADDR_GEN_MODE_NONE: no address but those that we give it


# --- links --------------------------------------------------------------------------------------------------------


def new_pair(name: str, peer: str, netns: int, mac: str, flags: int = 0, peer_mac: str = "") -> bytes:
    """A veth(4) pair: name here, peer born in the network namespace that netns is a descriptor of.  Both are down.

    Without peer_mac both have the same, which is right where neither asks for it (IFF_NOARP).
    """
    inside = [("IFLA_IFNAME", peer), ("IFLA_ADDRESS", peer_mac or mac), ("IFLA_NET_NS_FD", netns)]
    born = {"flags": flags, "change": flags, "attrs": inside}
    info = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", born)]})]
    attributes = [("IFLA_IFNAME", name), ("IFLA_ADDRESS", mac), _info(info)]
    return link(NEWLINK, attributes, flags=flags, change=flags, how=NEW)


def alternative_name(name: str, other: str) -> bytes:
    """A further name, of up to 127 characters, that the interface is found by; EEXIST if another one has it."""
    given = ("IFLA_PROP_LIST", {"attrs": [("IFLA_ALT_IFNAME", other)]})
    return link(NEWLINKPROP, [("IFLA_IFNAME", name), given], how=NEW)


def no_own_address(index: int) -> list[bytes]:
    """It will have no link-local IPv6 address but those that it is given.

    Nothing is to be asked of a kernel without IPv6, which would refuse it (ipv6.disable=1).
    """
    if not os.path.isdir("/proc/sys/net/ipv6"):
        return []
    inet6 = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_NONE)]}
    return [link(NEWLINK, [("IFLA_AF_SPEC", {"attrs": [("AF_INET6", inet6)]})], index=index)]


def alias(index: int, text: str) -> bytes:
    """What people read beside its name; no other interface need be without it."""
    return link(NEWLINK, [("IFLA_IFALIAS", text)], index=index)


def up(index: int) -> bytes:
    return link(NEWLINK, [], index=index, flags=IFF_UP, change=IFF_UP)


def delete(index: int) -> bytes:
    """Without pyroute2, as each VE with an interface that ends asks for it."""
    return netlink.request(DELLINK, IFINFOMSG.pack(0, 0, index, 0, 0))


def link(kind: int, attributes: Attributes, *, index: int = 0, flags: int = 0, change: int = 0, how: int = 0) -> bytes:
    fields = {"index": index, "flags": flags, "change": change}
    return _message("ifinfmsg", kind, how, fields, attributes)


def _info(attributes: Attributes) -> tuple[str, Any]:
    return "IFLA_LINKINFO", {"attrs": attributes}


# --- addresses, routes --------------------------------------------------------------------------------------------


def default(version: int) -> Network:
    """All of a family, to which the way out leads."""
    from ipaddress import ip_network

    return ip_network("0.0.0.0/0" if version == 4 else "::/0")


def address(kind: int, index: int, given: Address, length: int | None = None, *, local: bool = False) -> bytes:
    """NEWADDR or DELADDR of an interface; local: to talk to who is on the same link, and no further.

    No duplicate address detection: it would keep the address useless for a second, and nobody else is on the link.
    """
    fields = {
        "family": FAMILIES[given.version],
        "prefixlen": given.max_prefixlen if length is None else length,
        "scope": _SCOPE_LINK if local else _SCOPE_UNIVERSE,
        "index": index,
    }
    attributes: list[tuple[str, Any]] = [("IFA_LOCAL", str(given)), ("IFA_ADDRESS", str(given))]
    if given.version == 6:
        attributes.append(("IFA_FLAGS", _IFA_F_NODAD))
    return _message("ifaddrmsg", kind, NEW if kind == NEWADDR else 0, fields, attributes)


def route(kind: int, index: int, to: Network, gateway: Address | None = None, *, local: bool = False) -> bytes:
    """NEWROUTE, which says EEXIST if there is one to just there, or DELROUTE, through this interface."""
    fields = {
        "family": FAMILIES[to.version],
        "dst_len": to.prefixlen,
        "table": RT_TABLE_MAIN,
        "proto": _RTPROT_STATIC,
        "type": _RTN_UNICAST,
        "scope": _SCOPE_LINK if local and to.version == 4 else _SCOPE_UNIVERSE,
    }
    attributes: list[tuple[str, Any]] = [("RTA_OIF", index)]
    if to.prefixlen:
        attributes.append(("RTA_DST", str(to.network_address)))
    if gateway:
        attributes.append(("RTA_GATEWAY", str(gateway)))
    return _message("rtmsg", kind, NEW if kind == NEWROUTE else 0, fields, attributes)


def host_route(kind: int, index: int, to: Address) -> bytes:
    """The same to one address: a lease, which the kernel gives to one interface and takes back with it."""
    from ipaddress import ip_network

    return route(kind, index, ip_network(to), local=True)


# --- pyroute2 -------------------------------------------------------------------------------------------------------


def _message(name: str, kind: int, flags: int, fields: Mapping[str, Any], attributes: Attributes) -> bytes:
    """One request, of a class of pyroute2's messages, that the kernel answers."""
    made = getattr(part(f"netlink.rtnl.{name}"), name)()
    made["header"]["type"] = kind
    made["header"]["flags"] = _REQUEST | _ACK | flags
    for name, value in fields.items():
        made[name] = value
    made["attrs"] = list(attributes)
    made.encode()
    return bytes(made.data)


@cache
def part(name: str) -> ModuleType:
    """A module of pyroute2's, without the rest of it where nobody else is there to see how."""
    if "pyroute2" in sys.modules or threading.active_count() > 1:
        return import_module(f"pyroute2.{name}")
    with _bare_package("pyroute2"):
        return import_module(f"pyroute2.{name}")


@contextmanager
def _bare_package(name: str) -> Iterator[None]:
    """Let parts of a package be imported as if its __init__ were empty; who imports it later has it whole."""
    there = find_spec(name)
    if there is None or there.origin is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    bare = ModuleType(name)
    bare.__path__ = [os.path.dirname(there.origin)]
    sys.modules[name] = bare
    try:
        yield
    finally:
        for each in [each for each in sys.modules if each.partition(".")[0] == name]:
            del sys.modules[each]


# --- the kernel -----------------------------------------------------------------------------------------------------


def ask(*messages: bytes) -> None:
    """Have the kernel do all of these in the network namespace of the calling thread; OSError is its first refusal."""
    with netlink.connect(socket.NETLINK_ROUTE) as channel:
        netlink.ask(channel, *messages)


def index_there(fd: int, name: str) -> int:
    """The number of this interface in another network namespace, by a descriptor of that or a pidfd of who is there."""
    from ve.errand import inside

    return inside(fd, lambda: socket.if_nametoindex(name))


def ask_there(fd: int, *messages: bytes) -> None:
    """The same as ask() there.  The messages are made here, as a thread of our own would import all of pyroute2."""
    from ve.errand import inside

    inside(fd, lambda: ask(*messages))


def look(which: str | int) -> memoryview:
    """What the kernel tells of the interface of this name, alternative one too, or number; OSError, ENODEV, if none."""
    with netlink.connect(socket.NETLINK_ROUTE) as channel:
        if isinstance(which, int):
            return netlink.get(channel, GETLINK, IFINFOMSG.pack(0, 0, which, 0, 0))
        return _look(channel, which)


def _look(channel: socket.socket, name: str) -> memoryview:
    wanted = netlink.attribute(_IFLA_ALT_IFNAME, name.encode() + b"\0")  # the other one takes 15 bytes alone
    return netlink.get(channel, GETLINK, IFINFOMSG.pack(0, 0, 0, 0, 0) + wanted)


def remove_named(*names: str) -> None:
    """Delete the interfaces of these alternative names; of a name that none has nothing.

    Each VE that ends asks for it, with a network or not, so it does without pyroute2.
    """
    found = []
    with netlink.connect(socket.NETLINK_ROUTE) as channel:
        for name in names:
            try:
                found.append(IFINFOMSG.unpack_from(_look(channel, name))[2])
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
    if found:
        remove(*found)


def remove(*indices: int) -> None:
    """Delete interfaces; one that goes by itself meanwhile, or that the kernel keeps, is nobody's fault.

    When it returns they are gone from the host, with their addresses and routes.  The kernel itself lets go of them a
    whole grace period later, 20 ms (netdev_run_todo in net/core/dev.c), and answers then: a thread waits for that, but
    in the ve command, which cannot end before, and is cloned.
    """
    messages = [delete(index) for index in indices]
    if caller.is_the_command:
        with suppress(OSError):
            ask(*messages)
        return
    left = set(indices)
    with netlink.connect(socket.NETLINK_ROUTE) as told:
        netlink.join(told, _RTNLGRP_LINK)
        with _asked_behind(*messages) as answer:
            while left and polling.readable([answer.fileno(), told.fileno()], math.inf)[0] != answer.fileno():
                left.discard(_deleted(told))


@contextmanager
def _asked_behind(*messages: bytes) -> Iterator[socket.socket]:
    """Have another thread ask: what can be read here once the kernel has answered."""
    answer, answered = socket.socketpair()
    with answer, ExitStack() as stack:
        stack.enter_context(answered)
        channel = stack.enter_context(netlink.connect(socket.NETLINK_ROUTE))

        def run() -> None:
            with channel, suppress(OSError):
                netlink.ask(channel, *messages)
            with answered, suppress(OSError):  # nobody waits any more
                answered.send(b"\n", socket.MSG_NOSIGNAL)

        _start(run)
        stack.pop_all()
        yield answer


def _start(run: Callable[[], None]) -> None:
    """In a thread that threading does not know of, as it imports nothing (see part()), and that is sent no signal.

    A handler of Python's is called by the main thread, at once, whichever thread the kernel chose.
    """
    import signal

    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        _thread.start_new_thread(run, ())
    except RuntimeError:  # there may be no more of them
        run()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _deleted(told: socket.socket) -> int:
    """The number of the interface that the kernel tells to be gone; 0 if it tells something else."""
    try:
        kind, body = netlink.heard(told)
    except OSError:  # ENOBUFS: there was more to tell than there was room for
        return 0
    family, _, index, *_ = IFINFOMSG.unpack_from(body)
    return index if (kind, family) == (DELLINK, socket.AF_UNSPEC) else 0  # AF_BRIDGE: it has left a bridge
