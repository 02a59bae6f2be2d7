"""Interfaces of a VE that are not routed: a port of a bridge, a macvlan, a device of the host's that is moved in.

Each function is given the VE's network namespace as a descriptor, and acts on the host in the network namespace of the
calling thread.  What the kernel refuses is an InvalidValue that names the shape; then nothing has changed.  A bridge's
port and a macvlan go with the VE's namespace; of a device see give_back().
"""

import contextlib
import errno
import hashlib
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from ve import netlink, rtnetlink
from ve.errand import inside
from ve.errors import InUse, InvalidValue, NotSupported, nearest

# <linux/if_link.h>, <linux/rtnetlink.h>, <linux/if_bridge.h>, <linux/neighbour.h>
_IFADDRMSG = struct.Struct("=4BI")
_GETADDR = 22
_IFLA_NET_NS_FD = 28
_INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 2, 4, 5
_MACVLAN_MODE, _MACVLAN_MODE_BRIDGE = 1, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _IFA_F_PERMANENT = 1, 2, 8, 0x80
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_FLAGS = 0x4 | 0x20 | 0x80 | 0x100 | 0x200 | 0x1000 | 0x2000 | 0x4000 | 0x8000  # IFF_NOARP and others that one may set
_DELLINKPROP = 109
_IFLA_MTU, _IFLA_TXQLEN, _IFLA_IFALIAS, _IFLA_PROP_LIST = 4, 13, 20, 52
_SCOPE_LINK, _AF_BRIDGE = 253, 7
_NUD_STATIC, _NTF_MASTER, _NDA_LLADDR = 0x40 | 0x02, 0x04, 2
# Of a port, IFLA_BRPORT_*: whether a bridge protocol data unit from it closes it; whether addresses are learnt from
# what comes from there; whether what is for an address that nobody knows goes there; whether multicast routers are
# taken to be behind it; and (5.18) whether what comes from there must be of an address that is known to be there.
_PORT = {5: 1, 8: 0, 9: 0, 25: 0, 39: 1}


@dataclass(frozen=True)
class Link:
    """An interface, as the kernel tells of it; kind is "" of a device that no program has made."""

    name: str
    index: int
    flags: int
    mac: str
    kind: str
    master: int
    mtu: int
    queue: int
    alias: str
    others: bytes  # alternative names, as the kernel has them


def mac(tag: str, veid: int) -> str:
    """The Ethernet address of a VE of this state dir, the same at each start: locally administered (RFC 7042, 2.1).

    Its first byte is below that of each port of ours (_port_mac), or one in 64 VEs would have the port's own.
    """
    first, *rest = hashlib.sha256(f"{tag}-{veid}".encode()).digest()[:6]
    return _colons(bytes([first & 0x7C | 0x02, *rest]))


def bridge(netns: int, name: str, outside: str, inside: str, mac: str) -> None:
    """A port of the bridge name: a veth(4) pair whose end inside has this address, its end outside being the port.

    The bridge knows where the VE's address is, and does not send it what is for others; what comes from another address
    than its own it drops.  Broadcasts and multicasts reach it, as ARP and neighbour discovery need.  Nobody but the
    admin keeps it from other ports (isolated).
    """
    shape = f"bridge:{name}"
    there = _look(shape, name)
    if there.kind != "bridge":
        raise InvalidValue(
            f"cannot use network {shape}: it is not a bridge", "ip link show type bridge has those that are"
        )
    with _refused(shape), contextlib.ExitStack() as undo:
        rtnetlink.ask(rtnetlink.new_pair(outside, inside, netns, _port_mac(mac), peer_mac=mac))
        index = socket.if_nametoindex(outside)
        undo.callback(rtnetlink.ask, rtnetlink.delete(index))
        rtnetlink.ask(*rtnetlink.no_own_address(index))
        rtnetlink.ask(_change(index, (rtnetlink.IFLA_MASTER, struct.pack("=I", there.index))))
        port = b"".join(netlink.attribute(option, bytes([value])) for option, value in _PORT.items())
        info = netlink.attribute(_INFO_SLAVE_KIND, b"bridge\0") + netlink.attribute(_INFO_SLAVE_DATA, port)
        rtnetlink.ask(_change(index, (rtnetlink.IFLA_LINKINFO, info)))
        known = rtnetlink.NDMSG.pack(_AF_BRIDGE, index, _NUD_STATIC, _NTF_MASTER, 0)
        known += netlink.attribute(_NDA_LLADDR, netlink.mac(mac))
        rtnetlink.ask(netlink.request(rtnetlink.NEWNEIGH, known, rtnetlink.NEW))
        rtnetlink.ask(rtnetlink.up(index))
        _up_inside(netns, inside)
        undo.pop_all()


