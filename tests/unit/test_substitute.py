"""Which file system a state dir gets, by what its own is and by what the kernel took when it was tried."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from ve import check, substitute
from ve.check import Missing
from ve.state import State

NO: Missing = (22, "Invalid argument")
YES: Missing = (0, "")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """One on an overlay."""
    on(monkeypatch, "overlay", 0)
    return State(tmp_path)


def on(monkeypatch: pytest.MonkeyPatch, kind: str, major: int) -> None:
    monkeypatch.setattr(substitute.os, "major", lambda device: major)  # type: ignore[attr-defined]
    monkeypatch.setattr(substitute.mountinfo, "holding", lambda path: SimpleNamespace(kind=kind))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "major", "unfit"),
    [
        ("ext4", 254, ""),
        ("xfs", 8, ""),
        ("iso9660", 11, ""),  # a disk's is not looked at: a start says what is wrong
        ("btrfs", 0, ""),
        ("tmpfs", 0, ""),
        ("overlay", 0, "overlay"),
        ("9p", 0, "9p"),
        ("nfs4", 0, "nfs4"),
        ("fuse.sshfs", 0, "fuse.sshfs"),
        ("ramfs", 0, "ramfs"),
    ],
)
def test_what_may_be_unfit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, major: int, unfit: str) -> None:
    on(monkeypatch, kind, major)
    assert substitute.unfit(str(tmp_path)) == substitute.unfit(str(tmp_path / "not/there")) == unfit


@pytest.mark.parametrize(
    ("tried", "chosen"),
    [
        ({"": YES, "loop": YES, "tmpfs": YES}, ""),  # some day overlay may have idmapped mounts
        ({"": NO, "loop": YES, "tmpfs": YES}, "loop"),
        ({"": NO, "loop": NO, "tmpfs": YES}, "tmpfs"),
        ({"": NO, "loop": NO, "tmpfs": NO}, ""),  # then the start says what is missing
    ],
)
def test_the_first_that_works(
    state: State, monkeypatch: pytest.MonkeyPatch, tried: dict[str, Missing], chosen: str
) -> None:
    asked: list[str] = []

    def probe(state: State, root: str, names: tuple[str, ...], way: str = "") -> dict[str, Missing]:
        asked.append(way)
        return {"idmapped mounts": YES, "overlayfs": tried[way]}

    monkeypatch.setattr(check, "_probe", probe)
    assert check.way(state) == chosen
    assert asked == list(tried)[: list(tried).index(chosen) + 1] or chosen == ""


def test_a_probe_that_says_nothing_is_no_yes(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_probe", lambda *words: {})
    assert check.way(state) == ""


def test_each_way_can_be_told() -> None:
    assert list(substitute.WAYS) == list(substitute.TOLD) == ["loop", "tmpfs"]
