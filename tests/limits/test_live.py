"""Limits of a running VE: set, read back from the kernel, kept or not."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.limits.test_walls import MIB, PAGE, Limited, counter, eaten
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import errors


def conf(host_dir: Path, env: "ve.Environment") -> dict[str, object]:
    return tomllib.loads((host_dir / f"conf/{env.veid}.toml").read_text()).get("limits", {})  # type: ignore[no-any-return]


def file(host_dir: Path, env: "ve.Environment", name: str) -> str:
    return (commandline.cgroup(host_dir, env.veid) / name).read_text().strip()


def test_limits_are_there_from_the_start(host_dir: Path, limited: Limited) -> None:
    env = limited(
        memory="64M", swap="0", processes="100", cpus="0.5", cpu_weight="300", cpuset="0", vmguarpages="100", oom="ve"
    )
    assert {
        name: file(host_dir, env, name)
        for name in ("memory.max", "memory.swap.max", "memory.high", "memory.low", "memory.oom.group", "pids.max")
    } == {
        "memory.max": str(64 * MIB),
        "memory.swap.max": "0",
        "memory.high": "max",
        "memory.low": str(100 * PAGE),
        "memory.oom.group": "1",
        "pids.max": "100",
    }
    assert file(host_dir, env, "cpu.max") == "50000 100000"
    assert file(host_dir, env, "cpu.weight") == "300"
    assert file(host_dir, env, "cpuset.cpus") == "0"
    assert witness.shell(env, "nproc") == "1\n"


def test_a_running_one_takes_them_at_once_and_until_it_stops(host_dir: Path, limited: Limited) -> None:
    env = limited(memory="64M")
    said = commandline.run(host_dir, "set", env.veid, "--memory", "128M", "--numproc", "50", "--cpus", "1")
    assert said.returncode == 0, said
    assert file(host_dir, env, "memory.max") == str(128 * MIB)
    assert file(host_dir, env, "pids.max") == "50"
    assert file(host_dir, env, "cpu.max") == "100000 100000"
    assert conf(host_dir, env) == {"memory": "64M"}
    assert json.loads(commandline.output(host_dir, "status", env.veid, "--json"))["limits"] == {
        "memory": "128M",
        "numproc": "50",
        "cpus": "1",
    }
    assert eaten(env, "process", 100)[1] == "EAGAIN"
    env.restart(timeout=0)
    assert file(host_dir, env, "memory.max") == str(64 * MIB)
    assert file(host_dir, env, "pids.max") == "max"


def test_saved_they_stay_and_an_empty_one_goes(host_dir: Path, limited: Limited) -> None:
    env = limited(memory="64M", processes="50")
    commandline.output(host_dir, "set", env.veid, "--physpages", "0:32768", "--processes", "", "--save")
    assert conf(host_dir, env) == {"physpages": "0:32768"}
    assert file(host_dir, env, "memory.max") == str(128 * MIB)
    assert file(host_dir, env, "pids.max") == "max"
    env.restart(timeout=0)
    assert file(host_dir, env, "memory.max") == str(128 * MIB)


def test_what_only_a_start_gives_waits_for_it(host_dir: Path, limited: Limited) -> None:
    env = limited()
    refused = commandline.run(host_dir, "set", env.veid, "--numsiginfo", "20")
    assert refused.returncode == 20
    assert "numsiginfo" in refused.stderr and "--save" in refused.stderr
    done = commandline.run(host_dir, "set", env.veid, "--numsiginfo", "20", "--memory", "64M", "--save")
    assert "numsiginfo waits for a restart" in done.stderr
    assert "memory is set" in done.stderr
    assert eaten(env, "queued", 100) == (100, "0")
    env.restart(timeout=0)
    assert eaten(env, "queued", 100) == (20, "EAGAIN")


def test_a_limit_that_the_kernel_does_not_take_changes_nothing(host_dir: Path, limited: Limited) -> None:
    env = limited(memory="64M")
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"memory": "900G"}, "memory"),
        ({"cpus": "4096"}, "cpus"),
        ({"cpuset": "0-4000"}, "cpuset"),
        ({"numproc": "2000000000"}, "numproc"),
        ({"memory": "1X"}, "memory"),
        ({"numfile": "100"}, "numfile"),
        ({"memory": "128M", "physpages": "5"}, "physpages"),
    )
    for limits, named in refused:
        with pytest.raises(errors.InvalidValue, match=named):
            env.set(**limits)
        assert file(host_dir, env, "memory.max") == str(64 * MIB)
        assert file(host_dir, env, "cpuset.cpus") == ""
    done = commandline.run(host_dir, "set", env.veid, "--memory", "900G")
    assert done.returncode == 20, done


def test_counters_survive_restarts_and_begin_again(host_dir: Path, limited: Limited) -> None:
    env = limited(numproc="40")
    total = 0
    for _ in range(3):
        assert eaten(env, "process", 100)[1] == "EAGAIN"
        local = commandline.cgroup(host_dir, env.veid) / "pids.events.local"
        total += counter(host_dir, env, "pids.events.local" if local.exists() else "pids.events", "max")
        env.restart(timeout=0)  # nobody has looked since
    bean = env.beancounters()["numproc"]
    assert total >= 3
    assert (bean.failcnt, bean.maxheld) == (total, 40)
    commandline.output(host_dir, "ubc", env.veid, "--reset")
    bean = env.beancounters()["numproc"]
    assert bean.failcnt == 0
    assert bean.maxheld is not None and bean.maxheld < 40
    assert eaten(env, "process", 100)[1] == "EAGAIN"
    assert (env.beancounters()["numproc"].failcnt or 0) > 0
    env.stop(fast=True)
    stopped = env.beancounters()["numproc"]
    assert stopped.held is None
    assert (stopped.failcnt or 0) > 0


def test_a_refused_start_leaves_nothing(host_dir: Path, make: Make) -> None:
    """A limit that this very kernel refuses: no CPU of the host's is in that cpuset any more."""
    env = make(cpuset="0")
    path = host_dir / f"conf/{env.veid}.toml"
    path.write_text(path.read_text().replace('cpuset = "0"', 'cpuset = "0-4000"'))
    done = commandline.run(host_dir, "start", env.veid)
    assert done.returncode in (20, 47), done
    assert "cpuset" in done.stderr
    assert not commandline.cgroup(host_dir, env.veid).exists()
