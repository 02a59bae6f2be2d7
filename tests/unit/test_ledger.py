"""Counters that survive: lives that end, resets, peaks that the kernel forgets or does not."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ve import ledger as ledgers
from ve.cgroups import Cgroup
from ve.errors import BrokenConfig
from ve.ledger import Ledger, crossed, reset, seen
from ve.state import State


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path)


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """A directory that plays the cgroup of a VE."""
    path = tmp_path / "cgroup"
    path.mkdir()
    return path


def look(state: State, group: Path, *, ends: bool = False) -> Ledger:
    with ledgers.held(state):
        return ledgers.note(state, 101, Cgroup(str(group)), {}, {"physpages": 1}, ends=ends)[1]


def test_the_first_look() -> None:
    after = seen(Ledger(), "a", {"numproc": 3, "numfile": 9}, {"numproc": 5}, {"numproc": 2})
    assert after.maxheld == {"numproc": 5, "numfile": 9}
    assert after.sampled == ("numfile",)
    assert after.failcnt("numproc") == 2
    assert after.failcnt("numfile") == 0


def test_the_same_life_seen_again_counts_once() -> None:
    once = seen(Ledger(), "a", {}, {}, {"numproc": 2})
    assert seen(once, "a", {}, {}, {"numproc": 2}) == once
    assert seen(once, "a", {}, {}, {"numproc": 7}).failcnt("numproc") == 7


def test_lives_add_up() -> None:
    ledger = Ledger()
    for life, failures, peak in (("a", 2, 50), ("b", 0, 20), ("c", 5, 30)):
        ledger = seen(ledger, life, {"numproc": 1}, {"numproc": peak}, {"numproc": failures})
    assert ledger.failcnt("numproc") == 7
    assert ledger.maxheld == {"numproc": 50}
    assert ledger.sampled == ()


def test_a_reset_forgets_and_counts_on() -> None:
    before = seen(Ledger(), "a", {"numproc": 3}, {"numproc": 50}, {"numproc": 4})
    begun = reset(before, 1000.0, {"numproc": 50})
    assert (begun.since, begun.failcnt("numproc"), begun.maxheld) == (1000.0, 0, {})
    after = seen(begun, "a", {"numproc": 4}, {"numproc": 50}, {"numproc": 6})
    assert after.failcnt("numproc") == 2
    assert after.maxheld == {"numproc": 4}  # 50 was before
    assert after.sampled == ("numproc",)  # so this is only what was seen
    higher = seen(after, "a", {"numproc": 4}, {"numproc": 51}, {"numproc": 6})
    assert (higher.maxheld, higher.sampled) == ({"numproc": 51}, ())  # and this is the kernel's word again


def test_a_reset_is_forgotten_with_the_life_that_it_was_in() -> None:
    begun = reset(seen(Ledger(), "a", {"numproc": 3}, {"numproc": 50}, {"numproc": 4}), 1.0, {"numproc": 50})
    after = seen(begun, "b", {"numproc": 2}, {"numproc": 7}, {"numproc": 1})
    assert after.failcnt("numproc") == 1
    assert after.maxheld == {"numproc": 7}


def test_what_was_only_seen_stays_marked() -> None:
    old = seen(Ledger(), "a", {"numproc": 9}, {}, {})  # a kernel without pids.peak
    new = seen(old, "b", {"numproc": 3}, {"numproc": 5}, {})
    assert (new.maxheld, new.sampled) == ({"numproc": 9}, ("numproc",))


Lives = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=5), max_size=6)


@given(Lives)
def test_nothing_is_lost_that_was_seen_and_nothing_counts_twice(lives: list[list[int]]) -> None:
    """However often somebody looks: each life's counter only grows, and its last value is what it comes to."""
    ledger, total = Ledger(), 0
    for number, steps in enumerate(lives):
        count = 0
        for step in steps:
            count += step
            ledger = seen(ledger, f"life {number}", {}, {}, {"numproc": count})
            assert ledger.failcnt("numproc") == total + count
        total += count
    assert ledger.failcnt("numproc") == total


