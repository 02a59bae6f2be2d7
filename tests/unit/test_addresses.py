"""The words for addresses: what is one, what none, and what is told of that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ve import addresses
from ve.addresses import Wish
from ve.errors import InvalidValue

WORDS = {  # what is typed: how it is kept
    "10.9.0.5": "10.9.0.5",
    "10.9.0.5/32": "10.9.0.5",
    "10.9.0.5/24": "10.9.0.5/24",
    "FD00:9:0::5": "fd00:9::5",
    "fd00:9::5/128": "fd00:9::5",
    "fd00:9::5/64": "fd00:9::5/64",
    "auto": "auto",
    "auto:default": "auto",
    "auto:web": "auto:web",
    "auto:sticky": "auto:sticky",
    "auto:default:sticky": "auto:sticky",
    "auto:web:sticky": "auto:web:sticky",
    "auto:4": "auto:4",
    "auto:default:6": "auto:6",
    "auto:6:sticky": "auto:6:sticky",
    "auto:web:4:sticky": "auto:web:4:sticky",
}


@pytest.mark.parametrize("text", WORDS)
def test_words(text: str) -> None:
    assert str(Wish.parse(text)) == WORDS[text]
    assert Wish.parse(str(Wish.parse(text))) == Wish.parse(text)


BAD = {
    "": "it is not an address",
    "x": "it is not an address",
    "10.9.0": "it is not an address",
    "10.9.0.300": "it is not an address",
    "010.9.0.5": "it is not an address",
    "10.9.0.5 ": "it is not an address",
    "10.9.0.5/": "it is not an address",
    "10.9.0.5/0": "it is not an address",
    "10.9.0.5/33": "it is not an address",
    "10.9.0.5/255.255.255.0": "it is not an address",
    "10.9.0.5/31": "a /31 has no room for addresses",
    "fd00:9::5/127": "a /127 has no room for addresses",
    "fd00:9::5%eth0": "it is not an address",
    "10.9.0.0/24": "it is that of the network itself",
    "fd00:9::/64": "it is that of the network itself",
    "10.9.0.255/24": "it is the broadcast address of 10.9.0.0/24",
    "0.0.0.0": "it is for all, or for none",
    "0.1.2.3": "it is for all, or for none",
    "255.255.255.255": "it is for all, or for none",
    "::": "it is for all, or for none",
    "127.0.0.1": "each VE has a loopback of its own",
    "::1": "each VE has a loopback of its own",
    "169.254.1.1": "it is for one link alone, and the way to the host is one",
    "fe80::1": "it is for one link alone, and the way to the host is one",
    "224.0.0.1": "it is a multicast address",
    "ff02::1": "it is a multicast address",
    "250.1.1.1": "it is reserved",
    "::ffff:10.9.0.5": "it is reserved",
    "auto:": "it is not an address",
    "auto:a:b": "it is not an address",
    "auto:5": "it is not an address",
    "auto:4:6": "it is not an address",
    "auto:4:web": "it is not an address",
    "auto:sticky:4": "it is not an address",
    "auto:a b": "it is not an address",
    "auto:../x": "it is not an address",
    "automatic": "it is not an address",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_words(text: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        Wish.parse(text)
    assert str(refused.value).startswith(f"cannot use address {text!r}: {BAD[text]}")
    assert "\n" not in str(refused.value)


@given(st.text())
def test_no_other_error(text: str) -> None:
    for parse in (Wish.parse, addresses.network):
        try:
            parse(text)
        except InvalidValue:
            continue


NETWORKS = {
    "10.9.0.0/24": "",
    "10.9.0.0/30": "",
    "fd00:9::/64": "",
    "fd00:9::/126": "",
    "10.9.0.0/31": "a /31 has no room for addresses",
    "10.9.0.0/32": "it has no room for addresses",
    "fd00:9::/127": "a /127 has no room for addresses",
    "10.9.0.0": "it has no length",
    "10.9.0.1/24": "it has bits beyond /24",
    "0.0.0.0/0": "it is not one such as",
    "224.0.0.0/24": "it is a multicast address",
    "169.254.0.0/24": "it is for one link alone",
    "169.0.0.0/8": "169.254.0.0/16 is in it: it is for one link alone",
    "126.0.0.0/7": "127.0.0.0/8 is in it: each VE has a loopback of its own",
    "192.0.0.0/2": "255.255.255.255/32 is in it: it is for all",
    "fe00::/8": "fe80::/10 is in it: it is for one link alone",
    "10.9.0.0/24/24": "it is not one such as",
}


@pytest.mark.parametrize("text", NETWORKS)
def test_networks(text: str) -> None:
    if not NETWORKS[text]:
        assert str(addresses.network(text)) == text
        return
    with pytest.raises(InvalidValue) as refused:
        addresses.network(text)
    assert str(refused.value).startswith(f"cannot use network {text!r}: {NETWORKS[text]}")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["auto", "auto"], "twice"),
        (["10.9.0.5", "10.9.0.5/24"], "as 10.9.0.5 already"),
        (["auto:sticky", "auto"], "as auto:sticky already"),
        (["auto", "auto:6"], "as auto already"),
        (["auto:web:4", "auto:web:4:sticky"], "as auto:web:4 already"),
    ],
)
def test_the_same_twice(words: list[str], why: str) -> None:
    with pytest.raises(InvalidValue, match=f"^cannot use address '{words[1]}': it is there {why}$"):
        addresses.check(words)


def test_of_two_pools_and_both_families() -> None:
    addresses.check(["auto", "auto:web:4", "auto:web:6:sticky", "10.9.0.5", "fd00:9::5"])


GATEWAYS = {
    "192.0.2.9": "",
    "192.0.2.9 2001:db8::9": "",
    "fe80::1": "",
    "2001:db8::": "",  # of IPv6 the routers of a network have that
    "x": "it is not an address",
    "0.0.0.0": "it is for all, or for none",
    "::": "it is for all, or for none",
    "255.255.255.255": "it is for all, or for none",
    "127.0.0.1": "each VE has a loopback of its own",
    "::1": "each VE has a loopback of its own",
    "224.0.0.1": "it is a multicast address",
    "ff02::1": "it is a multicast address",
    "240.0.0.1": "it is reserved",
    "::ffff:192.0.2.9": "it is reserved",
    "fe80::1%eth0": "it names an interface",
    "192.0.2.50": "it is an address of its own",
    "2001:db8::50": "it is an address of its own",
    "198.51.100.1": "it is in no network of its addresses",
    "2001:db9::1": "it is in no network of its addresses",
    "169.254.1.1": "it is in no network of its addresses",
    "192.0.2.0": "192.0.2.0/24 has it for itself or for all",
    "192.0.2.255": "192.0.2.0/24 has it for itself or for all",
    "192.0.2.8 192.0.2.9": "192.0.2.8 is its way out of IPv4 already",
}


@pytest.mark.parametrize("text", GATEWAYS)
def test_gateways(text: str) -> None:
    words, own = text.split(), ["192.0.2.50/24", "2001:db8::50/64"]
    try:
        addresses.check_gateways(words)
        addresses.check_reachable(words, own)
    except InvalidValue as refused:
        assert str(refused) == f"cannot use gateway {words[-1]!r}: {GATEWAYS[text]}"
    else:
        assert not GATEWAYS[text]
