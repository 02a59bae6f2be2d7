"""swappages, on a swap file that is there only for the test."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.limits.test_events import held, shapes, told
from tests.limits.test_walls import MIB, PAGE, Limited, counter, eaten
from tests.verbs import commandline


@pytest.fixture
def swap(_test_dir: Path) -> Iterator[None]:
    with tempfile.NamedTemporaryFile(dir=_test_dir) as file:
        os.fchmod(file.fileno(), 0o600)
        os.posix_fallocate(file.fileno(), 0, 96 * MIB)
        subprocess.run(["mkswap", file.name], stdout=subprocess.DEVNULL, check=True)
        subprocess.run(["swapon", file.name], check=True)
        try:
            yield
        finally:
            subprocess.run(["swapoff", file.name], check=True)


@pytest.mark.bears_out(swappages="exact")
@pytest.mark.usefixtures("swap")
def test_swap_is_given_up_to_its_limit(host_dir: Path, limited: Limited) -> None:
    env, none = limited(memory="32M", swap="16M"), limited(memory="32M", swap="0")
    assert counter(host_dir, env, "memory.swap.max") == 16 * MIB
    assert counter(host_dir, none, "memory.swap.max") == 0
    with held(env, "memory", str(36 * MIB // PAGE)):
        before, bean = counter(host_dir, env, "memory.swap.current"), env.beancounters()["swappages"]
        after = counter(host_dir, env, "memory.swap.current")  # it goes on swapping as it likes
        assert 4 * MIB <= min(before, after) <= max(before, after) <= 16 * MIB
        assert bean.held is not None and min(before, after) <= bean.held * PAGE <= max(before, after)
    assert none.run(["/eat", "memory", str(36 * MIB // PAGE)], capture_output=True).returncode == -9
    assert env.run(["/eat", "memory", str(64 * MIB // PAGE)], capture_output=True).returncode == -9
    bean = env.beancounters()["swappages"]
    assert bean.limit == 16 * MIB // PAGE
    # 6.12 does not even ask for swap that is used up, and so counts no refusal, where 6.1 does.
    assert bean.failcnt == counter(host_dir, env, "memory.swap.events", "max")
    assert bean.maxheld is not None and 4 * MIB // PAGE <= bean.maxheld <= bean.limit
    peak = (commandline.cgroup(host_dir, env.veid) / "memory.swap.peak").exists()
    assert bean.sampled is not peak
    if peak:
        assert bean.maxheld == counter(host_dir, env, "memory.swap.peak") // PAGE


@pytest.mark.bears_out(swappages="exact")
@pytest.mark.usefixtures("swap")
def test_a_barrier_of_swap_is_told(host_dir: Path, limited: Limited) -> None:
    env = limited(memory="32M", swappages=f"{2 * MIB // PAGE}:{64 * MIB // PAGE}")
    assert counter(host_dir, env, "memory.swap.high") == 2 * MIB
    assert eaten(env, "memory", 40 * MIB // PAGE) == (40 * MIB // PAGE, "0")
    assert ("swappages", "barrier") in shapes(told(host_dir, str(env.veid)))
