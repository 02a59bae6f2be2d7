"""ve start --foreground: a console, the word of init about its end, and a restart on a reboot from inside."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make

pytestmark = pytest.mark.any_kernel  # seen on 6.1 and 6.12; what is ours in it is the same on every kernel


PIPE = subprocess.PIPE
# A shell on the console, begun again whenever it ends; what sysinit prints goes to the console too.
INITTAB = """\
::sysinit:/bin/sh -c 'echo init says $((40 + 2)); stty -echo'
::respawn:/bin/sh -c 'echo shell is up; exec sh -s 2>/dev/null'
::shutdown:/bin/echo init says farewell
"""


@pytest.fixture
def console(host: "ve.Host", veid: int, tmp_path: Path) -> int:
    """A stopped VE whose init has a shell on its console."""
    env = host.create(veid, template="busybox", hostname="red")
    (tmp_path / "inittab").write_text(INITTAB)
    env.copy_in(str(tmp_path / "inittab"), "/etc/inittab")
    return veid


@contextlib.contextmanager
def init_of(host_dir: Path, veid: int) -> Iterator[int]:
    """A pidfd of its init."""
    with commandline.watched(witness.init(host_dir, veid)) as pidfd:
        yield pidfd


def test_the_console_is_ours(console: int, host_dir: Path) -> None:
    with commandline.on_terminal(host_dir, "start", "--foreground", console, size=(33, 99)) as terminal:
        before = terminal.modes()
        terminal.expect("init says 42")
        terminal.expect("shell is up")
        terminal.send("echo $(hostname), $(tty), $(stty size)\n")
        terminal.expect(r"red, (/dev/(pts/\d+|console)), 33 99\r\n")
        terminal.send("halt\n")
        terminal.expect("init says farewell")
        terminal.expect(f"{console} has halted")
        assert terminal.end() == 0
        assert terminal.modes() == before
    assert not witness.runs(host_dir, console)


@pytest.mark.any_kernel
def test_the_window_s_size_goes_along(console: int, host_dir: Path) -> None:
    with commandline.on_terminal(host_dir, "start", "--foreground", console) as terminal:
        terminal.expect("shell is up")
        terminal.resize(50, 132)
        terminal.send("until stty size | grep -q '^50 132$'; do :; done; echo it has changed; halt\n")
        terminal.expect("it has changed")
        assert terminal.end() == 0


def test_a_reboot_from_inside_starts_it_again(console: int, host_dir: Path) -> None:
    with commandline.on_terminal(host_dir, "start", "--foreground", console) as terminal:
        terminal.expect("shell is up")
        with init_of(host_dir, console) as first:
            terminal.send("echo kept > /root/file; reboot\n")
            terminal.expect(f"{console} reboots")
            assert commandline.has_ended(first)
            terminal.expect("shell is up")
            with init_of(host_dir, console) as second:
                assert not commandline.has_ended(second, 0)
        terminal.send("cat /root/file; halt\n")
        terminal.expect("kept\r\n")
        assert terminal.end() == 0


@pytest.mark.any_kernel
def test_a_reboot_by_another_command_too(console: int, host_dir: Path) -> None:
    with commandline.on_terminal(host_dir, "start", "--foreground", console) as terminal:
        terminal.expect("shell is up")
        commandline.run(host_dir, "exec", console, "reboot")
        terminal.expect(f"{console} reboots")
        terminal.expect("shell is up")
        done = commandline.run(host_dir, "stop", console)
        assert (done.returncode, done.stderr) == (0, f"{console} is stopped\n")
        terminal.expect(f"{console} has halted")
        assert terminal.end() == 0


def test_a_killed_init_is_told(console: int, host_dir: Path) -> None:
    with commandline.on_terminal(host_dir, "start", "--foreground", console) as terminal:
        terminal.expect("shell is up")
        os.kill(witness.init(host_dir, console), signal.SIGKILL)
        terminal.expect(f"{console} was killed")
        assert terminal.end() == 1
    assert commandline.output(host_dir, "list", "-H", "-o", "veid,status").split() == [str(console), "stopped"]


def test_the_ve_survives_a_kill_of_the_command(console: int, host_dir: Path) -> None:
    with commandline.on_terminal(host_dir, "start", "--foreground", console) as terminal:
        terminal.expect("shell is up")
        setup = int(witness.status(witness.init(host_dir, console))["PPid"])
        with init_of(host_dir, console) as init, commandline.watched(setup) as parent:
            commandline.kill(terminal.process)
            assert commandline.has_ended(parent)  # no process of ours stays behind
            assert commandline.output(host_dir, "exec", console, "hostname") == "red\n"
            assert not commandline.has_ended(init, 0)
            assert commandline.output(host_dir, "list", "-H", "-o", "veid,status").split() == [str(console), "running"]
            done = commandline.run(host_dir, "stop", console)
            assert (done.returncode, done.stderr) == (0, f"{console} is stopped\n")  # by its own shutdown
            assert commandline.has_ended(init)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_halts_the_ve(console: int, host_dir: Path, number: int) -> None:
    with commandline.on_terminal(host_dir, "start", "--foreground", console) as terminal:
        terminal.expect("shell is up")
        terminal.process.send_signal(number)
        terminal.expect("init says farewell")
        assert terminal.end() == 0
    assert not witness.runs(host_dir, console)


@pytest.mark.any_kernel
def test_ctrl_c_is_a_key_for_the_console(console: int, host_dir: Path) -> None:
    """Not for us: only the VE's init decides what it means."""
    with commandline.on_terminal(host_dir, "start", "--foreground", console) as terminal:
        terminal.expect("shell is up")
        terminal.send("\x03")
        terminal.send("\necho still $((40 + 2))\n")
        terminal.expect("still 42")
        terminal.send("halt\n")
        assert terminal.end() == 0


