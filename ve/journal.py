"""`ve logs`: the log of a VE's init and, of a running VE that has one, its journal, both as they come.

The journal's files are the VE's and so hostile: journalctl reads them inside, never the host.
"""

import contextlib
import math
import subprocess
from collections.abc import Iterator
from typing import Protocol, Unpack

from ve import log, process, shutdown
from ve.errors import NotRunning
from ve.facts import Facts
from ve.mounts import SMALL_INIT
from ve.request import Arguments, Streams

_JOURNALCTL = ("journalctl", "--no-pager", "--boot", "--lines=all")
_PATIENCE = 10.0  # seconds for a VE to let journalctl in


class Running(Protocol):
    """What we need of a VE."""

    def init(self) -> contextlib.AbstractContextManager[tuple[Facts, int] | None]: ...

    def popen(self, args: Arguments, **options: Unpack[Streams]) -> process.Popen: ...


def chunks(path: str, environment: Running, follow: bool, until: float = math.inf, since: int = 0) -> Iterator[bytes]:
    """The log at path, then the journal; with follow both go on until the VE ends, or at once if it does not run.

    until ends both in any case, by the clock of time.monotonic(); since is of the log, as of log.chunks.

    Whoever stops reading closes the iterator: then nothing of it is left.
    """
    with environment.init() as init:
        if init is None:
            yield from log.chunks(path, until=until, since=since)
            return
        with _reader(environment, init[0].pid, follow) as pipe:
            yield from log.chunks(path, follow, stop=init[1], pipe=pipe, until=until, since=since)


@contextlib.contextmanager
def _reader(environment: Running, pid: int, follow: bool) -> Iterator[int]:
    """A descriptor of what journalctl says inside; -1 when nobody can say anything: the log is worth showing alone.

    There may be no journalctl, or one that cannot be executed; the VE may be frozen, or end or stop it meanwhile.
    Nobody writes a journal where its init, pid, is our small one, and to ask there costs more than the rest of a look.
    """
    if shutdown.kind(pid) == SMALL_INIT:
        yield -1
        return
    command = [*_JOURNALCTL, "--follow"] if follow else list(_JOURNALCTL)
    try:
        reader = environment.popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            enter_timeout=_PATIENCE,
        )
    except (OSError, NotRunning, subprocess.TimeoutExpired):
        yield -1
        return
    with reader:
        assert reader.stdout
        try:
            yield reader.stdout.fileno()
        finally:
            reader.kill()
