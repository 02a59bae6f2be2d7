"""Who answers on a link, and for what we answer: between a namespace that plays the host and one that is outside.

The outside answers by its own kernel; what we say is heard by a packet socket there, and by its neighbour table.
"""

import json
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import Any

import pytest

from tests import hostnet as nets
from tests.hostnet import HostNet
from ve import wire

pytestmark = pytest.mark.long  # what takes the emulated CPU minutes

THERE = ["192.0.2.9", "2001:db8::9"]
NOBODY = ["192.0.2.77", "2001:db8::77"]
FAR = ["10.9.0.5", "fd00:9::5"]  # of a VE


def answers(hostnet: HostNet, address: str) -> bool:
    return hostnet.call(wire.answers, "eth0", ip_address(address))


@contextmanager
def proxying(hostnet: HostNet, words: list[str], address: str) -> Iterator[None]:
    """The other side answers for an address that it has not, but would route."""
    settings = [
        "net.ipv4.conf.eth0.forwarding=1",
        "net.ipv4.neigh.eth0.proxy_delay=0",
        "net.ipv6.conf.all.forwarding=1",
    ]
    settings += ["net.ipv6.conf.eth0.proxy_ndp=1", "net.ipv6.neigh.eth0.proxy_delay=0"]
    subprocess.run([*words, "sysctl", "-qw", *settings], check=True)
    for line in ("link add one type veth peer name two", "link set one up", "link set two up"):
        subprocess.run([*words, "ip", *line.split()], check=True)
    subprocess.run([*words, "ip", "route", "add", address, "dev", "one"], check=True)
    yield


@pytest.mark.parametrize("address", THERE)
def test_who_has_it_answers(hostnet: HostNet, address: str) -> None:
    assert answers(hostnet, address)


@pytest.mark.parametrize("address", NOBODY)
def test_nobody_answers(hostnet: HostNet, address: str) -> None:
    assert not answers(hostnet, address)


@pytest.mark.parametrize("address", NOBODY)
def test_the_first_answer_is_enough(hostnet: HostNet, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With so long a pause, this test would end for its time."""
    monkeypatch.setattr(wire, "PAUSE", 1000.0)
    nodad = ["nodad"] if ":" in address else []
    hostnet.outside("ip", "address", "add", address, "dev", "eth0", *nodad)
    assert answers(hostnet, address)


@pytest.mark.parametrize("address", NOBODY)
def test_another_host_that_answers_for_its_ve_is_heard(hostnet: HostNet, address: str) -> None:
    words = nets.entering(hostnet.other)
    with proxying(hostnet, words, address):
        assert not answers(hostnet, address)
        subprocess.run([*words, "ip", "neigh", "add", "proxy", address, "dev", "eth0"], check=True)
        assert answers(hostnet, address)


@pytest.mark.parametrize("address", NOBODY)
def test_who_wants_it_at_this_moment_counts(hostnet: HostNet, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another host probes the same address, as RFC 5227 and 4862 have it: its probe comes while we wait."""
    monkeypatch.setattr(wire, "PAUSE", 1000.0)
    own, listen = wire._readable, iter([True])
    arp = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, b"\2abcde", bytes(4), bytes(6), b"\xc0\0\2M")
    group = wire._SOLICITED + ip_address(address).packed[-3:]
    nd = wire._ipv6(bytes(16), group, wire._ND.pack(135, 0, 0, 0, ip_address(address).packed))
    ethertype, packet = (0x86DD, nd) if ":" in address else (0x0806, arp)

    def readable(channel: socket.socket, timeout: float) -> bool:
        if next(listen, False):
            there.sendto(packet, ("eth0", ethertype, 0, 0, b"\x33\x33" + group[-4:] if ":" in address else b"\xff" * 6))
        return own(channel, timeout)

    with outside_socket(hostnet, ethertype) as there:
        monkeypatch.setattr(wire, "_readable", readable)
        assert answers(hostnet, address)


@contextmanager
def outside_socket(hostnet: HostNet, ethertype: int) -> Iterator[socket.socket]:
    outside = HostNet(hostnet.other, hostnet.host)
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    with outside.call(socket.socket, socket.AF_PACKET, kind, socket.htons(ethertype)) as channel:
        channel.bind(("eth0", ethertype))
        yield channel


def test_a_probe_teaches_nobody_anything(hostnet: HostNet) -> None:
    """Its sender has no address: RFC 5227, 1.1; and of IPv6 neither, RFC 4862."""
    with outside_socket(hostnet, 0x0806) as channel:
        answers(hostnet, NOBODY[0])
        arp = [packet for packet in waiting(channel) if packet[24:28] == b"\xc0\0\2M"]
    assert {packet[14:18] for packet in arp} == {bytes(4), b"\xc0\0\2\1"}  # the other one is what is true of us
    with outside_socket(hostnet, 0x86DD) as channel:
        answers(hostnet, NOBODY[1])
        target = socket.inet_pton(socket.AF_INET6, NOBODY[1])
        asked = [packet for packet in waiting(channel) if packet[40] == 135 and packet[48:64] == target]
    assert {packet[8:24] for packet in asked} == {bytes(16)}
    assert json.loads(hostnet.outside("ip", "-j", "neigh", "show", NOBODY[0]).stdout) == []


