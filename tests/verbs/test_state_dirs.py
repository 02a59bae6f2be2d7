"""What is not as it was: a state dir that was moved or copied, numbers that are others' by now, a clock that jumps."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests import conftest
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve.facts import dump_facts, parse_facts

pytestmark = pytest.mark.any_kernel  # what is ours in it is the same on every kernel


@pytest.fixture
def original(host: "ve.Host", state_dir: Path) -> Iterator["ve.Host"]:
    """A state dir with a template, and with 101, called mars, which runs and has changed something."""
    original = ve.Host(state_dir)
    original.templates.add("busybox", host.templates.get("busybox").path)
    env = original.create(101, template="busybox", name="mars")
    env.start()
    witness.shell(env, "echo original >/who")
    yield original
    ended(original)


def ended(host: "ve.Host") -> None:
    for env in host.list():
        conftest._end(host, env.veid)


@pytest.fixture
def copy(original: "ve.Host", _test_dir: Path) -> Iterator["ve.Host"]:
    """Of all of that, made while it runs."""
    path = _test_dir / "copy"
    subprocess.run(["cp", "-a", original.state.path, path], check=True)
    about = path.stat()
    conftest._tags.add(f"ve-{about.st_dev:x}-{about.st_ino:x}")
    yield ve.Host(path)
    ended(ve.Host(path))
    conftest._forget_state_dir(path)


def states(host: "ve.Host") -> str:
    return commandline.output(Path(host.state.path), "list", "-H", "-o", "veid,status,name")


def pid_of(host: "ve.Host", veid: int) -> int:
    return witness.init(Path(host.state.path), veid)


def test_nothing_done_to_a_copy_reaches_the_original(original: "ve.Host", copy: "ve.Host") -> None:
    assert (states(original), states(copy)) == ("101  running  mars\n", "101  stopped  mars\n")
    runs = pid_of(original, 101)
    with commandline.watched(runs) as init:
        assert witness.refused(Path(copy.state.path), 31, "cannot stop 101 (mars): it is not running", "stop", "mars")
        commandline.output(Path(copy.state.path), "doctor", "--fix")
        commandline.output(Path(copy.state.path), "destroy", "mars")
        assert not commandline.has_ended(init, 0)
    assert (states(original), states(copy)) == ("101  running  mars\n", "")
    assert witness.shell(original.get("mars"), "cat /who") == "original\n"
    assert original.doctor() == []


def test_a_copy_runs_beside_its_original(original: "ve.Host", copy: "ve.Host") -> None:
    """Overlayfs knows its layers by their inodes, and refuses those of a copy until somebody says that they are."""
    with pytest.raises(ve.Error, match="it belongs to another template or was copied without one") as refused:
        copy.get(101).start()
    assert "setfattr -x trusted.overlay.origin" in refused.value.hint
    private = Path(copy.state.private(101))
    subprocess.run(["setfattr", "-x", "trusted.overlay.origin", private / "upper"], check=True)
    shutil.rmtree(private / "work")
    env, first = copy.get(101), original.get(101)
    env.start()
    witness.shell(env, "echo copy >/who")
    bases = {witness.base(pid_of(each, 101)) for each in (original, copy)}
    assert len(bases) == 2
    assert (states(original), states(copy)) == ("101  running  mars\n", "101  running  mars\n")
    first.stop(fast=True)
    assert witness.shell(env, "cat /who") == "copy\n"
    first.start()
    env.stop(fast=True)
    env.destroy()
    assert witness.shell(first, "cat /who") == "original\n"
    assert witness.base(pid_of(original, 101)) in bases
    assert (original.doctor(), copy.doctor()) == ([], [])


def test_one_that_is_moved_while_its_ve_runs(original: "ve.Host", _test_dir: Path) -> None:
    old = Path(original.state.path)
    new = _test_dir / "moved"
    runs = pid_of(original, 101)
    old.rename(new)
    try:
        moved = ve.Host(new)
        env = moved.get("mars")
        assert (states(moved), env.pid) == ("101  running  mars\n", runs)
        assert witness.shell(env, "cat /who; echo moved >/who") == "original\n"
        assert json.loads(commandline.output(new, "ubc", "101", "--json"))
        assert moved.doctor() == []
        sentence = f"cannot use state dir {old}: there is no such directory"
        assert witness.refused(old, 20, sentence, "list")
        for _ in range(2):
            env.stop(fast=True)
            env.start()
        assert witness.shell(env, "cat /who") == "moved\n"
        env.stop(fast=True)
        env.destroy()
        assert witness.left_of(new, 101) == []
    finally:
        new.rename(old)


# ---- numbers that are others' by now ---------------------------------------------------------------------------------


def killed(host_dir: Path, env: "ve.Environment") -> None:
    with commandline.watched(witness.init(host_dir, env.veid)) as init:
        os.kill(witness.init(host_dir, env.veid), 9)
        assert commandline.has_ended(init)
    witness.wait_empty(host_dir, env.veid)


def counted(env: "ve.Environment") -> dict[str, int]:
    """What it has held at most, of what this kernel counts."""
    return {name: each.maxheld for name, each in env.beancounters().items() if each.maxheld}


def test_the_pid_of_a_dead_init_is_another_s(host_dir: Path, make: Make) -> None:
    """The facts of a VE that was killed name it, with a start time that it has not got."""
    env = make()
    env.start()
    killed(host_dir, env)
    with subprocess.Popen(["sleep", "1000"]) as bystander, commandline.watched(bystander.pid) as pidfd:
        path = host_dir / f"run/{env.veid}"
        facts = parse_facts(path.read_bytes())
        assert facts
        path.write_bytes(dump_facts(facts._replace(pid=bystander.pid)))
        assert env.pid is None and env.status == "stopped"
        for verb in ("stop", "exec"):
            words = ["exec", env.veid, "true"] if verb == "exec" else [verb, "--fast", env.veid]
            assert "not running" in commandline.run(host_dir, *words).stderr
        env.start()
        assert env.pid not in (None, bystander.pid)
        env.stop(fast=True)
        assert not commandline.has_ended(pidfd, 0)
        bystander.kill()


def test_the_pid_of_a_dead_caller_is_another_s(host_dir: Path, make: Make) -> None:
    """What its command left is ended by the next command all the same."""
    env = make()
    env.start()
    group = commandline.cgroup(host_dir, env.veid) / f"exec/exec.{os.getpid()}.1.0"
    group.mkdir(parents=True)
    with subprocess.Popen(["sleep", "100000"]) as left, commandline.watched(left.pid) as pidfd:
        (group / "cgroup.procs").write_text(str(left.pid))
        witness.shell(env, "true")
        assert commandline.has_ended(pidfd)
    assert not group.exists()


def test_a_veid_is_used_again(host: "ve.Host", host_dir: Path, veid: int) -> None:
    """Nothing of the VE that had it is the new one's; who still holds the old one's object has the new one."""
    script = host_dir / f"conf/{veid}.start"
    first = host.create(veid, template="busybox", name="mars")
    upper = host_dir / f"private/{veid}/upper/sbin"
    upper.mkdir(mode=0o755)
    (upper / "init").write_text("#!/bin/sh\necho first; exec /bin/busybox init\n")
    (upper / "init").chmod(0o755)
    first.start()
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    witness.shell(first, "echo first >/who")
    assert counted(first)
    first.stop(fast=True)
    assert counted(first)
    first.destroy()
    second = host.create(veid, template="busybox")
    assert counted(second) == {}
    second.start()
    script.with_suffix(".start.destroyed").unlink()
    assert witness.says_no(second, "cat /who") and second.name == first.name == ""
    assert first.pid == second.pid == witness.init(host_dir, veid)
    assert "first" not in commandline.output(host_dir, "logs", veid)
    assert commandline.run(host_dir, "status", "mars").returncode != 0
    second.stop(fast=True)


# ---- a clock that jumps ----------------------------------------------------------------------------------------------

YEARS = 10 * 365 * 86400


@pytest.mark.parametrize("jump", [-YEARS, YEARS], ids=["forth", "back"])
def test_a_clock_that_jumps(host: "ve.Host", host_dir: Path, make: Make, jump: int) -> None:
    """All that was written before it has a time that is far off, as after a reboot without a battery."""
    env = make(name="mars")
    env.start()
    held = counted(env)
    assert held
    for path in (host_dir / f"ubc/{env.veid}", host_dir / f"conf/{env.veid}.toml", host_dir / f"run/{env.veid}"):
        at = path.stat().st_mtime + jump
        os.utime(path, (at, at))
    for words in ("list", "status mars", "ubc mars", "events mars", "ps", "exec mars true", "doctor"):
        done = commandline.run(host_dir, *words.split())
        assert done.returncode == 0 and "Traceback" not in done.stderr, (words, done)
    meanwhile = counted(env)
    assert all(meanwhile[name] >= most for name, most in held.items())
    killed(host_dir, env)
    with contextlib.suppress(ve.Error):
        env.stop()
    os.utime(host_dir / f"ubc/{env.veid}", (0, 0))  # where a machine without a clock begins
    env.start()
    after = counted(env)
    assert all(after[name] >= most for name, most in held.items())
    env.stop(fast=True)
