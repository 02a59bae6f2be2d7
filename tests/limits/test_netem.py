"""Delays and losses as ping sees them, with and without a rate: of kernels with netem, which the VM's is."""

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hostnet import HostNet
from tests.kernel.netns import StandIn, routed
from ve import bandwidth, rates

RED, GATEWAY = "10.9.0.1", "169.254.1.1"


@pytest.fixture
def red(hostnet: HostNet) -> Iterator[StandIn]:
    with routed(hostnet, 101, RED) as red:
        yield red
        hostnet.call(bandwidth.release, red.name)


def ping(who: StandIn, *options: str) -> tuple[int, float]:
    """How many were answered, and the least milliseconds for that."""
    done = subprocess.run([*who.words, "ping", "-n", *options, GATEWAY], stdout=subprocess.PIPE, text=True, check=False)
    found = re.search(r"(\d+) received", done.stdout)
    least = re.search(r"= ([0-9.]+)/", done.stdout)
    assert found
    return int(found[1]), float(least[1]) if least else 0.0


def kinds(hostnet: HostNet, red: StandIn) -> list[list[Any]]:
    """Of both ends, from the root on."""
    ends = red.name, "vi" + red.name.removeprefix("venet")
    found = [json.loads(hostnet.run("tc", "-j", "qdisc", "show", "dev", end).stdout) for end in ends]
    return [[each["kind"] for each in end if each["kind"] not in ("noqueue", "ingress")] for end in found]


def test_a_delay_is_there_both_ways(hostnet: HostNet, red: StandIn) -> None:
    hostnet.call(bandwidth.impair, 101, red.name, 0.2)
    received, least = ping(red, "-c3", "-W30")
    assert received == 3 and least >= 400
    hostnet.call(bandwidth.impair, 101, red.name)
    assert ping(red, "-c3", "-W30")[1] < 400
    assert not any(each["ifname"].startswith("vi") for each in json.loads(hostnet.run("ip", "-j", "link").stdout))


def test_losses(hostnet: HostNet, red: StandIn) -> None:
    hostnet.call(bandwidth.impair, 101, red.name, 0.0, 0.3)
    received, _ = ping(red, "-c200", "-i0.01", "-W5")
    assert 60 < received < 140  # of 200, of which each has to pass twice: 98 +- 4 * 7
    hostnet.call(bandwidth.impair, 101, red.name, 0.0, 1.0)
    assert ping(red, "-c3", "-W1")[0] == 0


def test_with_a_rate_in_any_order(hostnet: HostNet, red: StandIn) -> None:
    rate = rates.rate("8mbit:20k")
    hostnet.call(bandwidth.limit, 101, red.name, rate)
    assert kinds(hostnet, red) == [["tbf"]] * 2
    hostnet.call(bandwidth.impair, 101, red.name, 0.2)
    assert kinds(hostnet, red) == [["netem", "tbf"]] * 2
    for end in (red.name, "vi" + red.name.removeprefix("venet")):
        [about] = [
            each["options"]
            for each in json.loads(hostnet.run("tc", "-j", "qdisc", "show", "dev", end).stdout)
            if each["kind"] == "tbf"
        ]
        assert (about["rate"], about["burst"]) == (10**6, 20 << 10)
    assert ping(red, "-c1", "-W30")[1] >= 400
    hostnet.call(bandwidth.limit, 101, red.name, rates.rate("5mbit"))
    assert kinds(hostnet, red) == [["netem", "tbf"]] * 2
    hostnet.call(bandwidth.impair, 101, red.name, 0.3)
    assert kinds(hostnet, red) == [["netem", "tbf"]] * 2
    hostnet.call(bandwidth.impair, 101, red.name)
    assert kinds(hostnet, red) == [["tbf"]] * 2
    hostnet.call(bandwidth.impair, 101, red.name, 0.2)
    hostnet.call(bandwidth.limit, 101, red.name, None)
    assert kinds(hostnet, red) == [["netem"]] * 2
    assert ping(red, "-c1", "-W30")[1] >= 400
