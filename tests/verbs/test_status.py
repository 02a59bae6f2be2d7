"""ve status: all that is known of one VE."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve.facts import dump_facts, parse_facts


def status(host_dir: Path, key: int | str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(commandline.output(host_dir, "status", "--json", key))
    return found


def test_of_one_that_runs(host_dir: Path, make: Make, state_dir: Path) -> None:
    given = {"env": {"A": "b"}, "mounts": [f"{state_dir}:/srv:ro"], "description": "the red one", "onboot": True}
    env = make(name="mars", hostname="red", **given)
    env.start()
    pid = witness.init(host_dir, env.veid)
    shown = status(host_dir, "mars")
    base = witness.base(pid)
    assert {key: shown[key] for key in ("veid", "name", "status", "pid", "template", "hostname", "ephemeral")} == {
        "veid": env.veid,
        "name": "mars",
        "status": "running",
        "pid": pid,
        "template": "busybox:1",
        "hostname": "red",
        "ephemeral": False,
    }
    assert {key: shown[key] for key in given} == given
    assert shown["ids"] == f"{base}-{base + 65535}"
    assert os.path.samefile(shown["cgroup"], commandline.cgroup(host_dir, env.veid))
    assert os.path.samefile(shown["private"], host_dir / f"private/{env.veid}")
    assert os.path.samefile(shown["log"], f"/proc/{pid}/fd/1")
    assert "ends the VE" in shown["reboot"]


@pytest.mark.any_kernel
def test_what_runs_and_what_waits_for_the_next_start(host_dir: Path, make: Make) -> None:
    """As init has it in its environment, and the kernel in its namespaces; not as the conf file says by now."""
    env = make(name="mars", hostname="red", env={"COLOUR": "red"}, mounts=["/srv:/srv:ro"])
    env.start()
    assert status(host_dir, env.veid)["pending"] == {}
    env.set(hostname="green")
    env.set(env={"SHAPE": "round"}, mounts=[], description="other", save=True)
    shown = status(host_dir, env.veid)
    assert (shown["hostname"], shown["env"], shown["mounts"]) == ("green", {"COLOUR": "red"}, ["/srv:/srv:ro"])
    assert shown["hostname"] == witness.shell(env, "hostname").strip()
    assert shown["pending"] == {"hostname": "red", "env": {"SHAPE": "round"}, "mounts": []}
    lines = commandline.output(host_dir, "status", env.veid).splitlines()
    assert "pending: hostname=red,env=SHAPE=round,mounts=-" in lines
    assert commandline.output(host_dir, "list", "-H", "-o", "hostname") == "green\n"
    witness.shell(env, "hostname own")  # which its root may
    assert status(host_dir, env.veid)["hostname"] == "own"
    env.restart(timeout=0)
    shown = status(host_dir, env.veid)
    assert (shown["hostname"], shown["env"], shown["mounts"], shown["pending"]) == ("red", {"SHAPE": "round"}, [], {})
    assert witness.shell(env, "hostname; echo $SHAPE") == "red\nround\n"


@pytest.mark.any_kernel
def test_of_one_that_is_stopped_nothing_waits(host_dir: Path, make: Make) -> None:
    env = make(hostname="red", env={"COLOUR": "red"})
    env.set(hostname="blue", env={}, save=True)
    shown = status(host_dir, env.veid)
    assert (shown["hostname"], shown["env"], shown["pending"]) == ("blue", {}, {})


@pytest.mark.any_kernel
def test_of_one_that_an_older_ve_started(host_dir: Path, make: Make) -> None:
    """Its facts do not say what it was started with."""
    env = make(hostname="red")
    env.start()
    path = host_dir / f"run/{env.veid}"
    facts = parse_facts(path.read_bytes())
    assert facts
    older = {key: word for key, word in facts.extra.items() if key != "asked"}
    path.write_bytes(dump_facts(facts._replace(extra=older)))
    shown = status(host_dir, env.veid)
    assert (shown["hostname"], shown["pending"], shown["env"]) == ("red", {}, {})
    assert env.set(env={"A": "b"}, save=True) == ["env"]
    env.set(hostname="blue")
    assert status(host_dir, env.veid)["pending"] == {"hostname": "red"}


@pytest.mark.any_kernel
def test_of_one_that_is_stopped_or_mounted(host_dir: Path, make: Make) -> None:
    env = make()
    shown = status(host_dir, env.veid)
    assert (shown["status"], shown["pid"], shown["cgroup"], shown["root"]) == ("stopped", None, None, None)
    env.mount()
    shown = status(host_dir, env.veid)
    assert (shown["status"], shown["root"]) == ("mounted", f"{host_dir}/root/{env.veid}")
    env.umount()


@pytest.mark.any_kernel
def test_for_people(host_dir: Path, make: Make) -> None:
    env = make(description="two\u202ewords")
    lines = commandline.output(host_dir, "status", env.veid).splitlines()
    assert f"veid: {env.veid}" in lines and "status: stopped" in lines
    assert "description: two\\u202ewords" in lines  # nothing that could rearrange the line


@pytest.mark.any_kernel
def test_of_an_ephemeral_one(host: "ve.Host", host_dir: Path) -> None:
    with host.ephemeral("busybox", hostname="red") as env:
        shown = status(host_dir, env.veid)
        pid = witness.init(host_dir, env.veid)
        assert (shown["status"], shown["pid"], shown["ephemeral"], shown["private"]) == ("running", pid, True, None)
        assert f"{env.veid}  running" in commandline.output(host_dir, "list", "-H", "-o", "veid,status").splitlines()
        codes = [commandline.run(host_dir, verb, env.veid).returncode for verb in ("start", "diff", "destroy")]
        assert codes == [5, 5, 32]
        assert os.path.samefile(shown["log"], f"/proc/{pid}/fd/1")
    assert commandline.run(host_dir, "status", env.veid).returncode == 43
    assert witness.left_of(host_dir, env.veid) == []
