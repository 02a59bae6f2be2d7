"""Disk space and inodes: what a VE may keep, on file systems that are made for it; `repquota` is the witness."""

import contextlib
import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import ve
from tests import conftest
from tests.programs import compiled
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import check, errors
from ve.amounts import UNLIMITED

KIB, MIB = 1 << 10, 1 << 20
MAKE = {"ext4": "mkfs.ext4 -q -O quota,project", "xfs": "mkfs.xfs -q"}
FULL = {"ext4": "Disk quota exceeded", "xfs": "No space left on device"}
_veids = itertools.count(4001)


def sh(script: str) -> str:
    return subprocess.run(script, shell=True, stdout=subprocess.PIPE, text=True, check=True).stdout


class Project(NamedTuple):
    """A line of `repquota`, in KiB and inodes."""

    used: int
    limit: int
    inodes: int
    inodes_limit: int


@contextlib.contextmanager
def mounted(place: Path, make: str, options: str) -> Iterator[Path]:
    """A file system of 400 MiB in a file; nothing of it is left."""
    image, point = place / "image", place / "point"
    point.mkdir()
    sh(f"truncate -s 400M {image} && {make} {image}")
    sh(f"mount -o loop,{options} {image} {point}")
    point.chmod(0o755)
    try:
        yield point
    finally:
        sh(f"umount -l {point}")  # what had VEs there may still be going; the loop device goes with the last of it
        image.unlink()
        point.rmdir()


class Disk:
    """A state dir on such a file system."""

    def __init__(self, point: Path, kind: str) -> None:
        self.point, self.kind = point, kind
        self.dir = conftest._new_state_dir(point)
        self.host = ve.Host(self.dir)

    def projects(self) -> dict[int, Project]:
        """Those that have anything, but for what is in none."""
        lines = re.findall(r"^#([0-9]+) +[-+]{2}((?: +[0-9]+){8})$", sh(f"repquota -Pnp {self.point}"), re.MULTILINE)
        rows = {int(project): [int(number) for number in numbers.split()] for project, numbers in lines}
        return {project: Project(row[0], row[2], row[4], row[6]) for project, row in rows.items() if project}

    def project(self, env: "ve.Environment") -> Project:
        """A VE's: lsattr says which."""
        line = sh(f"lsattr -pd {self.dir}/private/{env.veid}")
        return self.projects()[int(line.split()[0])]


@pytest.fixture(scope="module", params=["ext4", pytest.param("xfs", marks=pytest.mark.long)])
def disk(request: pytest.FixtureRequest, _test_dir: Path) -> Iterator[Disk]:
    with tempfile.TemporaryDirectory(dir=_test_dir) as name:
        place = Path(name)
        place.chmod(0o755)
        with mounted(place, MAKE[request.param], "prjquota") as point:
            made = Disk(point, request.param)
            made.host.templates.build("busybox")
            yield made
            conftest._forget_state_dir(made.dir)


@pytest.fixture
def make(disk: Disk) -> Iterator[Callable[..., "ve.Environment"]]:
    """make(disk="20M") is a running VE on that disk; after the test it is gone, and so is its project."""
    made: list[int] = []

    def create(**options: Any) -> "ve.Environment":
        made.append(next(_veids))
        env = disk.host.create(made[-1], template="busybox", **options)
        env.start()
        return env

    before = disk.projects()
    yield create
    for veid in made:
        conftest._end(disk.host, veid)
        assert witness.left_of(disk.dir, veid) == []
    assert disk.projects() == before


def write(env: "ve.Environment", name: str, mebibytes: int) -> "subprocess.CompletedProcess[str]":
    argv = ["dd", "if=/dev/zero", f"of={name}", "bs=64k", f"count={mebibytes * 16}"]
    return env.run(argv, capture_output=True, text=True)


def df(env: "ve.Environment", *options: str) -> list[int]:
    """Of its root: all, used and available, as df inside has it."""
    line = witness.shell(env, f"df {' '.join(options)} /").splitlines()[-1]
    return [int(word) for word in line.split()[1:4]]


