"""What check says of this kernel, against witnesses of others, and with things taken away from a child."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import lacking
from tests.conftest import cgroup_root
from ve import check, facilities, ground, limits, namespaces

PROGRAM = """
import dataclasses, json, sys
from ve.check import check
print(json.dumps({each.name: dataclasses.asdict(each) for each in check(sys.argv[1])}))
"""
KILLED = """
import os, signal, sys
from ve.ground import Ground
ground = Ground(sys.argv[1], sys.argv[1], "")
ground.clear()
os.open = lambda *words: os.kill(os.getpid(), signal.SIGKILL)  # when it comes to the id map of its child
ground.user_namespace()
"""
TABLES = (*facilities.KERNEL, *facilities.CONTROLLERS, *facilities.LIBRARIES, *facilities.DEVICES)
TABLES += (*facilities.PROGRAMS, *facilities.STORAGE, *facilities.NOTES)
ROWS = {row.name: row for row in TABLES}
ADMIN = {f"{name} namespace" for name, *_ in namespaces.NAMESPACES if name != "user"} | {
    "full root",
    "mount API",
    "pivot_root",
    "idmapped mounts",
    "overlayfs",
    "device nodes",
}
VALUES = {"oom": "ve", "io_read": "5M/s", "io_write": "5M/s"}  # of limits; of the others 5 is one
NO_DEVICE = "test ! -e PATH || mount --bind /etc/hostname PATH"
MOUNTED = "mount --bind /etc/hostname /etc/hostname"
IN_USER_NAMESPACE = ("unshare", "--user", "--map-root-user")


def none_of(name: str) -> tuple[str, ...]:
    """No namespace of this kind: the limit of a user namespace that we are root of is 0."""
    return (*IN_USER_NAMESPACE, "sh", "-ec", f'echo 0 >/proc/sys/user/max_{name}_namespaces; exec "$@"', "sh")


# A way for each facility to be missing: what stands before a command that then lacks it.
TAKEN: dict[str, tuple[str, ...]] = {
    **{row: lacking.without(row) for row in lacking.REFUSED},
    **{f"{name} namespace": none_of(name) for name, *_ in namespaces.NAMESPACES},
    **{
        path: lacking.with_mounts(NO_DEVICE.replace("PATH", path))
        for path in ("/dev/fuse", "/dev/net/tun", "/dev/loop-control")
    },
    "root": ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"),
    "own /proc": ("unshare", "--pid", "--fork"),
    "full root": lacking.without_capability("sys_ptrace"),
    "host ids": IN_USER_NAMESPACE,
    "state directory": lacking.with_mounts("cd STATE; mount -o bind,ro . ."),
    "run directory": lacking.with_mounts("cd STATE; mkdir -p run; mount -o bind,ro run run"),
    "cgroup2": lacking.with_mounts("mount -t tmpfs -o ro none CGROUP"),
    "idmapped mounts": (sys.executable, lacking.__file__, "mount_setattr=EINVAL", "--"),
    "fit state directory": lacking.with_mounts("mount -t ramfs none STATE"),
    "namespace limits": lacking.with_mounts("mount -o bind,ro /proc/sys /proc/sys"),
    "idmapped tmpfs": IN_USER_NAMESPACE,
    "project quota": lacking.with_mounts("mount -t tmpfs none STATE"),
    "rlimits": ("prlimit", "--nofile=100:100", *lacking.without_capability("sys_resource")),
    "libseccomp": lacking.with_mounts("mount --bind /dev/null $(ldconfig -p | sed -n 's/.*libseccomp.so.2 .*=> //p')"),
}
# Shown below, or here by what stands for it on another host.
ELSEWHERE = {row.name for row in (*facilities.CONTROLLERS, *facilities.PROGRAMS)} | {
    "no security module",
    "no firewall that drops by default",
}


def look(state_dir: Path, *before: str, path: str | None = None) -> dict[str, dict[str, Any]]:
    """All facilities as a child sees them that is started by the command before."""
    places = {"STATE": str(state_dir), "CGROUP": str(cgroup_root())}
    words = [re.sub("|".join(places), lambda found: places[found[0]], word) for word in before]
    done = subprocess.run(
        [*words, sys.executable, "-c", PROGRAM, state_dir],
        env={
            "PYTHONPATH": str(Path(check.__file__).parent.parent),
            "PATH": os.environ["PATH"] if path is None else path,
        },
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def found(state_dir: Path, *before: str, path: str | None = None) -> dict[str, bool]:
    return {name: each["present"] for name, each in look(state_dir, *before, path=path).items()}


def missing(state_dir: Path, *before: str) -> set[str]:
    return {name for name, present in found(state_dir, *before).items() if not present}


def works(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(autouse=True)
def nothing_is_left(state_dir: Path) -> Iterator[None]:
    """Nor in the root of all cgroups, where those of checks beside ours are locked."""
    yield
    assert not list(state_dir.rglob("*ve-check*"))
    assert not [path for path in cgroup_root().glob("ve-check*") if works("flock", "--nonblock", str(path), "true")]


def test_what_a_start_needs_is_here(state_dir: Path) -> None:
    facilities = check.check(str(state_dir))
    assert [each.name for each in facilities if each.required and not each.present] == []
    assert len({each.name for each in facilities}) == len(facilities)
    assert all(each.lost and each.cure and each.present == (not each.why) for each in facilities)
    assert os.listdir(state_dir) == []


def test_it_agrees_with_others(state_dir: Path) -> None:
    ours = {each.name: each.present for each in check.check(str(state_dir))}
    options = {"mnt": "mount"}
    for name, *_ in namespaces.NAMESPACES:
        assert ours[f"{name} namespace"] == works("unshare", f"--{options.get(name, name)}", "true"), name
    assert ours["overlayfs"] == ("\toverlay\n" in Path("/proc/filesystems").read_text())
    for kind in ("proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup2"):
        assert ours[f"mount of {kind}"] == (f"\t{kind}\n" in Path("/proc/filesystems").read_text()), kind
    release = tuple(map(int, os.uname().release.split(".")[:2]))
    assert ours["idmapped tmpfs"] == (release >= (6, 3))
    where = subprocess.run(["findmnt", "-nft", "cgroup2", "-o", "TARGET"], capture_output=True, text=True, check=True)
    controllers = Path(where.stdout.strip(), "cgroup.controllers").read_text().split()
    for name in ("memory", "cpu", "cpuset", "pids", "io"):
        assert ours[f"{name} controller"] == (name in controllers), name
    for name in ("catatonit", "bsdtar", "skopeo", "umoci", "mmdebstrap", "mkfs.ext4"):
        assert ours[name] == works("sh", "-c", f"command -v {name}"), name
    assert ours["libseccomp"] == works("sh", "-c", "ldconfig -p | grep -q libseccomp.so.2")
    assert ours["busybox-static"] != works("ldd", shutil.which("busybox") or "")
    for path in ("/dev/fuse", "/dev/net/tun", "/dev/loop-control"):
        assert ours[path] == works("sh", "-c", f": <>{path}"), path


# ---- each of them taken away ----------------------------------------------------------------------------------------


def test_each_facility_can_be_missing() -> None:
    assert TAKEN.keys() | ELSEWHERE == ROWS.keys()
    assert not TAKEN.keys() & ELSEWHERE


@pytest.mark.any_kernel
@pytest.mark.parametrize("name", TAKEN)
def test_without(state_dir: Path, name: str) -> None:
    if name == "root":
        state_dir.chmod(0o777)
    path = "/usr/bin:/bin" if name == "root" else None  # of who cannot look into ours
    each = look(state_dir, *TAKEN[name], path=path)[name]
    assert not each["present"] and each["why"]
    assert each["cure"] in lacking.cures(name)
    assert each["required"] == (ROWS[name].needed_by == ("every VE",))


@pytest.mark.any_kernel
@pytest.mark.parametrize("name", lacking.REFUSED.keys() - lacking.NOT_ALONE)
def test_nothing_else_is_missing_then(state_dir: Path, name: str) -> None:
    assert missing(state_dir, *lacking.without(name)) - missing(state_dir) <= {name}


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("before", "name", "cure"),
    [
        (none_of("uts"), "uts namespace", "sysctl user.max_uts_namespaces is 0 or used up: raise it"),
        (lacking.without("mount of mqueue"), "mount of mqueue", "use a kernel with CONFIG_POSIX_MQUEUE"),
        (lacking.without_capability("sys_admin"), "uts namespace", facilities._PRIVILEGED),
        (lacking.without("pivot_root"), "pivot_root", "boot from a disk: the root of an initramfs cannot be left"),
    ],
)
def test_the_cure_is_for_what_the_kernel_said(state_dir: Path, before: tuple[str, ...], name: str, cure: str) -> None:
    assert look(state_dir, *before)[name]["cure"] == cure


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("before", "name", "flags"),
    [
        ("mount -o bind,ro /proc/sys /proc/sys", "namespace limits", "--privileged or --security-opt unmask=all"),
        ("mount -o bind,ro CGROUP CGROUP", "cgroup2", "--privileged or --systemd=always"),
        (NO_DEVICE.replace("PATH", "/dev/fuse"), "/dev/fuse", "--device /dev/fuse"),
        ("cd STATE; mount -o bind,ro . .; cd /", "state directory", "-v ve:/var/lib/ve"),
    ],
)
def test_the_cure_is_a_flag_of_the_engine(state_dir: Path, before: str, name: str, flags: str) -> None:
    """podman's containers have that file, and this mount; what a kernel lacks is cured by no flag."""
    line = lacking.with_mounts(f"mount -t tmpfs none /run; touch /run/.containerenv; {MOUNTED}; {before}")
    assert look(state_dir, *line)[name]["cure"] == f"podman run {flags}"
    ours = look(state_dir, *line, *lacking.without("mount of mqueue"))["mount of mqueue"]
    assert ours["cure"] == "use a kernel with CONFIG_POSIX_MQUEUE"


