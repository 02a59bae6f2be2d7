"""Templates and private areas that mean harm, up to what runs in them; a real start of each."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests.attacks.conftest import Hostile
from tests.verbs import witness
from ve import errors

NAIVE = """
import os, sys
os.dup2(os.open(sys.argv[1], os.O_PATH), 14)
os.chdir("/proc/self/fd/14")
os.closerange(3, 99)
print(os.listdir("."))
"""


@pytest.fixture
def image(host: "ve.Host") -> Iterator[Path]:
    """The metadata of a template without an init, for a test to spoil."""
    template = host.templates.add("image", host.templates.get("busybox").path)
    metadata = Path(f"{template.path}.toml")
    text = metadata.read_text().replace('init = "/sbin/init"', 'init = ""')
    metadata.write_text(text.replace("command = []", 'command = ["/bin/sh", "-c", "ls -a; exec sleep 100000"]'))
    yield metadata
    shutil.rmtree(metadata.parent)


@pytest.mark.any_kernel
def test_a_working_directory_among_our_descriptors(
    host: "ve.Host", veid: int, host_dir: Path, image: Path, tmp_path: Path
) -> None:
    """CVE-2024-21626: an image's WorkingDir is /proc/self/fd/N, and N is a directory of the host."""
    text = image.read_text()
    env = host.create(veid, template="image")
    for number in range(3, 40):
        image.write_text(text.replace('cwd = "/"', f'cwd = "/proc/self/fd/{number}"'))
        assert str(number) in env.template.cwd
        with contextlib.suppress(errors.StartFailed):
            env.start()
            init = witness.init(host_dir, veid)
            inside = witness.enter(init, "sh", "-c", "stat -c %d /", namespaces="-m")
            assert os.stat(f"/proc/{init}/cwd/.").st_dev == int(inside), f"{os.readlink(f'/proc/{init}/cwd')} is inside"
        if env.status == ve.Status.RUNNING:
            env.stop(fast=True)
    (tmp_path / "secret").write_text("the host's")
    naive = ["python3", "-c", NAIVE, str(tmp_path)]
    assert "secret" in subprocess.check_output(naive, text=True)


@pytest.mark.any_kernel
@pytest.mark.parametrize("name", ["proc", "sys", "dev", "run"])
@pytest.mark.parametrize("kind", ["link", "link up", "file"])
def test_a_mount_point_that_leads_elsewhere(
    hostile: Hostile, host_dir: Path, tmp_path: Path, name: str, kind: str
) -> None:
    """CVE-2025-31133, CVE-2025-52565: nothing of a launch is mounted or made where a link of the VE points to."""
    env = hostile()
    env.stop(fast=True)
    (tmp_path / "victim").mkdir()
    upper = host_dir / f"private/{env.veid}/upper"
    with contextlib.suppress(FileNotFoundError):
        (upper / name).rmdir()
    target = str(tmp_path / "victim")
    if kind == "file":
        (upper / name).write_text("")
    else:
        (upper / name).symlink_to(target if kind == "link" else "../" * 12 + target.lstrip("/"))
    before = witness.tree(tmp_path), len(witness.mounts())
    with pytest.raises(errors.StartFailed, match=f"cannot mount on /{name} of the VE: it is not a directory there"):
        env.start()
    assert (witness.tree(tmp_path), len(witness.mounts())) == before
    assert not witness.runs(host_dir, env.veid)
    if kind != "file":  # who trusts the name makes it there
        (upper / name / "made").mkdir()
        assert os.listdir(target) == ["made"] or kind == "link up"


@pytest.mark.any_kernel
def test_links_below_our_own_mounts_are_ours(hostile: Hostile, host_dir: Path, tmp_path: Path) -> None:
    """What a template has in /dev, /proc and /sys is buried: no console, null or attr of its own is ever opened."""
    env = hostile()
    env.stop(fast=True)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    upper = host_dir / f"private/{env.veid}/upper"
    for name in (
        "dev/console",
        "dev/null",
        "dev/pts/ptmx",
        "proc/self/attr/exec",
        "proc/sys/kernel/x",
        "sys/fs/cgroup",
    ):
        (upper / name).parent.mkdir(parents=True, exist_ok=True)
        (upper / name).symlink_to(victim)
    env.start()
    assert env.run(["sh", "-c", "test -c /dev/null && test -c /dev/pts/ptmx && test -d /sys/fs/cgroup"]).returncode == 0
    assert victim.read_text() == "precious"
    with pytest.raises(NotADirectoryError):
        os.listdir(upper / "sys/fs/cgroup")
