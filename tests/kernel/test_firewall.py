"""What VEs may send and get: seen by sockets of those who would be deceived; forged, with our rules and without."""

import contextlib
import ipaddress
import itertools
import json
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.hostnet import HostNet
from tests.kernel import frames
from tests.kernel.frames import ICMP, ICMP6, IP, IP6, UDP, icmp, icmp6, neighbour, packet, udp
from tests.kernel.netns import MARK, PATIENCE, StandIn, routed, sniffing, until_mark, wait_until
from ve import bridgeports, firewall, nftables, publishing, ruleset, venet
from ve.errors import Error, InvalidValue, NotSupported
from ve.ports import Port

RED, BLUE = ("10.9.0.1", "fd00:9::1"), ("10.9.0.2", "fd00:9::2")
OUTSIDE = ("192.0.2.9", "2001:db8::9")
HOST = ("192.0.2.1", "2001:db8::1")
LINK = "fe80::76:65ff:fe00:1"  # a link-local address of a VE's
NOBODY = list[str]()
FORGED = b"forged"
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC = 263, 1, 1  # <linux/socket.h>, <linux/if_packet.h>


def nothing() -> list[str]:
    return NOBODY


def listed(hostnet: HostNet, *words: str) -> list[dict[str, Any]]:
    found = json.loads(hostnet.run("nft", "-j", *(words or ("list", "ruleset"))).stdout)["nftables"]
    return [each for each in found if "metainfo" not in each]


def elements(hostnet: HostNet, name: str, family: str = "inet") -> list[Any]:
    kind = "map" if name.startswith("published") else "set"
    [about] = listed(hostnet, "list", kind, family, "ve", name)
    return list(about[kind].get("elem", []))


@pytest.fixture
def net(hostnet: HostNet) -> HostNet:
    """A host that routes, with our rules."""
    hostnet.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    for kind in ("all", "default"):
        hostnet.run("sysctl", "-qw", f"net.ipv4.conf.{kind}.rp_filter=0")
    hostnet.run("ping", "-c1", "-W10", OUTSIDE[1])  # neighbours know each other, which takes a while after a start
    hostnet.outside("ping", "-c1", "-W10", HOST[1])
    assert hostnet.call(firewall.ensure, nothing)
    return hostnet


@pytest.fixture
def red(net: HostNet) -> Iterator[StandIn]:
    with routed(net, 101, *RED) as red:
        yield red


@pytest.fixture
def blue(net: HostNet) -> Iterator[StandIn]:
    with routed(net, 102, *BLUE) as blue:
        yield blue


# ---- what does not pass ---------------------------------------------------------------------------------------------


def framed(source: str, target: str, protocol: int, body: bytes) -> bytes:
    kind = IP6 if ":" in source else IP
    return frames.ether(venet.MAC, venet.MAC, kind, packet(source, target, protocol, body))


def datagram(source: str, target: str, payload: bytes = FORGED, ports: tuple[int, int] = (1000, 1000)) -> bytes:
    return framed(source, target, UDP, udp(*ports, payload))


SPOOFED = {
    "of another VE": [(BLUE[0], OUTSIDE[0]), (BLUE[1], OUTSIDE[1])],
    "of nobody": [("10.9.0.77", OUTSIDE[0]), ("fd00:9::77", OUTSIDE[1])],
    "of the outside": [("192.0.2.77", OUTSIDE[0]), ("2001:db8::77", OUTSIDE[1])],
    "of another VE to its neighbour": [("10.9.0.77", BLUE[0]), ("fd00:9::77", BLUE[1])],
}


@pytest.mark.parametrize("pair", [pair for pairs in SPOOFED.values() for pair in pairs], ids="-".join)
def test_nobody_sends_from_a_foreign_address(net: HostNet, red: StandIn, blue: StandIn, pair: tuple[str, str]) -> None:
    source, target = pair
    marked = datagram(RED[":" in source], target, MARK)
    where, interface = (blue.call, "venet0") if target in BLUE else (_outside(net), "eth0")
    with sniffing(where, interface) as wire:
        red.send([datagram(source, target), marked])
        assert not [frame for frame in until_mark(wire) if FORGED in frame]
        net.run("nft", "flush", "ruleset")
        red.send([datagram(source, target), marked])
        assert [frame for frame in until_mark(wire) if FORGED in frame]