@pytest.mark.any_kernel
@pytest.mark.parametrize("name", ["chown", "dac_override", "fowner", "setgid", "setuid", "setpcap", "sys_chroot"])
def test_a_root_without_a_capability(state_dir: Path, name: str) -> None:
    ours = look(state_dir, *lacking.without_capability(name))["full root"]
    assert not ours["present"] and name in ours["why"]


@pytest.mark.any_kernel
def test_what_profiles_need(state_dir: Path) -> None:
    assert look(state_dir)["/dev/fuse"]["needed_by"] == ["profile docker", "profile fuse"]


@pytest.mark.any_kernel
def test_the_options_that_a_controller_is_for(state_dir: Path) -> None:
    """Each limit that a controller keeps a VE to, by the files that it writes."""
    for row in facilities.CONTROLLERS:
        name = row.name.split()[0]
        asked = {word: VALUES.get(word, "5") for word in limits.NAMES if word not in ("swap", "memory", "processes")}
        kept = {f"--{word.replace('_', '-')}" for word in limits.of_controller(asked, name)}
        assert kept - set(row.needed_by) == set(), name
        assert name == "io" or {each for each in row.needed_by if each[2:] in asked} <= kept, name


@pytest.mark.any_kernel
def test_a_device_without_a_driver(state_dir: Path) -> None:
    script = "mount -t tmpfs none /mnt; mknod /mnt/fuse c 10 254; mount --bind /mnt/fuse /dev/fuse"
    assert "No such device" in look(state_dir, *lacking.with_mounts(script))["/dev/fuse"]["why"]


