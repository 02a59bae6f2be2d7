"""Files of a VE as paths: what pathlib has, of a VE that runs or not.

    env.path("/etc/hosts").read_text()
    with (env.path("/var/log") / "messages").open("rb") as file: ...

A path names something in the VE and is none of the host's: it is no os.PathLike, so that nobody opens the host's file
of this name by mistake.  Each call goes to where the VE's files are (ve/insidepath.py), resolves the path there, and
raises what pathlib raises: FileNotFoundError, FileExistsError and the like; TimeoutError for what does not answer.
"""

from __future__ import annotations

import contextlib
import errno
import io
import operator
import os
import select
import stat
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import IO, Any, NoReturn, TypeAlias

from ve.files import Hand

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ve.contents import Contents

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # of who asks whether something is
Segment: TypeAlias = "str | PurePosixPath | Path"


class Path:
    """A path in a VE, from its root; env.path() makes it.  A link is followed as it is in the VE, and never leaves it.

    name, stem, suffix, suffixes, parts, parent and with_name() as pathlib has them; str() is the path in the VE.
    """

    __slots__ = ("_env", "_pure")

    def __init__(self, env: Contents, *segments: Segment) -> None:
        self._env = env
        self._pure = PurePosixPath("/", *map(_text, segments))

    def __str__(self) -> str:
        return str(self._pure)

    def __repr__(self) -> str:
        return f"<ve.Path {self._env.veid}:{self}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Path):
            return NotImplemented
        return self._key == other._key

    def __lt__(self, other: Path) -> bool:
        return self._key < other._key if isinstance(other, Path) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, int, PurePosixPath]:
        return self._env.state.path, self._env.veid, self._pure

    def __truediv__(self, segment: Segment) -> Path:
        return self.joinpath(segment)

    def joinpath(self, *segments: Segment) -> Path:
        return Path(self._env, self._pure, *segments)

    def with_name(self, name: str) -> Path:
        return Path(self._env, self._pure.with_name(name))

    @property
    def parent(self) -> Path:
        return Path(self._env, self._pure.parent)

    @property
    def parts(self) -> tuple[str, ...]:
        return self._pure.parts

    @property
    def name(self) -> str:
        return self._pure.name

    @property
    def stem(self) -> str:
        return self._pure.stem

    @property
    def suffix(self) -> str:
        return self._pure.suffix

    @property
    def suffixes(self) -> list[str]:
        return self._pure.suffixes

    # --- what is there

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Owners are numbered as in the VE."""
        return os.stat_result(*self._do("look", follow=follow_symlinks))

    def lstat(self) -> os.stat_result:
        return self.stat(follow_symlinks=False)

    def exists(self) -> bool:
        return bool(self._mode())

    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self._mode())

    def is_dir(self) -> bool:
        return stat.S_ISDIR(self._mode())

    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self._mode(follow_symlinks=False))

    def _mode(self, follow_symlinks: bool = True) -> int:
        """0 if nothing is there."""
        try:
            return self.stat(follow_symlinks=follow_symlinks).st_mode
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            return 0

    def readlink(self) -> str:
        """What the link says, as it says it."""
        [target] = self._do("link")
        return str(target)

    def iterdir(self) -> Iterator[Path]:
        """In no order; what is there when it is called."""
        names: list[str] = []
        self._do("list_names", some=names)
        return (self / name for name in names)

    # --- making and removing

    def mkdir(self, mode: int = 0o755, parents: bool = False, exist_ok: bool = False) -> None:
        """It belongs to the VE's root, and has just this mode."""
        self._do("mkdir", mode=_mode(mode), parents=parents, exist_ok=exist_ok)

    def unlink(self, missing_ok: bool = False) -> None:
        with contextlib.suppress(*[FileNotFoundError] if missing_ok else []):
            self._do("unlink")

    def rmdir(self) -> None:
        self._do("rmdir")

    def chmod(self, mode: int) -> None:
        self._do("chmod", mode=_mode(mode))

    # --- what is in it

    def open(
        self, mode: str = "r", *, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> IO[Any]:
        """A regular file as a stream, which is read, or written with w, a or x, from its beginning; there is no "+".

        It is not read ahead further than a pipe holds, so it may be of any size.  A new one belongs to the VE's root,
        with the mode 0644.  A VE that does not run is locked until the stream is closed; one that stops ends it.
        """
        kind, binary = mode.replace("b", "").replace("t", ""), "b" in mode
        if kind not in ("r", "w", "a", "x") or len(mode) > 2 or ("t" in mode and binary):
            raise ValueError(f"invalid mode: {mode!r}: a file of a VE is read or written from its beginning")
        if binary and (encoding, errors, newline) != (None, None, None):
            raise ValueError("binary mode takes no encoding, errors or newline")
        raw = _Reading(self, "read") if kind == "r" else _Writing(self, "write", how=kind)
        buffered = io.BufferedReader(raw) if kind == "r" else io.BufferedWriter(raw)
        if binary:
            return buffered
        try:
            return io.TextIOWrapper(buffered, encoding, errors, newline)
        except BaseException:
            buffered.close()
            raise

    def read_bytes(self) -> bytes:
        """All of it, which may be more than the host has memory for: see open()."""
        with self.open("rb") as file:
            return bytes(file.read())

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        with self.open(encoding=encoding, errors=errors) as file:
            return str(file.read())

    def write_bytes(self, data: bytes) -> int:
        view = memoryview(data)
        with self.open("wb") as file:
            file.write(view)
        return view.nbytes

    def write_text(
        self, data: str, encoding: str | None = None, errors: str | None = None, newline: str | None = None
    ) -> int:
        if not isinstance(data, str):
            raise TypeError(f"data must be str, not {type(data).__name__}")  # before the file is truncated
        with self.open("w", encoding=encoding, errors=errors, newline=newline) as file:
            return int(file.write(data))

    # --- between the host and the VE

    def put(self, source: str | bytes | os.PathLike[Any], archive: bool = False) -> None:
        """Copy a file or tree of the host to here, or into it if it is a directory, as Environment.copy_in does."""
        self._env.copy_in(os.fsdecode(source), str(self), archive)

    def get(self, target: str | bytes | os.PathLike[Any], archive: bool = False) -> None:
        """Copy what is here to the host, or into target if that is a directory, as Environment.copy_out does."""
        self._env.copy_out(str(self), os.fsdecode(target), archive)

    # --- the far side

    def _do(self, action: str, some: list[str] | None = None, **request: Any) -> tuple[Any, ...]:
        """What is answered; the names that come before go to some."""
        with self._env.place() as place, Hand(place, "", self._request(action, request)) as hand:
            while True:
                kind, *values = hand.hear()
                if kind == "DONE":
                    return tuple(values)
                if kind == "ERROR" or some is None:
                    self._fail(values)
                some += values

    def _request(self, action: str, more: dict[str, Any]) -> dict[str, Any]:
        if "\0" in str(self):
            raise ValueError("embedded null byte")
        return {"action": action, "path": str(self), **more}

    def _fail(self, error: list[Any]) -> NoReturn:
        number, why = error[0] or errno.EIO, error[1]
        raise OSError(number, why, f"{self._env.veid}:{self}")


def _text(segment: Segment) -> str:
    """TypeError, as pathlib has it, for what str() would make a path of as well."""
    if not isinstance(segment, (str, PurePosixPath, Path)):
        raise TypeError(f"a path in a VE is of str and paths, not of {type(segment).__name__}")
    return str(segment)


def _mode(mode: int) -> int:
    """TypeError and OverflowError, as os.chmod has them."""
    number = operator.index(mode)
    if not -(1 << 31) <= number < 1 << 31:
        raise OverflowError(f"mode {number} is not one of the kernel's")
    return number


class _Stream(io.RawIOBase):
    """A pipe from or to the far side, and what keeps the VE's root in place as long."""

    def __init__(self, path: Path, action: str, **request: Any) -> None:
        self._path = path
        self._failed = False
        with contextlib.ExitStack() as undo:
            place = undo.enter_context(path._env.place())
            reading, writing = map(io.FileIO, os.pipe(), ("r", "w"))
            self._pipe, theirs = (reading, writing) if action == "read" else (writing, reading)
            undo.enter_context(self._pipe)
            with theirs:
                self._hand = undo.enter_context(Hand(place, "", path._request(action, request), theirs.fileno()))
            undo.callback(self._pipe.close)  # first of all: that ends the far side
            self._expect("OPENED")
            os.set_blocking(self._pipe.fileno(), False)
            self._poll = select.poll()
            self._poll.register(self._pipe, select.POLLIN if action == "read" else select.POLLOUT)
            self._poll.register(self._hand.channel, select.POLLIN)
            self._held = undo.pop_all()

    def close(self) -> None:
        if not self.closed:
            held = vars(self).pop("_held", contextlib.ExitStack())  # there is none if it was never open
            with held:
                super().close()

    def _expect(self, kind: str) -> None:
        answer, *values = self._hand.hear()
        if answer != kind:
            self._failed = True
            self._path._fail(values)

    def _ready(self) -> set[int]:
        return {fd for fd, _ in self._poll.poll()}


class _Reading(_Stream):
    _whole = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """An error instead of an end that is none."""
        while True:
            if self._pipe.fileno() in self._ready():
                count = os.readv(self._pipe.fileno(), [buffer])
                if not (count or self._whole):
                    self._hear_the_end()
                return count
            self._hear_the_end()  # which was said after all was sent

    def _hear_the_end(self) -> None:
        self._expect("DONE")
        self._whole = True
        self._poll.unregister(self._hand.channel)


class _Writing(_Stream):
    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._hand.channel.fileno() in self._ready():
            self._expect("")  # which it is not: before the end nothing is said but an error
        return os.write(self._pipe.fileno(), data)

    def close(self) -> None:
        """An error if not all could be written."""
        if self.closed:
            return
        try:
            if "_held" in vars(self) and not self._failed:
                self._pipe.close()
                self._expect("DONE")
        finally:
            super().close()
