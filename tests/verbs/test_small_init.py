"""OCI images: their own command under the small init, or in a VE that is thrown away."""

import json
import os
import subprocess
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make

# Says who and where it is, and how it was told to end; leaves an orphan that ends at once, and one that goes on.
COMMAND = """\
trap 'echo told; exit 0' TERM
echo "$0 $1 $COLOR $(id -u):$(id -g) $PWD"
(sh -c 'exit 3' &)
(sleep 1000 &)
tail -f /dev/null &
echo ready >/tmp/ready
wait
"""
SAYS = "app first green 1000:1001 /srv/app\n"


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory, host: "ve.Host") -> Path:
    """An OCI layout: busybox, without an init, and a configuration that says all it can."""
    place = tmp_path_factory.mktemp("image")
    layout, bundle = place / "layout", place / "bundle"
    _run("umoci", "init", "--layout", layout)
    _run("umoci", "new", "--image", f"{layout}:latest")
    _run("umoci", "unpack", "--image", f"{layout}:latest", bundle)
    _run("cp", "-a", f"{host.templates.get('busybox').path}/.", bundle / "rootfs")
    root = bundle / "rootfs"
    for init in ("sbin/init", "linuxrc", "init"):
        (root / init).unlink(missing_ok=True)
    with (root / "etc/passwd").open("a") as passwd:
        passwd.write("app:x:1000:1001::/srv/app:/bin/sh\n")
    (root / "srv/app").mkdir(parents=True)
    os.chown(root / "srv/app", 1000, 1001)
    _run("umoci", "repack", "--image", f"{layout}:latest", bundle)
    config = ["--config.env=COLOR=green", "--config.workingdir=/srv/app", "--config.user=app"]
    command = [f"--config.entrypoint={word}" for word in ("sh", "-c", COMMAND)] + ["--config.cmd=app"]
    _run("umoci", "config", "--image", f"{layout}:latest", *config, *command, "--config.cmd=first")
    return layout


@pytest.fixture(scope="session")
def oci(image: Path, host: "ve.Host") -> str:
    return host.templates.add("oci", image).ref


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.any_kernel
@pytest.mark.parametrize("kind", ["layout", "oci-archive", "docker-archive"])
def test_every_form_of_an_image_starts_alike(image: Path, host: "ve.Host", tmp_path: Path, kind: str) -> None:
    source = image
    if kind != "layout":
        source = tmp_path / "image.tar"
        _run("skopeo", "copy", "--insecure-policy", "-q", f"oci:{image}:latest", f"{kind}:{source}:app:latest")
    template = host.templates.add(kind, source)
    assert template.init == ""
    assert template.command == ("sh", "-c", COMMAND, "app", "first")
    assert (template.env["COLOR"], template.cwd, template.user) == ("green", "/srv/app", "1000:1001")
    host.templates.remove(kind)


def test_start_runs_the_command_of_the_image(make: Make, oci: str, host_dir: Path) -> None:
    env = make(oci)
    env.start()
    witness.shell(env, "until [ -e /tmp/ready ] && ps -o ppid,args | grep -q '^ *1 sleep 1000'; do usleep 10000; done")
    assert (host_dir / f"private/{env.veid}/log").read_text() == SAYS
    pid = witness.init(host_dir, env.veid)
    assert os.path.basename(os.readlink(f"/proc/{pid}/exe")) in ("init", "catatonit")
    ours = {each: witness.status(each) for each in commandline.processes(host_dir, env.veid).values()}
    assert all(state["State"][0] != "Z" for state in ours.values()), ours  # the orphan that ended was waited for
    orphan = [each for each in ours if Path(f"/proc/{each}/cmdline").read_bytes() == b"sleep\x001000\0"]
    assert [ours[each]["PPid"] for each in orphan] == [str(pid)]

    assert env.stop(60)
    assert not witness.runs(host_dir, env.veid)
    assert (host_dir / f"private/{env.veid}/log").read_text() == SAYS + "told\n"


@pytest.mark.any_kernel
def test_run_is_the_command_of_the_image(oci: str, host: "ve.Host", host_dir: Path) -> None:
    with commandline.start(host_dir, "run", oci, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline().decode() == SAYS
        running.terminate()
        assert running.stdout.read() == b"told\n"
    assert running.returncode == 0
    assert [env for env in host.list() if env.ephemeral] == []


@pytest.mark.any_kernel
def test_run_another_command_as_the_image_says(oci: str, host: "ve.Host", host_dir: Path) -> None:
    script = 'echo "$COLOR $(id -u):$(id -g) $PWD"; exit 5'
    done = commandline.run(host_dir, "run", oci, "--", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (5, "green 1000:1001 /srv/app\n")
    assert host.run(oci, ["sh", "-c", "test $(id -u):$PWD = 0:/"], user="0", cwd="/") == 0


def test_a_command_that_ends_ends_the_ve(make: Make, host: "ve.Host", image: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    _run("skopeo", "copy", "--insecure-policy", "-q", f"oci:{image}:latest", f"oci:{layout}:latest")
    _run("umoci", "config", "--image", f"{layout}:latest", "--clear=config.entrypoint", "--clear=config.cmd",
         "--config.cmd=true")  # fmt: skip
    assert json.loads((layout / "index.json").read_text())["manifests"]
    env = make(host.templates.add("brief", layout).ref)
    for _ in range(5):
        env.start()
        witness.wait_stopped(env)
