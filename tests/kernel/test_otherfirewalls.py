"""Which firewalls of others drop what VEs send, and that it passes when what is advised was done."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostnet import HostNet
from tests.kernel.netns import StandIn, routed
from tests.kernel.test_firewall import HOST, OUTSIDE, RED, pings
from ve import check, otherfirewalls

pytestmark = pytest.mark.long  # what takes the emulated CPU minutes

DROPPING = {
    "iptables": "iptables-nft -P FORWARD DROP",
    "ip6tables": "ip6tables-nft -P FORWARD DROP",
    "iptables-legacy": "iptables-legacy -P FORWARD DROP",
    "ip6tables-legacy": "ip6tables-legacy -P FORWARD DROP",
    "Docker": """
        iptables-nft -P FORWARD DROP
        iptables-nft -N DOCKER-USER
        iptables-nft -A DOCKER-USER -j RETURN
        iptables-nft -A FORWARD -j DOCKER-USER""",
    "nftables": """
        nft 'add table inet own'
        nft 'add chain inet own forward { type filter hook forward priority 0; policy drop; }'""",
    "firewalld": """
        nft 'add table inet firewalld'
        nft 'add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; policy accept; }'
        nft 'add rule inet firewalld filter_FORWARD ct state { established, related } accept'
        nft 'add rule inet firewalld filter_FORWARD counter reject with icmpx admin-prohibited'""",
}
CHAINS = {
    "iptables": "ip filter FORWARD",
    "ip6tables": "ip6 filter FORWARD",
    "iptables-legacy": "iptables-legacy FORWARD",
    "ip6tables-legacy": "ip6tables-legacy FORWARD",
    "Docker": "ip filter FORWARD",
    "nftables": "inet own forward",
    "firewalld": "inet firewalld filter_FORWARD",
}
HARMLESS = """
iptables-nft -P INPUT DROP
iptables-nft -A FORWARD -s 10.9.8.7 -j DROP
nft 'add table inet own'
nft 'add chain inet own forward { type filter hook forward priority 0; policy accept; }'
nft 'add rule inet own forward ip saddr 10.9.8.7 drop'
nft 'add chain inet own aside'
nft 'add rule inet own aside drop'
"""


@pytest.fixture
def red(hostnet: HostNet) -> Iterator[StandIn]:
    hostnet.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    hostnet.run("ping", "-c1", "-W10", OUTSIDE[1])
    hostnet.outside("ping", "-c1", "-W10", HOST[1])
    with routed(hostnet, 101, *RED) as red:
        yield red


@pytest.mark.parametrize("kind", DROPPING)
def test_who_drops_and_the_cure(hostnet: HostNet, red: StandIn, kind: str) -> None:
    six = kind.startswith("ip6")
    assert hostnet.call(otherfirewalls.others_drop) == []
    hostnet.run("sh", "-ec", DROPPING[kind])
    assert not red.call(passes, OUTSIDE[six])
    [found] = hostnet.call(otherfirewalls.others_drop)
    assert found.chain == CHAINS[kind]
    assert ("DOCKER-USER" in found.cure) == (kind == "Docker")
    hostnet.run(
        "sh", "-ec", found.cure.replace("iptables -", "iptables-nft -").replace("ip6tables -", "ip6tables-nft -")
    )
    assert red.call(pings, OUTSIDE[six])
    assert StandIn(hostnet.other).call(pings, RED[six])
    assert hostnet.call(otherfirewalls.others_drop) == []


def passes(target: str) -> bool:
    return subprocess.run(["ping", "-c1", "-W1", target], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_who_drops_but_something_is_not_told_of(hostnet: HostNet, red: StandIn) -> None:
    hostnet.run("sh", "-ec", HARMLESS)
    assert red.call(pings, OUTSIDE[0])
    assert hostnet.call(otherfirewalls.others_drop) == []


@pytest.mark.parametrize("kind", ("nftables", "ip6tables-legacy"))
def test_half_of_the_cure_is_none(hostnet: HostNet, kind: str) -> None:
    hostnet.run("sh", "-ec", DROPPING[kind])
    [found] = hostnet.call(otherfirewalls.others_drop)
    hostnet.run("sh", "-ec", re.sub(" && .*|; .*(?=')", "", found.cure))
    assert hostnet.call(otherfirewalls.others_drop) == [found]


def test_check_names_the_rule(hostnet: HostNet, state_dir: Path) -> None:
    name = "no firewall that drops by default"
    [before] = hostnet.call(check.check, str(state_dir), [name])
    hostnet.run("sh", "-ec", DROPPING["nftables"])
    [after] = hostnet.call(check.check, str(state_dir), [name])
    assert before.present and not after.present and not after.required
    assert after.why == "inet own forward drops what VEs send and get"
    rules = (f'insert rule inet own forward {side} "venet*" accept' for side in ("iifname", "oifname"))
    assert after.cure == f"nft '{'; '.join(rules)}'"
