"""ve doctor: what does not agree is said, and mended without losing a VE's data."""

import fcntl
import json
import os
import re
import signal
from pathlib import Path

import pytest

import ve
from tests.hostnet import HostNet
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make

WELL = "all VEs are as they should be\n"


def troubles(host_dir: Path, *options: str, code: int = 1) -> list[dict[str, object]]:
    done = commandline.run(host_dir, "doctor", "--json", *options)
    assert done.returncode == code, done
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def texts(host_dir: Path) -> dict[object, str]:
    return {each["veid"]: str(each["text"]) for each in troubles(host_dir)}


def mend(host_dir: Path) -> None:
    """All is mended, and nothing is left to be."""
    assert all(each["mended"] and each["cure"] == "" for each in troubles(host_dir, "--fix", code=0))
    done = commandline.run(host_dir, "doctor")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", WELL)


def kill(host_dir: Path, env: "ve.Environment") -> None:
    """As the kernel does when memory is gone."""
    os.kill(witness.init(host_dir, env.veid), signal.SIGKILL)
    witness.wait_empty(host_dir, env.veid)


@pytest.mark.any_kernel
def test_nothing_is_wrong_with_what_runs_and_what_does_not(host_dir: Path, host: "ve.Host", make: Make) -> None:
    runs, stopped = make(name="mars"), make()
    runs.start()
    runs.beancounters()
    stopped.start()
    stopped.stop(fast=True)
    with host.ephemeral("busybox", command=("sleep", "1000")), witness.nothing_changes(host_dir, but=".*/log"):
        assert troubles(host_dir, code=0) == []
        assert troubles(host_dir, "--fix", code=0) == []
        assert witness.runs(host_dir, runs.veid)


