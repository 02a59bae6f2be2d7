"""Pools by the command line: leases of VEs that run, addresses that stay, and what is refused without a change."""

import contextlib
import ipaddress
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.hostnet import HostNet
from tests.verbs import commandline
from ve import pool

pytestmark = pytest.mark.any_kernel  # on the stock kernel tests/kernel and test_addresses.py ask for the same

VEIDS = range(7001, 7030)
Words = tuple[str | int, ...]


class Site:
    """The host that is played, with `ve` on it; what a test has made with create is gone after it."""

    def __init__(self, hostnet: HostNet, host: "ve.Host", state_dir: Path) -> None:
        self.hostnet, self.host, self.state_dir = hostnet, host, state_dir

    def ve(self, *words: str | int) -> "subprocess.CompletedProcess[str]":
        return self.hostnet.ve(self.state_dir, *words)

    def done(self, *words: str | int) -> str:
        """What it said."""
        done = self.ve(*words)
        assert done.returncode == 0, (words, done.stderr)
        return done.stderr

    def create(self, veid: int, *addresses: str) -> int:
        self.hostnet.call(self.host.create, veid, template="busybox", addresses=addresses)
        return veid

    def pool(self, name: str = "default", *cidrs: str) -> None:
        self.done("network", "add", name, *(word for each in cidrs for word in ("--cidr", each)))

    def inside(self, veid: int) -> set[str]:
        """The addresses that a VE has, as its own ip(8) says."""
        shown = commandline.output(self.state_dir, "exec", veid, "ip", "-o", "addr", "show", "dev", "venet0")
        lines = [line.split() for line in shown.splitlines()]
        return {words[3].partition("/")[0] for words in lines if not words[3].startswith("fe80")}

    def routes(self) -> dict[str, str]:
        """Of each address that has a route of its own to a VE, the interface."""
        families = ("-4", "-6")
        found = [each for one in families for each in json.loads(self.run("ip", "-j", one, "route") or "[]")]
        alone = [each for each in found if each.get("dev", "").startswith("venet") and "/" not in each["dst"]]
        return {each["dst"]: each["dev"] for each in alone}

    def run(self, *words: str) -> str:
        return self.hostnet.run(*words).stdout

    def shown(self, name: str = "default") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ve("network", "show", name, "--json").stdout)
        return found

    def footprint(self) -> tuple[object, ...]:
        """What a refusal must not change."""
        files = {path: path.read_bytes() for path in (self.state_dir / "conf").glob("7*.toml")}
        links = {path: os.readlink(path) for path in self._claims()}
        pools = {path: path.read_bytes() for path in Path(os.environ["VE_NETWORK_DIR"]).glob("*.toml")}
        return files, links, pools, self.routes(), forwards(self)

    def _claims(self) -> list[Path]:
        of_host = Path(os.environ["VE_NETWORK_DIR"], "address")
        return [*of_host.glob("[0-9a-f]*"), *(self.state_dir / "address").glob("7*")]


@pytest.fixture
def site(hostnet: HostNet, host: "ve.Host", host_dir: Path) -> Iterator[Site]:
    yield Site(hostnet, host, host_dir)
    for veid in VEIDS:
        with contextlib.suppress(ve.errors.NotFound):
            env = host.get(veid)
            if env.pid:
                hostnet.call(env.stop, fast=True)
            hostnet.call(env.destroy)


# ---- leases ---------------------------------------------------------------------------------------------------------


def test_auto_is_a_lease_for_as_long_as_it_runs(site: Site) -> None:
    site.pool("default", "10.9.0.0/30", "fd00:9::/126")
    one, other = site.create(7001, "auto"), site.create(7002, "auto")
    assert site.shown()["leases"] == []
    site.done("start", one, other)
    given = site.inside(one) | site.inside(other)
    assert {each for each in given if ":" not in each} == {"10.9.0.1", "10.9.0.2"}
    assert len(given) == 4 and given == site.routes().keys()
    shown = site.shown()
    assert {each["address"]: each["interface"] for each in shown["leases"]} == site.routes()
    assert {(each["veid"], each["state_dir"], each["kind"]) for each in shown["leases"]} == {
        (veid, str(site.state_dir), "lease") for veid in (one, other)
    }
    assert shown["taken"] == {"IPv4": 2, "IPv6": 2} and shown["size"] == {"IPv4": 2, "IPv6": 3}
    site.done("stop", "--fast", one, other)
    assert site.routes() == {} and site.shown()["leases"] == []


