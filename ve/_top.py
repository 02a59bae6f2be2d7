"""`ve top`: a live screen of what the running VEs make the host do."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.widgets import DataTable, Header, Static

import ve
from ve._output import columns, label, size
from ve.errors import Error, NotRunning
from ve.events import SAMPLE
from ve.load import Load

PAUSE = 2.0  # seconds between two looks


@dataclass(frozen=True)
class Line:
    """A VE on the screen: its label and two moments, of which the rates are made."""

    label: str
    before: Load
    now: Load

    def rate(self, name: str) -> float | None:
        """A second."""
        old, new, passed = getattr(self.before, name), getattr(self.now, name), self.now.moment - self.before.moment
        return None if old is None or new is None or passed <= 0 else (new - old) / passed


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _size(value: float | None) -> str:
    return "-" if value is None else size(value)


# Of each column: its key, what is above it, its value, and how that is shown; the first is sorted by name.
COLUMNS: tuple[tuple[str, str, Callable[[Line], Any], Callable[[Any], str]], ...] = (
    ("v", "VE", lambda line: line.now.veid, str),
    ("c", "CPU%", lambda line: None if (rate := line.rate("cpu")) is None else rate / 10_000, _percent),
    ("m", "MEMORY", lambda line: line.now.memory, _size),
    ("p", "PROCS", lambda line: line.now.processes, str),
    ("r", "READ", lambda line: line.rate("read"), _size),
    ("w", "WRITE", lambda line: line.rate("written"), _size),
    ("n", "NET", lambda line: line.rate("traffic"), _size),
    ("C", "CPU WAIT", lambda line: line.now.cpu_pressure, _percent),
    ("M", "MEM WAIT", lambda line: line.now.memory_pressure, _percent),
    ("I", "IO WAIT", lambda line: line.now.io_pressure, _percent),
)
_HALF = (len(COLUMNS) + 1) // 2
KEYS = "\n".join(  # in one line they are more than 80
    "  ".join(f"{key} {does}" for key, does, *_ in part)
    for part in ((("q", "quit"), *COLUMNS[:_HALF]), COLUMNS[_HALF:])
)


def ordered(lines: Sequence[Line], key: str) -> list[Line]:
    """By a column: the most first, but VEs by number."""
    value = next(value for each, _, value, _ in COLUMNS if each == key)
    return sorted(lines, key=lambda line: (value(line) is None, (1 if key == "v" else -1) * (value(line) or 0)))


def cells(line: Line) -> list[str]:
    _, *others = COLUMNS
    return [line.label, *(show(value(line)) for _, _, value, show in others)]


class Top(App[None]):
    """The screen; q ends it, and the letter of a column sorts by that."""

    TITLE = "ve top"
    BINDINGS: ClassVar = [("q", "quit", "quit"), *((key, f"sort('{key}')", name) for key, name, _, _ in COLUMNS)]
    ENABLE_COMMAND_PALETTE = False
    CSS = "Static { dock: bottom; }"

    def __init__(self, host: ve.Host, veid: int | None) -> None:
        super().__init__()
        self._host, self._veid = host, veid
        self._sorted_by = "c"
        self._before: dict[int, Load] = {}
        self._lines: list[Line] = []

    def compose(self) -> ComposeResult:
        yield Header()
        yield DataTable(cursor_type="none", zebra_stripes=True)
        yield Static(KEYS, markup=False)

    def on_mount(self) -> None:
        self.query_one(DataTable).add_columns(*(name for _, name, _, _ in COLUMNS))
        self.look()
        self.set_interval(PAUSE, self.look)
        note(self._host, self._veid)
        self.set_interval(SAMPLE, lambda: note(self._host, self._veid))

    def look(self) -> None:
        self._lines = lines(self._host, self._veid, self._before)
        self._before = {line.now.veid: line.now for line in self._lines}
        self.show()

    def show(self) -> None:
        table = self.query_one(DataTable)
        table.clear()
        for line in ordered(self._lines, self._sorted_by):
            first, *rest = cells(line)
            table.add_row(Text(first), *(Text(cell, justify="right") for cell in rest))

    def action_sort(self, key: str) -> None:
        self._sorted_by = key
        self.show()


def note(host: ve.Host, veid: int | None) -> None:
    """What no cgroup counts: who watches is one who looks, for MAXHELD and for events."""
    with contextlib.suppress(Error, OSError):  # `ve ubc` says why
        host.beancounters(veid)


def lines(host: ve.Host, veid: int | None, before: dict[int, Load]) -> list[Line]:
    return [
        Line(label(env), before.get(env.veid, load), load) for env, load in host.loads() if veid in (None, env.veid)
    ]


def watched(host: ve.Host, veid: int | None) -> str:
    """What is left to print: nothing once somebody has watched it on a terminal, else the rates of one second.

    NotRunning if it is to be of one VE that does not run.
    """
    if veid is not None and host.get(veid).pid is None:
        raise NotRunning(f"cannot watch {veid}: it is not running", hint=f"ve start {veid}")
    if sys.stdout.isatty() and sys.stdin.isatty():
        Top(host, veid).run()
        return ""
    return once(host, veid)


def once(host: ve.Host, veid: int | None) -> str:
    """The rates of one second, as a table."""
    note(host, veid)
    before = {line.now.veid: line.now for line in lines(host, veid, {})}
    time.sleep(1)
    names = [name for _, name, _, _ in COLUMNS]
    rows = [dict(zip(names, cells(line), strict=True)) for line in ordered(lines(host, veid, before), "c")]
    return columns(names, rows)
