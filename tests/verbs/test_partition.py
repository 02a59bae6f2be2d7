"""A network of several VEs that falls apart: judged by pings from inside them, on a namespace that plays the host."""

import json
import os
from collections.abc import Iterator

import pytest

import ve
from tests.hostnet import HostNet
from tests.verbs import witness
from tests.verbs.conftest import Make
from ve import errors

ADDRESSES = ("10.9.0.1", "10.9.0.2", "10.9.0.3")


@pytest.fixture
def three(hostnet: HostNet, make: Make) -> "Iterator[list[ve.Environment]]":
    """Running VEs, with an address of each family, that reach each other."""
    hostnet.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    made = [make(addresses=[address, second(address)]) for address in ADDRESSES]
    for env in made:
        hostnet.call(env.start)
    yield made
    for env in made:
        if env.pid:
            hostnet.call(env.stop, fast=True)


def second(address: str) -> str:
    return f"fd00:9::{address.rpartition('.')[2]}"


def reach(envs: "list[ve.Environment]") -> set[str]:
    """Which of them reach which, as in "1>2": by both families, or the test fails."""
    found = set()
    for number, env in enumerate(envs, 1):
        for address in ADDRESSES:
            to = address.rpartition(".")[2]
            if to != str(number):
                done = [env.run(["ping", "-c1", "-W2", each], capture_output=True).returncode for each in both(address)]
                assert done in ([0, 0], [1, 1]), done
                found |= {f"{number}>{to}"} if done == [0, 0] else set()
    return found


def both(address: str) -> tuple[str, str]:
    return address, second(address)


ALL = {"1>2", "1>3", "2>1", "2>3", "3>1", "3>2"}


def elements(hostnet: HostNet) -> list[object]:
    """Of the set, as nft tells it."""
    [*_, found] = json.loads(hostnet.run("nft", "-j", "list", "set", "inet", "ve", "parted").stdout)["nftables"]
    return list(found["set"].get("elem", []))


def test_a_partition_and_its_end(hostnet: HostNet, host: "ve.Host", three: "list[ve.Environment]") -> None:
    one, two, three_ = three
    assert reach(three) == ALL
    hostnet.call(host.networks.partition, [one], [two, three_])
    assert reach(three) == {"2>3", "3>2"}
    for address in ADDRESSES:
        hostnet.run("ping", "-c1", "-W5", address)  # the host still reaches all
    hostnet.call(host.networks.heal, two)
    assert reach(three) == ALL - {"1>3", "3>1"}
    hostnet.call(host.networks.partition, [one], [two])
    hostnet.call(host.networks.partition, [one], [two])
    hostnet.call(host.networks.heal)
    assert reach(three) == ALL
    assert elements(hostnet) == []


def test_who_ends_takes_it_along(hostnet: HostNet, host: "ve.Host", three: "list[ve.Environment]") -> None:
    """And is as reachable as any when it starts again."""
    one, two, _ = three
    hostnet.call(host.networks.partition, [one], [two])
    assert len(elements(hostnet)) == 2
    hostnet.call(one.stop, fast=True)
    assert elements(hostnet) == []
    hostnet.call(one.start)
    assert reach(three) == ALL


def test_after_somebody_s_flush(hostnet: HostNet, host: "ve.Host", three: "list[ve.Environment]") -> None:
    one, two, _ = three
    hostnet.run("nft", "flush", "ruleset")
    hostnet.call(host.networks.heal)
    hostnet.call(host.networks.partition, [one], [two])
    assert reach(three) == ALL - {"1>2", "2>1"}
    hostnet.call(host.networks.heal)


def test_who_cannot_be_parted(hostnet: HostNet, host: "ve.Host", make: Make, three: "list[ve.Environment]") -> None:
    """Then nobody is."""
    stopped, lonely = make(addresses=["10.9.0.7"]), make()
    lonely.start()
    with pytest.raises(errors.NotRunning, match=f"cannot part {stopped.veid}: it is not running"):
        hostnet.call(host.networks.partition, three, [stopped])
    with pytest.raises(errors.NotSupported, match=f"cannot part {lonely.veid}: it has no address"):
        hostnet.call(host.networks.partition, three, [lonely])
    hostnet.call(host.networks.heal, lonely, stopped)
    assert elements(hostnet) == []
    assert witness.shell(three[0], "ping -c1 -W5 10.9.0.2")


def test_who_is_not_root(host: "ve.Host", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(errors.NotRoot, match=r"^cannot part the network: not root$"):
        host.networks.partition([], [])
    with pytest.raises(errors.NotRoot, match=r"^cannot heal the network: not root$"):
        host.networks.heal()
