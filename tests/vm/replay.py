"""What a power cut leaves: python -m tests.vm.replay KIND BASE LOG, in mount and network namespaces of its own.

BASE is the disk as the VM got it, LOG what powercut.py let be written to it.  The disk as a power cut would have left
it is made after each write, and once for each write as if that one had been lost, with all others up to the next flush.
Then the file system is mounted, and the files are looked at: each says what it said before the verb that ran, or after
it, and what returned verbs had made of it is there.  Where no other case has left just that, one goes on: doctor mends
all of it, and the next verbs work and leave nothing.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import ve
from tests.vm.powercut import (
    DISK,
    MARK,
    MARKERS,
    MOUNTED,
    OVER,
    SPARE,
    STATE,
    TOP,
    VEIDS,
    Contents,
    contained,
    contents,
    elsewhere,
    seen,
)
from tests.vm.writelog import Entry, entries
from ve import errors, ledger

CASES = "cases: "
_LEFT = ("state/name", "state/address", "state/ubc", "state/traffic")  # of a VE, without which they are nobody's
_OF_VES = ("conf", "name", "address", "ubc", "traffic", "private", "root", "lease", "layer")  # below the state dir


class Mark(NamedTuple):
    """A verb had returned; what the files said then, and what was in VEs."""

    verb: str
    files: Contents
    inside: Contents


class Cut(NamedTuple):
    """The writes before number end of the log are on the disk, but for one that was lost."""

    end: int
    lost: int | None = None

    @property
    def whole(self) -> int:
        """Up to here nothing is missing."""
        return self.end if self.lost is None else self.lost

    def __str__(self) -> str:
        return f"cut after write {self.end}" + ("" if self.lost is None else f", write {self.lost} lost")


class Log:
    """The writes and flushes of the file system, and the verb that had returned by each."""

    def __init__(self, path: Path, size: int) -> None:
        self.entries, self.marks = list[Entry](), list[tuple[int, Mark]]()
        for entry in entries(path):
            if entry.data is not None and entry.at >= size:
                told = json.loads(entry.data.rstrip(b"\0").removeprefix(MARK))
                self.marks.append((len(self.entries), Mark(*told)))
            else:
                self.entries.append(entry)

    def around(self, end: int) -> tuple[Mark, Mark]:
        """What had returned last before write number end, and what did next."""
        before = [mark for at, mark in self.marks if at <= end]
        after = [mark for at, mark in self.marks if at > end]
        return before[-1], (after or before[-1:])[0]

    def cuts(self) -> list[Cut]:
        """From the first mark on, in the order of what is whole."""
        first, flush = self.marks[0][0], len(self.entries)
        found = {Cut(at) for at, _ in self.marks}  # with what a verb has not written yet
        for at in range(len(self.entries) - 1, first - 1, -1):
            if self.entries[at].data is None:
                flush = at
                continue
            found.add(Cut(at + 1))
            if flush > at + 1:  # else it is the one before
                found.add(Cut(flush, at))
        return sorted(found, key=lambda cut: (cut.whole, cut.end))


def replay(kind: str, base: Path, log: Log) -> tuple[int, int, list[str]]:
    """The number of cases, how many left what no other did, and what is wrong."""
    left, wrong, cuts, done = set[tuple[str, str]](), list[str](), log.cuts(), 0
    with tempfile.NamedTemporaryFile(dir=TOP) as image, tempfile.TemporaryFile(dir=TOP) as disk:
        with base.open("rb") as source:
            copy(disk, source)
        for cut in cuts:
            write(disk, log.entries[done : cut.whole])
            done = cut.whole
            copy(image, disk)
            write(image, log.entries[cut.whole + 1 : cut.end])
            before, after = log.around(cut.end)
            with mounted(kind, image.name):
                found = [*torn(before.files, after.files, contents())]
                case = fingerprint(), json.dumps([before.inside, after.inside])
                if not found and case not in left:
                    left.add(case)
                    found = [*stuck(before.inside, after.inside)]
            wrong += [f"{kind}: {cut}, {before.verb!r} was done and {after.verb!r} was not: {why}" for why in found]
    return len(cuts), len({state for state, _ in left}), wrong


def copy(target: IO[bytes], source: IO[bytes]) -> None:
    """Of a sparse file what there is of it."""
    size, at = os.fstat(source.fileno()).st_size, 0
    os.truncate(target.fileno(), 0)
    os.truncate(target.fileno(), size)
    with contextlib.suppress(OSError):  # ENXIO: only holes are left
        while at < size:
            at = os.lseek(source.fileno(), at, os.SEEK_DATA)
            end = os.lseek(source.fileno(), at, os.SEEK_HOLE)
            os.lseek(target.fileno(), at, os.SEEK_SET)
            while at < end:
                at += os.sendfile(target.fileno(), source.fileno(), at, end - at)


def write(disk: IO[bytes], writes: list[Entry]) -> None:
    for at, data in writes:
        if data is not None:
            os.pwrite(disk.fileno(), data, at)


@contextlib.contextmanager
def mounted(kind: str, image: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", kind, "-o", f"loop,{MOUNTED[kind]}", image, DISK], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", DISK], check=True)
        if kind == "btrfs":  # or the next one, of the same id, would be an older state of a disk that is known
            subprocess.run(["btrfs", "device", "scan", "--forget"], check=True, stdout=subprocess.DEVNULL)


# --- what is looked at ----------------------------------------------------------------------------------------------


def torn(before: Contents, after: Contents, now: Contents) -> Iterator[str]:
    """Files that say neither what they did before nor what they did after."""
    for path in sorted({*before, *after, *now}):
        told = [each.get(path) for each in (before, after)]
        if now.get(path) not in told and not _is_nobodys(path, now) and not _is_half(path, told):
            yield f"{path} is {now.get(path)!r:.300}; it was {told[0]!r:.300}, and became {told[1]!r:.300}"


def lost(host: ve.Host, before: Contents, after: Contents) -> Iterator[str]:
    """Files in VEs that are neither as they were before nor as they became."""
    now = seen(host)
    for where in now:
        told = [each.get(where) for each in (before, after)]
        if now[where] not in told and told != [None, None]:
            yield f"in {where} is {now[where]!r}; it was {told[0]!r}, and became {told[1]!r}"


def _is_nobodys(path: str, now: Contents) -> bool:
    """Left of a VE that is no more, or that does not confirm it: the next one begins by removing or replacing it."""
    where, _, name = path.rpartition("/")
    says = now.get(path, "").removeprefix("-> ")
    if where == "network/address":
        veid = Path(says).stem
        record = now.get(f"state/address/{veid}", "").split()
        return path in now and (name not in record or f"state/conf/{veid}.toml" not in now)
    if path.startswith("state/layer/"):
        confs = [text for file, text in now.items() if file.startswith("state/conf/")]
        return not any(path.split("/")[2] in text for text in confs)
    veid = says if where == "state/name" else name
    return path in now and where in _LEFT and f"state/conf/{veid}.toml" not in now


def _is_half(path: str, told: list[str | None]) -> bool:
    """A private area that is just being made or removed."""
    return path.startswith("state/private/") and None in told


def fingerprint() -> str:
    """Of all that there is; what is in templates contents() sums up."""
    lines = [json.dumps(contents(), sort_keys=True)]
    for top, directories, files in os.walk(DISK):
        if Path(top).parent.parent == STATE / "template":
            directories.clear()
        for path in (Path(top, name) for name in (*directories, *files)):
            said = hashlib.sha256(path.read_bytes()).digest() if path.name in MARKERS or path.suffix == ".img" else b""
            lines.append(f"{path} {path.lstat().st_mode} {path.lstat().st_size} {said!r}")
    return hashlib.sha256("\n".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()


def stuck(before: Contents, after: Contents) -> Iterator[str]:
    """What of the next verbs does not work, what they find in VEs that should not be, and what is left after them."""
    try:
        host = ve.Host(STATE)
        if STATE.exists():
            yield from _unmended(host)
            yield from lost(host, before, after)
        _use(host)
        if OVER.exists():
            with contained() as inner:
                _use(inner)
    except (errors.Error, OSError) as error:
        yield f"{type(error).__name__}: {error}"
    patterns = [f"state/{where}/*" for where in (*_OF_VES, "template")]
    patterns += ["network/.*.toml*", "network/*.toml", "network/address/[0-9]*", "id/[0-9]*"]
    for left in (path for pattern in patterns for path in DISK.glob(pattern)):
        if left.name != ".new":  # the next claim's
            yield f"{left} is left"


def _unmended(host: ve.Host) -> Iterator[str]:
    """What doctor leaves, but for an admin: a VE that a destroy has begun on, a loop area that a create has made."""
    for env in host.list():
        assert env.config.veid == env.veid
        ledger.load(host.state, env.veid)
    host.doctor(fix=True)
    for trouble in host.doctor():
        private = STATE / f"private/{trouble.veid}"
        there = host.state.exists(trouble.veid or 0)
        if private.exists() if there else not (private / "area.img").exists():
            yield f"doctor --fix leaves: {trouble.text}"


def _use(host: ve.Host) -> None:
    """Make what is not there, then remove everything."""
    if not os.path.exists(host.state.path) or not host.templates.list():
        host.templates.build("busybox")
    pools = {pool.name for pool in host.networks.list()}
    for name, network in {"lan": "10.9.0.0/24", "next": "10.11.0.0/24"}.items():
        if name not in pools:
            host.networks.add(name, [network])
    for veid in VEIDS:
        with contextlib.suppress(errors.NotFound):
            host.get(veid).destroy()
    for veid, name in zip(VEIDS[:3], ("mars", "venus", "pluto"), strict=True):
        host.create(veid, template="busybox", name=name, addresses=[f"10.9.0.{veid - 96}"])
    for env in host.list():
        env.destroy()
    for name in {"lan", "next", *pools}:
        host.networks.remove(name)
    for template in host.templates.list():
        host.templates.remove(template.ref)


def main(kind: str, base: Path, path: Path) -> int:
    elsewhere()
    subprocess.run(["mount", "-t", "tmpfs", "powercut", TOP], check=True)
    DISK.mkdir()
    count, differing, wrong = replay(kind, base, Log(path, base.stat().st_size - SPARE))
    print(*wrong, f"{CASES}{kind}: {count}, which left {differing} different states", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
