"""The real command `ve`, as a shell or a terminal calls it, and what the kernel says of a VE's processes.

done = commandline.run(host_dir, "exec", 101, "true")
with commandline.on_terminal(host_dir, "enter", 101) as terminal:
    terminal.expect("# ")
    terminal.send("exit 5\n")
    assert terminal.end() == 5
"""

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tests.conftest import cgroup_root
from tests.manual import exit_codes

VE = Path(sys.executable).with_name("ve")
OWN_CODES, COMMON_CODES = exit_codes()
PATIENCE = 60.0  # seconds after which a test that waits gives up: it has failed
Word = int | str | bytes | Path


def words(state_dir: Path, *args: Word) -> list[str | bytes]:
    """The command line."""
    given = [arg if isinstance(arg, bytes) else str(arg) for arg in args]
    return [str(VE), "--state-dir", str(state_dir), *given]


def run(state_dir: Path, *args: Word, before: Iterable[str] = (), **options: Any) -> "subprocess.CompletedProcess[str]":
    """Its exit code and what it printed; stdin is at its end unless given.  before: words that stand before it."""
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": PATIENCE} | options
    done = subprocess.run([*before, *words(state_dir, *args)], check=False, **options)
    assert _is_documented(args, done.returncode), (args, done.returncode, done.stderr)
    return done


def _is_documented(args: tuple[Word, ...], code: int) -> bool:
    """Does the manual say that this verb may end so?  Of a command inside any code is its own."""
    verb = " ".join(map(str, args[: 2 if args[0] in ("network", "snapshot", "template") else 1]))
    return code < 0 or 125 in OWN_CODES.get(verb, (125,)) or code in OWN_CODES[verb] | COMMON_CODES


def output(state_dir: Path, *args: Word, **options: Any) -> str:
    """What it printed, as it ended well."""
    done = run(state_dir, *args, **options)
    assert done.returncode == 0, (args, done.stderr)
    return done.stdout


class Process(subprocess.Popen[bytes]):
    """A command whose with block does not wait for it after a failure."""

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, value, traceback)


def start(state_dir: Path, *args: Word, **options: Any) -> Process:
    """It, running."""
    return Process(words(state_dir, *args), **options)


@contextlib.contextmanager
def on_terminal(state_dir: Path, *args: Word, size: tuple[int, int] = (24, 80), **streams: Any) -> Iterator["Terminal"]:
    """It, with a terminal of its own as controlling terminal and standard descriptors (but those in streams)."""
    master, slave = os.openpty()
    terminal = Terminal(master, slave)
    terminal.resize(*size)
    streams = {"stdin": slave, "stdout": slave, "stderr": slave} | streams
    try:
        terminal.process = subprocess.Popen(
            words(state_dir, *args),
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),  # which is what a login does
            **streams,
        )
        with terminal.process:
            try:
                yield terminal
            finally:
                terminal.process.kill()
    finally:
        os.close(master)
        os.close(slave)


class Terminal:
    """What a person has in front of them.  We hold the slave too, so that its modes can be looked at afterwards."""

    process: "subprocess.Popen[Any]"

    def __init__(self, master: int, slave: int) -> None:
        self.master, self.slave = master, slave
        self.shown = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def modes(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def send(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def expect(self, pattern: str) -> "re.Match[str]":
        """Wait until the pattern is shown, and forget all up to its end."""
        while not (match := re.search(pattern, self.shown)):
            assert self._more(-1), f"{pattern!r} is not shown, but {self.shown!r}"
        self.shown = self.shown[match.end() :]
        return match

    def end(self) -> int:
        """Wait until the command ends: its exit code.  What it still showed is in shown."""
        ended = os.pidfd_open(self.process.pid)
        try:
            while self._more(ended):
                pass
        finally:
            os.close(ended)
        while select.select([self.master], [], [], 0)[0]:
            self._more(-1)
        return self.process.wait()

    def _more(self, ended: int) -> bool:
        """Take what is shown; False when `ended` is readable."""
        ready = select.select([fd for fd in (self.master, ended) if fd >= 0], [], [], PATIENCE)[0]
        assert ready, f"nothing more is shown than {self.shown!r}"
        if self.master in ready:
            self.shown += os.read(self.master, 65536).decode(errors="replace")
        return ended not in ready


# --- what the kernel says -----------------------------------------------------------------------------------------


def cgroup(state_dir: Path, veid: int) -> Path:
    about = state_dir.stat()
    return cgroup_root() / f"ve-{about.st_dev:x}-{about.st_ino:x}" / str(veid)


@contextlib.contextmanager
def cgroup_for(path: Path) -> Iterator[Path]:
    """A cgroup that is made for the block; what is in it then goes with it."""
    path.mkdir()
    yield path
    (path / "cgroup.kill").write_text("1")
    while "populated 1" in (path / "cgroup.events").read_text():
        select.select([], [], [], 0.02)
    for each, _, _ in os.walk(path, topdown=False):
        os.rmdir(each)


def processes(state_dir: Path, veid: int) -> dict[int, int]:
    """Host pids of the processes in its cgroup, zombies too, by their pid in the VE."""
    found = {}
    for directory, _, _ in os.walk(cgroup(state_dir, veid)):  # which bears that one goes meanwhile, and rglob does not
        with contextlib.suppress(OSError):
            for pid in map(int, Path(directory, "cgroup.procs").read_text().split()):
                with contextlib.suppress(OSError):
                    found[inside_pid(pid)] = pid
    return found


def inside_pid(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"^NSpid:.*\s(\d+)$", status, re.MULTILINE)[0])


@contextlib.contextmanager
def watched(pid: int) -> Iterator[int]:
    """A pidfd."""
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def has_ended(pidfd: int, patience: float = PATIENCE) -> bool:
    """Does the process end?  With patience 0: has it ended?"""
    return bool(select.select([pidfd], [], [], patience)[0])


def kill(process: "subprocess.Popen[Any]") -> int:
    process.send_signal(signal.SIGKILL)
    return process.wait()
