"""How `ve ubc` shows beancounters: in vzubc's manner, a line for each resource of each VE."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ve._output import aligned, label, size
from ve.amounts import ITEMS, PAGE, PAGES, UNLIMITED
from ve.beancounter import BY_NAME, DISK, RESOURCES, Beancounter
from ve.errors import InvalidValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import ve
    from ve._output import Fields

    Row = tuple[ve.Environment, Beancounter]

PAUSE = 2.0  # seconds between two looks
NEAR_HELD, NEAR_MAXHELD = 0.5, 0.8  # of the barrier; vzubc's

UBC: Fields = {"veid": lambda row: row[0].veid} | {
    name: lambda row, name=name: getattr(row[1], name) for name in Beancounter._fields
}
UBC |= {"looked": lambda row: _time(row[1].looked), "gap": lambda row: _time(row[1].gap)}


def list_fields(host: ve.Host, broken: Callable[[Exception], object]) -> Fields:
    """What `ve list -o` has of beancounters, by vzlist's names: numproc and numproc.h, .m, .b, .l, .f.

    Of the disk diskspace, .s and .h, which are its soft and hard limit.  broken: is told why a VE has none.
    """
    tables: dict[int, Mapping[str, Beancounter]] = {}

    def look(env: ve.Environment, name: str, column: str) -> Any:
        if not tables:  # all are looked at in one call, by who asks first
            tables.update({each.veid: table for each, table in host.beancounters(broken=broken)})
        bean = tables.get(env.veid, {}).get(name)
        return getattr(bean, column) if bean else None

    columns = {"": "held", ".h": "held", ".m": "maxheld", ".b": "barrier", ".l": "limit", ".f": "failcnt"}
    return {
        f"{row.name}{suffix}": partial(look, name=row.name, column=column)
        for rows, known in ((RESOURCES, columns), (DISK, {"": "held", ".s": "barrier", ".h": "limit"}))
        for row in rows
        for suffix, column in known.items()
    }


def refuse_idle(**given: object) -> None:
    """InvalidValue for what has nothing to do where reset or compat is to be done alone."""
    chosen = [name for name, value in given.items() if value not in (None, False)]
    for alone, allowed in (("reset", {"VE"}), ("compat", set[str]())):
        others = [name for name in chosen if name != alone and name not in allowed]
        if alone in chosen and others:
            words = " and ".join(name if name == "VE" else f"--{name}" for name in others)
            why = "it writes a file of all VEs" if alone == "compat" else "it shows nothing"
            raise InvalidValue(f"cannot use --{alone} with {words}: {why}", hint=f"leave {words} out")


def counted(host: ve.Host, key: str | None) -> list[str]:
    """The VEs whose counters can be reset, all or one: an ephemeral one has no ledger, and is refused where named."""
    return [key] if key is not None else [str(env.veid) for env in host.list() if not env.ephemeral]


def rows(host: ve.Host, veid: int | None, only_near: bool, broken: Callable[[Exception], object]) -> list[Row]:
    """The beancounters of all VEs, or of one; of all, broken is told why one is not among them."""
    looks = host.beancounters(veid, broken if veid is None else None)
    found = [(env, each) for env, table in looks for each in table.values()]
    return [row for row in found if not only_near or is_near(row)]


def remarks(rows: Iterable[Row]) -> Iterator[str]:
    """Of each VE that is shown, what is to be said of its counters as a whole."""
    runs = {
        env.veid for env, each in rows if each.held is not None and each.name in BY_NAME
    }  # the disk is there anyway
    for env, each in {row[0].veid: row for row in rows}.values():
        if each.looked and env.veid not in runs and env.pid is None:
            yield f"{label(env)} does not run: this was counted until {_time(each.looked)}"
        if each.gap:
            yield f"{label(env)}: not counted is what came from {_time(each.gap)} on, until the host crashed"


def is_near(row: Row) -> bool:
    """Is it near its barrier, or its limit where the barrier is none, was it, or was anything refused?"""
    each = row[1]
    wall = each.barrier or each.limit
    near = wall < UNLIMITED and ((each.held or 0) > NEAR_HELD * wall or (each.maxheld or 0) > NEAR_MAXHELD * wall)
    return bool(each.failcnt) or near


def table(rows: Iterable[Row]) -> str:
    """The rows as people read them: sizes with a suffix, ~ before what was only sampled."""
    lines, shown = [["VEID", "RESOURCE", "HELD", "MAXHELD", "BARRIER", "LIMIT", "FAILCNT"]], None
    for env, each in rows:
        lines.append(
            [
                str(env.veid) if env.veid != shown else "",
                each.name,
                _amount(each, each.held),
                ("~" if each.sampled and each.maxheld is not None else "") + _amount(each, each.maxheld),
                _amount(each, each.barrier),
                _amount(each, each.limit),
                "-" if each.failcnt is None else str(each.failcnt),
            ]
        )
        shown = env.veid
    return aligned(lines)


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


def _time(seconds: float | None, precision: str = "seconds") -> str | None:
    """Of the epoch, as UTC."""
    if seconds is None:
        return None
    from datetime import UTC, datetime  # only who shows a time pays for it

    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=precision).replace("+00:00", "Z")
