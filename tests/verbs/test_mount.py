"""ve mount and ve umount: a VE's root shown to the host."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import ve
from tests import conftest
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import errors


def shown_at(point: Path) -> list[witness.MountLine]:
    return [line for line in witness.mounts() if line.point == str(point)]


def test_of_a_stopped_one_it_can_be_written(host_dir: Path, make: Make) -> None:
    env = make()
    upper, point = host_dir / f"private/{env.veid}/upper", host_dir / f"root/{env.veid}"
    (upper / "mine").write_text("mine")
    assert commandline.output(host_dir, "mount", env.veid) == f"{point}\n"
    [line] = shown_at(point)
    assert line.kind == "overlay" and {"rw", "nodev"} <= line.options
    assert (point / "mine").read_text() == "mine"
    assert (point / "etc/inittab").exists()
    (point / "new").write_text("new")
    os.chown(point / "new", 1000, 1001)
    (point / "etc/shells").unlink()
    assert commandline.run(host_dir, "umount", env.veid).returncode == 0
    assert shown_at(point) == [] and os.listdir(point) == []
    new = (upper / "new").stat()
    assert ((upper / "new").read_text(), new.st_uid, new.st_gid) == ("new", 1000, 1001)
    env.start()
    assert witness.shell(env, "cat /new; stat -c %u:%g /new; ls /etc/shells 2>/dev/null; true") == "new1000:1001\n"


def test_of_a_running_one_it_is_its_own_mount_and_read_only(host_dir: Path, make: Make) -> None:
    """A second overlay on its upper would corrupt it."""
    env = make()
    env.start()
    before = witness.mounts(witness.init(host_dir, env.veid))
    point = Path(env.mount())
    [top] = shown_at(point)
    [root] = [line for line in before if line.point == "/"]
    assert top.device == root.device and "ro" in top.options
    witness.shell(env, "echo later >/later; chown 1000 /later; mount -t tmpfs afterwards /mnt")
    assert "afterwards" not in {line.source for line in witness.mounts()}
    witness.shell(env, "umount /mnt")
    base = witness.base(witness.init(host_dir, env.veid))
    assert (point / "later").read_text() == "later\n" and (point / "later").stat().st_uid == base + 1000
    with pytest.raises(OSError, match="Read-only"):
        (point / "new").touch()
    assert all("ro" in line.options for line in witness.mounts() if line.point.startswith(str(point)))
    assert witness.mounts(witness.init(host_dir, env.veid)) == before
    env.umount()
    assert not [line for line in witness.mounts() if line.point.startswith(str(point))]
    assert witness.shell(env, "echo more >>/later && cat /later") == "later\nmore\n"


@pytest.mark.any_kernel
def test_it_shows_in_list_and_status(host_dir: Path, make: Make) -> None:
    env = make()
    env.mount()
    assert commandline.output(host_dir, "list", "-H", "-o", "veid,status") == f"{env.veid}  mounted\n"
    env.umount()
    assert commandline.output(host_dir, "list", "-H", "-o", "veid,status") == f"{env.veid}  stopped\n"


@pytest.mark.any_kernel
@pytest.mark.parametrize("running", [False, True])
def test_twice(host_dir: Path, make: Make, running: bool) -> None:
    env = make()
    if running:
        env.start()
    point = env.mount()
    sentence = f"cannot mount {env.veid}: it is mounted at {point}"
    witness.refused(host_dir, 41, sentence, "mount", env.veid)
    assert len(shown_at(Path(point))) == 1
    env.umount()


@pytest.mark.any_kernel
def test_umount_of_one_that_is_not_mounted(host_dir: Path, make: Make) -> None:
    env = make()
    with witness.nothing_changes(host_dir):
        witness.refused(host_dir, 40, f"cannot unmount {env.veid}: it is not mounted", "umount", env.veid)


@pytest.mark.any_kernel
@pytest.mark.parametrize("running", [False, True])
def test_umount_names_who_uses_it(host_dir: Path, make: Make, running: bool) -> None:
    env = make()
    if running:
        env.start()
    point = env.mount()
    with (
        subprocess.Popen(["cat"], cwd=f"{point}/etc", stdin=subprocess.PIPE) as sits,
        open(f"{point}/etc/inittab") as opened,
        subprocess.Popen(["tail", "-f", "-"], stdin=opened, stdout=subprocess.PIPE) as reads,
    ):
        opened.close()
        done = commandline.run(host_dir, "umount", env.veid)
        assert done.returncode == 51
        assert f"process {sits.pid} (cat)" in done.stderr and f"process {reads.pid} (tail)" in done.stderr
        assert shown_at(Path(point))
        sits.communicate()
        reads.kill()
    env.umount()
    assert shown_at(Path(point)) == []


@pytest.mark.any_kernel
def test_umount_does_not_name_itself(host_dir: Path, make: Make) -> None:
    """Who calls it from there is what keeps it from being unmounted."""
    env = make()
    point = env.mount()
    line = " ".join(map(str, commandline.words(host_dir, "umount", env.veid)))
    done = subprocess.run(["sh", "-c", f"{line}; exit $?"], cwd=f"{point}/etc", capture_output=True, text=True)
    [told] = re.findall(r"process [^,]* uses .*", done.stderr)
    assert done.returncode == 51 and re.fullmatch(rf"process \d+ \(sh\) uses {point}", told), done.stderr
    done = subprocess.run(commandline.words(host_dir, "umount", env.veid), cwd=point, capture_output=True, text=True)
    assert done.stderr.startswith(f"ve: cannot unmount {env.veid}: this process itself uses {point}\n")
    env.umount()


@pytest.mark.parametrize("running", [False, True])
def test_nothing_in_it_is_a_device_or_privileged(host_dir: Path, make: Make, running: bool) -> None:
    """The VE's root can make what it likes setuid; on the host that would be a way to another user's rights."""
    env = make()
    upper = host_dir / f"private/{env.veid}/upper"
    os.mknod(upper / "null", 0o20666, os.makedev(1, 3))
    shutil.copy("/usr/bin/id", upper / "id")
    os.chmod(upper / "id", 0o4755)
    assert whoever_runs(upper / "id") == "0"
    if running:
        env.start()
    point = env.mount()
    assert whoever_runs(Path(point, "id")) == "65534"
    for device in ("null", "dev/null")[: 1 + running]:
        with pytest.raises(PermissionError):
            open(f"{point}/{device}").close()
    assert all({"nosuid", "nodev"} <= line.options for line in witness.mounts() if line.point.startswith(point))
    env.umount()


def whoever_runs(program: Path) -> str:
    """The effective user id that a program has when somebody without any right executes it, by whatever way."""
    fd = os.open(program, os.O_PATH)
    try:
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"/proc/self/fd/{fd}", "-u"]
        return subprocess.check_output(command, pass_fds=[fd], text=True).strip()
    finally:
        os.close(fd)


def test_a_mount_that_fails_leaves_none(host_dir: Path, make: Make) -> None:
    env = make()
    work = host_dir / f"private/{env.veid}/work"
    work.rmdir()
    work.touch()
    with witness.nothing_changes(host_dir):
        assert commandline.run(host_dir, "mount", env.veid).returncode != 0
    work.unlink()
    env.mount()
    env.umount()


@pytest.mark.any_kernel
@pytest.mark.parametrize("name", ["müller 世界", "a:b,c\\d\te", "a\\040b", "l" * 255])
def test_a_state_dir_with_any_name(tmp_path: Path, host: "ve.Host", name: str) -> None:
    """Overlayfs takes colons, commas and backslashes in its options apart, and mountinfo writes them in octal.

    fsconfig(2) takes 255 bytes.
    """
    state_dir = conftest._new_state_dir(tmp_path)
    odd = state_dir.rename(tmp_path / name)
    (tmp_path / "file").write_text("given")
    there = ve.Host(odd)
    there.templates.add("busybox", host.templates.get("busybox").path)
    env = there.create(101, template="busybox")
    for started in (False, True):
        if started:
            env.start()
        env.copy_in(str(tmp_path / "file"), "/etc/given")
        point = Path(env.mount())
        assert env.status == ("running" if started else "mounted")
        assert (point / "etc/given").read_text() == "given"
        with pytest.raises(errors.Mounted):
            env.mount()
        env.umount()
    env.stop(fast=True)
    env.destroy()
    conftest._forget_state_dir(odd)
