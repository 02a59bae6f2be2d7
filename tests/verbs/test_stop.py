"""ve stop: by the VE's own shutdown, else by a kill, and nothing stays."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import errors

DEAF = "#!/bin/sh\ntrap '' TERM INT HUP QUIT USR1 USR2 PWR\nwhile :; do sleep 1000; done\n"
FAREWELL = '#!/bin/sh\ntest "$1" = stop && echo farewell >/farewell\n'


def with_script(host_dir: Path, env: "ve.Environment", path: str, text: str) -> None:
    """Put a program into a VE that does not run."""
    script = host_dir / f"private/{env.veid}/upper/{path}"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(text)
    script.chmod(0o755)


def assert_gone(host_dir: Path, veid: int) -> None:
    assert not commandline.cgroup(host_dir, veid).exists()
    assert not (host_dir / f"run/{veid}").exists()
    assert not any(str(veid) in line.point for line in witness.mounts())


@pytest.fixture
def deaf(host_dir: Path, make: Make) -> "ve.Environment":
    """Runs an init that ignores every signal it can."""
    env = make()
    with_script(host_dir, env, "sbin/init", DEAF)
    env.start()
    return env


def test_its_own_shutdown_ends_it(host_dir: Path, make: Make) -> None:
    env = make()
    with_script(host_dir, env, "etc/init.d/S50farewell", FAREWELL)
    witness.tell_when_booted(host_dir, env.veid)
    env.start()
    witness.wait_until_booted(host_dir, env.veid)
    with commandline.watched(witness.init(host_dir, env.veid)) as ended:
        done = commandline.run(host_dir, "stop", env.veid)
        assert commandline.has_ended(ended, 0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{env.veid} is stopped\n")
    assert (host_dir / f"private/{env.veid}/upper/farewell").read_text() == "farewell\n"
    assert_gone(host_dir, env.veid)


def test_a_stop_right_after_the_start_is_heard(host_dir: Path, make: Make) -> None:
    """An init drops signals that it is not ready for; it is asked again."""
    env = make()
    env.start()
    assert env.stop() is True
    assert_gone(host_dir, env.veid)


def test_at_the_deadline_it_is_killed(host_dir: Path, deaf: "ve.Environment") -> None:
    with commandline.watched(witness.init(host_dir, deaf.veid)) as ended:
        done = commandline.run(host_dir, "stop", "--timeout", "0.2", deaf.veid)
        assert commandline.has_ended(ended, 0)
    late = "is stopped by a kill, as its own shutdown took too long"
    assert (done.returncode, done.stderr) == (0, f"{deaf.veid} {late}\n")
    assert_gone(host_dir, deaf.veid)


def test_fast_asks_nobody(host_dir: Path, make: Make) -> None:
    env = make()
    with_script(host_dir, env, "etc/init.d/S50farewell", FAREWELL)
    witness.tell_when_booted(host_dir, env.veid)
    env.start()
    witness.wait_until_booted(host_dir, env.veid)
    assert env.stop(fast=True) is False
    assert not (host_dir / f"private/{env.veid}/upper/farewell").exists()
    assert_gone(host_dir, env.veid)


def test_a_frozen_one_shuts_down_in_order(host_dir: Path, make: Make) -> None:
    env = make()
    witness.tell_when_booted(host_dir, env.veid)
    env.start()
    witness.wait_until_booted(host_dir, env.veid)
    env.freeze()
    assert "frozen 1" in (commandline.cgroup(host_dir, env.veid) / "cgroup.events").read_text()
    assert env.stop() is True
    assert_gone(host_dir, env.veid)


def test_a_frozen_one_is_killed(host_dir: Path, deaf: "ve.Environment") -> None:
    deaf.freeze()
    assert deaf.stop(fast=True) is False
    assert_gone(host_dir, deaf.veid)


def test_on_a_state_dir_that_has_become_read_only(host_dir: Path, make: Make) -> None:
    """No VE must run on for that; what cannot be written then is seen to by the next command that can."""
    env, other = make(), make()
    before = witness.read_only(host_dir)

    def ve_(*words: commandline.Word) -> str:
        done = commandline.run(host_dir, *words, before=before)
        assert done.returncode == 0, done
        return str(done.stdout)

    for each in (env, other):
        each.start()
    ve_("freeze", other.veid)
    assert ve_("list", "-H", "-o", "status").split() == ["running", "frozen"]
    ve_("thaw", other.veid)
    ve_("freeze", other.veid)
    with contextlib.ExitStack() as held:
        inits = [held.enter_context(commandline.watched(witness.init(host_dir, each.veid))) for each in (env, other)]
        for refused in ("reset", "destroy"):
            why = f"cannot write the state dir {host_dir}: Read-only file system"
            assert "as root" not in witness.refused(host_dir, 5, why, refused, env.veid, before=before)
        assert not commandline.has_ended(inits[0], 0)
        ve_("stop", "--fast", env.veid)
        ve_("stop", other.veid)
        assert all(commandline.has_ended(init, 0) for init in inits)
    assert ve_("list", "-H", "-o", "status").split() == ["stopped", "stopped"]
    for each in (env, other):
        each.start()
        each.stop(fast=True)
        assert_gone(host_dir, each.veid)


def test_one_that_is_gone_from_a_state_dir_that_has_become_read_only(host_dir: Path, make: Make) -> None:
    script = """
import sys, ve
from ve import errors, state
env = ve.Host(sys.argv[1]).get(int(sys.argv[2]))
state.State.exists = lambda *_: False  # it was destroyed while we waited
try:
    env.stop()
