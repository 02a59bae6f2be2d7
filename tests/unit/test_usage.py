"""What is told of a command's use, of what the kernel counted for its cgroup, for itself and for the way in."""

import os
import resource
from pathlib import Path

import pytest

from ve import usage

ENTERING, JOINER = (0.002, 0.001), (0.0, 0.001)


def rusage(user: float, system: float, most: int) -> resource.struct_rusage:
    return resource.struct_rusage((user, system, most, *[0] * 13))


def write(cgroup: Path, user: int, system: int) -> bytes:
    text = f"usage_usec {user + system}\nuser_usec {user}\nsystem_usec {system}\nnr_periods 0\n"
    (cgroup / "cpu.stat").write_text(text)
    return os.fsencode(cgroup)


def test_the_way_in_is_taken_off(tmp_path: Path) -> None:
    """Of the sum, whatever it was sampled as."""
    told = usage.told(write(tmp_path, 6000, 2000), rusage(0.004, 0, 10), ENTERING, JOINER)
    assert told == pytest.approx((0.003, 0.001, 10 << 10))
    told = usage.told(write(tmp_path, 0, 8000), rusage(0.004, 0, 10), ENTERING, JOINER)
    assert told == pytest.approx((0, 0.004, 10 << 10))
    told = usage.told(write(tmp_path, 1000, 0), rusage(0.001, 0, 10), ENTERING, JOINER)
    assert told == (0, 0, 10 << 10)


def test_one_that_went_to_another_cgroup(tmp_path: Path) -> None:
    told = usage.told(write(tmp_path, 4000, 0), rusage(0.5, 0.003, 10), ENTERING, JOINER)
    assert told[0] + told[1] == pytest.approx(0.5)


def test_a_cgroup_that_is_gone(tmp_path: Path) -> None:
    told = usage.told(os.fsencode(tmp_path / "gone"), rusage(0.5, 0.003, 10), ENTERING, JOINER)
    assert told[0] + told[1] == pytest.approx(0.5)


def test_nobody_looks_too_often() -> None:
    assert usage.pause(8.0, 4) == 2
    assert usage.pause(0.0001, 4) == usage.OFTEN
