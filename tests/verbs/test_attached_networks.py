"""VEs on a bridge of the admin's, with a macvlan, and with a device of the host's that comes back."""

import json
import os
from pathlib import Path

import pytest

import ve
from tests.hostnet import HostNet

pytestmark = pytest.mark.any_kernel  # on the stock kernel tests/kernel and test_addresses.py ask for the same


@pytest.fixture
def port(bridged: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> int:
    words = ["192.0.2.50/24", "2001:db8::50/64"]
    host.create(veid, template="busybox", network="bridge:br0", addresses=words, gateways=["192.0.2.9"])
    bridged.output(host_dir, "start", veid)
    return veid


def test_a_port_of_a_bridge(bridged: HostNet, host_dir: Path, port: int) -> None:
    for address in ("192.0.2.50", "2001:db8::50"):
        bridged.outside("ping", "-c1", "-W10", address)
        bridged.run("ping", "-c1", "-W10", address)
    routes = bridged.output(host_dir, "exec", port, "ip", "route")
    assert "default via 192.0.2.9 dev eth0" in routes
    status = json.loads(bridged.output(host_dir, "status", "--json", port))
    assert (status["network"], status["addresses"]) == ("bridge:br0", ["192.0.2.50/24", "2001:db8::50/64"])
    bridged.output(host_dir, "stop", "--fast", port)
    assert "venet" not in bridged.run("ip", "-br", "link").stdout
    assert "192.0.2.50" not in bridged.run("nft", "list", "ruleset").stdout


def test_a_pool_shows_the_address_of_one_that_runs(bridged: HostNet, host_dir: Path, port: int) -> None:
    bridged.output(host_dir, "network", "add", "lan", "--cidr", "192.0.2.48/28")

    def shown() -> tuple[str, str | None, str]:
        [lease] = json.loads(bridged.output(host_dir, "network", "show", "lan", "--json"))["leases"]
        return lease["address"], lease["interface"], lease["kind"]

    [name] = [
        each["ifname"] for each in json.loads(bridged.run("ip", "-j", "link").stdout) if "venet" in each["ifname"]
    ]
    assert shown() == ("192.0.2.50", name, "both")
    bridged.output(host_dir, "stop", "--fast", port)
    assert shown() == ("192.0.2.50", None, "claim")


def test_no_address_but_its_own_leaves_the_port(bridged: HostNet, host_dir: Path, port: int) -> None:
    bridged.output(host_dir, "set", port, "--capability", "net_admin:on", "--save")
    bridged.output(host_dir, "restart", "--fast", port)
    script = "ip address add 192.0.2.66/24 dev eth0; ping -c2 -W1 -I 192.0.2.66 192.0.2.9; ping -c1 -W5 192.0.2.9"
    with bridged.watching("icmp or arp") as seen:
        bridged.output(host_dir, "exec", port, "sh", "-c", script)
    assert any("192.0.2.50" in line for line in seen) and not any("192.0.2.66" in line for line in seen)
    bridged.output(host_dir, "stop", "--fast", port)


def test_a_macvlan(hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> None:
    host.create(veid, template="busybox", network="macvlan:eth0", addresses=["192.0.2.51/24"])
    hostnet.output(host_dir, "start", veid)
    hostnet.outside("ping", "-c1", "-W10", "192.0.2.51")
    hostnet.output(host_dir, "stop", "--fast", veid)
    assert "macvlan" not in hostnet.run("ip", "-d", "link").stdout


def test_a_device_comes_back(hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> None:
    hostnet.run("ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1")
    hostnet.run("ip", "address", "add", "198.51.100.1/24", "dev", "spare0")
    hostnet.run("ip", "link", "set", "spare0", "up")
    env = host.create(veid, template="busybox", network="device:spare0", addresses=["198.51.100.2/24"])
    refused = hostnet.ve(host_dir, "start", veid)
    assert refused.returncode == 5 and "would be lost if the VE ended by itself" in refused.stderr
    env.set(device_lost_ok=True, save=True)
    hostnet.output(host_dir, "start", veid)
    assert "198.51.100.2/24" in hostnet.output(host_dir, "exec", veid, "ip", "address", "show", "dev", "spare0")
    assert "spare0" not in hostnet.run("ip", "-br", "link").stdout.replace("spare0@", "", 0).split("spare1")[0]
    hostnet.output(host_dir, "stop", "--fast", veid)
    [back] = json.loads(hostnet.run("ip", "-j", "address", "show", "dev", "spare0").stdout)
    assert "UP" in back["flags"]
    assert "198.51.100.1" in [each["local"] for each in back["addr_info"]]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--network", "bridge:br9", "--ip", "192.0.2.50/24"), "there is no interface br9"),
        (("--network", "bridge:eth0", "--ip", "192.0.2.50/24"), "it is not a bridge"),
        (("--network", "macvlan:eth9"), "there is no interface eth9"),
        (("--network", "device:lo"), "each VE has a loopback of its own"),
    ],
)
def test_what_is_not_there_is_said_at_the_start(
    hostnet: HostNet, host_dir: Path, host: "ve.Host", veid: int, words: tuple[str, ...], why: str
) -> None:
    hostnet.output(host_dir, "create", veid, "--template", "busybox", *words)
    before = hostnet.run("ip", "-br", "link").stdout
    refused = hostnet.ve(host_dir, "start", veid)
    assert refused.returncode != 0 and why in refused.stderr
    assert hostnet.run("ip", "-br", "link").stdout == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--network", "bridge:br0"), "it has no address to send from"),
        (("--network", "bridge:br0", "--ip", "auto"), "a pool's addresses are routed"),
        (("--network", "macvlan:eth0", "--rate", "1mbit"), "nothing of it is on the host"),
        (("--network", "device:eth0", "--publish", "80:80"), "its host does not route to it"),
        (("--network", "host", "--ip", "10.9.0.5"), "it has no interface"),
        (("--ip", "10.9.0.5", "--gateway", "10.9.0.1"), "its way out is its host"),
        (("--network", "brigde:br0"), "there is no such kind"),
    ],
)
def test_what_does_not_go_together(
    hostnet: HostNet, host_dir: Path, host: "ve.Host", veid: int, words: tuple[str, ...], why: str
) -> None:
    refused = hostnet.ve(host_dir, "create", veid, "--template", "busybox", *words)
    assert refused.returncode == 20 and why in refused.stderr, refused


def test_a_start_that_fails_has_the_device_back(hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> None:
    hostnet.run("ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1")
    hostnet.run("ip", "address", "add", "198.51.100.1/24", "dev", "spare0")
    host.create(veid, template="busybox", network="device:spare0", device_lost_ok=True)
    failed = hostnet.ve(host_dir, "start", veid, env={**os.environ, "VE_FAULT": "facts:error"})
    assert failed.returncode == 47, failed.stderr
    [back] = json.loads(hostnet.run("ip", "-j", "address", "show", "dev", "spare0").stdout)
    assert "198.51.100.1" in [each["local"] for each in back["addr_info"]]
