"""ve exec, which is to behave as ssh does.  The truth comes from shells inside and outside, and from /proc."""

import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.verbs import commandline
from tests.verbs.conftest import Make

VEID = 7001
PIPE = subprocess.PIPE
READY = "sleep 100000 & echo ready; wait"  # so that a trap runs at once: wait(1) ends at a signal


@pytest.fixture(scope="module")
def box(host: "ve.Host") -> Iterator[int]:
    """A VE that all tests here use, and leave as it was."""
    env = host.create(VEID, template="busybox", hostname="red", name="web", env={"COLOR": "red"})
    env.start()
    yield VEID
    env.stop(fast=True)
    env.destroy()


def sh(host_dir: Path, script: str, *options: str, **popen_args: Any) -> str:
    return commandline.output(host_dir, "exec", VEID, *options, "--", "sh", "-c", script, **popen_args)


def bash(host_dir: Path, script: str) -> "subprocess.CompletedProcess[str]":
    """A script in which ve is the command, with its state dir."""
    environment = {**os.environ, "VE_STATE_DIR": str(host_dir), "PATH": f"{commandline.VE.parent}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)


# --- how it ends --------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
@pytest.mark.parametrize("code", [0, 7, 255])
def test_the_exit_code_is_the_command_s(box: int, host_dir: Path, code: int) -> None:
    done = commandline.run(host_dir, "exec", box, "sh", "-c", f"exit {code}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.any_kernel
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGHUP])
def test_128_and_the_signal_that_ended_it(box: int, host_dir: Path, number: int) -> None:
    assert commandline.run(host_dir, "exec", box, "sh", "-c", f"kill -{number:d} $$").returncode == 128 + number


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("command", "code", "why"),
    [
        ("no-such-command", 127, "No such file or directory"),
        ("/no/such", 127, "No such file or directory"),
        ("/etc/passwd", 126, "Permission denied"),
        ("/etc", 126, "Permission denied"),
    ],
)
def test_a_command_that_cannot_be_run(box: int, host_dir: Path, command: str, code: int, why: str) -> None:
    done = commandline.run(host_dir, "exec", box, command)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"ve: cannot execute {command} in {VEID} (web): {why}\n"


@pytest.mark.any_kernel
def test_a_script_without_an_interpreter(box: int, host_dir: Path) -> None:
    sh(host_dir, "printf '#!/no/such\\n' > /tmp/script; chmod 755 /tmp/script")
    assert commandline.run(host_dir, "exec", box, "/tmp/script").returncode == 127


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("4242", "true"), "there is none"),
        (("no-such-name", "true"), "no-such-name"),
        ((str(VEID),), "none was given"),
        ((str(VEID), "--user", "nobody-here", "--", "true"), "no such user"),
        ((str(VEID), "--user", "root:no-such", "--", "true"), "no such group"),
        ((str(VEID), "--cwd", "/no/such", "--", "pwd"), "/no/such"),
        ((str(VEID), "--env", "NOVALUE", "--", "true"), "it is not NAME=VALUE"),
        ((str(VEID), "--no-such-option", "--", "true"), "no such option"),
    ],
)
def test_our_own_failure_is_125(box: int, host_dir: Path, args: tuple[str, ...], why: str) -> None:
    done = commandline.run(host_dir, "exec", *args)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("ve: cannot ") and why in done.stderr


@pytest.mark.any_kernel
def test_a_stopped_ve(host: "ve.Host", host_dir: Path, veid: int) -> None:
    host.create(veid, template="busybox")
    done = commandline.run(host_dir, "exec", veid, "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.splitlines() == [
        f"ve: cannot run a command in {veid}: it is not running",
        f"hint: ve start {veid}",
    ]


# --- what the command gets ----------------------------------------------------------------------------------------


def test_it_runs_inside_and_not_here(box: int, host_dir: Path) -> None:
    assert sh(host_dir, "hostname") == "red\n"
    init = commandline.processes(host_dir, box)[1]
    kinds = ("user", "pid", "uts", "ipc", "mnt", "net", "cgroup", "time")
    inside = sh(host_dir, "cd /proc/self/ns; for n in " + " ".join(kinds) + "; do readlink $n; done").split()
    assert inside == [os.readlink(f"/proc/{init}/ns/{kind}") for kind in kinds]
    assert not set(inside) & {os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}


