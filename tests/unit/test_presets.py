"""Presets of an admin's own: what is none is refused, and makes nobody wait."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from ve import presets
from ve.errors import BrokenConfig, InvalidValue
from ve.options import parsed


def test_one(tmp_path: Path) -> None:
    (tmp_path / "own").write_text('[limits]\nmemory = "64M"\n')
    assert presets.load(f"{tmp_path}/own") == {"memory": "64M"}


@pytest.mark.parametrize("name", [5, True, ["light"], b"light", "nosuch", "./a\0b", "./\ud800", "/no/such"])
def test_what_can_be_no_preset(name: Any) -> None:
    with pytest.raises(InvalidValue, match="cannot use preset"):
        parsed({"preset": name}, int)


@pytest.mark.parametrize("kind", ["zero", "fifo", "directory"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "preset"
    match kind:
        case "zero":
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
    with pytest.raises(BrokenConfig, match=f"cannot read {path}: it is not a regular file"):
        presets.load(str(path))


def test_of_a_file_a_mebibyte_is_read(tmp_path: Path) -> None:
    path = tmp_path / "preset"
    text = b'[limits]\nmemory = "64M"\n'
    path.write_bytes(text + b"#" * (presets.SIZE_MAX - len(text)))
    assert presets.load(str(path)) == {"memory": "64M"}
    path.write_bytes(text + b"#" * (presets.SIZE_MAX + 1 - len(text)))
    with pytest.raises(BrokenConfig, match="it is longer than 1048576 bytes"):
        presets.load(str(path))


def test_one_that_is_nested_too_deeply(tmp_path: Path) -> None:
    path = tmp_path / "preset"
    path.write_text("limits = " + "[" * 100_000)
    with pytest.raises(BrokenConfig, match="it is nested too deeply"):
        presets.load(str(path))
