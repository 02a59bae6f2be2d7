"""What an admin wants done at a barrier or a failure: RESOURCE:ACTION, in words and checked.

log               nothing but to tell it, also where only such is told (`ve events --quiet`)
freeze            freeze the VE
raise:20%         barrier and limit that much higher, up to what the host has, until the VE stops
run:/path         a program of the host's
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ve import amounts, limits
from ve.amounts import UNLIMITED
from ve.beancounter import BY_NAME, RESOURCES, Resource
from ve.errors import InvalidValue, nearest

BARRIER, FAILURE = "barrier", "failure"
KINDS = (BARRIER, FAILURE)
SHARES = range(1, 1001)  # percent
_HINT = "log, freeze, raise:20% or run:/path/to/program"


class Action(NamedTuple):
    """What to do; share: percent to raise by, path: the program to run."""

    verb: str
    share: int = 0
    path: str = ""


def canonical(name: str) -> str:
    """The beancounter that a word such as memory stands for; InvalidValue names the nearest one."""
    target = limits.canonical(name) if name in limits.ALIASES else name
    if not isinstance(name, str):
        raise InvalidValue(f"cannot watch {name!r}: it is not a string")
    if target not in BY_NAME:
        hint = nearest(name, (*limits.ALIASES, *BY_NAME))
        raise InvalidValue(f"cannot watch {name}: there is no such resource", hint)
    return target


def action(kind: str, name: str, text: str) -> Action:
    """InvalidValue for an action that is none, or can never happen or do anything for this beancounter."""
    row = BY_NAME[canonical(name)]
    refused = f"cannot use on_{kind} {name}:{text}"
    if not isinstance(text, str):
        raise InvalidValue(f"{refused}: it is not a string", _HINT)
    verb, _, rest = text.partition(":")
    if kind == BARRIER and row.guaranteed:
        raise InvalidValue(f"{refused}: the barrier of {row.name} is a guarantee, no warning", hint="use on_failure")
    if kind == FAILURE and not row.failcnt:
        counted = ", ".join(each.name for each in RESOURCES if each.failcnt)
        raise InvalidValue(f"{refused}: nothing counts the failures of {row.name}", hint=f"of {counted} they are")
    if text in ("log", "freeze"):
        return Action(text)
    if verb == "raise":
        return Action(verb, share=_share(refused, row, rest))
    if verb != "run":
        raise InvalidValue(f"{refused}: there is no such action", _HINT)
    if not rest.startswith("/") or "\0" in rest or any("\ud800" <= char <= "\udfff" for char in rest):
        raise InvalidValue(f"{refused}: its program is not an absolute path", hint="run:/path/to/program")
    return Action(verb, path=rest)


def check(kind: str, chosen: Mapping[str, str]) -> None:
    """InvalidValue if one of them is none; chosen is action by beancounter, as a Config has it."""
    for name, text in chosen.items():
        if name not in BY_NAME:
            raise InvalidValue(f"cannot use on_{kind} {name}: it is no resource", hint=f"{canonical(name)} is")
        action(kind, name, text)


def refuse_idle(kind: str, chosen: Mapping[str, str], given: limits.Limits) -> None:
    """InvalidValue for an action that nothing of what a VE may use would ever make happen."""
    for name, text in chosen.items():
        why, cure = _idle(kind, name, given)
        if why:
            taken = f'{cure}; or --on-{kind} "" takes the actions away'
            raise InvalidValue(f"cannot use on_{kind} {name}:{text}: it would never happen, as {why}", taken)


def _idle(kind: str, name: str, given: limits.Limits) -> tuple[str, str]:
    """Why, and what to say so that it may; "" if it may."""
    row, bound = BY_NAME[name], given.bound(name)
    if kind == BARRIER and given.warning(name) >= UNLIMITED:
        limit = amounts.number_text(bound.limit)
        why = f"its barrier is its limit {limit}" if 0 < bound.barrier < UNLIMITED else "it has no barrier"
        return why, f"--{name} BARRIER:{limit}"
    if kind == FAILURE and name == "vmguarpages" and not bound.barrier:
        return "nothing is guaranteed", f"--{name} BARRIER:unlimited"
    if kind == FAILURE and not row.guaranteed and bound.limit >= UNLIMITED:
        return "it is not limited", f"--{name} BARRIER:LIMIT"
    if not (given.is_crossed if kind == BARRIER else given.is_met)(name):
        [other] = {*limits.MEMORY} - {name}
        return f"{other} is lower", f"--on-{kind} {other}:ACTION"
    return "", ""


def by_resource(kind: str, chosen: Mapping[str, str]) -> dict[str, str]:
    """The same from such as somebody may give, where a beancounter may go by another word."""
    found: dict[str, str] = {}
    for name, text in chosen.items():
        if canonical(name) in found:
            raise InvalidValue(f"cannot use on_{kind} {name}:{text}: {canonical(name)} has another action already")
        action(kind, name, text)  # to name it as it was typed
        found[canonical(name)] = text
    return found


def _share(refused: str, row: Resource, text: str) -> int:
    number = re.fullmatch("([0-9]{1,4})%", text)
    if number is None or int(number[1]) not in SHARES:
        why = f"it is not in {SHARES.start}%..{SHARES.stop - 1}%"
        raise InvalidValue(f"{refused}: {why}", hint="raise:20%")
    if row.guaranteed:
        raise InvalidValue(f"{refused}: {row.name} has no limit to raise", hint="raise physpages")
    if not row.live:
        raise InvalidValue(f"{refused}: {row.name} changes only at a start", hint="log, freeze or run:/path")
    return int(number[1])
