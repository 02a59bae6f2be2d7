"""What /proc tells of a process whose name looks like something else."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ve import procfs, shutdown
from ve.cgroups import Cgroup

NAMES = ["a\rb", "a\rCapBnd:\t0", "\x0bNSpid:\t1\x1c", "a\nSigCgt:\t0", "é\x85b:", ""]


class Empty(Cgroup):
    def __init__(self) -> None:
        super().__init__("/nowhere")


@pytest.fixture(params=NAMES, ids=repr)
def named(request: pytest.FixtureRequest) -> "Iterator[subprocess.Popen[bytes]]":
    """A process of this name, which ends at SIGPWR."""
    script = (
        "import os, signal, sys; signal.signal(signal.SIGPWR, lambda *_: os._exit(0)); "
        "open('/proc/self/comm', 'wb').write(os.fsencode(sys.argv[1])); print(flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script, request.param], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout and process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_its_name_adds_no_field_and_takes_none(named: "subprocess.Popen[bytes]") -> None:
    """Ours, who has no odd name, are the same."""
    fields = procfs.status(named.pid)
    lines = Path("/proc/self/status").read_bytes().split(b"\n")
    assert list(fields) == [line.split(b":")[0].decode() for line in lines]
    assert fields["CapBnd"].encode() in next(line for line in lines if line.startswith(b"CapBnd:"))
    assert fields["Pid"] == str(named.pid)


def test_it_is_told_to_halt(named: "subprocess.Popen[bytes]") -> None:
    pidfd = os.pidfd_open(named.pid)
    try:
        assert shutdown.shut_down(101, named.pid, pidfd, Empty(), 30, lambda _: None)
    finally:
        os.close(pidfd)
