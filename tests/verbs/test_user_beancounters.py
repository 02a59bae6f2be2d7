"""/run/user_beancounters: what a VE is shown of its own beancounters, and can do nothing about."""

import json
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from tests.verbs.test_debian import booted, tell

FILE = "/run/user_beancounters"
# What root of a VE may try to change what is shown, or to take it away; and what says that nothing came of it.
TRIES = (
    "echo 0 >FILE",
    "chmod 666 FILE",
    "rm /dev/beancounters/user_beancounters",
    "touch /dev/beancounters/more",
    "mv /dev/beancounters /dev/other",
    "umount /dev/beancounters",
    "mount -o remount,bind,rw /dev/beancounters",
    "mkdir -p /seen && mount --bind /dev/beancounters /seen && mount -o remount,bind,rw /seen",
    "unshare -rm mount -o remount,bind,rw /dev/beancounters",
)


def numbers(text: str, name: str) -> list[int]:
    return next([int(word) for word in line.split()[-5:]] for line in text.splitlines() if f" {name} " in line)


def shown(host_dir: Path, env: "ve.Environment") -> Path:
    """What is shown, as the host has it."""
    return host_dir / f"run/inside/{env.veid}/user_beancounters"


def look(host_dir: Path, env: "ve.Environment") -> bytes:
    """Look at it from the host; gives what the VE is shown of that."""
    env.beancounters()
    return shown(host_dir, env).read_bytes()


def test_it_sees_its_own_section_from_its_start_on(host_dir: Path, make: Make) -> None:
    env, neighbour, other = make(user_beancounters=True), make(user_beancounters=True), make()
    for each in (env, neighbour, other):
        each.start()
    text = witness.shell(env, f"cat {FILE}")
    assert text.splitlines()[0] == "Version: 2.5"
    assert [line.split()[0] for line in text.splitlines()[2:] if ":" in line] == [f"{env.veid}:"]
    assert len(text.splitlines()) == 2 + 24
    assert numbers(text, "numfile")[0] > 0
    assert str(neighbour.veid) not in text
    assert "No such file" in witness.says_no(other, f"cat {FILE}")
    assert "Permission denied" in env.run(["cat", FILE], user="nobody", capture_output=True, text=True).stderr


@pytest.mark.parametrize("how", ["ubc", "ubc --compat FILE", "events"])
def test_who_looks_from_the_host_writes_it_anew(host_dir: Path, make: Make, how: str, tmp_path: Path) -> None:
    env = make(user_beancounters=True)
    env.start()
    held = numbers(witness.shell(env, f"cat {FILE}"), "numfile")[0]
    with env.popen(["sleep", "1000"]) as more:
        commandline.output(host_dir, *how.replace("FILE", str(tmp_path / "file")).split())
        assert numbers(witness.shell(env, f"cat {FILE}"), "numfile")[0] > held
        more.kill()


def test_what_is_not_new_gets_its_time_and_no_other_inode(host_dir: Path, make: Make) -> None:
    """Or a VE that keeps each one open would fill the memory of the host."""
    env = make(user_beancounters=True)
    env.start()
    env.freeze()
    text = b""
    while text != (text := look(host_dir, env)):  # what the kernel still takes back of its start
        before = shown(host_dir, env).stat()
    after = shown(host_dir, env).stat()
    assert after.st_ino == before.st_ino
    assert after.st_mtime_ns > before.st_mtime_ns
    env.thaw()


@pytest.mark.parametrize("script", TRIES)
def test_its_root_cannot_change_it(host_dir: Path, make: Make, script: str) -> None:
    env = make(user_beancounters=True)
    env.start()
    before = shown(host_dir, env).read_bytes()
    witness.says_no(env, script.replace("FILE", FILE))
    assert shown(host_dir, env).read_bytes() == before
    assert [path.name for path in shown(host_dir, env).parent.iterdir()] == ["user_beancounters"]
    witness.shell(env, f"rm {FILE}")  # the link is its own, and comes again
    env.restart(timeout=0)
    assert witness.shell(env, f"head -n 1 {FILE}") == "Version: 2.5\n"


def test_it_comes_and_goes_with_a_start(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    assert commandline.run(host_dir, "set", env.veid, "--user-beancounters").returncode == 20
    said = commandline.run(host_dir, "set", env.veid, "--user-beancounters", "--save").stderr
    assert said == f"{env.veid}: user_beancounters wait for a restart\n"
    assert json.loads(commandline.output(host_dir, "status", "--json", env.veid))["pending"] == {
        "user_beancounters": True
    }
    env.restart(timeout=0)
    witness.shell(env, f"test -f {FILE}")
    env.stop(fast=True)
    assert not shown(host_dir, env).parent.exists()
    commandline.run(host_dir, "set", env.veid, "--no-user-beancounters", "--save")
    env.start()
    witness.says_no(env, f"test -f {FILE}")


def test_in_a_ve_that_is_thrown_away(host_dir: Path, host: "ve.Host") -> None:
    done = commandline.run(host_dir, "run", "--user-beancounters", "busybox", "--", "head", "-n", "1", FILE)
    assert done.stdout == "Version: 2.5\n"
    assert not list((host_dir / "run/inside").iterdir())


def test_systemd_leaves_it_there(host_dir: Path, make: Make, debian: str) -> None:
    env = make(debian, user_beancounters=True)
    tell(host_dir, env.veid)
    env.start()
    booted(env, host_dir)
    assert witness.shell(env, f"head -n 1 {FILE}") == "Version: 2.5\n"
