"""What ve top shows of two moments, and in which order."""

from dataclasses import replace
from typing import Any

import pytest

from ve import _top
from ve._top import COLUMNS, Line
from ve.load import Load

MOMENT = Load(101, 10.0, 3, 1_000_000, 4 << 20, 1000, None, 0.5, 0.0, None)


def line(veid: int, **later: Any) -> Line:
    before = replace(MOMENT, veid=veid)
    return Line(str(veid), before, replace(before, moment=12.0, **later))


def test_rates_are_of_the_time_between() -> None:
    assert _top.cells(line(101, cpu=2_000_000, read=5096)) == [
        *("101", "50.0", "4M", "3", "2K", "-", "0", "0.5", "0.0", "-"),
    ]


def test_what_is_sent_and_received_is_one_rate() -> None:
    names = [name for _, name, _, _ in COLUMNS]
    assert _top.cells(line(101, sent=6144, received=2048))[names.index("NET")] == "4K"
    most = _top.ordered([line(101, sent=10), line(102, received=30), line(103, sent=10, received=10)], "n")
    assert [each.label for each in most] == ["102", "103", "101"]


def test_one_moment_has_no_rates() -> None:
    assert _top.cells(Line("web", MOMENT, MOMENT))[:2] == ["web", "-"]


@pytest.mark.parametrize(
    ("key", "order"),
    [("c", ["102", "103", "101"]), ("m", ["103", "101", "102"]), ("v", ["101", "102", "103"]), ("w", None)],
)
def test_the_order(key: str, order: list[str] | None) -> None:
    lines = [
        line(103, cpu=2_000_000, memory=9),
        line(101, cpu=1_000_000, memory=8),
        line(102, cpu=4_000_000, memory=None),
    ]
    shown = [each.label for each in _top.ordered(lines, key)]
    assert shown == (order or ["103", "101", "102"])


def test_each_column_has_a_key_of_its_own_and_none_ends_it() -> None:
    keys = [key for key, _, _, _ in COLUMNS]
    assert len({*keys}) == len(keys)
    assert "q" not in keys
