"""Counters survive the kernel: a VM boots twice over the same disk.  KERNEL=6.1, 6.12 or 7 chooses what it boots."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.programs import compiled
from tests.vm import guest, kernel
from tests.vm.reboot import FOUND, RUNNING, STOPPED

PAGE = 4096


def boot(disk: Path, part: str, eat: Path) -> dict[str, Any]:
    """What tests/vm/reboot.py found in a boot over this disk."""
    image = kernel.obtain(os.environ.get("KERNEL", "6.1"))
    said: list[bytes] = []
    guest.boot(image, disk, [sys.executable, "-m", "tests.vm.reboot", part, f"{guest.HOST}{eat}"], said.append)
    lines = b"".join(said).decode(errors="replace").splitlines()
    found = [line.removeprefix(FOUND) for line in lines if line.startswith(FOUND)]
    assert found, "\n".join(lines[-40:])
    return dict(json.loads(found[0]))


@pytest.fixture(scope="module")
def boots(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    place = tmp_path_factory.mktemp("reboot")
    eat = compiled(place / "eat", guest.ROOT / "tests/limits/eat.c")
    disk = guest.make_disk(place)
    try:
        before, after = (boot(disk, part, eat) for part in ("before", "after"))
    finally:
        disk.unlink()
    assert before["boot"] != after["boot"]
    return before, after


Boots = tuple[dict[str, Any], dict[str, Any]]


def counted(row: dict[str, Any]) -> tuple[object, ...]:
    return row["maxheld"], row["sampled"], row["failcnt"]


def test_of_one_that_was_stopped_nothing_is_lost(boots: Boots) -> None:
    before, after = boots
    truth = before["truth"][str(STOPPED)]
    numproc, physpages = (after["told"][f"{STOPPED} {name}"] for name in ("numproc", "physpages"))
    assert numproc["held"] is None
    assert counted(numproc) == (truth["pids.peak"], False, truth["refused"])
    assert truth["refused"] > 0 and truth["pids.peak"] == 40
    assert physpages["maxheld"] >= truth["memory.peak"] // PAGE > 0


def test_the_next_life_is_counted_on(boots: Boots) -> None:
    refused = [boot["truth"][str(STOPPED)]["refused"] for boot in boots]
    assert min(refused) > 0
    numproc = boots[1]["again"][f"{STOPPED} numproc"]
    assert numproc["failcnt"] == sum(refused)
    assert numproc["held"] > 0


def test_of_one_that_ran_at_a_power_cut_the_last_look_is_kept(boots: Boots) -> None:
    before, after = boots
    rows = [name for name, row in before["told"].items() if row["veid"] == RUNNING]
    assert {name: counted(after["told"][name]) for name in rows} == {
        name: counted(before["told"][name]) for name in rows
    }
    truth = before["truth"][str(RUNNING)]
    assert counted(after["told"][f"{RUNNING} numproc"]) == (40, False, truth["refused"])
    assert after["looked"] == before["looked"]  # which is how to know from when on they are lost
