"""What many did to one VE at once, and whether there is an order of it that a single lock could have made.

Each operation has a time at which it was begun, one at which it was done, and what came of it.  They agree with the
model if they can be put in an order that no two contradict, one being done before the other was begun, and in which
each comes to what it came to (Herlihy and Wing, Linearizability, 1990).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

ABSENT, STOPPED, RUNNING = "absent", "stopped", "running"
OK = "ok"
# verb -> state before -> what comes of it, and the state after
MODEL: dict[str, dict[str, tuple[str, str]]] = {
    "create": {ABSENT: (OK, STOPPED), STOPPED: ("Exists", STOPPED), RUNNING: ("Exists", RUNNING)},
    "start": {ABSENT: ("NotFound", ABSENT), STOPPED: (OK, RUNNING), RUNNING: ("Running", RUNNING)},
    "stop": {ABSENT: ("NotFound", ABSENT), STOPPED: ("NotRunning", STOPPED), RUNNING: (OK, STOPPED)},
    "exec": {ABSENT: ("NotFound", ABSENT), STOPPED: ("NotRunning", STOPPED), RUNNING: (OK, RUNNING)},
    "destroy": {ABSENT: ("NotFound", ABSENT), STOPPED: (OK, ABSENT), RUNNING: ("Running", RUNNING)},
}


class Operation(NamedTuple):
    begun: float
    done: float
    verb: str
    outcome: str


def agree(operations: Sequence[Operation]) -> bool:
    """Of one VE that was absent at first."""
    todo = sorted(operations)
    seen: set[tuple[int, int, str]] = set()
    stack = [
        (0, 0, ABSENT)
    ]  # how many are in order already; of those after them the ones that are, too, as bits; state
    while stack:
        base, ahead, state = stack.pop()
        if base == len(todo):
            return True
        for index in _next(todo, base, ahead):
            outcome, after = MODEL[todo[index].verb][state]
            if outcome != todo[index].outcome:
                continue
            way = (*_counted(base, ahead | 1 << index - base), after)
            if way not in seen:
                seen.add(way)
                stack.append(way)
    return False


def _next(todo: Sequence[Operation], base: int, ahead: int) -> list[int]:
    """Those that may be the next in order: none of the others was done before they began."""
    found, first_done = list[int](), math.inf
    for index in range(base, len(todo)):
        if todo[index].begun > first_done:
            break
        if not ahead >> index - base & 1:
            first_done = min(first_done, todo[index].done)
            found.append(index)
    return found


def _counted(base: int, ahead: int) -> tuple[int, int]:
    while ahead & 1:
        base, ahead = base + 1, ahead >> 1
    return base, ahead
