"""How `ve ubc` shows beancounters: in vzubc's manner, a line for each resource of each VE."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from functools import partial
from typing import Any

import ve
from ve._output import Fields, columns, printable
from ve.amounts import ITEMS, PAGE, PAGES, UNLIMITED
from ve.beancounter import RESOURCES, Beancounter

PAUSE = 2.0  # seconds between two looks
NEAR_HELD, NEAR_MAXHELD = 0.5, 0.8  # of the barrier; vzubc's
Row = tuple["ve.Environment", Beancounter]

UBC: Fields = {"veid": lambda row: row[0].veid} | {
    each.name: lambda row, name=each.name: getattr(row[1], name) for each in fields(Beancounter)
}


def list_fields(host: "ve.Host") -> Fields:
    """What `ve list -o` has of beancounters, by vzlist's names: numproc and numproc.h, .m, .b, .l, .f."""
    tables: dict[int, Mapping[str, Beancounter]] = {}

    def look(env: "ve.Environment", name: str, column: str) -> Any:
        if not tables:  # all are looked at in one call, by who asks first
            tables.update({each.veid: table for each, table in host.beancounters()})
        bean = tables.get(env.veid, {}).get(name)
        return getattr(bean, column) if bean else None

    columns = {"": "held", ".h": "held", ".m": "maxheld", ".b": "barrier", ".l": "limit", ".f": "failcnt"}
    return {
        f"{row.name}{suffix}": partial(look, name=row.name, column=column)
        for row in RESOURCES
        for suffix, column in columns.items()
    }


def is_near(row: Row) -> bool:
    """Is it near its barrier, or its limit where the barrier is none, was it, or was anything refused?"""
    each = row[1]
    wall = each.barrier or each.limit
    near = wall < UNLIMITED and ((each.held or 0) > NEAR_HELD * wall or (each.maxheld or 0) > NEAR_MAXHELD * wall)
    return bool(each.failcnt) or near


def table(rows: Iterable[Row]) -> str:
    """The rows as people read them: sizes with a suffix, ~ before what was only sampled."""
    lines, shown = [], None
    for env, each in rows:
        lines.append(
            {
                "veid": env.veid if env.veid != shown else " ",
                "resource": each.name,
                "held": _amount(each, each.held),
                "maxheld": ("~" if each.sampled and each.maxheld is not None else "") + _amount(each, each.maxheld),
                "barrier": _amount(each, each.barrier),
                "limit": _amount(each, each.limit),
                "failcnt": "-" if each.failcnt is None else str(each.failcnt),
            }
        )
        shown = env.veid
    return columns(["veid", "resource", "held", "maxheld", "barrier", "limit", "failcnt"], lines)


def again(watch: bool) -> Iterator[Any]:
    """Once; or, to watch, until Ctrl-C, on a terminal each time from its top."""
    yield None
    while watch:
        time.sleep(PAUSE)
        if sys.stdout.isatty():
            sys.stdout.write("\033[H\033[J")
        yield None


def _amount(of: Beancounter, value: int | None) -> str:
    if value is None:
        return "-"
    if value >= UNLIMITED:
        return "unlimited"
    return str(value) if of.unit == ITEMS else size(value * PAGE if of.unit == PAGES else value)


def event_line(event: "ve.Event", as_json: bool) -> str:
    """An event in a line, its time being UTC."""
    import json  # only who shows events pays for these
    from datetime import UTC, datetime

    when = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if as_json:
        return json.dumps(asdict(event) | {"time": when})
    return " ".join(filter(None, (when, str(event.veid), event.resource, f"{event.kind}:", printable(event.text))))


def size(value: float) -> str:
    """Bytes in three digits and a suffix."""
    for suffix in ("", "K", "M", "G"):
        if value < 1000:
            return f"{value:.3g}{suffix}"
        value /= 1024
    return f"{value:.3g}T"
