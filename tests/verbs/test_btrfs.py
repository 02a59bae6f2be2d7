"""Disk space on btrfs, by the quotas of subvolumes; btrfs(8) and sysfs are the witnesses."""

import itertools
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ve
from tests import conftest
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import errors

MIB = 1 << 20
FULL = "Disk quota exceeded"
_veids = itertools.count(4501)


def sh(script: str) -> str:
    return subprocess.run(script, shell=True, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.fixture(scope="module")
def plain(_test_dir: Path) -> Iterator[Path]:
    """A btrfs without quotas."""
    with tempfile.TemporaryDirectory(dir=_test_dir) as name:
        image, point = Path(name, "image"), Path(name, "point")
        Path(name).chmod(0o755)
        point.mkdir()
        sh(f"truncate -s 400M {image} && mkfs.btrfs -q {image} 2>&1 && mount -o loop,commit=1 {image} {point}")
        try:
            yield point
        finally:
            sh(f"umount -l {point}")  # what had VEs there may still be going


@pytest.fixture(scope="module")
def disk(plain: Path) -> Iterator["ve.Host"]:
    """A state dir on it, and from the first VE on with quotas."""
    path = conftest._new_state_dir(plain)
    host = ve.Host(path)
    host.templates.build("busybox")
    with pytest.raises(errors.NotSupported, match="cannot limit disk: its btrfs has no quotas enabled") as refused:
        host.create(4500, template="busybox", disk="20M")
    sh(refused.value.hint.partition(";")[0])  # as it says
    yield host
    conftest._forget_state_dir(path)


@pytest.fixture
def make(disk: "ve.Host") -> Iterator[Make]:
    """make(disk="20M") is a running VE there; after the test it is gone, and so is its subvolume."""
    made: list[int] = []

    def create(**options: Any) -> "ve.Environment":
        made.append(next(_veids))
        env = disk.create(made[-1], template="busybox", **options)
        env.start()
        return env

    yield create
    for veid in made:
        conftest._end(disk, veid)
        assert witness.left_of(Path(disk.state.path), veid) == []
    assert sh(f"btrfs subvolume list {disk.state.path}") == ""
    sh(f"btrfs subvolume sync {disk.state.path}")
    sh(f"sync -f {disk.state.path}")
    groups = [line.split() for line in sh(f"btrfs qgroup show --raw {disk.state.path}").splitlines()]
    assert [words for words in groups if words[0].startswith("0/") and words[0] != "0/5" and words[1] != "0"] == []


def group(env: "ve.Environment") -> tuple[int, str]:
    """What btrfs counts of its private area, and the limit that it has for that."""
    private = env.state.private(env.veid)
    number = sh(f"btrfs inspect-internal rootid {private}").strip()
    lines = [line.split() for line in sh(f"btrfs qgroup show --sync --raw -r {private}").splitlines()]
    [words] = [words for words in lines if words and words[0] == f"0/{number}"]
    return int(words[1]), words[3]


def write(env: "ve.Environment", name: str, mebibytes: int) -> str:
    """What it complains of."""
    argv = ["dd", "if=/dev/zero", f"of={name}", "bs=64k", f"count={mebibytes * 16}"]
    done = env.run(argv, capture_output=True, text=True)
    return str(done.stderr) if done.returncode else ""


def test_a_write_beyond_is_refused(disk: "ve.Host", make: Make) -> None:
    env, neighbour = make(disk="20M"), make(disk="30M")
    assert FULL in write(env, "/big", 40)
    held, limit = group(env)
    assert limit == str(20 * MIB)
    assert 18 * MIB < held <= 20 * MIB
    assert int(witness.shell(env, "stat -c %s /big")) <= 20 * MIB
    assert write(neighbour, "/big", 25) == ""
    assert 25 * MIB <= group(neighbour)[0] <= 30 * MIB
    status = json.loads(commandline.output(Path(disk.state.path), "status", env.veid, "--json"))["disk"]
    assert (status["space"], status["space_limit"]) == (held, 20 * MIB)
    assert (status["inodes"], status["inodes_limit"]) == (None, None)
    witness.shell(env, "rm /big && echo again >/big")


def test_it_changes_while_the_ve_runs(disk: "ve.Host", make: Make) -> None:
    env = make()
    assert group(env)[1] == "none"
    assert write(env, "/a", 10) == ""
    commandline.output(Path(disk.state.path), "set", env.veid, "--disk", "5M", "--save")
    assert group(env)[1] == str(5 * MIB)
    assert FULL in write(env, "/b", 3)
    witness.shell(env, "rm /a")
    sh(f"sync -f {disk.state.path}")
    assert write(env, "/b", 2) == ""
    env.restart(timeout=0)
    assert group(env)[1] == str(5 * MIB)
    commandline.output(Path(disk.state.path), "set", env.veid, "--disk", "", "--save")
    assert group(env)[1] == "none"


def test_a_full_one_starts_and_is_mounted(disk: "ve.Host", make: Make) -> None:
    env = make(disk="20M")
    assert FULL in write(env, "/big", 40)
    env.restart(timeout=0)
    env.stop(fast=True)
    assert Path(env.mount(), "big").exists()
    env.umount()
    env.start()
    assert group(env)[1] == str(20 * MIB)
    assert FULL in write(env, "/more", 5)
    witness.shell(env, "rm /big")


@pytest.mark.any_kernel
def test_what_btrfs_cannot_is_refused(disk: "ve.Host", make: Make) -> None:
    for options, why in (
        ({"inodes": 100}, "cannot limit inodes: btrfs has no limit for inodes"),
        ({"disk": "20M", "profiles": ["nesting"]}, "cannot limit disk: VEs in it can make subvolumes"),
    ):
        with pytest.raises(errors.NotSupported, match=why):
            make(**options)
        assert not Path(disk.state.private(next(_veids) - 1)).exists()
    env = make(profiles=["nesting"])
    refused = commandline.run(Path(disk.state.path), "set", env.veid, "--disk", "20M")
    assert refused.returncode == 5
    assert "is older than the quotas of its btrfs" in refused.stderr


def test_a_checkpoint_of_a_subvolume_is_a_copy(disk: "ve.Host", make: Make) -> None:
    """Nothing is renamed from one subvolume to another (EXDEV), but blocks can be shared."""
    env = make(disk="20M")
    witness.shell(env, "dd if=/dev/urandom of=/srv/big bs=1M count=5 2>/dev/null; rm /etc/shells")
    env.stop(fast=True)
    upper = Path(env.state.private(env.veid), "upper")
    data = (upper / "srv/big").read_bytes()
    base = env.checkpoint()
    kept = Path(env.state.layer(base.layers[0]))
    assert (kept / "srv/big").read_bytes() == data
    assert list(upper.iterdir()) == []
    assert "shared" in sh(f"filefrag -v {kept}/srv/big") or "1 extent" in sh(f"filefrag {kept}/srv/big")
    env.start()
    assert witness.shell(env, "md5sum </srv/big; ls /etc/shells 2>&1; true").endswith("No such file or directory\n")
    assert FULL in witness.says_no(env, "dd if=/dev/zero of=/srv/more bs=1M count=40")
    env.stop(fast=True)
    base.delete()
    env.reset()
    assert not kept.exists()
