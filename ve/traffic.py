"""What a VE has sent and received, over its restarts.

    <state dir>/traffic/<VEID>         what it had up to an interface that is no more, and which one that was
    <network run dir>/counted/<NAME>   an interface whose counters are in there: what is left of them can go

The kernel counts by interface name, in sets of our table that outlive the interface (ve/ruleset.py), so a VE may end
between two looks.  To remove such a count costs the kernel 10 ms, for one as for all: so sweep() does it for all, at
each look at all VEs (`ve top`), when a process of pytest that had VEs ends (with pytest-xdist each worker, as who
gives them their tests has none) and, where nobody looks, at one end of MANY.
"""

from __future__ import annotations

import contextlib
import os

from ve import addressed
from ve.errors import UPGRADE, BrokenConfig, newer
from ve.netdir import run_directory
from ve.wholefile import read_small, remove_asides, sync, write_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ve.facts import Facts
    from ve.firewall import Traffic
    from ve.state import State

VERSION = 1
MANY = 64  # interfaces that are no more; the sets hold a million, and count nobody else when they are full


def total(state: State, veid: int, facts: Facts | None) -> Traffic:
    """Of a VE, running or not; facts: of the running one.  BrokenConfig if a newer ve has counted it."""
    from ve import firewall

    before, last = _noted(state, veid)
    interface = addressed.given(facts).interface
    return before if interface in ("", last) else _sum(before, firewall.of_one(interface))


def note_end(state: State, veid: int, facts: Facts | None, *, ephemeral: bool) -> None:
    """Add what a VE that has ended had by its interface; once, however often this is called.  Under the VE's lock.

    What a newer ve has counted stays as it is.
    """
    interface = addressed.given(facts).interface
    if not interface:
        return
    from ve import firewall

    with contextlib.suppress(BrokenConfig):
        before, last = _noted(state, veid)
        if not ephemeral and interface != last:
            _note(state, veid, _sum(before, firewall.of_one(interface)), interface)
    directory = _counted()
    os.makedirs(directory, 0o700, exist_ok=True)
    os.close(os.open(os.path.join(directory, interface), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    if len(os.listdir(directory)) >= MANY:
        with contextlib.suppress(OSError):  # then the next one does
            sweep()


def sweep() -> None:
    """Let the kernel forget what is noted."""
    with contextlib.suppress(FileNotFoundError):  # another one is sweeping
        if names := os.listdir(_counted()):
            from ve import firewall

            firewall.fold(names)
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(_counted(), name))


def remove(state: State, veid: int) -> None:
    """Of a VE that is no more."""
    remove_asides(_path(state, veid))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_path(state, veid))
        sync(os.path.dirname(_path(state, veid)))


def _noted(state: State, veid: int) -> tuple[Traffic, str]:
    """What it had, and up to which interface; nothing where that cannot be read.  BrokenConfig: of a newer ve."""
    import json

    from ve.firewall import Traffic

    data = read_small(_path(state, veid))
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        table = json.loads(data)
        if why := newer(table.get("version", 1), VERSION):
            raise BrokenConfig(f"cannot read {_path(state, veid)}: {why}", UPGRADE)
        return Traffic(*map(int, table["traffic"])), str(table["last"])
    return Traffic(0, 0, 0, 0), ""


def _note(state: State, veid: int, traffic: Traffic, interface: str) -> None:
    import json

    table = {"version": VERSION, "traffic": traffic, "last": interface}
    state.make_dir(os.path.dirname(_path(state, veid)))
    with state.writing():
        write_whole(_path(state, veid), json.dumps(table).encode())


def _sum(one: Traffic, other: Traffic) -> Traffic:
    from ve.firewall import Traffic

    return Traffic(*map(sum, zip(one, other, strict=True)))


def _path(state: State, veid: int) -> str:
    return os.path.join(state.path, "traffic", str(veid))


def _counted() -> str:
    return os.path.join(run_directory(), "counted")