def test_sticky_stays(site: Site) -> None:
    """Over restarts and while it does not run; until it is destroyed."""
    site.pool("default", "10.9.0.0/29")
    one = site.create(7001, "auto:sticky")
    site.done("start", one)
    [address] = site.inside(one)
    assert [each["kind"] for each in site.shown()["leases"]] == ["both"]
    site.done("restart", "--fast", one)
    assert site.inside(one) == {address}
    site.done("stop", "--fast", one)
    assert [(each["address"], each["veid"], each["kind"]) for each in site.shown()["leases"]] == [
        (address, one, "claim")
    ]
    others = [site.create(veid, "auto") for veid in range(7002, 7007)]
    site.done("start", *others)
    assert len(set.union(*map(site.inside, others)) - {address}) == 5
    refused = site.ve("run", "busybox", "--ip", "auto", "--", "true")
    assert re.search("cannot lease an address of pool default for [0-9]+: none of 6 of IPv4 is free", refused.stderr)
    site.done("start", one)
    assert site.inside(one) == {address}
    site.done("stop", "--fast", one)
    site.done("destroy", one)
    assert address not in {each["address"] for each in site.shown()["leases"]}
    assert site.ve("run", "busybox", "--ip", "auto", "--", "true").returncode == 0


def test_a_ve_says_the_same_of_what_it_has(site: Site) -> None:
    site.pool("default", "10.9.0.0/24")
    site.pool("web", "10.8.0.0/24")
    env = site.host.get(site.create(7001, "auto", "auto:web:sticky", "10.9.0.5"))
    site.done("start", env.veid)
    shown = {each["address"]: each["kind"] for name in ("default", "web") for each in site.shown(name)["leases"]}
    assert {str(each.address): each.kind for each in env.network.addresses} == shown
    assert sorted(shown.values()) == ["both", "both", "lease"] and shown["10.9.0.5"] == "both"
    [new] = site.hostnet.call(env.network.add_address, "10.9.0.6", save=True)
    assert (str(new.address), new.kind) == ("10.9.0.6", "both")


def test_of_a_copied_state_dir_the_copy_gets_another(site: Site, tmp_path: Path) -> None:
    site.pool("default", "10.9.0.0/30")
    one = site.create(7001, "auto:sticky")
    site.done("start", one)
    [address] = site.inside(one)
    record = site.state_dir / f"address/{one}"
    assert os.readlink(record) == address
    site.done("stop", "--fast", one)
    claim = Path(os.environ["VE_NETWORK_DIR"], "address", address)
    claim.unlink()
    site.create(7002, address)  # which the claim of the original is, to the copy
    site.done("start", one)
    assert site.inside(one) == {"10.9.0.1", "10.9.0.2"} - {address}


def test_of_other_pools_and_both_families(site: Site) -> None:
    site.pool("default", "10.9.0.0/24")
    site.pool("web", "10.8.0.0/24", "fd00:8::/64")
    one = site.create(7001, "auto", "auto:web", "192.0.2.77")
    site.done("start", one)
    networks = [ipaddress.ip_network(each) for each in ("10.9.0.0/24", "10.8.0.0/24", "fd00:8::/64", "192.0.2.77/32")]
    given = [ipaddress.ip_address(each) for each in site.inside(one)]
    assert len(given) == 4 and all(any(each in network for each in given) for network in networks)
    listed = json.loads(commandline.output(site.state_dir, "list", "--json", "-o", "veid,addresses"))
    assert [set(each["addresses"]) for each in listed if each["veid"] == one] == [set(map(str, given))]


