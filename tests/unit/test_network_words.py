"""The words for published ports, rates, delays and losses."""

from typing import Any

import pytest

from ve import options, ports, rates
from ve.errors import InvalidValue
from ve.ports import Port


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("8080:80", Port(8080, 80, "tcp")),
        ("8080:80/tcp", Port(8080, 80, "tcp")),
        ("53:53/udp", Port(53, 53, "udp")),
        ("1:65535", Port(1, 65535, "tcp")),
    ],
)
def test_ports(text: str, port: Port) -> None:
    assert ports.port(text) == port
    assert ports.port(str(port)) == port
    assert port.outer == f"{port.host}/{port.protocol}"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is not HOSTPORT:PORT"),
        ("80", "it is not HOSTPORT:PORT"),
        (":80", "the host's port is missing"),
        ("80:", "the VE's port is missing"),
        ("0:80", "ports are 1 to 65535, and the host's is 0"),
        ("80:0", "ports are 1 to 65535, and the VE's is 0"),
        ("65536:80", "ports are 1 to 65535, and the host's is 65536"),
        ("80:80/icmp", "'icmp' has no ports to publish"),
        ("80:80/UDP", "'UDP' is not in lower case"),
        ("80:80/", "a protocol is missing after /"),
        ("80:80/tcp/udp", "'tcp/udp' has no ports to publish"),
        ("8000-8010:80", "the host's port '8000-8010' is not a number"),
        ("80:80:80", "the VE's port '80:80' is not a number"),
        ("127.0.0.1:80:80", "the host's port '127.0.0.1' is not a number"),
        ("-1:80", "the host's port '-1' is not a number"),
        ("+80:80", "the host's port '+80' is not a number"),
        (" 80:80", "the host's port ' 80' is not a number"),
        ("80:80\n", r"the VE's port '80\n' is not a number"),
        ("٨٠:80", "the host's port '٨٠' is not a number"),
        ("8０:80", "the host's port '8０' is not a number"),  # noqa: RUF001
        ("9999999999999999999:80", "the host's port '9999999999999999999' is not a number"),
    ],
)
def test_what_is_no_port(text: str, why: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        ports.port(text)
    assert str(refused.value) == f"cannot publish {text!r}: {why}"
    assert refused.value.hint


@pytest.mark.parametrize(
    ("text", "per_second"),
    [
        ("10mbit", 1_250_000),
        ("10Mbit", 1_250_000),
        ("1gbit", 125_000_000),
        ("500kbit", 62_500),
        ("1.5mbit", 187_500),
        ("8000", 1000),
        ("8000bit", 1000),
        ("1mbps", 1_000_000),
        ("8kibit", 1024),
        ("1mibps", 1 << 20),
        ("1tbit", 125_000_000_000),
    ],
)
def test_rates(text: str, per_second: int) -> None:
    rate = rates.rate(text)
    assert rate.per_second == per_second
    assert rate.burst == max(per_second // 50, 8192)
    assert str(rate) == text


@pytest.mark.parametrize(
    ("text", "burst"), [("64k", 65536), ("64kb", 65536), ("2000", 2000), ("2m", 2 << 20), ("16kbit", 2048)]
)
def test_bursts(text: str, burst: int) -> None:
    assert rates.rate(f"10mbit:{text}").burst == burst


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a number is missing"),
        (":64k", "a number is missing"),
        ("10mbit:", "a number is missing"),
        ("mbit", "it is not a number with a unit"),
        ("-1mbit", "it is negative"),
        ("10 mbit", "it is not a number with a unit"),
        ("10mb", "there is no unit mb"),
        ("10mbit:64x", "there is no unit x"),
        ("0", "rates are 1kbit to 1tbit"),
        ("2tbit", "rates are 1kbit to 1tbit"),
        ("10mbit:1k", "a burst is 1600 bytes, which one packet needs, to 1g"),
        ("10mbit:2g", "a burst is 1600 bytes, which one packet needs, to 1g"),
        ("1e3mbit", "it is not a number with a unit"),
        ("٣mbit", "it is not a number with a unit"),
    ],
)
def test_what_is_no_rate(text: str, why: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        rates.rate(text)
    assert str(refused.value) == f"cannot use rate {text!r}: {why}"
    assert refused.value.hint


def test_delays_and_losses() -> None:
    assert [rates.delay(text) for text in ("20ms", "1.5s", "500us", "7")] == pytest.approx([0.02, 1.5, 5e-4, 7e-6])
    assert [rates.loss(text) for text in ("0.5%", "100%", "3")] == pytest.approx([0.005, 1, 0.03])
    for parse, text in ((rates.delay, "61s"), (rates.delay, "5%"), (rates.loss, "101%"), (rates.loss, "1ms")):
        with pytest.raises(InvalidValue):
            parse(text)


@pytest.mark.parametrize("name", ["addresses", "remove_addresses", "publish", "gateways", "nameservers"])
@pytest.mark.parametrize(
    ("value", "why"), [([1], "1: it is not a string"), ([None], "None: it is not"), (5, "5: it is")]
)
def test_what_is_no_list_of_strings(name: str, value: Any, why: str) -> None:
    with pytest.raises(InvalidValue, match=f"^cannot use {name} {why}"):
        options.parsed({name: value}, int)


def test_all_are_removed() -> None:
    for name in ("remove_addresses", "remove_publish"):
        assert options.parsed({name: ["all"]}, int) == {name: ("all",)}
