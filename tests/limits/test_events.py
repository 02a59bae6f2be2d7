"""What happens at barriers and limits: told once, by the kernel's own word, acted upon once, and who was killed."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.limits.test_walls import MIB, PAGE, Limited, counter, eaten, refused_forks
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make

OVER = str(128 * MIB // PAGE)  # pages, of a VE that may have half of that
BARRIER = f"{8 * MIB // PAGE}:{256 * MIB // PAGE}"
ABOVE = str(10 * MIB // PAGE)


def told(host_dir: Path, *words: str) -> list[dict[str, Any]]:
    """What `ve events` tells, and only it."""
    lines = commandline.output(host_dir, "events", "--json", *words).splitlines()
    return [json.loads(line) for line in lines]


def shapes(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(each["resource"], each["kind"]) for each in events]


@contextmanager
def following(host_dir: Path, *words: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The events that `ve events --follow` tells, as they come."""
    with commandline.start(host_dir, "events", "--follow", "--json", *words, stdout=subprocess.PIPE) as process:
        assert process.stdout
        yield (json.loads(line) for line in process.stdout)
        process.terminate()
        assert process.wait() == 143


@contextmanager
def held(env: "ve.Environment", resource: str, count: str) -> Iterator[None]:
    """A process in the VE has so many of a resource meanwhile."""
    with env.popen(["/eat", resource, count, "hold"], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin and process.stdout and process.stdout.readline()
        yield
        process.stdin.close()
        process.wait()


# ---- who was killed -------------------------------------------------------------------------------------------------


def kernel_log(name: str) -> list[int]:
    """The pids of those of this name that the kernel has killed, as dmesg(1) shows it."""
    text = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    return [int(pid) for pid in re.findall(rf"out of memory: Killed process ([0-9]+) \({name}\)", text)]


def test_an_oom_kill_says_who(host_dir: Path, limited: Limited) -> None:
    env, neighbour = limited(memory="64M", swap="0"), limited()
    before = kernel_log("eat")
    assert env.run(["/eat", "memory", OVER], capture_output=True).returncode == -signal.SIGKILL
    (pid,) = kernel_log("eat")[len(before) :]
    kills = [each for each in told(host_dir) if each["kind"] == "oom"]
    assert [(each["veid"], each["resource"], each["value"]) for each in kills] == [(env.veid, "oomguarpages", pid)]
    assert f"killed eat (pid {pid})" in kills[0]["text"]
    assert told(host_dir) == []
    assert witness.shell(neighbour, "echo it goes on") == "it goes on\n"


@pytest.mark.long
def test_an_oom_kill_that_the_log_has_lost_is_unknown(host_dir: Path, limited: Limited) -> None:
    env = limited(memory="64M", swap="0")
    env.run(["/eat", "memory", OVER], capture_output=True)
    line = ["unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /dev/kmsg && exec "$@"', "sh"]
    done = subprocess.run(
        [*line, *commandline.words(host_dir, "events", env.veid)], capture_output=True, text=True, check=True
    )
    assert f"{env.veid} oomguarpages oom: killed a process: unknown\n" in done.stdout, done


def test_the_result_of_a_command_says_what_stopped_it(limited: Limited) -> None:
    env = limited(memory="64M", swap="0")
    assert env.run(["/eat", "memory", OVER], capture_output=True).stopped_by == "physpages"
    in_a_shell = env.run(["sh", "-c", f"/eat memory {OVER}; exit $?"], capture_output=True)
    assert (in_a_shell.returncode, in_a_shell.stopped_by) == (137, "physpages")
    with pytest.raises(subprocess.CalledProcessError, match=r"physpages was used up") as failed:
        env.run(["/eat", "memory", OVER], capture_output=True, check=True)
    assert isinstance(failed.value, ve.CalledProcessError) and failed.value.stopped_by == "physpages"
    with env.popen(["/eat", "memory", OVER], stdout=-1) as process:
        process.wait()
        assert process.stopped_by == "physpages"
    # Not by the kernel: by somebody, by us, or not at all.
    assert env.run(["sh", "-c", "kill -9 $$"]).stopped_by == "SIGKILL"
    with env.popen(["sleep", "1000"]) as process:
        process.kill()
        process.wait()
        assert process.stopped_by == "SIGKILL"
    assert env.run(["false"]).stopped_by is None


def test_the_result_of_a_command_says_that_it_was_refused_a_process(limited: Limited) -> None:
    env = limited(numproc="20")
    crowd = ["sh", "-c", "for i in $(seq 40); do sleep 1000 >/dev/null 2>&1 & done; wait"]
    with pytest.raises(ve.CalledProcessError, match=r"Its VE's numproc was used up") as failed:
        env.run(crowd, capture_output=True, text=True, check=True)
    assert failed.value.stopped_by == "numproc" and "fork" in failed.value.stderr


@pytest.mark.long
def test_the_command_line_says_what_stopped_a_command(host_dir: Path, limited: Limited, eat: Path) -> None:
    env = limited(memory="64M", swap="0")
    done = commandline.run(host_dir, "exec", env.veid, "/eat", "memory", OVER)
    said = "killed by the kernel: physpages 64M was used up\n"
    assert (done.returncode, done.stderr) == (137, f"ve: {env.veid}: {said}")
    done = commandline.run(host_dir, "--quiet", "exec", env.veid, "/eat", "memory", OVER)
    assert (done.returncode, done.stderr) == (137, "")
    words = ("--memory", "64M", "--swap", "0", "--mount", f"{eat}:/eat:ro", "--", "/eat", "memory", OVER)
    done = commandline.run(host_dir, "run", "busybox", *words)
    assert (done.returncode, done.stderr) == (137, f"ve: busybox: {said}")


# ---- told once ------------------------------------------------------------------------------------------------------


def test_failures_are_told_with_their_number_and_once(host_dir: Path, limited: Limited) -> None:
    env = limited(numproc="40")
    assert eaten(env, "process", 100)[1] == "EAGAIN"
    assert [(each["resource"], each["kind"], each["value"]) for each in told(host_dir)] == [
        ("numproc", "failure", refused_forks(host_dir, env))
    ]
    env.beancounters()  # another look takes nothing away
    assert told(host_dir) == []
    assert eaten(env, "process", 100)[1] == "EAGAIN"
    env.beancounters()
    assert shapes(told(host_dir, str(env.veid))) == [("numproc", "failure")]


@pytest.mark.long
def test_what_happened_in_lives_that_nobody_looked_at(host_dir: Path, limited: Limited) -> None:
    env = limited(numproc="40", physpages=BARRIER)
    failures = 0
    for _ in range(2):
        assert eaten(env, "process", 100)[1] == "EAGAIN"
        assert eaten(env, "memory", ABOVE) == (int(ABOVE), "0")
        failures += refused_forks(host_dir, env)
        env.restart(timeout=0)
    env.stop(fast=True)
    events = {(each["resource"], each["kind"]): each for each in told(host_dir)}
    assert events.keys() == {("numproc", "failure"), ("physpages", "barrier")}
    assert events["numproc", "failure"]["value"] == failures
    assert "went over its barrier 8M 2 times" in events["physpages", "barrier"]["text"]
    assert told(host_dir) == []


@pytest.mark.long
def test_the_barrier_that_was_asked_for_is_the_one_that_is_told(host_dir: Path, limited: Limited) -> None:
    """privvmpages and physpages share one file of the kernel's."""
    env = limited(privvmpages=BARRIER)
    assert counter(host_dir, env, "memory.high") == 8 * MIB
    with held(env, "memory", ABOVE):
        assert shapes(told(host_dir)) == [("privvmpages", "barrier")]


@pytest.mark.long
def test_a_barrier_that_no_file_counts(host_dir: Path, limited: Limited) -> None:
    env = limited(numproc="20:60")
    with following(host_dir) as events:
        with held(env, "process", "30"):
            event = next(events)
        assert (event["veid"], event["resource"], event["kind"]) == (env.veid, "numproc", "barrier")
        assert event["value"] > 30
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"])


@pytest.mark.long
def test_those_that_start_later_are_followed_by_the_same_descriptor(host_dir: Path, make: Make, eat: Path) -> None:
    envs = [make(numproc="40") for _ in range(2)]
    with following(host_dir) as events:
        for env in envs:
            env.start()
            env.copy_in(str(eat), "/eat", archive=True)
            assert eaten(env, "process", 100)[1] == "EAGAIN"
            event = next(events)
            assert (event["veid"], event["kind"]) == (env.veid, "failure")
        for env in envs:
            env.stop(fast=True)
            env.start()
            assert eaten(env, "process", 100)[1] == "EAGAIN"
            assert next(events)["veid"] == env.veid


# ---- actions --------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(host_dir: Path) -> Iterator[tuple[Path, Path]]:
    """A program that writes what it is given to a FIFO, and that FIFO."""
    path, fifo = host_dir / "program", host_dir / "fifo"
    os.mkfifo(fifo)
    path.write_text(f"#!/bin/sh\necho $VEID $RESOURCE $HELD $BARRIER $LIMIT $FAILCNT >{fifo}\n")
    path.chmod(0o755)
    yield path, fifo
    path.unlink()
    fifo.unlink()


def test_a_crossing_runs_a_program_once(host_dir: Path, limited: Limited, program: tuple[Path, Path]) -> None:
    path, fifo = program
    env = limited(physpages=BARRIER, on_barrier={"physpages": f"run:{path}"})
    told(host_dir, "--act")  # from here on
    with following(host_dir, "--act", "--quiet") as events:
        for _ in range(2):
            with held(env, "memory", ABOVE):
                veid, resource, amount, barrier, limit, failcnt = fifo.read_text().split()
                assert (veid, resource, failcnt) == (str(env.veid), "physpages", "0")
                assert (int(barrier), int(limit)) == (8 * MIB // PAGE, 256 * MIB // PAGE)
                assert 0.9 * int(barrier) < int(amount) <= counter(host_dir, env, "memory.peak") / PAGE + 1
                crossed, acted = next(events), next(events)
                assert (crossed["kind"], acted["kind"]) == ("barrier", "action")
                assert acted["text"] == f"{path} is run"
                eaten(env, "memory", str(4 * MIB // PAGE))  # it goes on, and the kernel counts on
            told(host_dir)  # a look that sees it below
    assert env.beancounters()["physpages"].barrier == 8 * MIB // PAGE


def test_a_fork_bomb_freezes_its_ve(host_dir: Path, limited: Limited) -> None:
    env, neighbour = limited(numproc="40", on_failure={"numproc": "freeze"}), limited()
    told(host_dir, "--act")
    with following(host_dir, "--act") as events, env.popen(["/eat", "process", "100", "hold"], stdin=-1) as bomb:
        assert [next(events)["kind"] for _ in range(2)] == ["failure", "action"]
        assert (commandline.cgroup(host_dir, env.veid) / "cgroup.freeze").read_text() == "1\n"
        assert witness.shell(neighbour, "echo it goes on") == "it goes on\n"
        env.thaw()
        assert bomb.stdin
        bomb.stdin.close()
        bomb.wait()


@pytest.mark.long
def test_a_barrier_raises_itself_until_the_ve_stops(host_dir: Path, limited: Limited) -> None:
    env = limited(physpages=BARRIER, on_barrier={"memory": "raise:50%"})
    conf = (host_dir / f"conf/{env.veid}.toml").read_text()
    told(host_dir, "--act")
    with following(host_dir, "--act") as events, held(env, "memory", ABOVE):
        assert next(events)["kind"] == "barrier"
        assert next(events)["text"] == f"raised from {BARRIER} to {12 * MIB // PAGE}:{384 * MIB // PAGE}"
        assert counter(host_dir, env, "memory.high") == 12 * MIB
        assert counter(host_dir, env, "memory.max") == 384 * MIB
    assert (host_dir / f"conf/{env.veid}.toml").read_text() == conf
    env.restart(timeout=0)
    assert counter(host_dir, env, "memory.high") == 8 * MIB


@pytest.mark.long
def test_what_was_before_somebody_acted_is_told_only(host_dir: Path, limited: Limited) -> None:
    env = limited(numproc="40", on_failure={"numproc": "freeze"})
    assert eaten(env, "process", 100)[1] == "EAGAIN"
    assert shapes(told(host_dir, "--act")) == [("numproc", "failure")]
    assert (commandline.cgroup(host_dir, env.veid) / "cgroup.freeze").read_text() == "0\n"
    assert eaten(env, "process", 100)[1] == "EAGAIN"
    assert shapes(told(host_dir)) == [("numproc", "failure")]  # who only reads is no reason not to act
    assert shapes(told(host_dir, "--act")) == [("numproc", "failure"), ("numproc", "action")]
    assert (commandline.cgroup(host_dir, env.veid) / "cgroup.freeze").read_text() == "1\n"
    env.thaw()


@pytest.mark.long
def test_an_action_that_fails_is_told_and_the_rest_goes_on(host_dir: Path, limited: Limited) -> None:
    broken = limited(numproc="40", on_failure={"numproc": "run:/nonexistent"})
    failing = limited(numproc="40", on_failure={"numproc": "run:/bin/false"})
    told(host_dir, "--act")
    for env in (broken, failing):
        assert eaten(env, "process", 100)[1] == "EAGAIN"
    said = [(each["veid"], each["text"]) for each in told(host_dir, "--act") if each["kind"] == "action"]
    assert said == [
        (broken.veid, f"cannot run /nonexistent of {broken.veid}: No such file or directory"),
        (failing.veid, "/bin/false is run"),
        (failing.veid, "/bin/false ended with 1"),
    ]


@pytest.mark.long
def test_quiet_has_what_an_action_was_chosen_for(host_dir: Path, limited: Limited) -> None:
    chosen, other = limited(numproc="40", on_failure={"numproc": "log"}), limited(numproc="40")
    for env in (chosen, other):
        assert eaten(env, "process", 100)[1] == "EAGAIN"
    assert [(each["veid"], each["kind"]) for each in told(host_dir, "--quiet")] == [(chosen.veid, "failure")]


@pytest.mark.long
def test_two_do_not_act_at_once(host_dir: Path, limited: Limited) -> None:
    limited()
    with following(host_dir, "--act") as events:
        env = limited(numproc="40")
        assert eaten(env, "process", 100)[1] == "EAGAIN"
        assert next(events)["veid"] == env.veid  # so it runs
        refused = commandline.run(host_dir, "events", "--act")
        assert refused.returncode == 9
        assert "cannot act on events: process" in refused.stderr
        assert shapes(told(host_dir, str(env.veid))) == [("numproc", "failure")]
