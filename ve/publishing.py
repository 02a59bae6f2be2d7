"""Ports of the host that lead into VEs: one element of a map each, and a record of it that is written before.

So what leads to an address is known from the address alone, and goes before a VE gets the address that another one had:
forget_dead().  The record says by which interface the address was had, as no other start of any VE has that: so nothing
of a living VE is ever removed but by itself.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import contextmanager, suppress

from ve import leases, netlink, nftables, wholefile
from ve.addresses import Address
from ve.errors import Exists, InUse, InvalidValue, NotSupported
from ve.firewall import Record, alone, has_route, itself, publishing, read_record, record
from ve.ports import NO_ADDRESS, PROTOCOLS, Port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_LISTENS = {"tcp": b"0A", "udp": b"07"}  # TCP_LISTEN, and TCP_CLOSE: of UDP, not connected (net/tcp_states.h)
# <linux/netfilter/nfnetlink_conntrack.h>
_CT_GET, _CT_DELETE, _CT_GET_STATS = 1 << 8 | 1, 1 << 8 | 2, 1 << 8 | 5  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_...
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_ID, _CTA_FILTER = 1, 2, 12, 25
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_IP_SOURCES = (1, 3)  # CTA_IP_V4_SRC, CTA_IP_V6_SRC
_CTA_PROTO_NUM, _CTA_PROTO_DST_PORT = 1, 3
_CTA_FILTER_ORIG_FLAGS = 1
_BY_PROTOCOL, _BY_DESTINATION_PORT = 1 << 3, 1 << 5  # CTA_FILTER_F_CTA_PROTO_NUM, ..._PROTO_DST_PORT

Lead = tuple[Port, Address]  # to where a port of the host leads
Fresh = list[tuple[Port, Address, "Lead | None"]]  # what leads where, and where of its own the same port led before


def publish(veid: int, ports: Iterable[Port], addresses: Sequence[Address], interface: str) -> None:
    """Lead these ports of the host to the first IPv4 and the first IPv6 address of this VE, whose interface this is.

    From outside, from other VEs and the VE itself, and from the host itself: by 127.0.0.1 too, but not by [::1], which
    the kernel does not forward.  One that led to another port or address of the VE's own leads to this one then.  All
    of it or, after Exists, InUse (a process of the host listens there), InvalidValue or NotSupported, none.  After
    ensure(), when the addresses have their host routes: by these others see that the VE lives, and a dead one's ports
    can be had.
    """
    wanted = list(dict.fromkeys(ports))
    targets = [next((each for each in addresses if each.version == version), None) for version in (4, 6)]
    firsts = [each for each in targets if each]
    if not wanted:
        return
    if not firsts:
        raise InvalidValue(f"cannot publish {wanted[0]} of {veid}: it has no address", NO_ADDRESS)
    with alone("what is published"):
        for address in firsts:
            _forget_dead(address)
        found = [(port, address, _own_lead(veid, port, address, interface)) for address in firsts for port in wanted]
        fresh = [(port, address, own) for port, address, own in found if own != (port, address)]
        for port in dict.fromkeys(port for port, _, own in fresh if not own):
            _refuse_listened_at(veid, port)
        if fresh:
            _refuse_endless(veid)
        before = {address: read_record(address) for address in firsts}
        try:
            for address, there in before.items():
                _write(address, Record(interface, tuple(dict.fromkeys((*there.ports, *wanted)))))
            nftables.change(*_changes(fresh), *(itself(address) for address in firsts))
            if targets[0]:
                _route_localnet(interface)
        except BaseException:
            _undo(fresh, before)
            raise
        _end_own(fresh)


def _end_own(fresh: Fresh) -> None:
    """Of what led elsewhere in the VE, its connections and its record."""
    for _, _, own in fresh:
        if own:
            port, address = own
            _end_connections(port, address)
            _leave(address, [port])


def _changes(fresh: Fresh) -> Iterator[nftables.Change]:
    for port, address, own in fresh:
        name, key, data = publishing(port, address)
        if own:
            yield nftables.gone("inet", name, key)
        yield nftables.new("inet", name, key, data)


def _undo(fresh: Fresh, before: dict[Address, Record]) -> None:
    for port, address, own in fresh:
        _remove(address, [port])
        if own:
            name, key, data = publishing(*own)
            if not nftables.find("inet", name, key):
                nftables.change(nftables.new("inet", name, key, data))
    for address, there in before.items():
        _write(address, there)


def unpublish(ports: Iterable[Port], addresses: Iterable[Address]) -> None:
    """Lead these to none of these addresses any more; connections that are through end too."""
    unwanted = set(ports)
    with alone("what is published"):
        for address in addresses:
            _remove(address, [port for port in read_record(address).ports if port in unwanted])
            _leave(address, unwanted)


def forget(address: Address, interface: str) -> None:
    """Lead nothing to this address that led there while this interface had it; one lstat where nothing leads there."""
    if os.path.lexists(record(address)):
        with alone("what is published"):
            if read_record(address).interface == interface:
                _forget(address)


def forget_dead(address: Address) -> None:
    """Lead nothing to this address of an interface that has it no more; one lstat where nothing leads there."""
    if os.path.lexists(record(address)):
        with alone("what is published"):
            _forget_dead(address)


def _forget_dead(address: Address) -> None:
    interface = read_record(address).interface
    if interface and not has_route(address, interface):
        _forget(address)


def _forget(address: Address) -> None:
    """Its record stays until there is nothing that leads there: by that alone it is found."""
    there = read_record(address)
    _take_out(address, there.ports)
    try:
        _end_all(address, there.ports)
    finally:  # who cannot be told of connections now cannot be at the next look either
        _write(address, there._replace(ports=()))


def _own_lead(veid: int, port: Port, address: Address, interface: str) -> Lead | None:
    """Where in the VE of this interface the port leads already; None if nowhere.

    Exists when it leads to somebody else who lives.  A dead one's is taken away.
    """
    ports, key, _ = publishing(port, address)
    taken = nftables.find("inet", ports, key)
    if taken is None:
        return None
    size = len(address.packed)
    other, inside = type(address)(taken.data[:size]), int.from_bytes(taken.data[size : size + 2], "big")
    there = read_record(other)
    if other == address or there.interface == interface:
        return Port(port.host, inside, port.protocol), other
    if has_route(other, there.interface):
        what = f"cannot publish port {port.outer} of {veid}: it leads to {other} port {inside}"
        raise Exists(f"{what}{_whose(other, interface)}", "another port")
    _forget(other)
    if nftables.find("inet", ports, key):  # of one without a record
        nftables.change(nftables.gone("inet", ports, key))
    return None


def _whose(address: Address, asks: str) -> str:
    """As who has this interface calls the VE that has the address."""
    holder, own = leases.holder(address), leases.interface(asks)
    return f", of {holder.named(own.state_dir if own else '')}" if holder else ""


def _remove(address: Address, ports: Iterable[Port]) -> None:
    """What leads there by them, and the connections that are through."""
    ports = list(ports)
    _take_out(address, ports)
    _end_all(address, ports)


def _take_out(address: Address, ports: Iterable[Port]) -> None:
    """Those elements that lead there, whatever else is at those ports by now."""
    elements = [publishing(port, address) for port in ports]
    found = [(name, key, data, nftables.find("inet", name, key)) for name, key, data in elements]
    nftables.change(
        *(nftables.gone("inet", name, key) for name, key, data, there in found if there and there.data == data)
    )


def _end_all(address: Address, ports: Iterable[Port]) -> None:
    for port in ports:
        _end_connections(port, address)


def _leave(address: Address, ports: Iterable[Port]) -> None:
    """Its record, without these."""
    there, unwanted = read_record(address), {*ports}
    _write(address, there._replace(ports=tuple(port for port in there.ports if port not in unwanted)))


def _write(address: Address, wanted: Record) -> None:
    """What is to be found of it from now on: nothing where there are no ports."""
    if wanted.ports:
        os.makedirs(os.path.dirname(record(address)), 0o700, exist_ok=True)
        lines = [wanted.interface]
        lines += [f"{port.host} {port.inside} {port.protocol}" for port in wanted.ports]
        wholefile.write_whole(record(address), "\n".join(lines).encode(), durable=False)
        return
    change = itself(address)
    with suppress(FileNotFoundError):
        nftables.change(nftables.gone("inet", change.name, change.element.key))
    with suppress(FileNotFoundError):
        os.unlink(record(address))


def _refuse_listened_at(veid: int, port: Port) -> None:
    if _is_listened_at(port):
        which = f"ss -ln{port.protocol[0]}p 'sport = :{port.host}'"
        why = "a process of the host listens there"
        raise InUse(f"cannot publish port {port.outer} of {veid}: {why}", f"another port; {which} shows it")


def _is_listened_at(port: Port) -> bool:
    """Of the host's, at any address: in the calling thread's namespace.  Those of TCP stand first in their file."""
    end, listens = b":%04X" % port.host, _LISTENS[port.protocol]
    for family in ("", "6"):
        with suppress(FileNotFoundError), open(f"/proc/thread-self/net/{port.protocol}{family}", "rb") as file:
            file.readline()
            for line in file:
                _, local, _, state, _ = line.split(None, 4)
                if state == listens and local.endswith(end):
                    return True
                if port.protocol == "tcp" and state != listens:
                    break
    return False


def _route_localnet(interface: str) -> None:
    """Let 127.0.0.1 lead there (ip-sysctl.rst); that the VE leads nowhere by it is one of our rules."""
    path = f"/proc/sys/net/ipv4/conf/{interface}/route_localnet"
    what = f"{path}, without which 127.0.0.1 leads to no VE"
    with wholefile.writing(what, "mount proc at /proc so that it can be"), open(path, "wb", buffering=0) as file:
        file.write(b"1")


def _refuse_endless(veid: int) -> None:
    """NotSupported if nobody could end the connections, so that an address would never be free of them."""
    with netlink.connect(netlink.NETFILTER) as channel, _needing_tracking(f"cannot publish ports of {veid}"):
        netlink.get(channel, _CT_GET_STATS, bytes(4))


@contextmanager
def _needing_tracking(cannot: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cure = "use a kernel with CONFIG_NF_CT_NETLINK, from 5.8 on"
        raise NotSupported(f"{cannot}: the kernel does not tell of connections: {error.strerror}", cure) from error


def _end_connections(port: Port, address: Address) -> None:
    """Those that the kernel still leads there: it asks our map for the first packet of each alone.

    A datagram a minute would otherwise reach whoever has the address next.
    """
    original = netlink.nested(_CTA_TUPLE_PROTO, _byte(_CTA_PROTO_NUM, PROTOCOLS[port.protocol]), _port(port.host))
    flags = struct.pack("=I", _BY_PROTOCOL | _BY_DESTINATION_PORT)
    which = netlink.nested(_CTA_FILTER, netlink.attribute(_CTA_FILTER_ORIG_FLAGS, flags))
    head = bytes((socket.AF_INET if address.version == 4 else socket.AF_INET6, 0, 0, 0))
    with netlink.connect(netlink.NETFILTER) as channel:
        with _needing_tracking(f"cannot end the connections to {address} by port {port.outer}"):
            messages = netlink.dump(channel, _CT_GET, head + netlink.nested(_CTA_TUPLE_ORIG, original) + which)
            found = [bytes(message) for message in messages if _answers(message) == address.packed]
        for message in found:
            with suppress(FileNotFoundError):  # it has ended meanwhile
                netlink.ask(channel, _deletion(memoryview(message)))


def _answers(message: memoryview) -> bytes:
    """The address of who answers on it.  The kernel's own filter for that takes of IPv6 all but the one (6.18)."""
    tuples = dict(netlink.attributes(message, 4))
    ends = dict(netlink.attributes(dict(netlink.attributes(tuples[_CTA_TUPLE_REPLY]))[_CTA_TUPLE_IP]))
    return next((bytes(ends[kind]) for kind in _CTA_IP_SOURCES if kind in ends), b"")


def _deletion(message: memoryview) -> bytes:
    """What names the one that a message is about."""
    kept = [(kind, value) for kind, value in netlink.attributes(message, 4) if kind in (_CTA_TUPLE_ORIG, _CTA_ID)]
    body = bytes(message[:4]) + b"".join(
        netlink.attribute(kind | (netlink.NESTED if kind == _CTA_TUPLE_ORIG else 0), bytes(value))
        for kind, value in kept
    )
    return netlink.request(_CT_DELETE, body)


def _port(number: int) -> bytes:
    return netlink.attribute(_CTA_PROTO_DST_PORT, nftables.service(number))


def _byte(kind: int, value: int) -> bytes:
    return netlink.attribute(kind, bytes((value,)))
