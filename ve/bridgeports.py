"""VEs that are ports of bridges: what each of them may send, by the table bridge ve (ve/ruleset.py).

    <run>/network/guarded/<VE>     the port, by its name, and what it may send as: its MAC, its addresses

<VE> is the alternative name of its interface, so that it is found from the VEID alone, whenever a start was killed.
The file is written before the kernel is asked.  When somebody has flushed our table (`nft flush ruleset`), the next
start makes it again, with all of this in it; what was counted is lost then.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from contextlib import suppress

from ve import netlink, nftables, ruleset, wholefile
from ve.addresses import Address
from ve.firewall import alone, anew
from ve.netdir import guarded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


_PORT = r"[^\s/]{1,15} [0-9a-f]{2}(:[0-9a-f]{2}){5}"


def ensure() -> None:
    """Have the table in place, and in it what each port may send: 0.1 ms.  A host without such VEs has none."""
    if os.path.lexists(guarded("")) and not nftables.is_whole(*ruleset.BRIDGE.signs):
        with alone("rules"):
            _load()


def guard(owner: str, interface: str, mac: str, addresses: Iterable[Address]) -> None:
    """Let a VE that is a port of a bridge send by this MAC and from these addresses alone, and hear of no other.

    owner is who releases it.  Of an interface that is not up yet.  Also from the link-local address that the kernel
    derives from the MAC.  Any port named venet* that was not guarded is cut off, from when the first one is.
    """
    with alone("a guarded port"):
        path = guarded(owner)
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        before = _noted(path)
        now = " ".join((interface, mac, *map(str, addresses)))
        wholefile.write_whole(path, f"{before}\n{now}".encode(), durable=False)  # whichever comes to be
        _load()
        _let_pass(before, now)
        wholefile.write_whole(path, now.encode(), durable=False)


def release(owner: str) -> None:
    """Forget what its port might send; one lstat where that is nothing."""
    path = guarded(owner)
    if os.path.lexists(path):
        with alone("a released port"):
            _let_pass(_noted(path), "")
            with suppress(FileNotFoundError):
                os.unlink(path)


def _noted(path: str) -> str:
    """Its lines, but for those that say anything else."""
    lines = wholefile.read_small(path).decode(errors="replace").splitlines()
    return "\n".join(filter(_is_port, lines))


def _is_port(line: str) -> bool:
    named, words = " ".join(line.split(" ")[:2]), line.split(" ")[2:]
    with suppress(ValueError):
        return bool(re.fullmatch(_PORT, named) and all(map(ipaddress.ip_address, words)))
    return False


def _load() -> None:
    if nftables.is_whole(*ruleset.BRIDGE.signs):
        return
    nftables.load(anew(ruleset.BRIDGE))
    for name in os.listdir(guarded("")):
        if not name.startswith("."):
            lines = _noted(guarded(name)).splitlines()
            _let_pass("", "\n".join(line for line in lines if _is_interface(line.partition(" ")[0])))


def _let_pass(before: str, now: str) -> None:
    """What the lines of now say, and of those of before no more."""
    wanted = set(_of_ports(now))
    unwanted = set(_of_ports(before)) - wanted
    found = [(name, key) for name, key in unwanted if nftables.find("bridge", name, key)]
    nftables.change(
        *(nftables.gone("bridge", *each) for each in found),
        *(nftables.there("bridge", *each) for each in wanted),
    )


def _of_ports(lines: str) -> Iterator[tuple[str, bytes]]:
    """The sets of the bridge's table, and its keys there."""
    for line in filter(None, lines.splitlines()):
        interface, mac, *words = line.split(" ")
        start = nftables.joined(nftables.interface(interface), netlink.mac(mac))
        yield "own", start
        for address in (link_local(mac), *map(ipaddress.ip_address, words)):
            yield f"own{address.version}", start + address.packed
            if address.version == 6:
                yield "targets6", start + address.packed


def link_local(mac: str) -> Address:
    """The address that an interface with this MAC gives itself, of the modified EUI-64 (RFC 4291, appendix A)."""
    raw = netlink.mac(mac)
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes((raw[0] ^ 2,)) + raw[1:3] + b"\xff\xfe" + raw[3:])


def _is_interface(name: str) -> bool:
    with suppress(OSError):
        return bool(socket.if_nametoindex(name))
    return False
