"""One command line on its way: whose state dir, what it is about to do to whom, and what is said of it on stderr."""

from __future__ import annotations

import os
import re
import signal
import sys

import ve
from ve import _output as out
from ve import errors, terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from typing import Any, NoReturn, TextIO

OWN_FAILURE = 125  # of a verb that otherwise returns the exit code of its command
NOT_OURS = (126, 127, 129, 130, 141, 143)  # no command, or none to execute; a signal; nobody reads us any more
RUNS_A_COMMAND = frozenset({"exec", "run", "enter", "console"})
PHRASES = {  # of verbs whose names are not English ones
    "console": "log in to",
    "cp": "copy files of",
    "diff": "compare",
    "doctor": "examine",
    "events": "watch",
    "exec": "run a command in",
    "explain": "explain the rights of",
    "add network": "add pool",
    "create snapshot": "checkpoint",
    "delete snapshot": "delete a snapshot of",
    "list snapshot": "list the snapshots of",
    "restore snapshot": "restore",
    "list network": "list pools",
    "show network": "look at pool",
    "remove network": "remove pool",
    "list template": "list templates",
    "logs": "show the log of",
    "ps": "look at",
    "selftest": "examine",
    "status": "look at",
    "top": "watch",
    "ubc": "read the beancounters of",
    "umount": "unmount",
}


