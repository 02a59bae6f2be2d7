"""One of many: python -m tests.faults.worker STATE_DIR SEED SECONDS; a line for each operation, as of history.py."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable

import ve
from tests.faults.history import OK
from ve import errors

VEIDS = range(201, 206)
ACTS: dict[str, Callable[[ve.Host, int], object]] = {
    "create": lambda host, veid: host.create(veid, template="busybox", name=f"ve{veid}"),
    "start": lambda host, veid: host.get(veid).start(),
    "stop": lambda host, veid: host.get(veid).stop(fast=True),
    "exec": lambda host, veid: host.get(veid).run(["true"], check=True),
    "destroy": lambda host, veid: host.get(veid).destroy(),
    "list": lambda host, veid: [(env.name, env.status) for env in host.list()],
}


def outcome(act: Callable[[ve.Host, int], object], host: ve.Host, veid: int) -> str:
    try:
        act(host, veid)
        return OK
    except (errors.Error, subprocess.CalledProcessError) as error:
        return type(error).__name__


def main(state_dir: str, seed: int, seconds: float) -> None:
    host, chance = ve.Host(state_dir), random.Random(seed)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        verb, veid = chance.choice([*ACTS]), chance.choice(VEIDS)
        begun = time.monotonic()
        came = outcome(ACTS[verb], host, veid)
        print(json.dumps([veid, begun, time.monotonic(), verb, came]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
