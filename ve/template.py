"""The templates: read-only root file systems by name, each in immutable versions 1, 2, 3, ...

    <state dir>/template/<name>/<version>/       the tree
    <state dir>/template/<name>/<version>.toml   what is known of it; a version exists when this file does
    <state dir>/template/.new-*                  templates in the making (staging.py)

Made in archive.py (from what people have) and distributions.py (built here), checked in rootfs.py.  Two flocks: one on
template/ itself, held for moments, orders those who claim or clear names in it; one on each <version>.toml is shared by
who begins to use that version and exclusive to who removes it.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ve.errors import BrokenConfig, Error, InUse, InvalidValue, TemplateNotFound, require_root
from ve.tomlfile import Broken, table
from ve.veid import check_name
from ve.wholefile import read_regular, sync

if TYPE_CHECKING:  # how one is made, only add and build need
    import builtins
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ve import archive
    from ve.staging import Progress, Staging

VERSION = 1  # of what is said of one
_SIZE_MAX = 16 << 20  # bytes of it; an image may have a long environment
_METADATA = {"created": str, "source": str, "init": str, "command": list, "env": dict, "cwd": str, "user": str}
_NEW = ".new-"


@dataclass(frozen=True)
class Template:
    """A version of a template.  command, env, cwd and user are what an image says of its start; else their defaults."""

    name: str
    version: int
    path: str  # the tree
    created: str  # UTC, as in 2000-08-21T12:00:00Z
    source: str  # what it was made from, for people to read
    init: str = ""  # path inside; empty when it has none
    command: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = "/"
    user: str = "0:0"  # uid:gid

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.version}"


class Shelf:
    """The templates that there are, to read."""

    def __init__(self, path: str, require: Callable[[], object] = lambda: None) -> None:
        """path is <state dir>/template, and need not be there yet; require raises if the state dir should be."""
        self.path = path
        self._require = require

    def list(self) -> list[Template]:
        """All versions, by name and number."""
        require_root("cannot list templates")
        self._require()
        found = []
        for name in self._names():
            for version in self._versions(name):
                with suppress(TemplateNotFound):  # removed since, or without its tree
                    found.append(self._load(name, version))
        return found

    def get(self, ref: str) -> Template:
        """NAME is the newest version, NAME:VERSION that one; TemplateNotFound says which names come near."""
        name, wanted = _parse(ref)
        require_root(f"cannot look for template {ref}")
        self._require()
        versions = self._versions(name)
        if not versions or wanted not in (None, *versions):
            raise self._not_found(ref, name, versions)
        return self._load(name, wanted or versions[-1])

    @contextmanager
    def hold(self, ref: str) -> Iterator[Template]:
        """The template as get() gives it, which cannot be removed meanwhile: for who is about to become its user."""
        template = self.get(ref)
        with self._version_locked(template.name, template.version, fcntl.LOCK_SH):
            yield template

    @contextmanager
    def _version_locked(self, name: str, version: int, how: int) -> Iterator[None]:
        path = self._toml(name, version)
        gone = TemplateNotFound(f"cannot find template {name}:{version}: it has just been removed")
        try:
            fd = _flock(path, how)
        except FileNotFoundError:
            raise gone from None
        except BlockingIOError:
            raise InUse(f"cannot remove template {name}:{version}: a VE is being created from it") from None
        try:
            if os.fstat(fd).st_nlink == 0:  # removed while we waited
                raise gone
            yield
        finally:
            os.close(fd)

    def _tree(self, name: str, version: int) -> str:
        return f"{self.path}/{name}/{version}"

    def _toml(self, name: str, version: int) -> str:
        return f"{self.path}/{name}/{version}.toml"

    def _names(self) -> Sequence[str]:
        with suppress(FileNotFoundError):
            return sorted(
                name for name in os.listdir(self.path) if os.path.isdir(f"{self.path}/{name}") and name[0] != "."
            )
        return []

    def _versions(self, name: str) -> Sequence[int]:
        """The versions of a template, oldest first; none if there is no such template."""
        with suppress(FileNotFoundError):
            files = (os.path.splitext(file) for file in os.listdir(f"{self.path}/{name}"))
            return sorted(int(number) for number, kind in files if kind == ".toml" and number.isdecimal())
        return []

    def _not_found(self, ref: str, name: str, versions: Sequence[int]) -> TemplateNotFound:
        import difflib

        names = sorted({known for known in self._names() if self._versions(known)})
        if versions:
            hint = f"there is {', '.join(f'{name}:{version}' for version in versions)}"
        elif near := difflib.get_close_matches(name, names):
            hint = f"did you mean {' or '.join(near)}?"
        else:
            hint = (
                f"there is {', '.join(names)}" if names else "there are none yet: `ve template build busybox` makes one"
            )
        return TemplateNotFound(f"cannot find template {ref}: there is none", hint)

    def _load(self, name: str, version: int) -> Template:
        path = self._toml(name, version)
        try:
            facts = _metadata(read_regular(path, _SIZE_MAX), path)
        except FileNotFoundError as error:
            raise TemplateNotFound(f"cannot find template {name}:{version}: it has just been removed") from error
        tree = self._tree(name, version)
        if not os.path.isdir(tree):
            raise TemplateNotFound(f"cannot use template {name}:{version}: its tree {tree} is gone")
        return Template(name, version, tree, **facts)


class Store(Shelf):
    """The same, and what the dead left in it."""

    def left(self) -> Sequence[str]:
        """What the dead left in it, as paths: stagings that nobody locks, and trees without metadata."""
        if not os.path.isdir(self.path):
            return []
        with ExitStack() as locks, self._locked():
            stagings = [path for path in self._stagings() if _try_lock(path, locks)]
            return stagings + [self._tree(name, each) for name in self._names() for each in self._orphans(name)]

    def broken(self) -> Iterator[Error]:
        """Why those versions cannot be used that cannot."""
        for name in self._names():
            for version in self._versions(name):
                try:
                    self._load(name, version)
                except (TemplateNotFound, BrokenConfig) as error:
                    yield error

    def sweep(self) -> None:
        """Delete what the dead left: staging directories that nobody locks, trees without metadata, empty names."""
        if not os.path.isdir(self.path):
            return
        with ExitStack() as locks:
            with self._locked():
                self._disown()
                stale = [path for path in self._stagings() if _try_lock(path, locks)]
            for path in stale:  # we hold their locks, so that no other sweep begins on them; the store itself is free
                _delete(path)

    def _disown(self) -> None:
        """Make stagings of the trees without metadata, and drop the names without versions; under the store's lock."""
        for name in self._names():
            for number in self._orphans(name):
                os.rename(self._tree(name, number), f"{self.path}/{_NEW}{name}-{number}-{time.monotonic_ns()}")
            with suppress(OSError):
                os.rmdir(f"{self.path}/{name}")

    def _stagings(self) -> Sequence[str]:
        return [f"{self.path}/{entry}" for entry in os.listdir(self.path) if entry.startswith(_NEW)]

    def _orphans(self, name: str) -> Sequence[int]:
        """Trees without metadata: of a remove, or of an add that died between its two renames."""
        known = self._versions(name)
        numbers = (int(entry) for entry in os.listdir(f"{self.path}/{name}") if entry.isdecimal())
        return [number for number in numbers if number not in known]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = _flock(self.path, fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(fd)


class Templates(Store):
    """The store, to change: TemplateNotFound, InUse, BadArchive, DiskFull, NotSupported (a program is missing).

    list, add, build and remove first remove what the dead left in it.
    """

    def __init__(
        self,
        path: str,
        users: Callable[[str], Iterable[int]],
        require: Callable[[], object] = lambda: None,
        provide: Callable[[], object] = lambda: None,
    ) -> None:
        """As for Shelf; add and build make path, after provide().  users(ref) gives the VEs created from a version."""
        super().__init__(path, require)
        self._users, self._provide = users, provide

    def list(self) -> builtins.list[Template]:
        """All versions, by name and number."""
        with suppress(OSError):  # what cannot be removed now keeps nobody from looking
            self.sweep()
        return super().list()

    def add(self, name: str, source: str | os.PathLike[str], progress: Progress | None = None) -> Template:
        """A new version from a directory, a tar, an OCI image layout, an OCI or docker-save archive.

        progress(done, total, unit) is called now and then while people wait.  On any error nothing has changed.
        """
        from ve import archive
        from ve.staging import shown

        check_name(name, "template name")
        source = os.fspath(source)
        with self._staging(f"cannot add template {name} from {shown(source)}", progress) as staging:
            start = archive.fill(staging, source)
            return self._publish(staging, name, os.path.abspath(source), start)

    def build(
        self,
        kind: str,
        name: str | None = None,
        *,
        suite: str | None = None,
        include: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Template:
        """A new version, of a kind in distributions.BUILDERS, called as its kind if no name is given."""
        from ve.archive import Start
        from ve.distributions import BUILDERS

        name = check_name(name or kind, "template name")
        if kind not in BUILDERS:
            raise InvalidValue(f"cannot build template {kind}: it is none of {', '.join(BUILDERS)}")
        with self._staging(f"cannot build template {name}", progress) as staging:
            source = BUILDERS[kind](staging, suite, include)
            return self._publish(staging, name, source, Start())

    def remove(self, ref: str) -> None:
        """Remove a version, or all of a name's; InUse names the VEs that use one, and then none is removed."""
        name, version = _parse(ref)
        require_root(f"cannot remove template {ref}")
        self._require()
        self.sweep()
        versions = self._versions(name) if version is None else [version]
        if not set(versions) & set(self._versions(name)):
            raise self._not_found(ref, name, self._versions(name))
        with ExitStack() as locks:
            for number in versions:
                locks.enter_context(self._version_locked(name, number, fcntl.LOCK_EX | fcntl.LOCK_NB))
                users = sorted(self._users(f"{name}:{number}"))
                if users:
                    raise InUse(
                        f"cannot remove template {name}:{number}: {_enumerate(users)} it",
                        hint="a VE stays on the version that it was created from: destroy it first",
                    )
            for number in versions:
                os.unlink(self._toml(name, number))
            sync(f"{self.path}/{name}")
        self.sweep()  # the tree without its metadata is garbage now, whoever dies in between

    # ------------------------------------------------------------ making and clearing

    @contextmanager
    def _staging(self, what: str, progress: Progress | None) -> Iterator[Staging]:
        """A locked, empty staging directory that is gone at the end; a full disk becomes DiskFull."""
        import tempfile

        from ve.staging import Staging, full_disk_named

        require_root(what)
        with full_disk_named(what, self.path), ExitStack() as undo:
            self._provide()
            os.makedirs(os.path.dirname(self.path), mode=0o711, exist_ok=True)
            with suppress(FileExistsError):
                os.mkdir(self.path, 0o700)
            self.sweep()
            with self._locked():  # so that no sweep sees it without its lock
                path = tempfile.mkdtemp(prefix=_NEW, dir=self.path)
                lock = _flock(path, fcntl.LOCK_EX)
            undo.callback(os.close, lock)
            undo.callback(_delete, path)
            yield Staging(path, lock, what, progress)

    def _publish(self, staging: Staging, name: str, source: str, start: archive.Start) -> Template:
        """Check the tree, make it durable, and give it the next number: from here on it exists, or not at all."""
        import tomli_w

        from ve import rootfs

        init = rootfs.settle(staging)
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        facts = {
            "version": VERSION, "created": created, "source": os.fsencode(source).decode("utf-8", "replace"),
            "init": init, "command": list(start.command), "env": start.env, "cwd": start.cwd, "user": start.user,
        }  # fmt: skip
        with open(f"{staging.path}/toml", "wb") as file:
            tomli_w.dump(facts, file)
        staging.run("sync", "--file-system", staging.path)
        with self._locked():
            with suppress(FileExistsError):
                os.mkdir(f"{self.path}/{name}", 0o700)
            version = max((0, *self._versions(name), *self._orphans(name))) + 1
            os.rename(staging.tree, self._tree(name, version))
            os.rename(f"{staging.path}/toml", self._toml(name, version))
            sync(f"{self.path}/{name}")
            sync(self.path)
        return self._load(name, version)


def _metadata(data: bytes, path: str) -> dict[str, Any]:
    """What the file of a version says; BrokenConfig names what is wrong there.  path is only for messages."""
    try:
        found = table(data, VERSION)
        for key, kind in _METADATA.items():
            if not isinstance(found.get(key), kind):
                raise Broken(f"key {key}: is missing or of a wrong kind", at=(key,))
        for key, texts in (("command", found["command"]), ("env", found["env"].values())):
            if not all(isinstance(text, str) for text in texts):
                raise Broken(f"key {key}: must hold strings only", at=(key,))
    except Broken as error:
        raise error.of(path, data) from None
    return {key: found[key] for key in _METADATA} | {"command": tuple(found["command"])}


def _parse(ref: str) -> tuple[str, int | None]:
    name, colon, number = ref.partition(":")
    check_name(name, "template")
    if colon and (not number.isascii() or not number.isdecimal() or number.startswith("0")):
        raise InvalidValue(f"cannot use template {ref!r}: it is not NAME or NAME:VERSION")
    return name, int(number) if colon else None


def _enumerate(veids: Sequence[int]) -> str:
    return f"VE {veids[0]} uses" if len(veids) == 1 else f"VEs {', '.join(map(str, veids))} use"


def _flock(path: str, how: int) -> int:
    """An open descriptor of path that holds the lock; BlockingIOError with LOCK_NB when it cannot be had."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, how)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _try_lock(path: str, locks: ExitStack) -> bool:
    """Lock path until locks is closed; False when somebody else has it, or it is gone."""
    try:
        locks.callback(os.close, _flock(path, fcntl.LOCK_EX | fcntl.LOCK_NB))
    except (BlockingIOError, FileNotFoundError):
        return False
    return True


def _delete(path: str) -> None:
    """Remove a directory of ours, however deep; what cannot be removed now, the next sweep finds."""
    import subprocess

    subprocess.run(["rm", "-rf", "--one-file-system", "--", path], stdin=subprocess.DEVNULL, capture_output=True)
