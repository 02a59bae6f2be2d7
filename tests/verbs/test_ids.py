"""No two running VEs have a host id in common: /proc/PID/uid_map and gid_map are the witness."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests import conftest
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make


@pytest.fixture
def second(host: "ve.Host", state_dir: Path) -> Iterator["ve.Host"]:
    """The VEs of another state dir."""
    second = ve.Host(state_dir)
    second.templates.add("busybox", host.templates.get("busybox").path)
    yield second
    for env in second.list():
        conftest._end(second, env.veid)


@pytest.fixture(autouse=True)
def collide(monkeypatch: pytest.MonkeyPatch) -> None:
    """All begin to look at the same range, which is no other session's."""
    monkeypatch.setattr("ve.ids.zlib.crc32", lambda data: os.getpid())


def base(state_dir: str, veid: int) -> int:
    """The first host id of a running VE, for users and groups alike."""
    pid = witness.init(Path(state_dir), veid)
    assert Path(f"/proc/{pid}/uid_map").read_text() == Path(f"/proc/{pid}/gid_map").read_text()
    return witness.base(pid)


def test_of_two_state_dirs(make: Make, second: "ve.Host") -> None:
    first = make()
    other = second.create(first.veid, template="busybox")
    for env in (first, other):
        env.start()
    bases = [base(env.state.path, env.veid) for env in (first, other)]
    assert bases[0] != bases[1]
    with second.ephemeral("busybox") as third, second.ephemeral("busybox") as fourth:
        bases += [base(second.state.path, env.veid) for env in (third, fourth)]
        assert len(set(bases)) == 4


@pytest.mark.any_kernel
def test_a_running_ve_keeps_its_ids_when_its_state_dir_is_moved(make: Make, second: "ve.Host", _test_dir: Path) -> None:
    env = second.create(101, template="busybox")
    env.start()
    before, old = base(second.state.path, 101), second.state.path
    os.rename(old, _test_dir / "moved")
    try:
        moved = ve.Host(_test_dir / "moved")
        other = make()
        other.start()
        assert base(other.state.path, other.veid) != before == base(moved.state.path, 101)
        moved.get(101).restart(timeout=0)
        assert base(moved.state.path, 101) == before
        assert os.readlink(Path(os.environ["VE_ID_DIR"], str(before // 65536))) == f"{_test_dir}/moved/conf/101.toml"
        moved.get(101).stop(fast=True)
    finally:
        os.rename(_test_dir / "moved", old)


KILLED = """
import sys, ve
from ve import ids
ids.zlib.crc32 = lambda data: int(sys.argv[2])
with ve.Host(sys.argv[1]).ephemeral("busybox") as env:
    print(env.veid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.any_kernel
def test_the_ids_of_a_killed_maker_are_free(host: "ve.Host", host_dir: Path, second: "ve.Host") -> None:
    """Without any command on its own state dir; and not as long as its VE lives."""
    with witness.python(KILLED, host_dir, os.getpid()) as maker:
        assert maker.stdout
        veid = int(maker.stdout.readline())
        had = base(str(host_dir), veid)
        with second.ephemeral("busybox") as env:
            assert base(second.state.path, env.veid) != had
        init = witness.init(host_dir, veid)
        between = int(witness.status(init)["PPid"])  # the last that runs as the VE's root
        with commandline.watched(between) as last:
            maker.kill()
            maker.wait()
            assert commandline.has_ended(last)
    try:
        with second.ephemeral("busybox") as env:
            assert base(second.state.path, env.veid) == had
        assert os.readlink(host_dir / f"run/lease/{veid}") == str(had // 65536)
    finally:
        host.list()
    assert witness.left_of(host_dir, veid) == []


DEFAULT = """
mount -t tmpfs none /var/lib && mount -t tmpfs none /run && mkdir -p /var/lib/ve && cp -a "$2" /var/lib/ve/ || exit 1
unset VE_ID_DIR VE_STATE_DIR
"$1" create 101 --template busybox
cd /var/lib/ve && readlink id/$(readlink lease/101) && stat -c %a id
"$1" destroy 101
find id lease /run/ve -type l
"""


@pytest.mark.any_kernel
def test_where_the_host_has_its_leases(host_dir: Path, host: "ve.Host") -> None:
    """Those of the tests are elsewhere."""
    line = ["unshare", "--mount", "sh", "-ec", DEFAULT, "sh", str(commandline.VE), host.templates.path]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "/var/lib/ve/conf/101.toml\n700\n")
    assert done.stderr == "101 is created from busybox:1\n101 is destroyed\n"
