"""The benchmark's report says what was found, a row that a peer wins too, and leaves nothing of its page open."""

import re
from typing import Any

from bench.place import ROOT
from bench.report import lines, page, table
from bench.rows import ROWS

FOUND = {
    "life": {"spaced": {"Host.ephemeral()": [6.0, 5.0, 7.0], "the same in C": [4.0, 3.0, 5.0]}},
    "exec": {"burst": {'env.run(["true"])': [9.0, 8.0, 30.0], "crun exec": [10.0], "lxc-attach": [20.0]}},
    "list": {"250: ve ubc against lxc-ls -f": {"ve ubc": [1168.0, 533.0, 1356.0], "lxc-ls -f": [787.0, 745.0, 907.0]}},
    "import": {"import ve": {"import ve": [16.0], "import asyncio": [30.0]}},
    "up": {"30 started": {"ve, library": [2.5]}},
    "memory": {"30: all told": {"ve": [-7.0], "LXC": [900.0]}, "30: slab": {"ve": [300.0], "LXC": [400.0]}},
}
RESULTS: dict[str, Any] = {
    "machine": {"kernel": "6.1"},
    "load": ["0.10", "0.20"],
    "rounds": 3,
    "few": 10,
    "many": 30,
    "selftest": "34 held",
    "rows": FOUND,
    "profile": {
        "operations": {"life": {"wall": 20.5, "caller": 5.25, "faults": 1600.5}},
        "steps": {"life: await_root": {"wall": 7.0}},
        "commands": {"ve list": {"wall": 75.0, "faults": 2266.0, "imports": 66.75}},
    },
}


def test_names_of_rows_are_their_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_what_was_asked_is_held_to_the_first_peer() -> None:
    judged = {f"{line.row.name} {line.name}": (line.ratio, line.asked, line.reached) for line in lines(RESULTS)}
    assert judged == {
        "life spaced": (1.5, "2", "yes"),
        "exec burst": (0.9, "0.6", "no"),
        "list 250: ve ubc against lxc-ls -f": (1168 / 787, "0.3", "no"),
        "import import ve": (None, "15 ms", "no"),
        "up 30 started": (None, "", ""),
        "memory 30: all told": (None, "0.6", ""),
        "memory 30: slab": (0.75, "", ""),
    }


def test_the_table_has_every_contender_with_its_spread() -> None:
    shown = table(RESULTS).splitlines()
    ours, theirs = "Host.ephemeral() **6.00** (5.00, 6.80)", "the same in C **4.00** (3.00, 4.80)"
    assert shown[2] == f"| life spaced | {ours} | {theirs} | 1.50 | 2 | yes |"
    assert shown[4] == "|  |  | lxc-attach **20.0** |  |  |  |"
    assert len(shown) == 2 + 7 + 1


def test_the_page_leaves_nothing_open() -> None:
    text = page(RESULTS)
    assert not re.search(r"@[A-Z]+@", text) and max(map(len, text.splitlines())) <= 120
    assert all(f"`{row.name}`" in text for row in ROWS) and table(RESULTS) in text and "34 held" in text
    assert "| `life` | 20.5 | 5.25 | 1600 |" in text and "| `ve list` | 75.0 | 2266 | 66.8 |" in text


def test_the_page_shows_each_configuration() -> None:
    text = (ROOT / "bench/page.md").read_text()
    assert all(f"(../bench/peers/{path.name})" in text for path in (ROOT / "bench/peers").iterdir())