def _outside(net: HostNet) -> Callable[..., Any]:
    return StandIn(net.other).call


UNWANTED = {
    "as nobody, to all": datagram("0.0.0.0", "255.255.255.255"),
    "a multicast": datagram(RED[0], "224.0.0.251"),
    "a multicast of IPv6": datagram(RED[1], "ff02::fb"),
    "to all": datagram(RED[0], "255.255.255.255"),
    "an offer of DHCP": datagram(RED[0], venet.GATEWAYS[4].compressed, ports=(67, 1000)),
    "an offer of DHCPv6": datagram(LINK, "fe80::1", ports=(547, 1000)),
    "to a service of 127.0.0.1": datagram(RED[0], "127.0.0.1"),
}


@pytest.mark.parametrize("what", UNWANTED)
def test_the_host_is_not_told_that(net: HostNet, red: StandIn, what: str) -> None:
    six = UNWANTED[what][12:14] == b"\x86\xdd"
    net.run("sysctl", "-qw", f"net.ipv4.conf.{red.name}.route_localnet=1")
    marked = datagram(RED[six], HOST[six], MARK)
    with net.call(socket.socket, socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as hears:
        hears.settimeout(PATIENCE)
        hears.bind(("", 1000))
        index = net.call(socket.if_nametoindex, red.name)
        if six:
            group = ipaddress.ip_address("ff02::fb").packed + index.to_bytes(4, "little")
            hears.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        else:
            group = ipaddress.ip_address("224.0.0.251").packed + bytes(4) + index.to_bytes(4, "little")
            hears.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        red.send([UNWANTED[what], marked])
        assert until_mark(hears) == [MARK]
        net.run("nft", "flush", "ruleset")
        red.send([UNWANTED[what], marked])
        assert until_mark(hears) == [FORGED, MARK]


ROUTERS = {
    "solicitation of a router": icmp6(133, bytes(4)),
    "advertisement of a router": icmp6(134, bytes(12)),
    "solicitation": neighbour(135, "fe80::1"),
    "advertisement": neighbour(136, OUTSIDE[1]),
    "redirect": icmp6(137, bytes(4) + ipaddress.ip_address("fe80::1").packed + ipaddress.ip_address(OUTSIDE[1]).packed),
}


@pytest.mark.parametrize("what", ROUTERS)
def test_the_host_hears_of_no_neighbour_or_router(net: HostNet, red: StandIn, what: str) -> None:
    told = framed(LINK, "fe80::1", ICMP6, ROUTERS[what])
    asked = framed(LINK, "fe80::1", ICMP6, icmp6(128, bytes(4) + MARK))
    with net.call(socket.socket, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as hears:
        hears.settimeout(PATIENCE)
        red.send([told, asked])
        assert ROUTERS[what][:1] not in {message[:1] for message in until_mark(hears)}
        net.run("nft", "flush", "ruleset")
        red.send([told, asked])
        assert ROUTERS[what][:1] in {message[:1] for message in until_mark(hears)}


@pytest.mark.parametrize("kind", (5, 9), ids=("redirect", "advertisement of a router"))
def test_the_host_hears_of_no_other_way(net: HostNet, red: StandIn, kind: int) -> None:
    told = framed(RED[0], HOST[0], ICMP, icmp(kind, rest=ipaddress.ip_address(OUTSIDE[0]).packed + bytes(28)))
    asked = framed(RED[0], HOST[0], ICMP, icmp(8, rest=bytes(4) + MARK))
    with net.call(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as hears:
        hears.settimeout(PATIENCE)
        red.send([told, asked])
        assert kind not in {message[20] for message in until_mark(hears)}
        net.run("nft", "flush", "ruleset")
        red.send([told, asked])
        assert kind in {message[20] for message in until_mark(hears)}


def test_forged_arp_is_not_heard(net: HostNet, red: StandIn) -> None:
    """Not by our rules, which see no ARP: by IFF_NOARP, so that is what is taken away."""

    def answers() -> bool:
        with sniffing(red.call, "venet0") as wire:
            red.send([frames.arp(1, "02:00:00:00:00:66", OUTSIDE[0], HOST[0])])
            net.call(say, RED[0], MARK)
            return any(frame[12:14] == b"\x08\x06" for frame in until_mark(wire))

    assert not answers()
    assert "02:00:00:00:00:66" not in net.run("ip", "-j", "neighbour", "show", OUTSIDE[0]).stdout
    net.run("ip", "link", "set", "dev", red.name, "arp", "on")
    net.run("ip", "neighbour", "add", RED[0], "lladdr", venet.MAC, "dev", red.name)
    assert answers()


def say(target: str, payload: bytes, interface: str = "") -> None:
    """A datagram to port 1000, by an interface if the target is a multicast."""
    six = ":" in target
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as speaker:
        index = socket.if_nametoindex(interface) if interface else 0
        if six:
            speaker.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        else:
            speaker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, bytes(8) + index.to_bytes(4, "little"))
        with contextlib.suppress(PermissionError):  # what a dropped packet is to its sender
            speaker.sendto(payload, (target, 1000))


def test_a_ve_hears_no_multicast_of_the_hosts(net: HostNet, red: StandIn) -> None:
    with sniffing(red.call, "venet0") as wire:
        for flushed in (False, True):
            if flushed:
                net.run("nft", "flush", "ruleset")
            for target in ("224.0.0.251", "ff02::fb"):
                net.call(say, target, FORGED, red.name)
            net.call(say, RED[0], MARK)
            assert sum(FORGED in frame for frame in until_mark(wire)) == (2 if flushed else 0)


def test_a_ve_sees_nothing_of_its_neighbours(net: HostNet, red: StandIn, blue: StandIn) -> None:
    """Whatever it listens with: neither what they send to others or to all, nor what others send to them."""
    sent = [datagram(BLUE[":" in target], target) for target in (*OUTSIDE, *HOST)]
    sent += [datagram(BLUE[0], target) for target in ("255.255.255.255", "10.9.0.255", "224.0.0.251")]
    sent += [datagram(BLUE[1], target) for target in ("ff02::1", "ff02::fb")]
    for to in (frames.EVERYONE, frames.MULTICAST, "02:00:00:00:00:66"):
        sent.append(frames.ether(to, venet.MAC, IP, packet(BLUE[0], OUTSIDE[0], UDP, udp(1000, 1000, FORGED))))
        sent.append(frames.arp(1, venet.MAC, BLUE[0], RED[0], to))
    with sniffing(red.call, "venet0") as wire, sniffing(blue.call, "venet0") as theirs:
        everything = struct.pack("iHH8x", red.call(socket.if_nametoindex, "venet0"), PACKET_MR_PROMISC, 0)
        wire.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, everything)
        for where in (net.call, _outside(net)):
            for target in BLUE:
                where(say, target, FORGED)
            where(say, BLUE[0], MARK)
            assert sum(FORGED in frame for frame in until_mark(theirs)) == len(BLUE)
        blue.send([*sent, datagram(BLUE[0], RED[0], MARK)])
        assert [frame for frame in until_mark(wire) if FORGED in frame or frame[12:14] == b"\x08\x06"] == []
        blue.send([datagram(BLUE[0], RED[0]), datagram(BLUE[0], RED[0], MARK)])
        assert [frame for frame in until_mark(wire) if FORGED in frame] != []


def test_nobody_asks_from_nowhere(net: HostNet, red: StandIn) -> None:
    told = framed("::", "fe80::1", ICMP6, icmp6(128, bytes(4) + FORGED))
    asked = framed(LINK, "fe80::1", ICMP6, icmp6(128, bytes(4) + MARK))
    with net.call(socket.socket, socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as hears:
        hears.settimeout(PATIENCE)
        red.send([told, asked])
        assert not any(FORGED in message for message in until_mark(hears))
        net.run("nft", "flush", "ruleset")
        red.send([told, asked])
        assert any(FORGED in message for message in until_mark(hears))


@pytest.mark.parametrize("six", (False, True), ids=("IPv4", "IPv6"))
def test_a_ve_is_told_of_no_shorter_way(net: HostNet, red: StandIn, six: bool) -> None:
    """As the host tells who sends it what goes back where it came from."""
    net.run("ip", *(["-6"] if six else []), "route", "add", "198.51.100.7" if not six else "fd02::7", "dev", red.name)
    target = "fd02::7" if six else "198.51.100.7"

    def redirected() -> bool:
        with sniffing(red.call, "venet0") as wire:
            red.send([datagram(RED[six], target, MARK)])
            found = until_mark(wire)
            net.call(say, RED[0], MARK)
            found += until_mark(wire)
        return any(
            frame[54] == 137 if six else frame[23] == ICMP and frame[34] == 5 for frame in found if len(frame) > 54
        )

    assert not any(redirected() for _ in range(3))  # of IPv4 the host does not tell at the first packet
    net.run("nft", "flush", "chain", "inet", "ve", "to_ves")
    wait_until(redirected)  # nor at each


def test_the_hosts_other_networks_are_as_before(net: HostNet) -> None:
    with sniffing(_outside(net), "eth0") as wire:
        for target in ("224.0.0.251", "ff02::fb"):
            net.call(say, target, FORGED, "eth0")
        net.call(say, OUTSIDE[0], MARK)
        assert sum(FORGED in frame for frame in until_mark(wire)) == 2
    net.run("ip", "-6", "neighbour", "flush", "dev", "eth0")
    assert net.call(pings, OUTSIDE[1])


def test_what_is_a_ves_own_passes(net: HostNet, red: StandIn, blue: StandIn) -> None:
    for target in (*OUTSIDE, *HOST, *BLUE):
        assert red.call(pings, target), target
    for source in (net.call, _outside(net), blue.call):
        for target in RED:
            assert source(pings, target), target


def pings(target: str) -> bool:
    return subprocess.run(["ping", "-c1", "-W10", target], stdout=subprocess.DEVNULL, check=False).returncode == 0


# ---- the table ------------------------------------------------------------------------------------------------------

FOREIGN = """
add table ip filter
add chain ip filter FORWARD { type filter hook forward priority 0; policy accept; }
add table inet ve2
add set inet ve2 s { type ipv4_addr; elements = { 10.9.0.1 }; }
add chain inet ve2 c { type filter hook input priority 0; }
add rule inet ve2 c counter accept
add table bridge other
add chain bridge other c { type filter hook forward priority 0; }
add rule bridge other c ether type ip accept
"""


def of_others(hostnet: HostNet) -> list[dict[str, Any]]:
    def is_ours(each: dict[str, Any]) -> bool:
        [about] = each.values()
        return bool((about["name"] if "table" in each else about["table"]) == "ve")

    return [each for each in listed(hostnet) if not is_ours(each)]


def test_nobody_elses_tables_are_touched(hostnet: HostNet) -> None:
    hostnet.run("nft", "-f", "-", input=FOREIGN)
    before = of_others(hostnet)
    assert len(before) > 7 and before == listed(hostnet)
    hostnet.call(firewall.ensure, lambda: ["10.9.0.0/24"])
    hostnet.call(firewall.masquerade, ["10.8.0.0/24"])
    hostnet.run("nft", "flush", "table", "inet", "ve")
    hostnet.call(firewall.ensure, nothing)
    hostnet.call(bridgeports.guard, "ve-test-1", "venetxxxx", "02:00:00:00:00:01", [])
    assert of_others(hostnet) == before != listed(hostnet)


def test_a_table_that_is_right_is_left_alone(hostnet: HostNet) -> None:
    assert hostnet.call(firewall.ensure, nothing) is True
    before = listed(hostnet, "list", "table", "inet", "ve")  # the handles say whether it is the same
    assert hostnet.call(firewall.ensure, never) is False
    assert listed(hostnet, "list", "table", "inet", "ve") == before


def never() -> list[str]:
    raise AssertionError("a table that is right is asked for no more")


@pytest.mark.parametrize(
    "harm", ["flush ruleset", "delete table inet ve", "flush table inet ve", "flush chain inet ve from_ves"]
)
def test_what_was_flushed_is_made_again(net: HostNet, red: StandIn, harm: str) -> None:
    rules = [each for each in listed(net, "list", "table", "inet", "ve") if "rule" in each]
    net.call(publishing.publish, 101, [Port(8080, 80)], [ipaddress.ip_address(each) for each in RED], red.name)
    net.run("nft", *harm.split())
    assert net.call(firewall.ensure, lambda: ["10.9.0.0/24", "fd00:9::/64"]) is True
    after = [each for each in listed(net, "list", "table", "inet", "ve") if "rule" in each]
    assert [each["rule"]["expr"] for each in after] == [each["rule"]["expr"] for each in rules]
    assert elements(net, "masqueraded4") == [{"prefix": {"addr": "10.9.0.0", "len": 24}}]
    assert [key for key, _ in elements(net, "published6")] == [{"concat": ["tcp", 8080]}]
    assert [value for _, value in elements(net, "published4")] == [{"concat": [RED[0], 80]}]


def test_another_version_of_ours_is_replaced_with_what_it_counted(
    net: HostNet, red: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert red.call(pings, HOST[0])
    before = net.call(firewall.counted, [red.name])[red.name]
    assert min(before) > 0
    monkeypatch.setattr(ruleset, "INET", ruleset.Table("inet", ruleset.INET.content + "    chain newer {\n    }\n"))
    assert net.call(firewall.ensure, nothing) is True
    assert any("chain" in each and each["chain"]["name"] == "newer" for each in listed(net))
    after = net.call(firewall.counted, [red.name])[red.name]
    assert all(now >= then for now, then in zip(after, before, strict=True))


def test_twenty_at_once_load_it_once(hostnet: HostNet) -> None:
    with ThreadPoolExecutor(20) as pool:
        loaded = list(pool.map(lambda _: hostnet.call(firewall.ensure, nothing), range(20)))
    assert loaded.count(True) == 1


def test_without_nft(hostnet: HostNet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Error, match="no nft here") as refused:
        hostnet.call(firewall.ensure, nothing)
    assert refused.value.hint == "apt-get install nftables"


def test_where_nothing_can_be_written(hostnet: HostNet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VE_NETWORK_DIR", str(tmp_path / "file"))
    with pytest.raises(NotSupported, match=f"^cannot write rules to {tmp_path}/file/run: Not a directory$") as refused:
        hostnet.call(firewall.ensure, nothing)
    assert refused.value.hint == "run it as root"


# ---- masquerade -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("six", (False, True), ids=("IPv4", "IPv6"))
def test_masqueraded_is_what_leaves_the_host_and_nothing_else(
    net: HostNet, red: StandIn, blue: StandIn, six: bool
) -> None:
    cidr, ports = ("10.9.0.0/24", "fd00:9::/64")[six], itertools.count(2000)

    def seen(where: Callable[..., Any], interface: str, target: str) -> str:
        with sniffing(where, interface) as wire:  # each time a connection that conntrack does not know
            red.send([datagram(RED[six], target, MARK, (next(ports), 2000))])
            data = until_mark(wire)[-1]
        return str(ipaddress.ip_address(data[22:38] if six else data[26:30]))

    assert seen(_outside(net), "eth0", OUTSIDE[six]) == RED[six]
    net.call(firewall.masquerade, [cidr])
    assert seen(_outside(net), "eth0", OUTSIDE[six]) == HOST[six]
    assert seen(blue.call, "venet0", BLUE[six]) == RED[six]
    assert red.call(pings, OUTSIDE[six])
    net.call(firewall.masquerade, [])
    assert seen(_outside(net), "eth0", OUTSIDE[six]) == RED[six]


@pytest.mark.parametrize("six", (False, True), ids=("IPv4", "IPv6"))
def test_masqueraded_is_nothing_of_the_hosts_own(net: HostNet, six: bool) -> None:
    """Of a pool on its own network, where it has two addresses and uses the one that the kernel would not choose."""
    cidr, own = ("192.0.2.0/24", "2001:db8::/64")[six], ("192.0.2.2", HOST[1])[six]
    net.run("ip", "address", "add", "192.0.2.2/24", "dev", "eth0")
    net.run("ip", "address", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
    net.call(firewall.masquerade, [cidr])
    family = socket.AF_INET6 if six else socket.AF_INET
    with (
        _outside(net)(socket.socket, family, socket.SOCK_DGRAM) as server,
        net.call(socket.socket, family, socket.SOCK_DGRAM) as client,
    ):
        server.settimeout(PATIENCE)
        server.bind((OUTSIDE[six], 1000))
        client.bind((own, 0))
        client.sendto(MARK, (OUTSIDE[six], 1000))
        assert server.recvfrom(100)[1][0] == own


def test_what_cannot_be_masqueraded(net: HostNet) -> None:
    for bad in ("10.9.0.1/24", "10.9.0.0", "x"):
        with pytest.raises(InvalidValue):
            net.call(firewall.masquerade, [bad])
    net.call(firewall.masquerade, ["10.9.0.0/16"])
    with pytest.raises(Error, match="interval"):
        net.call(firewall.masquerade, ["10.9.0.0/16", "10.9.1.0/24"])
    assert elements(net, "masqueraded4") == [{"prefix": {"addr": "10.9.0.0", "len": 16}}]


# ---- counters -------------------------------------------------------------------------------------------------------


def link(net: HostNet, name: str) -> tuple[int, int, int, int]:
    """Bytes and packets from and to the VE, less Ethernet's headers."""
    [about] = json.loads(net.run("ip", "-j", "-s", "link", "show", "dev", name).stdout)
    sent, received = about["stats64"]["rx"], about["stats64"]["tx"]
    packets, others = sent["packets"], received["packets"]
    return sent["bytes"] - 14 * packets, packets, received["bytes"] - 14 * others, others


def test_counters_are_those_of_the_interface(net: HostNet, red: StandIn, blue: StandIn) -> None:
    for target, size in itertools.product((*HOST, *BLUE, *OUTSIDE), (100, 1000)):
        red.call(lambda target=target, size=size: pings_with(target, size))
    while True:  # until nobody's kernel has anything to say meanwhile
        before = link(net, red.name)
        found = net.call(firewall.counted, [red.name, "venetnobody"])
        if before == link(net, red.name):
            break
    assert found[red.name] == before
    assert found["venetnobody"] == (0, 0, 0, 0)
    assert before[0] > 6 * (100 + 1000)


def pings_with(target: str, size: int) -> None:
    subprocess.run(["ping", "-c1", "-W10", "-s", str(size), target], stdout=subprocess.DEVNULL, check=True)


def test_counters_outlive_the_interface_and_are_folded_once(net: HostNet, blue: StandIn) -> None:
    with routed(net, 101, *RED) as red:
        red.call(pings_with, HOST[0], 1000)
        assert blue.call(pings, HOST[0])
    last = net.call(firewall.counted, [red.name])[red.name]
    assert last.sent >= 1028 and last.received >= 1028
    assert net.call(firewall.fold, [red.name]) == {red.name: last}
    assert net.call(firewall.fold, [red.name]) == {red.name: (0, 0, 0, 0)}
    assert {each["elem"]["val"] for each in elements(net, "sent")} == {blue.name}


def test_without_the_table_nothing_was_counted(hostnet: HostNet) -> None:
    assert hostnet.call(firewall.fold, ["venetx"]) == {"venetx": (0, 0, 0, 0)}
    assert hostnet.call(nftables.state, "inet") == ("", 0)
