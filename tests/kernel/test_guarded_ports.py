"""VEs that are ports of an admin's bridge: what they may send and get; forged, with our rules and without."""

import ipaddress
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.hostnet import HostNet, namespace
from tests.kernel import frames
from tests.kernel.frames import ARP, ICMP, ICMP6, IP, IP6, UDP, arp, ether, icmp, icmp6, neighbour, packet, udp
from tests.kernel.netns import MARK, StandIn, sniffing, until_mark, wait_until
from tests.kernel.test_firewall import elements
from ve import bridgeports, firewall

pytestmark = pytest.mark.long  # what takes the emulated CPU minutes

OWN, OTHER, LAN = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:09"
ADDRESS, ADDRESS6, LINK = "10.1.0.1", "fd01::1", "fe80::ff:fe00:1"
OTHERS, OTHERS6 = "10.1.0.2", "fd01::2"
ALL_NODES = "33:33:00:00:00:01"
PORT = "venetport1"
WITNESS = """
add table bridge witness
add chain bridge witness c { type filter hook input priority 0; }
add rule bridge witness c ether daddr 01:80:c2:00:00:03 counter
"""
# Where bridged packets go through the host's own hooks, these put fragments together (br_netfilter, conntrack).
NO_NETFILTER = "for each in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $each ] || echo 0 >$each; done"


@dataclass(frozen=True)
class Bridged:
    """A VE that is a port, and who else is on the bridge."""

    ve: StandIn
    lan: StandIn


@pytest.fixture
def bridged(hostnet: HostNet) -> Iterator[Bridged]:
    with ExitStack() as stack:
        ve, lan = (StandIn(stack.enter_context(namespace())) for _ in range(2))
        hostnet.run("ip", "link", "add", "br0", "up", "type", "bridge", "mcast_snooping", "0")
        for stand_in, name, mac in ((ve, PORT, OWN), (lan, "lan0", LAN)):
            peer = ["peer", "venet0", "address", mac, "netns", str(stand_in.pid)]
            hostnet.run("ip", "link", "add", name, "type", "veth", *peer)
            hostnet.run("ip", "link", "set", name, "master", "br0", "up")
            hostnet.run("nsenter", f"--net=/proc/{stand_in.pid}/ns/net", "ip", "link", "set", "venet0", "up")
        hostnet.run("sh", "-c", NO_NETFILTER)
        wait_forwarding(hostnet, PORT, "lan0")
        yield Bridged(ve, lan)


def wait_forwarding(hostnet: HostNet, *ports: str) -> None:
    """A port forwards from when the kernel's own work has seen that its peer is there."""
    wait_until(lambda: all(state(hostnet, port) == "forwarding" for port in ports))


def state(hostnet: HostNet, port: str) -> str:
    [about] = json.loads(hostnet.run("bridge", "-j", "link", "show", "dev", port).stdout)
    return str(about["state"])


@pytest.fixture
def guarded(hostnet: HostNet, bridged: Bridged) -> Bridged:
    addresses = [ipaddress.ip_address(each) for each in (ADDRESS, ADDRESS6)]
    hostnet.call(bridgeports.guard, "ve-test-1", PORT, OWN, addresses)
    return bridged


def inside(by: str, kind: int, payload: bytes, to: str = LAN) -> bytes:
    return ether(to, by, kind, payload)


def six(source: str, body: bytes, by: str = OWN, protocol: int = ICMP6, target: str = "ff02::1") -> bytes:
    return inside(by, IP6, packet(source, target, protocol, body), ALL_NODES)


def four(source: str, body: bytes, by: str = OWN, protocol: int = UDP, target: str = "10.1.0.9") -> bytes:
    return inside(by, IP, packet(source, target, protocol, body))


