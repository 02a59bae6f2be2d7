"""ve logs: what init wrote to stdout and stderr, kept to its last MiB, and never anybody else's file."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests import conftest
from tests.verbs import commandline, witness

PIPE = subprocess.PIPE
MIB = 1 << 20
INITTAB = """\
::sysinit:/bin/echo to stdout
::sysinit:/bin/sh -c 'echo to stderr >&2'
::shutdown:/bin/echo farewell
"""


@pytest.fixture
def talker(host: "ve.Host", veid: int, tmp_path: Path) -> "ve.Environment":
    """A running VE whose init says something when it begins and ends."""
    env = host.create(veid, template="busybox")
    (tmp_path / "inittab").write_text(INITTAB)
    env.copy_in(str(tmp_path / "inittab"), "/etc/inittab")
    env.start()
    wait_for(host_of(env), veid, b"to stderr\n")
    return env


def host_of(env: "ve.Environment") -> Path:
    return Path(env.state.path)


def wait_for(host_dir: Path, veid: int, line: bytes) -> None:
    """Until a line is in the log; ve logs -f is our witness, and is one of the things under test."""
    with commandline.start(host_dir, "logs", "-f", veid, stdout=PIPE) as process:
        assert process.stdout
        while (read := process.stdout.readline()) != line:
            assert read, f"{line!r} is not in the log"
        commandline.kill(process)


def file(host_dir: Path, veid: int) -> Path:
    return host_dir / "private" / str(veid) / "log"


def write(host_dir: Path, veid: int, script: str) -> None:
    """What a script prints, as if init had written it."""
    commandline.output(host_dir, "exec", veid, "sh", "-c", f"({script}) >> /proc/1/fd/1")


@pytest.mark.any_kernel
def test_what_init_wrote(talker: "ve.Environment", host_dir: Path) -> None:
    done = commandline.run(host_dir, "logs", talker.veid)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"to stdout", "to stderr"} <= set(done.stdout.splitlines())
    assert done.stdout.encode() == file(host_dir, talker.veid).read_bytes()


@pytest.mark.any_kernel
def test_of_one_that_is_thrown_away(host: "ve.Host", host_dir: Path) -> None:
    """Whoever asks sees it, also when its init has ended; nothing stays of it."""
    with host.ephemeral("busybox", command=["sh", "-c", "echo first; echo last >&2; exit 3"]) as env:
        log = host_dir / "run" / "log" / str(env.veid)
        assert env.wait() == 3
        assert commandline.output(host_dir, "logs", env.veid) == "first\nlast\n"
        assert (b"".join(env.log_chunks()), log.read_bytes()) == (b"first\nlast\n", b"first\nlast\n")
    assert not log.exists()


@pytest.mark.any_kernel
def test_that_one_is_kept_short(host: "ve.Host", host_dir: Path) -> None:
    write_much = f"yes line | head -c {2 * MIB} >> /proc/1/fd/1"
    with host.ephemeral("busybox") as env:
        log = host_dir / "run" / "log" / str(env.veid)
        env.run(["sh", "-c", write_much], check=True)
        assert log.stat().st_size >= 2 * MIB
        env.run(["true"], check=True)
        assert 0 < log.stat().st_size <= MIB


@pytest.mark.any_kernel
def test_it_is_kept_over_starts(talker: "ve.Environment", host_dir: Path) -> None:
    talker.stop()
    lines = commandline.output(host_dir, "logs", talker.veid).splitlines()
    assert (lines.count("to stdout"), lines.count("farewell")) == (1, 1)
    talker.start()
    wait_for(host_dir, talker.veid, b"farewell\n")
    with commandline.start(host_dir, "logs", "-f", talker.veid, stdout=PIPE) as process:
        assert process.stdout
        seen = 0
        while seen < 2:
            seen += process.stdout.readline() == b"to stderr\n"
        commandline.kill(process)


def test_how_init_has_it_open(talker: "ve.Environment", host_dir: Path) -> None:
    """O_APPEND, so that cutting it makes no hole; stdin is /dev/null."""
    init = witness.init(host_dir, talker.veid)
    for number in (1, 2):
        flags = int(Path(f"/proc/{init}/fdinfo/{number}").read_text().split("flags:")[1].split()[0], 8)
        assert flags & os.O_APPEND and flags & os.O_ACCMODE == os.O_WRONLY
        assert os.stat(f"/proc/{init}/fd/{number}").st_ino == file(host_dir, talker.veid).stat().st_ino
    assert os.readlink(f"/proc/{init}/fd/0") == "/dev/null"
    assert file(host_dir, talker.veid).stat().st_uid == witness.base(init)
    assert file(host_dir, talker.veid).stat().st_mode & 0o777 == 0o600


@pytest.mark.any_kernel
def test_any_bytes(talker: "ve.Environment", host_dir: Path) -> None:
    write(host_dir, talker.veid, r"printf 'a\377\000\033[31mb\n'")
    done = commandline.run(host_dir, "logs", talker.veid, text=False)
    assert done.stdout.endswith(b"a\xff\0\033[31mb\n")  # type: ignore[arg-type]


@pytest.mark.any_kernel
@pytest.mark.parametrize("verb", ["logs", "stop", "restart", "status", "exec", "list"])
def test_the_next_verb_cuts_it(talker: "ve.Environment", host_dir: Path, verb: str) -> None:
    """To whole lines of the last MiB, in place: init's descriptor stays good."""
    write(host_dir, talker.veid, "seq 1 400000")
    before = file(host_dir, talker.veid).stat()
    assert before.st_size > 2 * MIB
    whom: dict[str, list[commandline.Word]] = {"list": [], "exec": [talker.veid, "true"]}
    words = whom.get(verb, [talker.veid])
    done = commandline.run(host_dir, verb, *words)
    assert done.returncode == 0
    after = file(host_dir, talker.veid).stat()
    assert after.st_size <= MIB + 1000 and after.st_ino == before.st_ino
    lines = file(host_dir, talker.veid).read_text().splitlines()
    assert "400000" in lines
    numbers = [int(line) for line in lines if line.isdigit()]
    assert numbers == list(range(numbers[0], 400001)) and len(numbers) > 140000
    if verb == "logs":
        assert done.stdout.splitlines() == lines
        write(host_dir, talker.veid, "echo after the cut")
        assert file(host_dir, talker.veid).read_text().endswith("400000\nafter the cut\n")