def stand_on_firm_ground() -> None:
    """Closed standard descriptors become /dev/null, lest something of ours become one; children report their ends.

    Both are inherited: from who daemonizes without care, and from who ignores SIGCHLD, where exit codes would be lost.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free, so this one
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 - for good
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def interruptible() -> AbstractContextManager[None]:
    """SIGTERM and SIGHUP, which would end us, first take back what is half made, as Ctrl-C does."""
    return terminal.handlers(dict.fromkeys((signal.SIGTERM, signal.SIGHUP), _interrupt))


def mute(stream: TextIO) -> None:
    """Let go of a stdout or stderr that cannot take what it still holds, or the interpreter would fail at its end."""
    try:
        print(end="", file=stream, flush=True)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _interrupt(number: int) -> NoReturn:
    raise KeyboardInterrupt(number)


def _tell(text: str) -> None:
    """On stderr; what was done is done, and what failed has failed, also where nobody can be told."""
    try:
        print(text, file=sys.stderr)
    except OSError:
        mute(sys.stderr)  # which holds the text still


def veid(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text):
        hint = "" if text.isdecimal() else "a name besides the VEID is given by --name"
        raise errors.InvalidValue(f"cannot use VEID {text!r}: it is not a number, 1 to 2147483644", hint)
    return int(text)


class Session:
    """One command line: its words, its global options, and what it is about to do to whom."""

    def __init__(self, words: list[str], state_dir: str | None = None, verb: str = "") -> None:
        self.words = words
        self.state_dir, self.quiet = state_dir, False
        self.verb, self.target = verb, ""
        self.env: ve.Environment | None = None  # what target has turned out to be
        self.code = 0  # of the first failure that was passed over

    def run(self, work: Callable[[], int | None]) -> int:
        """Do what the line asks for; its exit code, a failure having been told."""
        try:
            with interruptible():
                code = work()
            sys.stdout.flush()  # print() writes to it even where there is nothing to write
        except (Exception, KeyboardInterrupt) as error:
            code = self.report(error)
        mute(sys.stdout)
        return code or 0

    def cannot(self) -> str:
        """How an error sentence of ours begins."""
        verb = self.verb or "run ve"
        return " ".join(
            filter(None, ("cannot", PHRASES.get(verb, verb), out.label(self.env) if self.env else self.target))
        )

    def say(self, text: str) -> None:
        """Tell in a line what was done."""
        if not self.quiet:
            _tell(text)

    def ended(self, code: int) -> int:
        """The exit code of a command; tell which limit stopped it, if one did."""
        if isinstance(code, ve.ExitCode) and code.why:
            how = f"killed by the kernel: {code.why}" if code > 128 else f"ended with {code}: {code.why}"
            self.say(f"ve: {out.label(self.env) if self.env else self.target}: {how}")
        return code

    def report(self, error: BaseException) -> int:
        """Tell a failure and its cure; returns its exit code."""
        from ve import _failures  # which brings typer with it

        code, lines = _failures.explain(error, self.cannot(), self.words, self.called())
        for line in lines:
            _tell(line)
        return OWN_FAILURE if self.verb in RUNS_A_COMMAND and code not in NOT_OURS else code

    def pass_over(self, error: Exception) -> None:
        """Report a failure that keeps nobody from the rest; the first one's exit code is that of the verb."""
        code = self.report(error)
        self.code = self.code or code

    def pass_over_all(self, errors: Iterable[Exception | None]) -> None:
        for error in filter(None, errors):
            self.pass_over(error)

    def called(self) -> tuple[str, str, str] | None:
        """The VEID of the VE that it is about, its label, and what was typed for it."""
        return (str(self.env.veid), out.label(self.env), self.target) if self.env else None

    def host(self, target: str = "") -> ve.Host:
        """The library's object; target is for the error sentence."""
        self.target, self.env = target, None
        errors.require_root(self.cannot())
        return ve.Host(self.state_dir)

    def get(self, key: str, idle: str = "") -> ve.Environment:
        """The VE of this VEID or name; idle: what to say first of one that does not run."""
        self.env = self.host(key).get(veid(key) if key.isdecimal() else key)
        if idle and (status := self.env.status) != "running":
            self.say(f"{out.label(self.env)} is {status}: {idle}")
        return self.env

    def veid(self, key: str | None) -> int | None:
        """Of the one VE that was named; None if it is to be about all."""
        return None if key is None else self.get(key).veid

    def attend(self, env: ve.Environment) -> int:
        """Be its console until it ends for good; 0 if it has halted."""
        end = "reboot"
        while end == "reboot":
            with env.start_foreground() as running:
                self.say(f"{out.label(env)} {out.ATTACHED}")
                running.attach()
            end = running.wait()
            self.say(f"{out.label(env)} {out.ENDS[end]}")
        return 0 if end == "halt" else 1

    def those(
        self, keys: list[str] | None, every: bool, option: str, wanted: Callable[[ve.Environment], bool]
    ) -> list[str]:
        """The VEs that were named or, with an option in place of names, every one that is wanted."""
        verb, names = f"ve {self.verb}", " ".join(keys or ())
        if keys and every:
            hint = f"{verb} {names} without it, or {verb} {option} without names"
            raise errors.InvalidValue(f"{self.cannot()} {names}: {option} stands in place of names", hint)
        if not keys and not every:
            raise errors.InvalidValue(f"{self.cannot()}: no VE is named", hint=f"{verb} VE, or {verb} {option}")
        return list(keys or ()) if not every else [str(env.veid) for env in self.host().list() if self._is(env, wanted)]

    def _is(self, env: ve.Environment, wanted: Callable[[ve.Environment], bool]) -> bool:
        try:
            return wanted(env)
        except errors.BrokenConfig:
            return True  # the verb itself will say so
        except errors.NotFound:  # just destroyed
            return False

    def each(self, keys: list[str], done: str, action: Callable[[ve.Environment], object]) -> int:
        """Do it to every VE and say it is done, or what else action returns as text.

        A failure is told and the rest goes on; returns the first failure's exit code.
        """
        self.target = " ".join(keys)
        errors.require_root(self.cannot())  # told once, not for each
        for key in keys:
            try:
                env = self.get(key)
                name = out.label(env)
                said = action(env)
                self.say(f"{name} {said if isinstance(said, str) else done}")
            except Exception as error:
                self.pass_over(error)
        return self.code


class Once:
    """A VE of which each thing is asked once, for all that is shown of it."""

    def __init__(self, env: ve.Environment) -> None:
        self._env = env

    @classmethod
    def each(cls, seen: Iterable[Once]) -> Iterator[Once]:
        """These, while what several things are told from is asked once, too."""
        for once in seen:
            with once._env.asked_once():
                yield once

    def __getattr__(self, name: str) -> Any:  # of what nobody has asked yet
        value = vars(self)[name] = getattr(self._env, name)
        return value
