"""The log under a writer that has it open, as init has."""

import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ve import log
from ve.errors import Error

pytestmark = pytest.mark.any_kernel


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "log")


@pytest.fixture
def writer(path: str) -> Iterator[int]:
    fd = log.open_for_init(path, 100000)
    yield fd
    os.close(fd)


def test_the_log_is_the_ve_roots_and_appended_to(path: str, writer: int) -> None:
    os.write(writer, b"one\n")
    with Path(path).open("ab") as other:
        other.write(b"two\n")
    os.write(writer, b"three\n")
    about = Path(path).stat()
    assert (about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode)) == (100000, 100000, 0o600)
    assert Path(path).read_bytes() == b"one\ntwo\nthree\n"
    assert not os.get_inheritable(writer)
    assert os.get_blocking(writer)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path)])
def test_only_a_regular_file_is_a_log(path: str, make: Callable[[str], None]) -> None:
    make(path)
    for use in (lambda: log.open_for_init(path, 0), lambda: log.trim(path), lambda: next(log.chunks(path))):
        with pytest.raises(Error, match="not a regular file"):
            use()


def test_trim_keeps_whole_last_lines_and_the_file(path: str, writer: int) -> None:
    lines = [f"line {number:06}\n".encode() for number in range(200)]
    os.write(writer, b"".join(lines))
    inode = Path(path).stat().st_ino
    assert log.trim(path, keep=100)
    assert Path(path).read_bytes() == b"".join(lines[-8:])  # 12 bytes each: eight are whole in the last 100
    assert Path(path).stat().st_ino == inode
    os.write(writer, b"after\n")
    assert Path(path).read_bytes() == b"".join(lines[-8:]) + b"after\n"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (b"x" * 200, b"x" * 100),  # no line at all
        (b"y" * 99 + b"\n" + b"z" * 99 + b"\n", b"z" * 99 + b"\n"),  # a line that begins just at the cut
        (b"a\n" + b"z" * 150 + b"\n", b"z" * 99 + b"\n"),
    ],
)
def test_trim_at_the_edges(path: str, writer: int, text: bytes, kept: bytes) -> None:
    os.write(writer, text)
    assert log.trim(path, keep=100)
    assert Path(path).read_bytes() == kept
    assert not log.trim(path, keep=100)


def test_trim_of_what_is_short_or_not_there(path: str) -> None:
    assert not log.trim(path)
    Path(path).write_bytes(b"x" * 100)
    assert not log.trim(path, keep=100)


def test_trim_while_a_process_writes(path: str, writer: int) -> None:
    """Every line that is there afterwards is whole and in order, and the last one is there."""
    script = "import os\nfor n in range(60000): os.write(1, b'%08d\\n' % n)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=writer) as process:
        trims = 0
        while process.poll() is None:
            trims += log.trim(path, keep=9 * 100)
    assert trims > 1
    numbers = [int(line) for line in Path(path).read_bytes().splitlines() if len(line) == 8]
    assert numbers == sorted(numbers)
    assert len(numbers) == len(Path(path).read_bytes().splitlines())
    os.write(writer, b"end\n")
    assert Path(path).read_bytes().endswith(b"end\n")


def test_chunks_without_following(path: str, writer: int) -> None:
    assert list(log.chunks(path)) == []
    os.write(writer, b"x" * 200_000)
    assert b"".join(log.chunks(path)) == b"x" * 200_000


class Follower:
    """Collects what chunks gives, in a thread; expect() waits until that much has come."""

    def __init__(self, path: str) -> None:
        self.stop, self._stop_now = os.pipe()
        self.text = b""
        self.came = threading.Condition()
        self.thread = threading.Thread(target=self._run, args=(path,))
        self.thread.start()

    def _run(self, path: str) -> None:
        for chunk in log.chunks(path, follow=True, stop=self.stop):
            with self.came:
                self.text += chunk
                self.came.notify_all()

    def expect(self, text: bytes) -> None:
        with self.came:
            assert self.came.wait_for(lambda: self.text == text, timeout=20), self.text[-200:]

    def end(self, stop: bool = True) -> None:
        """stop: tell it to end, rather than find that it does by itself."""
        if stop:
            os.close(self._stop_now)
        self.thread.join(20)
        ended = not self.thread.is_alive()
        if not stop:
            os.close(self._stop_now)
            self.thread.join()
        os.close(self.stop)
        assert ended


@pytest.fixture
def follower(path: str) -> Iterator[Follower]:
    follower = Follower(path)
    yield follower
    follower.end()


def test_follow_from_before_the_first_start(follower: Follower, path: str) -> None:
    fd = log.open_for_init(path, 0)
    os.write(fd, b"one\n")
    follower.expect(b"one\n")
    os.write(fd, b"two\n")
    follower.expect(b"one\ntwo\n")
    os.close(fd)


