"""ve in a container: a cgroup namespace whose root has processes, as everything there is started in it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import cgroup_root
from tests.limits.test_walls import MIB
from tests.verbs import commandline

# What a container's runtime does: into its cgroup, then into namespaces of its own; the command comes behind.
BEGIN = """
echo $$ >"$0/cgroup.procs"
exec unshare --cgroup --mount sh -ec 'umount -l "$0"; mount -t cgroup2 none "$0"; exec "$@"' "$@"
"""
JOIN = 'echo $$ >"$0/cgroup.procs"; pid=$1; shift; exec nsenter --target "$pid" --cgroup --mount -- "$@"'


@pytest.fixture
def container() -> Iterator[Path]:
    """A cgroup to be the root of a container's; what is in it goes with it."""
    with commandline.cgroup_for(cgroup_root() / "container") as path:
        yield path


def joining(pid: int, *words: str | bytes) -> list[str | bytes]:
    """A command that joins the container of a process, and the cgroup that it is in now."""
    path = Path(f"/proc/{pid}/cgroup").read_text().strip().partition("::")[2]
    return ["sh", "-ec", JOIN, f"{cgroup_root()}{path}", str(pid), *words]


def pids(path: Path) -> list[int]:
    return [int(word) for word in (path / "cgroup.procs").read_text().split()]


def test_its_processes_make_way_for_limits(container: Path, host_dir: Path, veid: int) -> None:
    tag = container / commandline.cgroup(host_dir, veid).parent.name
    words = ["sh", "-ec", BEGIN, str(container), str(cgroup_root()), "cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as first:
        assert first.stdin and first.stdout
        first.stdin.write(b"here\n")
        assert first.stdout.readline() == b"here\n"

        def run(*words: object) -> None:
            command = joining(first.pid, *commandline.words(host_dir, *map(str, words)))
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done

        run("create", veid, "--template", "busybox", "--memory", "64M", "--numproc", 50)
        assert pids(container) == [first.pid]
        run("start", veid)
        assert pids(container) == []
        assert pids(container / "ve-host") == [first.pid]
        assert "memory" in (container / "cgroup.subtree_control").read_text()
        assert (tag / str(veid) / "memory.max").read_text() == f"{64 * MIB}\n"
        assert (tag / str(veid) / "pids.max").read_text() == "50\n"
        assert "populated 1" in (tag / str(veid) / "cgroup.events").read_text()
        run("stop", veid, "--fast")
        assert not (tag / str(veid)).exists()
        first.stdin.close()
