"""Loop areas: private areas that are file systems of their own, whatever the state dir is on; losetup sees them."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.conftest import SETTLE
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import errors

MIB = 1 << 20


@pytest.fixture
def loop(make: Make, host_dir: Path) -> Iterator[Callable[..., "ve.Environment"]]:
    """loop(disk="20M") is a stopped VE with such an area; after the test no loop device has it."""
    made: list[ve.Environment] = []

    def create(disk: str = "20M", **options: Any) -> "ve.Environment":
        made.append(make(area="loop", disk=disk, **options))
        return made[-1]

    yield create
    for env in made:
        if image(host_dir, env).exists():
            if env.status == ve.Status.RUNNING:
                env.stop(fast=True)
            gone(host_dir, env)


def image(host_dir: Path, env: "ve.Environment") -> Path:
    return host_dir / "private" / str(env.veid) / "area.img"


def devices(host_dir: Path, env: "ve.Environment") -> list[str]:
    """The loop devices that have its image."""
    line = ["losetup", "-j", str(image(host_dir, env))]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()


def gone(host_dir: Path, env: "ve.Environment") -> None:
    """Wait until no loop device has it: the kernel takes a mount namespace down behind our back."""
    deadline = time.monotonic() + SETTLE
    while (left := devices(host_dir, env)) and time.monotonic() < deadline:
        os.sched_yield()
    assert not left


def write(env: "ve.Environment", name: str, mebibytes: int) -> "subprocess.CompletedProcess[str]":
    argv = ["dd", "if=/dev/zero", f"of={name}", "bs=64k", f"count={mebibytes * 16}"]
    return env.run(argv, capture_output=True, text=True)


def df(env: "ve.Environment") -> int:
    """KiB of its root, as df inside has it."""
    return int(witness.shell(env, "df -k /").splitlines()[-1].split()[1])


def test_it_is_a_wall_that_df_shows(host_dir: Path, loop: Make) -> None:
    env = loop()
    assert image(host_dir, env).stat().st_size == 20 * MIB
    assert image(host_dir, env).stat().st_blocks * 512 < 5 * MIB
    assert not (host_dir / "private" / str(env.veid) / "upper").exists()
    env.start()
    assert 15 << 10 < df(env) < 20 << 10
    full = write(env, "/big", 30)
    assert "No space left on device" in full.stderr
    assert 10 * MIB < int(witness.shell(env, "stat -c %s /big")) < 20 * MIB
    assert len(devices(host_dir, env)) == 1
    assert "area.img" not in Path("/proc/self/mountinfo").read_text()
    assert "/dev/loop" not in Path("/proc/self/mounts").read_text()
    shown = json.loads(commandline.output(host_dir, "status", env.veid, "--json"))
    assert (shown["area"], shown["disk"]["space_limit"]) == ("loop", 20 * MIB)
    env.restart(timeout=0)
    assert int(witness.shell(env, "stat -c %s /big")) > 10 * MIB
    env.stop(fast=True)
    gone(host_dir, env)


def test_its_files_are_there_whether_it_runs_or_not(host_dir: Path, loop: Make, tmp_path: Path) -> None:
    env = loop()
    (tmp_path / "new").write_text("new\n")
    env.copy_in(str(tmp_path / "new"), "/new")
    gone(host_dir, env)
    env.start()
    assert witness.shell(env, "cat /new; rm /etc/passwd; echo two >/two") == "new\n"
    running = env.diff()
    assert {(each.kind, each.path) for each in running} >= {("A", "/new"), ("A", "/two"), ("D", "/etc/passwd")}
    assert len(devices(host_dir, env)) == 1  # or it would be two file systems on one disk
    env.copy_out("/two", str(tmp_path / "two"))
    shown = Path(env.mount())
    assert (shown / "two").read_text() == "two\n"
    env.umount()
    env.stop(fast=True)
    assert set(running) <= set(env.diff())
    shown = Path(env.mount())
    assert (shown / "two").read_text() == "two\n"
    (shown / "three").write_text("three\n")
    assert len(devices(host_dir, env)) == 1
    with pytest.raises(errors.InUse):
        env.set(disk="30M", save=True)
    env.umount()
    env.copy_out("/three", str(tmp_path / "three"))
    assert (tmp_path / "three").read_text() == "three\n"
    env.start()
    assert witness.shell(env, "cat /three; stat -c %u /three") == "three\n0\n"


def test_many_ways_at_once_are_one_file_system(host_dir: Path, loop: Make, tmp_path: Path) -> None:
    """Whoever looks while it ends and starts again: it is never attached twice, and nothing is lost."""
    env = loop()
    for number in range(2):
        env.start()
        witness.shell(env, f"echo {number} >/file{number}; sync")
        looking = [commandline.start(host_dir, "diff", env.veid, stdout=-1) for _ in range(2)]
        env.stop(fast=True)
        while any(each.poll() is None for each in looking):
            assert len(devices(host_dir, env)) <= 1
        for each in looking:
            with each:
                assert each.stdout and each.wait() == 0, each.stdout and each.stdout.read()
    gone(host_dir, env)
    done = subprocess.run(["e2fsck", "-fn", image(host_dir, env)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert {each.path for each in env.diff()} >= {f"/file{number}" for number in range(2)}


@pytest.mark.any_kernel
def test_it_is_resized_while_it_is_stopped(host_dir: Path, loop: Make) -> None:
    env = loop()
    env.start()
    assert write(env, "/big", 10).returncode == 0
    refused = commandline.run(host_dir, "set", env.veid, "--disk", "40M", "--save")
    assert refused.returncode == 51
    assert f"ve stop {env.veid}" in refused.stderr
    assert image(host_dir, env).stat().st_size == 20 * MIB
    env.stop(fast=True)
    commandline.output(host_dir, "set", env.veid, "--disk", "40M", "--save")
    assert image(host_dir, env).stat().st_size == 40 * MIB
    env.start()
    assert df(env) > 30 << 10
    assert write(env, "/more", 20).returncode == 0
    env.stop(fast=True)
    for words in (("--disk", "5M"), ("--disk", ""), ("--disk", "unlimited")):
        refused = commandline.run(host_dir, "set", env.veid, *words, "--save")
        assert refused.returncode == 20, refused
        assert image(host_dir, env).stat().st_size == 40 * MIB
        if words[1] == "5M":
            assert re.search(r"what is in it needs [0-9]+M\nhint: --disk [0-9]+M\n", refused.stderr), refused
    assert commandline.run(host_dir, "set", env.veid, "--inodes", "77", "--save").returncode == 5
    env.start()
    witness.shell(env, "rm /more && stat /big")
    env.stop(fast=True)
    commandline.output(host_dir, "set", env.veid, "--disk", "32M", "--save")
    assert image(host_dir, env).stat().st_size == 32 * MIB
    env.start()
    assert df(env) < 32 << 10
    witness.shell(env, "stat /big")


@pytest.mark.any_kernel
def test_it_has_the_inodes_that_were_asked_for(loop: Make) -> None:
    env = loop(inodes="200")
    env.start()
    most = int(witness.shell(env, "df -i /").splitlines()[-1].split()[1])
    assert 190 <= most <= 256  # whole groups of an ext4
    assert "No space left" in witness.says_no(env, "set -e; for i in $(seq 300); do touch /f$i; done")


@pytest.mark.any_kernel
def test_what_cannot_be_is_refused_and_leaves_nothing(host_dir: Path, make: Make) -> None:
    words = ("create", 3999, "--template", "busybox", "--area", "loop")
    for more, code, why in (
        ((), 20, "without a size"),
        (("--disk", "unlimited"), 20, "without a size"),
        (("--disk", "1K"), 20, "mkfs.ext4"),
        (("--disk", "900000T"), 20, "this host has"),
    ):
        refused = commandline.run(host_dir, *words, *more)
        assert (refused.returncode, why in refused.stderr) == (code, True), refused
        assert witness.left_of(host_dir, 3999) == []
    assert commandline.run(host_dir, *words[:-1], "tape").returncode == 2


def test_it_is_destroyed_with_all_that_was_in_it(host_dir: Path, loop: Make) -> None:
    env = loop(profiles=["nesting"])
    env.start()
    witness.shell(env, "touch /var/lib/ve/inside")
    assert "No space left" in write(env, "/var/lib/ve/big", 30).stderr  # what VEs in it have counts
    env.stop(fast=True)
    env.destroy()
    assert witness.left_of(host_dir, env.veid) == []
