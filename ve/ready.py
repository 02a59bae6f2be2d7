"""Waiting until a VE is ready, and not merely started: by what its programs say or do.

    boot              systemd, as init, has started all that it was to start: also where a service failed ("degraded")
    tcp:PORT          somebody in it accepts connections on this port
    log:REGEX         since it started, a line of its log or journal has a part that matches
    file:PATH         there is something at this path in it
    command:LINE      a line for its shell ends with 0; so does an argv, given as a sequence

systemd is asked, by a command inside, and not listened to by NOTIFY_SOCKET: that notification comes once, and would be
lost on who begins to wait later, or in another process than the one that started the VE.

The conditions are waited for one after the other.  Each is looked at once at least, so that the error names all that
were missing.  For file, log and boot somebody tells us when to look again; for a port or a command nobody does, so they
are tried again at growing intervals.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn, TypeAlias

from ve import errand, execgroup, files, journal, patience, process, shutdown
from ve._linux import syscalls
from ve.errors import Error, InvalidValue, NotReady, NotRunning, NotSupported, nearest
from ve.polling import readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ve.environment import Environment

Wish: TypeAlias = str | Sequence[str]

_SOON, _AGAIN = 0.02, 1.0  # seconds between two tries, at first and in the end
_LOOK = 0.25  # seconds that a look has even when there is no time left
_CONNECT = 1.0  # seconds for an answer to who connects; a full backlog gives none
_LINE = 1 << 16  # bytes: no longer line is looked at as one
_TOLD = 20  # lines of the log that the error carries


class Condition(NamedTuple):
    """One that was asked for: how it was written, of which kind it is, and what that needs to know."""

    text: str
    kind: str
    argument: Any = None


# --- what may be asked for ----------------------------------------------------------------------------------------


def parse(wishes: Sequence[Wish]) -> tuple[Condition, ...]:
    """InvalidValue says what is wrong with one; without any it is boot."""
    return tuple(_parsed(wish) for wish in wishes or ("boot",))


def _parsed(wish: Wish) -> Condition:
    if not isinstance(wish, str):
        try:
            argv = [os.fspath(word) for word in wish]
        except TypeError:
            raise InvalidValue(f"cannot wait for {wish!r}: it is neither a condition nor a command's words") from None
        if not argv:
            raise InvalidValue("cannot wait for a command: it is empty")
        return Condition(f"command:{' '.join(argv)}", "command", argv)
    kind, colon, rest = wish.partition(":")
    if kind not in _READ:
        raise InvalidValue(f"cannot wait for {wish!r}: there is no condition {kind!r}", nearest(kind, _READ))
    try:
        return Condition(wish, kind, _READ[kind](rest if colon else None))
    except ValueError as error:
        raise InvalidValue(f"cannot wait for {wish!r}: {error}", f"as in {_EXAMPLES[kind]}") from None


def _nothing(text: str | None) -> None:
    if text is not None:
        raise ValueError("nothing can stand behind boot")


def _port(text: str | None) -> int:
    if not re.fullmatch("[0-9]{1,5}", text or "") or not 1 <= int(text or 0) <= 65535:
        raise ValueError("it is no port, 1 to 65535")
    return int(text or 0)


def _regex(text: str | None) -> re.Pattern[str]:
    if not text:
        raise ValueError("it is empty, and would match any line")
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"it is no regular expression: {error}") from None


def _path(text: str | None) -> str:
    if not text or not text.startswith("/") or "\0" in text:
        raise ValueError("it is no absolute path")
    return text


def _line(text: str | None) -> list[str]:
    if not text or not text.strip() or "\0" in text:
        raise ValueError("it is no command line")
    return ["/bin/sh", "-c", text]


_READ: dict[str, Callable[[str | None], Any]] = {
    "boot": _nothing,
    "tcp": _port,
    "log": _regex,
    "file": _path,
    "command": _line,
}
_EXAMPLES = {
    "boot": "boot",
    "tcp": "tcp:80",
    "log": "log:'ready to accept'",
    "file": "file:/run/sshd.pid",
    "command": "command:'pg_isready -q'",
}


# --- waiting ------------------------------------------------------------------------------------------------------


def wait(env: Environment, wishes: Sequence[Wish], timeout: float) -> None:
    """Until all conditions have held; as Environment.wait_ready."""
    conditions = parse(wishes)
    if not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise InvalidValue(f"cannot wait for {env.veid}: {timeout!r} is no number of seconds")
    timeout = float(timeout) if timeout <= sys.float_info.max else float("inf")
    with env.running("wait for") as (facts, pidfd):
        env.refuse_frozen("wait for", timeout)
        moment = _Moment(env, facts.pid, pidfd, int(facts.extra.get("logged", 0)), time.monotonic() + timeout)
        missing = list(filter(None, (moment.miss(condition) for condition in conditions)))
        if missing:
            frozen = ", and it is frozen by now" if env.frozen else ""
            moment.fail(f"it was not ready in {timeout:g} s{frozen}: {'; '.join(missing)}", missing)


class _NotYet(Exception):
    """The time is over; str() is what was seen last."""


class _Moment:
    """One VE that is waited for, until a deadline."""

    def __init__(self, env: Environment, pid: int, pidfd: int, logged: int, deadline: float) -> None:
        """logged: how much had been written to its log when it started."""
        self.env, self.pid, self.pidfd, self.logged, self.deadline = env, pid, pidfd, logged, deadline

    def miss(self, condition: Condition) -> str:
        """Wait for it; what is missing if it does not come, else nothing."""
        try:
            _WAITS[condition.kind](self, condition.argument)
        except _NotYet as error:
            return f"{condition.text} ({error})" if str(error) else condition.text
        except (NotRunning, _Ended, syscalls.SyscallError):  # the last: who is going lets nobody in
            if self.ended(_LOOK):
                self.fail(f"it has ended before {condition.text} was so", [condition.text])
            raise
        return ""

    def until(self) -> float:
        """When a look that begins now has to end, by the clock of time.monotonic()."""
        return max(self.deadline, time.monotonic() + _LOOK)

    def left(self) -> float:
        return self.until() - time.monotonic()

    def ended(self, seconds: float = 0.0) -> bool:
        """Has its init, or does it within so many seconds?"""
        return bool(readable([self.pidfd], seconds))

    def again(self, pause: float, seen: str) -> float:
        """Let a moment pass, and say how long the next one may be; _NotYet, _Ended."""
        left = self.deadline - time.monotonic()
        if self.ended(max(0.0, min(pause, left))):
            raise _Ended
        if left <= 0:
            raise _NotYet(seen)
        return min(2 * pause, _AGAIN)

    def fail(self, why: str, missing: Sequence[str]) -> NoReturn:
        told = self.log()
        raise NotReady(f"cannot wait for {self.env.veid}: {why}", self._hint(told), tuple(missing), told)

    def _hint(self, told: str) -> str:
        veid = self.env.veid
        may_say = f"ve logs {veid} may say why" if told else ""
        if self.ended():
            return may_say or ("" if self.env.ephemeral else f"ve start --foreground {veid} may show why")
        return "; ".join(filter(None, (may_say, "it goes on running")))

    def log(self) -> str:
        """The last lines of its log and journal, as far as they come in time."""
        tail = b""
        with contextlib.suppress(Error, OSError):
            for chunk in self.chunks(follow=False, until=time.monotonic() + _AGAIN):
                tail = (tail + chunk)[-_LINE:]
        return "\n".join(tail.decode(errors="replace").splitlines()[-_TOLD:])

    def chunks(self, follow: bool, until: float) -> Iterator[bytes]:
        """Its log, from what it wrote since it started, and its journal."""
        return journal.chunks(self.env.log_path, self.env, follow, until, self.logged)


class _Ended(Exception):
    """Its init has."""


def _boot(moment: _Moment, _: None) -> None:
    if shutdown.kind(moment.pid) != "systemd":
        raise NotSupported(
            f"cannot wait for the boot of {moment.env.veid}: only systemd tells when it is over, and is not its init",
            "it runs; tcp:PORT, log:REGEX, file:PATH and command:LINE can be waited for",
        )
    pause = _SOON
    while True:
        said = _run(moment, ["systemctl", "is-system-running", "--wait"])[1]  # it fails while nobody can ask systemd
        if said in ("running", "degraded"):
            return
        pause = moment.again(pause, said)


def _tcp(moment: _Moment, port: int) -> None:
    hosts = ["127.0.0.1", "::1", *(address.partition("/")[0] for address in moment.env.addresses)]
    pause = _SOON
    while True:
        seen = errand.inside(moment.pidfd, partial(_refusal, hosts, port, min(_CONNECT, moment.left())))
        if not seen:
            return
        pause = moment.again(pause, seen)


def _refusal(hosts: Sequence[str], port: int, seconds: float) -> str:
    """Why nobody can connect to any of them; empty if somebody can."""
    seen = ""
    for host in hosts:
        try:
            socket.create_connection((host, port), seconds).close()
            return ""
        except TimeoutError:
            seen = "it does not answer"
        except OSError as error:
            seen = seen or (error.strerror or str(error)).lower()
    return seen


def _log(moment: _Moment, pattern: re.Pattern[str]) -> None:
    look, pause = _AGAIN, _SOON
    while True:  # anew, and longer each time: a journalctl does not see a journal that begins after it
        until = min(moment.until(), time.monotonic() + look)
        with contextlib.closing(moment.chunks(True, until)) as chunks:  # type: ignore[type-var]
            if any(map(pattern.search, _lines(chunks))):
                return
        look, pause = 2 * look, moment.again(pause, "no such line")


def _lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Each line, and what there is of one so far."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[-_LINE:]
        for line in (*lines, rest) if rest else lines:
            yield line.decode(errors="replace").rstrip("\r")


def _file(moment: _Moment, path: str) -> None:
    place = files.Place(moment.env.veid, pidfd=moment.pidfd)
    what = f"cannot wait for {place.show(path)}"
    with files.Hand(place, what, {"action": "appear", "path": path}) as hand:
        ready = readable([hand.channel.fileno(), moment.pidfd], moment.left())
        if ready[:1] == [hand.channel.fileno()]:
            hand.expect("DONE")
            return
        hand.give_up()
    if ready:
        raise _Ended
    raise _NotYet("it is not there")


def _command(moment: _Moment, argv: Sequence[str]) -> None:
    pause = _SOON
    while True:
        code, said = _run(moment, argv)
        if code == 0:
            return
        pause = moment.again(pause, said if code is None else ": ".join(filter(None, (f"exit code {code}", said))))


_WAITS: dict[str, Callable[[_Moment, Any], None]] = {
    "boot": _boot,
    "tcp": _tcp,
    "log": _log,
    "file": _file,
    "command": _command,
}


def _run(moment: _Moment, argv: Sequence[str]) -> tuple[int | None, str]:
    """A command's code, as a shell has it, and the last line that it said; None, and why, if it has none in time."""
    until, null = moment.until(), subprocess.DEVNULL
    streams: dict[str, Any] = {"stdin": null, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "bufsize": 0}
    try:
        command = moment.env.popen(argv, enter_timeout=moment.left(), **streams)
    except subprocess.TimeoutExpired:
        return None, "the VE lets no command in"
    except OSError as error:  # it may be installed just now
        return None, f"{error.filename or argv[0]}: {error.strerror}"
    assert command.stdout
    with command.stdout, contextlib.ExitStack() as interrupted:
        interrupted.callback(command.kill)  # nothing to one that has ended
        said = _last_line(command, until)
        try:
            left = max(0.0, until - time.monotonic())
            return process.shell_code(patience.wait(command, left, execgroup.PATIENCE)), said
        except subprocess.TimeoutExpired:
            return None, "it does not end"


def _last_line(command: process.Popen, until: float) -> str:
    """What it says until it ends, whoever else has its stdout."""
    assert command.stdout
    pipe, ended, tail = command.stdout.fileno(), os.pidfd_open(command.pid), b""
    try:
        while ready := readable([pipe, ended], until - time.monotonic()):
            if pipe not in ready or not (data := os.read(pipe, _LINE)):
                break
            tail = (tail + data)[-_LINE:]
            if time.monotonic() >= until:  # though it goes on
                break
    finally:
        os.close(ended)
    return (tail.decode(errors="replace").rstrip().splitlines() or [""])[-1]