def step(
    before: Ledger,
    held: int,
    *,
    life: str = "a",
    peak: int | None = None,
    barrier: int | None = 50,
    over: dict[str, int] | None = None,
) -> Ledger:
    """A look at numproc."""
    amounts = {"numproc": held}
    now = seen(before, life, amounts, {} if peak is None else {"numproc": peak}, {})
    return crossed(before, now, amounts, {} if barrier is None else {"numproc": barrier}, over or {})


def test_a_crossing_is_counted_once_until_it_is_over() -> None:
    ledger, counts = Ledger(), []
    for held in (50, 51, 60, 51, 46, 55, 44, 50, 51):
        ledger = step(ledger, held)
        counts.append(ledger.crossings.get("numproc", 0))
    assert counts == [0, 1, 1, 1, 1, 1, 1, 1, 2]  # at 46 it is not over yet: 9/10 of 50 is 45
    assert ledger.above == ("numproc",)
    assert ledger.counts() == {"barrier numproc": 2}


def test_a_crossing_between_two_looks_is_known_by_the_peak_or_the_kernel_s_count() -> None:
    by_peak = step(step(Ledger(), 10, peak=20), 10, peak=51)
    assert (by_peak.crossings, by_peak.above) == ({"numproc": 1}, ())
    assert step(by_peak, 10, peak=51).crossings == {"numproc": 1}
    by_count = step(step(Ledger(), 10, over={"numproc": 0}), 10, over={"numproc": 7})
    assert (by_count.crossings, by_count.above) == ({"numproc": 1}, ())
    assert step(by_count, 10, over={"numproc": 7}).crossings == {"numproc": 1}
    assert step(by_count, 10, over={"numproc": 9}).crossings == {"numproc": 2}


def test_what_the_kernel_holds_at_a_barrier_is_one_crossing() -> None:
    ledger = Ledger()
    for held, count in ((49, 3), (48, 10), (50, 90), (47, 300)):
        ledger = step(ledger, held, over={"numproc": count})
    assert ledger.crossings == {"numproc": 1}


def test_another_life_crosses_anew() -> None:
    first = step(Ledger(), 60, over={"numproc": 7})
    assert step(first, 60, life="b", over={"numproc": 1}).crossings == {"numproc": 2}
    assert step(first, 10, life="b", over={"numproc": 0}).crossings == {"numproc": 1}


def test_a_barrier_that_is_raised_ends_the_crossing() -> None:
    above = step(Ledger(), 60)
    assert step(above, 60, barrier=100).above == ()
    assert step(above, 60, barrier=None).above == ()
    assert step(step(above, 60, barrier=100), 101, barrier=100).crossings == {"numproc": 2}


def test_a_reset_counts_crossings_anew_but_not_the_one_that_goes_on() -> None:
    begun = reset(step(Ledger(told={"told": {"barrier numproc": 1}}), 60), 1.0, {})
    assert (begun.crossings, begun.above, begun.told) == ({}, ("numproc",), {"told": {}})
    assert step(begun, 60).crossings == {}


def test_who_looks_at_a_cgroup_on_its_way_out_takes_nothing_from_the_ledger(state: State, group: Path) -> None:
    """Its files go before its directory does."""
    for name in ("pids.current", "memory.current"):
        (group / name).write_text("0\n")
    (group / "pids.events").write_text("max 7\n")
    (group / "memory.events.local").write_text("high 3\nmax 2\n")
    (group / "memory.high").write_text("4096\n")
    seen_last = look(state, group, ends=True)
    assert (seen_last.last["numproc"], seen_last.over["physpages"]) == (7, 3)
    for file in group.iterdir():
        file.unlink()
    seen_after = look(state, group)
    assert (seen_after.last, seen_after.over) == (seen_last.last, seen_last.over)
    assert seen_after.crossings == seen_last.crossings == {"physpages": 1}


