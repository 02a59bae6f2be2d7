"""What the report of a failed test says of a VE: its last state, and the end of its log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ve import journal, ps
from ve.errors import Error, printable

if TYPE_CHECKING:
    from ve.environment import Environment

_LINES, _BYTES = 100, 1 << 16  # of the log, its last ones
_PATIENCE = 5.0  # seconds for its journal, which a program of the VE's own reads


def title(environment: Environment) -> str:
    return f"VE {environment.veid}"


def text(environment: Environment) -> str:
    """Several lines; of what cannot be had, why."""
    return "\n".join((*_state(environment), *_log(environment)))


def _state(environment: Environment) -> list[str]:
    try:
        lines = [f"{environment.status}, template {environment.config.template}, in {environment.state.path}"]
        with environment.init() as init:
            if init:
                lines += [
                    f"process {each.pid}, user {each.uid}: {printable(each.command)}"
                    for each in ps.processes(environment.veid, init[0], environment.cgroup)
                ]
    except (Error, OSError) as error:
        return [f"its state cannot be told: {error}"]
    return lines


def _log(environment: Environment) -> list[str]:
    tail = b""
    try:
        until = time.monotonic() + _PATIENCE
        for chunk in journal.chunks(environment.log_path, environment, follow=False, until=until):
            tail = (tail + chunk)[-_BYTES:]
    except (Error, OSError) as error:
        return [f"its log cannot be read: {error}"]
    lines = tail.decode(errors="replace").splitlines()[-_LINES:]
    return ["log:", *map(printable, lines)] if lines else ["its log is empty"]