except errors.NotFound as error:
    print(error)
"""
    env = make()
    with witness.python(script, host_dir, env.veid, before=witness.read_only(host_dir)) as program:
        assert program.communicate() == (f"cannot find VE {env.veid}: there is none\n", "")


@pytest.mark.parametrize("missing", ["lock/{veid}", "lock"])
def test_where_there_is_no_lock_no_hint_sends_to_stop(host_dir: Path, make: Make, missing: str) -> None:
    env = make()
    (host_dir / "run" / missing.format(veid=env.veid)).rename(host_dir / "moved")
    try:
        for verb in ("stop", "freeze", "thaw"):
            why = f"cannot write the state dir {host_dir}: Read-only file system"
            hint = witness.refused(host_dir, 5, why, verb, env.veid, before=witness.read_only(host_dir))
            assert hint == "if an error made it so, dmesg tells of it"
    finally:
        (host_dir / "moved").rename(host_dir / "run" / missing.format(veid=env.veid))


def test_what_runs_from_outside_ends_with_it(host_dir: Path, make: Make) -> None:
    """Commands, and daemons that commands left, in cgroups that the VE has made."""
    env = make()
    env.start()
    stray = "echo 0 >/sys/fs/cgroup/a/b/cgroup.procs; trap '' TERM HUP; exec sleep 9999"
    witness.shell(env, f'mkdir -p /sys/fs/cgroup/a/b; sh -c "{stray}" </dev/null >/dev/null 2>&1 &')
    witness.shell(env, "setsid sleep 9998 </dev/null >/dev/null 2>&1 &")
    with env.popen(["sh", "-c", "trap '' TERM HUP; echo ready; sleep 9997; true"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        watched = [os.pidfd_open(pid) for pid in commandline.processes(host_dir, env.veid).values()]
        env.stop(fast=True)
        assert process.wait() == -signal.SIGKILL
    assert len(watched) >= 4
    assert all(commandline.has_ended(pidfd, 0) for pidfd in watched)
    for pidfd in watched:
        os.close(pidfd)
    assert_gone(host_dir, env.veid)


def test_one_whose_root_is_shown(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    point = env.mount()
    env.stop(fast=True)
    assert any(line.point == point for line in witness.mounts())
    assert commandline.output(host_dir, "list", "-H", "-o", "veid,status") == f"{env.veid}  mounted\n"
    env.start()
    assert not any(line.point == point for line in witness.mounts())


@pytest.mark.any_kernel
def test_one_that_is_stopped(host_dir: Path, make: Make) -> None:
    env = make()
    sentence = f"cannot stop {env.veid}: it is not running"
    with witness.nothing_changes(host_dir):
        assert witness.refused(host_dir, 31, sentence, "stop", env.veid) == "ve list shows which run"


def test_one_that_has_ended_by_itself(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    with commandline.watched(witness.init(host_dir, env.veid)) as ended:
        signal.pidfd_send_signal(ended, signal.SIGKILL)
        assert commandline.has_ended(ended)
    with pytest.raises(errors.NotRunning):
        env.stop()
    env.destroy()
    assert witness.left_of(host_dir, env.veid) == []


def test_a_killed_stop_is_finished_by_the_next_verb(host_dir: Path, make: Make) -> None:
    """Killed when the VE has ended and what is left of it has not been cleared away."""
    env = make()
    env.start()
    script = """
import os, signal, sys, ve
from ve import cgroups
cgroups.remove = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
ve.Host(sys.argv[1]).get(int(sys.argv[2])).stop(fast=True)
"""
    with witness.python(script, host_dir, env.veid) as process:
        process.communicate()
    assert process.returncode == -9
    assert commandline.cgroup(host_dir, env.veid).exists()
    assert commandline.output(host_dir, "list", "-H", "-o", "veid,status") == f"{env.veid}  stopped\n"
    env.start()
    env.stop(fast=True)
    assert_gone(host_dir, env.veid)


@pytest.mark.any_kernel
def test_a_log_is_kept_and_cut(host_dir: Path, make: Make) -> None:
    env = make()
    with_script(host_dir, env, "sbin/init", "#!/bin/sh\necho said; exec /bin/busybox init\n")
    env.start()
    assert any(b"said" in chunk for chunk in env.log_chunks(follow=True))  # it has been executed, not yet run, by now
    env.stop(fast=True)
    log = host_dir / f"private/{env.veid}/log"
    assert log.read_text().startswith("said\n")
    os.truncate(log, 3 << 20)
    env.start()
    assert log.stat().st_size <= (1 << 20) + 100


@pytest.mark.parametrize("name", ["d", "z" * 200])
def test_cgroups_that_the_ve_has_nested_go_too(host_dir: Path, make: Make, name: str) -> None:
    """Deeper than a walk by recursion goes, and than a path that the kernel takes; a process at their end is seen."""
    env = make()
    env.start()
    nest = f"while [ $i -lt 1100 ] && mkdir {name} && cd ./{name}; do i=$((i+1)); done"
    leave = "sleep 1000 >/dev/null 2>&1 & echo $! >cgroup.procs; echo $!"
    script = f"cd /sys/fs/cgroup; i=0; {nest} 2>/dev/null; {leave}"
    inside = env.run(["sh", "-c", script], login=True, check=True, capture_output=True).stdout
    assert int(inside) in [process.pid for process in ve.Host(host_dir).ps() if process.veid == env.veid]
    env.stop(fast=True)
    assert not commandline.cgroup(host_dir, env.veid).exists()
    env.start()