def test_twenty_at_once(site: Site) -> None:
    site.pool("default", "10.9.0.0/27", "fd00:9::/64")
    veids = [site.create(veid, "auto") for veid in VEIDS[:20]]
    words = [*site.hostnet.words, *commandline.words(site.state_dir, "start")]
    starts = [subprocess.Popen([*words, str(veid)], stderr=subprocess.PIPE, text=True) for veid in veids]
    assert [(start.communicate()[1], start.returncode) for start in starts] == [
        (f"{veid} is running; a reboot from inside will end it\n", 0) for veid in veids
    ]
    given = [address for veid in veids for address in site.inside(veid)]
    assert len(given) == len(set(given)) == 40 and set(given) == site.routes().keys()
    site.done("stop", "--fast", *veids)
    assert site.routes() == {}


def test_a_thrown_away_ve_takes_no_address_of_another(site: Site) -> None:
    site.create(7001, "10.9.0.5")
    refused = site.ve("run", "busybox", "--ip", "10.9.0.5", "--", "true")
    assert refused.returncode == 125 and "cannot give 10.9.0.5 to " in refused.stderr
    assert refused.stderr.splitlines()[0].endswith(": VE 7001 has it")
    site.pool("default", "10.9.0.0/24")
    refused = site.ve("run", "busybox", "--ip", "auto:sticky", "--", "true")
    assert refused.returncode == 125 and "it is thrown away, and keeps nothing" in refused.stderr


# ---- what is refused ------------------------------------------------------------------------------------------------

BAD: dict[Words, tuple[int, str]] = {
    ("create", 7009, "--ip", "10.9.0.5"): (51, "cannot give 10.9.0.5 to 7009: VE 7001 has it"),
    ("set", 7003, "--ip", "10.9.0.5", "--save"): (51, "cannot give 10.9.0.5 to 7003: VE 7001 has it"),
    ("set", 7003, "--ip-add", "10.9.0.6", "--save"): (51, "cannot give 10.9.0.6 to 7003: VE 7002 has it"),
    ("set", 7002, "--ip-add", "10.9.0.5"): (51, "cannot give 10.9.0.5 to 7002: VE 7001 has it"),
    ("create", 7009, "--ip", "10.9.0.255"): (20, "it is the broadcast address of 10.9.0.0/24 of pool default"),
    ("create", 7009, "--ip", "10.9.0.0"): (20, "it is the address of the network 10.9.0.0/24 of pool default itself"),
    ("create", 7009, "--ip", "10.9.0.300"): (20, "it is not an address such as 10.9.0.5"),
    ("create", 7009, "--ip", "10.9.0.5/31"): (20, "a /31 has no room for addresses"),
    ("create", 7009, "--ip", "192.0.2.1"): (51, "cannot give 192.0.2.1 to 7009: this host has it itself"),
    ("create", 7009, "--ip", "192.0.2.255"): (51, "it is a broadcast address of this host"),
    ("create", 7009, "--ip", "192.0.2.9"): (51, "this host sends by it to other networks"),
    ("create", 7009, "--ip", "auto:none"): (43, "cannot find pool none: there is none"),
    ("create", 7009, "--ip", "auto", "--ip", "auto:sticky"): (20, "it is there as auto already"),
    ("create", 7009, "--ip", "auto:6"): (20, "cannot give auto:6 to 7009: pool default has no IPv6"),
    ("set", 7002, "--ip-add", "auto:6:sticky"): (20, "cannot give auto:6:sticky to 7002: pool default has no IPv6"),
    ("run", "busybox", "--ip", "auto:6", "true"): (125, ": pool default has no IPv6"),
    ("network", "add", "default", "--cidr", "10.8.0.0/24"): (44, "cannot add pool default: it exists"),
    ("network", "add", "web", "--cidr", "10.9.0.128/25"): (20, "10.9.0.128/25 overlaps 10.9.0.0/24 of pool default"),
    ("network", "add", "web", "--cidr", "10.8.0.0/31"): (20, "a /31 has no room for addresses"),
    ("network", "add", "web", "--cidr", "10.8.0.1/24"): (20, "it has bits beyond /24"),
    ("network", "add", "web", "--cidr", "x"): (20, "cannot use network 'x'"),
    ("network", "add", "7", "--cidr", "10.8.0.0/24"): (20, "cannot use pool name '7'"),
    ("network", "remove", "none"): (43, "cannot find pool none: there is none"),
    ("network", "show", "none"): (43, "cannot find pool none: there is none"),
    ("network", "remove", "default"): (
        51,
        "cannot remove pool default: VEs have 10.9.0.5 (VE 7001), 10.9.0.6 (VE 7002)",
    ),
}