TEXT = b"a message that is long enough"
PLAIN = udp(1000, 1000, TEXT)
OFFER6 = udp(547, 546, TEXT)
FORBIDDEN = {
    "IPv4 from another": four(OTHERS, PLAIN),
    "IPv4 from nobody": four("0.0.0.0", PLAIN),
    "IPv6 from another": six(OTHERS6, PLAIN, protocol=UDP),
    "IPv6 from another on the link": six("fe80::1", PLAIN, protocol=UDP),
    "IPv6 from nobody": six("::", PLAIN, protocol=UDP),
    "another MAC": four(ADDRESS, PLAIN, by=OTHER),
    "another MAC, IPv6": six(ADDRESS6, PLAIN, by=OTHER, protocol=UDP),
    "ARP for another": arp(2, OWN, OTHERS, OTHERS),
    "ARP with another MAC in it": arp(2, OWN, ADDRESS, ADDRESS, inner=OTHER),
    "ARP that asks as another": arp(1, OWN, OTHERS, "10.1.0.9"),
    "ARP that asks for another as nobody": arp(1, OWN, "0.0.0.0", OTHERS),
    "ND for another": six(ADDRESS6, neighbour(136, OTHERS6)),
    "ND for another from the link": six(LINK, neighbour(136, OTHERS6)),
    "ND that asks as another": six(OTHERS6, neighbour(135, "fd01::9")),
    "ND that asks for another as nobody": six("::", neighbour(135, OTHERS6)),
    "advertisement of a router": six(LINK, icmp6(134, bytes(12))),
    "redirect": six(LINK, icmp6(137, bytes(36))),
    "redirect, IPv4": four(ADDRESS, icmp(5, rest=bytes(32)), protocol=ICMP),
    "offer of DHCP": four(ADDRESS, udp(67, 68, TEXT)),
    "offer of DHCPv6": six(LINK, OFFER6, protocol=UDP),
    "in a VLAN": frames.tagged(four(OTHERS, PLAIN)),
    "its own in a VLAN": frames.tagged(four(ADDRESS, PLAIN)),
    "another protocol": inside(OWN, 0x88CC, bytes(60)),
    "to the bridge itself": ether("01:80:c2:00:00:00", OWN, 0x0026, b"\x42\x42\x03" + bytes(60)),
}
ALLOWED = {
    "IPv4": four(ADDRESS, PLAIN),
    "IPv4 to all": ether(frames.EVERYONE, OWN, IP, packet(ADDRESS, "255.255.255.255", UDP, PLAIN)),
    "IPv6": six(ADDRESS6, PLAIN, protocol=UDP),
    "IPv6 on the link": six(LINK, PLAIN, protocol=UDP),
    "ARP": arp(1, OWN, ADDRESS, "10.1.0.9"),
    "ARP, answered": arp(2, OWN, ADDRESS, "10.1.0.9"),
    "ARP before it has its address": arp(1, OWN, "0.0.0.0", ADDRESS),
    "ND": six(ADDRESS6, neighbour(135, "fd01::9")),
    "ND, answered": six(LINK, neighbour(136, ADDRESS6)),
    "ND before it has its address": six("::", neighbour(135, ADDRESS6)),
    "ND for a router": six(LINK, icmp6(133, bytes(4))),
    "a report of what it listens to": six("::", icmp6(143, bytes(4))),
    "a wish for DHCP": ether(frames.EVERYONE, OWN, IP, packet("0.0.0.0", "255.255.255.255", UDP, udp(68, 67, TEXT))),
    "a ping": four(ADDRESS, icmp(8, rest=bytes(12)), protocol=ICMP),
}
LAST = four(ADDRESS, udp(1000, 1000, MARK))


def arrive(bridged: Bridged, sent: dict[str, bytes]) -> set[str]:
    """Which of these, before the last one does: a tag is shown out of the frame by the socket."""
    with sniffing(bridged.lan.call, "venet0") as wire:
        bridged.ve.send([*sent.values(), LAST])
        got = set(until_mark(wire))
    untagged = {name: frame[:12] + frame[16:] if frame[12:14] == b"\x81\x00" else frame for name, frame in sent.items()}
    return {name for name in sent if sent[name] in got or untagged[name] in got}


def test_it_may_not_send_as_another(hostnet: HostNet, guarded: Bridged) -> None:
    assert arrive(guarded, FORBIDDEN) == set()
    hostnet.run("nft", "flush", "ruleset")
    assert arrive(guarded, FORBIDDEN) == FORBIDDEN.keys()


def test_it_may_send_as_itself(guarded: Bridged) -> None:
    assert arrive(guarded, ALLOWED) == ALLOWED.keys()


def test_no_fragment_hides_what_is_sent(hostnet: HostNet, guarded: Bridged) -> None:
    """In a chain of headers whose last one, of the offer of DHCPv6, comes with the second fragment, or the first."""

    def parts(source: str, body: bytes, hidden: bool) -> dict[str, bytes]:
        made = frames.fragmented(source, "ff02::1", UDP, body, hidden=hidden)
        return {f"part {number}": inside(OWN, IP6, part, ALL_NODES) for number, part in enumerate(made)}

    assert arrive(guarded, parts(ADDRESS6, PLAIN, False)) == {"part 0", "part 1"}
    assert arrive(guarded, parts(LINK, OFFER6, False)) == {"part 1"}
    assert arrive(guarded, parts(LINK, OFFER6, True)) == {"part 0"}
    hostnet.run("nft", "flush", "ruleset")
    assert arrive(guarded, parts(LINK, OFFER6, True)) == {"part 0", "part 1"}