@pytest.mark.any_kernel
@pytest.mark.parametrize(("file", "text"), [("_SELINUX", "1"), ("_APPARMOR", "docker-default (enforce)\n")])
def test_a_security_module(
    state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str
) -> None:
    (tmp_path / "file").write_text(text)
    monkeypatch.setattr(check, file, str(tmp_path / "file"))
    [ours] = check.check(str(state_dir), ["no security module"])
    assert not ours.present and not ours.required


def test_without_cap_sys_admin(state_dir: Path) -> None:
    ours = found(state_dir, *lacking.without_capability("sys_admin"))
    assert {name for name in ADMIN if ours[name]} == set()
    assert ours["root"] and ours["memfd"] and ours["openat2"]


@pytest.mark.any_kernel
def test_as_nobody(state_dir: Path) -> None:
    ours = found(state_dir, *TAKEN["root"], path="/usr/bin:/bin")
    assert not ours["root"] and not ours["cgroup2"] and not ours["overlayfs"] and not ours["state directory"]


@pytest.mark.any_kernel
def test_a_state_directory_where_it_cannot_be(state_dir: Path) -> None:
    ours = found(state_dir / "m", *lacking.with_mounts(f"cd {state_dir}; mkdir m; mount -o bind,ro m m; cd /"))
    assert not ours["idmapped mounts"] and not ours["overlayfs"]
    assert ours["mount API"] and ours["cgroup2"]


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    "mount",
    [
        pytest.param("mkdir l u w m; mount -t overlay -o lowerdir=l,upperdir=u,workdir=w none m", id="overlay"),
        pytest.param("mkdir m; mount -t ramfs none m", id="ramfs"),
    ],
)
def test_a_state_directory_that_gets_a_file_system_of_its_own(state_dir: Path, mount: str) -> None:
    ours = found(state_dir / "m", *lacking.with_mounts(f"cd {state_dir}; {mount}; cd /"))
    assert ours["idmapped mounts"] and ours["overlayfs"] and not ours["fit state directory"]
    no_way = f"mount --bind /etc/hostname /dev/loop-control; PATH=/usr/bin:/bin; cd {state_dir}; {mount}; cd /"
    words = (
        sys.executable,
        lacking.__file__,
        "fsopen=ENOSYS",
        "--",
        *lacking.with_mounts(no_way.replace("mkdir ", "mkdir -p ")),
    )
    ours = found(state_dir / "m", *words)
    assert not ours["idmapped mounts"] and not ours["overlayfs"] and ours["fit state directory"]


