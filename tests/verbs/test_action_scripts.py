"""vzctl's action scripts: programs of the host's at each turn of a VE's life, which may say no."""

import os
import subprocess
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import actions, errors

ACTIONS = ("premount", "mount", "start", "stop", "umount", "postumount")


def put(host_dir: Path, who: int | str, action: str, script: str, mode: int = 0o755) -> Path:
    path = host_dir / f"conf/{who}.{action}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(mode)
    return path


@pytest.fixture
def env(host_dir: Path, make: Make) -> "ve.Environment":
    return make(hostname="red")


@pytest.fixture(autouse=True)
def no_script_stays(host_dir: Path, env: "ve.Environment", make: Make) -> object:
    yield
    for path in (host_dir / "conf").iterdir():
        if path.suffix.removeprefix(".") in ACTIONS:
            path.unlink()


@pytest.mark.any_kernel
def test_each_at_its_turn_that_of_all_ves_first(host_dir: Path, env: "ve.Environment", tmp_path: Path) -> None:
    for action in ACTIONS:
        for who in ("ve", env.veid):
            put(host_dir, who, action, f'echo "{action} {who} $VEID" >>{tmp_path}/told')
    (tmp_path / "told").touch()
    told = []
    for verb in (env.start, env.stop, env.mount, env.umount):
        (tmp_path / "told").write_text("")
        if verb == env.stop:
            env.stop(fast=True)
        else:
            verb()
        lines = (tmp_path / "told").read_text().splitlines()
        told.append([line.split()[0] for line in lines[::2]])
        assert [line.split()[1] for line in lines] == ["ve", str(env.veid)] * (len(lines) // 2)
        assert {line.split()[2] for line in lines} == {str(env.veid)}
    assert told[:2] == [["premount", "mount", "start"], ["stop", "umount", "postumount"]]
    assert told[2:] == [["premount", "mount"], ["umount", "postumount"]]


def test_the_root_that_they_are_given(host_dir: Path, env: "ve.Environment", tmp_path: Path) -> None:
    """mount sees the VE's files before its init runs and may mount there; start and stop see the running VE's."""
    mount = f"ls $VE_ROOT/etc/inittab >{tmp_path}/mount && mount -t tmpfs none $VE_ROOT/mnt"
    put(host_dir, env.veid, "mount", mount)
    put(host_dir, env.veid, "start", f"ls $VE_ROOT/etc/inittab >{tmp_path}/start")
    put(host_dir, env.veid, "stop", f"cat $VE_ROOT/etc/colour >{tmp_path}/stop")
    env.start()
    assert (tmp_path / "mount").read_text().endswith("/etc/inittab\n")
    assert (tmp_path / "start").read_text().startswith("/proc/")
    lines = witness.mounts(witness.init(host_dir, env.veid))
    assert [line.kind for line in lines if line.point == "/mnt"] == ["tmpfs"]
    witness.says_no(env, "umount /mnt")  # locked, as all that was there before the VE's own mount namespace
    witness.shell(env, "echo red >/etc/colour")
    env.stop(fast=True)
    assert (tmp_path / "stop").read_text() == "red\n"


@pytest.mark.any_kernel
@pytest.mark.parametrize(("action", "code"), [("premount", 79), ("mount", 79), ("start", 79)])
def test_one_that_says_no_fails_the_start(host_dir: Path, env: "ve.Environment", action: str, code: int) -> None:
    path = put(host_dir, env.veid, action, "echo I say no >&2; exit 3")
    with witness.nothing_changes(host_dir):
        done = commandline.run(host_dir, "start", env.veid)
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    assert "I say no" in lines
    assert [line for line in lines if line.startswith("ve: cannot ") and f"{path} ended with 3" in line]
    assert not commandline.cgroup(host_dir, env.veid).exists()
    path.unlink()
    env.start()


@pytest.mark.any_kernel
def test_a_slow_one_ends_with_the_command(host_dir: Path, env: "ve.Environment", tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    path = put(host_dir, env.veid, "mount", f"echo $$ >{tmp_path}/pid; exec sleep 1000")
    start = commandline.start(host_dir, "start", env.veid)
    with commandline.watched(int((tmp_path / "pid").read_text())) as script:
        commandline.kill(start)
        assert commandline.has_ended(script)
    path.unlink()
    env.start()


@pytest.mark.any_kernel
def test_one_sees_the_other_ves_as_they_are(host_dir: Path, env: "ve.Environment", make: Make, tmp_path: Path) -> None:
    """Where setup has its mounts, the run dir must still be the host's."""
    other = make()
    other.start()
    ve_list = " ".join(map(str, commandline.words(host_dir, "list", "-H", "-o", "veid,status")))
    put(host_dir, env.veid, "mount", f"{ve_list} >{tmp_path}/list")
    env.start()
    assert f"{other.veid}running" in "".join((tmp_path / "list").read_text().split())


@pytest.mark.any_kernel
def test_one_that_says_no_to_a_stop_is_told_of_when_it_is_stopped(
    host_dir: Path, env: "ve.Environment", tmp_path: Path
) -> None:
    """A broken script makes no VE that nobody can stop, not even the host that goes down."""
    env.start()
    path = put(host_dir, env.veid, "stop", "exit 3")
    put(host_dir, env.veid, "postumount", f"touch {tmp_path}/told")
    done = commandline.run(host_dir, "stop", "--fast", env.veid)
    assert done.returncode == 79 and f"{path} ended with 3" in done.stderr
    assert env.status == "stopped" and (tmp_path / "told").exists()


@pytest.mark.any_kernel
@pytest.mark.parametrize("action", ["stop", "umount", "postumount"])
def test_one_that_never_ends_holds_up_no_stop(
    host_dir: Path, env: "ve.Environment", tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setattr(actions, "_PATIENCE", 0.5)
    env.start()
    path = put(host_dir, env.veid, action, f"echo $$ >{tmp_path}/pid; exec sleep 1000")
    with pytest.raises(errors.ActionFailed, match=f"{path} had not ended after"):
        env.stop(fast=True)
    assert not commandline.cgroup(host_dir, env.veid).exists()
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_start_that_unmounts_first(host_dir: Path, env: "ve.Environment", tmp_path: Path) -> None:
    """What `ve mount` began is ended, as by `ve umount`."""
    for action in ACTIONS:
        put(host_dir, env.veid, action, f"echo {action} >>{tmp_path}/told")
    env.mount()
    env.start()
    told = (tmp_path / "told").read_text().split()
    assert told == ["premount", "mount", "umount", "postumount", "premount", "mount", "start"]


def test_what_a_running_one_showed_is_unmounted_without(host_dir: Path, env: "ve.Environment", tmp_path: Path) -> None:
    """As it was mounted without; also when the VE has ended meanwhile."""
    env.start()
    env.mount()
    env.stop(fast=True)
    assert env.status == "mounted"
    for action in ACTIONS:
        put(host_dir, env.veid, action, f"echo {action} >>{tmp_path}/told")
    env.umount()
    assert not (tmp_path / "told").exists()


@pytest.mark.any_kernel
@pytest.mark.parametrize("action", ["umount", "postumount"])
def test_one_that_fails_when_it_has_ended_changes_nothing_of_that(
    host_dir: Path, env: "ve.Environment", action: str
) -> None:
    env.start()
    put(host_dir, env.veid, action, "exit 3")
    with pytest.raises(errors.ActionFailed):
        env.stop(fast=True)
    assert not commandline.cgroup(host_dir, env.veid).exists()
    assert not (host_dir / f"run/{env.veid}").exists()


@pytest.mark.any_kernel
def test_one_that_is_not_executable_is_none(host_dir: Path, env: "ve.Environment") -> None:
    put(host_dir, env.veid, "start", "exit 3", mode=0o644)
    env.start()


@pytest.mark.any_kernel
@pytest.mark.parametrize("action", ["premount", "mount", "start"])
@pytest.mark.parametrize(
    ("text", "why", "cure"),
    [
        ("true\n", "Exec format error", "its first line must name its interpreter, as #!/bin/sh does"),
        ("#!/no/such\n", "No such file or directory", "the interpreter that its first line names is not there"),
    ],
)
def test_one_that_cannot_be_executed(
    host_dir: Path, env: "ve.Environment", action: str, text: str, why: str, cure: str
) -> None:
    path = put(host_dir, env.veid, action, "")
    path.write_text(text)
    done = commandline.run(host_dir, "start", env.veid)
    assert done.returncode == 79
    said, hint = done.stderr.splitlines()
    assert said.startswith("ve: cannot ") and said.endswith(f"cannot run {path} of {env.veid}: {why}")
    assert hint == f"hint: {cure}"


@pytest.mark.any_kernel
@pytest.mark.parametrize("action", ["premount", "mount", "start"])
def test_one_that_wants_to_change_its_own_ve_is_refused_at_once(
    host_dir: Path, env: "ve.Environment", action: str, tmp_path: Path
) -> None:
    """The command that it would wait for waits for it."""
    change = " ".join(map(str, commandline.words(host_dir, "set", env.veid, "--onboot", "--save")))
    put(host_dir, env.veid, action, f"{change} 2>{tmp_path}/said; echo $? >>{tmp_path}/said")
    start = commandline.start(host_dir, "start", env.veid)
    assert start.wait() == 0
    said, hint, code = (tmp_path / "said").read_text().splitlines()
    who = f"process {start.pid} (ve"
    assert said.startswith(f"ve: cannot lock {env.veid}: {who}")
    assert said.endswith(") works on it, and waits for this action script")
    assert hint.startswith("hint: ") and code == "9"


def test_a_start_script_brings_files(host_dir: Path, env: "ve.Environment", tmp_path: Path) -> None:
    """They belong to the VE's root, and are there before its init runs."""
    (tmp_path / "inittab").write_text("::sysinit:/bin/echo from the script\n")
    copy = " ".join(map(str, commandline.words(host_dir, "cp", tmp_path / "inittab", f"{env.veid}:/etc/inittab")))
    put(host_dir, env.veid, "start", copy)
    env.start()
    assert witness.shell(env, "stat -c %u:%g /etc/inittab") == "0:0\n"
    with commandline.start(host_dir, "logs", "-f", env.veid, stdout=subprocess.PIPE) as logs:
        assert logs.stdout and logs.stdout.readline() == b"from the script\n"
        logs.kill()
