"""Pools as files: what is one, which may be beside each other, and in which order their addresses are tried."""

import ipaddress
import itertools
import os
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ve import claims, pool
from ve.errors import BrokenConfig, Exists, InvalidValue, NotFound
from ve.state import State

ip = ipaddress.ip_address


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VE_NETWORK_DIR", str(tmp_path / "network"))
    return tmp_path / "network"


def made(name: str, *cidrs: str, nat: bool = False, hosts: bool = False) -> pool.Pool:
    return pool.Pool(name, tuple(map(ipaddress.ip_network, cidrs)), nat, hosts)


def test_what_was_added_is_there(directory: Path) -> None:
    web = made("web", "10.9.0.0/24", "fd00:9::/64", nat=True, hosts=True)
    other = made("a.b-c_d", "10.8.0.0/30")
    for each in (web, other):
        pool.add(each)
    assert pool.get("web") == web
    assert pool.pools() == [other, web]
    assert (directory / "web.toml").read_text() == (
        'version = 1\nnetworks = [\n    "10.9.0.0/24",\n    "fd00:9::/64",\n]\nnat = true\nhosts = true\n'
    )
    assert pool.remove("web") == web
    assert pool.pools() == [other]
    assert sorted(path.name for path in directory.iterdir()) == ["a.b-c_d.toml", "address", "lock"]


def test_none_at_all() -> None:
    assert pool.pools() == []
    with pytest.raises(NotFound) as missing:
        pool.get("web")
    assert str(missing.value) == "cannot find pool web: there is none"
    assert missing.value.hint == "ve network add web --cidr 10.9.0.0/24 --nat"


def test_one_that_goes_while_all_are_read_is_none(directory: Path) -> None:
    web = made("web", "10.9.0.0/24")
    pool.add(web)
    (directory / "gone.toml").symlink_to("nowhere")
    assert pool.pools() == [web]
    with pytest.raises(NotFound) as missing:
        pool.get("gone")
    assert missing.value.hint == "there are web"


def test_the_nearest_is_named() -> None:
    pool.add(made("default", "10.9.0.0/24"))
    with pytest.raises(NotFound) as missing:
        pool.get("defualt")
    assert missing.value.hint == "did you mean default?"


