"""Ports of a bridge, macvlans and devices in the network namespace of a VE: what each of these sees, and what it loses.

Three namespaces stand for the host, its outside and a VE; `ip` and `bridge` are asked, and packet sockets.
"""

import dataclasses
import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests import hostnet as nets
from tests.conftest import SETTLE
from tests.hostnet import HostNet
from ve import interfaces
from ve.errors import InUse, InvalidValue, NotSupported
from ve.interfaces import Device

pytestmark = pytest.mark.long  # what takes the emulated CPU minutes

MAC = interfaces.mac("ve", 101)
STRANGE = "02:00:00:00:00:77"  # an Ethernet address that nobody has


class Inside:
    """The namespace of a VE; run() a command there, or try() one that fails."""

    def __init__(self, pid: int, netns: int) -> None:
        self.pid, self.netns = pid, netns
        self.net = HostNet(pid, pid)

    def ip(self, *words: str) -> Any:
        return json.loads(self.net.run("ip", "-j", *words).stdout or "[]")


@contextmanager
def a_ve() -> Iterator[Inside]:
    with nets.namespace() as pid, open(f"/proc/{pid}/ns/net") as netns:
        yield Inside(pid, netns.fileno())


@pytest.fixture
def inside() -> Iterator[Inside]:
    with a_ve() as made:
        yield made


def plug(bridged: HostNet, inside: Inside, number: int) -> str:
    """A port of br0, with an address of each family: its Ethernet address."""
    mac = interfaces.mac("ve", number)
    bridged.call(interfaces.bridge, inside.netns, "br0", f"veport{number}", "eth0", mac)
    inside.net.run("ip", "address", "add", f"192.0.2.{number}/24", "dev", "eth0")
    inside.net.run("ip", "address", "add", f"2001:db8::{number}/64", "dev", "eth0", "nodad")
    return mac


# ---- a bridge ---------------------------------------------------------------------------------------------------


def test_a_port_reaches_all_on_the_bridge(bridged: HostNet, inside: Inside) -> None:
    plug(bridged, inside, 101)
    for address in ("192.0.2.1", "192.0.2.9", "2001:db8::1", "2001:db8::9"):
        inside.net.run("ping", "-c1", "-W5", address)
    bridged.outside("ping", "-c1", "-W5", "192.0.2.101")


def test_its_address_is_its_own_at_each_start(bridged: HostNet, inside: Inside) -> None:
    mac = plug(bridged, inside, 101)
    [link] = inside.ip("link", "show", "eth0")
    assert (link["address"], link["operstate"]) == (mac, "UP")
    first = int(mac[:2], 16)
    assert first & 1 == 0 and first & 2 == 2  # of one, and locally administered
    assert mac == interfaces.mac("ve", 101)
    assert len({interfaces.mac(tag, veid) for tag in ("ve", "ve-1") for veid in range(1, 1000)}) == 2 * 999


def test_the_bridge_keeps_its_own(bridged: HostNet, inside: Inside) -> None:
    """One without an address of its own takes the lowest of its ports'."""
    before = json.loads(bridged.run("ip", "-j", "link", "show", "br0").stdout)[0]["address"]
    plug(bridged, inside, 101)
    assert json.loads(bridged.run("ip", "-j", "link", "show", "br0").stdout)[0]["address"] == before


@contextmanager
def heard(inside: Inside, name: str = "eth0") -> Iterator[socket.socket]:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with inside.net.call(socket.socket, socket.AF_PACKET, kind, socket.htons(3)) as channel:
        channel.bind((name, 3))  # ETH_P_ALL
        yield channel


def frames(channel: socket.socket) -> Iterator[bytes]:
    channel.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            data, (_, _, kind, _, _) = channel.recvfrom(2048)
            if kind != socket.PACKET_OUTGOING:
                yield data


def frame(target: str, source: str, text: bytes) -> bytes:
    return bytes.fromhex(target.replace(":", "") + source.replace(":", "")) + b"\x88\xb5" + text  # local experiments


def send(network: HostNet, name: str, data: bytes) -> None:
    with network.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) as channel:
        channel.bind((name, 0))
        channel.send(data)


def texts(channel: socket.socket) -> set[bytes]:
    return {data[14:] for data in frames(channel) if data[12:14] == b"\x88\xb5"}


