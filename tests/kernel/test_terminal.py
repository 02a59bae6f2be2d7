"""Commands on terminals: a pty of the VE's own, driven through an outer terminal that the test holds."""

import contextlib
import fcntl
import os
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ve import terminal
from ve.process import Popen, Target

pytestmark = pytest.mark.any_kernel  # seen on 6.1 and 6.12; what is ours in it is the same on every kernel


class Outer:
    """A user at a terminal, who runs call() there."""

    def __init__(self, target: Target, *args: str, size: tuple[int, int] = (24, 80), **streams: Any) -> None:
        program = (
            "import os, sys\nfrom ve.calling import Target, call\n"
            f"t = Target(pidfd=os.pidfd_open({target.pid}), pid={target.pid}, cgroup={target.cgroup!r}, filters=(),"
            f" env={dict(target.env)!r}, veid=101)\n"
            "sys.exit(call(sys.argv[1:], target=t))"
        )
        self.master, self.slave = os.openpty()
        termios.tcsetwinsize(self.master, size)
        self.modes = termios.tcgetattr(self.slave)
        fds: dict[str, Any] = {"stdin": self.slave, "stdout": self.slave, "stderr": self.slave} | streams
        tty = self.slave

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(tty, termios.TIOCSCTTY, 0)

        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-c", program, *args],
            preexec_fn=take_terminal,
            env={**os.environ, "TERM": "xterm-test"},
            **fds,
        )
        self.text = b""

    def expect(self, pattern: str) -> None:
        """Read until the pattern has come; what comes after it is kept for the next."""
        deadline = time.monotonic() + 30
        while not (found := re.search(pattern.encode(), self.text)):
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.master], [], [], left)[0], f"{pattern} not in {self.text!r}"
            try:
                self.text += os.read(self.master, 65536)
            except OSError:
                raise AssertionError(f"{pattern} not in {self.text!r}") from None
        self.text = self.text[found.end() :]

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def wait(self) -> int:
        """The exit code; reads what is still written meanwhile."""
        pidfd = os.pidfd_open(self.process.pid)
        try:
            while pidfd not in (ready := select.select([pidfd, self.master], [], [], 30)[0]):
                assert ready, f"it does not end: {self.text!r}"
                self.text += os.read(self.master, 65536)
            while select.select([self.master], [], [], 0)[0]:
                self.text += os.read(self.master, 65536)
        finally:
            os.close(pidfd)
        return self.process.wait()


@contextlib.contextmanager
def outer(target: Target, *args: str, **options: Any) -> Iterator[Outer]:
    user = Outer(target, *args, **options)
    try:
        yield user
        assert termios.tcgetattr(user.slave) == user.modes
    finally:
        user.process.kill()
        user.process.wait()
        os.close(user.master)
        os.close(user.slave)


def test_it_has_a_terminal_of_the_ve(target: Target) -> None:
    with outer(target, "sh", "-c", "tty; stty size; echo $TERM; ls /dev/pts; exit 5", size=(31, 77)) as user:
        user.expect("/dev/pts/0\r\n31 77\r\nxterm-test\r\n0 +ptmx\r\n")
        assert user.wait() == 5


def test_window_changes_arrive(target: Target) -> None:
    script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"
    with outer(target, "sh", "-c", script) as user:
        user.expect("ready")
        termios.tcsetwinsize(user.master, (50, 132))
        user.expect("50 132")
        assert user.wait() == 0


def test_control_c_and_d(target: Target) -> None:
    with outer(target, "sh", "-c", "trap 'echo caught' INT; echo ready; cat; echo end") as user:
        user.expect("ready")
        user.type("line\r")
        user.expect("line\r\nline\r\n")  # the echo, and cat
        user.type("\x03")
        user.expect("caught")
        user.expect("end")
        assert user.wait() == 0
    with outer(target, "sh", "-c", "echo ready; cat; echo end") as user:
        user.expect("ready")
        user.type("x\r\x04")
        user.expect("x\r\nx\r\nend")
        assert user.wait() == 0
    with outer(target, "sh", "-c", "echo ready; exec sleep 1000") as user:
        user.expect("ready")
        user.type("\x03")
        assert user.wait() == 128 + signal.SIGINT


def test_job_control(target: Target) -> None:
    with outer(target, "sh", "-i") as user:
        user.expect("# ")
        user.type("sh -c 'echo job $((40 + 2)); exec sleep 1000'\r")
        user.expect("job 42\r\n")  # so it has the terminal: before, ^Z would not mean the job
        user.type("\x1a")
        user.expect("Stopped")
        user.type("jobs; kill -9 %1\r")
        user.expect("Stopped.*sleep 1000")
        user.expect("# ")
        user.type("wait\r")
        user.expect("# ")
        user.type("exit 3\r")
        assert user.wait() == 3
        assert b"job control turned off" not in user.text


