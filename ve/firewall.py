"""The rules around VEs' networks (ve/ruleset.py) on this host: there and whole, and what they count.

    <run>/network/lock                    held while tables are loaded, ports published, or bridge ports guarded
    <run>/network/published/<ADDRESS>     what is led to an address: see ve/publishing.py

The files are written before the kernel is asked.  When somebody has flushed our tables (`nft flush ruleset`), the next
start makes them again, with all of this in them; what was counted is lost then.  Of ports of bridges see
ve/bridgeports.py.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from contextlib import contextmanager, suppress
from typing import NamedTuple

from ve import leases, lock, nftables, ruleset, wholefile
from ve.addresses import Address, network
from ve.errors import InvalidValue
from ve.netdir import run_directory
from ve.ports import PROTOCOLS, Port, port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PATIENCE = 10.0  # seconds for another process to be done with our tables
_COUNTERS = ("sent", "received")


@contextmanager
def alone(what: str) -> Iterator[None]:
    """The only one that changes our tables and the files about them; Locked after PATIENCE."""
    with wholefile.writing(f"{what} to {run_directory()}", "run it as root"):
        os.makedirs(run_directory(), 0o711, exist_ok=True)
        fd = lock.acquire(os.path.join(run_directory(), "lock"), "the rules of VEs' networks", PATIENCE)
    with lock.released(fd):
        yield


# --- the tables ---------------------------------------------------------------------------------------------------


def ensure(masqueraded: Callable[[], Iterable[str]]) -> bool:
    """Have the table inet in place: True if it had to be loaded, as at the first start after a boot; else 0.1 ms.

    masqueraded tells which CIDRs are hidden behind the host, and is called only then.  A table of another version of us
    is replaced at once, with all its elements and counters.  NotSupported without nft; Error with what nft says.
    """
    if nftables.is_whole(*ruleset.INET.signs):
        return False
    with alone("rules"):
        lacking = not nftables.is_whole(*ruleset.INET.signs)
        if lacking:
            commands = [anew(ruleset.INET), _masquerading(masqueraded()), *_publishing_again()]
            nftables.load("".join(commands))
    return lacking


def anew(table: ruleset.Table) -> str:
    """What nft is told to make it in place of what there is, with what that has counted."""
    return table.commands + "".join(_counted_before(table))


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
    """Which ports of the host lead to an address, and by which interface it was had."""

    interface: str = ""
    ports: tuple[Port, ...] = ()


def published() -> dict[Address, Record]:
    """By address: what was asked for, of VEs that run or did."""
    directory = os.path.join(run_directory(), "published")
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return {}
    found = {}
    for name in names:
        with suppress(ValueError):  # one in the making
            found[ipaddress.ip_address(name)] = read_record(name)
    return found


def read_record(address: Address | str) -> Record:
    """An empty one where nothing is led to it, or where that says anything but ports."""
    interface, *lines = wholefile.read_small(record(address)).decode(errors="replace").splitlines() or [""]
    with suppress(IndexError, InvalidValue):
        return Record(interface, tuple(port("{}:{}/{}".format(*line.split())) for line in lines))
    return Record()


def publishing(port: Port, address: Address) -> tuple[str, bytes, bytes]:
    """The map, and in it key and data, of an element that leads a port to an address."""
    key = nftables.joined(bytes((PROTOCOLS[port.protocol],)), nftables.service(port.host))
    return f"published{address.version}", key, nftables.joined(address.packed, nftables.service(port.inside))


def itself(address: Address) -> nftables.Change:
    """That a VE may reach its own port by way of the host."""
    return nftables.there("inet", f"itself{address.version}", nftables.joined(address.packed, address.packed))


def _publishing_again() -> Iterator[str]:
    """What leads to those that live."""
    for address, (interface, ports) in published().items():
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
