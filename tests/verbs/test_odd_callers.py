"""Whoever calls may be an odd process: no standard descriptors, no SIGCHLD, no descriptors left."""

import itertools
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness

SOME_CLOSED = [closed for count in (1, 2, 3) for closed in itertools.combinations((0, 1, 2), count)]

TAKE_ALL = """
import os

def all_that_are_left():
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        return taken
"""


def close(descriptors: tuple[int, ...]) -> Callable[[], None]:
    def do() -> None:
        for fd in descriptors:
            os.close(fd)

    return do


def ignore_ended_children() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


@pytest.mark.any_kernel
@pytest.mark.parametrize("closed", SOME_CLOSED, ids=str)
def test_closed_standard_descriptors(
    host: ve.Host, host_dir: Path, env: ve.Environment, tmp_path: Path, closed: tuple[int, ...]
) -> None:
    (tmp_path / "given").write_text("given\n")
    script = "ls /proc/self/fd | wc -l > /seen; cat; echo said; exit 4"
    for words, code in (
        (("cp", tmp_path / "given", f"{env.veid}:/given"), 0),
        (("cp", f"{env.veid}:/given", tmp_path / "back"), 0),
        (("exec", env.veid, "sh", "-c", script), 4),
        (("run", "busybox", "sh", "-c", script), 4),
        (("logs", env.veid), 0),
        (("restart", "--timeout", 0, env.veid), 0),
        (("template", "add", "closed", host_dir / "template/busybox/1"), 0),
        (("template", "remove", "closed"), 0),
    ):
        with open(tmp_path / "said", "wb+") as said:
            line = commandline.words(host_dir, *words)
            done = subprocess.run(
                line, stdin=subprocess.DEVNULL, stdout=said, stderr=said, preexec_fn=close(closed), check=False
            )
            said.seek(0)
            assert done.returncode == code, (words, said.read())
    assert (tmp_path / "back").read_text() == "given\n"
    assert witness.shell(env, "cat /seen") == "4\n"  # 0, 1, 2 and the directory


@pytest.mark.any_kernel
def test_a_library_program_without_standard_descriptors(host: ve.Host, host_dir: Path, veid: int) -> None:
    script = """
import os, sys, ve
os.closerange(0, 3)
host = ve.Host(sys.argv[1])
env = host.create(int(sys.argv[2]), template="busybox")
env.start()
env.copy_in("/proc/self/status", "/there")
with host.ephemeral("busybox") as other:
    code = other.run(["sh", "-c", "exit 4"]).returncode
env.mount()
env.umount()
os._exit(env.run(["test", "-s", "/there"]).returncode * 16 + code)
"""
    program = witness.python(script, host_dir, veid, stdin=None, stdout=None, stderr=None)
    assert program.wait(commandline.PATIENCE) == 4


@pytest.mark.any_kernel
@pytest.mark.parametrize("closed", [each for each in SOME_CLOSED if len(each) > 1], ids=str)
def test_what_it_removes_and_keeps(host: ve.Host, host_dir: Path, veid: int, closed: tuple[int, ...]) -> None:
    """The directories that it works in may have the number of a standard descriptor."""
    script = f"""
import os, sys, ve
for fd in {closed}:
    os.close(fd)
host = ve.Host(sys.argv[1])
env = host.create(int(sys.argv[2]), template="busybox")
env.start()
env.path("/srv/one").write_text("one")
env.checkpoint("running")
env.stop(fast=True)
env.path("/srv/one").write_text("two")
env.checkpoint("stopped")
env.path("/srv/one").write_text("three")
env.clone().destroy()
env.restore("stopped")
two = env.path("/srv/one").read_text()
env.start()
env.reset()
reset = not env.path("/srv/one").exists()
env.stop(fast=True)
env.destroy()
with host.ephemeral("busybox", on_disk=True):
    pass
os._exit(4 if (two, reset) == ("two", True) else 5)
"""
    program = witness.python(script, host_dir, veid, stdin=None, stdout=None, stderr=None)
    assert program.wait(commandline.PATIENCE) == 4
    assert witness.left_of(host_dir, veid) == []


@pytest.mark.any_kernel
def test_a_caller_that_ignores_the_end_of_children(host_dir: Path, env: ve.Environment) -> None:
    for words in (("exec", env.veid), ("run", "busybox")):
        done = commandline.run(host_dir, *words, "sh", "-c", "echo said; exit 5", preexec_fn=ignore_ended_children)
        assert (done.returncode, done.stdout) == (5, "said\n"), done.stderr
    commandline.output(host_dir, "restart", "--timeout", 0, env.veid, preexec_fn=ignore_ended_children)