@pytest.mark.any_kernel
def test_by_its_name(box: int, host_dir: Path) -> None:
    assert commandline.output(host_dir, "exec", "web", "hostname") == "red\n"


@pytest.mark.any_kernel
def test_words_that_begin_with_a_hyphen_are_the_command_s(box: int, host_dir: Path) -> None:
    assert commandline.output(host_dir, "exec", box, "ls", "-d", "/etc/") == "/etc/\n"
    assert commandline.output(host_dir, "exec", box, "--", "ls", "-d", "/etc/") == "/etc/\n"
    assert commandline.output(host_dir, "exec", box, "echo", "--user", "--", "--help") == "--user -- --help\n"
    assert commandline.output(host_dir, "exec", box, "ls", "-l", "/etc/passwd").startswith("-rw-r--r--")


@pytest.mark.any_kernel
def test_arguments_arrive_as_they_are(box: int, host_dir: Path) -> None:
    given: list[str | bytes] = ["", " ", "a\nb", "*", '"$x"', "ä", b"\xff\xfe", "--"]
    script = 'for a; do printf "%s\\001" "$a"; done'
    done = commandline.run(host_dir, "exec", box, "sh", "-c", script, "sh", *given, text=False)
    assert done.stdout == b"".join(os.fsencode(each) + b"\1" for each in given)  # type: ignore[comparison-overlap]


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (None, "0 0 0"),
        ("nobody", "65534 65534 65534"),
        ("1", "1 1 1"),
        ("4321", "4321 0 0"),
        ("nobody:users", "65534 100 100"),
        ("nobody:43", "65534 43 43"),
    ],
)
def test_user(box: int, host_dir: Path, user: str | None, expected: str) -> None:
    options = ("--user", user) if user else ()
    assert sh(host_dir, "echo $(id -u) $(id -g) $(id -G)", *options) == f"{expected}\n"


@pytest.mark.any_kernel
def test_a_user_has_no_capabilities_and_its_own_environment(box: int, host_dir: Path) -> None:
    lines = sh(host_dir, "grep CapEff /proc/self/status; echo $USER $HOME", "--user", "nobody").splitlines()
    assert lines == ["CapEff:\t0000000000000000", "nobody /nonexistent"]


@pytest.mark.any_kernel
def test_cwd_and_umask(box: int, host_dir: Path) -> None:
    assert sh(host_dir, "pwd; umask") == "/\n0022\n"
    assert sh(host_dir, "pwd", "--cwd", "/usr/bin") == "/usr/bin\n"


@pytest.mark.any_kernel
def test_environment(box: int, host_dir: Path) -> None:
    """The VE's own and what --env adds, nothing of ours."""
    environment = {**os.environ, "SECRET": "of the host"}
    lines = commandline.output(host_dir, "exec", box, "env", env=environment).splitlines()
    assert set(lines) == {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/root",
        "USER=root",
        "container=ve",
        "COLOR=red",
    }
    assert sh(host_dir, 'echo "$COLOR,$A,$HOME"', "--env", "A=b=c d", "-e", "COLOR=blue") == "blue,b=c d,/root\n"


@pytest.mark.any_kernel
def test_only_its_standard_descriptors(box: int, host_dir: Path) -> None:
    with open("/etc/hostname") as file:
        os.set_inheritable(file.fileno(), True)
        # the pattern is expanded by the shell itself, which has the directory open as 3
        shown = sh(host_dir, "echo /proc/self/fd/*", close_fds=False)
    assert shown.split() == [f"/proc/self/fd/{number}" for number in range(4)]


# --- pipes --------------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_stdin_ends_with_ours(box: int, host_dir: Path, tmp_path: Path) -> None:
    assert commandline.output(host_dir, "exec", box, "cat", input="one\ntwo") == "one\ntwo"
    assert commandline.output(host_dir, "exec", box, "cat", stdin=subprocess.DEVNULL) == ""
    (tmp_path / "file").write_text("x" * 12345)
    with open(tmp_path / "file") as file:
        assert commandline.output(host_dir, "exec", box, "wc", "-c", stdin=file).strip() == "12345"


