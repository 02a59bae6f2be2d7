"""Words that an admin or a program gives: each is a value, or InvalidValue in one printable line; nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.mutations import bounded, words
from ve import (
    _options,
    _session,
    addresses,
    amounts,
    limits,
    model,
    options,
    ports,
    presets,
    rates,
    resolver,
    rights,
    shapes,
    template,
    triggers,
    veid,
)
from ve.errors import Error, InvalidValue, printable
from ve.options import parsed

AMOUNTS = ("512M", "1.5G", "unlimited", "100:200", "10p:1gib", "007", "0")
# Who takes it, and words that are near to what it takes.
TAKERS: dict[str, tuple[Callable[[str], object], tuple[str, ...]]] = {
    "veid": (_session.veid, ("101", "2147483644", "0101", "\u0661\u0660\u0661")),
    "name": (veid.check_name, ("web-1.example_x", "101", "_")),
    "hostname": (model.check_hostname, ("web-1.example.org",)),
    "template": (model.check_template, ("busybox:1",)),
    "template of a store": (template._parse, ("busybox:1", "busybox")),
    "mount": (model.Mount.parse, ("/a:/b:ro", "/a:/b")),
    "device": (lambda word: model.Config(1, "a:1", devices=(word,)), ("/dev/fuse",)),
    "environment": (lambda word: model.Config(1, "a:1", env={word: word}), ("LANG", "A=b")),
    "description": (lambda word: model.Config(1, "a:1", description=word), ("a few words",)),
    "network": (shapes.Shape.parse, ("routed", "bridge:br0", "ve:101", "device:eth0", "macvlan:eth0", "none")),
    "network of a VE": (
        lambda word: model.Config(1, "a:1", network=word),
        ("ve:101", "ve:" + "9" * 5000, "bridge:br0"),
    ),
    "address": (addresses.Wish.parse, ("10.9.0.5/24", "fd00:9::5", "auto:web:sticky", "fe80::1%eth0")),
    "cidr": (addresses.network, ("10.9.0.0/24", "fd00:9::/64", "::ffff:1.2.3.4/120")),
    "gateway": (lambda word: addresses.check_gateways([word]), ("10.9.0.1", "fe80::1", "fe80::1%eth0")),
    "reachable gateway": (lambda word: addresses.check_reachable([word], ["10.9.0.5/24"]), ("10.9.0.1", "fe80::1")),
    "port": (ports.port, ("8080:80/udp", "8080:80")),
    "rate": (rates.rate, ("10mbit:64k", "1.5gibps")),
    "delay": (rates.delay, ("20ms", "1.5s")),
    "loss": (rates.loss, ("0.5%", "1")),
    "nameserver": (lambda word: resolver.check([word], []), ("10.9.0.1", "fe80::1%eth0")),
    "searchdomain": (lambda word: resolver.check([], [word]), ("example.org",)),
    "profile": (lambda word: rights.resolve((word,), {}), ("fuse", "nesting", "docker")),
    "capability": (lambda word: rights.resolve((), {word: "on"}), ("net_admin", "CAP_SYS_ADMIN", "40")),
    "capability's value": (lambda word: rights.resolve((), {"net_admin": word}), ("on", "off")),
    "preset": (presets.load, ("light", "./none", "/nowhere/a.toml")),
    "barrier": (lambda word: triggers.check(triggers.BARRIER, {"numproc": word}), ("freeze", "throttle:10", "exec:/a")),
    "failure": (lambda word: triggers.check(triggers.FAILURE, {word: "freeze"}), ("numproc", "physpages")),
    "variables": (lambda word: _options.variables([word]), ("A=b",)),
    "password": (_options.user_and_password, ("root:secret", "root:")),
    "size": (lambda word: amounts.size("memory", word), AMOUNTS),
    "speed": (lambda word: amounts.rate("memory", word), ("10M/s", *AMOUNTS)),
    "count": (lambda word: amounts.count("numproc", word), AMOUNTS),
    **{
        f"bound in {unit}": ((lambda word, unit=unit: amounts.bound("x", word, unit)), AMOUNTS)  # type: ignore[misc]
        for unit in (amounts.PAGES, amounts.BYTES, amounts.ITEMS)
    },
    "limit": (lambda word: limits.resolve({word: "1"}), ("memory", "numproc", "cpus", "oom-guard")),
    **{
        f"limit {name}": ((lambda word, name=name: limits.resolve({name: word})), (*AMOUNTS, "0-3,5", "0.5", "50%"))  # type: ignore[misc]
        for name in options.Words.__annotations__
    },
}


@pytest.mark.parametrize("taker", TAKERS)
def test_a_word_is_a_value_or_refused_in_a_line(taker: str) -> None:
    take, samples = TAKERS[taker]

    @bounded(60)
    @given(words(*samples))
    def tried(word: str) -> None:
        try:
            take(word)
        except Error as error:
            assert isinstance(error, InvalidValue)
            for line in (str(error), error.hint):
                assert printable(line) == line, "cli.py would escape it; a program that logs it does not"

    tried()


SETTINGS = st.dictionaries(
    st.sampled_from([name for name in model.Config.__dataclass_fields__ if name != "veid"]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=3) | words("a", "10.9.0.5")
    | st.lists(words("/a:/b") | st.integers(), max_size=2)
    | st.dictionaries(words("A"), words("b") | st.none(), max_size=2),
    max_size=3,
)  # fmt: skip


@bounded(1500)
@given(SETTINGS)
def test_whatever_a_program_gives_is_a_config_or_refused(asked: dict[str, Any]) -> None:
    try:
        found = parsed(asked, lambda name: 7)
        found.pop("preset", None)
        model.Config(**{"veid": 101, "template": "a:1", **found})
    except Error as error:
        assert isinstance(error, InvalidValue)
        assert printable(str(error)) == str(error)