@pytest.mark.parametrize("kept", [True, False])
def test_it_sees_no_packets_for_others(bridged: HostNet, inside: Inside, kept: bool) -> None:
    mac = plug(bridged, inside, 101)
    if not kept:  # what would be without
        bridged.run("bridge", "link", "set", "dev", "veport101", "flood", "on")
    outside = HostNet(bridged.other, bridged.host)
    with heard(inside) as channel:
        for target, text in ((STRANGE, b"stranger"), ("ff:ff:ff:ff:ff:ff", b"all"), (mac, b"own")):
            send(outside, "eth0", frame(target, "02:00:00:00:00:09", text))
        assert texts(channel) == {b"all", b"own"} | (set() if kept else {b"stranger"})


@pytest.mark.parametrize("kept", [True, False])
def test_it_cannot_send_as_another(bridged: HostNet, inside: Inside, kept: bool) -> None:
    """Nor have what is for another led to it."""
    mac = plug(bridged, inside, 101)
    if not kept:
        bridged.run("bridge", "link", "set", "dev", "veport101", "locked", "off", "learning", "on")
    outside = Inside(bridged.other, -1)
    with heard(outside) as channel:
        send(inside.net, "eth0", frame("ff:ff:ff:ff:ff:ff", STRANGE, b"forged"))
        send(inside.net, "eth0", frame("ff:ff:ff:ff:ff:ff", mac, b"true"))
        assert texts(channel) == {b"true"} | (set() if kept else {b"forged"})
    table = bridged.run("bridge", "fdb", "show", "br", "br0").stdout
    assert (STRANGE in table) is not kept


def test_it_has_no_say_in_the_bridges_tree(bridged: HostNet, inside: Inside) -> None:
    """Only a look: the kernel hears bridge protocol data units in the initial network namespace alone (llc_rcv)."""
    plug(bridged, inside, 101)
    [port] = json.loads(bridged.run("bridge", "-d", "-j", "link", "show", "dev", "veport101").stdout)
    assert (port["guard"], port["mcast_router"]) == (True, 0)


def test_it_goes_with_the_namespace(bridged: HostNet) -> None:
    with a_ve() as inside:
        plug(bridged, inside, 101)
        assert "veport101" in links(bridged)
    deadline = time.monotonic() + SETTLE
    while "veport101" in links(bridged) and time.monotonic() < deadline:
        select.select([], [], [], 0.02)  # the kernel tells nobody when it has taken a namespace apart
    assert "veport101" not in links(bridged)


def links(network: HostNet) -> str:
    return network.run("ip", "-o", "link").stdout


NO_BRIDGE = {
    "br1": "cannot use network bridge:br1: there is no interface br1",
    "eth0": "cannot use network bridge:eth0: it is not a bridge",
}


@pytest.mark.parametrize("name", NO_BRIDGE)
def test_what_is_no_bridge(bridged: HostNet, inside: Inside, name: str) -> None:
    before = links(bridged)
    with pytest.raises(InvalidValue) as caught:
        bridged.call(interfaces.bridge, inside.netns, name, "veport101", "eth0", MAC)
    assert str(caught.value) == NO_BRIDGE[name]
    assert name == "eth0" or caught.value.hint == "did you mean br0?"
    assert links(bridged) == before


def test_a_port_that_cannot_be_made_leaves_nothing(bridged: HostNet, inside: Inside) -> None:
    inside.net.run("ip", "link", "add", "eth0", "type", "bridge")
    before = links(bridged)
    with pytest.raises(InvalidValue, match=r"^cannot use network bridge:br0: File exists$"):
        bridged.call(interfaces.bridge, inside.netns, "br0", "veport101", "eth0", MAC)
    assert links(bridged) == before


# ---- a macvlan --------------------------------------------------------------------------------------------------


def test_a_macvlan_is_one_more_machine_on_the_link(hostnet: HostNet, inside: Inside) -> None:
    hostnet.call(interfaces.macvlan, inside.netns, "eth0", "eth0", MAC)
    [link] = inside.ip("-d", "link", "show", "eth0")
    assert (link["address"], link["linkinfo"]["info_data"]["mode"]) == (MAC, "bridge")
    inside.net.run("ip", "address", "add", "192.0.2.77/24", "dev", "eth0")
    inside.net.run("ping", "-c1", "-W5", "192.0.2.9")
    assert "macvlan" not in hostnet.run("ip", "-d", "link").stdout


