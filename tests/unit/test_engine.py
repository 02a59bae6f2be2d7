"""Which engine runs our container, and what is said of its flags."""

import errno
from pathlib import Path

import pytest

from ve import engine, facilities

TABLES = (facilities.KERNEL, facilities.STORAGE, facilities.DEVICES, facilities.NOTES)
ROWS = {row.name for rows in TABLES for row in rows}
# Of the kernel, or of a host's settings: no flag of an engine takes them away.
OF_THE_KERNEL = {
    *("root", "memfd", "openat2", "inotify", "xattrs"),
    *("mount of devpts", "mount of mqueue", "mount of cgroup2"),
}


def test_the_flags_are_of_what_can_be_missing() -> None:
    assert engine.FLAGS.keys() <= ROWS
    assert {row.name for row in facilities.KERNEL} - engine.FLAGS.keys() == OF_THE_KERNEL


def test_each_has_flags_of_each_engine() -> None:
    lacking = {(row, each) for row, flags in engine.FLAGS.items() for each in engine.ENGINES if each not in flags}
    assert {row for row, _ in lacking} == {"own /proc", "rlimits"}


def test_a_right_is_what_a_mount_may_lack() -> None:
    assert engine.cure("overlayfs", errno.EINVAL, engine.DOCKER) == "docker run -v ve:/var/lib/ve"
    assert engine.cure("overlayfs", errno.EPERM, engine.DOCKER) == "docker run --privileged"
    assert engine.cure("memfd", errno.EPERM, engine.DOCKER) == engine.cure("overlayfs", errno.EPERM, "") == ""


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        (b"PATH=/bin\0container=systemd-nspawn\0", engine.NSPAWN),
        (b"container=podman\0", engine.PODMAN),
        (b"container=lxc\0", ""),
        (b"xcontainer=podman\0", ""),
        (b"", ""),
    ],
)
def test_the_first_process_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: bytes, name: str
) -> None:
    (tmp_path / "environ").write_bytes(environment)
    monkeypatch.setattr(engine, "FILES", {})
    monkeypatch.setattr(engine, "FIRST", str(tmp_path / "environ"))
    assert engine.running() == name


def test_a_file_says_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sign").touch()
    monkeypatch.setattr(engine, "GIVEN", "/proc")  # something that is mounted
    monkeypatch.setattr(engine, "FILES", {str(tmp_path / "none"): engine.PODMAN, str(tmp_path / "sign"): engine.DOCKER})
    assert engine.running() == engine.DOCKER
    monkeypatch.setattr(engine, "GIVEN", str(tmp_path))
    monkeypatch.setattr(engine, "FIRST", str(tmp_path / "none"))
    assert engine.running() == ""
