"""The lines of proc_pid_mountinfo(5), as the kernel writes them."""

import os

import pytest

from ve import mountinfo


@pytest.mark.parametrize(
    ("written", "point"),
    [
        (b"/mnt/plain", "/mnt/plain"),
        (rb"/a\040b\011c\012d\134e", "/a b\tc\nd\\e"),
        (rb"/\134040", "/\\040"),  # a backslash and three digits, no space
        ("/srv/müller/世界".encode(), "/srv/müller/世界"),
        (b"/a\rb\x0bc\x0cd", "/a\rb\x0bc\x0cd"),  # which the kernel writes as they are
        (b"/srv/\xff", os.fsdecode(b"/srv/\xff")),
    ],
)
def test_a_mount_point(written: bytes, point: str) -> None:
    line = mountinfo.Line(b"36 35 98:0 /mnt1 " + written + b" ro,noatime master:1 - ext3 /dev/root rw\n")
    assert (line.point, line.kind, line.options) == (point, "ext3", frozenset({"ro", "noatime"}))
    assert line.source == "/dev/root"
    assert mountinfo._written(point) == written  # by which the lines of a path are found


def test_a_mount_of_nothing() -> None:
    line = mountinfo.Line(b"36 35 0:50 / /mnt rw shared:1 - tmpfs  rw\n")
    assert (line.kind, line.source) == ("tmpfs", "")


def test_those_of_this_machine() -> None:
    assert any(line.point == "/proc" and line.kind == "proc" for line in mountinfo.lines())
    assert "/proc" in mountinfo.below("/proc") and "/" not in mountinfo.below("/proc")