def test_a_write_beyond_is_refused_and_df_shows_it(disk: Disk, make: Make) -> None:
    env, neighbour = make(disk="20M"), make(disk="30M")
    assert df(env, "-k")[0] == 20 * KIB
    refused = write(env, "/big", 40)
    assert refused.returncode != 0
    assert FULL[disk.kind] in refused.stderr
    project = disk.project(env)
    assert project.limit == 20 * KIB
    assert 19 * KIB < project.used <= project.limit
    assert int(witness.shell(env, "stat -c %s /big")) <= 20 * MIB
    total, used, available = df(env, "-k")
    assert (total, used) == (project.limit, project.used)
    assert available <= total - used
    assert write(neighbour, "/big", 25).returncode == 0  # two do not share
    assert disk.project(neighbour).used >= 25 * KIB
    assert disk.project(neighbour).limit == 30 * KIB
    shown = json.loads(commandline.output(disk.dir, "status", env.veid, "--json"))["disk"]
    assert (shown["space_limit"], shown["inodes_limit"]) == (20 * MIB, None)
    assert 0 <= shown["space"] // KIB - project.used <= 1
    beans = env.beancounters()
    space, inodes = beans["diskspace"], beans["diskinodes"]
    assert (space.barrier, space.limit, inodes.limit) == (20 * MIB, 20 * MIB, UNLIMITED)
    assert 0 <= (space.held or 0) // KIB - project.used <= 1
    assert inodes.held == project.inodes
    witness.shell(env, "rm /big && echo again >/big")
    assert disk.project(env).used < KIB


def test_check_says_that_it_is_there(disk: Disk) -> None:
    assert [each.present for each in check.check(str(disk.dir), ["project quota"])] == [True]


def test_inodes_beyond_are_refused_and_df_shows_it(disk: Disk, make: Make) -> None:
    env = make(inodes=100)
    assert df(env, "-i")[0] == 100
    complaint = witness.says_no(env, "set -e; for i in $(seq 200); do touch /f$i; done")
    assert FULL[disk.kind] in complaint
    assert disk.project(env)[2:] == (100, 100)
    assert FULL[disk.kind] in witness.says_no(env, "mkdir /d")
    assert FULL[disk.kind] in witness.says_no(env, "ln -s x /s")


def test_it_changes_while_the_ve_runs_and_below_what_it_holds(disk: Disk, make: Make) -> None:
    env = make(disk="20M")
    assert write(env, "/a", 10).returncode == 0
    commandline.output(disk.dir, "set", env.veid, "--disk", "40M", "--inodes", "500")
    assert disk.project(env)[1::2] == (40 * KIB, 500)
    assert df(env, "-k")[0] == 40 * KIB
    commandline.output(disk.dir, "set", env.veid, "--disk", "5M")
    assert disk.project(env).limit == 5 * KIB
    assert FULL[disk.kind] in write(env, "/b", 1).stderr
    witness.shell(env, "rm /a")
    assert write(env, "/b", 1).returncode == 0
    env.restart(timeout=0)
    assert disk.project(env)[1::2] == (20 * KIB, 0)
    env.stop(fast=True)
    refused = commandline.run(disk.dir, "set", env.veid, "--disk", "7M")
    assert refused.returncode == 20
    assert disk.project(env).limit == 20 * KIB
    commandline.output(disk.dir, "set", env.veid, "--disk", "7M", "--save")
    assert disk.project(env).limit == 7 * KIB
    commandline.output(disk.dir, "set", env.veid, "--disk", "", "--save")
    assert disk.project(env).limit == 0


@pytest.mark.long
def test_what_cannot_be_saved_changes_nothing(disk: Disk, make: Make) -> None:
    env = make(disk="20M")
    sh(f"chattr +i {disk.dir}/conf")
    try:
        refused = commandline.run(disk.dir, "set", env.veid, "--disk", "40M", "--save")
    finally:
        sh(f"chattr -i {disk.dir}/conf")
    assert refused.returncode != 0
    assert disk.project(env).limit == 20 * KIB


