"""In the VM, by test_reboot.py: python -m tests.vm.reboot before|after EAT

What it finds it prints as one line of JSON behind FOUND; what the ledgers say it asks the command line, what is true it
asks the kernel's files.  EAT is the program of tests/limits/eat.c.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import ve
from tests.verbs import commandline

FOUND = "found: "
STOPPED, RUNNING = 101, 102  # how each ends with its host: by a stop, and by the kernel's end
STATE = Path(os.environ.get("VE_TEST_DIR", "."), "reboot")


def before(eat: str) -> None:
    STATE.mkdir(mode=0o755)
    host = ve.Host(STATE)
    host.templates.build("busybox")
    for veid in (STOPPED, RUNNING):
        env = host.create(veid, template="busybox", numproc=40, memory="64M")
        env.copy_in(eat, "/eat", archive=True)
        env.start()
    truth = {veid: bomb(veid) for veid in (STOPPED, RUNNING)}
    host.get(STOPPED).stop()
    told = ubc()
    looked = (STATE / f"ubc/{RUNNING}").stat().st_mtime
    bomb(RUNNING)  # nobody looks any more
    tell(truth=truth, told=told, looked=looked)
    Path("/proc/sysrq-trigger").write_text("b")  # as a power cut


def after(eat: str) -> None:
    told = ubc()
    looked = (STATE / f"ubc/{RUNNING}").stat().st_mtime  # of which this was no look: there is nothing to be seen
    host = ve.Host(STATE)
    host.get(STOPPED).start()
    truth = {STOPPED: bomb(STOPPED)}
    again = ubc()
    host.get(STOPPED).stop(fast=True)
    tell(told=told, looked=looked, truth=truth, again=again)


def bomb(veid: int) -> dict[str, int]:
    """Let its processes reach their limit: what the kernel has counted since the VE started."""
    done = ve.Host(STATE).get(veid).run(["/eat", "process", "100"], capture_output=True, text=True, check=True)
    assert done.stdout.endswith(" EAGAIN\n"), done
    group = commandline.cgroup(STATE, veid)
    local = group / "pids.events.local"
    events = (local if local.exists() else group / "pids.events").read_text().split()
    numbers = {name: int((group / name).read_text()) for name in ("pids.peak", "memory.peak")}
    return {"refused": int(events[events.index("max") + 1]), **numbers}


def ubc() -> dict[str, dict[str, Any]]:
    """Rows by "VEID NAME"."""
    rows = json.loads(commandline.output(STATE, "ubc", "--json"))
    return {f"{row['veid']} {row['name']}": row for row in rows}


def tell(**facts: object) -> None:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    print(f"\n{FOUND}{json.dumps(facts | {'boot': boot_id})}", flush=True)


if __name__ == "__main__":
    {"before": before, "after": after}[sys.argv[1]](sys.argv[2])
