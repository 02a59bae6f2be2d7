"""Host ids: the 65536 that a VE has for its users and groups, and no other VE of this host, whatever its state dir.

    /var/lib/ve/id/<N> -> <state dir>/conf/<VEID>.toml     a lease: the host ids from N*65536 on are this VE's,
    <state dir>/lease/<VEID> -> N [N...]                   who confirms it: this is what it has, for VEs in it too
    /run/ve/id/<N> -> <run dir>/<VEID>.toml                the same of an ephemeral VE, among other numbers,
    <run dir>/lease/<VEID> -> N                            so that neither kind looks at the other

A lease is a symlink: symlink(2) fails when there is one, so nobody can have it twice.  It is the VE's while the two
name each other and the VE is there or in the making; any other is nobody's, and taken over by who comes upon it.  That
repairs what a kill -9 left, and state dirs that were moved, copied or removed: of a copy, the lease names the original.
To take over one must be alone, or two would clear away the same lease, the second that of the first: so there is a lock
for each kind, which ends with its holder.  What a VE claims is first written down in its state dir: so a claim is found
again from the VEID alone, and no verb reads all leases.

Nothing here is durable: each start asks for its lease anew, and may be given another range without harm, since ids on
disk are not shifted.
"""

import errno
import itertools
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ve import lock
from ve.errors import Error, NotSupported
from ve.facts import lives
from ve.state import DEFAULT_DIR, DEFAULT_RUN_DIR, State
from ve.veid import VEID_MIN, veid_named
from ve.wholefile import read_small, writing

IDS = 65536  # of one VE, for its users and for its groups
# N of the ranges.  Below 16 are users and what useradd(8) gives out first; from 32768 on they are negative to some of
# the kernel, and 32766 is systemd's for files of no host.  Of however few a user namespace has, each kind has half.
ON_DISK, EPHEMERAL = range(16, 32766, 2), range(17, 32766, 2)
_OF_PROBES = range(1 << 30, (1 << 30) + IDS)  # ve/probes.py maps these
_UID_OF_LIVING = rb"(?m)^State:\t[^ZX](?:.*\n)+?Uid:\t([0-9]+)"
PATIENCE = 10.0  # seconds to wait for who has the leases locked, which takes less than one thousandth


def lease(state: State, veid: int, *, ephemeral: bool = False) -> int:
    """The first of 65536 host ids that are this VE's alone: the same ones at each call, unless they are others' now.

    NotSupported where none exist or leases cannot be written, Error if all are taken.  Under the lock of veid.
    """
    return leases(state, veid, 0, ephemeral=ephemeral)[0]


def leases(state: State, veid: int, inner: int, *, ephemeral: bool = False) -> tuple[int, ...]:
    """The same, and as many further ranges for the VEs in it: the first id of each."""
    holder = _Holder(state, veid, ephemeral)
    with _alone(holder.leases, make=True):
        numbers = holder.find(1 + inner)
        holder.take(numbers)
    return tuple(number * IDS for number in numbers)


def next_lease(state: State, veid: int, *, ephemeral: bool = False) -> int:
    """What lease would give, as far as that can be known; nothing is changed."""
    return next_leases(state, veid, 0, ephemeral=ephemeral)[0]


def next_leases(state: State, veid: int, inner: int, *, ephemeral: bool = False) -> tuple[int, ...]:
    """What leases would give, in the same way."""
    return tuple(number * IDS for number in _Holder(state, veid, ephemeral).find(1 + inner))


