"""Where things are and who holds them: the state dir, locks, names, and the facts of this boot.

    <state dir>/  template/  private/<VEID>/{upper,work,log}  layer/<ID>/upper  root/<VEID>/  conf/<VEID>.toml
                  name/<NAME> -> VEID      lease/<VEID>: its host ids (ve/ids.py)      ubc/<VEID>: what it used
    <run dir>/    <VEID>: facts    <VEID>.toml, log/<VEID>: config and log of an ephemeral VE    lock/  lease/<VEID>

A name is a symlink: symlink(2) fails when there is one, so making it is the check that it is free.  A file is written
aside and renamed, so that nobody reads half of one.  Directories are made by whoever writes first.  What needs the VE's
lock says so; a lock is not reentrant.
"""

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress

from ve import lock
from ve.errors import Exists, InvalidValue, Locked, NotFound
from ve.facts import Facts, boot_id, check_facts, dump_facts, parse_facts
from ve.veid import check_name, check_veid, veid_named
from ve.wholefile import create_whole, read_small, remove_asides, sync, write_whole, writing

ACTIONS = ("premount", "mount", "start", "stop", "umount", "postumount")
DEFAULT_DIR = "/var/lib/ve"
DEFAULT_RUN_DIR = "/run/ve"
_READ_ONLY = "if an error made it so, dmesg tells of it"
_READ_ONLY_FOR_OTHERS = f"{_READ_ONLY}; ve stop works all the same"  # than who asks even so
THROWN_AWAY = "ephemeral"  # in a private area: it is nobody's once its conf file is gone, as after a reboot


