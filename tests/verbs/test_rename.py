"""ve rename: a name works wherever a VEID does, and is one VE's alone."""

import os
import tomllib
from pathlib import Path

import pytest

from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import errors
from ve.state import State

pytestmark = pytest.mark.any_kernel


def names(host_dir: Path, veid: int) -> list[str]:
    return [path.name for path in (host_dir / "name").glob("*") if os.readlink(path) == str(veid)]


def test_the_new_name_takes_the_old_one_s_place(host_dir: Path, make: Make) -> None:
    env = make(name="mars")
    done = commandline.run(host_dir, "rename", env.veid, "venus")
    assert (done.returncode, done.stdout) == (0, "")
    assert names(host_dir, env.veid) == ["venus"]
    assert tomllib.loads((host_dir / f"conf/{env.veid}.toml").read_text())["name"] == "venus"
    witness.refused(host_dir, 43, "cannot find VE mars: there is none", "status", "mars")


def test_a_name_works_wherever_a_veid_does(host_dir: Path, make: Make) -> None:
    env = make(hostname="red")
    env.rename("venus")
    lines = ["start venus", "status venus", "exec venus hostname", "mount venus", "umount venus", "ps venus"]
    lines += [
        "diff venus",
        "stop --fast venus",
        "set venus --hostname=blue --save",
        "rename venus mars",
        "destroy mars",
    ]
    for line in lines:
        done = commandline.run(host_dir, *line.split())
        assert done.returncode == 0, (line, done.stderr)
    assert witness.left_of(host_dir, env.veid) == []


def test_a_running_one(host_dir: Path, make: Make) -> None:
    env = make(name="mars", hostname="red")
    env.start()
    env.rename("venus")
    assert commandline.output(host_dir, "exec", "venus", "hostname") == "red\n"
    assert commandline.output(host_dir, "list", "-H", "-o", "name,status") == "venus  running\n"


def test_its_own_name_once_more(host_dir: Path, make: Make) -> None:
    env = make(name="mars")
    with witness.nothing_changes(host_dir):
        env.rename("mars")


def test_no_name(host_dir: Path, make: Make) -> None:
    env = make(name="mars")
    env.rename("")
    assert names(host_dir, env.veid) == []
    assert "name" not in tomllib.loads((host_dir / f"conf/{env.veid}.toml").read_text())


def test_a_freed_name_may_be_used(host_dir: Path, make: Make) -> None:
    first, second = make(name="mars"), make()
    first.rename("venus")
    second.rename("mars")
    assert (names(host_dir, first.veid), names(host_dir, second.veid)) == (["venus"], ["mars"])


@pytest.mark.any_kernel
def test_a_name_that_another_has(host_dir: Path, make: Make) -> None:
    first, second = make(name="mars"), make(name="venus")
    with witness.nothing_changes(host_dir):
        witness.refused(host_dir, 44, f"cannot use name mars: VE {first.veid} has it", "rename", second.veid, "mars")


@pytest.mark.any_kernel
@pytest.mark.parametrize("name", ["", "123", "a/b", "..", "../conf", "a b"])
def test_a_name_that_cannot_be(host_dir: Path, make: Make, name: str) -> None:
    env = make(name="mars")
    why = f"cannot use name {name!r}: it must be a letter or '_', then letters, digits, '.', '_' or '-'"
    with witness.nothing_changes(host_dir):
        witness.refused(host_dir, 20, why, "rename", env.veid, name)


@pytest.mark.any_kernel
def test_a_broken_conf_file(host_dir: Path, make: Make) -> None:
    env = make(name="mars")
    conf = host_dir / f"conf/{env.veid}.toml"
    conf.write_text("version = 1\n[")
    with witness.nothing_changes(host_dir):
        done = commandline.run(host_dir, "rename", env.veid, "venus")
        assert done.returncode == 14 and f"cannot read {conf}: line 2" in done.stderr


@pytest.mark.parametrize("at", ["write_conf", "release_name"])
def test_killed_half_way(host_dir: Path, make: Make, at: str) -> None:
    """The VE then has one of the names or both, and nobody else gets either; the next rename sets it right."""
    env, other = make(name="mars"), make()
    script = f"""
import os, signal, sys, ve
from ve.state import State
State.{at} = lambda *args, **options: os.kill(os.getpid(), signal.SIGKILL)
ve.Host(sys.argv[1]).get("mars").rename("venus")
"""
    with witness.python(script, host_dir) as process:
        process.communicate()
    assert process.returncode == -9
    for name in ("mars", "venus"):
        assert commandline.output(host_dir, "list", "-H", "-o", "veid").split() == [str(env.veid), str(other.veid)]
        assert commandline.run(host_dir, "rename", other.veid, name).returncode == 44
    env.rename("venus")
    assert names(host_dir, env.veid) == ["venus"]


def test_a_conf_that_cannot_be_written(make: Make, host_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make(name="mars")
    with witness.nothing_changes(host_dir), monkeypatch.context() as patch, pytest.raises(errors.DiskFull):
        patch.setattr(State, "write_conf", refuse)
        env.rename("venus")
    assert names(host_dir, env.veid) == ["mars"]


def refuse(*_: object, **__: object) -> None:
    raise errors.DiskFull("no")


def test_with_two_names_the_conf_file_says_which(make: Make, host_dir: Path) -> None:
    """As a kill half way leaves it: in all that we show."""
    env = make(name="venus")
    (host_dir / "name/mars").symlink_to(str(env.veid))
    assert env.name == env.describe()["name"] == "venus"
    (host_dir / f"conf/{env.veid}.toml").write_text("[")
    assert env.name in ("mars", "venus")