def test_large_output_is_not_cut(target: Target) -> None:
    with outer(target, "sh", "-c", "seq 1 100000; echo THE END") as user:
        user.expect("99999\r\n100000\r\nTHE END\r\n")
        assert user.wait() == 0


def test_a_background_process_does_not_hold_the_terminal(target: Target) -> None:
    with outer(target, "sh", "-c", "trap '' HUP; sleep 300 & echo done") as user:
        user.expect("done")
        assert user.wait() == 0  # which does not wait as long as that
    with Popen(["killall", "sleep"], target=target, stderr=subprocess.DEVNULL):
        pass
    _until_empty(Path(target.cgroup, "exec.left"))


def _until_empty(group: Path) -> None:
    with contextlib.suppress(FileNotFoundError), open(group / "cgroup.events") as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while "populated 1" in os.pread(events.fileno(), 4096, 0).decode():
            assert poll.poll(30000)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_to_us_reach_the_command(target: Target, number: signal.Signals) -> None:
    script = f"trap 'echo got; exit 9' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    with outer(target, "sh", "-c", script) as user:
        user.expect("ready")
        user.process.send_signal(number)
        user.expect("got")
        assert user.wait() == 9


def test_our_terminal_hangs_up(target: Target) -> None:
    with Popen(["sh", "-c", "echo ready; exec sleep 1000"], target=target, pty=True) as command:
        assert command.terminal is not None
        assert os.read(command.terminal, 100) == b"ready\r\n"
        os.close(command.terminal)
        command.terminal = None
        assert command.wait() == -signal.SIGHUP


def test_a_pipe_as_stdout_needs_no_pty(target: Target) -> None:
    """stdin is a terminal that the VE must not get its hands on."""
    with outer(target, "sh", "-c", "tty; cat; tty <&2", stdout=subprocess.PIPE) as user:
        assert user.process.stdout
        assert user.process.stdout.readline() == b"not a tty\n"
        user.type("typed\n")
        assert user.process.stdout.readline() == b"typed\n"
        user.type("\x04")
        assert user.process.stdout.readline() == b"not a tty\n"
        assert user.wait() == 1
        user.process.stdout.close()


def test_control_c_without_a_pty(target: Target) -> None:
    with outer(target, "sh", "-c", "echo ready; exec sleep 1000", stdin=subprocess.DEVNULL) as user:
        user.expect("ready")
        user.type("\x03")
        assert user.wait() == 128 + signal.SIGINT


def test_terminals_for_output_only(target: Target) -> None:
    script = "test -t 0 -o -t 1 -o -t 2 && echo BAD; seq 1 20000; echo err >&2; echo END"
    with outer(target, "sh", "-c", script, stdin=subprocess.DEVNULL) as user:
        code = user.wait()
        assert code == 0
        assert b"BAD" not in user.text
        assert b"20000\r\nEND\r\n" in user.text.replace(b"err\r\n", b"")


def test_stderr_can_be_apart_from_the_pty(target: Target) -> None:
    with outer(target, "sh", "-c", "tty; echo err >&2", stderr=subprocess.PIPE) as user:
        assert user.process.stderr
        user.expect("/dev/pts/")
        assert user.process.stderr.read() == b"err\n"
        assert user.wait() == 0
        user.process.stderr.close()


def _all_of(master: int) -> bytes:
    """What is written to the terminal until nobody has it open, in however many pieces it comes."""
    text = b""
    with contextlib.suppress(OSError):  # EIO: the last has closed it
        while piece := os.read(master, 4096):
            text += piece
    return text


def test_popen_with_a_pty(target: Target) -> None:
    with Popen(["sh", "-c", "read x; echo got $x"], target=target, pty=True) as command:
        assert command.terminal is not None
        assert terminal.is_master(command.terminal)
        os.write(command.terminal, b"hello\n")
        assert _all_of(command.terminal) == b"hello\r\ngot hello\r\n"
    with pytest.raises(ValueError, match="pty"):
        command.attach()
    with pytest.raises(ValueError, match="pty"):
        Popen(["true"], target=target, pty=True, stdout=subprocess.PIPE)


def test_the_user_owns_the_terminal(target: Target) -> None:
    with outer(target, "sh", "-c", "true") as user:
        assert user.wait() == 0
    with Popen(["sh", "-c", "stat -c '%U %G' $(tty); : > $(tty)"], target=target, pty=True, user="bob") as command:
        assert command.terminal is not None
        assert _all_of(command.terminal) == b"bob tty\r\n"
        assert command.wait() == 0
