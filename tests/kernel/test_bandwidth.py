"""Rates as iperf3 measures them, and what tc shows; nobody else's network goes slower, and nothing is left.

What netem does is shown where a kernel has it: tests/limits/test_netem.py.
"""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hostnet import HostNet
from tests.kernel.netns import StandIn, routed
from ve import bandwidth, rates
from ve.errors import NotSupported

pytestmark = pytest.mark.long  # what takes the emulated CPU minutes

RED, BLUE = "10.9.0.1", "10.9.0.2"
GATEWAY = "169.254.1.1"
BUSY = pytest.mark.any_kernel  # an emulated CPU is too slow for iperf3, whatever the kernel


@pytest.fixture
def red(hostnet: HostNet) -> Iterator[StandIn]:
    with routed(hostnet, 101, RED) as red:
        yield red
        hostnet.call(bandwidth.release, red.name)


@pytest.fixture
def blue(hostnet: HostNet) -> Iterator[StandIn]:
    with routed(hostnet, 102, BLUE) as blue:
        yield blue


def mbits(hostnet: HostNet, ve: StandIn, from_ve: bool) -> float:
    """What arrives at the other end, without the first two seconds: with the burst, and before TCP knows the way."""
    words = [*hostnet.words, "iperf3", "-s", "-1", "--forceflush", "-B", GATEWAY, "-p", "5201"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        while "listening" not in server.stdout.readline():
            pass
        client = [*ve.words, "iperf3", "-c", GATEWAY, "-t", "6", "-O", "2", "-J", *([] if from_ve else ["-R"])]
        done = subprocess.run(client, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e6


def is_held_to(hostnet: HostNet, ve: StandIn, from_ve: bool, wanted: float) -> bool:
    """Within a tenth; where a busy machine has kept iperf3 itself or its clock waiting, it is asked again."""
    return any(0.9 * wanted <= mbits(hostnet, ve, from_ve) <= 1.1 * wanted for _ in range(5))


def disciplines(hostnet: HostNet, device: str) -> dict[str, dict[str, Any]]:
    listed = json.loads(hostnet.run("tc", "-j", "qdisc", "show", "dev", device).stdout)
    return {each["kind"]: each for each in listed if each["kind"] != "noqueue"}


def names(hostnet: HostNet) -> set[str]:
    return {each["ifname"] for each in json.loads(hostnet.run("ip", "-j", "link").stdout)}


@BUSY
@pytest.mark.parametrize("from_ve", (False, True), ids=("towards", "from"))
@pytest.mark.parametrize("word", ("10mbit", "3mbit:64k"))
def test_iperf3_sees_the_rate(hostnet: HostNet, red: StandIn, word: str, from_ve: bool) -> None:
    rate = rates.rate(word)
    hostnet.call(bandwidth.limit, 101, red.name, rate)
    assert is_held_to(hostnet, red, from_ve, rate.per_second * 8 / 1e6)


@BUSY
def test_it_changes_while_it_runs_and_goes(hostnet: HostNet, red: StandIn) -> None:
    for word in ("1mbit", "5mbit"):
        hostnet.call(bandwidth.limit, 101, red.name, rates.rate(word))
    for from_ve in (False, True):
        assert is_held_to(hostnet, red, from_ve, 5)
    before = names(hostnet)
    hostnet.call(bandwidth.limit, 101, red.name, None)
    assert disciplines(hostnet, red.name) == {}
    assert before - names(hostnet) == {"vi" + red.name.removeprefix("venet")}
    for from_ve in (False, True):
        assert mbits(hostnet, red, from_ve) > 20
    hostnet.call(bandwidth.limit, 101, red.name, None)


@BUSY
def test_a_neighbour_goes_as_fast_as_before(hostnet: HostNet, red: StandIn, blue: StandIn) -> None:
    hostnet.call(bandwidth.limit, 101, red.name, rates.rate("1mbit"))
    assert disciplines(hostnet, blue.name) == {}
    for from_ve in (False, True):
        assert mbits(hostnet, blue, from_ve) > 20


def test_tc_shows_what_was_asked_for(hostnet: HostNet, red: StandIn) -> None:
    hostnet.call(bandwidth.limit, 101, red.name, rates.rate("40gbit:2m"))
    ends = red.name, "vi" + red.name.removeprefix("venet")
    for end in ends:
        about = disciplines(hostnet, end)["tbf"]["options"]
        assert about["rate"] == 40 * 10**9 // 8
        assert about["burst"] == pytest.approx(2 << 20, rel=0.01)  # the kernel tells it in ticks
    assert set(disciplines(hostnet, red.name)) == {"tbf", "ingress"}
    shown = hostnet.run("tc", "filter", "show", "dev", red.name, "parent", "ffff:").stdout
    assert shown.count(f"Egress Redirect to device {ends[1]}") == 1


def test_asked_for_twice_it_is_there_once(hostnet: HostNet, red: StandIn) -> None:
    for _ in range(2):
        hostnet.call(bandwidth.limit, 101, red.name, rates.rate("10mbit"))
    shown = hostnet.run("tc", "filter", "show", "dev", red.name, "parent", "ffff:").stdout
    assert shown.count("Egress Redirect") == 1


def test_what_a_dead_ve_leaves_goes_when_it_is_cleared(hostnet: HostNet, blue: StandIn) -> None:
    hostnet.call(bandwidth.limit, 102, blue.name, rates.rate("10mbit"))
    with routed(hostnet, 101, RED) as red:
        hostnet.call(bandwidth.limit, 101, red.name, rates.rate("10mbit"))
        hostnet.run("ip", "link", "delete", red.name)
        assert "vi" + red.name.removeprefix("venet") in names(hostnet)
    assert "vi" + red.name.removeprefix("venet") not in names(hostnet)
    assert "vi" + blue.name.removeprefix("venet") in names(hostnet)
    hostnet.call(bandwidth.limit, 102, blue.name, None)


@pytest.mark.parametrize("lacking", ("_bucket", "_redirect"))
def test_a_kernel_that_lacks_it(hostnet: HostNet, red: StandIn, monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    before = names(hostnet)
    made = getattr(bandwidth, lacking)
    with monkeypatch.context() as patch:
        patch.setattr(
            bandwidth, lacking, lambda *words: made(*words).replace(b"tbf\0", b"xyz\0").replace(b"u32\0", b"xyz\0")
        )
        with pytest.raises(NotSupported, match=r"^cannot limit the rate of 101: ") as refused:
            hostnet.call(bandwidth.limit, 101, red.name, rates.rate("10mbit"))
    assert "CONFIG_NET_SCH_TBF, CONFIG_IFB" in refused.value.hint
    assert names(hostnet) == before
    assert disciplines(hostnet, red.name) == {}


def test_a_kernel_without_netem(hostnet: HostNet, red: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bandwidth._netem
    monkeypatch.setattr(bandwidth, "_netem", lambda *words: made(*words).replace(b"netem\0", b"xyzzy\0"))
    with pytest.raises(NotSupported, match=r"^cannot delay or lose packets of 101: ") as refused:
        hostnet.call(bandwidth.impair, 101, red.name, 0.02, 0.0)
    assert "CONFIG_NET_SCH_NETEM, CONFIG_IFB" in refused.value.hint
    assert disciplines(hostnet, red.name) == {}