@pytest.mark.any_kernel
@pytest.mark.parametrize(("closed", "shown"), [("<&-", "out\n"), (">&-", ""), ("2>&-", "out\n")])
def test_a_closed_descriptor_of_ours(box: int, host_dir: Path, closed: str, shown: str) -> None:
    done = bash(host_dir, f"ve exec {box} -- sh -c 'cat; echo out; exit 7' {closed}")
    assert (done.returncode, done.stdout) == (7, shown)


@pytest.mark.any_kernel
def test_a_process_that_stays_open_to_stdin_does_not_keep_it(box: int, host_dir: Path) -> None:
    """Our stdin goes on, yet the command ends without reading it."""
    reading, writing = os.pipe()
    try:
        assert commandline.run(host_dir, "exec", box, "true", stdin=reading).returncode == 0
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.any_kernel
def test_64_mib_both_ways(box: int, host_dir: Path) -> None:
    data = os.urandom(1 << 20) * 64
    script = "cat > /tmp/data; cat /tmp/data >&2 & cat /tmp/data; wait; rm /tmp/data"
    done = commandline.run(host_dir, "exec", box, "sh", "-c", script, input=data, text=False)
    digests = {hashlib.sha256(each).hexdigest() for each in (data, done.stdout, done.stderr)}  # type: ignore[arg-type]
    assert (done.returncode, len(digests)) == (0, 1)