def test_the_way_out(console: int, host_dir: Path) -> None:
    """Ctrl-] three times in a row, which is told first; until then it is a key as others are."""
    with commandline.on_terminal(host_dir, "start", "--foreground", console) as terminal:
        terminal.expect(rf"{console} is running; .* Ctrl-\] three times halts it")
        terminal.expect("shell is up")
        terminal.send("\x1d\x1dx\x1d")  # not in a row
        terminal.send("\necho still $((40 + 2))\n")
        terminal.expect("still 42")
        terminal.send("\x1d\x1d\x1d")
        terminal.expect("init says farewell")
        assert terminal.end() == 0
    assert not witness.runs(host_dir, console)


def test_the_way_out_of_one_that_does_not_halt(console: int, host: "ve.Host", host_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "inittab").write_text("::shutdown:/bin/sh -c 'echo it lingers; exec sleep 100000'\n")
    host.get(console).copy_in(str(tmp_path / "inittab"), "/etc/inittab")
    with commandline.on_terminal(host_dir, "start", "--foreground", console) as terminal:
        terminal.expect(f"{console} is running")
        with init_of(host_dir, console) as init:
            terminal.send("\x1d\x1d\x1d")
            terminal.expect("it lingers")
            assert not commandline.has_ended(init, 0)
            terminal.send("\x1d\x1d\x1d")
            terminal.expect(f"{console} was killed")
            assert terminal.end() == 1