def test_a_full_one_starts_is_mounted_and_copied_from(disk: Disk, make: Make, tmp_path: Path) -> None:
    env = make(disk="20M", inodes=100)
    env.run(["sh", "-c", "for i in $(seq 200); do touch /f$i || break; done"], capture_output=True)
    write(env, "/f1", 40)
    env.restart(timeout=0)
    full = disk.project(env)
    assert (full.inodes, full[1::2]) == (100, (20 * KIB, 100))
    env.stop(fast=True)
    env.copy_out("/f2", str(tmp_path / "f2"))
    assert Path(env.mount(), "f3").exists()
    env.umount()
    assert disk.project(env)[1::2] == (20 * KIB, 100)
    with pytest.raises((errors.Error, OSError), match=FULL[disk.kind]):
        env.copy_in("/proc/version", "/new")
    env.start()
    # xfs makes no file, be it empty, where a directory would have no room to grow; and what was removed counts until it
    # gets round to that (xfs_inodegc), which statfs(2) makes it hurry to.
    witness.shell(env, "rm /f1 /f5; for i in $(seq 1000); do touch /new && exit; df / >/dev/null; done; false")


def test_root_of_a_ve_cannot_get_rid_of_it(disk: Disk, make: Make, tmp_path_factory: pytest.TempPathFactory) -> None:
    program = compiled(tmp_path_factory.mktemp("escape") / "escape", Path(__file__).with_name("escape.c"))
    env = make(disk="20M", profiles=["nesting"])
    env.copy_in(str(program), "/escape", archive=True)
    witness.shell(env, "mkdir /d; touch /f /d/f; ls >/etc/issue")
    before = disk.project(env)
    lines = witness.shell(env, "/escape / /d /f /d/f /etc /etc/issue /var/lib/ve; true").splitlines()
    assert len(lines) > 20
    tries = [line.split() for line in lines]
    assert {error for what, _, error in tries if error != "done"} <= {"EINVAL", "EPERM", "ENOTTY", "ENOSYS"}
    assert {what for what, _, error in tries if error == "done"} <= {"unprojected"}
    assert not [line for line in lines if line.startswith("unprojected") and not line.endswith("/etc done")], lines
    inside = "unshare -rm sh -c '/escape / /d /f' 2>&1; true"
    assert "done" not in witness.shell(env, inside)
    assert disk.project(env)[1::2] == before[1::2]
    witness.shell(env, "mv /d /var/d && ln /f /var/f && cp /escape /var/lib/ve/ && mkdir /var/lib/ve/d")
    assert disk.project(env).used > before.used
    assert FULL[disk.kind] in write(env, "/var/lib/ve/big", 40).stderr
    assert disk.project(env).used <= 20 * KIB


def test_state_dirs_on_one_file_system_do_not_share_projects(disk: Disk, make: Make) -> None:
    env = make(disk="20M")
    other = conftest._new_state_dir(disk.point)
    host = ve.Host(other)
    host.templates.add("busybox", disk.host.templates.get("busybox").path)
    twin = host.create(env.veid, template="busybox", disk="10M")
    try:
        assert sorted(row.limit for row in disk.projects().values()) == [10 * KIB, 20 * KIB]
    finally:
        twin.destroy()
        conftest._forget_state_dir(other)


