"""/proc/user_beancounters, as programs that know OpenVZ read it."""

import os
import re
import stat
from pathlib import Path

import pytest

from ve import compat
from ve.amounts import UNLIMITED
from ve.beancounter import RESOURCES, Beancounter
from ve.errors import InvalidValue

# What a kernel of OpenVZ printed, 2.6.32, the first lines of VE 101.
OPENVZ = """\
Version: 2.5
       uid  resource                     held              maxheld              barrier                limit              failcnt
      101:  kmemsize                  2743719              3105223             14372700             14790164                    0
            lockedpages                     0                    0                 2048                 2048                    0
            privvmpages                  5123                 6281                65536                69632                    0
            shmpages                     1312                 1328                21504                21504                    0
            dummy                           0                    0                    0                    0                    0
            numproc                        14                   19                  240                  240                    3
"""  # noqa: E501

SHOWN = {
    "kmemsize": (2743719, 3105223, 14372700, 14790164, 0),
    "lockedpages": (0, 0, 2048, 2048, 0),
    "privvmpages": (5123, 6281, 65536, 69632, 0),
    "shmpages": (1312, 1328, 21504, 21504, 0),
    "numproc": (14, 19, 240, 240, 3),
}


def table() -> dict[str, Beancounter]:
    empty = Beancounter("", "", "", None, None, False, UNLIMITED, UNLIMITED, None)
    beans = {row.name: empty._replace(name=row.name, unit=row.unit, grade=row.grade) for row in RESOURCES}
    for name, (held, maxheld, barrier, limit, failcnt) in SHOWN.items():
        beans[name] = beans[name]._replace(
            held=held, maxheld=maxheld, barrier=barrier, limit=limit, failcnt=failcnt, sampled=True
        )
    return beans


def parse(text: str) -> dict[int, dict[str, list[int]]]:
    """As vzubc and Munin's plugin do: split at blanks, VEID where a word ends in a colon."""
    lines = text.splitlines()
    assert lines[0] == "Version: 2.5"
    assert lines[1].split() == ["uid", "resource", "held", "maxheld", "barrier", "limit", "failcnt"]
    found: dict[int, dict[str, list[int]]] = {}
    for line in lines[2:]:
        words = line.split()
        if words[0].endswith(":"):
            found[veid := int(words.pop(0)[:-1])] = {}
        found[veid][words[0]] = [int(word) for word in words[1:]]
    return found


def test_byte_for_byte() -> None:
    assert compat.text([(101, table())]).startswith(OPENVZ)


def test_unlimited_is_long_max_and_what_nobody_knows_is_nothing() -> None:
    assert parse(compat.text([(101, table())]))[101]["numfile"] == [0, 0, 2**63 - 1, 2**63 - 1, 0]


def test_every_ve_has_every_line() -> None:
    text = compat.text([(101, table()), (2147483644, table())])
    found = parse(text)
    assert list(found) == [101, 2147483644]
    assert len(text.splitlines()) == 2 + 2 * 24
    assert {*found[101]} == {row.name for row in RESOURCES} - {"swappages"} | {"dummy"}
    assert all(re.fullmatch(r"( {10}|[ 0-9]{9,10}:)  [a-z]+ *( +\d+){5}", line) for line in text.splitlines()[2:])


def test_what_is_not_known_is_said_beside_it() -> None:
    lines = compat.meta([(101, table())]).splitlines()
    assert "101 numfile failcnt unknown" in lines
    assert "101 numproc maxheld sampled" in lines
    assert not any(line.startswith("101 numproc failcnt") for line in lines)


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_what_is_no_path_is_refused(name: str) -> None:
    with pytest.raises(InvalidValue, match="it is no path"):
        compat.write(name, [])


@pytest.mark.parametrize("kind", ["device", "directory", "link", "fifo"])
@pytest.mark.parametrize("suffix", ["", ".meta"])
def test_what_is_there_and_no_regular_file_stays(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    match kind:
        case "device":
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to("/dev/null")
        case "fifo":
            os.mkfifo(path)
    before = path.lstat()
    with pytest.raises(InvalidValue, match=f"cannot write {path}: it is there, and no regular file"):
        compat.write(tmp_path / "file", [])
    assert (path.lstat().st_ino, os.listdir(tmp_path)) == (before.st_ino, [path.name])


def test_no_meta_is_left_beside_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace_all_but_the_file(aside: str, path: str) -> None:
        if path.endswith("/file"):
            raise PermissionError
        os.rename(aside, path)

    monkeypatch.setattr(os, "replace", replace_all_but_the_file)
    with pytest.raises(PermissionError):
        compat.write(tmp_path / "file", [])
    assert os.listdir(tmp_path) == []
    (tmp_path / "file.meta").write_text("of the last time")
    with pytest.raises(PermissionError):
        compat.write(tmp_path / "file", [])
    assert os.listdir(tmp_path) == ["file.meta"]
