"""What two counts of a ledger come to as events."""

from typing import Any

import pytest

from ve import events
from ve.amounts import PAGE, UNLIMITED
from ve.beancounter import BY_NAME, Beancounter

CHOSEN = {"barrier": {"physpages": "log"}, "failure": {"numproc": "freeze", "oomguarpages": "run:/a"}}


def bean(name: str, **known: Any) -> Beancounter:
    row = BY_NAME[name]
    blank = {"held": None, "maxheld": None, "sampled": False, "barrier": UNLIMITED, "limit": UNLIMITED, "failcnt": 0}
    return Beancounter(name=name, unit=row.unit, grade=row.grade, **{**blank, **known})


TABLE = {
    each.name: each
    for each in (
        bean("numproc", held=60, barrier=60, limit=60),
        bean("physpages", held=(9 << 20) // PAGE, barrier=(8 << 20) // PAGE, limit=(64 << 20) // PAGE),
        bean("vmguarpages", barrier=(1 << 20) // PAGE),
        bean("oomguarpages", held=5),
        bean("swappages"),
    )
}
TAKEN = "the kernel took page cache back, swapped out, or killed"
TOLD = [
    ("failure numproc", 2, 19, "failure", 17, "was refused more than its limit 60 17 times", "freeze"),
    ("failure numproc", 0, 1, "failure", 1, "was refused more than its limit 60", "freeze"),
    ("failure physpages", 0, 2, "failure", 2, f"was about to go over its limit 64M 2 times: {TAKEN}", ""),
    ("barrier physpages", 0, 1, "barrier", (9 << 20) // PAGE, "went over its barrier 8M, holds 9M now", "log"),
    ("barrier physpages", 1, 4, "barrier", (9 << 20) // PAGE, "went over its barrier 8M 3 times, holds 9M now", "log"),
    ("barrier swappages", 0, 1, "barrier", 0, "went over its barrier unlimited", ""),
    ("failure vmguarpages", 0, 1, "failure", 1, "was left less than its guarantee 1M", ""),
    ("failure oomguarpages", 1, 3, "oom", 2, "", "run:/a"),
]


@pytest.mark.parametrize(("key", "before", "now", "kind", "value", "text", "action"), TOLD)
def test_a_count_that_has_grown(key: str, before: int, now: int, kind: str, value: int, text: str, action: str) -> None:
    (event,) = events.news(101, {key: before}, {key: now}, TABLE, CHOSEN, {})
    assert (event.veid, event.resource, event.kind) == (101, key.split()[1], kind)
    assert (event.value, event.text, event.action) == (value, text, action)


def test_what_is_no_news() -> None:
    counts = {"failure numproc": 3, "barrier physpages": 1, "failure nosuch": 4}
    assert [*events.news(101, counts, counts, TABLE, CHOSEN, {})] == []
    assert [*events.news(101, {}, {"failure numproc": 0, "failure nosuch": 4}, TABLE, CHOSEN, {})] == []
    assert [each.resource for each in events.news(101, {}, counts, TABLE, {}, {})] == ["numproc", "physpages"]


def test_the_barrier_that_was_crossed_is_told_and_not_todays() -> None:
    (event,) = events.news(101, {}, {"barrier physpages": 1}, TABLE, {}, {"physpages": (4 << 20) // PAGE})
    assert event.text == "went over its barrier 4M, holds 9M now"


def test_only_what_refuses_is_told() -> None:
    """privvmpages and physpages share a counter of the kernel's."""
    table = TABLE | {"privvmpages": bean("privvmpages", failcnt=None)}
    counts = {"failure physpages": 2, "failure privvmpages": 2}
    assert [each.resource for each in events.news(101, {}, counts, table, {}, {})] == ["physpages"]
