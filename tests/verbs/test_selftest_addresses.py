"""ve selftest tries whether a VE is kept to its own addresses: true or not, and not at all where nobody promises it."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.hostnet import HostNet, entering
from tests.verbs import commandline, witness

pytestmark = pytest.mark.any_kernel

Start = Callable[..., int]


@pytest.fixture
def start(hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> Iterator[Start]:
    def start(**options: Any) -> int:
        host.create(veid, template="busybox", **options)
        hostnet.output(host_dir, "start", veid)
        return veid

    yield start
    hostnet.ve(host_dir, "stop", "--fast", veid)


def verdict(done: "subprocess.CompletedProcess[str]") -> tuple[str, str]:
    """That of addresses; all others hold, or are given up for the same reason."""
    found = {each["name"]: (each["status"], each["why"]) for each in json.loads(done.stdout)}
    assert {each for each in found.values() if each[0] != "held"} <= {found["addresses"]}
    assert done.returncode == (1 if found["addresses"][0] == "broken" else 0)
    return found["addresses"]


@pytest.mark.parametrize(("address", "stranger"), [("10.9.0.5", "203.0.113.66"), ("fd00:9::5", "2001:db8:76::66")])
def test_one_that_is_routed(start: Start, hostnet: HostNet, host_dir: Path, address: str, stranger: str) -> None:
    veid = start(addresses=[address])
    assert verdict(hostnet.ve(host_dir, "selftest", "--json", veid)) == ("held", "")
    hostnet.run("nft", "delete", "table", "inet", "ve")
    why = f"what it sent from {stranger}, which is not its own, came as far as its host"
    assert verdict(hostnet.ve(host_dir, "selftest", "--json", veid)) == ("broken", why)


@pytest.mark.parametrize("address", ["192.0.2.50/24", "2001:db8::50/64"])
def test_a_port_of_a_bridge(bridged: HostNet, start: Start, host_dir: Path, address: str) -> None:
    veid = start(network="bridge:br0", addresses=[address])
    assert verdict(bridged.ve(host_dir, "selftest", "--json", veid)) == ("held", "")
    bridged.run("nft", "delete", "table", "bridge", "ve")
    status, why = verdict(bridged.ve(host_dir, "selftest", "--json", veid))
    assert status == "broken" and why.endswith("which is not its own, came as far as br0")


@pytest.mark.parametrize("loses", ["ip link del br0", "ip link set {port} nomaster"])
def test_a_port_without_its_bridge_is_cut_off(bridged: HostNet, start: Start, host_dir: Path, loses: str) -> None:
    """Also from the host itself, of which it knows the end of its wire."""
    veid = start(network="bridge:br0", addresses=["192.0.2.50/24"])
    [port] = [each for each in json.loads(bridged.run("ip", "-j", "link").stdout) if each["ifname"].startswith("venet")]
    bridged.run(*loses.format(port=port["ifname"]).split())
    bridged.run("ip", "address", "replace", "192.0.2.1/24", "dev", "eth0")
    assert verdict(bridged.ve(host_dir, "selftest", "--json", veid)) == ("held", "")
    inside = entering(witness.init(host_dir, veid))
    known = ["ip", "neigh", "replace", "192.0.2.1", "lladdr", port["address"], "dev", "eth0"]
    subprocess.run([*inside, *known], check=True)
    assert echoes(bridged, inside) == 0
    bridged.run("nft", "flush", "ruleset")
    assert echoes(bridged, inside) == 1
    status, why = verdict(bridged.ve(host_dir, "selftest", "--json", veid))
    assert status == "broken" and "the table inet ve" in why


def echoes(hostnet: HostNet, inside: list[str]) -> int:
    """How many of its echo requests the host takes."""

    def taken() -> int:
        names, values = (line.split() for line in hostnet.run("grep", "^Icmp:", "/proc/net/snmp").stdout.splitlines())
        return int(values[names.index("InEchos")])

    before = taken()
    subprocess.run([*inside, "ping", "-c1", "-W1", "192.0.2.1"], stdout=subprocess.DEVNULL, check=False)
    return taken() - before


@pytest.mark.parametrize("kind", ["macvlan", "device"])
def test_nobody_promises_it_where_nobody_looks(start: Start, hostnet: HostNet, host_dir: Path, kind: str) -> None:
    hostnet.run("ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1")
    veid = start(network=f"{kind}:spare0", addresses=["192.0.2.51/24"], device_lost_ok=kind == "device")
    why = f"its network is {kind}:spare0: nobody looks at what it sends there"
    assert verdict(hostnet.ve(host_dir, "selftest", "--json", veid)) == ("given up", why)
    hostnet.output(host_dir, "stop", "--fast", veid)


def test_a_host_whose_firewall_lets_nothing_in_but_pings(start: Start, hostnet: HostNet, host_dir: Path) -> None:
    hostnet.run(
        "nft",
        "-f",
        "-",
        input="""
        table inet strict {
            chain input {
                type filter hook input priority filter; policy drop;
                meta l4proto { icmp, icmpv6 } accept
            }
        }
    """,
    )
    veid = start(addresses=["10.9.0.5", "fd00:9::5"])
    assert verdict(hostnet.ve(host_dir, "selftest", "--json", veid)) == ("held", "")
    hostnet.run("nft", "flush", "chain", "inet", "strict", "input")
    status, why = verdict(hostnet.ve(host_dir, "selftest", "--json", veid))
    assert status == "broken" and why.startswith("it could not be tried: what it sends from its own 10.9.0.5 ")


@pytest.mark.parametrize("does", ["ip link set venet0 down", "ip link del venet0", "ip address flush dev venet0"])
def test_what_its_root_does_to_its_own_network_breaks_nothing(
    start: Start, hostnet: HostNet, host_dir: Path, does: str
) -> None:
    veid = start(addresses=["10.9.0.5"], capabilities={"net_admin": "on"})
    hostnet.output(host_dir, "exec", veid, "sh", "-c", does)
    found = json.loads(hostnet.ve(host_dir, "selftest", "--json", veid).stdout)
    assert [each["name"] for each in found if each["status"] == "broken"] == []


def test_what_is_made_for_it_touches_nothing_of_the_host_s_network(hostnet: HostNet, host_dir: Path) -> None:
    """Without rules there it is another namespace's that were tried; in that one its own are taken out."""
    done = hostnet.ve(host_dir, "selftest", "--json", env={**os.environ, "VE_WITHOUT": "addresses"})
    assert verdict(done)[0] == "broken"
    assert verdict(hostnet.ve(host_dir, "selftest", "--json")) == ("held", "")
    assert hostnet.run("nft", "list", "ruleset").stdout == ""
    assert "venet" not in hostnet.run("ip", "link").stdout


def test_a_host_where_no_ve_can_have_any(hostnet: HostNet, host_dir: Path, tmp_path: Path) -> None:
    """Without nft: a start of one would be refused, so nothing is broken."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/cat").symlink_to("/bin/cat")
    before = [*hostnet.words, "env", f"PATH={tmp_path / 'bin'}"]
    done = commandline.run(host_dir, "selftest", "--json", before=before)
    status, why = verdict(done)
    assert status == "given up" and why.startswith("no VE can have any here: ") and why.endswith("no nft here")


@pytest.mark.parametrize("step", ["interface", "reach"])
def test_killed_as_the_one_with_addresses_starts_it_leaves_nothing(
    hostnet: HostNet, host_dir: Path, env: "ve.Environment", step: str
) -> None:
    """In steps that no other one takes."""
    hostnet.ve(host_dir, "selftest", env={**os.environ, "VE_FAULT": f"{step}:kill"})
    assert hostnet.output(host_dir, "list", "-H", "-o", "veid").split() == [str(env.veid)]
    assert "venet" not in hostnet.run("ip", "link").stdout and hostnet.run("nft", "list", "ruleset").stdout == ""
