"""ve top, on a terminal and without one."""

import json
import subprocess
from pathlib import Path

import pytest

import ve
from tests.hostnet import HostNet
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import _top

SPIN = ["sh", "-c", "echo spinning; while :; do :; done"]


def test_once_without_a_terminal(host_dir: Path, env: "ve.Environment") -> None:
    with env.popen(SPIN, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        header, *lines = commandline.output(host_dir, "top", env.veid).splitlines()
        process.kill()
    assert header.split()[:2] == ["VE", "CPU%"]
    [words] = [line.split() for line in lines]
    assert words[0] == str(env.veid)
    assert float(words[1]) > 1  # an idle one has less than a tenth of that
    assert int(words[3]) >= 3


def test_what_it_sends_and_receives(hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> None:
    env = host.create(veid, template="busybox", addresses=["10.9.0.5"])
    hostnet.output(host_dir, "start", veid)
    talk = ["sh", "-c", "echo; while :; do ping -c1 -W5 -s 1000 169.254.1.1 >/dev/null; done"]
    with env.popen(talk, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        header, line = hostnet.output(host_dir, "top", veid).splitlines()
        process.kill()
    hostnet.output(host_dir, "stop", "--fast", veid)
    assert line.split()[header.split().index("NET")].endswith(("K", "M"))


@pytest.mark.any_kernel
def test_a_screen_that_one_key_ends(host_dir: Path, env: "ve.Environment") -> None:
    with commandline.on_terminal(host_dir, "top", size=(24, 120)) as terminal:
        terminal.expect(str(env.veid))
        terminal.send("p")
        terminal.send("q")
        assert terminal.end() == 0


def test_a_usual_terminal_has_room_for_all_of_it(host_dir: Path, env: "ve.Environment") -> None:
    with commandline.on_terminal(host_dir, "top", size=(24, 80)) as terminal:
        shown = terminal.expect(r"(?s)\A(?=.*m IO WAIT )(?=.*I IO WAIT).*")[0]
        keys = ["q quit", *(f"{key} {name}" for key, name, _, _ in _top.COLUMNS)]
        assert [key for key in keys if key not in shown] == []
        terminal.send("q")
        assert terminal.end() == 0


def test_to_watch_is_to_look(host_dir: Path, env: "ve.Environment") -> None:
    """What no cgroup counts has the most that somebody saw."""
    ledger = host_dir / f"ubc/{env.veid}"
    with commandline.on_terminal(host_dir, "top", size=(24, 80)) as terminal:
        terminal.expect(str(env.veid))
        terminal.send("q")
        assert terminal.end() == 0
    assert json.loads(ledger.read_text())["maxheld"]["numfile"] >= 3
    ledger.unlink()
    commandline.output(host_dir, "top")
    assert json.loads(ledger.read_text())["maxheld"]["numfile"] >= 3


def test_one_that_does_not_run(host_dir: Path, make: Make) -> None:
    env = make()
    hint = witness.refused(host_dir, 31, f"cannot watch {env.veid}: it is not running", "top", env.veid)
    assert hint == f"ve start {env.veid}"


@pytest.mark.any_kernel
def test_it_shows_what_starts_meanwhile(host_dir: Path, env: "ve.Environment") -> None:
    with commandline.on_terminal(host_dir, "top", size=(24, 120)) as terminal:
        terminal.expect(str(env.veid))
        with ve.Host(host_dir).ephemeral("busybox") as other:
            terminal.expect(str(other.veid))
        terminal.send("q")
        assert terminal.end() == 0
    assert witness.runs(host_dir, env.veid)
