"""OpenVZ's /proc/user_beancounters, version 2.5, byte for byte (kernel/bc/proc.c), for the programs that read it.

It has no way to say that something is not known: it says 0 there, and what that is about stands in a file beside it.
VE0, the host, is not in it: nothing counts what is outside of VEs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping

from ve.beancounter import Beancounter
from ve.errors import InvalidValue
from ve.wholefile import write_whole

COLUMNS = ("held", "maxheld", "barrier", "limit", "failcnt")
# In the order of the kernel's indices, 0 to 23; swappages, 24, it prints elsewhere.
ROWS = (
    *("kmemsize", "lockedpages", "privvmpages", "shmpages", "dummy", "numproc", "physpages", "vmguarpages"),
    *("oomguarpages", "numtcpsock", "numflock", "numpty", "numsiginfo", "tcpsndbuf", "tcprcvbuf", "othersockbuf"),
    *("dgramrcvbuf", "numothersock", "dcachesize", "numfile", "dummy", "dummy", "dummy", "numiptent"),
)
Tables = Iterable[tuple[int, Mapping[str, Beancounter]]]


def text(tables: Tables) -> str:
    """The file: of each VE, by VEID, a line for each resource."""
    lines = ["Version: 2.5", _line("uid", "resource", COLUMNS)]
    for veid, table in tables:
        for index, name in enumerate(ROWS):
            values = [str(_known(table, name, column)) for column in COLUMNS]
            lines.append(_line("" if index else f"{veid}:", name, values))
    return "".join(f"{line}\n" for line in lines)


def meta(tables: Tables) -> str:
    """What of it is 0 because nobody knows, or only what somebody saw: VEID RESOURCE COLUMN unknown|sampled."""
    lines = []
    for veid, table in tables:
        for name in ROWS:
            bean = table.get(name)
            unknown = [column for column in COLUMNS if bean and getattr(bean, column) is None]
            lines += [f"{veid} {name} {column} unknown" for column in unknown]
            if bean and bean.sampled and bean.maxheld is not None:
                lines.append(f"{veid} {name} maxheld sampled")
    return "".join(f"{line}\n" for line in lines)


def write(path: str | os.PathLike[str], tables: Tables) -> None:
    """Write both, the latter to PATH.meta, each whole, or leave both as they were.

    InvalidValue if something is there that is no regular file, such as a device, whose name the file would take.
    """
    name, tables = os.fspath(path), [*tables]
    beside = f"{name}.meta"
    if not name or "\0" in name:
        raise InvalidValue(f"cannot write {name!r}: it is no path")
    for each in (name, beside):
        _refuse_other(each)
    known = os.path.exists(beside)
    write_whole(beside, meta(tables).encode(), durable=False)
    try:
        write_whole(name, text(tables).encode(), 0o400, durable=False)  # OpenVZ's mode
    except BaseException:
        if not known:
            os.unlink(beside)
        raise


def _refuse_other(path: str) -> None:
    try:
        if stat.S_ISREG(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    raise InvalidValue(f"cannot write {path}: it is there, and no regular file", hint="choose another name")


def _known(table: Mapping[str, Beancounter], name: str, column: str) -> int:
    bean = table.get(name)
    return getattr(bean, column) or 0 if bean else 0


def _line(first: str, name: str, values: Iterable[str]) -> str:
    return f"{first:>10}  {name:<12} " + " ".join(f"{value:>20}" for value in values)
