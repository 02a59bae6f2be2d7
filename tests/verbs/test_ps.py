"""ve ps: the processes of all VEs, as they and as the host number them."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.verbs import commandline, witness
from tests.verbs.conftest import Make


def ps(host_dir: Path, *words: commandline.Word) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(commandline.output(host_dir, "ps", "--json", *words))
    return found


def test_each_by_both_its_numbers(host_dir: Path, make: Make) -> None:
    red, blue = make(name="red"), make(name="blue")
    for env in (red, blue):
        witness.tell_when_booted(host_dir, env.veid)
        env.start()
        witness.wait_until_booted(host_dir, env.veid)
    script = "echo ready; exec sleep 9999"
    with red.popen(["sh", "-c", script], user="nobody", stdout=subprocess.PIPE, cwd="/") as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        shown = ps(host_dir)
        for env in (red, blue):
            real = commandline.processes(host_dir, env.veid)
            mine = {each["pid"]: each["host_pid"] for each in shown if each["veid"] == env.veid}
            assert mine == {inside: pid for inside, pid in real.items() if inside in mine}
            assert 1 in mine
        [sleep] = [each for each in shown if each["command"] == "sleep 9999"]
        status = witness.status(sleep["host_pid"])
        assert status["NSpid"].split()[1:] == [str(sleep["pid"])]
        base = witness.base(witness.init(host_dir, red.veid))
        assert (sleep["veid"], sleep["uid"]) == (red.veid, 65534)
        assert status["Uid"].split()[0] == str(base + 65534)
        assert {each["veid"] for each in ps(host_dir, "blue")} == {blue.veid}
        process.kill()


@pytest.mark.any_kernel
def test_none_of_one_that_is_stopped(host_dir: Path, make: Make) -> None:
    assert ps(host_dir, make().veid) == []


@pytest.mark.any_kernel
def test_a_command_line_that_would_move_the_cursor(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    with env.popen(["sh", "-c", "echo ready; read x", "\x1b[2J\nroot"], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        shown = commandline.output(host_dir, "ps")
        assert "\x1b" not in shown and "\\x1b[2J\\nroot" in shown
        process.kill()
