"""exec owns its tree: whatever ends it ends all that it started and nothing else in the VE."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness

pytestmark = pytest.mark.any_kernel  # what is ours in it is the same on every kernel

PIPE = subprocess.PIPE
# A child in a session of its own, a daemon in another, and the command itself: each says its pid, and is deaf.
FAMILY = """
trap '' TERM HUP INT QUIT
setsid sh -c 'echo $$; exec sleep 100000' &
sh -c 'setsid sleep 100000 >/dev/null 2>&1 & echo $!'
echo $$
wait
"""
CALLER = """
import os, signal, subprocess, sys, ve
env = ve.Host(sys.argv[1]).get(int(sys.argv[2]))
argv = ["sh", "-c", sys.argv[3]]
other = env.popen(["sleep", "100000"])
print(other.inside_pid, flush=True)
try:
    {how}
except (subprocess.TimeoutExpired, ZeroDivisionError, KeyboardInterrupt) as error:
    print(type(error).__name__, flush=True)
    sys.stdin.read()
    other.kill()
    other.wait()
"""
WITH = "with env.popen(argv): sys.stdin.readline(); "
# How the caller's command ends, the signal that the caller is sent for that, and what it says afterwards, if it can.
ENDS = {
    "a timeout": ("env.run(argv, timeout=6)", 0, "TimeoutExpired"),
    "an exception": (WITH + "1 / 0", 0, "ZeroDivisionError"),
    "Ctrl-C": ("env.run(argv)", signal.SIGINT, "KeyboardInterrupt"),
    "SIGKILL": ("env.run(argv)", signal.SIGKILL, ""),
    "SIGTERM": ("env.run(argv)", signal.SIGTERM, ""),
    "its end in the middle of it": (WITH + "os._exit(0)", 0, ""),
}


@pytest.fixture(scope="module")
def box(host: "ve.Host") -> Iterator["ve.Environment"]:
    env = host.create(7003, template="busybox")
    env.start()
    yield env
    env.stop(fast=True)
    env.destroy()


class Scene:
    """Pidfds of processes in the VE, closed in the end."""

    def __init__(self, env: "ve.Environment", stack: contextlib.ExitStack) -> None:
        self.env, self.stack, self.dir = env, stack, Path(env.state.path)

    def watch(self, *inside: int) -> list[int]:
        known = commandline.processes(self.dir, self.env.veid)
        return [self.stack.enter_context(commandline.watched(known[pid])) for pid in inside]

    def begin(self, script: str) -> "subprocess.Popen[str]":
        caller = witness.python(script, self.dir, self.env.veid, FAMILY, start_new_session=True)
        self.stack.callback(caller.communicate)
        self.stack.callback(caller.kill)
        return caller


@pytest.fixture
def scene(box: "ve.Environment") -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        yield Scene(box, stack)
    box.run(["true"], check=True)  # the next command, which removes the cgroups of callers that were killed
    assert list(commandline.cgroup(Path(box.state.path), box.veid).glob("*/exec.[0-9]*")) == []


def read_pids(caller: "subprocess.Popen[str]", count: int) -> list[int]:
    assert caller.stdout
    return [int(caller.stdout.readline()) for _ in range(count)]


def background(env: "ve.Environment") -> int:
    """What a command that has ended left running."""
    return int(witness.shell(env, "sleep 100000 >/dev/null 2>&1 & echo $!"))


def finish(pidfd: int) -> None:
    """All of it: the next command is to find its cgroup empty."""
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert commandline.has_ended(pidfd)


@pytest.mark.parametrize("how", ENDS)
def test_what_ends_it_ends_exactly_what_it_started(scene: Scene, how: str) -> None:
    begin, number, says = ENDS[how]
    left = background(scene.env)
    with scene.env.popen(["cat"], stdin=PIPE) as bystander:
        others = scene.watch(1, left, bystander.inside_pid)
        caller = scene.begin(CALLER.replace("{how}", begin))
        other, *tree = scene.watch(*read_pids(caller, 4))
        assert caller.stdin and caller.stdout
        if number:
            os.killpg(caller.pid, number)  # as a terminal does
        elif begin.startswith(WITH):
            caller.stdin.write("\n")
            caller.stdin.flush()
        if says:
            assert caller.stdout.readline() == f"{says}\n"
        assert all(commandline.has_ended(each, 0 if says else commandline.PATIENCE) for each in tree)
        assert commandline.has_ended(other, 0 if says else commandline.PATIENCE) == (not says)
        assert not any(commandline.has_ended(each, 0) for each in others)
        bystander.communicate()
    finish(others[1])


def test_its_middle_is_in_a_session_of_its_own(scene: Scene) -> None:
    """So that no signal to the caller's group ends who is to end the tree."""
    with scene.env.popen(["cat"], stdin=PIPE) as process:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)
        process.communicate()


