"""Who works on the files of a VE never waits for ever: its root may have mounted there what does not answer.

What hangs in the kernel can say so no more, and not even SIGKILL ends it before it is answered (FUSE).  So a second
thread looks whether the first goes on, and says where it does not; it ends both, so that nothing happens later.  So it
does when the VE ends, whose root would stay in use otherwise, and then be in two overlays after its next start.
"""

from __future__ import annotations

import _thread
import errno
import io
import os
import select

from ve import farside

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable
    from typing import Any

_LOOKS = 5  # at it, until it has had its time


class Watch:
    """Counts what is begun; ERROR ETIMEDOUT on the channel, and the end, where nothing is for that many seconds.

    ERROR ESRCH, and the end, when the init of this pidfd has ended; -1 if there is none.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.resting = False
        self.where: Callable[[], str] = str

    def begin(self, channel: _socket.socket, patience: float, pidfd: int) -> None:
        _thread.start_new_thread(self._look, (channel, patience / _LOOKS, pidfd))

    def at(self, place: str) -> None:
        """Something is done there from now on."""
        self.where = lambda: place
        self.step()

    def step(self) -> None:
        """Something else is."""
        self.steps += 1
        self.resting = False

    def rest(self) -> None:
        """What is waited for now is no file of the VE's."""
        self.resting = True

    def _look(self, channel: _socket.socket, interval: float, pidfd: int) -> None:
        end = select.poll()
        if pidfd >= 0:
            end.register(pidfd, select.POLLIN)
        seen, idle = -1, 0
        number, why = errno.ETIMEDOUT, "it does not answer"
        while idle < _LOOKS:
            if end.poll(interval * 1000):
                number, why = errno.ESRCH, "the VE has stopped"
                break
            idle = idle + 1 if self.steps == seen and not self.resting else 0
            seen = self.steps
        farside.send(channel, "ERROR", number, why, self.where())
        os._exit(1)


watch = Watch()  # over the one request that a far side serves


class Stream(io.RawIOBase):
    """What a tree comes and goes by; who waits for it rests, and hears that nobody listens on the channel any more.

    At the end of the pipe that is no news, as who hangs at its other one keeps that open: EOFError.
    """

    def __init__(self, fd: int, channel: _socket.socket, watch: Watch) -> None:
        self.fd = fd
        self.watch = watch
        self.poll = select.poll()
        self.poll.register(fd, select.POLLIN)
        self.poll.register(channel, select.POLLRDHUP)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.watch.rest()
        if self.fd not in dict(self.poll.poll()):
            raise EOFError("nobody listens any more")
        self.watch.step()
        return os.readv(self.fd, [buffer])

    def write(self, data: Any) -> int:
        self.watch.rest()
        written = os.write(self.fd, data)
        self.watch.step()
        return written
