"""ve restart: a new init on the same files."""

from pathlib import Path

import pytest

from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import errors


@pytest.mark.any_kernel
def test_another_init_and_the_same_files(host_dir: Path, make: Make) -> None:
    env = make(hostname="red")
    env.start()
    first = witness.init(host_dir, env.veid)
    spaces = witness.namespaces(first)
    witness.shell(env, "echo red >/etc/colour; echo gone >/run/colour; sleep 9999 </dev/null >/dev/null 2>&1 &")
    with commandline.watched(first) as ended:
        done = commandline.run(host_dir, "restart", "--timeout", "0.1", env.veid)
        assert commandline.has_ended(ended, 0)
    assert (done.returncode, done.stderr) == (0, f"{env.veid} is running again\n")
    second = witness.init(host_dir, env.veid)
    assert witness.namespaces(second) != spaces
    assert (
        witness.shell(env, "hostname; cat /etc/colour; ls /run/colour 2>/dev/null; pidof sleep; true") == "red\nred\n"
    )


def test_it_keeps_its_host_ids(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    base = witness.base(witness.init(host_dir, env.veid))
    env.restart(timeout=0)
    assert witness.base(witness.init(host_dir, env.veid)) == base


@pytest.mark.any_kernel
def test_one_that_is_stopped_is_started(host_dir: Path, make: Make) -> None:
    env = make()
    env.restart()
    assert witness.runs(host_dir, env.veid)


@pytest.mark.any_kernel
def test_one_that_fails_to_start_again_is_stopped(host_dir: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make()
    env.start()
    monkeypatch.setenv("VE_FAULT", "union:error")
    with pytest.raises(errors.StartFailed):
        env.restart(timeout=0)
    assert not commandline.cgroup(host_dir, env.veid).exists()
    monkeypatch.delenv("VE_FAULT")
    env.start()
