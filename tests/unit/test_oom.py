"""The kernel log's records of kills: read for what they say, whatever a VE calls its processes and cgroups."""

import errno
import os
import select

import pytest

from ve import oom

BOOTED = 1000.0
KILLED = (
    "Memory cgroup out of memory: Killed process {pid} ({name}) total-vm:70000kB, anon-rss:65024kB, file-rss:512kB,"
    " shmem-rss:0kB, UID:{uid} pgtables:168kB oom_score_adj:0"
)


def record(text: str, sequence: int = 7, priority: int = 3, microseconds: int = 2_500_000) -> bytes:
    return f"{priority},{sequence},{microseconds},-;{text}\n SUBSYSTEM=memory\n".encode()


def killed(pid: int = 42, name: str = "eat", uid: int = 1048576) -> str:
    return KILLED.format(pid=pid, name=name, uid=uid)


def test_a_kill() -> None:
    assert oom.parse(record(killed()), BOOTED) == oom.Kill(7, 1002.5, 42, "eat", 1048576, 65536 * 1024)


def test_a_kill_for_want_of_the_host_s_memory() -> None:
    text = killed().replace("Memory cgroup out of", "Out of")
    assert oom.parse(record(text), BOOTED) is not None
    text = text.replace("Out of memory:", "Out of memory (oom_kill_allocating_task):")
    assert oom.parse(record(text), BOOTED) is not None


@pytest.mark.parametrize("name", ["a) total-vm:1kB", "(sd-pam)", "", r"\x0a\x1b[2J", "), UID:0 pgtable"])
def test_names_that_a_ve_chooses_change_nothing_else(name: str) -> None:
    kill = oom.parse(record(killed(name=name)), BOOTED)
    assert kill and (kill.pid, kill.name, kill.uid) == (42, name, 1048576)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"rubbish",
        record("eat invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0"),
        record("oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/ve/101,task_memcg=/ve/101,task=eat,pid=42,uid=1048576"),
        record(f"x {killed()}"),
        record(killed(), priority=11),  # LOG_USER | LOG_ERR: somebody wrote that to /dev/kmsg
        record("Memory cgroup out of memory: Killed process 42 (eat) total-vm:1kB"),
    ],
)
def test_what_is_no_word_of_the_kernel_s_about_a_kill(data: bytes) -> None:
    assert oom.parse(data, BOOTED) is None


class Records:
    """A /dev/kmsg with these records, of which an errno is one that has been overwritten."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *records: bytes | int) -> None:
        self.records = list(records)
        self.late: list[bytes | int] = []
        monkeypatch.setattr(os, "open", lambda *_: 99)
        monkeypatch.setattr(os, "read", self.read)
        monkeypatch.setattr(os, "close", lambda _: None)
        monkeypatch.setattr(select, "select", self.select)

    def read(self, fd: int, size: int) -> bytes:
        assert fd == 99
        if not self.records:
            raise BlockingIOError(errno.EAGAIN, "nothing more")
        head = self.records.pop(0)
        if isinstance(head, int):
            raise OSError(head, os.strerror(head))
        return head

    def select(self, *_: object) -> None:
        assert self.late, "waited for records in vain"
        self.records.append(self.late.pop(0))


OURS, OTHERS = range(1048576, 1114112), range(1114112, 1179648)


def test_the_last_ones_of_a_ve(monkeypatch: pytest.MonkeyPatch) -> None:
    uids = (1048576, 1114112, 1048577, 0, 1048578)
    Records(monkeypatch, errno.EPIPE, *(record(killed(pid, uid=uid), pid) for pid, uid in enumerate(uids)))
    log = oom.KernelLog()
    assert [kill.pid for kill in log.last([OURS], 2)] == [2, 4]
    assert [kill.pid for kill in log.last([OTHERS], 1)] == [1]


def test_none_is_told_twice_and_a_late_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    kmsg = Records(monkeypatch, record(killed(1), 1))
    log = oom.KernelLog()
    assert [kill.pid for kill in log.last([OURS], 1)] == [1]
    kmsg.late = [record(killed(2, uid=1114112), 2), record(killed(3), 3)]
    assert [kill.pid for kill in log.last([OURS], 1)] == [3]


def test_no_kernel_log_is_no_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oom, "PATH", "/nonexistent")
    assert oom.KernelLog().last([OURS], 1) == []
    monkeypatch.setattr(oom, "PATH", "/dev/null")
    assert oom.KernelLog().last([OURS], 1) == []
