"""What a directory that plays a cgroup shows of how cgroups are read, whatever a VE does meanwhile."""

import errno
import os
from pathlib import Path

import pytest

from ve import cgrouproot, cgroups
from ve.cgroups import Cgroup


def group(path: Path, *pids: int) -> Path:
    path.mkdir()
    (path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return path


def test_one_that_vanishes_hides_none_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = group(tmp_path / "top", 1)
    group(group(top / "a", 2) / "below", 3)
    (top / "b").mkdir()  # its files are gone already
    group(top / "d", 4)
    listed = cgroups._children
    monkeypatch.setattr(cgroups, "_children", lambda fd: sorted([*listed(fd), "c"]))  # which went in between
    assert Cgroup(str(top)).pids() == [1, 2, 3, 4]


def test_want_of_descriptors_is_none_that_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or who is told that nobody is there takes away what runs."""
    top = group(tmp_path / "top")
    group(top / "a", 2)
    opened = os.open

    def refuse_a(path: str, *rest: int, dir_fd: int | None = None) -> int:
        if path.startswith("a"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(path, *rest, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuse_a)
    with pytest.raises(OSError, match="Too many open files"):
        Cgroup(str(top)).pids()


@pytest.mark.parametrize(
    ("first", "root", "place"),
    [
        ("/", "/", ""),  # a host, or a container with a cgroup namespace of its own
        ("/init.scope", "/", ""),  # systemd's
        ("/ve-host", "/", ""),  # moved there by us
        ("/libpod_parent/libpod-1", "/", "/libpod_parent/libpod-1"),  # podman --cgroupns=host
        ("/libpod_parent/libpod-1/ve-host", "/", "/libpod_parent/libpod-1"),
        ("/docker/1/init.scope", "/", "/docker/1"),  # with systemd in it
        ("/docker/1", "/docker/1", ""),  # of which that alone is mounted
        ("/docker/1/ve-host", "/docker", "/1"),
        ("/docker/10", "/docker/1", ""),
        ("/../../init.scope", "/", ""),  # --pid=host
        ("/../other", "/", ""),
        ("/a", "/..", ""),
    ],
)
def test_which_cgroup_is_ours(first: str, root: str, place: str) -> None:
    assert cgrouproot.below(first, root) == place


def test_processes_that_we_cannot_see_are_not_moved(tmp_path: Path) -> None:
    """The kernel shows 0 for them, and would take that for ourselves."""
    top = group(tmp_path / "top", 0)
    group(top / cgrouproot.LEAF)
    assert not cgroups._move_to_leaf(str(top))
    assert (top / cgrouproot.LEAF / "cgroup.procs").read_text() == ""