def test_root_of_the_ve_cannot_move_out_of_it(scene: Scene) -> None:
    with scene.env.popen(["sh", "-c", "read word; mkdir /sys/fs/cgroup/out; exec cat"], stdin=PIPE) as process:
        [pid] = [commandline.processes(scene.dir, 7003)[process.inside_pid]]
        before = Path(f"/proc/{pid}/cgroup").read_text()
        move = f"mkdir -p /sys/fs/cgroup/out && echo {process.inside_pid} >/sys/fs/cgroup/out/cgroup.procs"
        assert witness.says_no(scene.env, move)
        assert Path(f"/proc/{pid}/cgroup").read_text() == before
        process.communicate(b"\n")
    witness.shell(scene.env, "rmdir /sys/fs/cgroup/out")


def test_when_the_middle_is_killed_too_the_next_command_ends_it(scene: Scene) -> None:
    script = CALLER.replace("{how}", "command = env.popen(argv); print(command.pid, flush=True); command.wait()")
    caller = scene.begin(script)
    assert caller.stdout
    lines = [int(caller.stdout.readline()) for _ in range(5)]  # that of the middle comes among those from inside
    known = commandline.processes(scene.dir, 7003)
    [middle] = [pid for pid in lines if pid not in known]
    lines.remove(middle)
    _, *tree = scene.watch(*lines)
    left = background(scene.env)
    [bystander] = scene.watch(left)
    caller.send_signal(signal.SIGSTOP)
    with commandline.watched(middle) as pidfd:
        os.kill(middle, signal.SIGKILL)
        assert commandline.has_ended(pidfd)
    caller.kill()
    caller.wait()
    assert not commandline.has_ended(tree[0], 0)  # in a session of its own, and of nobody's
    commandline.output(scene.dir, "exec", 7003, "true")
    assert all(commandline.has_ended(each) for each in tree) and not commandline.has_ended(bystander, 0)
    finish(bystander)


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["exit", "SIGKILL"])
@pytest.mark.parametrize("login", [False, True], ids=["command", "login"])
def test_what_an_ended_command_left_is_the_ve_s_though_nobody_waited_for_it(
    scene: Scene, end: str, login: bool
) -> None:
    """`service nginx start` by a program that ends before it asks how that went."""
    script = f"""
import os, signal, sys, ve
env = ve.Host(sys.argv[1]).get(int(sys.argv[2]))
script = "setsid sleep 100000 >/dev/null 2>&1 & echo $!"
command = env.popen(["sh", "-c", script], stdout=-1, login={login})
pid = command.stdout.read().decode()
os.waitid(os.P_PID, command.pid, os.WEXITED | os.WNOWAIT)
print(pid, flush=True)
{end}
"""
    caller = scene.begin(script)
    [left] = read_pids(caller, 1)
    [daemon] = scene.watch(left)
    caller.wait()
    for _ in range(2):
        commandline.output(scene.dir, "exec", 7003, "true")
        assert not commandline.has_ended(daemon, 0)
    finish(daemon)
