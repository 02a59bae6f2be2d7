"""The table of promises is whole: each row is tried, and each way of trying belongs to a row."""

import pytest

from ve import errors, mounts, protections, rights, selftest, trials
from ve.protections import PROTECTIONS

NAMES = [row.name for row in PROTECTIONS]


def test_each_promise_is_tried() -> None:
    assert len(set(NAMES)) == len(NAMES)
    refusals = {f"no {row.name}" for row in rights.REFUSALS}
    assert set(NAMES) == {*trials.TRIALS, *selftest.OUTSIDE, *refusals}


@pytest.mark.parametrize("row", PROTECTIONS, ids=NAMES)
def test_each_row_takes_something_out(row: protections.Protection) -> None:
    request = {
        "namespaces": ("pid", "net", "ipc", "uts"),
        "left_out": (),
        "own_mounts": mounts.OWN,
        "protection": mounts.protection("", (), (), ()),
        "confinement": {"capabilities": 0, "keyring": True},
        "base": 65536,
        "old_root": "",
        "leaked": (),
    }
    assert row.without.change(request) != request or row.without.refusals != rights.REFUSALS
    assert protections.taken_out("").change(request) == request and row.without == protections.taken_out(row.name)


def test_a_row_that_is_none_cannot_be_taken_out() -> None:
    with pytest.raises(errors.InvalidValue, match="'nosuch'"):
        protections.taken_out("nosuch")


@pytest.mark.parametrize("profile", rights.PROFILES, ids=[row.name for row in rights.PROFILES])
def test_what_a_profile_gives_up_is_said_of_rows_of_the_table(profile: rights.Profile) -> None:
    given_up = {name for name in NAMES if protections.given_up(name, rights.resolve([profile.name], {}))}
    assert bool(given_up) == (profile.name in ("nesting", "docker", "tun", "sysctl"))


@pytest.mark.parametrize(
    ("devices", "why"), [((), ""), (["/dev/fuse"], ""), (["/dev/kmsg", "/dev/fuse"], "it was given /dev/kmsg")]
)
def test_a_device_gives_up_what_no_profile_would(devices: list[str], why: str) -> None:
    assert protections.given_up("devices", rights.resolve([], {}), devices) == why


def test_what_gave_a_promise_up_is_named() -> None:
    of = rights.resolve(["fuse", "nesting"], {})
    assert protections.given_up("proc", of) == "profile nesting shows a whole /proc"