def macvlan(netns: int, name: str, inside: str, mac: str) -> None:
    """A macvlan of the interface name, of mode bridge, born in the VE; who has it never reaches the host by it."""
    shape = f"macvlan:{name}"
    there = _look(shape, name)
    if there.flags & _IFF_LOOPBACK:
        raise InvalidValue(f"cannot use network {shape}: nobody is on a loopback", "macvlan:IF of an Ethernet device")
    mode = netlink.attribute(_MACVLAN_MODE, struct.pack("=I", _MACVLAN_MODE_BRIDGE))
    info = netlink.attribute(rtnetlink.IFLA_INFO_KIND, b"macvlan\0") + netlink.attribute(_INFO_DATA, mode)
    body = rtnetlink.IFINFOMSG.pack(0, 0, 0, 0, 0)
    for kind, value in (
        (rtnetlink.IFLA_LINK, struct.pack("=I", there.index)),
        (rtnetlink.IFLA_IFNAME, inside.encode() + b"\0"),
        (rtnetlink.IFLA_ADDRESS, netlink.mac(mac)),
        (_IFLA_NET_NS_FD, struct.pack("=i", netns)),
        (rtnetlink.IFLA_LINKINFO, info),
    ):
        body += netlink.attribute(kind, value)
    with _refused(shape):
        rtnetlink.ask(netlink.request(rtnetlink.NEWLINK, body, rtnetlink.NEW))
        _up_inside(netns, inside)


# --- a device of the host's -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Device:
    """A device of the host's: what it is there, and its number in a VE once it is in one."""

    name: str
    mac: str
    kind: str  # "" of a physical one
    up: bool
    addresses: tuple[str, ...]  # with their lengths
    mtu: int
    queue: int  # packets
    flags: int  # of _FLAGS
    alias: str
    others: tuple[str, ...]  # alternative names
    index: int = 0

    def noted(self) -> str:
        """In one line."""
        import json  # only who moves a device pays for it

        return json.dumps(asdict(self))

    @classmethod
    def of(cls, noted: str) -> "Device":
        import json

        about = json.loads(noted)
        return cls(**about | {name: tuple(about[name]) for name in ("addresses", "others")})


def device(name: str, *, lost_ok: bool = False) -> Device:
    """The one of this name, which a VE may be given: InvalidValue.

    A physical one comes back to the initial network namespace when the VE's namespace ends without give_back(); one
    that a program has made would be deleted then, so it is NotSupported without lost_ok.
    """
    shape = f"device:{name}"
    there = _look(shape, name)
    if there.flags & _IFF_LOOPBACK:
        raise InvalidValue(f"cannot use network {shape}: each VE has a loopback of its own")
    if there.master:
        owner = socket.if_indextoname(there.master)
        raise InvalidValue(f"cannot use network {shape}: it is a part of {owner}", f"ip link set {name} nomaster")
    if there.kind and not lost_ok:
        why = f"it is virtual ({there.kind}), and would be lost if the VE ended by itself"
        raise NotSupported(f"cannot use network {shape}: {why}", "--device-lost-ok, or macvlan:IF or bridge:BR")
    return Device(
        name,
        there.mac,
        there.kind,
        bool(there.flags & _IFF_UP),
        tuple(_addresses(there.index)),
        there.mtu,
        there.queue,
        there.flags & _FLAGS,
        there.alias,
        tuple(bytes(each).rstrip(b"\0").decode() for _, each in netlink.attributes(memoryview(there.others))),
    )