@pytest.mark.any_kernel
def test_stdout_and_stderr_stay_apart(box: int, host_dir: Path) -> None:
    done = commandline.run(host_dir, "exec", box, "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


@pytest.mark.any_kernel
def test_nobody_reads_any_more(box: int, host_dir: Path) -> None:
    done = bash(host_dir, f"ve exec {box} yes | head -1; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout.split(), done.stderr) == (["y", str(128 + signal.SIGPIPE)], "")


@pytest.mark.any_kernel
def test_as_a_part_of_a_pipeline(box: int, host_dir: Path) -> None:
    done = bash(host_dir, f"tar -c -C /etc hostname | ve exec {box} tar x -C /tmp && ve exec {box} cat /tmp/hostname")
    assert (done.returncode, done.stdout) == (0, Path("/etc/hostname").read_text())


# --- terminals ----------------------------------------------------------------------------------------------------


def test_a_terminal_of_the_ve_when_ours_is_one(box: int, host_dir: Path) -> None:
    script = "tty; stty size; stat -L -c %d /proc/self/fd/0; test -t 2 && echo yes"
    with commandline.on_terminal(host_dir, "exec", box, "sh", "-c", script, size=(33, 99)) as terminal:
        shown = terminal.expect(r"(/dev/pts/\d+)\r\n33 99\r\n(\d+)\r\nyes\r\n")
        assert int(shown[2]) != os.fstat(terminal.slave).st_dev  # of the VE's devpts, not the host's
        assert terminal.end() == 0
    ours = os.readlink(f"/proc/{commandline.processes(host_dir, box)[1]}/root")
    assert ours == "/"  # seen from the VE: and the pty is gone with the command
    assert sh(host_dir, "ls /dev/pts") == "ptmx\n"


@pytest.mark.any_kernel
def test_no_terminal_when_stdin_is_a_file(box: int, host_dir: Path, tmp_path: Path) -> None:
    """A terminal of the host is never given to a VE: inside, the others are pipes."""
    script = "for n in 0 1 2; do test -t $n && echo terminal $n; done; cat; echo end >&2"
    (tmp_path / "file").write_text("line\n")
    with (
        open(tmp_path / "file", "rb") as file,
        commandline.on_terminal(host_dir, "exec", box, "sh", "-c", script, stdin=file) as terminal,
    ):
        assert terminal.end() == 0, terminal.shown
        assert sorted(terminal.shown.split()) == ["end", "line"]


@pytest.mark.any_kernel
def test_no_terminal_when_stdout_is_a_file(box: int, host_dir: Path, tmp_path: Path) -> None:
    script = "for n in 0 1 2; do test -t $n && echo terminal $n; done; cat"
    with (
        open(tmp_path / "out", "wb") as file,
        commandline.on_terminal(host_dir, "exec", box, "sh", "-c", script, stdout=file) as terminal,
    ):
        terminal.send("typed\n\x04")
        assert terminal.end() == 0, terminal.shown
    assert (tmp_path / "out").read_text() == "typed\n"


@pytest.mark.any_kernel
def test_stderr_of_its_own_beside_a_terminal(box: int, host_dir: Path, tmp_path: Path) -> None:
    script = "test -t 1 && echo terminal; echo err >&2"
    with (
        open(tmp_path / "err", "wb") as file,
        commandline.on_terminal(host_dir, "exec", box, "sh", "-c", script, stderr=file) as terminal,
    ):
        assert terminal.end() == 0
        assert terminal.shown == "terminal\r\n"
    assert (tmp_path / "err").read_text() == "err\n"


@pytest.mark.any_kernel
def test_a_change_of_the_window_arrives(box: int, host_dir: Path) -> None:
    script = f"trap 'kill -9 $!; wait; stty size; exit 4' WINCH; {READY}"
    with commandline.on_terminal(host_dir, "exec", box, "sh", "-c", script) as terminal:
        terminal.expect("ready")
        terminal.resize(50, 132)
        terminal.expect("50 132")
        assert terminal.end() == 4


@pytest.mark.any_kernel
def test_ctrl_c_is_for_the_command_alone(box: int, host_dir: Path) -> None:
    with commandline.on_terminal(
        host_dir, "exec", box, "sh", "-c", f"trap 'kill -9 $!; wait; echo got; exit 3' INT; {READY}"
    ) as terminal:
        terminal.expect("ready")
        terminal.send("\x03")
        terminal.expect("got")
        assert terminal.end() == 3


@pytest.mark.any_kernel
def test_ctrl_c_ends_a_command_that_has_no_answer(box: int, host_dir: Path) -> None:
    with commandline.on_terminal(host_dir, "exec", box, "sh", "-c", "echo ready; exec sleep 100000") as terminal:
        before = terminal.modes()
        terminal.expect("ready")
        assert terminal.modes() != before  # raw: each key goes through
        terminal.send("\x03")
        assert terminal.end() == 128 + signal.SIGINT
        assert terminal.modes() == before


@pytest.mark.any_kernel
def test_ctrl_d_is_the_end_of_input(box: int, host_dir: Path) -> None:
    with commandline.on_terminal(host_dir, "exec", box, "cat") as terminal:
        terminal.send("typed\n")
        terminal.expect("typed\r\ntyped\r\n")  # the echo, and cat's
        terminal.send("\x04")
        assert terminal.end() == 0


@pytest.mark.any_kernel
def test_all_that_was_written_last_is_shown(box: int, host_dir: Path) -> None:
    with commandline.on_terminal(host_dir, "exec", box, "seq", 1, 20000) as terminal:
        assert terminal.end() == 0
        assert terminal.shown.split() == [str(number) for number in range(1, 20001)]


@pytest.mark.any_kernel
def test_a_terminal_that_goes_away_ends_the_command(box: int, host_dir: Path) -> None:
    """As when the window is closed."""
    master, slave = os.openpty()
    command = commandline.words(host_dir, "exec", box, "sh", "-c", "echo $$; exec sleep 100000")
    with commandline.Process(["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(master, 100)
        with commandline.watched(commandline.processes(host_dir, box)[int(line)]) as inside:
            os.close(master)
            assert commandline.has_ended(inside)
        assert process.wait() != 0  # whose error has nowhere to go


# --- its processes ------------------------------------------------------------------------------------------------


def begin(host_dir: Path, script: str, count: int, **options: Any) -> tuple[commandline.Process, list[int]]:
    """ve exec of a script that prints so many pids, and these as the host knows them."""
    process = commandline.start(host_dir, "exec", VEID, "sh", "-c", script, stdout=PIPE, **options)
    assert process.stdout
    inside = [int(process.stdout.readline()) for _ in range(count)]
    known = commandline.processes(host_dir, VEID)
    return process, [known[pid] for pid in inside]


FAMILY = "setsid sh -c 'echo $$; exec sleep 100000' & echo $$; wait"


def test_kill_of_ve_exec_ends_the_tree(box: int, host_dir: Path) -> None:
    process, pids = begin(host_dir, FAMILY, 2)
    with process, commandline.watched(pids[0]) as one, commandline.watched(pids[1]) as two:
        commandline.kill(process)
        assert commandline.has_ended(one) and commandline.has_ended(two)
    assert commandline.run(host_dir, "exec", box, "true").returncode == 0


@pytest.mark.any_kernel
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_to_ve_exec_is_the_command_s(box: int, host_dir: Path, number: int) -> None:
    process, [pid] = begin(host_dir, "echo $$; exec tail -f /etc/shells", 1)
    with process, commandline.watched(pid) as inside:
        assert process.stdout and process.stdout.readline()  # tail it is by now: the shell takes no notice of SIGQUIT
        process.send_signal(number)
        assert commandline.has_ended(inside)
        assert process.wait() == 128 + number


@pytest.mark.any_kernel
def test_a_signal_that_the_command_answers(box: int, host_dir: Path) -> None:
    process, _ = begin(host_dir, "trap 'kill -9 $!; wait; echo got; exit 9' TERM; sleep 100000 & echo $$; wait", 1)
    with process:
        process.terminate()
        assert process.stdout and process.stdout.read() == b"got\n"
        assert process.wait() == 9


@pytest.mark.any_kernel
def test_what_is_left_in_the_background_lives_on(host: "ve.Host", host_dir: Path, veid: int) -> None:
    """As after a login; but not longer than the VE."""
    host.create(veid, template="busybox").start()
    script = "sleep 100000 >/dev/null 2>&1 & echo $!"
    inside = int(commandline.output(host_dir, "exec", veid, "sh", "-c", script))
    with commandline.watched(commandline.processes(host_dir, veid)[inside]) as left:
        commandline.output(host_dir, "exec", veid, "kill", "-0", str(inside))
        assert not commandline.has_ended(left, 0)
        commandline.output(host_dir, "stop", "--fast", veid)
        assert commandline.has_ended(left)


def test_a_ve_that_ends_ends_the_command(host: "ve.Host", host_dir: Path, veid: int) -> None:
    host.create(veid, template="busybox").start()
    with commandline.start(host_dir, "exec", veid, "sh", "-c", "echo; exec sleep 100000", stdout=PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"\n"
        commandline.output(host_dir, "stop", "--fast", veid)
        assert process.wait() == 128 + signal.SIGKILL


@pytest.mark.any_kernel
def test_nothing_of_ours_shows_inside(box: int, host_dir: Path) -> None:
    lines = sh(host_dir, "ps -o args").splitlines()
    assert [line for line in lines if "python" in line or "ve" in line.split()] == []


@pytest.mark.any_kernel
def test_many_at_once(box: int, host_dir: Path) -> None:
    running = [
        commandline.start(host_dir, "exec", box, "sh", "-c", f"echo {number}; exit {number}", stdout=PIPE)
        for number in range(8)
    ]
    ended = [(process.communicate()[0], process.returncode) for process in running]
    assert ended == [(b"%d\n" % number, number) for number in range(8)]


@pytest.mark.any_kernel
def test_a_conf_file_that_is_broken_since(host_dir: Path, make: Make) -> None:
    """A running VE has what it was started with."""
    env = make(env={"COLOUR": "red"})
    env.start()
    conf = host_dir / f"conf/{env.veid}.toml"
    good = conf.read_bytes()
    conf.write_text("[")
    assert commandline.output(host_dir, "exec", env.veid, "sh", "-c", "echo $COLOUR") == "red\n"
    assert commandline.run(host_dir, "enter", env.veid, input="exit 5\n").returncode == 5
    conf.write_bytes(good)


@pytest.mark.any_kernel
def test_variables_that_wait_for_a_restart(host_dir: Path, make: Make) -> None:
    env = make(env={"COLOUR": "red"})
    env.start()
    assert env.set(env={"COLOUR": "blue"}, save=True) == ["env"]
    assert commandline.output(host_dir, "exec", env.veid, "sh", "-c", "echo $COLOUR") == "red\n"
    env.restart(timeout=0)
    assert commandline.output(host_dir, "exec", env.veid, "sh", "-c", "echo $COLOUR") == "blue\n"
