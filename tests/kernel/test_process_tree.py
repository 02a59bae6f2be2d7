"""Who ends with a command, and who lives on: its tree, our own death, and what killed callers leave."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ve import process
from ve.process import Popen, Target

pytestmark = pytest.mark.any_kernel  # seen on 6.1 and 6.12; what is ours in it is the same on every kernel


PIPE = subprocess.PIPE
# a grandchild in another session, then a child; each says its pid in the VE
FAMILY = "setsid sh -c 'echo $$; exec sleep 1000' & sleep 1000 & echo ready; wait"


@pytest.fixture(autouse=True)
def nothing_left(target: Target) -> Iterator[None]:
    yield
    assert [name for name in os.listdir(target.cgroup) if name.startswith("exec")] == []


def groups(target: Target) -> list[Path]:
    return sorted(Path(target.cgroup).glob("exec.*"))


def wait_empty(group: Path) -> None:
    """Until no process is in the cgroup, or there is none."""
    with contextlib.suppress(OSError), open(group / "cgroup.events") as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while "populated 1" in os.pread(events.fileno(), 4096, 0).decode():
            assert poll.poll(60000)


def wait_gone(group: Path) -> None:
    """Until our far side has removed it, which nothing reports but the directory above."""
    for _ in range(3000):
        if not group.exists():
            return
        select.select([], [], [], 0.01)
    raise AssertionError(f"{group} is still there")


def kill_left(target: Target) -> None:
    left = Path(target.cgroup, "exec.left")
    (left / "cgroup.kill").write_text("1")
    wait_empty(left)
    process.sweep(target.cgroup)
    assert not left.exists()


def test_timeout_ends_the_tree_and_carries_the_output(target: Target) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        process.run(["sh", "-c", FAMILY], target=target, timeout=5, stdout=PIPE)
    assert b"ready\n" in (caught.value.output or b"")
    assert groups(target) == []


def test_timeout_after_the_command_has_ended(target: Target) -> None:
    """What it left still holds the pipe that we wait for: it is ended too."""
    with pytest.raises(subprocess.TimeoutExpired):
        process.run(["sh", "-c", "sleep 1000 & exit 0"], target=target, timeout=5, stdout=PIPE)
    assert groups(target) == []


def test_an_exception_in_a_with_block_ends_the_tree(target: Target) -> None:
    with pytest.raises(ZeroDivisionError), Popen(["sh", "-c", FAMILY], target=target, stdout=PIPE) as command:
        raise ZeroDivisionError
    assert command.returncode == -9


def test_keyboard_interrupt_ends_the_tree(target: Target) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.3, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        process.run(["sh", "-c", FAMILY], target=target, stdout=PIPE)
    timer.join()
    assert groups(target) == []


def test_kill_is_for_the_tree(target: Target) -> None:
    with Popen(["sh", "-c", FAMILY], target=target, stdout=PIPE) as command:
        assert command.stdout
        lines = {command.stdout.readline(), command.stdout.readline()}
        assert b"ready\n" in lines
        command.kill()
        assert command.communicate()[0] == b""  # nobody holds the pipe any more
        assert command.returncode == -9


def test_what_is_left_in_the_background_lives_on(target: Target) -> None:
    script = "setsid sh -c 'exec sleep 1000' >/dev/null 2>&1 & echo $!"
    done = process.run(["sh", "-c", script], target=target, stdout=PIPE, text=True, check=True)
    assert [group.name for group in groups(target)] == ["exec.left"]
    process.sweep(target.cgroup)  # and goes on
    done = process.run(["sh", "-c", f"kill -0 {done.stdout}"], target=target)
    assert done.returncode == 0
    kill_left(target)


def _caller(target: Target, script: str) -> "subprocess.Popen[str]":
    """A process of its own that runs a command and waits for it."""
    program = (
        "import os, sys\nfrom ve.process import Target, Popen\n"
        f"t = Target(pidfd=os.pidfd_open({target.pid}), pid={target.pid}, cgroup={target.cgroup!r}, filters=(),"
        f" env={dict(target.env)!r}, veid=101)\n"
        f"p = Popen(['sh', '-c', {script!r}], target=t)\nprint(p.pid, flush=True)\np.wait()"
    )
    return subprocess.Popen([sys.executable, "-c", program], stdout=PIPE, text=True)


def _far_side(caller: "subprocess.Popen[str]") -> tuple[int, int]:
    """The middle process, as pid and pidfd, once the command runs."""
    assert caller.stdout
    lines = [caller.stdout.readline() for _ in range(3)]
    [pid] = [int(line) for line in lines if line.strip().isdigit() and int(line) > 300]
    return pid, os.pidfd_open(pid)


def test_a_caller_that_is_killed_takes_the_tree_along(target: Target) -> None:
    script = FAMILY.replace("echo $$", "echo a").replace("echo ready", "echo b")
    with _caller(target, script) as caller:
        _, pidfd = _far_side(caller)
        [group] = groups(target)
        caller.kill()
        assert select.select([pidfd], [], [], 60)[0]  # it has ended the tree before itself
        os.close(pidfd)
    wait_gone(group)


def test_a_far_side_that_is_killed_leaves_what_sweep_finds(target: Target) -> None:
    with _caller(target, FAMILY.replace("echo $$", "echo a").replace("echo ready", "echo b")) as caller:
        pid, pidfd = _far_side(caller)
        [group] = groups(target)
        process.sweep(target.cgroup)
        assert groups(target) == [group]  # its caller lives
        os.kill(caller.pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        assert select.select([pidfd], [], [], 60)[0]
        os.close(pidfd)
        caller.kill()
        caller.wait()
        process.sweep(target.cgroup)
        assert groups(target) == []


def test_a_far_side_that_is_killed_is_told(target: Target) -> None:
    """The command is killed with it; what else is in its tree counts as left in the background."""
    with Popen(["sleep", "1000"], target=target) as command:
        pidfd = os.pidfd_open(command.host_pid)
        os.kill(command.pid, signal.SIGKILL)
        assert command.wait() == -9
        assert select.select([pidfd], [], [], 60)[0]
        os.close(pidfd)
    with contextlib.suppress(FileNotFoundError):  # the command was just dying when it was moved
        kill_left(target)


@pytest.mark.any_kernel
def test_failed_starts_leave_nothing(target: Target) -> None:
    for _ in range(20):
        with pytest.raises(FileNotFoundError):
            Popen(["no-such-command"], target=target, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert groups(target) == []


def test_the_exec_cgroup_is_named_after_its_caller(target: Target) -> None:
    with Popen(["cat"], target=target, stdin=PIPE) as command:
        [group] = groups(target)
        _, pid, started, _ = group.name.split(".")
        assert int(pid) == os.getpid()
        assert started == Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        assert command.communicate() == (None, None)
