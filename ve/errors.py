"""What can go wrong, as one small tree: a class is a different decision for the caller.

    Error                    everything of ours; also carries hint (the cure) and exit_code (vzctl's where it has one)
    ├── InvalidValue         a VEID, name, option or conf file that cannot be right
    │   └── BrokenConfig     a conf file that cannot be read as one
    ├── NotFound             no such VE or pool
    │   ├── TemplateNotFound no such template or version
    │   └── NoSuchFile       no such file or directory, in the VE or on the host; a FileError too
    ├── FileError            a file could not be copied or changed; why is in errno
    ├── CannotExecute        of call(), Host.run() and the like: no such program, or it is none
    ├── Exists               the VEID, name or template is taken
    ├── Locked               another process works on this VE; its pid is in holder
    ├── NotRunning           needs a running VE
    ├── Running              needs a stopped VE
    ├── Mounted              needs one that is not mounted
    ├── NotMounted           needs one that is
    ├── InUse                a mount, template version, VE, address or pool that somebody uses
    ├── NotRoot              only root can do this
    ├── NotSupported         this kernel, file system or host lacks what was asked for
    ├── DiskFull             no space left to write what was asked for
    ├── BadArchive           a template source that is truncated, hostile or not a root file system
    ├── ActionFailed         an action script said no
    ├── NotReady             a VE that runs, or did, is not ready; what is missing, and its log, are in there
    ├── StartFailed          a step of a launch failed; which one is in step
    └── StopFailed           processes of the VE outlived even cgroup.kill; which ones is in pids

A message is a phrase that completes "ve: ": "cannot start 101: ...", in one printable line.  What the kernel refuses
outside of these comes as the OSError it is; only cli.py prints or exits.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

FULL = (errno.ENOSPC, errno.EDQUOT)  # what the kernel says where we say DiskFull
NOT_THERE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENODEV, errno.ENOLCK)  # and where this host lacks something
SPENT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # it says so of us, and nothing of what we wanted to look at

UPGRADE = "upgrade ve"

# The exit codes, vzctl(8)'s where the meaning is the same; the manual prints this table.
EXIT_CODES = {
    0: "done",
    1: "any other failure",
    2: "the command line cannot be understood",
    3: "the kernel or the file system refused (the message says what)",
    5: "this kernel, file system or host lacks what was asked for",
    9: "the VE is locked by another command",
    12: "not root",
    14: "the conf file of the VE or of its template is broken",
    20: "an option or its value is not valid",
    31: "the VE is not running",
    32: "the VE is running",
    33: "the VE could not be stopped",
    40: "the VE is not mounted",
    41: "the VE is mounted",
    43: "no such VE or pool",
    44: "the VEID or name is taken",
    46: "not enough disk space",
    47: "the VE could not be started",
    51: "somebody still uses it",
    79: "an action script failed",
    90: "a template source cannot be used",
    91: "no such template",
    125: "exec, run, enter, console: ve itself failed (the command's own code otherwise)",
    126: "exec, run, enter: the command is there but cannot be executed",
    127: "exec, run, enter: no such command",
    129: "ended by SIGHUP, once what was half made was taken back",
    130: "ended by Ctrl-C, likewise",
    133: "the VE runs, but is not ready in time, or has ended before",
    141: "nobody reads its stdout any more",
    143: "ended by SIGTERM, likewise",
}


def printable(text: str) -> str:
    """The text with what could move a terminal's cursor escaped: a VE chooses the names of its files and processes."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode()


def newer(version: object, known: int) -> str:
    """What is wrong with a file of this version, if a newer ve wrote it; UPGRADE is the cure then."""
    is_newer = type(version) is int and version > known
    return f"its version {version} is newer than this ve, which knows {known}" if is_newer else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for who mistypes: the nearest of what there is, or else all of it."""
    import difflib  # only who mistypes pays for it

    known = list(known)
    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


class Error(Exception):
    """The root of the tree.  str() is one printable line without a final full stop; hint is the cure, or empty."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(printable(message))
        self.hint = printable(hint)


class InvalidValue(Error):
    exit_code = 20


class BrokenConfig(InvalidValue):
    """A conf file that cannot be read as one; the message names file, line or key."""

    exit_code = 14


class NotFound(Error):
    exit_code = 43


class TemplateNotFound(NotFound):
    exit_code = 91


class FileError(Error):
    """The file system said no; errno says what."""

    exit_code = 3

    def __init__(self, message: str, hint: str = "", number: int = 0) -> None:
        super().__init__(message, hint)
        self.errno = number


class NoSuchFile(NotFound, FileError):
    """No such file or directory in the VE or, when copying, on the host."""

    exit_code = 3

    def __init__(self, message: str, hint: str = "", number: int = errno.ENOENT) -> None:
        FileError.__init__(self, message, hint, number)


class CannotExecute(Error):
    """The program is not there (exit_code 127) or cannot be executed (126)."""

    exit_code = 127

    def __init__(self, message: str, hint: str = "", exit_code: int = 127) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


class Exists(Error):
    exit_code = 44


class Locked(Error):
    """Another process works on this VE: holder is its pid, or 0 when it was gone before we could look."""

    exit_code = 9

    def __init__(self, message: str, hint: str = "", holder: int = 0) -> None:
        super().__init__(message, hint)
        self.holder = holder


class NotRunning(Error):
    exit_code = 31


class Running(Error):
    exit_code = 32


class NotMounted(Error):
    exit_code = 40


class Mounted(Error):
    exit_code = 41


class InUse(Error):
    exit_code = 51


class NotRoot(Error):
    exit_code = 12


class NotSupported(Error):
    exit_code = 5


class DiskFull(Error):
    """No space, inodes or quota left; what was there before still is."""

    exit_code = 46


class BadArchive(Error):
    exit_code = 90


class ActionFailed(Error):
    exit_code = 79


class NotReady(Error):
    """It was not ready in time, or ended before: missing says what was not so, log has the last lines of its log."""

    exit_code = 133

    def __init__(self, message: str, hint: str = "", missing: tuple[str, ...] = (), log: str = "") -> None:
        super().__init__(message, hint)
        self.missing, self.log = missing, log


class StartFailed(Error):
    """A step of a launch failed, and what the steps before it made has been undone."""

    exit_code = 47

    def __init__(self, message: str, hint: str = "", step: str = "") -> None:
        super().__init__(message, hint)
        self.step = step


class StopFailed(Error):
    exit_code = 33

    def __init__(self, message: str, hint: str = "", pids: tuple[int, ...] = ()) -> None:
        super().__init__(message, hint)
        self.pids = pids


def require_root(cannot: str) -> None:
    """Before the kernel refuses half way; cannot is how the sentence begins: "cannot start 101"."""
    if os.geteuid() != 0:
        raise NotRoot(f"{cannot}: not root", hint="run it as root, for example with sudo")
