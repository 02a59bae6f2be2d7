"""CPU time and disk traffic: shares by weight, caps by quota and rate, as the kernel accounts for them."""

import contextlib
import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests.limits.test_walls import MIB, Limited
from tests.verbs import commandline

SPIN = ["sh", "-c", "while :; do :; done"]


def used(host_dir: Path, env: "ve.Environment") -> int:
    """Microseconds of CPU time."""
    words = (commandline.cgroup(host_dir, env.veid) / "cpu.stat").read_text().split()
    return int(words[words.index("usage_usec") + 1])


@contextlib.contextmanager
def spinning(*envs: "ve.Environment") -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for env in envs:
            process = env.popen(SPIN)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def wait_for(enough: int, host_dir: Path, *envs: "ve.Environment") -> list[int]:
    """What each has used meanwhile, once all together have used so many microseconds."""
    began = [used(host_dir, env) for env in envs]
    deadline = time.monotonic() + 300
    while True:
        spent = [used(host_dir, env) - start for env, start in zip(envs, began, strict=True)]
        if sum(spent) >= enough:
            return spent
        assert time.monotonic() < deadline, spent
        select.select([], [], [], 0.1)


def test_weights_of_one_and_three_get_one_and_three(host_dir: Path, limited: Limited) -> None:
    light = limited(cpuset="0", cpu_weight="100")
    heavy = limited(cpuset="0", cpu_weight="300")
    with spinning(light, heavy):
        wait_for(1_000_000, host_dir, light, heavy)
        one, three = wait_for(20_000_000, host_dir, light, heavy)
    assert 2.7 < three / one < 3.3


def test_a_cap_holds_on_an_idle_machine(host_dir: Path, limited: Limited) -> None:
    env = limited(cpus="0.2")
    with spinning(env):
        wait_for(200_000, host_dir, env)
        began = time.monotonic()
        [spent] = wait_for(2_000_000, host_dir, env)
        share = spent / 1e6 / (time.monotonic() - began)
    assert share < 0.3  # the ticks of an emulated CPU come late
    assert "nr_throttled 0" not in (commandline.cgroup(host_dir, env.veid) / "cpu.stat").read_text()


def disk() -> str:
    """MAJOR:MINOR of what the tests' state dirs are on."""
    number = os.stat(os.environ["VE_TEST_DIR"]).st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def test_writes_are_slowed_to_their_rate(host_dir: Path, limited: Limited) -> None:
    env = limited(io_write="2M/s")
    limits = (commandline.cgroup(host_dir, env.veid) / "io.max").read_text()
    assert limits == f"{disk()} rbps=max wbps={2 * MIB} riops=max wiops=max\n"
    with env.popen(["dd", "if=/dev/zero", "of=/file", "bs=1M", "count=32", "conv=fsync"], stderr=-3) as writer:
        first, began = written(host_dir, env, 2 * MIB)
        last, ended = written(host_dir, env, first + 16 * MIB)
        env.set(io_write="")
        assert writer.wait() == 0
    assert 0.85 < (last - first) / (ended - began) / (2 * MIB) < 1.15


def written(host_dir: Path, env: "ve.Environment", least: int) -> tuple[int, float]:
    """Bytes to that disk, once they are so many, and when."""
    deadline = time.monotonic() + 300
    while True:
        text = (commandline.cgroup(host_dir, env.veid) / "io.stat").read_text()
        now = time.monotonic()
        found = re.search(rf"^{disk()} .*wbytes=([0-9]+)", text, re.MULTILINE)
        if found and int(found[1]) >= least:
            return int(found[1]), now
        assert now < deadline, text
        select.select([], [], [], 0.05)


def test_a_rate_goes_and_comes_on_a_running_one(host_dir: Path, limited: Limited) -> None:
    env = limited()
    io_max = commandline.cgroup(host_dir, env.veid) / "io.max"
    env.set(io_read="5M", iops=100)
    assert io_max.read_text() == f"{disk()} rbps={5 * MIB} wbps=max riops=100 wiops=100\n"
    env.set(io_read="", iops="")
    assert io_max.read_text() == ""


@pytest.fixture
def scheduler() -> Iterator[Path]:
    """The file that chooses it for the disk of the state dirs; as it was in the end."""
    path = Path(f"/sys/dev/block/{disk()}/queue/scheduler")
    before = next(word.strip("[]") for word in path.read_text().split() if word.startswith("["))
    yield path
    path.write_text(before)


def test_a_weight_needs_a_scheduler_that_knows_it(host_dir: Path, limited: Limited, scheduler: Path) -> None:
    scheduler.write_text("none")
    env = limited()
    done = commandline.run(host_dir, "set", env.veid, "--io-weight", "500")
    assert done.returncode == 5, done
    assert "bfq" in done.stderr
    subprocess.run(["modprobe", "bfq"], check=True)
    scheduler.write_text("bfq")
    commandline.output(host_dir, "set", env.veid, "--io-weight", "500")
    assert (commandline.cgroup(host_dir, env.veid) / "io.bfq.weight").read_text().split()[-1] == "500"
    commandline.output(host_dir, "set", env.veid, "--io-weight", "")
    assert (commandline.cgroup(host_dir, env.veid) / "io.bfq.weight").read_text().split()[-1] == "100"