def test_bad_input_changes_nothing(site: Site) -> None:
    site.pool("default", "10.9.0.0/24")
    site.create(7001, "10.9.0.5")
    site.create(7002, "10.9.0.6")
    site.create(7003)
    site.done("start", 7002)
    before = site.footprint()
    for words, (code, why) in BAD.items():
        refused = site.ve(*words, *(("--template", "busybox") if words[0] == "create" else ()))
        sentence, *_ = refused.stderr.splitlines()
        assert (refused.returncode, why in sentence) == (code, True), (words, refused.stderr)
        assert site.footprint() == before, words
    assert not (site.state_dir / "private/7009").exists()


def test_of_one_family(site: Site) -> None:
    site.pool("default", "10.9.0.0/24", "fd00:9::/64")
    one = site.create(7001, "auto:4", "auto:6:sticky")
    site.done("start", one)
    four, six = sorted(site.inside(one), key=lambda each: ":" in each)
    assert four.startswith("10.9.0.") and six.startswith("fd00:9::")
    assert {each["address"]: each["kind"] for each in site.shown()["leases"]} == {four: "lease", six: "both"}
    site.done("set", one, "--ip-del", "auto:4", "--save")
    assert site.inside(one) == {six}
    site.done("set", one, "--ip", "auto:4:sticky", "--save")
    [four] = site.inside(one)
    assert {each["address"]: each["kind"] for each in site.shown()["leases"]} == {four: "both"}
    assert json.loads(site.ve("status", "--json", one).stdout)["addresses"] == [four]


def test_a_family_that_the_host_lacks(site: Site) -> None:
    site.pool("default", "fd00:9::/64")
    one = site.create(7001, "auto")
    site.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    before = site.footprint()
    for words in (
        ("create", 7002, "--template", "busybox", "--ip", "fd00:9::5"),
        ("create", 7002, "--template", "busybox", "--ip", "auto"),
        ("start", one),
        ("network", "add", "web", "--cidr", "fd00:8::/64"),
    ):
        refused = site.ve(*words)
        assert refused.returncode == 5, refused.stderr
        sentence, hint = refused.stderr.splitlines()
        assert sentence.endswith(": IPv6 is disabled on this host")
        assert hint == "hint: sysctl -w net.ipv6.conf.all.disable_ipv6=0, or give IPv4 addresses only"
        assert site.footprint() == before


# ---- what a pool changes on the host --------------------------------------------------------------------------------