def take(netns: int, device: Device) -> Device:
    """Move it into the VE, where it keeps its name and is up, and has no address; give_back() takes it back."""
    there = _look(f"device:{device.name}", device.name)
    with _refused(f"device:{device.name}"), contextlib.ExitStack() as undo:
        rtnetlink.ask(_change(there.index, (_IFLA_NET_NS_FD, struct.pack("=i", netns))))
        taken = replace(device, index=rtnetlink.index_there(netns, device.name))
        undo.callback(give_back, netns, taken)
        rtnetlink.ask_there(netns, rtnetlink.up(taken.index))
        undo.pop_all()
    return taken


def give_back(netns: int | None, device: Device) -> str:
    """Have the device on the host again as it was, with its addresses but for routes: its name, and "" if it is lost.

    The name is another than before only where one has that by now.  netns is None of a VE that has ended by itself:
    then it is looked for where the kernel puts it.  InUse is what the kernel refuses; all else is as it was then.
    """
    name, home = device.name, os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if netns is not None:
            name = next((each for each in _names(device.name) if _found(each) is None), device.name)
            if not inside(netns, lambda: _send_home(home, device, name)):
                return ""
        there = _found(name)
        if there is None or there.mac != device.mac:
            return ""
    except OSError as error:
        raise InUse(f"cannot give {device.name} back: {error.strerror or error}") from error
    finally:
        os.close(home)
    _restore(there, device)
    return name


def _names(wanted: str) -> Iterator[str]:
    yield wanted
    yield from (f"{wanted[:12]}-{number}" for number in range(2, 100))


def _send_home(home: int, device: Device, name: str) -> bool:
    """From within the VE, whatever that has made of its name and address."""
    down = netlink.request(rtnetlink.NEWLINK, rtnetlink.IFINFOMSG.pack(0, 0, device.index, 0, _IFF_UP))
    try:
        rtnetlink.ask(down, _change(device.index, (rtnetlink.IFLA_ADDRESS, netlink.mac(device.mac))))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return False
        raise
    there = _told(rtnetlink.look(device.index))
    if there.others:  # one that an interface of the host has as well would keep it here
        rtnetlink.ask(_without_others(there))
    called = (rtnetlink.IFLA_IFNAME, name.encode() + b"\0")
    rtnetlink.ask(_change(device.index, (_IFLA_NET_NS_FD, struct.pack("=i", home)), called))
    return True


def _restore(there: Link, device: Device) -> None:
    """On the host; InUse for the first that the kernel refuses, when all else is done."""
    refused: InUse | None = None
    for words, message in _as_it_was(there, device):
        try:
            rtnetlink.ask(message)
        except FileExistsError:
            continue  # it has the address, or another one has the name
        except OSError as error:
            why = f"cannot give {there.name} back as it was: {error.strerror or error}"
            refused = refused or InUse(why, f"ip {words}")
    if refused:
        raise refused


def _as_it_was(there: Link, device: Device) -> Iterator[tuple[str, bytes]]:
    """What there is to ask for, and how ip(8) does so; the mtu is first, as where it is small there is no IPv6."""
    index, name = there.index, there.name
    link = f"link set {name}"
    yield f"{link} mtu {device.mtu}", _change(index, (_IFLA_MTU, struct.pack("=I", device.mtu)))
    yield f"{link} txqueuelen {device.queue}", _change(index, (_IFLA_TXQLEN, struct.pack("=I", device.queue)))
    yield f"{link} alias '{device.alias}'", _change(index, (_IFLA_IFALIAS, device.alias.encode()))
    flags = rtnetlink.IFINFOMSG.pack(0, 0, index, device.flags, _FLAGS)
    yield f"-d link show {name}", netlink.request(rtnetlink.NEWLINK, flags)
    if there.others:
        yield f"-d link show {name}", _without_others(there)
    for other in device.others:
        yield f"link property add dev {name} altname {other}", rtnetlink.alternative_name(name, other)
    if device.up:
        yield f"{link} up", rtnetlink.up(index)
    for text in device.addresses:
        each = ipaddress.ip_interface(text)
        message = rtnetlink.address(rtnetlink.NEWADDR, index, each.ip, each.network.prefixlen)
        yield f"address add {text} dev {name}", message