NOT_LEDGERS = (
    b"{",
    b"\xff",
    b"[]",
    b"[" * 100_000,
    b"{}",
    b'{"version": 1, "ended": [1]}',
    b'{"version": 1, "ended": {"numproc": "1"}}',
    b'{"version": 1, "ended": {"numproc": true}}',
    b'{"version": 1, "ended": {"numproc": 1e3}}',
    b'{"version": 1, "last": {"num proc": 1}}',
    b'{"version": 1, "maxheld": {"numproc": 1' + b"0" * 99 + b"}}",
    b'{"version": 1, "sampled": "numproc"}',
    b'{"version": 1, "above": [["numproc"]]}',
    b'{"version": 1, "told": {"told": 1}}',
    b'{"version": 1, "told": {"told": {"failure numproc": null}}}',
    b'{"version": 1, "since": "1"}',
    b'{"version": 1, "gap": NaN}',
    b'{"version": 1, "gap": Infinity}',
    b'{"version": 1, "life": 5}',
    b'{"version": 1, "looked": 5}',
    b'{"version": 1, "nosuch": 5}',
)


@pytest.mark.parametrize("data", NOT_LEDGERS, ids=lambda data: data[:60].decode(errors="replace"))
def test_what_is_no_ledger_keeps_no_ve_from_ending_and_a_reset_begins_one(
    state: State, group: Path, data: bytes
) -> None:
    path = Path(state.ledger(101))
    path.parent.mkdir()
    path.write_bytes(data)
    _broken_and_mended(state, group, "it is not a ledger")


@pytest.mark.parametrize("kind", ["fifo", "directory", "loop"])
def test_nor_does_what_is_no_file(state: State, group: Path, kind: str) -> None:
    path = Path(state.ledger(101))
    path.parent.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        (path / "more").mkdir(parents=True)
    else:
        path.symlink_to(path)
    _broken_and_mended(state, group, "Too many levels" if kind == "loop" else "it is not a regular file")


def _broken_and_mended(state: State, group: Path, why: str) -> None:
    (group / "pids.events").write_text("max 7\n")
    with pytest.raises(BrokenConfig, match=f"/ubc/101: {why}") as broken:
        ledgers.load(state, 101)
    assert broken.value.hint == ("" if why.startswith("Too") else "ve ubc 101 --reset begins a new one")
    ledgers.note_end(state, 101, Cgroup(str(group)), {})
    ledgers.begin(state, 101, Cgroup(str(group)))
    assert ledgers.load(state, 101).failcnt("numproc") == 0
    ledgers.remove(state, 101)
    assert os.listdir(os.path.dirname(state.ledger(101))) == []


def test_a_ledger_of_a_newer_ve_stays_as_it_is(state: State, group: Path) -> None:
    path = Path(state.ledger(101))
    path.parent.mkdir()
    path.write_text('{"version": 2, "new": 1}')
    (group / "pids.events").write_text("max 7\n")
    for verb in (lambda: ledgers.load(state, 101), lambda: ledgers.begin(state, 101, Cgroup(str(group)))):
        with pytest.raises(BrokenConfig, match="its version 2 is newer than this ve, which knows 1") as newer:
            verb()
        assert newer.value.hint == "upgrade ve"
    ledgers.note_end(state, 101, Cgroup(str(group)), {})
    assert path.read_text() == '{"version": 2, "new": 1}'


def test_what_is_noted_is_read_again(state: State, group: Path) -> None:
    (group / "pids.events").write_text("max 7\n")
    (group / "pids.current").write_text("3\n")
    noted = look(state, group)
    ledgers.begin(state, 101, Cgroup(str(group)))
    assert noted.failcnt("numproc") == 7
    again = ledgers.load(state, 101)
    assert (again.failcnt("numproc"), again.ended, again.last) == (0, {"numproc": -7}, {"numproc": 7})
    assert again.since > 0