@pytest.mark.parametrize(
    ("name", "why"), [("eth1", "there is no interface eth1"), ("lo", "nobody is on a loopback"), ("eth", "there is no")]
)
def test_what_cannot_bear_a_macvlan(hostnet: HostNet, inside: Inside, name: str, why: str) -> None:
    with pytest.raises(InvalidValue, match=rf"^cannot use network macvlan:{name}: {why}"):
        hostnet.call(interfaces.macvlan, inside.netns, name, "eth0", MAC)
    assert [link["ifname"] for link in inside.ip("link")] == ["lo"]


# ---- a device ---------------------------------------------------------------------------------------------------


@pytest.fixture
def spare(hostnet: HostNet) -> HostNet:
    """The host has another device, with addresses and another name of its own."""
    for line in (
        "ip link add eth1 type veth peer name other",
        "ip link set eth1 address 02:00:00:00:00:11",
        "ip link property add dev eth1 altname spare",
        "ip link set eth1 alias mine mtu 1400 txqueuelen 500",
        "ip link set eth1 up",
        "ip link set other up",
        "ip address add 198.51.100.1/24 dev eth1",
        "ip address add 198.51.100.2/24 dev eth1",
        "ip address add 2001:db8:1::1/64 dev eth1 nodad",
    ):
        hostnet.run(*line.split())
    return hostnet


def about(network: HostNet, name: str = "eth1") -> dict[str, Any]:
    [link] = json.loads(network.run("ip", "-j", "address", "show", "dev", name).stdout)
    addresses = {(each["local"], each["prefixlen"], each["scope"]) for each in link["addr_info"]}
    return {
        "up": "UP" in link["flags"],
        "mac": link["address"],
        "names": link.get("altnames"),
        "flags": sorted(link["flags"]),
        "others": (link["mtu"], link["txqlen"], link.get("ifalias")),
        "addresses": {each for each in addresses if each[2] != "link"},
    }


def take(spare: HostNet, inside: Inside) -> Device:
    device = spare.call(interfaces.device, "eth1", lost_ok=True)
    return spare.call(interfaces.take, inside.netns, device)


@pytest.mark.parametrize("up", [True, False])
def test_a_device_moves_in_and_comes_back_as_it_was(spare: HostNet, inside: Inside, up: bool) -> None:
    if not up:
        spare.run("ip", "link", "set", "eth1", "down")
        spare.run("ip", "address", "flush", "dev", "eth1")  # IPv6 has lost its own already
        spare.run("ip", "address", "add", "198.51.100.1/24", "dev", "eth1")
    before = about(spare)
    device = take(spare, inside)
    [link] = inside.ip("address", "show", "dev", "eth1")
    assert "UP" in link["flags"] and [each for each in link["addr_info"] if each["scope"] == "global"] == []
    assert "eth1" not in spare.run("ip", "link").stdout

    # what its root may have done with it
    inside.net.run("ip", "link", "set", "eth1", "down")
    inside.net.run("ip", "link", "set", "eth1", "name", "mine", "address", "02:00:00:00:00:99")
    inside.net.run("ip", "address", "add", "203.0.113.1/24", "dev", "mine")
    assert spare.call(interfaces.give_back, inside.netns, Device.of(device.noted()))
    assert about(spare) == before
    assert "mine" not in inside.net.run("ip", "link").stdout