def waiting(channel: socket.socket) -> Iterator[bytes]:
    channel.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            yield channel.recv(256)


@pytest.mark.parametrize("address", NOBODY)
def test_an_announcement_replaces_what_neighbours_knew(hostnet: HostNet, address: str) -> None:
    hostnet.outside("sysctl", "-qw", "net.ipv4.neigh.eth0.locktime=0", "net.ipv6.neigh.eth0.locktime=0")
    line = f"ip neigh add {address} lladdr 02:00:00:00:00:07 dev eth0 nud stale"
    hostnet.outside(*line.split())
    hostnet.call(wire.announce, "eth0", ip_address(address))
    [mac] = [each["address"] for each in json.loads(hostnet.run("ip", "-j", "link", "show", "eth0").stdout)]
    knows = (json.loads(hostnet.outside("ip", "-j", "neigh", "show", address).stdout) for _ in range(500))
    assert any(known["lladdr"] == mac for [known] in knows)  # a busy machine hands the packet on when it comes to it


@pytest.mark.parametrize("address", THERE)
def test_without_an_ethernet_nobody_is_asked_or_told(hostnet: HostNet, address: str) -> None:
    assert not hostnet.call(wire.answers, "lo", ip_address(address))
    hostnet.call(wire.announce, "lo", ip_address(address))


@pytest.mark.parametrize("address", THERE)
def test_an_interface_that_is_not_there(hostnet: HostNet, address: str) -> None:
    for ask in (wire.answers, wire.announce, wire.proxy):
        with pytest.raises(OSError, match=r"No such device|no interface with this name"):
            hostnet.call(ask, "eth7", ip_address(address))


# ---- which link, and answering ----------------------------------------------------------------------------------


@pytest.mark.parametrize("address", NOBODY + THERE)
def test_the_link_of_an_address(hostnet: HostNet, address: str) -> None:
    assert hostnet.call(wire.uplink, ip_address(address)) == "eth0"


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", *FAR, "127.0.0.1", "::1"])
def test_addresses_of_our_own_or_behind_a_router_are_on_no_link(hostnet: HostNet, address: str) -> None:
    assert hostnet.call(wire.uplink, ip_address(address)) is None


@pytest.mark.parametrize("address", FAR)
def test_addresses_that_are_routed_otherwise_are_on_no_link(hostnet: HostNet, address: str) -> None:
    network = "10.9.0.0/16" if "." in address else "fd00:9::/64"
    routes = [f"unreachable {network}", f"{network} via {THERE[':' in address]}"]
    for route in routes:
        hostnet.run("ip", "route", "add", *route.split())
        assert hostnet.call(wire.uplink, ip_address(address)) is None
        hostnet.run("ip", "route", "del", *route.split())
    hostnet.run("ip", "route", "del", "default")
    hostnet.run("ip", "-6", "route", "del", "default")
    assert hostnet.call(wire.uplink, ip_address(address)) is None
    hostnet.run("ip", "route", "add", network, "dev", "eth0")
    assert hostnet.call(wire.uplink, ip_address(address)) == "eth0"
    hostnet.run("ip", "link", "set", "eth0", "arp", "off")
    assert hostnet.call(wire.uplink, ip_address(address)) is None


@pytest.mark.parametrize("address", NOBODY)
def test_neighbours_are_answered(hostnet: HostNet, address: str) -> None:
    here = nets.entering(hostnet.host)
    with proxying(hostnet, here, address):
        hostnet.run("ip", "neigh", "add", "proxy", "192.0.2.70", "dev", "eth0")  # of an admin
        hostnet.call(wire.proxy, "eth0", ip_address(address))
        hostnet.call(wire.proxy, "eth0", ip_address(address))
        assert address in {each["dst"] for each in shown_proxies(hostnet)}
        hostnet.outside("ping", "-c1", "-W1", address, check=False)
        known = json.loads(hostnet.outside("ip", "-j", "neigh", "show", address).stdout)
        [mac] = [each["address"] for each in json.loads(hostnet.run("ip", "-j", "link", "show", "eth0").stdout)]
        assert [each.get("lladdr") for each in known] == [mac]

        hostnet.call(wire.unproxy, "eth0", ip_address(address))
        hostnet.call(wire.unproxy, "eth0", ip_address(address))
        assert [each["dst"] for each in shown_proxies(hostnet)] == ["192.0.2.70"]


def shown_proxies(hostnet: HostNet) -> list[dict[str, Any]]:
    shown = [hostnet.run("ip", "-j", family, "neigh", "show", "proxy").stdout for family in ("-4", "-6")]
    return [each for text in shown for each in json.loads(text or "[]")]
