"""What a VE is given of the host: --mount, --device, --env."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make


@pytest.fixture
def source(state_dir: Path) -> Path:
    """A directory of the host's, on a file system that can be idmapped."""
    (state_dir / "file").write_text("of the host\n")
    os.chown(state_dir / "file", 1000, 1001)
    return state_dir


def failed_start(host_dir: Path, env: "ve.Environment") -> str:
    """What the command says; nothing must have changed but mount points that were made."""
    with witness.nothing_changes(host_dir, but=f"private/{env.veid}/upper.*"):
        done = commandline.run(host_dir, "start", env.veid)
    assert done.returncode in (5, 20, 47) and not commandline.cgroup(host_dir, env.veid).exists()
    return done.stderr


# ---- --mount ---------------------------------------------------------------------------------------------------------


def test_a_directory_with_the_same_ids_on_both_sides(host_dir: Path, make: Make, source: Path) -> None:
    env = make(mounts=[f"{source}:/srv/data"])
    env.start()
    assert witness.shell(env, "cat /srv/data/file; stat -c %u:%g /srv/data/file") == "of the host\n1000:1001\n"
    witness.shell(env, "echo new >/srv/data/new; chown 33:44 /srv/data/new")
    new = (source / "new").stat()
    assert ((source / "new").read_text(), new.st_uid, new.st_gid) == ("new\n", 33, 44)
    [line] = [line for line in witness.mounts(witness.init(host_dir, env.veid)) if line.point == "/srv/data"]
    assert {"rw", "nosuid", "nodev"} <= line.options
    env.stop(fast=True)
    env.destroy()
    assert sorted(os.listdir(source)) == ["file", "new"]


def test_read_only_it_stays_so(host_dir: Path, make: Make, source: Path) -> None:
    env = make(mounts=[f"{source}:/srv:ro"])
    env.start()
    assert witness.shell(env, "cat /srv/file") == "of the host\n"
    for command in ("echo x >/srv/file", "mount -o remount,rw /srv", "mount -o remount,bind,rw /srv", "umount /srv"):
        witness.says_no(env, command)
    assert (source / "file").read_text() == "of the host\n"


def test_a_file_and_a_target_that_is_not_there(make: Make, source: Path) -> None:
    env = make(mounts=[f"{source}/file:/new/place/file", f"{source}:/another/new"])
    env.start()
    assert witness.shell(env, "cat /new/place/file /another/new/file") == "of the host\nof the host\n"
    assert witness.shell(env, "stat -c %u:%g /new /new/place") == "0:0\n0:0\n"


def test_no_setuid_and_no_devices(make: Make, source: Path) -> None:
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    env = make(mounts=[f"{source}:/srv"])
    env.start()
    assert "Permission denied" in witness.says_no(env, "cat /srv/null")


@pytest.mark.parametrize(
    "target",
    ["/link", *(pytest.param(path, marks=pytest.mark.any_kernel) for path in ("/link/deeper", "/up", "/loop/x"))],
)
def test_a_target_that_leads_out_stays_inside(
    host_dir: Path, make: Make, source: Path, tmp_path: Path, target: str
) -> None:
    """The VE has made links; the host's side of them must not be touched."""
    env = make(mounts=[f"{source}:{target}"])
    upper = host_dir / f"private/{env.veid}/upper"
    (upper / "link").symlink_to(tmp_path)
    (upper / "up").symlink_to("../../../../../../../.." + str(tmp_path))
    (upper / "loop").symlink_to("loop")
    if target == "/loop/x":
        assert "Too many levels" in failed_start(host_dir, env)
    else:
        done = commandline.run(host_dir, "start", env.veid)
        if done.returncode == 0:
            points = [line.point for line in witness.mounts(witness.init(host_dir, env.veid))]
            assert any(point.startswith(str(tmp_path)) for point in points)
        else:
            assert done.returncode == 20
    assert os.listdir(tmp_path) == []
    assert not [line for line in witness.mounts() if str(tmp_path) in line.point and line.point != str(tmp_path)]


@pytest.mark.any_kernel
@pytest.mark.parametrize("target", ["/run/x", "/dev/shm/x", "/proc/x", "/link/x"])
def test_a_target_that_a_start_would_hide_again(host_dir: Path, make: Make, source: Path, target: str) -> None:
    env = make(mounts=[f"{source}:{target}"])
    (host_dir / f"private/{env.veid}/upper/link").symlink_to("/run")
    assert "is mounted anew at each start, and would hide it" in failed_start(host_dir, env)


def test_what_is_mounted_below_the_source_is_not_given(host_dir: Path, make: Make, source: Path) -> None:
    other = make()
    env = make(mounts=[f"{host_dir}/root:/srv"])
    other.mount()
    env.start()
    assert witness.shell(env, f"ls /srv/{other.veid}") == ""
    other.umount()


