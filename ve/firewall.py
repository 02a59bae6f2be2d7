"""The rules around VEs' networks (ve/ruleset.py) on this host: there and whole, what they count, and what ports may do.

    <run>/network/lock                    held while tables are loaded, ports published, or bridge ports guarded
    <run>/network/published/<ADDRESS>     what is led to an address: see ve/publishing.py
    <run>/network/guarded/<INTERFACE>     what a port of a bridge may send as: its MAC, its addresses

The files are written before the kernel is asked.  When somebody has flushed our tables (`nft flush ruleset`), the next
start makes them again, with all of this in them; what was counted is lost then.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from contextlib import contextmanager, suppress
from typing import NamedTuple

from ve import leases, lock, netlink, nftables, rtnetlink, ruleset, wholefile
from ve.addresses import Address, network
from ve.pool import run_directory
from ve.ports import PROTOCOLS, Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PATIENCE = 10.0  # seconds for another process to be done with our tables
_COUNTERS = ("sent", "received")
# <linux/rtnetlink.h>, <linux/if_link.h>
_IFLA_LINKINFO, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA, _IFLA_BRPORT_GUARD = 18, 4, 5, 5


@contextmanager
def alone(what: str) -> Iterator[None]:
    """The only one that changes our tables and the files about them; Locked after PATIENCE."""
    os.makedirs(run_directory(), 0o711, exist_ok=True)
    with wholefile.writing(f"{what} to {run_directory()}", "run it as root"):
        fd = lock.acquire(os.path.join(run_directory(), "lock"), "the rules of VEs' networks", PATIENCE)
    with lock.released(fd):
        yield


# --- the tables ---------------------------------------------------------------------------------------------------


def ensure(masqueraded: Callable[[], Iterable[str]]) -> bool:
    """Have the tables in place: True if one had to be loaded, as at the first start after a boot; 0.2 ms otherwise.

    masqueraded tells which CIDRs are hidden behind the host, and is called only then.  A table of another version of us
    is replaced at once, with all its elements and counters.  NotSupported without nft; Error with what nft says.
    """
    wanted = _wanted()
    if not any(_is_lacking(table) for table in wanted):
        return False
    with alone("rules"):
        lacking = [table for table in wanted if _is_lacking(table)]
        commands = [table.commands + "".join(_counted_before(table)) for table in lacking]
        if ruleset.INET in lacking:
            commands += [_masquerading(masqueraded()), *_publishing_again()]
        nftables.load("".join(commands))
        if ruleset.BRIDGE in lacking:
            _guard_again()
    return bool(lacking)


def _wanted() -> list[ruleset.Table]:
    """A host without bridged VEs has no hooks of ours in its bridges."""
    guarded = os.path.lexists(os.path.join(run_directory(), "guarded"))
    return [ruleset.INET, *([ruleset.BRIDGE] if guarded else [])]


def _is_lacking(table: ruleset.Table) -> bool:
    return nftables.state(table.family) != (table.version, table.rules)


def _counted_before(table: ruleset.Table) -> Iterator[str]:
    for name in _COUNTERS:
        for each in nftables.elements(table.family, name):
            interface, counter = _name(each), f"counter packets {each.packets} bytes {each.bytes}"
            yield f'add element {table.family} ve {name} {{ "{interface}" {counter} }}\n'


def masquerade(cidrs: Iterable[str]) -> None:
    """Hide these CIDRs, and no others, behind the host where their packets leave it.  After ensure()."""
    nftables.load("flush set inet ve masqueraded4\nflush set inet ve masqueraded6\n" + _masquerading(cidrs))


def _masquerading(cidrs: Iterable[str]) -> str:
    networks = map(network, cidrs)
    return "".join(f"add element inet ve masqueraded{each.version} {{ {each} }}\n" for each in networks)


# --- what is counted ----------------------------------------------------------------------------------------------


class Traffic(NamedTuple):
    """Of a VE, in its own words; the bytes are those of IP packets, without the 14 of Ethernet's header.

    What our rules have refused is among what it sent, and packets that go together as one (GSO) are one.
    """

    sent: int
    sent_packets: int
    received: int
    received_packets: int


def counted(names: Iterable[str]) -> dict[str, Traffic]:
    """By interface, whether it is still there or not: what it had since it was made, or was last folded."""
    totals = {name: [0, 0, 0, 0] for name in names}
    for family in nftables.FAMILIES:
        for place, kind in enumerate(_COUNTERS):
            for each in nftables.elements(family, kind):
                if (total := totals.get(_name(each))) is not None:
                    total[2 * place] += each.bytes
                    total[2 * place + 1] += each.packets
    return {name: Traffic(*total) for name, total in totals.items()}


def of_one(interface: str) -> Traffic:
    """The same of one interface, at a cost that does not grow with the others."""
    total = [0, 0, 0, 0]
    for family in nftables.FAMILIES:
        for place, kind in enumerate(_COUNTERS):
            if each := nftables.find(family, kind, nftables.interface(interface)):
                total[2 * place] += each.bytes
                total[2 * place + 1] += each.packets
    return Traffic(*total)


def fold(names: Iterable[str]) -> dict[str, Traffic]:
    """The same of interfaces that are no more, and forget it: to be added up once.

    The kernel waits some 10 ms before it frees what was removed, once for all of these.
    """
    found = counted(names)
    for family in nftables.FAMILIES:
        keys = {name: nftables.interface(name) for name in found}
        there = {(kind, each.key) for kind in _COUNTERS for each in nftables.elements(family, kind)}
        nftables.change(
            *(nftables.gone(family, kind, key) for kind in _COUNTERS for key in keys.values() if (kind, key) in there)
        )
    return found


def _name(element: nftables.Element) -> str:
    return element.key.rstrip(b"\0").decode(errors="surrogateescape")


# --- what is published: the records, and elements of them ----------------------------------------------------------


def record(address: Address | str) -> str:
    """The path of what is led to an address."""
    return os.path.join(run_directory(), "published", str(address))


class Record(NamedTuple):
    """Which ports of the host lead to an address, and whose that is: by interface, and as people call it."""

    interface: str = ""
    owner: str = ""
    ports: tuple[Port, ...] = ()


def published() -> dict[Address, Record]:
    """By address: what was asked for, of VEs that run or did."""
    directory = os.path.join(run_directory(), "published")
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return {}
    return {ipaddress.ip_address(name): read_record(name) for name in names if not name.startswith(".")}


def read_record(address: Address | str) -> Record:
    """An empty one where nothing is led to it."""
    whose, *lines = wholefile.read_small(record(address)).decode().splitlines() or [""]
    interface, _, owner = whose.partition(" ")
    ports = (line.split() for line in lines)
    return Record(interface, owner, tuple(Port(int(host), int(inside), kind) for host, inside, kind in ports))


def publishing(port: Port, address: Address) -> tuple[str, bytes, bytes]:
    """The map, and in it key and data, of an element that leads a port to an address."""
    key = nftables.joined(bytes((PROTOCOLS[port.protocol],)), nftables.service(port.host))
    return f"published{address.version}", key, nftables.joined(address.packed, nftables.service(port.inside))


def itself(address: Address) -> nftables.Change:
    """That a VE may reach its own port by way of the host."""
    return nftables.there("inet", f"itself{address.version}", nftables.joined(address.packed, address.packed))


def _publishing_again() -> Iterator[str]:
    """What leads to those that live."""
    for address, (interface, _, ports) in published().items():
        if has_route(address, interface):
            family = address.version
            yield f"add element inet ve itself{family} {{ {address} . {address} }}\n"
            for port in ports:
                leads = f"{port.protocol} . {port.host} : {address} . {port.inside}"
                yield f"add element inet ve published{family} {{ {leads} }}\n"


def has_route(address: Address, interface: str = "") -> bool:
    """Has it a host route of its own, which is a living VE's lease, by this interface ("": by any)?

    In the calling thread's namespace.
    """
    with suppress(OSError):
        found = leases.route(address)
        if found and found.length == address.max_prefixlen and found.type == leases.UNICAST:
            return not interface or found.index == socket.if_nametoindex(interface)
    return False


# --- ports of bridges ---------------------------------------------------------------------------------------------


def guard_port(interface: str, mac: str, addresses: Iterable[Address]) -> None:
    """Let a VE that is a port of a bridge send by this MAC and from these addresses alone, and hear of no other.

    Of an interface that is a port already, and not up yet.  Also from the link-local address that the kernel derives
    from the MAC.  Any port named venet* that was not guarded is cut off, from when the first one is; so is one that
    takes part in the bridge's spanning tree (bridge(8), guard).
    """
    if _is_interface(interface):
        _keep_off_spanning_tree(interface)
    with alone("a guarded port"):
        path = _guarded(interface)
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        before = wholefile.read_small(path).decode()
        now = " ".join((mac, *map(str, addresses)))
        wholefile.write_whole(path, f"{before}\n{now}".encode(), durable=False)  # whichever comes to be
        if _is_lacking(ruleset.BRIDGE):
            nftables.load(ruleset.BRIDGE.commands + "".join(_counted_before(ruleset.BRIDGE)))
            _guard_again()
        _let_pass(interface, before, now)
        wholefile.write_whole(path, now.encode(), durable=False)


def _keep_off_spanning_tree(interface: str) -> None:
    """What belongs to one goes by no hook (net/bridge/br_input.c)."""
    guard = netlink.attribute(_IFLA_BRPORT_GUARD, b"\1")
    kind = netlink.attribute(_IFLA_INFO_SLAVE_KIND, b"bridge\0")
    about = netlink.attribute(_IFLA_LINKINFO, kind + netlink.attribute(_IFLA_INFO_SLAVE_DATA, guard))
    head = rtnetlink.IFINFOMSG.pack(socket.AF_UNSPEC, 0, socket.if_nametoindex(interface), 0, 0)
    rtnetlink.ask(netlink.request(rtnetlink.NEWLINK, head + about))


def release_port(interface: str) -> None:
    """Forget what it might send; one lstat where that is nothing."""
    path = _guarded(interface)
    if os.path.lexists(path):
        with alone("a released port"):
            _let_pass(interface, wholefile.read_small(path).decode(), "")
            with suppress(FileNotFoundError):
                os.unlink(path)


def _guarded(interface: str) -> str:
    """The path of what a port may send as: a line of its MAC and its addresses."""
    return os.path.join(run_directory(), "guarded", interface)


def _guard_again() -> None:
    for name in os.listdir(_guarded("")):
        if not name.startswith(".") and _is_interface(name):
            _let_pass(name, "", wholefile.read_small(_guarded(name)).decode())


def _let_pass(interface: str, before: str, now: str) -> None:
    """What the lines of now say, and of those of before no more."""
    wanted = set(_of_port(interface, now))
    unwanted = set(_of_port(interface, before)) - wanted
    found = [(name, key) for name, key in unwanted if nftables.find("bridge", name, key)]
    nftables.change(
        *(nftables.gone("bridge", *each) for each in found),
        *(nftables.there("bridge", *each) for each in wanted),
    )


def _of_port(interface: str, lines: str) -> Iterator[tuple[str, bytes]]:
    """The sets of the bridge's table, and its keys there."""
    for line in filter(None, lines.splitlines()):
        mac, *words = line.split()
        start = nftables.joined(nftables.interface(interface), nftables.mac(mac))
        yield "own", start
        for address in (link_local(mac), *map(ipaddress.ip_address, words)):
            yield f"own{address.version}", start + address.packed
            if address.version == 6:
                yield "targets6", start + address.packed


def link_local(mac: str) -> Address:
    """The address that an interface with this MAC gives itself, of the modified EUI-64 (RFC 4291, appendix A)."""
    raw = nftables.mac(mac)
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes((raw[0] ^ 2,)) + raw[1:3] + b"\xff\xfe" + raw[3:])


def _is_interface(name: str) -> bool:
    with suppress(OSError):
        return bool(socket.if_nametoindex(name))
    return False
