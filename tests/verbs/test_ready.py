"""ve start --wait, and wait_ready: what runs is not ready before it is; what never is ends in an error with the log.

The witness that a condition was not so before is whoever makes it so: it had begun by then.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.verbs import commandline
from tests.verbs.conftest import Make
from ve import errand, files
from ve.errors import InvalidValue, NotReady, NotRunning, NotSupported

LONG = 60.0  # seconds, which nobody waits for unless the test fails
SOON = 0.5  # seconds in which nothing comes


@pytest.fixture
def running(make: Make) -> "ve.Environment":
    env = make()
    env.start()
    return env


@contextmanager
def later(env: "ve.Environment", script: str) -> Iterator[None]:
    """Begin to wait, then have a script run in the VE: the with block has to outlast that."""
    begun = threading.Event()
    processes: list[ve.Popen] = []

    def begin() -> None:
        begun.set()
        processes.append(env.popen(["sh", "-c", script]))

    timer = threading.Timer(SOON, begin)
    timer.start()
    try:
        yield
        assert begun.is_set(), "it was ready before anything had happened"
    finally:
        timer.join()
        for process in processes:
            process.kill()
            process.wait()


def refused(env: "ve.Environment", *conditions: str, timeout: float = SOON) -> NotReady:
    with pytest.raises(NotReady) as caught:
        env.wait_ready(*conditions, timeout=timeout)
    return caught.value


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
def test_a_port(running: "ve.Environment", address: str) -> None:
    """One without addresses has its loopback alone."""
    with later(running, f"exec httpd -f -p {address}:81"):
        running.wait_ready("tcp:81", timeout=LONG)


def test_a_port_of_the_host_is_not_its_own(running: "ve.Environment") -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert refused(running, f"tcp:{port}").missing == (f"tcp:{port} (connection refused)",)


def test_a_file_below_directories_that_are_not_there(running: "ve.Environment") -> None:
    with later(running, "mkdir -p /srv/a/b; echo >/srv/a/b/c; exec sleep 1000"):
        running.wait_ready("file:/srv/a/b/c", timeout=LONG)


@pytest.mark.parametrize(
    "script", ["mv /old /srv/new", "ln -s /old /srv/new", "mount -t tmpfs tmpfs /srv; touch /srv/new"]
)
def test_a_file_that_comes_in_other_ways(running: "ve.Environment", script: str) -> None:
    running.run(["sh", "-c", "mkdir -p /srv; touch /old"], check=True)
    with later(running, f"{script}; exec sleep 1000"):
        running.wait_ready("file:/srv/new", timeout=LONG)


def test_a_link_does_not_lead_to_the_host(running: "ve.Environment", tmp_path: Path) -> None:
    """Only what is in its own root counts, wherever a link points."""
    (tmp_path / "here").touch()
    up = "../" * 20
    running.run(["sh", "-c", f"ln -s {tmp_path}/here /abs; ln -s {up}{tmp_path}/here /up"], check=True)
    error = refused(running, "file:/abs", "file:/up", f"file:/{up}{tmp_path}/here")
    assert len(error.missing) == 3
    running.run(["mkdir", "-p", str(tmp_path)], check=True)
    running.run(["touch", f"{tmp_path}/here"], check=True)
    running.wait_ready("file:/abs", "file:/up", f"file:/{up}{tmp_path}/here", timeout=LONG)


def test_a_line_of_the_log(running: "ve.Environment") -> None:
    with later(running, "exec >/proc/1/fd/1; printf 'ready to '; echo 'accept 17'; exec sleep 1000"):
        running.wait_ready(r"log:^ready to accept \d+$", timeout=LONG)


def test_a_line_of_an_earlier_start_is_none(running: "ve.Environment") -> None:
    running.run(["sh", "-c", "echo it is up >/proc/1/fd/1"], check=True)
    running.wait_ready("log:it is up", timeout=LONG)
    running.restart()
    assert b"it is up" in Path(running.log_path).read_bytes()
    refused(running, "log:it is up")


@pytest.mark.parametrize("lines", [1 << 15, (1 << 15) - 2])
def test_nor_is_one_where_the_log_is_long(running: "ve.Environment", lines: int) -> None:
    """As it is cut meanwhile: with old lines just as many as are kept, and two less."""
    running.stop(fast=True)
    Path(running.log_path).write_text(("an old line".ljust(31) + "\n") * lines)
    running.start()
    refused(running, "log:an old line")
    with later(running, "exec >>/proc/1/fd/1; echo it is new; seq 30; exec sleep 1000"):
        running.wait_ready("log:^it is new$", timeout=LONG)
    refused(running, "log:an old line")
    running.wait_ready("log:^it is new$", timeout=LONG)


def test_a_command(running: "ve.Environment") -> None:
    with later(running, "touch /there; exec sleep 1000"):
        running.wait_ready("command:test -e /there", ["test", "-e", "/there"], timeout=LONG)
    error = refused(running, "command:echo one; echo no >&2; exit 4", ["no-such"])  # type: ignore[arg-type]
    assert error.missing[0].endswith("(exit code 4: no)")
    assert error.missing[1] == "command:no-such (no-such: No such file or directory)"


def test_a_command_that_does_not_end_is_ended(running: "ve.Environment") -> None:
    error = refused(running, "command:sleep 4711 & yes; wait")
    assert error.missing == ("command:sleep 4711 & yes; wait (it does not end)",)
    assert "4711" not in running.run(["ps"], capture_output=True, text=True).stdout


def test_all_together(running: "ve.Environment") -> None:
    running.run(["touch", "/a"], check=True)
    with later(running, "nc -l -p 81 >/dev/null & sleep 0.2; touch /b; echo up >/proc/1/fd/1; exec sleep 1000"):
        running.wait_ready("file:/a", "log:up", "tcp:81", "file:/b", ["test", "-e", "/b"], timeout=LONG)


def test_the_error_names_all_that_is_missing_and_has_the_log(running: "ve.Environment") -> None:
    running.run(["sh", "-c", "echo the end of it >/proc/1/fd/1"], check=True)
    error = refused(running, "tcp:81", "file:/etc/passwd", "file:/no", "command:false", "log:the end", "log:no")
    assert [text.partition(" ")[0] for text in error.missing] == ["tcp:81", "file:/no", "command:false", "log:no"]
    assert all(text in str(error) for text in error.missing)
    assert error.log.splitlines()[-1] == "the end of it"
    assert error.hint == f"ve logs {running.veid} may say why; it goes on running"
    assert running.run(["true"]).returncode == 0


def test_one_that_ends_is_told_at_once(running: "ve.Environment") -> None:
    running.run(["sh", "-c", "echo last words >/proc/1/fd/1"], check=True)
    for condition in ("tcp:81", "file:/no", "log:no", "command:sleep 1000"):
        if running.pid is None:
            running.start()
        with later(running, "kill -USR2 1"):
            error = refused(running, condition, timeout=LONG)
        assert str(error) == f"cannot wait for {running.veid}: it has ended before {condition} was so"
        assert running.pid is None
        if condition == "tcp:81":
            assert "last words" in error.log


def test_who_looks_for_a_file_in_one_that_has_ended_is_told_that(running: "ve.Environment") -> None:
    """And nothing of its users: it may end between two looks of ours."""
    assert running.pid is not None
    pidfd = os.pidfd_open(running.pid)
    try:
        running.stop(fast=True)
        request = {"action": "appear", "path": "/no"}
        with (
            pytest.raises(NotRunning) as caught,
            files.Hand(files.Place(running.veid, pidfd=pidfd), "cannot wait", request) as hand,
        ):
            hand.expect("DONE")
        assert "passwd" not in caught.value.hint
    finally:
        os.close(pidfd)


def test_one_that_ends_between_two_looks(running: "ve.Environment", monkeypatch: pytest.MonkeyPatch) -> None:
    """Its network cannot be entered any more."""
    real = errand.inside

    def late(pidfd: int, work: Callable[[], str]) -> str:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert commandline.has_ended(pidfd)
        return real(pidfd, work)

    monkeypatch.setattr(errand, "inside", late)
    error = refused(running, "tcp:81", timeout=LONG)
    assert str(error) == f"cannot wait for {running.veid}: it has ended before tcp:81 was so"


def test_one_that_is_frozen_or_does_not_run(running: "ve.Environment", host_dir: Path) -> None:
    running.freeze()
    with pytest.raises(NotRunning, match=r"it is frozen$"):
        running.wait_ready("tcp:81")
    running.thaw()
    threading.Timer(SOON / 2, running.freeze).start()
    error = refused(running, "file:/no", timeout=2 * SOON)
    assert ", and it is frozen by now: file:/no" in str(error)
    running.stop(fast=True)
    with pytest.raises(NotRunning):
        running.wait_ready("tcp:81")


@pytest.mark.parametrize("seconds", [-1, float("nan"), "5", None])
def test_no_time(running: "ve.Environment", seconds: Any) -> None:
    with pytest.raises(InvalidValue, match=r"is no number of seconds"):
        running.wait_ready("file:/etc/passwd", timeout=seconds)


def test_no_time_at_all_is_one_look(running: "ve.Environment") -> None:
    running.wait_ready("file:/etc/passwd", ["true"], timeout=0)
    for much in (float("inf"), 10**400):
        running.wait_ready("file:/etc/passwd", timeout=much)
    refused(running, "file:/no", timeout=0)


def test_an_init_that_does_not_tell(running: "ve.Environment") -> None:
    with pytest.raises(NotSupported, match=r"only systemd tells"):
        running.wait_ready()


def test_one_that_is_thrown_away(host: "ve.Host") -> None:
    with host.ephemeral("busybox") as env:
        with later(env, "touch /there; nc -l -p 81 >/dev/null; exec sleep 1000"):
            env.wait_ready("file:/there", "tcp:81", timeout=LONG)
        with later(env, "echo it is up > /proc/1/fd/1"):
            env.wait_ready("log:is up$", timeout=LONG)
            host.get(env.veid).wait_ready("log:is up$", timeout=LONG)  # whoever asks
        assert refused(env, "tcp:82").log == "it is up"


# ---- systemd --------------------------------------------------------------------------------------------------------


def test_systemd_has_booted(make: Make, debian: str) -> None:
    env = make(debian)
    env.start()
    with pytest.raises(NotReady):
        env.wait_ready(timeout=0)  # it has just begun
    env.wait_ready("boot", r"log:systemd\[1\]: Startup finished", timeout=2 * LONG)
    state = env.run(["systemctl", "is-system-running"], capture_output=True, text=True).stdout
    assert state in ("running\n", "degraded\n")
    pending = env.run(["systemctl", "list-jobs", "--no-legend"], capture_output=True, text=True).stdout
    assert "start" not in pending


def test_the_journal_of_one_that_is_thrown_away(host: "ve.Host", debian: str) -> None:
    with host.ephemeral(debian) as env:
        env.wait_ready(r"log:systemd\[1\]: Startup finished", timeout=2 * LONG)
        assert "systemd[1]" in refused(env, "file:/no").log


# ---- the command line -----------------------------------------------------------------------------------------------


def test_start_and_wait(make: Make, host_dir: Path) -> None:
    one, two = make(), make(name="waited")
    (host_dir / f"private/{two.veid}/upper/flag").touch()
    words = ("--ready", "file:/etc/passwd", "--ready", "command:test -e /proc/1/exe")
    done = commandline.run(host_dir, "start", *words, one.veid, two.veid)
    assert done.returncode == 0
    starts = [f"{env} is running; a reboot from inside will end it" for env in (one.veid, f"{two.veid} ({two.name})")]
    assert done.stderr.splitlines() == [*starts, f"{one.veid} is ready", f"{two.veid} ({two.name}) is ready"]


def test_start_and_wait_in_vain(make: Make, host_dir: Path) -> None:
    env = make()
    done = commandline.run(host_dir, "start", "--ready", "tcp:81", "--timeout", "0.3", env.veid)
    lines = done.stderr.splitlines()
    why = f"ve: cannot wait for {env.veid}: it was not ready in 0.3 s: tcp:81 (connection refused)"
    assert (done.returncode, lines[1], lines[-1][:5]) == (133, why, "hint:")
    assert env.pid is not None
    assert commandline.run(host_dir, "start", "--wait", env.veid).returncode == 32


def test_a_condition_that_is_none_starts_nothing(make: Make, host_dir: Path) -> None:
    env = make()
    done = commandline.run(host_dir, "start", "--ready", "log:(", env.veid)
    assert done.returncode == 20 and "it is no regular expression" in done.stderr
    assert not commandline.cgroup(host_dir, env.veid).exists()
