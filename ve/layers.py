"""The layers of VEs: what one had changed at some moment, read only from then on, for itself and for others.

    <state dir>/layer/<ID>/upper     a layer, with plain owners; overlayfs reads several upon each other as they are
    <state dir>/layer/.gone-<ID>     one that nobody uses any more, while it is removed

The conf file of a VE says which layers are between its template and its upper, and which each of its snapshots has; a
layer is there for as long as any conf file names it.  Of a stopped VE the upper itself becomes the layer, by a rename,
whatever is in it.  So that a kill leaves no half of that, the conf file comes first, and says what is unfinished, which
the next who needs the upper does again from the start.  Of a running VE the upper is copied while all of it stands
still, as nobody else may have it.

Who makes a layer or a VE on some holds the directory (flock(2)) until a conf file names them; who removes what nobody
uses has it alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import subprocess
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ve import beneath, cgroups, looparea, program, removal, unionfs
from ve.errors import FULL, DiskFull, Error, NotFound, NotSupported
from ve.model import LAYERS_MAX
from ve.state import THROWN_AWAY
from ve.wholefile import sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ve.instance import Instance
    from ve.model import Config
    from ve.state import State

MOVE, NEW = "move", "new"  # what may be unfinished: its upper becomes the newest layer, or is replaced by a new one
_GONE = ".gone-"
_STILL = "user.ve.still"  # of the cgroup of a VE that stands still for a moment
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")  # or it would copy on from a VE that goes on
_COPY = ("cp", "-dR", "--preserve=mode,ownership,timestamps,links,xattr", "--reflink=auto", "--sparse=auto", "--")
_CHANGED_SINCE = ("find", ".", "-xdev", "!", "-type", "d", "-newerct")


# --- which there are ------------------------------------------------------------------------------------------------


@contextmanager
def held(state: State) -> Iterator[int]:
    """No layer is removed meanwhile; if that fails, those that it has made.  The descriptor that holds them."""
    try:
        with _locked(state.make_dir(state.layer_dir), fcntl.LOCK_SH) as fd:
            yield fd
    except BaseException:
        sweep(state)
        raise


def require(state: State, veid: int, stack: tuple[str, ...]) -> None:
    """NotFound names one of these that is gone."""
    for name in stack:
        if not os.path.isdir(state.layer(name)):
            raise NotFound(f"cannot use {veid}: its layer {state.layer(name)} is gone", "bring it back from a backup")


def unused(state: State, going: int = 0) -> list[str]:
    """Those that no conf file names, as paths; none as long as there is data of a VE whose conf file is lost.

    going: the VEID of one whose word does not count any more.
    """
    names = _entries(state.layer_dir)
    if not names:
        return []
    named: set[str] = set()
    for veid in {*state.veids()} - {going}:
        with suppress(FileNotFoundError):  # just destroyed
            named |= _names_in(state, veid)
    left = [name for name in names if name not in named]
    return [] if left and _lost(state) else [os.path.join(state.layer_dir, name) for name in left]


def left(state: State) -> list[str]:
    """The same, and nobody is about to use them."""
    with suppress(OSError), _locked(state.layer_dir, fcntl.LOCK_EX | fcntl.LOCK_NB):
        return unused(state)
    return []


def remove_unused(state: State, going: int = 0) -> None:
    """Remove what nobody uses; nothing while somebody holds layers, who may be about to use one: the next one will."""
    if not unused(state, going):
        return
    with suppress(BlockingIOError), _locked(state.layer_dir, fcntl.LOCK_EX | fcntl.LOCK_NB):
        for path in unused(state, going):
            if not os.path.basename(path).startswith(_GONE):
                os.rename(path, os.path.join(state.layer_dir, _GONE + os.path.basename(path)))
    for name in _entries(state.layer_dir):
        if name.startswith(_GONE):
            removal.remove(os.path.join(state.layer_dir, name), "cannot remove a layer")


def sweep(state: State) -> None:
    """The same for who is done, and would not fail for it: what is left is the next one's."""
    with suppress(Error, OSError):
        remove_unused(state)


def _names_in(state: State, veid: int) -> set[str]:
    """What may be one in a conf file, be it broken."""
    path = state.conf_of(veid)
    if path is None:
        return set()
    with open(path, "rb") as file:
        return {each.decode() for each in re.findall(rb"\b[0-9a-f]{16}\b", file.read())}


