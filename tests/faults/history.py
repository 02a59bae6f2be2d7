"""What many did to one VE at once, and whether there is an order of it that a single lock could have made.

Each operation has a time at which it was begun, one at which it was done, and what came of it.  They agree with the
model if they can be put in an order that no two contradict, one being done before the other was begun, and in which
each comes to what it came to (Herlihy and Wing, Linearizability, 1990).
"""

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
    seen: set[tuple[int, str]] = set()
    stack = [(0, ABSENT)]  # those that are in order already, as bits; the state after them
    everything = (1 << len(todo)) - 1
    while stack:
        ordered, state = stack.pop()
        if ordered == everything:
            return True
        left = [index for index in range(len(todo)) if not ordered >> index & 1]
        first_done = min(todo[index].done for index in left)
        for index in left:
            if todo[index].begun > first_done:
                break
            outcome, after = MODEL[todo[index].verb][state]
            way = (ordered | 1 << index, after)
            if outcome == todo[index].outcome and way not in seen:
                seen.add(way)
                stack.append(way)
    return False
