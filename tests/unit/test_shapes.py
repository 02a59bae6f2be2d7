"""The words of --network."""

import pytest

from ve import interfaces
from ve.errors import InvalidValue
from ve.shapes import KINDS, Shape

GOOD = ["routed", "none", "host", "ve:101", "bridge:br0", "macvlan:eth0.5", "device:enp1s0f0np0"]
BAD = {
    "": "cannot use network '': there is no such kind",
    "bridg:br0": "cannot use network 'bridg:br0': there is no such kind",
    "bridge": "cannot use network 'bridge': it is not bridge:BR",
    "bridge:": "cannot use network 'bridge:': it is not bridge:BR",
    "bridge:a/b": "cannot use network 'bridge:a/b': it is not bridge:BR",
    "bridge:..": "cannot use network 'bridge:..': it is not bridge:BR",
    "bridge:sixteen-letters-": "cannot use network 'bridge:sixteen-letters-': it is not bridge:BR",
    "macvlan:a b": "cannot use network 'macvlan:a b': it is not macvlan:IF",
    "macvlan:eth0:1": "cannot use network 'macvlan:eth0:1': it is not macvlan:IF",
    "device:\ud800": "cannot use network 'device:\\ud800': it is not device:IF",
    "host:1": "cannot use network 'host:1': host stands alone",
    "none:": "cannot use network 'none:': none stands alone",
    "ve:web": "cannot use network 've:web': it is not ve:VEID",
    "ve:0": "cannot use network 've:0': it is not ve:VEID",
}


@pytest.mark.parametrize("text", GOOD)
def test_words_that_mean_something(text: str) -> None:
    shape = Shape.parse(text)
    assert str(shape) == text
    assert (shape.kind, shape.argument) == (text.partition(":")[0], text.partition(":")[2])


def test_each_kind_has_a_word_here() -> None:
    assert [Shape.parse(text).kind for text in GOOD] == list(KINDS)


@pytest.mark.parametrize("text", BAD)
def test_words_that_do_not(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        Shape.parse(text)
    assert str(caught.value) == BAD[text]


def test_the_nearest_is_named() -> None:
    with pytest.raises(InvalidValue) as caught:
        Shape.parse("brige")
    assert caught.value.hint == "did you mean bridge:BR?"


def test_no_address_of_a_ve_is_that_of_its_port() -> None:
    """Of one in 64 it was, and no bridge has two of the same: it could never start."""
    firsts = {int(interfaces.mac("ve", veid).partition(":")[0], 16) for veid in range(1000)}
    port = int(interfaces._port_mac("02:00:00:00:00:01").partition(":")[0], 16)
    assert len(firsts) > 1 and max(firsts) < port
    assert all(first & 3 == 2 for first in firsts)