REFUSED = {
    "exists": (made("web", "10.7.0.0/24"), Exists, "it exists"),
    "same": (made("b", "10.9.0.0/24"), InvalidValue, "10.9.0.0/24 overlaps 10.9.0.0/24 of pool web"),
    "within": (made("b", "10.9.0.128/25"), InvalidValue, "10.9.0.128/25 overlaps 10.9.0.0/24 of pool web"),
    "around": (made("b", "10.0.0.0/8"), InvalidValue, "10.0.0.0/8 overlaps 10.9.0.0/24 of pool web"),
    "itself": (made("b", "10.7.0.0/24", "10.7.0.0/25"), InvalidValue, "10.7.0.0/25 overlaps 10.7.0.0/24 of pool b"),
    "IPv6": (made("b", "10.7.0.0/24", "fd00::/16"), InvalidValue, "fd00::/16 overlaps fd00:9::/64 of pool web"),
    "none": (made("b"), InvalidValue, "it has no network"),
    "sticky": (made("sticky", "10.7.0.0/24"), InvalidValue, "that word means another thing"),
    "number": (made("7", "10.7.0.0/24"), InvalidValue, "cannot use pool name '7'"),
    "path": (made("../b", "10.7.0.0/24"), InvalidValue, "cannot use pool name '../b'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, directory: Path) -> None:
    pool.add(made("web", "10.9.0.0/24", "fd00:9::/64"))
    before = {path: path.read_bytes() for path in directory.glob("*.toml")}
    wanted, error, why = REFUSED[case]
    with pytest.raises(error) as refused:
        pool.add(wanted)
    assert why in str(refused.value)
    assert {path: path.read_bytes() for path in directory.glob("*.toml")} == before


BROKEN = {
    "": "version",
    "version = 1\n": "networks",
    'version = 2\nnetworks = ["10.9.0.0/24"]\n': "line 1: its version 2 is newer than this ve, which knows 1",
    'version = "1"\nnetworks = ["10.9.0.0/24"]\n': "line 1: key version: must be 1",
    'version = 1\nnetworks = ["10.8.0.0/24",\n"10.9.0.0"]\n': "line 3: key networks[1]: cannot use network '10.9.0.0'",
    "version = 1\nnetworks = 7\n": "line 2: key networks: must be an array of strings",
    "version = 1\nnetworks = []\n": "line 2: key networks: must be an array of strings",
    'version = 1\nnetworks = ["10.9.0.0/24"]\nnat = "yes"\n': "line 3: key nat: must be true or false",
    'version = 1\nnetworks = ["10.9.0.0/24"]\nmore = 1\n': "line 3: key more: there is no such key",
    'version = 1\nnetworks = ["10.9.0.0/24"\nnat = true\n': "line 3: ",
    "version = 1\nnat\n": "line 2: ",
    "\0": "line 1: ",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_is_named(text: str, directory: Path) -> None:
    directory.mkdir()
    (directory / "web.toml").write_text(text)
    with pytest.raises(BrokenConfig) as broken:
        pool.get("web")
    assert str(broken.value).startswith(f"cannot read {directory / 'web.toml'}: ") and BROKEN[text] in str(broken.value)


# ---- their addresses ------------------------------------------------------------------------------------------------


def test_of_a_30_there_are_two_and_of_a_126_three() -> None:
    small = made("a", "10.9.0.0/30", "fd00:9::/126")
    assert set(small.addresses(4, 5)) == {ip("10.9.0.1"), ip("10.9.0.2")}
    assert set(small.addresses(6, 5)) == {ip("fd00:9::1"), ip("fd00:9::2"), ip("fd00:9::3")}
    assert (small.size(4), small.size(6), small.versions) == (2, 3, (4, 6))


@given(st.integers(0, 2**32 - 1), st.sampled_from([("10.9.0.0/24",), ("10.9.0.0/26", "10.8.0.0/30", "10.7.0.0/25")]))
def test_each_address_is_tried_once(seed: int, cidrs: tuple[str, ...]) -> None:
    whole = made("a", *cidrs)
    tried = list(whole.addresses(4, seed))
    assert len(tried) == len(set(tried)) == whole.size(4)
    assert all(address in whole and not whole.refusal(address) for address in tried)


def test_a_pool_of_which_half_is_taken_has_every_second_free() -> None:
    """Whatever was taken: here all that stand first, one behind the other."""
    whole = made("a", "10.9.16.0/20")
    half = {ip("10.9.16.0") + number for number in range(2048)}
    before = 0
    for veid in range(500):
        order = whole.addresses(4, zlib.crc32(b"/var/lib/ve/conf/%d.toml" % veid))
        before += sum(1 for _ in itertools.takewhile(half.__contains__, order))
    assert before / 500 < 4


def test_no_other_than_its_own_is_in_it() -> None:
    web = made("web", "10.9.0.0/24", "fd00:9::/64")
    assert ip("10.9.0.255") in web and ip("fd00:9::ffff:1") in web
    assert ip("10.9.1.0") not in web and ip("fd00:a::1") not in web
    assert web.refusal(ip("10.9.0.0")) == "it is the address of the network 10.9.0.0/24 of pool web itself"
    assert web.refusal(ip("10.9.0.255")) == "it is the broadcast address of 10.9.0.0/24 of pool web"
    assert web.refusal(ip("fd00:9::")) and not web.refusal(ip("fd00:9::ffff:ffff:ffff:ffff"))


# ---- claims ---------------------------------------------------------------------------------------------------------


def a_ve(directory: Path, veid: int) -> State:
    state = State(directory)
    state.write_conf(veid, b"")
    return state


def test_a_claim_is_a_link_that_the_ve_confirms(tmp_path: Path, directory: Path) -> None:
    state = a_ve(tmp_path / "a", 101)
    claims.claim(state, 101, [ip("10.9.0.5"), ip("fd00:9::5")])
    links = {path.name: os.readlink(path) for path in (directory / "address").iterdir()}
    assert links == dict.fromkeys(("10.9.0.5", "fd00:9::5"), str(tmp_path / "a/conf/101.toml"))
    assert [(address, each.veid) for address, each in claims.claimed()] == [
        (ip("10.9.0.5"), 101),
        (ip("fd00:9::5"), 101),
    ]
    claims.claim(state, 101, [ip("fd00:9::5")])
    assert [path.name for path in (directory / "address").iterdir()] == ["fd00:9::5"]
    claims.release(state, 101)
    assert [*(directory / "address").iterdir()] == [*(tmp_path / "a/address").iterdir()] == []


def test_a_moved_state_dir_keeps_its_claims_and_a_copy_has_none(tmp_path: Path) -> None:
    claims.claim(a_ve(tmp_path / "a", 101), 101, [ip("10.9.0.5")])
    (tmp_path / "a").rename(tmp_path / "b")
    moved = State(tmp_path / "b")
    claims.claim(moved, 101, claims.Claimant(moved, 101).claims())
    [(address, claimant)] = claims.claimed()
    assert (address, claimant.conf) == (ip("10.9.0.5"), str(tmp_path / "b/conf/101.toml"))
    copy = a_ve(tmp_path / "c", 101)
    (tmp_path / "c/address").mkdir()
    (tmp_path / "c/address/101").symlink_to("10.9.0.5")
    other = claims.holder(ip("10.9.0.5"), claims.Claimant(copy, 101))
    assert other and other.named(copy) == f"VE 101 of {tmp_path / 'b'}"


@pytest.mark.parametrize("gone", ["conf/101.toml", "address/101"])
def test_what_nobody_confirms_is_nobodys(gone: str, tmp_path: Path) -> None:
    claims.claim(a_ve(tmp_path / "a", 101), 101, [ip("10.9.0.5")])
    (tmp_path / "a" / gone).unlink()
    assert claims.claimed() == []
    claims.claim(a_ve(tmp_path / "b", 102), 102, [ip("10.9.0.5")])
    assert [(address, each.veid) for address, each in claims.claimed()] == [(ip("10.9.0.5"), 102)]


@pytest.mark.parametrize("text", ["x", "10.9.0.5 x", "/etc", ""])
def test_a_record_that_says_anything_else_claims_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "a/address").mkdir(parents=True)
    if text:
        (tmp_path / "a/address/101").symlink_to(text)
    assert claims.Claimant(State(tmp_path / "a"), 101).claims() == []
