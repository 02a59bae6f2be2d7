"""What every far side has in common: how it talks with the near side, and what it sheds on its way into a VE.

A message is a tuple, marshalled into one packet of a SOCK_SEQPACKET socket; a descriptor may come with it.  Only what a
far side has anyway is imported here: signal and socket, which are _signal and _socket with enums, would cost each
command another 5 ms, and python-prctl 1.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import codecs
import fcntl
import marshal
import os
import struct
import sys
from importlib import import_module

from ve._linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    Request = dict[str, Any]

codecs.lookup("utf-8")  # while it can be found; where the locale is another, nobody has loaded it yet
SIGNALS = tuple(set(range(1, 65)) - {_signal.SIGKILL, _signal.SIGSTOP})  # what a process may do something about
_IGNORED = (_signal.SIGPIPE, _signal.SIGXFSZ)

WAITING = b"ve-waits"  # what an init is called that waits for the end of its launch, until its exec
ENDED = "user.ve.ended"  # of the cgroup of a command that has ended by itself


def begin(module: str, fds: tuple[int, ...], given: dict[int, int]) -> NoReturn:
    """In a clone: be as a fresh interpreter would, but for its imports, and call main(*fds).

    given: each number that is to be open, and the descriptor here that it shall be; no exec hands on but the standard
    ones, which are open in any case.
    """
    try:
        os.setsid()  # Ctrl-C is for who asked
        above = max((2, *given, *given.values())) + 1
        aside = {number: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for number, fd in given.items()}
        for number, fd in aside.items():
            os.dup2(fd, number, inheritable=number <= 2)
        close_all_but(*(number for number in given if number > 2))
        os.chdir("/")
        import_module(module).main(*fds)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def send(channel: _socket.socket, *message: Any, fds: tuple[int, ...] = ()) -> bool:
    """False if nobody listens any more, be it that another thread has closed the channel meanwhile."""
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    try:
        channel.sendmsg([marshal.dumps(message)], ancillary)
    except OSError:
        return False
    return True


def receive(channel: _socket.socket) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """A message, and the descriptor that came with it, for the caller to close; nothing if the other end is gone."""
    try:
        data, ancillary, _, _ = channel.recvmsg(65536, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return (), ()
    fds = tuple(fd for _, _, each in ancillary for (fd,) in struct.iter_unpack("i", each))
    return marshal.loads(data) if data else (), fds


def hide() -> None:
    """Nobody but the host's root may trace us or look at our memory, descriptors and executable (ptrace(2))."""
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def become(uid: int, gid: int, groups: Sequence[int] = ()) -> None:
    """Be this user with these groups and no others; hidden, as a change of user may have ended that (proc(5))."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    hide()


def close_all_but(*fds: int) -> None:
    """Close every descriptor but the standard ones and these."""
    kept = sorted(fds)
    for low, high in zip((2, *kept), (*kept, 1 << 20), strict=True):
        os.closerange(low + 1, high)


def die_with_parent() -> None:
    """SIGKILL when the thread that forked us ends; a second line only, since prctl(2) lets it be cleared."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, _signal.SIGKILL)


def begin_signals() -> None:
    """All signals at their default and unblocked, whatever who started us ignores; but as an interpreter has them."""
    for number in SIGNALS:
        syscalls.rt_sigaction(number, _signal.SIG_IGN if number in _IGNORED else _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def reset_signals() -> None:
    """The rest of the way for a program: what is ignored or blocked would be so for it, too; exec does the others."""
    for number in _IGNORED:
        syscalls.rt_sigaction(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def forget_imports() -> None:
    """No module can be found from now on: it would be the VE's files that are looked at, and executed.

    A codec is a module, too: a far side does with utf-8, or looks up another before.
    """
    for finders in (sys.meta_path, sys.path_hooks, sys.path):
        finders.clear()
    sys.path_importer_cache.clear()
