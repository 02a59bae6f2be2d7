"""ve start, failed and killed at each of its steps: nothing is left that matters, and the next start works.

VE_FAULT=STEP:error makes a step fail, STEP:kill ends the process that is about to take it by SIGKILL.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import errors, init, launch, setup

pytestmark = pytest.mark.any_kernel  # seen on 6.1 and 6.12; what is ours in it is the same on every kernel


# What launch waits for while init fails or is killed there: setup, which then misses it, tells first.
TOLD_BY = {"root_is_ready": "protected_mounts"}
OF_NETWORK = (*launch.OF_NETWORK, init.names)  # see test_address_faults.py
RARE = (setup.stay, setup.inner_state, *OF_NETWORK)  # not taken here
NEAR = [step.__name__ for step in (*launch.BEFORE, *launch.MEANWHILE, *launch.AFTER) if step not in RARE]
FAR = [step.__name__ for step in (*setup.SETUP, *init.INIT) if step not in RARE]
# Which of them a stock kernel is asked for, too: one of each kind of thing that the kernel must undo.
STOCK = {"await_init", "go", "union", "protected_mounts", "lock_mounts"}
LAST = "execute"  # init takes it after its last word to us


def each(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in STOCK else pytest.mark.any_kernel) for name in names]


def test_these_are_the_steps_of_the_plan(make: Make) -> None:
    waits = {step.__name__ for step in launch.MEANWHILE}  # for steps of the others
    assert {step.name for step in make().plan()} == {*NEAR, *FAR} - waits
    assert len({*NEAR, *FAR}) == len(NEAR) + len(FAR)


@pytest.mark.parametrize("step", each([*NEAR, *FAR]))
def test_a_step_that_fails(host_dir: Path, make: Make, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    env = make(hostname="red")
    monkeypatch.setenv("VE_FAULT", f"{step}:error")
    with witness.nothing_changes(host_dir), pytest.raises(errors.StartFailed) as caught:
        env.start()
    assert caught.value.step in (step, TOLD_BY.get(step))
    assert str(caught.value).startswith(f"cannot start {env.veid}: {caught.value.step.replace('_', ' ')}: ")
    assert not commandline.cgroup(host_dir, env.veid).exists()
    monkeypatch.delenv("VE_FAULT")
    env.start()
    assert witness.shell(env, "hostname") == "red\n"


@pytest.mark.parametrize("step", each(name for name in FAR if name != LAST))
def test_setup_or_init_is_killed(host_dir: Path, make: Make, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    env = make(hostname="red")
    monkeypatch.setenv("VE_FAULT", f"{step}:kill")
    with (
        witness.nothing_changes(host_dir),
        pytest.raises(errors.StartFailed, match=r"was killed|No such process"),
    ):
        env.start()
    assert not commandline.cgroup(host_dir, env.veid).exists()
    monkeypatch.delenv("VE_FAULT")
    env.start()
    assert witness.shell(env, "hostname") == "red\n"


@pytest.mark.any_kernel
@pytest.mark.parametrize("how", ["error", "kill"])
def test_a_state_dir_for_ves_in_it_fails(host_dir: Path, make: Make, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    env = make(profiles=["nesting"])
    assert setup.inner_state.__name__ in [step.name for step in env.plan()]
    monkeypatch.setenv("VE_FAULT", f"{setup.inner_state.__name__}:{how}")
    with witness.nothing_changes(host_dir, but="lease/.*"), pytest.raises(errors.StartFailed):
        env.start()
    monkeypatch.delenv("VE_FAULT")
    env.start()
    assert "/var/lib/ve/view/" in witness.shell(env, "cat /proc/self/mountinfo")


def test_the_process_that_mounts_is_killed(host_dir: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parent must not go on with a root that is still the host's."""
    env = make()
    monkeypatch.setenv("VE_FAULT", "pivot:kill")
    with (
        witness.nothing_changes(host_dir),
        pytest.raises(errors.StartFailed, match="protected mounts: the process that mounts was killed"),
    ):
        env.start()
    assert not commandline.cgroup(host_dir, env.veid).exists()


def test_init_is_killed_when_it_was_told_to_go_on(host_dir: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end closes its channel, as its exec does."""
    env = make()
    monkeypatch.setenv("VE_FAULT", f"{LAST}:kill")
    with witness.nothing_changes(host_dir), pytest.raises(errors.StartFailed, match="execute: init has ended"):
        env.start()
    assert not commandline.cgroup(host_dir, env.veid).exists()


@pytest.mark.parametrize("step", each(NEAR))
def test_who_starts_it_is_killed(host_dir: Path, make: Make, step: str) -> None:
    env = make(hostname="red")
    mounts = Path("/proc/self/mountinfo").read_text()
    done = subprocess.run(
        [sys.executable, "-c", witness.START, host_dir, str(env.veid)],
        cwd=witness.ROOT,
        env={**os.environ, "VE_FAULT": f"{step}:kill"},
        stderr=subprocess.PIPE,  # at its end when setup is gone too, which has it from its parent
        check=False,
    )
    assert (done.returncode, done.stderr) == (-9, b"")
    witness.wait_empty(host_dir, env.veid)
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert commandline.output(host_dir, "list", "-H", "-o", "veid,status") == f"{env.veid}  stopped\n"
    env.start()
    assert witness.shell(env, "hostname") == "red\n"


@pytest.mark.any_kernel
def test_an_init_that_cannot_be_executed(host_dir: Path, make: Make) -> None:
    env = make()
    init = host_dir / f"private/{env.veid}/upper/sbin/init"
    init.parent.mkdir()
    init.write_text("#!/no/such/shell\n")
    init.chmod(0o755)
    why = "execute: cannot execute /sbin/init of the VE: No such file or directory"
    witness.refused(host_dir, 47, f"cannot start {env.veid}: {why}", "start", env.veid)


@pytest.mark.any_kernel
@pytest.mark.parametrize("step", ["clone_init", "lock_mounts", "go"])
def test_a_failed_start_of_the_command(host_dir: Path, make: Make, step: str) -> None:
    env = make()
    done = commandline.run(host_dir, "start", env.veid, env={**os.environ, "VE_FAULT": f"{step}:error"})
    assert (done.returncode, done.stdout) == (47, "")
    assert done.stderr.startswith(f"ve: cannot start {env.veid}: {step.replace('_', ' ')}: ")
    assert len(done.stderr.splitlines()) == 1
