"""What of the host an attack from inside a VE would reach, put there for ve/selftest.py to see whether it was."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket


class Victim:
    """A process, sockets, an IPC key, two names."""

    def __enter__(self) -> Victim:
        with contextlib.ExitStack() as held:
            self.pid = self._process(held)
            self.abstract = f"\0ve-selftest-{random.getrandbits(64):x}".encode()
            self.listeners = {}
            for family, name in ((socket.AF_UNIX, self.abstract), (socket.AF_INET, ("127.0.0.1", 0))):
                listener = held.enter_context(socket.socket(family))
                listener.bind(name)
                listener.listen()
                self.listeners[family] = listener
                self.port = listener.getsockname()[1]  # of the last
            self.ours, self.shared = (held.enter_context(each) for each in socket.socketpair())
            self.key = random.randrange(1, 1 << 31)
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def _process(self, held: contextlib.ExitStack) -> int:
        """One that ends with us, however we end, and minds signals, whatever our caller ignores or blocks."""
        reading, writing = os.pipe()
        held.callback(os.close, writing)
        actions = [(os.POSIX_SPAWN_DUP2, reading, 0), (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
        minded = (signal.SIGIO, signal.SIGRTMIN)
        pid = os.posix_spawnp("cat", ["cat"], os.environ, file_actions=actions, setsigmask=(), setsigdef=minded)
        os.close(reading)
        held.callback(self.end)
        return pid

    def end(self) -> int:
        """End it, if it has not ended; by which signal it ended, 0 if nobody can tell."""
        pid, self.pid = self.pid, 0
        if not pid:
            return 0
        os.kill(pid, signal.SIGRTMIN)
        with contextlib.suppress(ChildProcessError):  # our caller had us ignore SIGCHLD
            return os.waitpid(pid, 0)[1] & 0x7F
        return 0

    def killed_by(self) -> int:
        """What it dies of: SIGIO if the VE could make the kernel send that, for it comes before what we send."""
        self.ours.send(b"x")
        return self.end()

    def met(self, family: socket.AddressFamily) -> bool:
        """Has somebody who knows our word come to the listener of this family?"""
        listener = self.listeners[family]
        listener.setblocking(False)
        with contextlib.suppress(OSError):
            while True:
                with listener.accept()[0] as guest:
                    guest.setblocking(False)
                    if guest.recv(256) == self.abstract:
                        return True
        return False
