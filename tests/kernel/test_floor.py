"""The benchmark's floor (bench/programs/) is the life of a VE, or ratios to it would mean nothing.

The same probe looks around as init of the floor's container, and as a command in a VE: both see the same.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import ve
from bench import floor
from tests.hostnet import HostNet
from ve import cgroups

pytestmark = pytest.mark.any_kernel

PROBE = """
    echo = status; grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Seccomp_filters|CoreDumping|THP_enabled):' \
        /proc/self/status
    echo = limits; cat /proc/self/limits
    echo = maps; cat /proc/self/uid_map /proc/self/gid_map
    echo = mounts; cut -d' ' -f4- /proc/self/mountinfo
    echo = namespaces; cat /proc/sys/user/max_*_namespaces
    echo = devices; ls -ln /dev | grep -v ^s | tr -s ' ' | cut -d' ' -f1-6,10-
    echo = interfaces; ip -o address
    echo = environment; env | grep -E '^(PATH|HOME|USER|container)=' | sort
"""
LINKS = "ip -o link; ip -o address; ip route show table all; ping -c1 -W5 192.0.2.1 | grep transmitted"
OWN = "for each in /proc/self/ns/*; do readlink $each; done"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return floor.build(tmp_path_factory.mktemp("programs") / "programs")


@pytest.fixture
def its_cgroup() -> Iterator[Path]:
    path = Path(cgroups.cgroup("floor", os.getpid()).path).parent.with_name(f"floor-{os.getpid()}")
    yield path
    path.rmdir()


@pytest.fixture
def made(host: ve.Host, programs: Path, state_dir: Path, its_cgroup: Path) -> floor.Floor:
    """Its template is the busybox of VEs, with an init that ends at once."""
    tree = state_dir / "tree"
    subprocess.run(["cp", "-a", host.templates.get("busybox").path, tree], check=True)
    (tree / "sbin/init").unlink()
    shutil.copy(programs / "true", tree / "sbin/init")
    return floor.Floor(state_dir, programs, str(tree), its_cgroup)


def seen_from_inside(made: floor.Floor, script: str, operation: str = "show", before: Sequence[str] = ()) -> str:
    environment, command = os.environ | {"FLOOR_SHOWS": script}, [*before, *made.command]
    done = subprocess.run(command, input=f"{operation}\n", env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.rpartition("\n")[0].rpartition("\n")[0]  # the last line is how long it took


def alike(text: str) -> list[str]:
    """Without what each container has another of: host ids, peer groups, and where its layers are."""
    text = re.sub(r"(shared|master):\d+", r"\1", text)
    text = re.sub(r"@if\d+|^\d+: |10\.\d+\.\d+\.\d+|[0-9a-f:]{11}:\d\d:\d\d", "", text, flags=re.M)
    text = re.sub(r"(uid|gid)=\d+", r"\1", text)
    text = re.sub(r"^( +0) +\d+( +65536)$", r"\1\2", text, flags=re.M)
    return re.sub(r",xino=auto", "", text).splitlines()


def test_it_is_what_a_ve_is(made: floor.Floor, env: ve.Environment) -> None:
    of_ve = env.run(["sh", "-c", PROBE], capture_output=True, text=True, check=True).stdout
    assert len(of_ve.splitlines()) > 60
    assert alike(seen_from_inside(made, PROBE)) == alike(of_ve)


def test_its_network_is_what_a_ve_has(
    made: floor.Floor, hostnet: HostNet, host: ve.Host, host_dir: Path, veid: int
) -> None:
    env = host.create(veid, template="busybox", addresses=["10.9.0.5"])
    hostnet.call(env.start)
    of_ve = env.run(["sh", "-c", LINKS], capture_output=True, text=True, check=True).stdout
    seen = seen_from_inside(made, LINKS, "look", hostnet.words)
    assert "venet0" in seen and "1 packets received" in seen
    assert alike(seen) == alike(of_ve)
    hostnet.call(env.stop, fast=True)


def test_every_namespace_is_its_own(made: floor.Floor) -> None:
    names = seen_from_inside(made, OWN).splitlines()
    ours = {os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
    assert len(names) == 10 and not ours.intersection(names)


def test_each_operation_is_timed_and_leaves_nothing(made: floor.Floor, its_cgroup: Path) -> None:
    with made.process() as process:
        assert all(process.do(each) > 0 for each in ("lo", "up", "exec", "exec", "down", "lo"))
    assert [each for each in its_cgroup.iterdir() if each.is_dir()] == []
