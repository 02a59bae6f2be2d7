"""Forwarding: that this host passes on what VEs send to others, and others to VEs (ip-sysctl in the kernel's docs).

A host that forwards IPv6 is a router, and does not listen to others: from then on it ignores router advertisements, and
at once loses the default route that it learnt by one, unless accept_ra of that interface is 2.
"""

import socket
import struct
from collections.abc import Iterable
from contextlib import ExitStack, suppress

from ve import netlink, rtnetlink
from ve.errors import NotSupported

_SYSCTLS = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
# <linux/rtnetlink.h>
_RTA_OIF, _RTPROT_RA = 4, 9


def turn_on(versions: Iterable[int], undo: ExitStack, cannot: str) -> list[str]:
    """Let the host forward these families; what it changed, each as "net.ipv4.ip_forward: 0 -> 1".

    undo gets what takes that back.  NotSupported if the host would lose its own way out, or cannot be told; cannot is
    how the sentence begins.
    """
    return [f"{_SYSCTLS[version]}: 0 -> 1" for version in sorted(versions) if _turn_on(version, undo, cannot)]


def _turn_on(version: int, undo: ExitStack, cannot: str) -> bool:
    name = _SYSCTLS[version]
    if _read(name) != "0":
        return False
    if version == 6 and (losing := _learnt_default_routes()):
        key = f"net.ipv6.conf.{losing[0]}.accept_ra"
        why = f"a host that forwards IPv6 loses the default route that {losing[0]} has from router advertisements"
        raise NotSupported(f"{cannot}: {why}", f"sysctl -w {key}=2 keeps it; write that to /etc/sysctl.d too")
    try:
        _write(name, "1")
    except OSError as error:
        raise NotSupported(f"{cannot}: {name} cannot be set: {error.strerror}", f"sysctl -w {name}=1") from error
    undo.callback(_write, name, "0")
    return True


def answer_on(link: str, version: int, cannot: str) -> None:
    """Let the host answer at once, on this link of its own, for VEs with addresses of the network that is there.

    For as long as the host is up, since nobody can tell who else is answered for by then.  NotSupported if it cannot be
    told; cannot is how the sentence begins.
    """
    wanted = {f"net.ipv{version}.neigh.{link}.proxy_delay": "0"}
    if version == 6:
        wanted[f"net.ipv6.conf.{link}.proxy_ndp"] = "1"
    for name, value in wanted.items():
        try:
            if _read(name) != value:
                _write(name, value)
        except OSError as error:
            why = f"{name} cannot be set: {error.strerror}"
            raise NotSupported(f"{cannot}: {why}", f"sysctl -w {name}={value}") from error


def off(versions: Iterable[int]) -> list[str]:
    """The sysctls of those of these families that the host does not forward."""
    return [_SYSCTLS[version] for version in versions if _read(_SYSCTLS[version]) == "0"]


def _learnt_default_routes() -> list[str]:
    """The interfaces whose default routes the kernel would remove."""
    found = []
    with netlink.connect(socket.NETLINK_ROUTE) as channel:
        request = rtnetlink.RTMSG.pack(socket.AF_INET6, 0, 0, 0, 0, 0, 0, 0, 0)
        for body in netlink.dump(channel, rtnetlink.GETROUTE, request):
            attributes = dict(netlink.attributes(body, rtnetlink.RTMSG.size))
            if body[1] == 0 and body[5] == _RTPROT_RA and _RTA_OIF in attributes:
                found.append(struct.unpack("=i", attributes[_RTA_OIF])[0])
    names = {name for index, name in socket.if_nameindex() if index in found}
    return sorted(name for name in names if _read(f"net.ipv6.conf.{name}.accept_ra") == "1")


def _path(name: str) -> str:
    """Dots of an interface's name are in it as they are: it is what stands between."""
    parts = name.split(".")
    words = parts if len(parts) < 5 else [*parts[:3], ".".join(parts[3:-1]), parts[-1]]
    return "/".join(["/proc/sys", *words])


def _read(name: str) -> str:
    with suppress(OSError), open(_path(name)) as file:
        return file.read().strip()
    return ""


def _write(name: str, value: str) -> None:
    with open(_path(name), "w") as file:
        file.write(value)
