"""What an admin may choose for a barrier or a failure, and how much is raised."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ve import triggers
from ve.amounts import PAGE, UNLIMITED, Bound
from ve.beancounter import RESOURCES
from ve.config import dump, parse
from ve.errors import InvalidValue
from ve.model import Config
from ve.react import raised
from ve.triggers import BARRIER, FAILURE, Action


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("log", Action("log")),
        ("freeze", Action("freeze")),
        ("raise:20%", Action("raise", share=20)),
        ("raise:1000%", Action("raise", share=1000)),
        ("run:/a:b c", Action("run", path="/a:b c")),
    ],
)
@pytest.mark.parametrize("kind", triggers.KINDS)
def test_actions(kind: str, text: str, action: Action) -> None:
    assert triggers.action(kind, "numproc", text) == action


@pytest.mark.parametrize(
    ("kind", "name", "text", "why"),
    [
        (BARRIER, "numprok", "log", "cannot watch numprok: there is no such resource"),
        (BARRIER, "cpus", "log", "cannot watch cpus: there is no such resource"),
        (BARRIER, "numproc", "", "numproc:: there is no such action"),
        (BARRIER, "numproc", "Log", "there is no such action"),
        (BARRIER, "numproc", "log:x", "there is no such action"),
        (BARRIER, "numproc", "raise", "it is not in 1%..1000%"),
        (BARRIER, "numproc", "raise:0%", "it is not in 1%..1000%"),
        (BARRIER, "numproc", "raise:1001%", "it is not in 1%..1000%"),
        (BARRIER, "numproc", "raise:-5%", "it is not in 1%..1000%"),
        (BARRIER, "numproc", "raise:20", "it is not in 1%..1000%"),
        (BARRIER, "numproc", "run:true", "its program is not an absolute path"),
        (BARRIER, "numproc", "run:", "its program is not an absolute path"),
        (BARRIER, "numproc", "run:/a\0b", "its program is not an absolute path"),
        (BARRIER, "numfile", 5, "cannot use on_barrier numfile:5: it is not a string"),
        (FAILURE, "numproc", None, "it is not a string"),
        (BARRIER, 5, "log", "cannot watch 5: it is not a string"),
        (BARRIER, "vmguarpages", "log", "the barrier of vmguarpages is a guarantee"),
        (FAILURE, "numfile", "log", "nothing counts the failures of numfile"),
        (FAILURE, "oomguarpages", "raise:20%", "oomguarpages has no limit to raise"),
        (BARRIER, "numsiginfo", "raise:20%", "numsiginfo changes only at a start"),
    ],
)
def test_what_can_do_nothing_is_refused_by_name(kind: str, name: Any, text: Any, why: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        triggers.action(kind, name, text)
    assert why in str(refused.value)


def test_every_failure_that_is_counted_can_have_an_action() -> None:
    for row in RESOURCES:
        if row.failcnt:
            triggers.check(FAILURE, {row.name: "freeze"})


def test_other_words_for_a_resource() -> None:
    assert triggers.by_resource(BARRIER, {"memory": "log", "processes": "freeze"}) == {
        "physpages": "log",
        "numproc": "freeze",
    }
    with pytest.raises(InvalidValue, match="physpages has another action already"):
        triggers.by_resource(BARRIER, {"memory": "log", "physpages": "freeze"})
    with pytest.raises(InvalidValue, match="on_barrier memory: it is no resource"):
        triggers.check(BARRIER, {"memory": "log"})


def test_a_word_that_is_nearly_one_is_named() -> None:
    with pytest.raises(InvalidValue) as refused:
        triggers.by_resource(BARRIER, {"memry": "log"})
    assert refused.value.hint == "did you mean memory?"
    with pytest.raises(InvalidValue, match="cannot use on_barrier memory:frz: there is no such action"):
        triggers.by_resource(BARRIER, {"memory": "frz"})


IDLE = [
    (BARRIER, "numproc", {}, "it has no barrier", "--numproc BARRIER:unlimited"),
    (BARRIER, "numproc", {"numproc": "60"}, "its barrier is its limit 60", "--numproc BARRIER:60"),
    (BARRIER, "physpages", {"memory": "64K"}, "it has no barrier", f"--physpages BARRIER:{65536 // PAGE}"),
    (BARRIER, "physpages", {"physpages": "9:20", "privvmpages": "5:20"}, "privvmpages is lower", "--on-barrier priv"),
    (BARRIER, "numfile", {}, "it has no barrier", "--numfile BARRIER:unlimited"),
    (FAILURE, "numproc", {}, "it is not limited", "--numproc BARRIER:LIMIT"),
    (FAILURE, "numproc", {"numproc": "50:unlimited"}, "it is not limited", "--numproc BARRIER:LIMIT"),
    (FAILURE, "physpages", {"privvmpages": "5:20"}, "it is not limited", "--physpages BARRIER:LIMIT"),
    (FAILURE, "physpages", {"privvmpages": "20", "physpages": "30"}, "privvmpages is lower", "--on-failure privvm"),
    (FAILURE, "vmguarpages", {}, "nothing is guaranteed", "--vmguarpages BARRIER:unlimited"),
]


def chosen(kind: str, name: str, asked: dict[str, str]) -> Config:
    plain = Config(101, "busybox:1", limits=asked, account_only=True)
    return replace(plain, on_barrier={name: "log"}) if kind == BARRIER else replace(plain, on_failure={name: "log"})


@pytest.mark.parametrize(("kind", "name", "asked", "why", "cure"), IDLE)
def test_what_can_never_happen_is_refused(kind: str, name: str, asked: dict[str, str], why: str, cure: str) -> None:
    with pytest.raises(InvalidValue, match=f"on_{kind} {name}:log: it would never happen, as {why}") as refused:
        chosen(kind, name, asked).refuse_idle()
    assert refused.value.hint.startswith(cure)


@pytest.mark.parametrize(
    ("kind", "name", "asked"),
    [
        (BARRIER, "numproc", {"numproc": "50:60"}),
        (BARRIER, "numfile", {"numfile": "60"}),  # nothing is at 60 but the warning
        (BARRIER, "privvmpages", {"privvmpages": "5:20"}),
        (FAILURE, "numproc", {"numproc": "60"}),
        (FAILURE, "privvmpages", {"privvmpages": "5:20"}),
        (FAILURE, "oomguarpages", {}),  # by the host's own want of memory
        (FAILURE, "vmguarpages", {"vmguarpages": "5"}),
    ],
)
def test_what_may_happen_is_taken(kind: str, name: str, asked: dict[str, str]) -> None:
    config = chosen(kind, name, asked)
    config.refuse_idle()
    assert parse(dump(config), 101, "conf") == config


@pytest.mark.parametrize(
    ("before", "share", "most", "after"),
    [
        ((0, 100), 20, 1000, (0, 120)),
        ((60, 60), 20, UNLIMITED, (72, 72)),
        ((3, 4), 1, 1000, (4, 5)),
        ((50, 90), 20, 100, (60, 100)),
        ((50, 100), 20, 100, (60, 100)),
        ((90, 100), 20, 100, (99, 100)),  # a warning stays one
        ((90, UNLIMITED), 20, 100, (100, UNLIMITED)),
        ((100, 100), 20, 100, (100, 100)),
        ((200, 200), 20, 100, (200, 200)),  # it has more than the host already: nothing is taken away
    ],
)
def test_raising(before: tuple[int, int], share: int, most: int, after: tuple[int, int]) -> None:
    assert raised(Bound(*before), share, most) == Bound(*after)


@given(st.integers(0, UNLIMITED), st.integers(0, UNLIMITED), st.sampled_from(triggers.SHARES), st.integers(0, 2**63))
def test_raising_keeps_the_order_and_takes_nothing_away(barrier: int, limit: int, share: int, most: int) -> None:
    before = Bound(min(barrier, limit), max(barrier, limit))
    after = raised(before, share, most)
    assert after.barrier <= after.limit
    assert before.barrier <= after.barrier
    assert before.limit <= after.limit <= max(most, before.limit)
