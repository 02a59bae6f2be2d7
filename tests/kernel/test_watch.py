"""One descriptor that tells which VEs' cgroups change, come and go, on whatever controllers this kernel has."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import cgroup_root
from ve._linux import syscalls
from ve.errors import NotSupported
from ve.watch import Watch

TAG = "ve-test-watch"
SOON, LONG = 0.0, 60.0  # seconds


@pytest.fixture
def top() -> Iterator[Path]:
    path = cgroup_root() / TAG
    yield path
    for each in [*path.glob("*/"), path] if path.exists() else ():
        each.rmdir()


def populate(cgroup: Path) -> None:
    """A process comes, and goes."""
    subprocess.run(["sh", "-c", f"echo $$ >{cgroup}/cgroup.procs"], check=True)


def all_until(watch: Watch, wanted: set[int]) -> set[int]:
    """The kernel tells of a cgroup 10 ms after it has told of it before: they may come one by one."""
    found: set[int] = set()
    while not wanted <= found:
        more = watch.wait(LONG)
        assert more, f"only {found} was told"
        found |= more
    return found


def test_those_that_are_there_and_those_that_come(top: Path) -> None:
    (top / "101").mkdir(parents=True)
    watch = Watch(TAG)
    try:
        assert watch.wait(SOON) == set()
        populate(top / "101")
        assert all_until(watch, {101}) == {101}
        (top / "102").mkdir()
        assert all_until(watch, {102}) >= {102}
        populate(top / "102")
        assert all_until(watch, {102}) >= {102}
        (top / "102").rmdir()
        assert all_until(watch, {102}) >= {102}
    finally:
        watch.close()


def test_the_first_that_comes_and_the_last_that_goes(top: Path) -> None:
    watch = Watch(TAG)
    try:
        for _ in range(2):
            (top / "103").mkdir(parents=True)
            assert all_until(watch, {103}) == {103}
            populate(top / "103")
            assert all_until(watch, {103}) == {103}
            (top / "103").rmdir()
            top.rmdir()
            assert all_until(watch, {103}) == {103}
    finally:
        watch.close()


def test_it_holds_one_descriptor_and_no_watch_of_what_is_gone(top: Path) -> None:
    before = inotify_descriptors()
    watch = Watch(TAG)
    try:
        for veid in (101, 102, 103):
            (top / f"{veid}").mkdir(parents=True)
        all_until(watch, {101, 102, 103})
        (about,) = [Path(f"/proc/self/fdinfo/{fd}") for fd in inotify_descriptors() - before]
        watches = about.read_text().count("inotify wd:")
        assert watches >= 2 + 3  # the two directories, and cgroup.events of each
        for veid in (101, 102, 103):
            (top / f"{veid}").rmdir()
        all_until(watch, {101, 102, 103})
        assert about.read_text().count("inotify wd:") == 2
    finally:
        watch.close()


def inotify_descriptors() -> set[str]:
    links = {path.name: path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
    return {name for name, path in links.items() if os.readlink(path) == "anon_inode:inotify"}


def test_more_news_than_the_kernel_keeps(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (top / "101").mkdir(parents=True)
    watch = Watch(TAG)
    try:
        (top / "102").mkdir()
        monkeypatch.setattr(watch, "_news", lambda: iter([(-1, syscalls.IN_Q_OVERFLOW, "")]))
        assert watch.wait(SOON) == {101, 102}
    finally:
        watch.close()


def test_a_host_that_has_none_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotSupported, match="no inotify instances are left"):
        _without("inotify_init1", 24, monkeypatch)
    with pytest.raises(NotSupported, match="no inotify watches are left"):
        _without("inotify_add_watch", 28, monkeypatch)


def _without(name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise syscalls.SyscallError(number, name)

    with monkeypatch.context() as patch:
        patch.setattr(f"ve.watch.{name}", refused)
        Watch(TAG).close()
