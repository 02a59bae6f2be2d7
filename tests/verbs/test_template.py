"""ve template, as far as VEs are concerned: one in use stays, and a VE stays on the version that it was made from."""

import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import errors

pytestmark = pytest.mark.any_kernel

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def test_one_in_use_is_not_removed(host: "ve.Host", host_dir: Path, spare: str, make: Make) -> None:
    first, second = make("spare"), make("spare:1")
    second.start()
    tree = witness.tree(Path(host.templates.get(spare).path))
    for ref in ("spare", "spare:1"):
        done = commandline.run(host_dir, "template", "remove", ref)
        assert done.returncode == 51
        assert done.stderr.startswith(f"ve: cannot remove template spare:1: VEs {first.veid}, {second.veid} use it\n")
    assert witness.tree(Path(host.templates.get(spare).path)) == tree
    second.stop(fast=True)
    for env in (first, second):
        env.destroy()
    assert commandline.run(host_dir, "template", "remove", "spare").returncode == 0
    assert not (host_dir / "template/spare").exists()


def test_one_of_a_ve_whose_conf_file_is_broken_is_in_use(host_dir: Path, spare: str, make: Make) -> None:
    env = make("spare")
    conf = host_dir / f"conf/{env.veid}.toml"
    conf.write_text(conf.read_text() + "hostname = [\n")
    assert commandline.run(host_dir, "template", "remove", spare).returncode == 51


@pytest.mark.parametrize("rubbish", [None, b"\xff"])
def test_one_is_in_use_by_a_ve_that_does_not_even_say_of_which_it_is(
    host_dir: Path, spare: str, make: Make, rubbish: bytes | None
) -> None:
    conf = host_dir / f"conf/{make('spare').veid}.toml"
    conf.unlink()
    if rubbish is None:
        conf.symlink_to("nowhere")
    else:
        conf.write_bytes(rubbish)
    assert commandline.run(host_dir, "template", "remove", spare).returncode == 51


def test_a_ve_stays_on_its_version(host: "ve.Host", host_dir: Path, spare: str, make: Make, tmp_path: Path) -> None:
    old = make("spare")
    shutil.copytree(host.templates.get(spare).path, tmp_path / "tree", symlinks=True)
    (tmp_path / "tree/etc/version").write_text("two\n")
    assert host.templates.add("spare", str(tmp_path / "tree")).ref == "spare:2"
    new = make("spare")
    for env in (old, new):
        env.start()
    assert witness.shell(old, "ls /etc/version 2>/dev/null; true") == ""
    assert witness.shell(new, "cat /etc/version") == "two\n"
    old.restart(timeout=0)
    assert witness.shell(old, "ls /etc/version 2>/dev/null; true") == ""
    assert commandline.output(host_dir, "list", "-H", "-o", "template").split() == ["spare:1", "spare:2"]


@pytest.mark.parametrize("what", ["tree", "metadata", "all"])
def test_one_that_has_vanished(host_dir: Path, spare: str, make: Make, what: str) -> None:
    """Somebody removed it by hand: it is said, and all that needs no template works."""
    running, stopped = make(spare, hostname="red"), make(spare)
    running.start()
    place = host_dir / "template/spare"
    if what in ("tree", "all"):
        place.joinpath("1").rename(host_dir / "kept")
    if what in ("metadata", "all"):
        (place / "1.toml").rename(host_dir / "kept.toml")
    with witness.nothing_changes(host_dir, but=f"private/{running.veid}/upper.*"):
        for verb in ("start", "mount"):
            done = commandline.run(host_dir, verb, stopped.veid)
            assert done.returncode == 91 and "template spare:1" in done.stderr, done
    assert commandline.output(host_dir, "list", "-H", "-o", "veid,status,template").splitlines() == [
        f"{running.veid}  running  spare:1",
        f"{stopped.veid}  stopped  spare:1",
    ]
    assert commandline.run(host_dir, "status", stopped.veid).returncode == 0
    assert witness.shell(running, "hostname") == "red\n"
    assert commandline.run(host_dir, "stop", "--fast", running.veid).returncode == 0
    assert commandline.run(host_dir, "destroy", running.veid, stopped.veid).returncode == 0
    for veid in (running.veid, stopped.veid):
        assert witness.left_of(host_dir, veid) == []
    shutil.rmtree(host_dir / "kept", ignore_errors=True)
    (host_dir / "kept.toml").unlink(missing_ok=True)


def test_the_first_one_makes_the_state_dir(state_dir: Path) -> None:
    commandline.output(state_dir / "not/there/yet", "template", "build", "busybox")
    assert state_dir.joinpath("not/there/yet/template/busybox/1").is_dir()


@pytest.fixture
def building(state_dir: Path, tmp_path: Path) -> Iterator["commandline.Process"]:
    """A command that builds a template, at a point where it has made something and waits for a program."""
    os.mkfifo(tmp_path / "waits")
    (tmp_path / "cp").write_text(f"#!/bin/sh\necho >{tmp_path}/waits; exec sleep 100000\n")
    (tmp_path / "cp").chmod(0o755)
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = commandline.words(state_dir, "template", "build", "busybox")
    with commandline.Process(words, env=path, stderr=subprocess.PIPE, preexec_fn=_no_signal_is_ignored) as process:
        (tmp_path / "waits").read_text()
        [made] = os.listdir(state_dir / "template")
        assert made.startswith(".new-")
        yield process


def _no_signal_is_ignored() -> None:
    """As they are for what nohup or a shell's & started."""
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", ENDING)
def test_who_is_asked_to_end_clears_up_first(
    state_dir: Path, building: "commandline.Process", number: signal.Signals
) -> None:
    building.send_signal(number)
    assert (building.communicate()[1], building.returncode) == (b"", 128 + number)
    assert os.listdir(state_dir / "template") == []


@pytest.mark.parametrize("words", [("list",), ("remove", "nosuch"), ("build", "busybox", "--suite", "x")])
def test_what_a_killed_build_left_goes_with_the_next_command(
    state_dir: Path, building: "commandline.Process", words: tuple[str, ...]
) -> None:
    [left] = (state_dir / "template").iterdir()
    commandline.kill(building)
    lock = os.open(left, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # its programs die with it, but a moment later
    os.close(lock)
    commandline.run(state_dir, "template", *words)
    assert os.listdir(state_dir / "template") == []


def test_what_cannot_be_built_has_a_reason_and_a_cure(state_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mmdebstrap").write_text("#!/bin/sh\necho 'E: no Release file' >&2; exit 25\n")
    (tmp_path / "mmdebstrap").chmod(0o755)
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = commandline.run(state_dir, "template", "build", "debian", env=path)
    assert (done.returncode, done.stdout) == (90, "")
    first, second = done.stderr.splitlines()
    assert first == "ve: cannot build template debian: no Release file" and second.startswith("hint: ")
    assert os.listdir(state_dir / "template") == []


def test_an_ephemeral_ve_is_a_user_too(host: "ve.Host", spare: str) -> None:
    with host.ephemeral("spare") as env, pytest.raises(errors.InUse, match=str(env.veid)):
        host.templates.remove("spare")