def test_follow_goes_on_after_a_trim(writer: int, follower: Follower, path: str) -> None:
    text = b"".join(b"line %06d\n" % number for number in range(1000))
    os.write(writer, text)
    follower.expect(text)
    assert log.trim(path, keep=5000)
    os.write(writer, b"more\n")
    follower.expect(text + b"more\n")


def test_follow_begins_again_after_a_cut_by_the_ve(writer: int, follower: Follower, path: str) -> None:
    os.write(writer, b"x" * 100 + b"\n")
    follower.expect(b"x" * 100 + b"\n")
    os.truncate(path, 0)
    os.write(writer, b"new\n")
    follower.expect(b"x" * 100 + b"\n" + b"new\n")


def test_following_ends_with_the_log_and_with_a_process(path: str, writer: int) -> None:
    os.write(writer, b"one\n")
    with subprocess.Popen(["true"]) as process:
        pidfd = os.pidfd_open(process.pid)
        assert b"".join(log.chunks(path, follow=True, stop=pidfd)) == b"one\n"
        os.close(pidfd)
    os.unlink(path)
    assert list(log.chunks(path)) == []


@pytest.mark.parametrize("started", [True, False])
def test_following_ends_when_the_private_area_goes(started: bool, tmp_path: Path) -> None:
    private = tmp_path / "101"
    private.mkdir()
    (private / "other").touch()
    follower = Follower(str(private / "log"))
    if started:
        (private / "log").write_bytes(b"one\n")
        follower.expect(b"one\n")
    shutil.rmtree(private)
    follower.end(stop=False)


def test_a_function_can_end_following(path: str, writer: int) -> None:
    os.write(writer, b"one\n")
    seen = log.chunks(path, follow=True, stop=lambda: True)
    assert next(seen) == b"one\n"
    os.write(writer, b"two\n")
    assert list(seen) == [b"two\n"]


@pytest.mark.parametrize("follow", [True, False])
def test_a_time_can_end_all(path: str, writer: int, follow: bool) -> None:
    """Also the wait for a pipe that somebody keeps open and says nothing more in."""
    os.write(writer, b"one\n")
    reading, writing = os.pipe()
    os.write(writing, b"two\n")
    try:
        chunks = log.chunks(path, follow, pipe=reading, until=time.monotonic() + 0.1)
        assert b"".join(chunks) == b"one\ntwo\n"
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("where", ["log", "pipe"])
@pytest.mark.parametrize("follow", [True, False])
def test_a_time_ends_what_always_has_more(path: str, writer: int, follow: bool, where: str) -> None:
    """Each piece that is taken makes the next one."""
    reading, writing = os.pipe()
    until = time.monotonic() + 0.1
    more = writer if where == "log" else writing
    os.write(more, b"more\n")
    try:
        late = 0
        for _ in log.chunks(path, follow, pipe=reading, until=until):
            late += time.monotonic() >= until
            assert late < 10, "it goes on"
            os.write(more, b"more\n")
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("old", [100, 5000, 100_000])
def test_from_where_it_was_written_to_whatever_is_trimmed(path: str, writer: int, old: int) -> None:
    """Before a start its log has old lines; what is trimmed meanwhile are these, and some of the new ones at last."""
    os.write(writer, b"old\n" * (old // 4))
    log.trim(path, keep=5000)
    since = log.written(path)
    assert since == old
    new = b""
    for number in range(3000):
        new += b"new %06d\n" % number
        os.write(writer, b"new %06d\n" % number)
        if number % 100 == 0:
            log.trim(path, keep=5000)
            seen = b"".join(log.chunks(path, since=since))
            assert new.endswith(seen) and len(seen) >= min(len(new), 5000 - 11)


def test_from_where_it_was_and_trimmed_while_it_is_followed(path: str, writer: int) -> None:
    os.write(writer, b"old\n" * 5000)
    seen = log.chunks(path, follow=True, stop=lambda: True, since=log.written(path) - 4)
    assert next(seen) == b"old\n"
    os.write(writer, b"new\n")
    assert log.trim(path, keep=10_000)
    assert list(seen) == [b"new\n"]


@pytest.mark.parametrize("said", [b"", b"x", b"-1", b"9" * 1000, b"9" * 30])
def test_what_the_ve_says_of_cuts_is_its_own_loss(path: str, writer: int, said: bytes) -> None:
    os.setxattr(path, "user.ve.cut", said)
    os.write(writer, b"line\n" * 1000)
    since = log.written(path)
    assert since == 5000 and log.trim(path, keep=100)
    assert list(log.chunks(path, since=since)) == []
    os.truncate(path, 0)
    os.write(writer, b"line\n")
    assert list(log.chunks(path, since=since)) == [b"line\n"]
