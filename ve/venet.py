"""The way between a VE with addresses and its host, as OpenVZ's venet: a veth(4) pair that is a wire between the two.

    the host                                        the VE
    venetXXXXXXXXX                                  venet0
      169.254.1.1, fe80::1                            10.9.0.5, fd00:9::5
      10.9.0.5 dev venetXXXXXXXXX   <- the lease      default via 169.254.1.1, fe80::1

Nobody else is on it, so nothing is asked for or answered on it: both ends have the same hardware address and IFF_NOARP,
and who forges ARP or neighbour discovery is not heard.  The route to one address is added exclusively (NLM_F_EXCL), so
the kernel gives each address to one VE, and takes it back with the interface when the VE's network namespace goes.
Each start has an interface name of its own; from the VEID alone it is found by its alternative name, and its alias says
which state dir's VEID that is.  Who has which address is asked in ve/leases.py.
"""

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator

from ve import linknames, rtnetlink, shapes
from ve.addresses import Address, Wish
from ve.errand import inside
from ve.errors import NotSupported

INSIDE, MAC = shapes.INSIDE["routed"], "02:76:65:00:00:01"
GATEWAYS = {4: ipaddress.ip_address("169.254.1.1"), 6: ipaddress.ip_address("fe80::1")}
# <linux/if_link.h>, <linux/if.h>
_IFALIASZ = 256


class Refused(OSError):
    """What the kernel says of the VE's end of its pair, which its root may have changed, renamed or moved."""


def connect(pidfd: int, netns: int, tag: str, veid: int, state_dir: str) -> str:
    """Make the pair of a VE that has none, without addresses: the name on the host."""
    name = linknames.new_name()
    pair = rtnetlink.new_pair(name, INSIDE, netns, MAC, rtnetlink.IFF_NOARP)
    rtnetlink.ask(pair, rtnetlink.alternative_name(name, linknames.alternative_name(tag, veid)))
    index = socket.if_nametoindex(name)
    gateway = rtnetlink.address(rtnetlink.NEWADDR, index, GATEWAYS[4], local=True)
    shown = state_dir.isprintable() and len(os.fsencode(state_dir)) < _IFALIASZ
    alias = rtnetlink.alias(index, state_dir if shown else "")
    rtnetlink.ask(*rtnetlink.no_own_address(index), alias, gateway)
    # The end that comes up last sends at once, the other some time later (net/core/link_watch.c).
    rtnetlink.ask_there(pidfd, rtnetlink.up(rtnetlink.index_there(pidfd, INSIDE)))
    rtnetlink.ask(rtnetlink.up(index))
    return name


def cut(name: str) -> None:
    """Remove the pair of a VE that has ended, by the name on the host, which no later start has."""
    with contextlib.suppress(OSError):
        rtnetlink.remove(socket.if_nametoindex(name))


def lease(name: str, address: Address) -> None:
    """Let a VE, by its interface, have this address; FileExistsError if another interface has it."""
    rtnetlink.ask(rtnetlink.host_route(rtnetlink.NEWROUTE, socket.if_nametoindex(name), address))


def give_back(name: str, address: Address) -> None:
    """Let nobody have it."""
    with contextlib.suppress(OSError):
        rtnetlink.ask(rtnetlink.host_route(rtnetlink.DELROUTE, socket.if_nametoindex(name), address))


def add(pidfd: int, name: str, wishes: Iterable[Wish]) -> None:
    """Let the VE know of addresses that it has been leased, and of the way out; its end is up then.  Refused."""
    addresses = [(wish.address, wish.length) for wish in wishes if wish.address]
    versions = sorted({address.version for address, _ in addresses})
    if 6 in versions:
        _have_ipv6(name)

    with _refused():
        index = rtnetlink.index_there(pidfd, INSIDE)
    messages = [rtnetlink.up(index)]
    messages += [rtnetlink.address(rtnetlink.NEWADDR, index, address, length) for address, length in addresses]
    for version in versions:
        if version == 4:
            gateway = ipaddress.ip_network(GATEWAYS[version])
            messages.append(rtnetlink.route(rtnetlink.NEWROUTE, index, gateway, local=True))
        messages.append(rtnetlink.route(rtnetlink.NEWROUTE, index, rtnetlink.default(version), GATEWAYS[version]))
    with _refused():
        inside(pidfd, lambda: _ask_anew(*messages))


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Refused(error.errno, error.strerror or str(error)) from error


def remove(pidfd: int, wishes: Iterable[Wish]) -> None:
    """Take addresses from the VE, which may have done so itself."""

    with contextlib.suppress(OSError):
        index = rtnetlink.index_there(pidfd, INSIDE)
        addresses = [(wish.address, wish.length) for wish in wishes if wish.address]
        messages = [rtnetlink.address(rtnetlink.DELADDR, index, address, length) for address, length in addresses]
        rtnetlink.ask_there(pidfd, *messages)


def require(version: int, cannot: str) -> None:
    """NotSupported if this host has no IPv6, or was told to have none; cannot is how the sentence begins."""
    if version == 6 and not os.path.isdir("/proc/sys/net/ipv6"):
        cure = "boot it without ipv6.disable=1, or give IPv4 addresses only"
        raise NotSupported(f"{cannot}: this host has no IPv6", cure)
    if version == 6 and _setting("all", "disable_ipv6") == "1":
        cure = "sysctl -w net.ipv6.conf.all.disable_ipv6=0, or give IPv4 addresses only"
        raise NotSupported(f"{cannot}: IPv6 is disabled on this host", cure)


def _have_ipv6(name: str) -> None:
    if _setting(name, "disable_ipv6") == "1":
        _set(name, "disable_ipv6", "0")
    _ask_anew(rtnetlink.address(rtnetlink.NEWADDR, socket.if_nametoindex(name), GATEWAYS[6], 64))


def _setting(name: str, key: str) -> str:
    with open(f"/proc/sys/net/ipv6/conf/{name}/{key}") as file:
        return file.read().strip()


def _set(name: str, key: str, value: str) -> None:
    with open(f"/proc/sys/net/ipv6/conf/{name}/{key}", "w") as file:
        file.write(value)


def _ask_anew(*messages: bytes) -> None:
    """Have these done, or find that they are."""
    for message in messages:
        with contextlib.suppress(FileExistsError):
            rtnetlink.ask(message)
