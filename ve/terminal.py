"""Terminals: raw mode, window sizes, and copying between descriptors until whoever is at the other end is done.

Nothing here knows what a VE is: a pty's master is a descriptor, and an end is a descriptor that becomes readable.
Signal handlers and terminal modes are the caller's again on every way out.
"""

import contextlib
import errno
import fcntl
import os
import select
import signal
import stat
import struct
import termios
import threading
import tty
from collections.abc import Callable, Iterable, Iterator

from ve._linux import ioctls

_CHUNK = 65536
_LEFT_MAX = 4 << 20  # more than any pipe or pty holds: what comes after that was not written before the end
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR
_BROKEN = select.POLLHUP | select.POLLERR | select.POLLNVAL

CTRL_BRACKET = 0x1D  # what systemd-nspawn and telnet take to be meant for them
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def is_master(fd: int) -> bool:
    """Is this really the master of a pty, not something else that a VE has put in its place?"""
    status = os.fstat(fd)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != ioctls.PTMX:
        return False
    try:
        fcntl.ioctl(fd, ioctls.TIOCGPTN, bytes(4))
    except OSError:
        return False
    return True


def slave(master: int) -> int:
    """The other side of a pty, by no path (TIOCGPTPEER, ioctl_tty(2)); for the caller to close."""
    return fcntl.ioctl(master, ioctls.TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def window_size(fds: Iterable[int] = (0, 1, 2)) -> bytes:
    """The struct winsize of the first of fds that is a terminal, for TIOCSWINSZ; b"" if none is."""
    for fd in fds:
        with contextlib.suppress(OSError):
            return fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(struct.calcsize("4H")))
    return b""


def copy_window_size(source: int, destination: int) -> None:
    """Tell destination (and by SIGWINCH who reads it) the size of source; nothing if either is no terminal."""
    if size := window_size((source,)):
        with contextlib.suppress(OSError):
            fcntl.ioctl(destination, termios.TIOCSWINSZ, size)


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """If fd is a terminal: keys come as they are typed, with no echo and no signals; its modes are restored."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    try:
        _set_raw(fd)
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal may have gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _set_raw(fd: int) -> None:
    """Also where a signal came first, as to who begins in the background and is stopped for that."""
    while True:
        try:
            tty.setraw(fd, termios.TCSADRAIN)
            return
        except termios.error as error:
            if error.args[0] != errno.EINTR:
                raise


@contextlib.contextmanager
def handlers(actions: dict[signal.Signals, Callable[[int], None]]) -> Iterator[None]:
    """Call actions[number](number) when a signal comes, in the main thread; a signal that is ignored stays so.

    From another thread nothing is installed, since Python runs handlers in the main thread alone.
    """
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in actions:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    before[number] = signal.signal(number, lambda number, _: actions[signal.Signals(number)](number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _nothing() -> None:
    pass


def _ignore(_: bytes) -> None:
    pass


class Route:
    """Bytes from one descriptor to another, until the source ends or the destination breaks; then done() is called.

    A destination of our own should be non-blocking, so that one who does not read stops only this route.
    With `output`, what the source still holds when all has ended is copied as well.  heard() is called with each piece.
    """

    def __init__(
        self,
        source: int,
        destination: int,
        output: bool = False,
        done: Callable[[], None] = _nothing,
        heard: Callable[[bytes], None] = _ignore,
    ) -> None:
        self.source, self.destination = source, destination
        self.output, self.done, self.heard = output, done, heard
        self.over, self._pending = False, b""

    def interest(self) -> dict[int, int]:
        """What poll(2) should look for; a destination that breaks is told in any case."""
        if self._pending:
            return {self.destination: select.POLLOUT}
        return {self.source: select.POLLIN, self.destination: 0}

    def step(self, events: dict[int, int]) -> None:
        """Do what poll(2) found possible."""
        if self._pending:
            if events.get(self.destination, 0):
                self._write()
        elif events.get(self.source, 0):
            self._read()
        elif events.get(self.destination, 0) & _BROKEN:
            self.finish()

    def drain(self) -> None:
        """Copy what is there now, and no more."""
        poll = select.poll()
        poll.register(self.source, select.POLLIN)
        copied = 0
        while not self.over and copied < _LEFT_MAX:
            if self._pending:
                _wait_writable(self.destination)
                self._write()
            elif any(events & _READABLE for _, events in poll.poll(0)):
                self._read()
                copied += len(self._pending)
            else:
                return

    def finish(self) -> None:
        self.over = True
        self.done()

    def _read(self) -> None:
        try:
            self._pending = os.read(self.source, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: the other side of a pty has hung up
            self._pending = b""
        if not self._pending:
            self.finish()
        self.heard(self._pending)

    def _write(self) -> None:
        try:
            self._pending = self._pending[os.write(self.destination, self._pending) :]
        except BlockingIOError:
            return
        except OSError:  # EPIPE, EIO: nobody takes it any more
            self._pending = b""
            self.finish()


def pump(routes: Iterable[Route], ended: int, last: Route | None = None) -> None:
    """Copy along all routes until the descriptor `ended` becomes readable, or the route `last` is over."""
    routes = list(routes)
    while last is None or not last.over:
        poll = select.poll()
        interest = {ended: select.POLLIN}
        for route in routes:
            for fd, events in route.interest().items() if not route.over else ():
                interest[fd] = interest.get(fd, 0) | events
        for fd, events in interest.items():
            poll.register(fd, events)
        found = dict(poll.poll())
        for route in routes:
            if not route.over:
                route.step(found)
        if ended in found:
            break
    for route in routes:
        if route.output:
            route.drain()


class Escape:
    """Calls action for each time that Ctrl-] comes three times in a row; what comes, keys or not, may be in pieces."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.action = action
        self._count = 0

    def __call__(self, keys: bytes) -> None:
        for key in keys:
            self._count = self._count + 1 if key == CTRL_BRACKET else 0
            if self._count == 3:
                self._count = 0
                self.action()


def connect(
    master: int,
    ended: int,
    forward: Callable[[int], None] | None = None,
    stdin: int = 0,
    stdout: int = 1,
    escape: Callable[[], None] = _nothing,
) -> None:
    """Connect our terminal with a pty's master until `ended` becomes readable or the pty hangs up.

    Our terminal, if stdin is one, is raw meanwhile, changes of its size are passed on, signals that would end us go to
    `forward` instead, and Ctrl-] three times in a row calls `escape`.  Whoever connects with a console, where processes
    come and go, holds a slave() of it open, so that the pty does not hang up in between.
    """
    os.set_blocking(master, False)
    output = Route(master, stdout, output=True)
    actions: dict[signal.Signals, Callable[[int], None]] = {}
    if forward is not None:
        actions = dict.fromkeys(FORWARDED, forward)
    actions[signal.SIGWINCH] = lambda _: copy_window_size(stdin, master)
    with handlers(actions), own_reader(stdin) as keys, raw(stdin):
        copy_window_size(stdin, master)
        heard = Escape(escape) if os.isatty(stdin) else _ignore
        pump((Route(keys, master, heard=heard), output), ended, last=output)


@contextlib.contextmanager
def own_reader(fd: int) -> Iterator[int]:
    """A non-blocking descriptor of the terminal fd, whose flags nobody shares: fd itself where that cannot be.

    Where another process reads the same terminal, it may take what poll promised us, and read(2) would then block.
    """
    mine = -1
    if os.isatty(fd):
        with contextlib.suppress(OSError):
            mine = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield fd if mine < 0 else mine
    finally:
        if mine >= 0:
            os.close(mine)


def _wait_writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll()
