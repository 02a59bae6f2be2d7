"""What is more than this host has is refused by name, whatever it is: the kernel's own files are the witness."""

import os
from pathlib import Path

import pytest

from ve import hardware
from ve.errors import InvalidValue
from ve.limits import resolve

PAGE = os.sysconf("SC_PAGE_SIZE")


def number(path: str) -> int:
    return int(Path(f"/proc/sys/{path}").read_text())


def pages(*keys: str) -> int:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kilobytes = {key: int(value) for key, value, *_ in lines}
    return sum(kilobytes[f"{key}:"] for key in keys) * 1024 // PAGE


MOST = {
    **dict.fromkeys(("physpages", "lockedpages"), pages("MemTotal")),
    **dict.fromkeys(("privvmpages", "shmpages", "vmguarpages", "oomguarpages"), pages("MemTotal", "SwapTotal")),
    "swappages": pages("SwapTotal"),
    "numproc": min(number("kernel/threads-max"), number("kernel/pid_max")),
    "numpty": number("kernel/pty/max") - number("kernel/pty/reserve"),
    "numsiginfo": pages("MemTotal") * PAGE // 80,
    "nofile": number("fs/nr_open"),
    "cpus": len(os.sched_getaffinity(1)),
}


@pytest.mark.parametrize("name", MOST)
def test_one_more_than_there_is_is_refused(name: str) -> None:
    there = MOST[name]
    if there:
        hardware.refuse_beyond(resolve({name: f"{there}"}))
    with pytest.raises(InvalidValue, match=f"cannot limit {name} to .*: this host has ") as refused:
        hardware.refuse_beyond(resolve({name: f"{there + 1}"}))
    assert "unlimited" in refused.value.hint
    hardware.refuse_beyond(resolve({name: "unlimited"}))
    assert hardware.most(name) == there


def test_all_that_have_a_limit_that_is_kept_are_there() -> None:
    from ve.beancounter import RESOURCES

    assert {row.name for row in RESOURCES if row.enforced or row.guaranteed} <= MOST.keys()


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"memory": "512"}, "cannot limit memory to 4K: no VE does with less than 2M"),
        ({"physpages": "1"}, "cannot limit physpages to 4K: no VE does with less than 2M"),
        ({"privvmpages": "1M"}, "cannot limit privvmpages to 1M: no VE does with less than 2M"),
        ({"processes": "1"}, "cannot limit processes to 1: no VE does with less than 3"),
        ({"numproc": "1"}, "cannot limit numproc to 1: no VE does with less than 3"),
    ],
)
def test_so_is_less_than_a_ve_needs(asked: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidValue, match=why) as refused:
        hardware.refuse_beyond(resolve(asked))
    assert refused.value.hint == why.split()[-1]


@pytest.mark.parametrize(("word", "value"), [("memory", "999T"), ("swap", "999T"), ("processes", "99999999999")])
def test_it_is_called_by_the_word_that_was_used(word: str, value: str) -> None:
    with pytest.raises(InvalidValue, match=f"^cannot limit {word} to {value}: this host has "):
        hardware.refuse_beyond(resolve({word: value}))


def test_so_is_a_barrier() -> None:
    with pytest.raises(InvalidValue, match="cannot limit physpages to 900G: this host has "):
        hardware.refuse_beyond(resolve({"physpages": "900G:unlimited"}))


def test_of_a_disk(tmp_path: Path) -> None:
    about = os.statvfs(tmp_path)
    there = hardware.disk(str(tmp_path))
    assert there["disk"] == about.f_blocks * about.f_frsize
    hardware.refuse_disk(resolve({"disk": str(there["disk"])}), there)
    with pytest.raises(InvalidValue, match="cannot limit disk to 900T: this host has "):
        hardware.refuse_disk(resolve({"disk": "900T"}), there)
    with pytest.raises(InvalidValue, match="cannot limit inodes to 11: this host has 10"):
        hardware.refuse_disk(resolve({"inodes": "11"}), {"inodes": 10})