def _lost(state: State) -> bool:
    """Is there data of a VE without a conf file?  What it was made on nobody can say."""
    private = os.path.join(state.path, "private")
    veids = {*map(str, state.veids())}
    areas = [os.path.join(private, name) for name in _entries(private) if name not in veids]
    areas = [area for area in areas if not os.path.exists(f"{area}/{THROWN_AWAY}")]
    return any(looparea.exists(area) or _entries(f"{area}/upper") for area in areas)


def _entries(directory: str) -> list[str]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return sorted(os.listdir(directory))
    return []


@contextmanager
def _locked(directory: str, how: int) -> Iterator[int]:
    fd = os.open(directory, _DIRECTORY)
    try:
        fcntl.flock(fd, how)
        yield fd
    finally:
        os.close(fd)


# --- making one -----------------------------------------------------------------------------------------------------


def take(instance: Instance, cannot: str, held_fd: int) -> tuple[tuple[str, ...], str]:
    """Make what a VE has changed a layer: all its layers then, and what is unfinished of that.

    For the caller to write into a conf file; under the VE's lock and held(), which gave held_fd: who copies has it too,
    so nobody removes what it still writes to.  cannot: how the sentence of an error begins.  NotSupported, DiskFull;
    Error if a running VE cannot be frozen.
    """
    state, config = instance.state, instance.config
    below = [each for each in config.layers if os.listdir(state.layer(each))]  # an empty one adds nothing to others
    if len(below) >= LAYERS_MAX:
        cure = f"make a template of it: ve template add NAME $(ve mount {instance.veid})"
        raise NotSupported(f"{cannot}: it has {LAYERS_MAX} layers, and no VE may have more", cure)
    name = os.urandom(8).hex()
    directory = state.make_dir(os.path.dirname(state.layer(name)))
    with instance.init() as init, instance.top() as top:
        at_hand = os.stat(f"{top}/upper").st_dev == os.stat(directory).st_dev
        moves = at_hand and init is None
        cure = f"ve stop {instance.veid} first" if at_hand else "shorten it inside, with mv"  # of a path to be copied
        if init:
            with _still(instance):
                _refuse_hidden_names(instance, top, cannot)
                _copy(top, directory, cannot, held_fd, cure)
        else:
            _have_all_names(instance, top, cannot)
            if not moves:
                _copy(top, directory, cannot, held_fd, cure)
        if not instance.ephemeral:  # what it has is to outlive a power cut, be it synced by the VE or not
            subprocess.run(["sync", "--file-system", directory], check=True)
    sync(directory)
    sync(state.layer_dir)
    return (name, *below), "" if init else MOVE if moves else NEW


def finish(instance: Instance, config: Config, template: str) -> None:
    """Do what is unfinished with a VE's upper, from the start; under its lock.  template: the path of its tree."""
    cannot, state = f"cannot use {instance.veid}", instance.state
    private = state.private(instance.veid)
    removal.refuse_mounted(private, cannot)
    with instance.top() as top:
        if config.unfinished == MOVE:
            _move(f"{top}/upper", state.layer(config.layers[0]), cannot)
        fd = os.open(top, _DIRECTORY)
        try:
            for name in ("upper", "work"):
                removal.remove_in(fd, name, cannot)
        finally:
            os.close(fd)
        unionfs.prepare(top, next(map(state.layer, config.layers), template))
        sync(top)
    instance.save(replace(config, unfinished=""))


def _move(upper: str, layer: str, cannot: str) -> None:
    if os.path.isdir(layer):
        return
    try:
        os.rename(upper, layer)
    except FileNotFoundError as error:
        raise NotFound(f"{cannot}: its layer {layer} is gone", "bring it back from a backup") from error
    sync(os.path.dirname(layer))
    sync(os.path.dirname(upper))


def _copy(top: str, directory: str, cannot: str, held_fd: int, cure: str) -> None:
    """Copy an upper into the directory of a layer, with what overlayfs has noted in it.

    cp(1) names each file by its path from where it begins, which is to be hardly longer than it is in the VE; cure: of
    one that is too long all the same.
    """
    os.mkdir(f"{directory}/upper", 0o700)
    with ExitStack() as held:
        at = os.open(f"{top}/upper", _DIRECTORY)
        held.callback(os.close, at)
        into = os.open(f"{directory}/upper", _DIRECTORY)
        held.callback(os.close, into)
        done = program.run(at, *_ENDS_WITH_US, *_COPY, ".", "/proc/self/fd/0", stdin=into, keep=(held_fd,))
    if not done.returncode:
        return
    said = program.said(done, "cp")
    if any(os.strerror(number) in said for number in FULL):
        raise DiskFull(f"{cannot}: {said}", "make room on the file system of the state directory")
    if os.strerror(errno.ENAMETOOLONG) in said:
        begins = said.partition("./")[2][:40]
        raise NotSupported(f"{cannot}: it has a path that is too long to be copied: /{begins}...", cure)
    raise Error(f"{cannot}: {said}")


