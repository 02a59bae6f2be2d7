"""What check says of this kernel, against witnesses of others, and with things taken away from a child."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import cgroup_root
from ve import check, namespaces

PROGRAM = """
import sys
from ve.check import check
for facility in check(sys.argv[1]):
    print(facility.name, facility.present, facility.required, sep="|")
"""
ADMIN = {f"{name} namespace" for name, *_ in namespaces.NAMESPACES if name != "user"} | {
    "mount API",
    "idmapped mounts",
    "overlayfs",
    "device nodes",
}


def found(state_dir: Path, *before: str, path: str | None = None) -> dict[str, bool]:
    """Name and presence of each facility as a child sees it that is started by the command before."""
    done = subprocess.run(
        [*before, sys.executable, "-c", PROGRAM, state_dir],
        env={
            "PYTHONPATH": str(Path(check.__file__).parent.parent),
            "PATH": os.environ["PATH"] if path is None else path,
        },
        check=True,
        capture_output=True,
        text=True,
    )
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return {name: present == "True" for name, present, _ in rows}


def works(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(autouse=True)
def nothing_is_left(state_dir: Path) -> Iterator[None]:
    yield
    assert not list(state_dir.rglob("*ve-check*")) and not list(cgroup_root().glob("ve-check*"))


def test_what_a_start_needs_is_here(state_dir: Path) -> None:
    facilities = check.check(str(state_dir))
    assert [each.name for each in facilities if each.required and not each.present] == []
    assert len({each.name for each in facilities}) == len(facilities)
    assert all(each.lost and each.cure for each in facilities)
    assert os.listdir(state_dir) == []


def test_it_agrees_with_others(state_dir: Path) -> None:
    ours = {each.name: each.present for each in check.check(str(state_dir))}
    options = {"mnt": "mount"}
    for name, *_ in namespaces.NAMESPACES:
        assert ours[f"{name} namespace"] == works("unshare", f"--{options.get(name, name)}", "true"), name
    assert ours["overlayfs"] == ("\toverlay\n" in Path("/proc/filesystems").read_text())
    where = subprocess.run(["findmnt", "-nft", "cgroup2", "-o", "TARGET"], capture_output=True, text=True, check=True)
    controllers = Path(where.stdout.strip(), "cgroup.controllers").read_text().split()
    for name in ("memory", "cpu", "pids", "io"):
        assert ours[f"{name} controller"] == (name in controllers), name
    for name in ("catatonit", "bsdtar", "skopeo", "umoci", "mmdebstrap"):
        assert ours[name] == works("sh", "-c", f"command -v {name}"), name
    assert ours["libseccomp"] == works("sh", "-c", "ldconfig -p | grep -q libseccomp.so.2")
    assert ours["busybox-static"] != works("ldd", shutil.which("busybox") or "")


@pytest.mark.any_kernel
def test_a_state_directory_that_is_not_there_yet_stays_away(state_dir: Path) -> None:
    assert found(state_dir / "not/yet")["overlayfs"]
    assert os.listdir(state_dir) == []


def test_without_cap_sys_admin(state_dir: Path) -> None:
    ours = found(state_dir, "setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
    assert {name for name in ADMIN if ours[name]} == set()
    assert ours["root"] and ours["pidfd"] and ours["openat2"]


@pytest.mark.any_kernel
def test_as_nobody(state_dir: Path) -> None:
    ours = found(state_dir, "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", path="/usr/bin:/bin")
    assert not ours["root"] and not ours["cgroup2"] and not ours["overlayfs"]


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    "mount",
    [
        pytest.param("mkdir l u w m; mount -t overlay -o lowerdir=l,upperdir=u,workdir=w none m", id="overlay"),
        pytest.param("mkdir m; mount -t ramfs none m", id="ramfs"),
        pytest.param("mkdir m; mount -o bind,ro m m", id="read-only"),
    ],
)
def test_a_state_directory_where_it_cannot_be(state_dir: Path, mount: str) -> None:
    ours = found(state_dir / "m", "unshare", "--mount", "sh", "-ec", f'cd {state_dir}; {mount}; cd /; exec "$@"', "sh")
    assert not ours["idmapped mounts"] and not ours["overlayfs"]
    assert ours["mount API"] and ours["cgroup2"]


@pytest.mark.any_kernel
def test_without_programs(state_dir: Path, tmp_path: Path) -> None:
    ours = found(state_dir, path=str(tmp_path))
    assert not any(ours[name] for name, *_ in check.PROGRAMS)
    shutil.copy(shutil.which("ls") or "", tmp_path / "busybox")
    assert not found(state_dir, path=str(tmp_path))["busybox-static"]


def test_without_a_cgroup2(state_dir: Path) -> None:
    ours = found(
        state_dir, "unshare", "--mount", "sh", "-ec", 'mount -t tmpfs -o ro none "$0"; exec "$@"', str(cgroup_root())
    )
    assert not ours["cgroup2"] and not ours["CLONE_INTO_CGROUP"] and not ours["cgroup.kill"]
    assert ours["overlayfs"]
