"""A container that sees the cgroups of its host (podman --cgroupns=host): its VEs are in its own all the same."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests.conftest import cgroup_root
from tests.verbs import commandline

# A PID namespace of its own, whose first process goes into the cgroup; the command comes behind.
BEGIN = """
exec unshare --pid --fork --kill-child --mount-proc sh -ec 'echo 0 >"$0/cgroup.procs"; "$@"; exit $?' "$0" "$@"
"""


@pytest.fixture
def container() -> Iterator[Path]:
    with commandline.cgroup_for(cgroup_root() / f"ve-container-{os.getpid()}") as path:
        yield path


# What was mounted there before is still in the table of mounts, but its path leads elsewhere, or nowhere.
HIDE = """
mount -t tmpfs none "$0"; mkdir -p "$0/$1"; mount -t cgroup2 none "$0/$1"; shift
exec "$@"
"""


@pytest.mark.parametrize("place", ["below/it", "unified"])
def test_a_cgroup2_that_another_mount_hides(place: str) -> None:
    """As where a container's engine mounts its own /sys, which has the tree elsewhere than the host's."""
    asked = (sys.executable, "-c", "from ve import cgrouproot; print(cgrouproot.mount_point())")
    words = ["unshare", "--mount", "sh", "-ec", HIDE, "/sys/fs/cgroup", place, *asked]
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout == f"/sys/fs/cgroup/{place}\n"


@pytest.mark.container
def test_it_has_its_ves(host: "ve.Host", host_dir: Path, container: Path) -> None:
    tag = commandline.cgroup(host_dir, 1).parent
    line = commandline.words(host_dir, "run", "busybox", "--", "sh", "-c", "echo up; read line")
    words = ["sh", "-ec", BEGIN, str(container), *line]
    before = {path.name for path in tag.glob("*/")}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == b"up\n"
        [veid] = [path for path in (container / tag.name).iterdir() if path.is_dir()]
        assert (veid / "init").is_dir() and "populated 1" in (veid / "cgroup.events").read_text()
        assert {path.name for path in tag.glob("*/")} == before
        process.stdin.write(b"\n")
        assert process.wait(commandline.PATIENCE) == 0
    assert not (container / tag.name / veid.name).exists()