def inside(bases: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """What the VE sees of its ranges, as lines of a uid_map: its own from 0 on, the others where VEs lease theirs."""
    first = (0, *((ON_DISK.start + number) * IDS for number in range(len(bases) - 1)))
    return tuple(zip(first, bases, itertools.repeat(IDS)))


def release(state: State, veid: int) -> None:
    """Give the VE's host ids back.  Under the lock of veid, when no process has them any more."""
    for ephemeral in (False, True):
        holder = _Holder(state, veid, ephemeral)
        if _text(holder.record) is not None:
            with _alone(holder.leases):
                holder.drop()


def stray(state: State) -> list[tuple[int, str]]:
    """Leases that name a VE of this state dir and are not its: its VEID, and the lease's path."""
    lookers = (_Holder(state, VEID_MIN, ephemeral) for ephemeral in (False, True))
    return [found for looker in lookers for found in looker.stray()]


def remove_stray(state: State, path: str) -> None:
    """Remove one of these, if it still is."""
    with _alone(os.path.dirname(path)):
        if path in (link for _, link in stray(state)):
            os.unlink(path)


class _Holder:
    """A VE that has a lease, or wants one; but for what only looks, under the lock of the leases."""

    def __init__(self, state: State, veid: int, ephemeral: bool) -> None:
        self.state, self.veid, self.ephemeral = state, veid, ephemeral
        self.conf = state.conf(veid, ephemeral=ephemeral)
        self.record = os.path.join(state.run_dir if ephemeral else state.path, "lease", str(veid))
        self.leases = _directory(ephemeral)

    def find(self, count: int) -> list[int]:
        """N of the ranges that it has, or else of such that it may have."""
        spans = _spans(self.ephemeral)
        kept = [own for own in _numbers(self.record) if any(own in span for span in spans)]
        found: list[int] = []
        for number in itertools.chain(kept, _from_anywhere(spans, self.conf)):
            if number not in found and self._may_have(number):
                found.append(number)
            if len(found) == count:
                return found
        which, hint = "all are taken", f"see {self.leases}, and /etc/subuid"
        if count > 1:
            which, hint = (
                f"it wants {count} ranges, and {len(found)} are free",
                f"{hint}; no VE has as many for one in it",
            )
        raise Error(f"cannot find host ids for {self.veid}: {which}", hint)

    def _may_have(self, number: int) -> bool:
        """Is it this VE's already, or nobody's?"""
        return self._has(number) or (self._is_nobodys(number) and not _runs(number))

    def _has(self, number: int) -> bool:
        named = self._named(number)
        return named is not None and named.conf == self.conf

    def _is_nobodys(self, number: int) -> bool:
        if _text(self._link(number)) == "":
            return False  # no link at all, so not of our making
        named = self._named(number)
        try:
            return named is None or not named.confirms(number)
        except OSError:  # its state dir cannot be read just now, so it may well be there
            return False

    def stray(self) -> Iterator[tuple[int, str]]:
        """Of this kind."""
        for name in sorted(os.listdir(self.leases) if os.path.isdir(self.leases) else ()):
            number = veid_named(name)  # of a range, which is written as they are
            named = self._named(number) if number else None
            if number and named and named.state.path == self.state.path and self._is_nobodys(number):
                yield named.veid, self._link(number)

    def confirms(self, number: int) -> bool:
        """Is the lease that names this VE its lease?  It holds its lock while it is made or destroyed."""
        return number in _numbers(self.record) and (self._is_there() or self.state.is_locked(self.veid))

    def _is_there(self) -> bool:
        """An ephemeral VE is no more when its maker and its init have ended, though its files may be left."""
        try:
            os.stat(self.conf)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return not self.ephemeral or bool((facts := self.state.read_facts(self.veid)) and lives(facts))

    def take(self, numbers: list[int]) -> None:
        """Make these its own, which it may have.  Killed at any point, it has what its record says, or nothing."""
        if _numbers(self.record) != numbers:
            self.drop()
            with self.state.writing():
                self.state.make_dir(os.path.dirname(self.record))
                os.symlink(" ".join(map(str, numbers)), self.record)
        for number in numbers:
            if _text(self._link(number)) != self.conf:
                with suppress(FileNotFoundError):
                    os.unlink(self._link(number))
                os.symlink(self.conf, self._link(number))

    def drop(self) -> None:
        """Have no range: remove its leases, or what is nobody's in their place, and then its record."""
        for own in _numbers(self.record):
            if self._has(own) or self._is_nobodys(own):
                with suppress(FileNotFoundError):
                    os.unlink(self._link(own))
        with self.state.writing(), suppress(FileNotFoundError):
            os.unlink(self.record)

    def _link(self, number: int) -> str:
        return os.path.join(self.leases, str(number))

    def _named(self, number: int) -> "_Holder | None":
        """Whom a lease names; None for a text that names no VE, or no lease."""
        directory, _, name = (_text(self._link(number)) or "").rpartition("/")
        veid = veid_named(name, ".toml")
        if veid is None:
            return None
        default = self.ephemeral and directory == DEFAULT_RUN_DIR
        place = DEFAULT_DIR if default else os.path.dirname(directory) or "/"
        return _Holder(State(place), veid, self.ephemeral)


# --- which ranges there are --------------------------------------------------------------------------------------


def existing() -> list[range]:
    """The ids that can be mapped from here, each range as one: in a user namespace only those that it was given."""
    users, groups = (_extents(f"/proc/self/{name}") for name in ("uid_map", "gid_map"))
    both = (range(max(u.start, g.start), min(u.stop, g.stop)) for u in users for g in groups)
    return sorted((ids for ids in both if ids), key=lambda ids: ids.start)


def _extents(path: str) -> list[range]:
    lines = [tuple(map(int, line.split())) for line in read_small(path).splitlines()]
    return [range(inside, inside + count) for inside, _, count in lines]


def _spans(ephemeral: bool) -> list[range]:
    """N of the ranges of one kind that exist here, less those of which an administrator gave ids to users."""
    kind = EPHEMERAL if ephemeral else ON_DISK
    whole = (_cut(kind, -(-ids.start // IDS), ids.stop // IDS) for ids in existing())
    spans = [span for span in whole if span]
    if not spans:
        why = f"this user namespace has not got {IDS} of them from {kind.start * IDS} on"
        raise NotSupported(
            f"cannot find host ids: {why}",
            "in a VE: the profile nesting; /proc/self/uid_map and gid_map say what there is",
        )
    for ids in (*_given(), _OF_PROBES):
        first, past = ids.start // IDS, -(-ids.stop // IDS)
        parts = ((_cut(span, span.start, first), _cut(span, past, span.stop)) for span in spans)
        spans = [part for both in parts for part in both if part]
    return spans


def _cut(span: range, start: int, stop: int) -> range:
    """Those of span from start on, below stop."""
    first = max(span.start, start)
    return range(first + (span.start - first) % span.step, min(span.stop, stop), span.step)


def _given() -> list[range]:
    """The ids in /etc/subuid and /etc/subgid, whether they are given to names or to numbers."""
    lines = (read_small("/etc/subuid") + b"\n" + read_small("/etc/subgid")).split(b"\n")
    found = [re.fullmatch(rb"[^:#]+:([0-9]{1,20}):([0-9]{1,20})\s*", line) for line in lines]
    given = [range(int(line[1]), int(line[1]) + int(line[2])) for line in found if line]
    return [ids for ids in given if ids]


def _from_anywhere(spans: list[range], seed: str) -> Iterator[int]:
    """Every N once, from one on that few others begin at, and the same VE always."""
    count, start = sum(map(len, spans)), zlib.crc32(os.fsencode(seed))
    for index in ((start + offset) % count for offset in range(count)):
        for span in spans:
            if index < len(span):
                yield span[index]
                break
            index -= len(span)


def _runs(number: int) -> bool:
    """Does any process run as the root of this range?  One of a running VE does whose state dir was moved."""
    try:
        os.getpriority(os.PRIO_USER, number * IDS)  # so the kernel is asked whether a user has processes
    except ProcessLookupError:
        return False
    # It counts those, too, that nobody has waited for since they ended.
    states = (read_small(f"/proc/{name}/status") for name in os.listdir("/proc") if name.isdecimal())
    return any(int(found[1]) == number * IDS for state in states if (found := re.search(_UID_OF_LIVING, state)))


# --- where leases are --------------------------------------------------------------------------------------------


def _directory(ephemeral: bool) -> str:
    given = os.environ.get("VE_ID_DIR")
    if given:
        return os.path.join(os.path.abspath(given), *(["run"] if ephemeral else []))
    return os.path.join(DEFAULT_RUN_DIR if ephemeral else DEFAULT_DIR, "id")


@contextmanager
def _alone(directory: str, *, make: bool = False) -> Iterator[None]:
    """Hold the leases of one kind alone; Locked after ten seconds.  Without make, they need not be there."""
    hint = "run as root, or set VE_ID_DIR to another directory, the same one for every state dir of this host"
    with writing(f"the leases of host ids in {directory}", hint):
        if make and not os.path.isdir(directory):
            os.makedirs(os.path.dirname(directory), 0o711, exist_ok=True)
            with suppress(FileExistsError):
                os.mkdir(directory, 0o700)
        elif not os.path.isdir(directory):
            yield
            return
        fd = lock.acquire(os.path.join(directory, "lock"), "the leases of host ids", PATIENCE)
        with lock.released(fd):
            yield


def _text(link: str) -> str | None:
    """What a symlink says; None when there is nothing, "" when it is none."""
    try:
        return os.readlink(link)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:
            return ""
        raise


def _numbers(record: str) -> list[int]:
    """The N of a record; none where it says anything else."""
    words = (_text(record) or "").split(" ")
    return [int(word) for word in words] if all(re.fullmatch("[1-9][0-9]{0,9}", word) for word in words) else []