@pytest.mark.long
def test_a_restored_backup_is_counted_and_limited_again(disk: Disk, make: Make) -> None:
    env = make(disk="20M", inodes=300)
    deep = "mkdir /deep; cd /deep; for i in $(seq 150); do mkdir d; cd d; done; touch leaf"
    witness.shell(env, f"rm /etc/issue /bin/ls; ln -s /old /link; mkfifo /fifo; touch /one; ln /one /two; {deep}")
    assert write(env, "/big", 10).returncode == 0
    env.stop(fast=True)
    before = disk.project(env)
    private = disk.dir / "private" / str(env.veid)
    backup = disk.point / "backup"
    sh(f"mkdir {backup} && cp -a {private}/upper {backup} && rm -rf {private}/* && rmdir {private}")
    sh(f"mkdir -m 700 {private} && cp -a {backup}/upper {private} && rm -rf {backup}")
    assert env.diff()
    env.start()
    after = disk.project(env)
    assert after[1::2] == before[1::2]
    assert abs(after.used - before.used) < 100
    assert abs(after.inodes - before.inodes) <= 3  # its log, and what overlayfs keeps in work
    witness.shell(env, "echo new >/etc/issue; cp /bin/busybox /bin/ls; ln -sfn /new /link; mv /link /bin/link")
    witness.shell(env, "mv /fifo /etc/fifo; test -p /etc/fifo; test $(stat -c %h /one) = 2; mv /two /three")
    assert witness.shell(env, "readlink /bin/link; cd /deep/d/d/d; pwd") == "/new\n/deep/d/d/d\n"
    assert FULL[disk.kind] in write(env, "/more", 15).stderr
    assert not (private / "remade").exists()


@pytest.mark.long
def test_where_the_file_system_only_counts_the_cure_helps(disk: Disk, _test_dir: Path) -> None:
    """And where it does not even count, as it was made or mounted without; as the hint says it."""
    make = {"ext4": "mkfs.ext4 -q", "xfs": "mkfs.xfs -q"}[disk.kind]
    with tempfile.TemporaryDirectory(dir=_test_dir) as name, mounted(Path(name), make, "rw") as point:
        Path(name).chmod(0o755)
        refused = created(point, disk)
        assert isinstance(refused, errors.NotSupported)
        assert f"cannot limit disk: its {disk.kind}" in str(refused)
        device = sh(f"findmnt -no SOURCE {point}").strip()
        cure = re.search(r"tune2fs -O project -Q prjquota", refused.hint)
        assert bool(cure) == (disk.kind == "ext4")
        assert "-o prjquota" in refused.hint
        image = Path(name) / "image"
        sh(f"umount {point} && losetup -j {image} | wc -l")
        if cure:
            sh(f"{cure[0]} {image} 2>&1")
        sh(f"mount -o loop {image} {point}" if cure else f"mount -o loop,pqnoenforce {image} {point}")
        assert device.startswith("/dev/loop")
        refused = created(point, disk)
        assert isinstance(refused, errors.NotSupported)
        assert "counts projects but does not limit them" in str(refused)
        assert created(point, disk, account_only=True) is None
        sh(f"umount {point}; mount -o loop,prjquota {image} {point}")
        assert created(point, disk) is None


def created(point: Path, disk: Disk, **options: Any) -> Exception | None:
    """The error of creating a limited VE in a state dir there; nothing is left."""
    path = conftest._new_state_dir(point)
    host = ve.Host(path)
    host.templates.add("busybox", disk.host.templates.get("busybox").path)
    try:
        host.create(5001, template="busybox", disk="20M", **options).destroy()
    except errors.Error as error:
        assert witness.left_of(path, 5001) == []
        return error
    finally:
        conftest._forget_state_dir(path)
    return None


def test_in_memory_it_is_the_size_of_the_tmpfs(host_dir: Path, host: "ve.Host") -> None:
    script = "df -k / | tail -n 1; df -i / | tail -n 1; dd if=/dev/zero of=/big bs=1M count=20; ls -l /big"
    words = ("--disk", "10M", "--inodes", "100", "busybox", "--", "sh", "-c", script)
    done = commandline.run(host_dir, "run", *words)
    space, inodes, big = (line.split() for line in done.stdout.splitlines())
    assert (space[1], inodes[1]) == (str(10 * KIB), "100")
    assert int(big[4]) <= 10 * MIB
    assert "No space left on device" in done.stderr
    with host.ephemeral("busybox", disk="10M") as env, pytest.raises(errors.NotSupported, match="in memory"):
        env.set(disk="20M")