def _without_others(link: Link) -> bytes:
    body = rtnetlink.IFINFOMSG.pack(0, 0, link.index, 0, 0) + netlink.nested(_IFLA_PROP_LIST, link.others)
    return netlink.request(_DELLINKPROP, body)


def _addresses(index: int) -> Iterator[str]:
    """Those that somebody has given it for good; of IPv6 not the link-local one, which comes by itself."""
    with netlink.connect(socket.NETLINK_ROUTE) as channel:
        for body in netlink.whole(channel, _GETADDR, _IFADDRMSG.pack(0, 0, 0, 0, 0)):
            _, length, flags, scope, owner = _IFADDRMSG.unpack_from(body)
            found = {kind: bytes(value) for kind, value in netlink.attributes(body, _IFADDRMSG.size)}
            own = ipaddress.ip_address(found.get(_IFA_LOCAL, found[_IFA_ADDRESS]))
            flags = int.from_bytes(found.get(_IFA_FLAGS, bytes([flags])), "little")
            if owner == index and flags & _IFA_F_PERMANENT and not (own.version == 6 and scope == _SCOPE_LINK):
                yield f"{own}/{length}"


# --- the kernel -----------------------------------------------------------------------------------------------------


def _look(shape: str, name: str) -> Link:
    found = _found(name)
    if found is None:
        names = [each for _, each in socket.if_nameindex()]
        raise InvalidValue(f"cannot use network {shape}: there is no interface {name}", nearest(name, names))
    return found


def _found(name: str) -> Link | None:
    try:
        body = rtnetlink.look(name)
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise
    return _told(body)


def _told(body: memoryview) -> Link:
    _, _, index, flags, _ = rtnetlink.IFINFOMSG.unpack_from(body)
    found = {kind: bytes(value) for kind, value in netlink.attributes(body, rtnetlink.IFINFOMSG.size)}
    info = dict(netlink.attributes(memoryview(found.get(rtnetlink.IFLA_LINKINFO, b""))))
    kind = bytes(info.get(rtnetlink.IFLA_INFO_KIND, b"")).rstrip(b"\0").decode()
    master, mtu, queue = (
        int.from_bytes(found.get(each, b""), sys.byteorder) for each in (rtnetlink.IFLA_MASTER, _IFLA_MTU, _IFLA_TXQLEN)
    )
    name, alias = (
        found.get(each, b"").rstrip(b"\0").decode(errors="replace") for each in (rtnetlink.IFLA_IFNAME, _IFLA_IFALIAS)
    )
    mac, others = _colons(found.get(rtnetlink.IFLA_ADDRESS, b"")), found.get(_IFLA_PROP_LIST, b"")
    return Link(name, index, flags, mac, kind, master, mtu, queue, alias, others)


@contextlib.contextmanager
def _refused(shape: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidValue(f"cannot use network {shape}: {error.strerror or error}") from error


def _change(index: int, *attributes: tuple[int, bytes]) -> bytes:
    body = rtnetlink.IFINFOMSG.pack(0, 0, index, 0, 0) + b"".join(netlink.attribute(*each) for each in attributes)
    return netlink.request(rtnetlink.NEWLINK, body)


def _up_inside(netns: int, name: str) -> int:
    """Its number there."""
    index = rtnetlink.index_there(netns, name)
    rtnetlink.ask_there(netns, rtnetlink.up(index))
    return index


def _port_mac(mac: str) -> str:
    """Of a port: higher than any other's, since a bridge without an address of its own takes the lowest."""
    return f"fe{mac[2:]}"


def _colons(address: bytes) -> str:
    return address.hex(":")