def test_the_bridge_itself_is_told_nothing(hostnet: HostNet, guarded: Bridged) -> None:
    """Witnessed by a later chain.  Spanning trees no chain sees; and only the first namespace has them."""
    hostnet.run("nft", "-f", "-", input=WITNESS)

    def told() -> int:
        guarded.ve.send([ether("01:80:c2:00:00:03", OWN, 0x888E, bytes(60))])
        return int(re.findall(r"packets (\d+)", hostnet.run("nft", "list", "table", "bridge", "witness").stdout)[0])

    assert told() == 0
    hostnet.run("nft", "delete", "table", "bridge", "ve")
    wait_until(lambda: told() > 0)


def test_it_hears_of_nobody_else(hostnet: HostNet, guarded: Bridged) -> None:
    """A frame to who is not known to the bridge goes to all ports."""
    others = ether(OTHER, LAN, IP, packet("10.1.0.9", OTHERS, UDP, PLAIN))
    last = ether(OWN, LAN, IP, packet("10.1.0.9", ADDRESS, UDP, udp(1000, 1000, MARK)))
    everyone = arp(1, LAN, "10.1.0.9", ADDRESS)

    def heard() -> list[bytes]:
        with sniffing(guarded.ve.call, "venet0") as wire:
            guarded.lan.send([others, everyone, last])
            return [frame for frame in until_mark(wire) if frame in (others, everyone, last)]

    assert heard() == [everyone, last]
    hostnet.run("nft", "flush", "ruleset")
    assert heard() == [others, everyone, last]


def test_an_address_that_it_gets_later(hostnet: HostNet, guarded: Bridged) -> None:
    addresses = [ipaddress.ip_address(each) for each in (ADDRESS, OTHERS6)]
    hostnet.call(bridgeports.guard, "ve-test-1", PORT, OWN, addresses)
    both = {"new": six(OTHERS6, PLAIN, protocol=UDP), "old": six(ADDRESS6, PLAIN, protocol=UDP)}
    assert arrive(guarded, both) == {"new"}


def test_released_it_is_cut_off(hostnet: HostNet, guarded: Bridged) -> None:
    hostnet.call(bridgeports.guard, "ve-test-2", "venetport2", OTHER, [ipaddress.ip_address(OTHERS)])
    hostnet.call(bridgeports.release, "ve-test-1")
    hostnet.call(bridgeports.release, "ve-test-1")
    for name in ("own", "own4", "own6", "targets6"):
        assert PORT not in str(elements(hostnet, name, "bridge"))
    assert "venetport2" in str(elements(hostnet, "own4", "bridge"))
    with sniffing(guarded.lan.call, "venet0") as wire:
        guarded.ve.send([*ALLOWED.values(), LAST])
        hostnet.run("ip", "link", "set", "lan0", "nomaster")
        from_host = ether(LAN, OTHER, ARP, MARK)
        StandIn(hostnet.host).send([from_host], "lan0")
        assert not set(until_mark(wire)) & {*ALLOWED.values(), LAST}


def test_after_a_flush_it_is_guarded_again(hostnet: HostNet, guarded: Bridged) -> None:
    hostnet.call(bridgeports.guard, "ve-test-2", "venetgone", OTHER, [ipaddress.ip_address(OTHERS)])
    hostnet.run("nft", "flush", "ruleset")
    hostnet.call(bridgeports.ensure)
    assert arrive(guarded, FORBIDDEN) == set()
    assert arrive(guarded, ALLOWED) == ALLOWED.keys()
    assert "venetgone" not in str(elements(hostnet, "own", "bridge"))


def test_what_it_sends_and_gets_is_counted(hostnet: HostNet, guarded: Bridged) -> None:
    before = hostnet.call(firewall.counted, [PORT])[PORT]
    arrive(guarded, {"one": four(ADDRESS, PLAIN)})
    guarded.lan.send([ether(OWN, LAN, IP, packet("10.1.0.9", ADDRESS, UDP, PLAIN))])
    after = hostnet.call(firewall.counted, [PORT])[PORT]
    assert after.sent - before.sent >= len(four(ADDRESS, PLAIN)) - 14 + len(LAST) - 14
    assert after.received > before.received
