"""VEIDs and names: what a VE may be called, and which of our files is whose."""

import os
import re

from ve.errors import InvalidValue

VEID_MIN, VEID_MAX = 1, 2147483644  # vzctl(8): 0 is the host, and a signed 32-bit int holds it
FORK_VEIDS = range(VEID_MIN, 2_000_000_000)  # for copies that are given no number
TEST_VEIDS = range(1_000_000_000, 2_000_000_000)  # those that pytest keeps: out of the way of an admin's
EPHEMERAL_VEIDS = range(2_000_000_000, VEID_MAX + 1)  # those that are thrown away: out of the way of all others
NAME = "[A-Za-z_][A-Za-z0-9_.-]{0,62}"
_VEID = "[1-9][0-9]{0,9}"


def check_veid(veid: int) -> int:
    """InvalidValue also for what is no int, such as a number's digits."""
    if not isinstance(veid, int) or isinstance(veid, bool):  # True would be VE 1 here, and a file True.toml there
        raise InvalidValue(f"cannot use VEID {veid!r}: it is not an int")
    if not VEID_MIN <= veid <= VEID_MAX:
        raise InvalidValue(f"cannot use VEID {veid}: it is not in {VEID_MIN}..{VEID_MAX}")
    return veid


def any_of(veids: range) -> int:
    """One of them by chance, which somebody may have."""
    return veids[int.from_bytes(os.urandom(8)) % len(veids)]


def veid_named(name: str, ending: str = "") -> int | None:
    """The VEID that a file of ours is called after: "101", or "101.toml" with that ending; None if it is no such."""
    number = name.removesuffix(ending)
    if number + ending != name or not re.fullmatch(_VEID, number) or int(number) > VEID_MAX:
        return None
    return int(number)


def check_name(name: str, what: str = "name") -> str:
    """The name of a VE or template: never empty, a number or a path, so that it cannot be taken for one."""
    if not re.fullmatch(NAME, name):
        raise InvalidValue(
            f"cannot use {what} {name!r}: it must be a letter or '_', then letters, digits, '.', '_' or '-'",
            hint="63 characters at most; a number would be taken for a VEID",
        )
    return name