@pytest.mark.any_kernel
def test_a_state_directory_that_is_not_there_yet_stays_away(state_dir: Path) -> None:
    assert found(state_dir / "not/yet")["overlayfs"]
    assert os.listdir(state_dir) == []


@pytest.mark.any_kernel
def test_without_programs(state_dir: Path, tmp_path: Path) -> None:
    ours = found(state_dir, path=str(tmp_path))
    assert not any(ours[row.name] for row in facilities.PROGRAMS)
    shutil.copy(shutil.which("ls") or "", tmp_path / "busybox")
    assert not found(state_dir, path=str(tmp_path))["busybox-static"]


def test_without_a_cgroup2(state_dir: Path) -> None:
    ours = found(state_dir, *TAKEN["cgroup2"])
    assert not ours["cgroup2"] and not ours["CLONE_INTO_CGROUP"] and not ours["device filter"]
    assert ours["overlayfs"]


# ---- nothing is left ------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_what_a_killed_check_left_goes_with_the_next(state_dir: Path) -> None:
    cgroup = cgroup_root() / f"{ground.NAME}left"
    left = state_dir / f".{ground.NAME}left"
    try:
        (cgroup / "below").mkdir(parents=True)
        (left / "upper").mkdir(parents=True)
        (left / "link").symlink_to("nowhere")
        assert found(state_dir)["overlayfs"]
        assert not left.exists() and not cgroup.exists()
    finally:
        for path in (cgroup / "below", cgroup):
            if path.exists():
                path.rmdir()


@pytest.mark.any_kernel
def test_what_another_check_uses_stays(state_dir: Path) -> None:
    other = ground.Ground(str(state_dir), str(state_dir), "")
    try:
        assert found(state_dir)["overlayfs"]
        assert Path(other.state()).is_dir() and Path(other.run()).is_dir()
    finally:
        other.clear()
        for fd in other._held:
            os.close(fd)


@pytest.mark.any_kernel
def test_no_process_outlives_it(state_dir: Path) -> None:
    """Killed while a child of it waits: that holds the pipe that we read, which comes to its end."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, state_dir],
        env={"PYTHONPATH": str(Path(check.__file__).parent.parent)},
        pass_fds=[writing],
    )
    os.close(writing)
    with open(reading, "rb") as file:
        assert process.wait() == -signal.SIGKILL
        assert select.select([file], [], [], 30)[0] and file.read() == b""