@pytest.mark.any_kernel
def test_a_library_program_that_ignores_the_end_of_children(host_dir: Path, env: ve.Environment) -> None:
    script = """
import signal, sys, ve
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
env = ve.Host(sys.argv[1]).get(int(sys.argv[2]))
env.restart(timeout=0)
print(env.run(["echo", "said"], capture_output=True, text=True).stdout, end="")
"""
    with witness.python(script, host_dir, env.veid) as program:
        assert program.communicate()[0] == "said\n"


@pytest.mark.any_kernel
def test_who_has_no_descriptors_left_does_not_take_a_running_ve_for_a_stopped_one(
    host_dir: Path, env: ve.Environment
) -> None:
    script = """
import errno, os, sys, ve
env = ve.Host(sys.argv[1]).get(int(sys.argv[2]))
env.status, env.cgroup.pids()  # all is imported
held = all_that_are_left()
for left in range(12):
    for question in (lambda: env.pid, lambda: env.cgroup.pids(), lambda: env.status):
        try:
            assert question() not in (None, [], "stopped")
        except OSError as error:
            assert error.errno == errno.EMFILE
    os.close(held.pop())
print(env.status)
"""
    with witness.python(TAKE_ALL + script, host_dir, env.veid, before=("prlimit", "--nofile=64")) as program:
        assert program.communicate() == ("running\n", "")


@pytest.mark.any_kernel
def test_a_command_that_there_are_no_descriptors_for_leaves_nothing(host_dir: Path, env: ve.Environment) -> None:
    script = """
import asyncio, gc, os, sys, ve
from subprocess import DEVNULL, PIPE, STDOUT
env = ve.Host(sys.argv[1]).get(int(sys.argv[2]))
loop = asyncio.new_event_loop()
acts = (
    lambda: env.run(["cat"], input=b"said", capture_output=True).stdout,
    lambda: env.run(["cat"], stdin=DEVNULL, stdout=PIPE, stderr=STDOUT).stdout or b"said",
    lambda: loop.run_until_complete(env.arun(["cat"], input=b"said", capture_output=True)).stdout,
)
assert [act() for act in acts] == [b"said"] * 3  # all is imported, and the launcher runs
before = os.listdir("/proc/self/fd")
done = [0] * 3
for number, act in enumerate(acts):
    for left in range(28):
        held = all_that_are_left()
        for fd in held[:left]:
            os.close(fd)
        try:
            done[number] += act() == b"said"
        except Exception as error:
            assert "Too many open files" in str(error), repr(error)
        for fd in held[left:]:
            os.close(fd)
        gc.collect()
        assert os.listdir("/proc/self/fd") == before, left
        assert [name for name in os.listdir(env.cgroup.path + "/exec") if name.startswith("exec.")] == [], left
        with open(f"/proc/self/task/{os.getpid()}/children") as children:
            assert len(children.read().split()) == 1, left  # the launcher
assert all(done) and max(done) < 28
"""
    with witness.python(TAKE_ALL + script, host_dir, env.veid, before=("prlimit", "--nofile=64")) as program:
        assert program.communicate() == ("", "")


@pytest.mark.any_kernel
def test_a_working_directory_that_is_gone(host_dir: Path, tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    lost.mkdir()

    def lose() -> None:
        os.chdir(lost)
        lost.rmdir()

    for words in (("template", "build", "busybox", "--name", "lost"), ("run", "lost", "true")):
        commandline.output(host_dir, *words, preexec_fn=lose)
        lost.mkdir()
    commandline.output(host_dir, "template", "remove", "lost", preexec_fn=lose)


@pytest.mark.any_kernel
@pytest.mark.parametrize("apart", [("--pid", "--mount-proc"), ("--time", "--boottime", "1000")], ids=" ".join)
def test_who_cannot_know_whether_it_runs_does_not_start_it_again(
    host_dir: Path, env: ve.Environment, apart: tuple[str, ...]
) -> None:
    """In such a namespace its init has another pid or start time; start would have killed it."""
    pid = witness.init(host_dir, env.veid)
    why = f"cannot look at {env.veid}: it runs, but was started in another PID or time namespace than ours"
    for verb in ("start", "destroy", "list"):
        words = (verb, env.veid) if verb != "list" else (verb,)
        assert witness.refused(host_dir, 5, why, *words, before=("unshare", "--fork", *apart)) == "run ve there"
    assert witness.init(host_dir, env.veid) == pid
