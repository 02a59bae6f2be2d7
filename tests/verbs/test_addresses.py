"""VEs with addresses: on a network namespace that plays the host, judged by ping and ip, and from outside."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests.hostnet import HostNet
from tests.verbs import commandline


@pytest.fixture
def forwarding(hostnet: HostNet) -> HostNet:
    hostnet.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    return hostnet


@pytest.fixture
def web(forwarding: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> Iterator[int]:
    """A running VE with an address of each family."""
    host.create(veid, template="busybox", addresses=["10.9.0.5", "fd00:9::5"])
    done = forwarding.ve(host_dir, "start", veid)
    assert done.returncode == 0, done.stderr
    yield veid
    forwarding.ve(host_dir, "stop", "--fast", veid)


@pytest.mark.parametrize("address", ["10.9.0.5", "fd00:9::5"])
def test_it_answers_the_host_and_the_outside(forwarding: HostNet, web: int, address: str) -> None:
    forwarding.run("ping", "-c1", "-W5", address)
    forwarding.outside("ping", "-c1", "-W5", address)


@pytest.mark.parametrize("address", ["192.0.2.9", "192.0.2.1", "169.254.1.1", "2001:db8::9"])
def test_it_reaches_the_outside_and_the_host(forwarding: HostNet, host_dir: Path, web: int, address: str) -> None:
    assert forwarding.output(host_dir, "exec", web, "ping", "-c1", "-W5", address)


def test_stop_gives_its_interface_and_routes_back(forwarding: HostNet, host_dir: Path, web: int) -> None:
    assert json.loads(forwarding.run("ip", "-j", "route", "show", "10.9.0.5").stdout)
    assert forwarding.ve(host_dir, "stop", "--fast", web).returncode == 0
    assert "venet" not in forwarding.run("ip", "link").stdout
    assert json.loads(forwarding.run("ip", "-j", "route", "show", "10.9.0.5").stdout or "[]") == []


def test_list_and_status_have_its_addresses(forwarding: HostNet, host_dir: Path, web: int) -> None:
    [shown] = [each for each in json.loads(commandline.output(host_dir, "list", "--json")) if each["veid"] == web]
    assert shown["addresses"] == ["10.9.0.5", "fd00:9::5"]
    assert json.loads(commandline.output(host_dir, "status", "--json", web))["addresses"] == ["10.9.0.5", "fd00:9::5"]
