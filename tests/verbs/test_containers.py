"""Containers in a VE of the profile docker: Docker's and Podman's own programs from Debian, with an image from outside.

No registry can be reached, so umoci makes the image on the host and `docker load` brings it in.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests import conftest
from tests.verbs import witness
from tests.verbs.test_debian import booted, tell

# Half a gigabyte to unpack and engines that are slow to start: many minutes on the stock-kernel VM.  By hand:
# make test-vm PYTEST_ARGS="tests/verbs/test_containers.py -m ''"
pytestmark = [pytest.mark.any_kernel, pytest.mark.timeout(1200)]  # once, the archive is made too

IMAGE = """\
umoci init --layout layout && umoci new --image layout:latest && umoci unpack --image layout:latest bundle
mkdir -p bundle/rootfs/bin bundle/rootfs/etc && cp "$0" bundle/rootfs/bin/busybox
for each in cat httpd id ip sh; do ln -s busybox bundle/rootfs/bin/$each; done
echo 'a page' >bundle/rootfs/etc/page
umoci repack --image layout:latest bundle && umoci config --image layout:latest --config.cmd /bin/id
skopeo copy --insecure-policy oci:layout:latest docker-archive:image.tar:witness:1
"""
# Of the cgroup controllers that Podman limits processes by, there is none in a VE.
PODMAN = "podman run --rm --pids-limit 0"


@pytest.fixture(scope="module", autouse=True)
def leaves_no_trace() -> Iterator[None]:
    """As for every test, but of all of them: engines make cgroups, and keep some."""
    with conftest.guarded():
        yield


@pytest.fixture(scope="module")
def engines(
    host: "ve.Host", host_dir: Path, containers: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["ve.Environment"]:
    """A Debian that has booted, with a container's image and its root file system, /image.tar and /rootfs."""
    place = tmp_path_factory.mktemp("image")
    busybox = shutil.which("busybox")
    subprocess.run(["sh", "-ec", IMAGE, str(busybox)], cwd=place, check=True, stdout=subprocess.DEVNULL)
    (place / "docker").mkdir()  # where Docker keeps images: on the root, an overlay, it could do so by FUSE alone
    volume = [f"{place}/docker:/var/lib/docker"]
    env = host.create(6201, template=containers, hostname="engines", profiles=["docker"], mounts=volume)
    try:
        env.copy_in(str(place / "image.tar"), "/image.tar")
        env.copy_in(str(place / "bundle/rootfs"), "/rootfs", archive=True)
        tell(host_dir, env.veid)
        env.start()
        assert booted(env, host_dir) == "running"
        yield env
    finally:
        conftest._end(host, env.veid)


def inside(env: "ve.Environment", script: str) -> str:
    """What a script prints, as it would to somebody who has logged in: systemd moves its containers from there."""
    done = env.run(["sh", "-c", script], login=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.mark.parametrize("runtime", ["crun", "runc"])
def test_a_runtime(engines: "ve.Environment", runtime: str) -> None:
    edit = r"""sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"id"/' config.json"""
    inside(engines, f"mkdir /{runtime} && cd /{runtime} && cp -a /rootfs . && {runtime} spec && {edit}")
    assert inside(engines, f"cd /{runtime} && {runtime} run one").startswith("uid=0 gid=0")


def test_docker(engines: "ve.Environment", host_dir: Path) -> None:
    init = witness.init(host_dir, engines.veid)  # now, as a container has a PID 1 too
    assert "witness:1" in inside(engines, "docker load --quiet --input /image.tar")
    assert inside(engines, "docker info --format '{{.Driver}}'") == "overlay2\n"
    assert inside(engines, "docker run --rm witness:1").startswith("uid=0 gid=0")
    assert inside(engines, "docker run --rm --user 33 --network none witness:1").startswith("uid=33 ")
    inside(engines, "docker run --detach --name web --publish 8080:80 witness:1 /bin/httpd -f -h /etc")
    inside(engines, "until docker exec web cat /proc/net/tcp6 | grep -q ':0050 '; do sleep 0.1; done")
    get = (
        "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8080/page', timeout=30).read().decode(), end='')"
    )
    assert witness.enter(init, sys.executable, "-I", "-c", get, namespaces="--net") == "a page\n"
    container = int(inside(engines, "docker inspect --format '{{.State.Pid}}' web"))
    assert inside(engines, f"readlink /proc/{container}/exe") == "/bin/busybox\n"
    inside(engines, "docker rm --force web && docker save witness:1 | docker load && docker rmi witness:1")


def test_podman(engines: "ve.Environment") -> None:
    assert inside(engines, f"{PODMAN} --network none --rootfs /rootfs id").startswith("uid=0 gid=0")
    inside(engines, "podman load --quiet --input /image.tar")
    assert "inet 10.88." in inside(engines, f"{PODMAN} witness:1 ip address show eth0")


def test_podman_without_root(engines: "ve.Environment") -> None:
    """Of the ids that a user may have for containers, as many as there are in a VE."""
    ids = "echo kir:10000:40000 | tee /etc/subuid >/etc/subgid"
    inside(engines, f"useradd --create-home --shell /bin/sh kir && {ids} && cp /image.tar ~kir && chown kir ~kir/*")
    script = f"cd; podman load --quiet --input image.tar && {PODMAN} --network none witness:1 cat /proc/self/uid_map"
    done = engines.run(["su", "-", "kir", "-c", script], login=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["         0       1000          1", "         1      10000      40000"], (
        done
    )
