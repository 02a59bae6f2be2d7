"""VEs with addresses of the host's own subnet: its neighbours find them, and what a neighbour has is not taken."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests.hostnet import HostNet

pytestmark = pytest.mark.any_kernel  # on the stock kernel tests/kernel and test_addresses.py ask for the same

NETWORKS = ("192.0.2.64/29", "2001:db8::40/125")


@pytest.fixture
def lan(hostnet: HostNet, host_dir: Path) -> HostNet:
    """A host that forwards, with a pool of its own subnet; the outside is its neighbour there."""
    hostnet.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    words = [word for network in NETWORKS for word in ("--cidr", network)]
    said = hostnet.ve(host_dir, "network", "add", "default", *words)
    assert said.returncode == 0, said.stderr
    assert "net.ipv6.conf.eth0.proxy_ndp: 0 -> 1" in said.stderr
    return hostnet


@pytest.fixture
def inner(lan: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> Iterator[list[str]]:
    """The addresses of a running VE of that pool."""
    host.create(veid, template="busybox", addresses=["auto"])
    done = lan.ve(host_dir, "start", veid)
    assert done.returncode == 0, done.stderr
    yield json.loads(lan.output(host_dir, "status", "--json", veid))["addresses"]
    lan.ve(host_dir, "stop", "--fast", veid)


def test_neighbours_find_it(lan: HostNet, inner: list[str]) -> None:
    assert len(inner) == 2
    for address in inner:
        lan.outside("ping", "-c1", "-W5", address)


def test_its_end_leaves_nobody_who_answers(lan: HostNet, host_dir: Path, veid: int, inner: list[str]) -> None:
    assert len(lan.run("ip", "neighbour", "show", "proxy").stdout.splitlines()) == 2
    lan.output(host_dir, "stop", "--fast", veid)
    assert lan.run("ip", "neighbour", "show", "proxy").stdout == ""


def test_what_a_neighbour_has_is_not_taken(lan: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> None:
    """All but one of each family are, of a machine that nobody has told us of."""
    for last in (65, 66, 67, 69, 70):
        lan.outside("ip", "address", "add", f"192.0.2.{last}/24", "dev", "eth0")
    for last in (41, 42, 43, 45, 46, 47):
        lan.outside("ip", "address", "add", f"2001:db8::{last}/64", "dev", "eth0", "nodad")
    host.create(veid, template="busybox", addresses=["auto"])
    lan.output(host_dir, "start", veid)
    status = json.loads(lan.output(host_dir, "status", "--json", veid))
    assert status["addresses"] == ["192.0.2.68", "2001:db8::44"]
    lan.output(host_dir, "stop", "--fast", veid)
    lan.output(host_dir, "set", veid, "--ip", "192.0.2.70", "--save")
    refused = lan.ve(host_dir, "start", veid)
    assert refused.returncode == 51
    assert refused.stderr.startswith(f"ve: cannot give 192.0.2.70 to {veid}: a machine on eth0 answers for it\n")
