"""Copying between descriptors, raw mode, signal handlers: what comes through, and what is as before afterwards."""

import os
import select
import signal
import termios
import threading
from collections.abc import Iterator

import pytest

from ve import terminal
from ve.terminal import Route


@pytest.fixture
def fds() -> Iterator[list[int]]:
    opened: list[int] = []
    yield opened
    for fd in opened:
        os.close(fd)


def pipe(fds: list[int]) -> tuple[int, int]:
    pair = os.pipe()
    fds.extend(pair)
    return pair


def never(fds: list[int]) -> int:
    return pipe(fds)[0]


def test_pump_copies_until_the_source_ends(fds: list[int]) -> None:
    source, feed = os.pipe()
    drain, sink = os.pipe()
    ends = []
    data = os.urandom(3 << 20)

    def write() -> None:
        with open(feed, "wb") as file:
            file.write(data)

    got = bytearray()

    def read() -> None:
        while piece := os.read(drain, 65536):
            got.extend(piece)

    threads = [threading.Thread(target=write), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    os.set_blocking(sink, False)  # partial writes and EAGAIN
    route = Route(source, sink, done=lambda: ends.append(1))
    terminal.pump([route], never(fds), last=route)
    os.close(sink)
    for thread in threads:
        thread.join()
    assert bytes(got) == data
    assert ends == [1]
    fds += [source, drain]


def test_pump_drains_outputs_after_the_end(fds: list[int]) -> None:
    (source, feed), (drain, sink), (ended, end) = pipe(fds), pipe(fds), pipe(fds)
    os.write(feed, b"last words")
    os.write(end, b"x")
    terminal.pump([Route(source, sink, output=True)], ended)
    assert os.read(drain, 100) == b"last words"


def test_pump_does_not_wait_for_who_still_holds_the_pipe(fds: list[int]) -> None:
    (source, _), (_, sink), (ended, end) = pipe(fds), pipe(fds), pipe(fds)
    os.write(end, b"x")
    terminal.pump([Route(source, sink, output=True)], ended)


def test_a_broken_destination_ends_the_route(fds: list[int]) -> None:
    (source, feed), (drain, sink) = pipe(fds), os.pipe()
    fds.append(sink)
    os.close(drain)
    os.write(feed, b"x")
    route = Route(source, sink)
    terminal.pump([route], never(fds), last=route)
    assert route.over


def test_hangup_of_a_pty_is_an_end_and_nothing_is_lost(fds: list[int]) -> None:
    master, slave = os.openpty()
    drain, sink = pipe(fds)
    fds.append(master)
    attributes = termios.tcgetattr(slave)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(slave, termios.TCSANOW, attributes)
    os.write(slave, b"y" * 3000)
    os.close(slave)
    route = Route(master, sink, output=True)
    terminal.pump([route], never(fds), last=route)
    assert os.read(drain, 10000) == b"y" * 3000


def test_raw_mode_is_undone_on_exceptions(fds: list[int]) -> None:
    fds += os.openpty()
    before = termios.tcgetattr(fds[1])
    with pytest.raises(ZeroDivisionError), terminal.raw(fds[1]):
        assert termios.tcgetattr(fds[1]) != before
        raise ZeroDivisionError
    assert termios.tcgetattr(fds[1]) == before


def test_handlers_are_called_and_restored() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    got: list[int] = []
    with terminal.handlers({signal.SIGUSR1: got.append}):
        signal.raise_signal(signal.SIGUSR1)
    assert got == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminal.handlers({signal.SIGHUP: lambda _: pytest.fail()}):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_in_another_thread_change_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with terminal.handlers({signal.SIGTERM: print}):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_window_size_is_copied(fds: list[int]) -> None:
    one, other = os.openpty(), os.openpty()
    fds += [*one, *other]
    termios.tcsetwinsize(one[0], (33, 99))
    terminal.copy_window_size(one[1], other[0])
    assert termios.tcgetwinsize(other[1]) == (33, 99)
    terminal.copy_window_size(pipe(fds)[0], other[0])  # nothing to copy
    assert terminal.window_size([fds[-1]]) == b""


def test_only_a_master_is_a_master(fds: list[int]) -> None:
    fds += os.openpty()
    assert terminal.is_master(fds[0])
    assert not terminal.is_master(fds[1])
    fds.append(os.open("/dev/null", os.O_RDWR))
    assert not terminal.is_master(fds[2])
    assert not terminal.is_master(pipe(fds)[0])


def test_own_reader_does_not_change_the_terminal(fds: list[int]) -> None:
    fds += os.openpty()
    with terminal.own_reader(fds[1]) as keys:
        assert keys != fds[1]
        assert not os.get_blocking(keys)
        assert os.get_blocking(fds[1])
    reader = pipe(fds)[0]
    with terminal.own_reader(reader) as keys:
        assert keys == reader


def test_connect_ends_with_the_pty_and_restores_ours(fds: list[int]) -> None:
    ours, theirs = os.openpty(), os.openpty()
    fds += [*ours, theirs[0]]
    before, handler = termios.tcgetattr(ours[1]), signal.getsignal(signal.SIGWINCH)
    os.write(theirs[1], b"bye")
    os.close(theirs[1])
    terminal.connect(theirs[0], never(fds), stdin=ours[1], stdout=ours[1])
    assert select.select([ours[0]], [], [], 10)[0]
    assert os.read(ours[0], 10) == b"bye"
    assert termios.tcgetattr(ours[1]) == before
    assert signal.getsignal(signal.SIGWINCH) == handler
