"""ve set: at once where that can be, for good with --save, and never accepted and then ignored."""

import contextlib
import json
import os
import signal
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import errors


def conf(host_dir: Path, veid: int) -> dict[str, Any]:
    return tomllib.loads((host_dir / f"conf/{veid}.toml").read_text())


def hostname(host_dir: Path, veid: int) -> str:
    return witness.enter(witness.init(host_dir, veid), "hostname", namespaces="--uts").strip()


def test_the_hostname_of_a_running_one_changes_at_once(host_dir: Path, make: Make) -> None:
    env = make(hostname="red")
    env.start()
    before = os.uname().nodename
    assert commandline.run(host_dir, "set", env.veid, "--hostname", "blue").returncode == 0
    assert (hostname(host_dir, env.veid), conf(host_dir, env.veid)["hostname"]) == ("blue", "red")
    assert os.uname().nodename == before
    env.stop(fast=True)
    env.start()
    assert hostname(host_dir, env.veid) == "red"


def test_nobody_else_gets_its_hostname(host_dir: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its init ends once it has been looked at, and its number is another process's by then."""
    env = make(hostname="red")
    env.start()
    script = "hostname other; echo; exec sleep 1000"
    with (
        commandline.Process(["unshare", "--uts", "sh", "-c", script], stdout=subprocess.PIPE) as other,
        commandline.watched(witness.init(host_dir, env.veid)) as pidfd,
    ):
        assert other.stdout and other.stdout.readline()
        with env.init() as init:
            assert init
            facts = init[0]._replace(pid=other.pid)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert commandline.has_ended(pidfd)
        monkeypatch.setattr(env, "init", lambda: contextlib.nullcontext((facts, pidfd)))
        with pytest.raises(errors.NotRunning, match=f"cannot enter {env.veid}: it is not running"):
            env.set(hostname="blue")
        assert witness.enter(other.pid, "hostname", namespaces="--uts") == "other\n"
        assert env.describe()["hostname"] is None
        other.kill()


def test_a_preset_is_set_on_a_running_one_without_what_waits(host_dir: Path, make: Make) -> None:
    """numsiginfo, which nobody has typed, is given to a process when it begins."""
    env = make(account_only=True)
    env.start()
    done = commandline.run(host_dir, "set", env.veid, "--config", "light")
    assert done.returncode == 0, done
    assert f"{env.veid}: preset is set\n" in done.stderr
    assert f"{env.veid}: numsiginfo is left out: it needs --save, and a restart\n" in done.stderr
    now = json.loads(commandline.output(host_dir, "status", env.veid, "--json"))["limits"]
    assert now["numpty"] == "4" and "numsiginfo" not in now
    typed = commandline.run(host_dir, "set", env.veid, "--config", "light", "--numsiginfo", "70")
    assert (typed.returncode, "numsiginfo" in typed.stderr) == (20, True)
    saved = commandline.run(host_dir, "set", env.veid, "--config", "light", "--save")
    assert f"{env.veid}: numsiginfo waits for a restart\n" in saved.stderr


@pytest.mark.any_kernel
def test_with_save_it_is_kept(host_dir: Path, make: Make) -> None:
    env = make(hostname="red")
    env.start()
    assert commandline.run(host_dir, "set", env.veid, "--hostname", "blue", "--save").returncode == 0
    assert (hostname(host_dir, env.veid), conf(host_dir, env.veid)["hostname"]) == ("blue", "blue")
    env.stop(fast=True)
    env.start()
    assert hostname(host_dir, env.veid) == "blue"


@pytest.mark.any_kernel
def test_what_waits_for_the_next_start_is_said(host_dir: Path, make: Make) -> None:
    env = make(env={"COLOUR": "red"})
    env.start()
    done = commandline.run(host_dir, "set", env.veid, "--env", "SHAPE=round", "--description", "x", "--save")
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert [line for line in lines if "restart" in line] == [line for line in lines if ": env " in line] != []
    pid = witness.init(host_dir, env.veid)
    assert b"COLOUR=red" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    env.restart(timeout=0)
    environ = Path(f"/proc/{witness.init(host_dir, env.veid)}/environ").read_bytes().split(b"\0")
    assert b"SHAPE=round" in environ and b"COLOUR=red" not in environ
    assert (conf(host_dir, env.veid)["env"], conf(host_dir, env.veid)["description"]) == ({"SHAPE": "round"}, "x")


@pytest.mark.any_kernel
def test_what_it_has_already_does_not_wait(host_dir: Path, make: Make) -> None:
    env = make(env={"A": "b"})
    env.start()
    assert env.set(env={"A": "b"}, description="x", save=True) == []
    assert env.set(env={"A": "c"}, mounts=["/srv:/srv"], save=True) == ["env", "mounts"]


@pytest.mark.any_kernel
def test_one_option_leaves_the_others(host_dir: Path, make: Make) -> None:
    env = make(name="mars", hostname="red", description="d", onboot=True, env={"A": "b"}, mounts=["/srv:/srv:ro"])
    before = conf(host_dir, env.veid)
    env.set(description="other", save=True)
    assert conf(host_dir, env.veid) == before | {"description": "other"}
    env.set(onboot=False, mounts=[], env={}, save=True)
    assert conf(host_dir, env.veid) == {
        "version": 1, "template": "busybox:1", "name": "mars", "hostname": "red", "description": "other",
    }  # fmt: skip


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("option", "name"),
    {
        "--description=x": "description",
        "--onboot": "onboot",
        "--env=A=b": "env",
        "--mount=/a:/b": "mounts",
        "--device=/dev/fuse": "devices",
    }.items(),
)
def test_what_cannot_change_at_once_needs_save(host_dir: Path, make: Make, option: str, name: str) -> None:
    env = make()
    with witness.nothing_changes(host_dir):
        sentence = f"cannot set {name} of {env.veid} without --save: only its conf file holds that"
        assert witness.refused(host_dir, 20, sentence, "set", env.veid, option) == "add --save"


@pytest.mark.any_kernel
def test_a_hostname_of_a_stopped_one_needs_save(host_dir: Path, make: Make) -> None:
    env = make(hostname="red")
    with witness.nothing_changes(host_dir), pytest.raises(errors.InvalidValue):
        env.set(hostname="blue")


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--hostname=-x", "cannot use hostname '-x': see hostname(7) for what one may be"),
        ("--env=novalue", "cannot use environment variable 'novalue': it is not NAME=VALUE"),
        ("--mount=a:b", "cannot use mount 'a:b': it is not SRC:DST[:ro] with absolute paths"),
        ("--device=/etc/passwd", "cannot use device '/etc/passwd': it is not a path below /dev"),
    ],
)
def test_an_option_that_cannot_be(host_dir: Path, make: Make, option: str, sentence: str) -> None:
    env = make(hostname="red")
    env.start()
    with witness.nothing_changes(host_dir, but=f"private/{env.veid}/upper.*"):
        witness.refused(host_dir, 20, sentence, "set", env.veid, "--save", option)
    assert hostname(host_dir, env.veid) == "red"


@pytest.mark.any_kernel
def test_no_option(host_dir: Path, make: Make) -> None:
    env = make()
    with witness.nothing_changes(host_dir):
        witness.refused(host_dir, 20, f"cannot set {env.veid}: no option says what", "set", env.veid)
        witness.refused(host_dir, 43, "cannot find VE 4711: there is none", "set", 4711, "--hostname=x")