@pytest.mark.any_kernel
def test_follow(talker: "ve.Environment", host_dir: Path) -> None:
    with commandline.start(host_dir, "logs", "-f", talker.veid, stdout=PIPE) as process:
        assert process.stdout
        while process.stdout.readline() != b"to stderr\n":
            pass
        for number in range(3):
            write(host_dir, talker.veid, f"echo line {number}")
            assert process.stdout.readline() == b"line %d\n" % number
        write(host_dir, talker.veid, "seq 1 300000")
        assert commandline.run(host_dir, "logs", talker.veid).returncode == 0  # which cuts it
        write(host_dir, talker.veid, "echo the last")
        while (line := process.stdout.readline()) != b"the last\n":
            assert line
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130


@pytest.mark.any_kernel
def test_follow_goes_on_in_a_pipe_that_closes(talker: "ve.Environment", host_dir: Path) -> None:
    with commandline.start(host_dir, "logs", "-f", talker.veid, stdout=PIPE, stderr=PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        write(host_dir, talker.veid, "echo nobody reads this")
        assert process.wait() == 141
        assert process.stderr.read() == b""


@pytest.mark.any_kernel
def test_follow_ends_with_the_ve(talker: "ve.Environment", host_dir: Path) -> None:
    with commandline.start(host_dir, "logs", "-f", talker.veid, stdout=PIPE) as process:
        assert process.stdout
        while process.stdout.readline() != b"to stderr\n":
            pass
        talker.stop()
        rest = process.stdout.read()
        assert rest.startswith(b"farewell\n") and rest.endswith(b"poweroff\n")
        assert process.wait() == 0


@pytest.mark.any_kernel
def test_a_stopped_ve_that_never_ran(host: "ve.Host", host_dir: Path, veid: int) -> None:
    """Why there is nothing is told."""
    host.create(veid, template="busybox")
    done = commandline.run(host_dir, "logs", veid)
    told = f"{veid} is stopped: this is what its init wrote; a journal can be read while it runs\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, "", told)
    done = commandline.run(host_dir, "--quiet", "logs", veid)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert commandline.run(host_dir, "logs", 4242).returncode == 43


@pytest.mark.any_kernel
@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_what_is_no_regular_file_is_refused(
    host: "ve.Host", host_dir: Path, veid: int, tmp_path: Path, kind: str
) -> None:
    """Neither shown nor written to."""
    host.create(veid, template="busybox")
    (tmp_path / "secret").write_text("of the host\n" * 200000)
    log = file(host_dir, veid)
    if kind == "symlink":
        log.symlink_to(tmp_path / "secret")
    elif kind == "fifo":
        os.mkfifo(log)
    else:
        log.mkdir()
    for verb in ("logs", "start"):
        done = commandline.run(host_dir, verb, veid)
        assert done.returncode != 0 and done.stdout == ""
        assert str(log) in done.stderr and "it is not a regular file" in done.stderr
    assert not witness.runs(host_dir, veid)
    assert (tmp_path / "secret").read_text() == "of the host\n" * 200000
    assert commandline.run(host_dir, "destroy", veid).returncode == 0  # which it does not keep us from
    assert (tmp_path / "secret").exists()


def test_the_ve_cannot_put_another_file_in_its_place(talker: "ve.Environment", host_dir: Path) -> None:
    """It may cut and fill its log, by /proc/1/fd/1, but its name is out of its reach."""
    before = file(host_dir, talker.veid).stat().st_ino
    script = "rm -f /proc/1/fd/1; ln -sf /etc/passwd /proc/1/fd/1; echo > /proc/1/fd/1; find / -name log -xdev"
    commandline.run(host_dir, "exec", talker.veid, "sh", "-c", script)
    assert file(host_dir, talker.veid).stat().st_ino == before
    assert commandline.output(host_dir, "logs", talker.veid) == "\n"


@pytest.mark.any_kernel
def test_a_ve_that_fills_its_log(talker: "ve.Environment", host_dir: Path) -> None:
    """While it is cut again and again, every verb comes to an end."""
    script = "while :; do seq 1 20000; done > /proc/1/fd/1"
    with commandline.start(host_dir, "exec", talker.veid, "sh", "-c", script) as process:
        for _ in range(5):
            assert commandline.run(host_dir, "logs", talker.veid).returncode == 0
        process.terminate()
        process.wait()
    assert len(commandline.output(host_dir, "logs", talker.veid)) <= MIB


@pytest.mark.any_kernel
def test_a_journal(host: "ve.Host", host_dir: Path, debian: str, veid: int) -> None:
    """Of a VE with systemd: read by its own journalctl."""
    host.create(veid, template=debian)
    commandline.output(host_dir, "start", "--wait", veid)
    commandline.output(host_dir, "exec", veid, "systemd-cat", "--identifier=tester", "echo", "into the journal")
    commandline.output(host_dir, "exec", veid, "journalctl", "--sync")
    assert "into the journal" in commandline.output(host_dir, "logs", veid)
    commandline.output(host_dir, "freeze", veid)
    done = commandline.run(host_dir, "logs", veid)
    assert "into the journal" not in done.stdout and done.stderr.startswith(f"{veid} is frozen: ")
    commandline.output(host_dir, "stop", "--fast", veid)
    done = commandline.run(host_dir, "logs", veid)
    assert "into the journal" not in done.stdout and done.stderr.startswith(f"{veid} is stopped: ")


# --- beside a journal ---------------------------------------------------------------------------------------------


@pytest.fixture
def keeper(talker: "ve.Environment", tmp_path: Path) -> "ve.Environment":
    """One with what answers as a journal does."""
    script = tmp_path / "journalctl"
    script.write_text('#!/bin/sh\necho "a journal"\ncase "$*" in *--follow*) exec sleep 100000;; esac\n')
    script.chmod(0o755)
    talker.copy_in(str(script), "/usr/bin/journalctl")
    return talker


def until(chunks: Iterator[bytes], *wanted: bytes) -> bytes:
    text = b""
    while not all(each in text for each in wanted):
        text += next(chunks)
    return text


@pytest.mark.any_kernel
def test_the_log_then_the_journal(keeper: "ve.Environment") -> None:
    text = b"".join(keeper.log_chunks())
    assert text.endswith(b"a journal\n") and b"to stdout\n" in text


@pytest.mark.any_kernel
def test_nobody_asks_for_a_journal_where_one_command_runs(host: "ve.Host", host_dir: Path, tmp_path: Path) -> None:
    script = tmp_path / "journalctl"
    script.write_text('#!/bin/sh\necho "a journal"\n')
    script.chmod(0o755)
    with host.ephemeral("busybox", command=["sh", "-c", "echo a log; exec sleep 100000"]) as env:
        wait_for(host_dir, env.veid, b"a log\n")
        env.copy_in(str(script), "/usr/bin/journalctl")
        assert env.run(["journalctl"], capture_output=True, text=True, check=True).stdout == "a journal\n"
        assert commandline.output(host_dir, "logs", env.veid) == "a log\n"


@pytest.mark.any_kernel
def test_both_until_the_end(keeper: "ve.Environment", host_dir: Path) -> None:
    chunks = keeper.log_chunks(follow=True)
    until(chunks, b"to stderr\n", b"a journal\n")
    write(host_dir, keeper.veid, "echo more")
    until(chunks, b"more\n")
    keeper.stop(fast=True)
    list(chunks)


@pytest.mark.any_kernel
def test_who_stops_following_leaves_nothing(keeper: "ve.Environment") -> None:
    """No thread, descriptor, process or cgroup; and a yielded piece is no reason to keep one."""
    before = conftest._fds(), conftest._children(), threading.active_count()
    chunks = keeper.log_chunks(follow=True)
    until(chunks, b"a journal\n")
    assert threading.active_count() == before[2]
    chunks.close()  # type: ignore[attr-defined]
    assert (conftest._fds(), conftest._children(), threading.active_count()) == before


@pytest.mark.any_kernel
@pytest.mark.parametrize("follow", [False, True])
def test_a_journal_that_cannot_be_read(keeper: "ve.Environment", follow: bool) -> None:
    """The log is shown alone."""
    keeper.run(["chmod", "644", "/usr/bin/journalctl"], check=True)
    chunks = keeper.log_chunks(follow)
    assert b"a journal" not in until(chunks, b"to stderr\n")
    keeper.run(["chmod", "755", "/usr/bin/journalctl"], check=True)
    chunks.close()  # type: ignore[attr-defined]
    keeper.freeze()
    chunks = keeper.log_chunks(follow)
    assert b"a journal" not in until(chunks, b"to stderr\n")
    chunks.close()  # type: ignore[attr-defined]
