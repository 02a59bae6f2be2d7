"""ve top, on a terminal and without one."""

import subprocess
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness

SPIN = ["sh", "-c", "echo spinning; while :; do :; done"]


def test_once_without_a_terminal(host_dir: Path, env: "ve.Environment") -> None:
    with env.popen(SPIN, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        header, *lines = commandline.output(host_dir, "top", env.veid).splitlines()
        process.kill()
    assert header.split()[:2] == ["VE", "CPU"]
    [words] = [line.split() for line in lines]
    assert words[0] == str(env.veid)
    assert float(words[1]) > 1  # an idle one has less than a tenth of that
    assert int(words[3]) >= 3


@pytest.mark.any_kernel
def test_a_screen_that_one_key_ends(host_dir: Path, env: "ve.Environment") -> None:
    with commandline.on_terminal(host_dir, "top", size=(24, 120)) as terminal:
        terminal.expect(str(env.veid))
        terminal.send("p")
        terminal.send("q")
        assert terminal.end() == 0


@pytest.mark.any_kernel
def test_it_shows_what_starts_meanwhile(host_dir: Path, env: "ve.Environment") -> None:
    with commandline.on_terminal(host_dir, "top", size=(24, 120)) as terminal:
        terminal.expect(str(env.veid))
        with ve.Host(host_dir).ephemeral("busybox") as other:
            terminal.expect(str(other.veid))
        terminal.send("q")
        assert terminal.end() == 0
    assert witness.runs(host_dir, env.veid)