@pytest.mark.any_kernel
def test_a_source_that_has_gone(host_dir: Path, make: Make, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    env = make(mounts=[f"{tmp_path}/gone:/srv"])
    (tmp_path / "gone").rmdir()
    said = failed_start(host_dir, env)
    what = f"cannot mount {tmp_path}/gone at /srv in the VE: No such file or directory"
    assert said.splitlines() == [
        f"ve: cannot start {env.veid}: given: {what}",
        "hint: make it on the host, or give another --mount",
    ]


def test_a_source_that_cannot_be_idmapped(host_dir: Path, make: Make) -> None:
    env = make(mounts=["/proc/sys:/srv"])
    said = failed_start(host_dir, env)
    assert "cannot mount /proc/sys at /srv in the VE: its file system has no idmapped mounts" in said
    assert "hint: " in said


@pytest.mark.any_kernel
def test_they_are_shown(host_dir: Path, make: Make, source: Path) -> None:
    env = make(mounts=[f"{source}:/srv:ro"], devices=["/dev/fuse"], env={"A": "b"})
    shown = commandline.output(host_dir, "status", env.veid).splitlines()
    assert {f"mounts: {source}:/srv:ro", "devices: /dev/fuse", "env: A=b"} <= set(shown)


def test_an_ephemeral_ve_gets_them_too(host: "ve.Host", source: Path) -> None:
    with host.ephemeral("busybox", mounts=[f"{source}:/srv:ro"], env={"A": "b"}, devices=["/dev/fuse"]) as env:
        assert witness.shell(env, "cat /srv/file; echo $A; stat -c %F /dev/fuse") == (
            "of the host\nb\ncharacter special file\n"
        )


# ---- --device --------------------------------------------------------------------------------------------------------


def test_a_device_is_the_host_s(make: Make) -> None:
    env = make(
        devices=["/dev/loop-control", "/dev/cpu/0/cpuid"] if Path("/dev/cpu/0/cpuid").exists() else ["/dev/fuse"]
    )
    env.start()
    for path in env.config.devices:
        host = os.stat(path)
        shown = witness.shell(env, f"stat -c '%t:%T %u:%g %a' {path}").split()
        assert shown[0] == f"{os.major(host.st_rdev):x}:{os.minor(host.st_rdev):x}"
        assert shown[1:] == ["0:0", f"{stat.S_IMODE(host.st_mode):o}"]


def test_a_device_works(make: Make) -> None:
    env = make(devices=["/dev/fuse"])
    env.start()
    witness.shell(env, "exec 3<>/dev/fuse")


def test_what_was_not_given_is_not_there(make: Make) -> None:
    env = make()
    env.start()
    assert witness.shell(env, "ls /dev/fuse /dev/loop-control /dev/kmsg 2>/dev/null; true") == ""


@pytest.mark.any_kernel
def test_a_device_that_has_gone(host_dir: Path, make: Make) -> None:
    env = make()
    conf = host_dir / f"conf/{env.veid}.toml"
    conf.write_text(conf.read_text() + 'devices = ["/dev/no-such"]\n')  # as if a driver had been unloaded
    said = failed_start(host_dir, env).splitlines()
    what = "device filter: cannot give device /dev/no-such to the VE: No such file or directory"
    assert said[0] == f"ve: cannot start {env.veid}: {what}"
    assert said[1].startswith("hint: ")


# ---- what the host lacks ---------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--mount=/no/such:/srv", "cannot mount /no/such at /srv in the VE: No such file or directory"),
        ("--device=/dev/no-such", "cannot give device /dev/no-such to the VE: No such file or directory"),
        ("--device=/dev/shm", "cannot give device /dev/shm to the VE: it is not a device"),
    ],
)
def test_what_the_host_lacks_is_refused_at_once(
    host_dir: Path, veid: int, make: Make, option: str, sentence: str
) -> None:
    env = make()
    with witness.nothing_changes(host_dir):
        assert witness.refused(host_dir, 20, sentence, "create", veid, "--template", "busybox", option)
        assert witness.refused(host_dir, 20, sentence, "set", env.veid, "--save", option)
        assert witness.refused(host_dir, 125, sentence, "run", "busybox", option, "--", "true")


@pytest.mark.any_kernel
def test_a_device_that_is_mistyped(host_dir: Path, veid: int) -> None:
    sentence = "cannot give device /dev/fues to the VE: No such file or directory"
    hint = witness.refused(host_dir, 20, sentence, "create", veid, "--template", "busybox", "--device=/dev/fues")
    assert hint == "did you mean /dev/fuse?"


# ---- --env -----------------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_variables_are_init_s_and_every_command_s(host_dir: Path, make: Make) -> None:
    value = "with = and 'quotes' and\nlines"
    env = make(env={"COLOUR": "red", "ODD": value, "PATH": "/bin:/usr/bin"})
    env.start()
    environ = Path(f"/proc/{witness.init(host_dir, env.veid)}/environ").read_bytes().split(b"\0")
    assert {b"COLOUR=red", b"ODD=" + value.encode(), b"PATH=/bin:/usr/bin", b"container=ve"} <= set(environ)
    assert witness.shell(env, 'echo "$COLOUR $ODD $PATH"') == f"red {value} /bin:/usr/bin\n"


@pytest.mark.any_kernel
def test_nothing_of_our_own_environment_gets_in(host_dir: Path, make: Make) -> None:
    env = make()
    line = [*commandline.words(host_dir, "start", env.veid)]
    subprocess.run(line, env={**os.environ, "SECRET": "x", "LD_PRELOAD": ""}, check=True, stderr=subprocess.DEVNULL)
    environ = Path(f"/proc/{witness.init(host_dir, env.veid)}/environ").read_bytes()
    assert b"SECRET" not in environ and b"LD_PRELOAD" not in environ
    assert "SECRET" not in witness.shell(env, "env")