# --- a moment of a running VE ---------------------------------------------------------------------------------------


@contextmanager
def _still(instance: Instance) -> Iterator[None]:
    """No process of it runs meanwhile; one that is frozen stays so.  Under its lock.

    Who writes to its files from the host (ve cp, path.open) is none of it, and goes on.
    """
    let_go(instance)
    group = instance.cgroup
    if group.frozen():
        yield
        return
    os.setxattr(group.path, _STILL, b"")
    try:
        cgroups.freeze(instance.veid, group)
        yield
    finally:
        let_go(instance)


def stands_still(instance: Instance) -> bool:
    """Is it for a checkpoint that its processes stand still, if they do?"""
    with suppress(OSError):
        return _STILL in os.listxattr(instance.cgroup.path)
    return False


def let_go(instance: Instance) -> bool:
    """Thaw a VE that stands still for a checkpoint, as who makes that has been killed or is done; has it been so?

    Under its lock: what is there without is the next checkpoint's.
    """
    path = instance.cgroup.path
    with suppress(OSError):
        if not stands_still(instance):
            return False
        instance.cgroup.freeze(False)
        os.removexattr(path, _STILL)
        return True
    return False


# --- files with several names ---------------------------------------------------------------------------------------
#
# A file of a template, or of a layer, may have several names.  Once it is changed by one, or has lost one, the index of
# the mounted overlay alone knows that the others mean the same file, and a layer has no index.  Such a name is there in
# the upper as well once its attributes have been set.


def _refuse_hidden_names(instance: Instance, top: str, cannot: str) -> None:
    """Of a running VE, which has the overlay for itself, while it stands still."""
    if _with_hidden_names(f"{top}/work/index"):
        why = "it has changed a file that has other names, which only its index knows"
        raise NotSupported(f"{cannot} while it runs: {why}", f"ve stop {instance.veid} first")


def _have_all_names(instance: Instance, top: str, cannot: str) -> None:
    """Of a stopped VE."""
    hidden = _with_hidden_names(f"{top}/work/index")
    if not hidden:
        return
    root = instance.stopped_root()
    try:
        done = program.run(root, *_CHANGED_SINCE, f"@{min(hidden) // 10**9 - 1}", "-printf", r"%C@ %p\0")
        if done.returncode:
            raise Error(f"{cannot}: {program.said(done, 'find')}")
        for changed, _, path in (each.partition(" ") for each in done.stdout.split("\0") if each):
            if _nanoseconds(changed) in hidden:
                _touch_name(root, path)
    finally:
        os.close(root)


def _with_hidden_names(index: str) -> set[int]:
    """When the files were changed last (ctime) of which a name is not in the upper; by that each name can be told.

    Documentation/filesystems/overlayfs.rst, "Index": a link to each changed file that has several names.  The kernel
    notes how many names it has in all as "U+N", relative to the links there are, of which this is one.
    """
    found = set()
    for name in _entries(index):
        path = os.path.join(index, name)
        at = os.lstat(path)
        if stat.S_ISDIR(at.st_mode) or stat.S_ISCHR(at.st_mode):  # a whiteout
            continue
        noted = b""
        with suppress(OSError):
            noted = os.getxattr(path, f"{unionfs.marks()}nlink", follow_symlinks=False)
        if noted != b"U-1":
            found.add(at.st_ctime_ns)
    return found


def _nanoseconds(printed: str) -> int:
    """What find(1) prints as seconds, with more digits than there are."""
    seconds, _, fraction = printed.partition(".")
    return int(seconds) * 10**9 + int(fraction[:9])


def _touch_name(root: int, path: str) -> None:
    """Have it in the upper: overlayfs copies a name up that is given other times, be they the same."""
    *directories, name = path.split("/")
    directory = beneath.open_below(root, directories, os.O_PATH | os.O_DIRECTORY)
    try:
        at = os.stat(name, dir_fd=directory, follow_symlinks=False)
        os.utime(name, ns=(at.st_atime_ns, at.st_mtime_ns), dir_fd=directory, follow_symlinks=False)
    finally:
        os.close(directory)
