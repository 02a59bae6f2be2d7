"""VEs with addresses of the host's own subnet: its neighbours find them, and what a neighbour has is not taken."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests.hostnet import HostNet
from ve import forwarding

pytestmark = pytest.mark.any_kernel  # on the stock kernel tests/kernel and test_addresses.py ask for the same

NETWORKS = ("192.0.2.64/29", "2001:db8::40/125")


@pytest.fixture
def lan(hostnet: HostNet, host_dir: Path) -> HostNet:
    """A host that forwards, with a pool of its own subnet; the outside is its neighbour there."""
    hostnet.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    words = [word for network in NETWORKS for word in ("--cidr", network)]
    hostnet.output(host_dir, "network", "add", "default", *words)
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


WHOSE = {
    "of a pool that begins with the host's own": "auto:low",
    "of none, IPv4": "192.0.2.50",
    "of none, IPv6": "2001:db8::50",
}


@pytest.mark.parametrize("wish", WHOSE.values(), ids=WHOSE)
def test_neighbours_find_whatever_address_it_has(
    hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int, wish: str
) -> None:
    hostnet.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    hostnet.output(host_dir, "network", "add", "low", "--cidr", "192.0.2.0/29", "--cidr", "2001:db8::/125")
    host.create(veid, template="busybox", addresses=[wish])
    hostnet.output(host_dir, "start", veid)
    for address in json.loads(hostnet.output(host_dir, "status", "--json", veid))["addresses"]:
        hostnet.outside("ping", "-c1", "-W5", address.partition("/")[0])
        version = 6 if ":" in address else 4
        assert hostnet.run("sysctl", "-n", f"net.ipv{version}.neigh.eth0.proxy_delay").stdout == "0\n"
    hostnet.output(host_dir, "stop", "--fast", veid)


def test_where_the_host_cannot_be_told_so_the_cure_is_named(hostnet: HostNet, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, value: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(forwarding, "_write", refuse)
    with pytest.raises(ve.errors.NotSupported) as caught:
        hostnet.call(forwarding.answer_on, "eth0", 6, "cannot answer for 2001:db8::50 on eth0")
    name = "net.ipv6.neigh.eth0.proxy_delay"
    assert str(caught.value) == (f"cannot answer for 2001:db8::50 on eth0: {name} cannot be set: Read-only file system")
    assert caught.value.hint == f"sysctl -w {name}=0"


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