def forwards(site: Site) -> list[str]:
    return site.run("sysctl", "-n", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding").split()


def test_nat_turns_forwarding_on_and_says_so(site: Site) -> None:
    site.run("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
    alone = "net.ipv4.ip_forward is 0: its VEs and others than this host do not reach each other\n"
    assert site.done("network", "add", "a", "--cidr", "10.8.0.0/24") == f"{alone}pool a is added\n"
    assert forwards(site) == ["0", "0"]
    said = site.done("network", "add", "b", "--cidr", "10.9.0.0/24", "--nat")
    assert said == "net.ipv4.ip_forward: 0 -> 1\npool b is added\n"
    assert forwards(site) == ["1", "0"]
    said = site.done("network", "add", "c", "--cidr", "10.7.0.0/24", "--cidr", "fd00:7::/64", "--nat")
    assert said == "net.ipv6.conf.all.forwarding: 0 -> 1\npool c is added\n"
    assert site.done("network", "add", "d", "--cidr", "10.6.0.0/24") == "pool d is added\n"
    assert forwards(site) == ["1", "1"]
    hidden = site.run("nft", "list", "set", "inet", "ve", "masqueraded4")
    assert "10.9.0.0/24" in hidden and "10.7.0.0/24" in hidden and "10.8.0.0/24" not in hidden
    site.done("network", "remove", "b")
    assert "10.9.0.0/24" not in site.run("nft", "list", "set", "inet", "ve", "masqueraded4")
    assert forwards(site) == ["1", "1"]


def test_of_two_pools_that_are_added_at_once_none_is_left_out(site: Site) -> None:
    """The second is, as a whole, when the first has looked which pools there are."""
    add, networks = pool.add, site.host.networks

    def late(made: pool.Pool) -> None:
        patch.undo()
        networks.add("b", ["10.8.0.0/24"], nat=True)
        add(made)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "add", late)
        site.hostnet.call(networks.add, "a", ["10.7.0.0/24"], nat=True)
    hidden = site.run("nft", "list", "set", "inet", "ve", "masqueraded4")
    assert "10.7.0.0/24" in hidden and "10.8.0.0/24" in hidden


def test_a_ve_of_a_pool_with_nat_reaches_the_outside_under_the_hosts_address(site: Site) -> None:
    site.hostnet.outside("ip", "route", "del", "10.0.0.0/8", "via", "192.0.2.1")
    site.done("network", "add", "default", "--cidr", "10.9.0.0/24", "--nat")
    one = site.create(7001, "auto")
    site.done("start", one)
    assert commandline.output(site.state_dir, "exec", one, "ping", "-c1", "-W5", "192.0.2.9")


def test_after_a_boot_the_first_start_does_what_was_told(site: Site) -> None:
    site.done("network", "add", "default", "--cidr", "10.9.0.0/24", "--nat")
    site.run("nft", "delete", "table", "inet", "ve")
    site.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    one = site.create(7001, "auto")
    site.done("start", one)
    assert forwards(site)[0] == "1"
    assert "10.9.0.0/24" in site.run("nft", "list", "set", "inet", "ve", "masqueraded4")


def test_after_a_boot_a_new_pool_does_not_stand_for_what_the_others_were_told(site: Site) -> None:
    site.done("network", "add", "default", "--cidr", "10.9.0.0/24", "--nat")
    site.run("nft", "delete", "table", "inet", "ve")
    site.run("sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0")
    site.done("network", "add", "web", "--cidr", "fd00:8::/64", "--nat")
    site.done("start", site.create(7001, "auto"))
    assert forwards(site) == ["1", "1"]


ADVERTISEMENT = """
import socket, struct, sys
sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("eth0"))
sock.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1%eth0", 0))
"""


def test_a_default_route_that_was_learnt_is_not_lost(site: Site) -> None:
    """By a router advertisement from outside, which a host that forwards does not listen to."""
    site.run("ip", "-6", "route", "del", "default")
    site.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0", "net.ipv6.conf.eth0.accept_ra=1")
    learn(site)
    before = site.footprint()
    words = ("network", "add", "default", "--cidr", "fd00:9::/64", "--nat")
    refused = site.ve(*words)
    sentence, hint = refused.stderr.splitlines()
    assert refused.returncode == 5
    assert sentence == (
        "ve: cannot add pool default: a host that forwards IPv6 loses the default route that eth0 has from router "
        "advertisements"
    )
    assert hint == "hint: sysctl -w net.ipv6.conf.eth0.accept_ra=2 keeps it; write that to /etc/sysctl.d too"
    assert site.footprint() == before
    site.run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=2")
    site.done(*words)
    assert "proto ra" in site.run("ip", "-6", "route", "show", "default")


def learn(site: Site) -> None:
    """The kernel has answered when the packet is sent, or has the interface's address still in doubt."""
    deadline = commandline.PATIENCE
    while "proto ra" not in site.run("ip", "-6", "route", "show", "default"):
        site.hostnet.outside("python3", "-c", ADVERTISEMENT)
        deadline -= 1
        assert deadline > 0
