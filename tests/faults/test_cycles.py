"""A VE that starts and stops again and again leaves nothing more behind each time.

VE_TEST_CYCLES is how often (40); the guard of each test looks at mounts, cgroups, interfaces, leases and descriptors.
"""

import gc
import os
import re
import select
import time
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make

pytestmark = pytest.mark.any_kernel

CYCLES = int(os.environ.get("VE_TEST_CYCLES", "40"))
WARM = max(20, CYCLES // 4)  # until the allocator has in hand what it goes on to use
GROWTH = 1 << 20  # bytes of ours that say nothing: what the allocator keeps in hand


def resident() -> int:
    gc.collect()
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) << 10


def dying(host_dir: Path, veid: int) -> int:
    """Cgroups that are removed and that the kernel has not forgotten."""
    stat = commandline.cgroup(host_dir, veid).parent.parent / "cgroup.stat"
    return int(dict(map(str.split, stat.read_text().splitlines()))["nr_dying_descendants"])


def test_nothing_grows(host_dir: Path, make: Make) -> None:
    env = make()
    for _ in range(WARM):
        cycle(env)
    files, memory, cgroups = witness.everything(host_dir), resident(), dying(host_dir, env.veid)
    for _ in range(CYCLES):
        cycle(env)
    assert resident() - memory < GROWTH  # first, since the next look takes more than a thousand cycles might
    assert witness.everything(host_dir).keys() == files.keys()
    deadline = time.monotonic() + 30  # the kernel forgets them behind our back, and tells nobody
    while dying(host_dir, env.veid) > cgroups + WARM and time.monotonic() < deadline:
        select.select([], [], [], 0.02)
    assert dying(host_dir, env.veid) <= cgroups + WARM


def cycle(env: "ve.Environment") -> None:
    env.start()
    env.run(["true"], check=True)
    env.stop(fast=True)
