"""A command inside with our own stdin, stdout, stderr, terminal and signals, as ssh has it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping
from typing import Any, NoReturn

from ve import terminal
from ve.errors import CannotExecute, InvalidValue
from ve.outcome import ExitCode
from ve.process import Popen, shell_code
from ve.request import Arguments, Target


def call(
    args: Arguments,
    *,
    target: Target,
    user: str | int | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
) -> ExitCode:
    """Run a command with our standard descriptors as ssh would: its exit code, or 128+N if signal N ended it.

    With terminals as stdin and stdout it gets a pty of its own.  Otherwise a terminal of ours is never handed to the
    VE, but copied from and to by pipes, and anything else is given as it is.  Signals that would end us go to the
    command while it runs.  env is added to what the command has anyway.  CannotExecute if there is no such program.
    """
    ours = {fd for fd in (0, 1, 2) if os.isatty(fd)}
    streams: dict[str, Any] = {}
    if {0, 1} <= ours:
        streams = {"pty": True, "stderr": None if 2 in ours or not _is_open(2) else 2}
    else:
        streams = {name: subprocess.PIPE for fd, name in enumerate(("stdin", "stdout", "stderr")) if fd in ours}
    signals = _Signals()
    with terminal.handlers(dict.fromkeys(terminal.FORWARDED, signals)):
        try:
            process = Popen(args, target=target, user=user, cwd=cwd, add_env=env, bufsize=0, **streams)
        except OSError as error:
            _cannot_execute(error, target, cwd)
        with process:
            signals.go_to(process)
            if process.terminal is not None:
                process.attach()
            elif ours:
                _relay(process)
            code = shell_code(process.wait())
            return ExitCode.of(code, process.stopped_by, process.why, process.usage)


class _Signals:
    """Sends what we are sent to the command, also what came before we knew that it runs: it may know already."""

    def __init__(self) -> None:
        self.process: Popen | None = None
        self.early: list[int] = []

    def __call__(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
        elif self.early:
            raise KeyboardInterrupt  # whoever asks twice shall not have to wait for a VE that does not answer
        else:
            self.early.append(number)

    def go_to(self, process: Popen) -> None:
        self.process = process
        for number in self.early:
            process.send_signal(number)


# --- descriptors --------------------------------------------------------------------------------------------------


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _relay(process: Popen) -> None:
    """Copy between our terminals and the command's pipes until it ends."""
    routes = []
    with _keys(process) as keys:
        if process.stdin:
            os.set_blocking(process.stdin.fileno(), False)
            routes.append(terminal.Route(keys, process.stdin.fileno(), done=process.stdin.close))
        for pipe, fd in ((process.stdout, 1), (process.stderr, 2)):
            if pipe:
                routes.append(terminal.Route(pipe.fileno(), fd, output=True, done=pipe.close))
        ended = os.pidfd_open(process.pid)
        try:
            terminal.pump(routes, ended)
        finally:
            os.close(ended)


def _keys(process: Popen) -> contextlib.AbstractContextManager[int]:
    return terminal.own_reader(0) if process.stdin else contextlib.nullcontext(-1)


def _cannot_execute(error: OSError, target: Target, cwd: str | None) -> NoReturn:
    if error.filename is None:
        raise error
    if cwd is not None and error.filename == cwd:
        raise InvalidValue(f"cannot work in {cwd} of {target.veid}: {error.strerror}") from error
    code = 127 if isinstance(error, FileNotFoundError) else 126
    what = f"cannot execute {os.fsdecode(error.filename)} in {target.veid}"
    raise CannotExecute(f"{what}: {error.strerror}", exit_code=code)