class State:
    """One state dir.  Nothing is read or made before a method needs it."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """path: the state dir; None: $VE_STATE_DIR, else /var/lib/ve, whose run dir is /run/ve.  InvalidValue if ""."""
        if path is not None and (not os.fspath(path) or "\0" in os.fspath(path)):
            raise InvalidValue(f"cannot use state dir {os.fspath(path)!r}: it is no path")
        self.path = os.path.realpath(path or os.environ.get("VE_STATE_DIR") or DEFAULT_DIR)
        # The same directory by any spelling is the same VEs, so its locks must be the same too.
        self.is_default = self.path == os.path.realpath(DEFAULT_DIR)
        self.run_dir = DEFAULT_RUN_DIR if self.is_default else os.path.join(self.path, "run")
        self.template_dir = os.path.join(self.path, "template")

    @property
    def tag(self) -> str:
        """The name of this state dir's cgroup, that no other state dir of this host has; makes the state dir."""
        if self.is_default:
            return "ve"
        try:
            at = os.stat(f"{self.path}/.")  # who looks at all VEs asks for each
        except OSError:
            at = os.stat(self.make_dir(self.path))
        return f"ve-{at.st_dev:x}-{at.st_ino:x}"

    def require(self) -> None:
        """InvalidValue if this state dir was named and is not there: a slip of the pen is not an empty host."""
        if not self.is_default and not os.path.isdir(self.path):
            hint = "`ve template build` makes it, if that is the one you mean"
            raise InvalidValue(f"cannot use state dir {self.path}: there is no such directory", hint)

    def private(self, veid: int) -> str:
        return os.path.join(self.path, "private", str(veid))

    @property
    def layer_dir(self) -> str:
        return os.path.join(self.path, "layer")

    def layer(self, name: str) -> str:
        """The tree of a layer (ve/layers.py)."""
        return os.path.join(self.layer_dir, name, "upper")

    def log(self, veid: int, *, ephemeral: bool = False) -> str:
        """The file of what the VE's init writes: in the run dir if it is ephemeral, beside the private area if not."""
        return os.path.join(self.run_dir, "log", str(veid)) if ephemeral else os.path.join(self.private(veid), "log")

    def ledger(self, veid: int) -> str:
        return os.path.join(self.path, "ubc", str(veid))

    def inside(self, veid: int) -> str:
        """The directory of what the VE sees of its beancounters (ve/insidefile.py)."""
        return os.path.join(self.run_dir, "inside", str(veid))

    def device(self, veid: int) -> str:
        """The file of which device of the host's it has (ve/attachment.py)."""
        return os.path.join(self.run_dir, "device", str(veid))

    def root(self, veid: int) -> str:
        return os.path.join(self.path, "root", str(veid))

    def conf(self, veid: int, *, ephemeral: bool = False) -> str:
        """The file of the VE's config: in the run dir if it is ephemeral, so that no boot finds it."""
        return os.path.join(self.run_dir if ephemeral else os.path.join(self.path, "conf"), f"{veid}.toml")

    def action(self, veid: int | None, name: str) -> str:
        """The action script of one VE, or of all of them (None)."""
        return os.path.join(self.path, "conf", f"{'ve' if veid is None else veid}.{name}")

    def retire_actions(self, veid: int) -> None:
        """Rename the VE's action scripts to *.destroyed, as vzctl does: no later VE of this number is to run them."""
        for name in ACTIONS:
            with suppress(FileNotFoundError):
                os.rename(self.action(veid, name), f"{self.action(veid, name)}.destroyed")

    def facts(self, veid: int) -> str:
        return os.path.join(self.run_dir, str(veid))

    def make_dir(self, path: str) -> str:
        """Make path and what leads to it from the state dir (0711) or run dir on (0700); gives path."""
        with self.writing():
            self._make_dir(path)
        return path

    def _make_dir(self, path: str) -> None:
        if os.path.isdir(path):
            return
        with suppress(FileExistsError):
            os.makedirs(self.path, mode=0o711)
        top = self.run_dir if os.path.commonpath((self.run_dir, path)) == self.run_dir else self.path
        step = top
        for name in ("", *os.path.relpath(path, top).split("/")):
            step = os.path.normpath(os.path.join(step, name))
            with suppress(FileExistsError):
                os.mkdir(step, 0o700)
        os.stat(os.path.join(path, "."))  # what exists may be something else

    def scratch(self) -> str:
        """An empty directory, to mount on in a mount namespace of one's own."""
        return self.make_dir(os.path.join(self.run_dir, "scratch"))

    # Locks.

    @contextmanager
    def lock(self, veid: int, timeout: float = 10.0, *, even_if_read_only: bool = False) -> Iterator[None]:
        """Hold the VE alone, among processes and threads; Locked names who has it after timeout seconds.

        even_if_read_only: also where nothing can be written any more; it is no shared lock for that.  The kernel ends
        the lock with the last process that has its file open, kill -9 included.
        """
        path = self._lock_path(veid)
        with self.writing(_READ_ONLY if even_if_read_only else _READ_ONLY_FOR_OTHERS):
            self._make_dir(os.path.dirname(path))
            fd = lock.acquire(path, veid, timeout, even_if_read_only=even_if_read_only)
        try:
            yield
        finally:
            os.close(fd)

    def is_locked(self, veid: int) -> bool:
        """Does anybody hold the VE at this moment?"""
        return lock.is_held(self._lock_path(veid))

    def remove_lock(self, veid: int) -> None:
        """Remove the lock's file, for a VE that is gone.  Under its lock; who waits for it makes another."""
        with suppress(FileNotFoundError):
            os.unlink(self._lock_path(veid))

    def _lock_path(self, veid: int) -> str:
        return os.path.join(self.run_dir, "lock", str(check_veid(veid)))

    # Who there is.

    def veids(self) -> list[int]:
        """The VEIDs of all VEs, ephemeral ones too, in order."""
        return sorted({*_configured(os.path.join(self.path, "conf")), *_configured(self.run_dir)})

    def ephemeral_veids(self) -> list[int]:
        """Those of ephemeral VEs, in order, without a look at any other."""
        return sorted(_configured(self.run_dir))

    def thrown_away(self) -> list[int]:
        """The VEIDs of ephemeral VEs of which a reboot has left the private area alone."""
        names = _entries(os.path.join(self.path, "private"))  # before the conf files, which are there for longer
        known = {*self.veids()}
        return [veid for name in names if (veid := veid_named(name)) and veid not in known and self.is_nobodys(veid)]

    def is_nobodys(self, veid: int) -> bool:
        """Is there a private area that was to be thrown away, and no conf file any more?"""
        return not self.exists(veid) and os.path.exists(os.path.join(self.private(veid), THROWN_AWAY))

    def conf_of(self, veid: int) -> str | None:
        """The VE's conf file, wherever it is; None when there is no such VE."""
        return next(filter(os.path.lexists, (self.conf(veid), self.conf(veid, ephemeral=True))), None)

    def exists(self, veid: int) -> bool:
        return self.conf_of(veid) is not None

    def write_conf(self, veid: int, data: bytes, *, ephemeral: bool = False, new: bool = False) -> None:
        """Write the conf file whole; new: the VE must not exist yet, Exists if it does.  Under the VE's lock."""
        path = self.conf(veid, ephemeral=ephemeral)
        self.make_dir(os.path.dirname(path))
        try:
            if new and self.exists(veid):
                raise FileExistsError(path)
            with self.writing():
                (create_whole if new else write_whole)(path, data, durable=not ephemeral)
        except FileExistsError:
            raise Exists(f"cannot create {veid}: it exists") from None

    def remove_conf(self, veid: int) -> None:
        """After this the VE is no more.  Also what a killed writer left beside it.  Under the VE's lock."""
        for path in (self.conf(veid), self.conf(veid, ephemeral=True), self.facts(veid)):
            remove_asides(path)
        with suppress(FileNotFoundError):
            os.unlink(self.conf(veid, ephemeral=True))
        with suppress(FileNotFoundError):
            os.unlink(self.conf(veid))
            sync(os.path.dirname(self.conf(veid)))

    def resolve(self, key: int | str) -> int:
        """The VEID of a VE that exists, from its VEID or name; NotFound names what is near."""
        if isinstance(key, str) and not re.fullmatch(r"[+-]?[0-9]+", key):
            veid = _target(self._name_path(key))
        else:
            veid = check_veid(int(key) if isinstance(key, str) else key)
        if veid is None or not self.exists(veid):
            if veid is not None and (self.names(veid) or os.path.exists(self._lock_path(veid))):
                with suppress(OSError):
                    self._forget(veid)
            raise NotFound(f"cannot find VE {key}: there is none", hint=self._near(str(key)))
        return veid

    def _near(self, key: str) -> str:
        import difflib  # only who mistypes pays for it

        veids, directory = self.veids(), os.path.join(self.path, "name")
        names = [name for name in _entries(directory) if _target(os.path.join(directory, name)) in veids]
        near = difflib.get_close_matches(key, [*map(str, veids), *names], cutoff=0.5)
        return f"did you mean {' or '.join(near)}?" if near else "ve list shows all"

    # Names.

    def claim_name(self, name: str, veid: int) -> None:
        """Give the VE this name; Exists says which VE has it.  Under the lock of veid."""
        path = self._name_path(name)
        self.make_dir(os.path.dirname(path))
        with self.writing():
            if not self._claim(path, veid):
                raise Exists(f"cannot use name {name}: VE {_target(path) or 'unknown'} has it", "ve rename frees it")
            sync(os.path.dirname(path))

    def release_name(self, name: str, veid: int) -> None:
        """Free the name if this VE has it.  Under the lock of veid."""
        path = self._name_path(name)
        if _target(path) == veid:
            with suppress(FileNotFoundError):
                os.unlink(path)
                sync(os.path.dirname(path))

    def names(self, veid: int) -> list[str]:
        """All names that the VE holds: more than one when a rename was killed half way."""
        directory = os.path.join(self.path, "name")
        return sorted(name for name in _entries(directory) if _target(os.path.join(directory, name)) == veid)

    def _name_path(self, name: str) -> str:
        return os.path.join(self.path, "name", check_name(name))

    def _claim(self, path: str, veid: int) -> bool:
        """Make path a link to the VEID.  A link of a VE that is no more is taken over."""
        for _ in range(2):
            with suppress(FileExistsError):
                os.symlink(str(veid), path)
                return True
            holder = _target(path)
            if holder == veid:
                return True
            if holder is not None and not self._forget(holder):
                return False
        return False

    def _forget(self, veid: int) -> bool:
        """Remove the names and the lock of a VE that is no more: a destroy left them that was killed at its very end.

        False when there is such a VE, or when it is in the making.
        """
        if self._known(veid):
            return False
        try:
            with self.lock(veid, 0):  # one in the making has no conf yet, but is locked
                if not self._known(veid):
                    for name in self.names(veid):
                        self.release_name(name, veid)
                    self.remove_lock(veid)
            return True
        except Locked:
            return False

    def _known(self, veid: int) -> bool:
        return self.exists(veid) or os.path.lexists(self.facts(veid))

    # Facts of this boot.

    def write_facts(self, veid: int, facts: Facts) -> None:
        """Under the lock of veid."""
        self.make_dir(self.run_dir)
        with self.writing():
            write_whole(self.facts(veid), dump_facts(facts), durable=False)  # another boot has no use for them

    def read_facts(self, veid: int) -> Facts | None:
        """None when there are none, when they cannot be read as such, or when they are of another boot or state dir.

        The latter came with a copy: that VE is the original's.
        """
        facts = parse_facts(read_small(self.facts(veid)))
        if facts is None or facts.boot_id != boot_id():
            return None
        return facts if facts.extra.get("tag") in (None, self.tag) else None

    def check_facts(self, veid: int) -> None:
        """BrokenConfig if there are some that cannot be read as such, as those of a newer ve."""
        path = self.facts(veid)
        if os.path.lexists(path):
            check_facts(path, read_small(path))

    def keep_filters(self, name: str, filters: Sequence[bytes]) -> None:
        """Keep compiled filters of system calls for this boot, under a name that is made of their content's sources."""
        directory = self.make_dir(os.path.join(self.run_dir, "filter"))
        with self.writing():
            write_whole(os.path.join(directory, name), _sealed(name, filters), durable=False)

    def kept_filters(self, name: str) -> tuple[bytes, ...]:
        """What was kept under this name in this boot; nothing unless all of it is there, and nothing else."""
        data = read_small(os.path.join(self.run_dir, "filter", name))
        with suppress(ValueError):  # of what is no hex
            filters = tuple(bytes.fromhex(line.decode()) for line in data.splitlines()[1:])
            if data == _sealed(name, filters):
                return filters
        return ()

    def remove_facts(self, veid: int) -> None:
        """Under the lock of veid."""
        with suppress(FileNotFoundError):
            os.unlink(self.facts(veid))

    def writing(self, read_only: str = _READ_ONLY_FOR_OTHERS) -> AbstractContextManager[None]:
        """Say of what cannot be written that it is this state dir; read_only: the hint where its file system is so."""
        hint = "run as root, or choose another with --state-dir or VE_STATE_DIR"
        return writing(f"the state dir {self.path}", hint, read_only)


def _sealed(name: str, filters: Sequence[bytes]) -> bytes:
    """A sum of name and filters, then these: a broken file, or another's, is no weaker filter."""
    text = "".join(f"{each.hex()}\n" for each in filters)
    return f"sum={zlib.crc32(f'{name} {text}'.encode()):08x}\n{text}".encode()


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _configured(directory: str) -> list[int]:
    """The VEIDs whose conf files are there."""
    return [veid for name in _entries(directory) if (veid := veid_named(name, ".toml"))]


def _target(link: str) -> int | None:
    """The VEID that a link names; None when there is no link, or it names none."""
    try:
        text = os.readlink(link)
    except OSError:
        return None
    return veid_named(text)