@pytest.mark.any_kernel
def test_a_terminal_that_goes_does_not_hold_its_shutdown_up(
    console: int, host: "ve.Host", host_dir: Path, tmp_path: Path
) -> None:
    """What an init still says to a console that nobody reads is more than a pty holds."""
    (tmp_path / "inittab").write_text("::sysinit:/bin/echo init is up\n::shutdown:/usr/bin/seq 1 20000\n")
    host.get(console).copy_in(str(tmp_path / "inittab"), "/etc/inittab")
    with commandline.start(
        host_dir, "start", "--foreground", console, stdout=PIPE, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"init is up\r\n"
        process.stdout.close()
        process.terminate()
        assert process.wait(commandline.PATIENCE) == 0
    assert not witness.runs(host_dir, console)


def test_the_template_s_own_console(host_dir: Path, make: Make) -> None:
    """A shell of root, and another when that ends, with job control; none where there is no console."""
    env = make(hostname="red")
    with commandline.on_terminal(host_dir, "start", "--foreground", env.veid) as terminal:
        terminal.expect("root@red:~# ")
        terminal.send("echo $(id -un), $PWD, $((40 + 2)); sleep 100000 & jobs\n")
        terminal.expect(r"root, /root, 42\r\n")
        terminal.expect(r"\[1\]\+ +Running")
        terminal.send("sh -c 'echo on; exec sleep 100000'\n")
        terminal.expect(r"\non\r\n")
        terminal.send("\x03")
        terminal.expect("root@red:~# ")
        terminal.send("exit\n")
        terminal.expect("root@red:~# ")
        terminal.send("poweroff\n")
        assert terminal.end() == 0
    witness.tell_when_booted(host_dir, env.veid)
    env.start()
    witness.wait_until_booted(host_dir, env.veid)
    deadline = time.monotonic() + commandline.PATIENCE
    while (names := commands(host_dir, env.veid)) & {"sh", "console"}:  # what looks for a console ends at once
        assert time.monotonic() < deadline, names
        select.select([], [], [], 0.02)


def commands(host_dir: Path, veid: int) -> set[str]:
    found = set()
    for pid in commandline.processes(host_dir, veid).values():
        with contextlib.suppress(OSError):
            found.add(Path(f"/proc/{pid}/comm").read_text().strip())
    return found


@pytest.mark.any_kernel
@pytest.mark.parametrize("stdin", ["null", "pipe", "closed"])
def test_stdin_is_no_terminal(console: int, host_dir: Path, stdin: str) -> None:
    """As under a supervisor: the console goes to stdout, and SIGTERM halts."""
    given = {"null": "</dev/null", "pipe": "", "closed": "<&-"}[stdin]
    command = ["sh", "-c", f'exec "$@" {given}', "sh", *commandline.words(host_dir, "start", "--foreground", console)]
    with commandline.Process(command, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        shown = b""
        while b"shell is up" not in shown:
            assert select.select([process.stdout], [], [], commandline.PATIENCE)[0], shown
            more = os.read(process.stdout.fileno(), 65536)
            assert more, process.stderr.read()
            shown += more
        if stdin == "pipe":
            process.stdin.write(b"halt\n")
            process.stdin.flush()
        else:
            process.terminate()
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert b"init says farewell" in out
        assert err.decode().splitlines()[-1:] == [f"{console} has halted"]


@pytest.mark.any_kernel
def test_a_ve_that_runs_is_refused(env: "ve.Environment", host_dir: Path) -> None:
    done = commandline.run(host_dir, "start", "--foreground", env.veid)
    assert (done.returncode, done.stdout) == (32, "")
    assert done.stderr.splitlines()[0] == f"ve: cannot start {env.veid}: it is running"
    done = commandline.run(host_dir, "start", "--foreground", env.veid, env.veid)
    assert done.returncode == 20 and "take one VE" in done.stderr


@pytest.mark.any_kernel
def test_the_library_s_word(console: int, host: "ve.Host", host_dir: Path) -> None:
    """wait() tells how it ended; nobody need attach."""
    env = host.get(console)
    for command, end in (("reboot", "reboot"), ("halt", "halt"), ("poweroff", "halt")):
        running = env.start_foreground()
        env.run([command])
        assert running.wait() == end
    running = env.start_foreground()
    os.kill(witness.init(host_dir, console), signal.SIGKILL)
    assert running.wait() == "killed"


def test_a_console_that_nobody_reads_does_not_stop_the_others(console: int, host: "ve.Host") -> None:
    """What fills the console waits; a command beside it does not."""
    env = host.get(console)
    running = env.start_foreground()
    env.run(["sh", "-c", "yes > /dev/console 2>/dev/null & exit 0"], check=True)
    assert env.run(["echo", "x"], capture_output=True).stdout == b"x\n"
    env.stop(fast=True)
    assert running.wait() == "killed"


@pytest.mark.any_kernel
def test_an_exception_leaves_nothing(console: int, host: "ve.Host", host_dir: Path) -> None:
    """Neither a VE whose console nobody has, nor a process or descriptor of ours."""
    env = host.get(console)
    with pytest.raises(ZeroDivisionError), env.start_foreground() as running:
        raise ZeroDivisionError
    assert (env.status, running.wait()) == ("stopped", "killed")
    assert not commandline.cgroup(host_dir, console).exists()


@pytest.mark.any_kernel
def test_a_with_block_waits(console: int, host: "ve.Host") -> None:
    with host.get(console).start_foreground() as running:
        host.get(console).run(["halt"])
    assert (running.wait(), running.wait()) == ("halt", "halt")
