"""A template in the making: a directory that nobody sees until it is whole, and the programs that fill it.

It lies beside the templates as .new-*, and an flock on it says that somebody works there.  The programs run in their
own mount and PID namespaces, hold the same lock and die with us: a staging directory without a lock is garbage,
whatever killed its owner, and no process or mount of a dead one is left.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ve.errors import FULL, BadArchive, DiskFull, Error, NotSupported

# What a program needs to be ended whole: unshare's death is its child's, and that is PID 1 of all it started.
CONTAINED = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")

# The Debian package of each program that a fresh machine may lack.
PACKAGES = {
    "bsdtar": "libarchive-tools",
    "skopeo": "skopeo",
    "umoci": "umoci",
    "mmdebstrap": "mmdebstrap",
    "busybox": "busybox-static",
}

# What to look at when one of these fails.
CURES = {"mmdebstrap": "are suite and packages named right, and does `apt-get update` reach the mirror?"}

Progress = Callable[[int, int, str], None]

# What programs say, and what it means; the first row that matches any line of theirs is the reason.
_REASONS = (
    (
        re.compile(r"truncated|unexpected (end|eof)|premature end|invalid data after|Lzma library error", re.I),
        "it ends too early",
    ),
    (re.compile(r"^(?P<name>.*): Path contains '\.\.'"), "it holds {name}, which leads out of the tree"),
    (re.compile(r"^(?P<name>.*): Cannot extract through symlink"), "it goes through a link of its own at {name}"),
    (re.compile(r"Removing leading"), "it holds absolute names"),
    (re.compile(r"^(?P<name>.*): Hard-link target"), "it links {name} to a file that it does not hold"),
    (re.compile(r'level=fatal msg="(?P<name>(?:[^"\\]|\\.)*)"'), "{name}"),
    (re.compile(r"^E: (?P<name>.*)"), "{name}"),
    (re.compile(r"^[\s\u2a2f]*(?:\w+: )?(?P<name>.+)"), "{name}"),  # umoci begins with blanks and a cross
)
_NO_PROC = "mount /proc failed"  # of unshare(1)
_FULL = re.compile(r"no space left on device|disk quota exceeded|you don't have enough free space", re.I)
_LINES_KEPT = 2000  # of a program's talk; a hostile archive may bring a complaint a member


class Staging:
    """tree is where the template's root grows; what begins every message, as in "cannot add template web"."""

    def __init__(self, path: str, lock: int, what: str, progress: Progress | None) -> None:
        self.path = path
        self.tree = f"{path}/tree"
        self.lock = lock
        self.what = what
        self._progress = progress

    def bad(self, why: str, hint: str = "") -> Error:
        """The error that says why this cannot become a template."""
        return BadArchive(f"{self.what}: {why}", hint)

    def report(self, done: int, total: int, unit: str) -> None:
        """Tell who waits: done of total units (bytes, files, steps); total is 0 when nobody knows it."""
        if self._progress is not None:
            self._progress(done, total, unit)

    def run(
        self,
        *argv: str,
        stdin: int | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        heard: Callable[[str], bool] | None = None,
        tick: Callable[[], None] | None = None,
        forgive: Callable[[Sequence[str], int], bool] = lambda talk, code: False,
    ) -> str:
        """Run a program to its end and return what it said, but for the lines that heard() took.

        tick is called a few times a second; forgive(talk, code) may pass an exit code.  NotSupported when the program
        is missing, DiskFull when it met a full disk, else bad() with its own reason.  An exception (Ctrl-C) ends the
        program and all that it started, first.
        """
        import subprocess

        command = [*map(self.program, CONTAINED[:1]), *CONTAINED[1:], "--", self.program(argv[0]), *argv[1:]]
        talk: list[str] = []
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            umask=0o022,
            pass_fds=(self.lock,),
        ) as process:
            assert process.stdout is not None
            try:
                _listen(process.stdout.fileno(), talk, heard, tick)
            except BaseException:
                process.kill()
                _listen(process.stdout.fileno(), [], None, None)  # its end: the last of the program's tree is gone
                raise
        if process.returncode != 0 and not forgive(talk, process.returncode):
            raise self._failed(argv[0], talk)
        return "\n".join(talk)

    def program(self, name: str) -> str:
        """The path of a program of the host; NotSupported names the package when it is not there."""
        import shutil

        path = shutil.which(name)
        if path is None:
            hint = f"apt-get install {PACKAGES[name]}" if name in PACKAGES else ""
            raise NotSupported(f"{self.what}: the program {name} is missing", hint)
        return path

    def _failed(self, program: str, talk: list[str]) -> Error:
        if any(map(_FULL.search, talk)):
            return _disk_full(self.what, os.path.dirname(self.path))
        if any(_NO_PROC in line for line in talk):
            why = "no fresh /proc can be mounted here, where a program that makes a tree could see no others"
            return NotSupported(
                f"{self.what}: {why}", "in a VE, give it the profile nesting; a container must be privileged"
            )
        return self.bad(reason(talk) or f"{program} failed and did not say why", CURES.get(program, ""))


@contextmanager
def full_disk_named(what: str, place: str) -> Iterator[None]:
    """What the kernel says of a full disk becomes DiskFull."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise _disk_full(what, place) from error
        raise


def _disk_full(what: str, place: str) -> DiskFull:
    return DiskFull(f"{what}: no space left on the disk", hint=f"make room on the file system of {place}")


def reason(talk: list[str]) -> str:
    """The one sentence in what a program said; empty if it said nothing."""
    for pattern, sentence in _REASONS:
        for line in talk:
            match = pattern.search(line)
            if match:
                return sentence.format_map({key: shown(value) for key, value in match.groupdict().items()})
    return ""


def shown(name: str) -> str:
    """A name that somebody else chose, fit to be printed in one line of a terminal."""
    return name if name.isprintable() and name else repr(name)


def _listen(fd: int, talk: list[str], heard: Callable[[str], bool] | None, tick: Callable[[], None] | None) -> None:
    """Collect lines from fd until its end, so until nobody is left who could write."""
    import select

    rest = b""
    while True:
        if tick is not None:
            tick()
            if not select.select([fd], [], [], 0.2)[0]:
                continue
        data = os.read(fd, 65536)
        *lines, rest = (rest + data).split(b"\n") if data else (rest, b"")
        for line in (raw.decode("utf-8", "backslashreplace") for raw in lines if raw):
            if (heard is None or not heard(line)) and len(talk) < _LINES_KEPT:
                talk.append(line)
        if not data:
            return