@pytest.mark.any_kernel
def test_one_that_ended_by_itself(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    kill(host_dir, env)
    assert texts(host_dir) == {env.veid: "it does not run, and left of it is: facts, a cgroup"}
    mend(host_dir)
    assert not commandline.cgroup(host_dir, env.veid).exists()
    assert not (host_dir / f"run/{env.veid}").exists()
    env.start()


@pytest.mark.any_kernel
def test_one_that_was_to_be_thrown_away(host_dir: Path) -> None:
    script = """
import os, signal, sys, ve
with ve.Host(sys.argv[1]).ephemeral("busybox", command=("sleep", "1000")) as env:
    print(env.veid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with witness.python(script, host_dir) as process:
        veid = int(process.communicate()[0])
    witness.wait_empty(host_dir, veid)
    [[who, text]] = texts(host_dir).items()
    assert (who, "was killed" in text) == (veid, True)
    mend(host_dir)
    assert witness.left_of(host_dir, veid) == []


@pytest.mark.any_kernel
def test_a_create_that_was_killed(host_dir: Path, host: "ve.Host") -> None:
    script = """
import os, signal, sys, ve
from ve.state import State
State.write_conf = lambda *args, **more: os.kill(os.getpid(), signal.SIGKILL)
ve.Host(sys.argv[1]).create(77, template="busybox", name="half")
"""
    with witness.python(script, host_dir) as process:
        process.communicate()
    assert process.returncode == -9
    [[veid, text]] = texts(host_dir).items()
    left = "a private area, a mount point, host ids, a name"
    assert (veid, text) == (77, f"there is no such VE, and left of it: {left}")
    mend(host_dir)
    assert witness.left_of(host_dir, 77) == []


@pytest.mark.any_kernel
def test_data_is_never_removed(host_dir: Path, make: Make) -> None:
    """Somebody has lost its conf file."""
    env = make()
    (host_dir / f"private/{env.veid}/upper/precious").write_text("kept")
    conf = host_dir / f"conf/{env.veid}.toml"
    kept = conf.read_bytes()
    conf.unlink()
    [found] = troubles(host_dir, "--fix")
    assert (found["veid"], found["mended"]) == (env.veid, False)
    assert str(conf) in str(found["cure"])
    assert (host_dir / f"private/{env.veid}/upper/precious").read_text() == "kept"
    conf.write_bytes(kept)
    assert troubles(host_dir, code=0) == []


@pytest.mark.any_kernel
def test_one_that_runs_without_a_conf_file_is_not_ended(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    conf = host_dir / f"conf/{env.veid}.toml"
    kept = conf.read_bytes()
    conf.unlink()
    [found] = troubles(host_dir, "--fix")
    assert str(found["text"]).startswith("it runs, and has no conf file")
    assert witness.runs(host_dir, env.veid)
    conf.write_bytes(kept)


@pytest.mark.any_kernel
def test_what_cannot_be_read(host_dir: Path, make: Make) -> None:
    one, other, third = make(), make(), make()
    conf, ledger = host_dir / f"conf/{one.veid}.toml", host_dir / f"ubc/{other.veid}"
    kept = conf.read_bytes()
    conf.write_text("[")
    ledger.parent.mkdir(exist_ok=True)
    ledger.write_text("{")
    (host_dir / f"private/{third.veid}").rename(host_dir / "elsewhere")
    found = {each["veid"]: each for each in troubles(host_dir, "--fix")}
    assert set(found) == {one.veid, other.veid, third.veid}
    assert str(conf) in str(found[one.veid]["text"]) and str(ledger) in str(found[other.veid]["text"])
    assert found[other.veid]["cure"] == f"ve ubc {other.veid} --reset begins a new one"
    assert str(found[third.veid]["text"]).endswith("is gone")
    assert not any(each["mended"] for each in found.values())
    conf.write_bytes(kept)
    (host_dir / "elsewhere").rename(host_dir / f"private/{third.veid}")


@pytest.mark.any_kernel
def test_names_that_lead_elsewhere(host_dir: Path, make: Make) -> None:
    one, other = make(name="mars"), make(name="venus")
    (host_dir / "name/mars").unlink()
    (host_dir / "name/pluto").symlink_to(str(other.veid))
    expected = {one.veid: "its name mars does not lead to it"}
    expected[other.veid] = "the name pluto leads to it, and its own is venus"
    assert texts(host_dir) == expected
    mend(host_dir)
    assert os.readlink(host_dir / "name/mars") == str(one.veid)
    assert sorted(path.name for path in (host_dir / "name").iterdir()) == ["mars", "venus"]


@pytest.mark.any_kernel
def test_what_is_no_name_keeps_nobody_from_looking(state_dir: Path) -> None:
    (state_dir / "name/directory").mkdir(parents=True)
    (state_dir / "name/file").touch()
    assert troubles(state_dir, code=0) == troubles(state_dir, "--fix", code=0) == []


@pytest.mark.any_kernel
def test_a_file_that_is_half_written(host_dir: Path, make: Make) -> None:
    env = make()
    gone, there = (host_dir / f"conf/.{env.veid}.toml.{number}" for number in (2**22 + 1, os.getpid()))
    for path in (gone, there):
        path.write_text("half")
    [found] = troubles(host_dir)
    assert found["text"] == f"{gone} was half written by who was killed"
    mend(host_dir)
    assert there.exists() and not gone.exists()
    there.unlink()


@pytest.mark.any_kernel
def test_of_one_that_is_worked_on_nothing_is_said(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    kill(host_dir, env)
    with (host_dir / f"run/lock/{env.veid}").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert troubles(host_dir, "--fix", code=0) == []
    mend(host_dir)


@pytest.mark.any_kernel
def test_sentences_for_people(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    kill(host_dir, env)
    done = commandline.run(host_dir, "doctor")
    line = f"trouble  {env.veid}: it does not run, and left of it is: facts, a cgroup"
    assert (done.returncode, done.stdout) == (1, f"{line}\n         cure: ve doctor --fix\n")
    assert done.stderr == "1 left to be mended\n"
    done = commandline.run(host_dir, "doctor", "--fix")
    assert (done.returncode, done.stdout) == (0, f"{line.replace('trouble ', 'mended  ')}\n")


@pytest.mark.any_kernel
def test_what_leads_to_the_addresses_of_a_killed_start(
    hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int
) -> None:
    host.create(veid, template="busybox", publish=["8080:80"], addresses=["10.9.0.77"])
    words = [*hostnet.words, *commandline.words(host_dir, "start", veid)]
    with commandline.Process(words, env={**os.environ, "VE_FAULT": "facts:kill"}) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert "10.9.0.77 . 80" in hostnet.run("nft", "list", "map", "inet", "ve", "published4").stdout
    done = hostnet.ve(host_dir, "doctor")
    assert done.returncode == 1
    assert f"{veid}: it does not run, and left of it is: " in done.stdout
    assert "what leads to its addresses" in done.stdout
    assert hostnet.ve(host_dir, "doctor", "--fix").returncode == 0
    assert "10.9.0.77" not in hostnet.run("nft", "list", "map", "inet", "ve", "published4").stdout
    assert hostnet.ve(host_dir, "doctor").returncode == 0


@pytest.mark.any_kernel
@pytest.mark.parametrize("family", ["inet", "bridge"])
@pytest.mark.parametrize("harm", ["flush ruleset", "flush table"])
def test_rules_that_somebody_has_flushed(
    bridged: HostNet, host: "ve.Host", host_dir: Path, veid: int, family: str, harm: str
) -> None:
    if family == "bridge":
        host.create(veid, template="busybox", network="bridge:br0", addresses=["192.0.2.50/24"])
    else:
        host.create(veid, template="busybox", addresses=["10.9.0.77"])
    bridged.output(host_dir, "start", veid)
    try:
        assert bridged.ve(host_dir, "doctor").returncode == 0
        rules = bridged.run("nft", "-s", "list", "table", family, "ve").stdout
        bridged.run("nft", *harm.split(), *([family, "ve"] if harm.endswith("table") else []))
        done = bridged.ve(host_dir, "doctor", "--json")
        [found] = json.loads(done.stdout)
        text = f"nothing keeps VEs to their own addresses: the table {family} ve is gone or changed"
        assert (done.returncode, found["veid"], found["text"]) == (1, None, text)
        assert bridged.ve(host_dir, "doctor", "--fix").returncode == 0
        assert without_counts(bridged.run("nft", "-s", "list", "table", family, "ve").stdout) == without_counts(rules)
        assert bridged.ve(host_dir, "doctor").returncode == 0
    finally:
        bridged.ve(host_dir, "stop", "--fast", veid)
    bridged.run("nft", "flush", "ruleset")
    assert bridged.ve(host_dir, "doctor").returncode == 0


def without_counts(rules: str) -> str:
    """Who has sent something by now is an element, and another order of them is no other rule."""
    return re.sub(r"\n\t\telements = \{[^}]*\}", "", rules)