HOSTILE = {
    "a name that the host has": ["ip link property add dev eth1 altname eth0"],
    "more names": [
        "for i in $(seq 400); do echo link property add dev eth1 altname $i-$(printf %0100d 1); done | ip -b -"
    ],
    "no name": ["ip link property del dev eth1 altname spare"],
    "a small mtu": ["ip link set eth1 mtu 600"],
    "flags": ["ip link set eth1 promisc on arp off allmulticast on multicast off", "ip link set eth1 txqueuelen 7"],
    "an alias": ["ip link set eth1 alias theirs"],
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("by_itself", [False, True])
def test_it_comes_back_whatever_its_root_has_made_of_it(
    spare: HostNet, inside: Inside, what: str, by_itself: bool
) -> None:
    before = about(spare)
    device = take(spare, inside)
    for line in HOSTILE[what]:
        inside.net.run("sh", "-ec", line)
    if by_itself and "host" not in what:
        inside.net.run("ip", "link", "set", "eth1", "netns", spare.host)
        assert spare.call(interfaces.give_back, None, device) == "eth1"
    else:
        assert spare.call(interfaces.give_back, inside.netns, device) == "eth1"
    assert about(spare) == before


def test_it_keeps_what_is_not_refused(spare: HostNet, inside: Inside) -> None:
    """As where the host lets no interface have IPv6 by now."""
    before = about(spare)
    device = take(spare, inside)
    spare.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    noted = Device.of(device.noted())
    noted = dataclasses.replace(noted, addresses=(noted.addresses[-1], *noted.addresses[:-1]))
    with pytest.raises(InUse, match=r"^cannot give eth1 back as it was: Permission denied$") as caught:
        spare.call(interfaces.give_back, inside.netns, noted)
    assert caught.value.hint == "ip address add 2001:db8:1::1/64 dev eth1"
    after = about(spare)
    assert after | {"addresses": before["addresses"]} == before
    assert {each[0] for each in after["addresses"]} == {"198.51.100.1", "198.51.100.2"}


def test_one_that_is_lost_is_said_to_be(spare: HostNet, inside: Inside) -> None:
    device = take(spare, inside)
    inside.net.run("ip", "link", "del", "eth1")
    assert not spare.call(interfaces.give_back, inside.netns, device)
    assert not spare.call(interfaces.give_back, None, device)


def test_what_the_kernel_gave_back_gets_its_addresses(spare: HostNet, inside: Inside) -> None:
    """As it does with a physical one, whose VE has ended by itself."""
    before = about(spare)
    device = take(spare, inside)
    inside.net.run("ip", "link", "set", "eth1", "netns", spare.host)
    assert spare.call(interfaces.give_back, None, device)
    assert spare.call(interfaces.give_back, None, device)
    assert about(spare) == before


def test_a_name_that_is_another_ones_by_now(spare: HostNet, inside: Inside) -> None:
    """As that of its VE's root, too: it comes back under another one."""
    before = about(spare)
    device = take(spare, inside)
    inside.net.run("ip", "link", "set", "eth1", "down")
    inside.net.run("ip", "link", "set", "eth1", "name", "eth2")
    for name in ("eth1", "eth1-2", "eth2"):
        spare.run("ip", "link", "add", name, "type", "bridge")
    assert spare.call(interfaces.give_back, inside.netns, device) == "eth1-3"
    assert about(spare, "eth1-3") == before


def test_one_that_cannot_be_up_is_given_back(spare: HostNet, inside: Inside) -> None:
    """Such as one with the Ethernet address of whose macvlan it is."""
    mac = about(spare)["mac"]
    spare.run("ip", "link", "add", "link", "eth1", "name", "twin", "address", mac, "type", "macvlan")
    spare.run("ip", "address", "add", "203.0.113.1/24", "dev", "twin")
    before = about(spare, "twin")
    device = spare.call(interfaces.device, "twin", lost_ok=True)
    with pytest.raises(InvalidValue, match=r"^cannot use network device:twin: Address already in use$"):
        spare.call(interfaces.take, inside.netns, device)
    assert about(spare, "twin") == before


REFUSED: dict[str, tuple[Callable[[HostNet], object], str, type[Exception]]] = {
    "virtual": (
        lambda spare: None,
        r"^cannot use network device:eth1: it is virtual \(veth\), and would be lost if the VE ended by itself$",
        NotSupported,
    ),
    "a port": (
        lambda spare: [
            spare.run("ip", "link", "add", "br0", "type", "bridge"),
            spare.run("ip", "link", "set", "eth1", "master", "br0"),
        ],
        "^cannot use network device:eth1: it is a part of br0$",
        InvalidValue,
    ),
    "missing": (
        lambda spare: spare.run("ip", "link", "del", "eth1"),
        "^cannot use network device:eth1: there is no interface eth1$",
        InvalidValue,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_devices_that_are_not_given(spare: HostNet, inside: Inside, name: str) -> None:
    change, why, kind = REFUSED[name]
    change(spare)
    before = links(spare)
    with pytest.raises(kind, match=why):
        spare.call(interfaces.device, "eth1")
    assert links(spare) == before


def test_no_loopback_or_bridge_moves(spare: HostNet, inside: Inside) -> None:
    with pytest.raises(InvalidValue, match="each VE has a loopback of its own"):
        spare.call(interfaces.device, "lo", lost_ok=True)
    spare.run("ip", "link", "add", "br0", "type", "bridge")
    with pytest.raises(InvalidValue, match=r"^cannot use network device:br0: Invalid argument$"):
        spare.call(interfaces.take, inside.netns, spare.call(interfaces.device, "br0", lost_ok=True))
