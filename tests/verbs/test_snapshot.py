"""ve snapshot, clone and reset, checkpoints and forks: what is on disk, and what a VE made on it sees."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import ve
from tests import conftest
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import _output as out
from ve import cgroups, errors, making
from ve import layers as layers_room

CHANGES = (
    "rm /etc/shells; echo one >/srv/one; ln /srv/one /srv/uno; mv /home /house; rm -r /media; mkdir /media; chmod 750 /"
    "; echo m >/media/m; truncate -s 50M /srv/hole; chown 7:8 /srv/hole; chmod 6755 /srv/hole; mkfifo /srv/fifo"
)
SEEN = "cat /srv/one; stat -c '%a %u:%g %h %n' / /srv/* /media/*; ls /home /house /etc/shells 2>&1; true"


@pytest.fixture(scope="module")
def host_dir(_test_dir: Path) -> Iterator[Path]:
    """One of their own: what others have left is not to be found by the doctor."""
    path = conftest._new_state_dir(_test_dir)
    yield path
    conftest._forget_state_dir(path)


@pytest.fixture(scope="module")
def host(host_dir: Path) -> "ve.Host":
    host = ve.Host(host_dir)
    host.templates.build("busybox")
    return host


@pytest.fixture(autouse=True)
def _no_layer_is_left(host: "ve.Host", host_dir: Path) -> Iterator[None]:
    yield
    assert layers(host_dir) == set()
    assert host.doctor() == []


@pytest.fixture
def gone(host: "ve.Host", host_dir: Path) -> Iterator[Callable[..., Any]]:
    """gone(env, ...) has these destroyed after the test; gives the first."""
    made: list[ve.Environment] = []

    def note(*envs: "ve.Environment") -> "ve.Environment":
        made.extend(envs)
        return envs[0]

    yield note
    for env in made:
        conftest._end(host, env.veid)
        assert witness.left_of(host_dir, env.veid) == []


def layers(host_dir: Path) -> set[str]:
    """The ids of those on disk."""
    return set(os.listdir(host_dir / "layer")) if (host_dir / "layer").exists() else set()


def conf(host_dir: Path, veid: int) -> dict[str, Any]:
    return tomllib.loads((host_dir / f"conf/{veid}.toml").read_text())


def listing(top: Path) -> str:
    """All that is there, with what overlayfs has noted; not the links of a whiteout, nor the size of a directory."""
    short, whole = r"%P %M %U:%G %T@\n", r"%P %M %U:%G %n %s %b %T@ %l\n"
    find = ["find", str(top), "!", "-path", str(top), "(", "-type", "c", "-o", "-type", "d", ")", "-printf", short]
    files = subprocess.run(
        [*find, "-o", "!", "-path", str(top), "-printf", whole], capture_output=True, text=True, check=True
    )
    noted = subprocess.run(["getfattr", "-Rdhm", "-", "."], cwd=top, capture_output=True, text=True, check=True)
    devices = [f"{path.relative_to(top)} {path.lstat().st_rdev}" for path in sorted(top.rglob("*"))]
    return "\n".join([*sorted(files.stdout.splitlines()), *sorted(noted.stdout.split("\n\n")), *devices])


def begun(env: "ve.Environment") -> str:
    env.start()
    return witness.shell(env, SEEN)


# --- a checkpoint -----------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_of_a_stopped_ve_the_upper_itself_becomes_the_layer(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    witness.shell(env, CHANGES)
    seen = witness.shell(env, SEEN)
    env.stop(fast=True)
    upper = host_dir / f"private/{env.veid}/upper"
    before, number = listing(upper), upper.stat().st_ino
    env.checkpoint("first")
    (layer,) = layers(host_dir)
    kept = host_dir / f"layer/{layer}/upper"
    assert (listing(kept), kept.stat().st_ino) == (before, number)
    assert os.listdir(upper) == []
    assert (upper.stat().st_mode, upper.stat().st_uid) == (kept.stat().st_mode, kept.stat().st_uid)
    assert conf(host_dir, env.veid)["layers"] == [layer]
    assert conf(host_dir, env.veid)["snapshots"] == {"first": layer}
    assert begun(env) == seen


def test_of_a_running_ve_the_upper_is_copied_while_it_stands_still(
    host_dir: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make()
    env.start()
    witness.shell(env, CHANGES)
    events, said = commandline.cgroup(host_dir, env.veid) / "cgroup.events", tmp_path / "said"
    (tmp_path / "cp").write_text(f'#!/bin/sh\ncat {events} >{said}; exec /bin/cp "$@"\n')
    (tmp_path / "cp").chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        env.checkpoint("hot")
    assert "frozen 1" in said.read_text() and "frozen 0" in events.read_text()
    env.stop(fast=True)
    (layer,) = layers(host_dir)
    kept, upper = host_dir / f"layer/{layer}/upper", host_dir / f"private/{env.veid}/upper"
    for top in (kept, upper):  # where its syslogd goes on
        shutil.rmtree(top / "var")
        os.utime(top, (0, 0))
    assert listing(kept) == listing(upper)
    assert "layers" not in conf(host_dir, env.veid)


def test_it_goes_on_after_it(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    init, events = witness.init(host_dir, env.veid), commandline.cgroup(host_dir, env.veid) / "cgroup.events"
    env.checkpoint()
    assert witness.init(host_dir, env.veid) == init
    assert "frozen 0" in events.read_text()
    env.freeze()
    env.checkpoint()
    assert "frozen 1" in events.read_text()  # as its admin wants it
    assert sorted(conf(host_dir, env.veid)["snapshots"]) == ["s1", "s2"]


@pytest.fixture
def twice_named(host: "ve.Host", spare: str, make: Make) -> "ve.Environment":
    """Running, of a template in which a file and a link have two names each."""
    tree = Path(host.templates.get(spare).path)
    (tree / "srv/a").write_text("old\n")
    os.link(tree / "srv/a", tree / "srv/b")
    (tree / "srv/link").symlink_to("a")
    os.link(tree / "srv/link", tree / "srv/knil", follow_symlinks=False)
    env = make(template=spare)
    env.start()
    return env


@pytest.mark.any_kernel
def test_another_name_of_a_changed_file_means_it_still(
    twice_named: "ve.Environment", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = twice_named
    witness.shell(env, "echo new >>/srv/a; chown -h 7 /srv/link")
    times = witness.shell(env, "stat -c %.9Y /srv/a /srv/link")
    with pytest.raises(errors.NotSupported, match="a file that has other names") as refused:
        env.checkpoint()
    assert refused.value.hint == f"ve stop {env.veid} first"
    env.stop(fast=True)
    (tmp_path / "find").symlink_to("/bin/false")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with pytest.raises(errors.Error, match=f"^cannot checkpoint {env.veid}: find ended with 1$"):
            env.checkpoint()
    env.checkpoint()
    env.start()
    assert witness.shell(env, "stat -c %.9Y /srv/b /srv/knil; stat -c %u /srv/knil; ls -A /srv") == (
        f"{times}7\na\nb\nknil\nlink\n"
    )
    assert witness.shell(env, "cat /srv/b; echo more >>/srv/b; cat /srv/a") == "old\nnew\nold\nnew\nmore\n"


@pytest.mark.any_kernel
def test_a_file_with_several_names_that_is_changed_until_all_stands_still(
    host_dir: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make()
    env.start()
    witness.shell(env, "echo old >/srv/a; ln /srv/a /srv/b")
    env.stop(fast=True)
    env.checkpoint("base")
    env.start()
    freeze = cgroups.freeze

    def slowly(veid: int, group: cgroups.Cgroup) -> None:
        witness.shell(env, "echo new >>/srv/a")
        freeze(veid, group)

    with monkeypatch.context() as patch:
        patch.setattr(cgroups, "freeze", slowly)
        with pytest.raises(errors.NotSupported, match="a file that has other names"):
            env.checkpoint("torn")
    assert "frozen 0" in (commandline.cgroup(host_dir, env.veid) / "cgroup.events").read_text()
    assert list(conf(host_dir, env.veid)["snapshots"]) == ["base"]


@pytest.mark.any_kernel
def test_the_name_that_is_left_of_a_changed_file_means_it_still(twice_named: "ve.Environment") -> None:
    env = twice_named
    witness.shell(env, "echo new >>/srv/a; rm /srv/a; chown -h 7 /srv/link; rm /srv/link")
    env.stop(fast=True)
    env.checkpoint()
    env.start()
    assert witness.shell(env, "cd /srv; ls -A; cat b; stat -c '%u %h' knil") == "b\nknil\nold\nnew\n7 1\n"


def deep(directories: int) -> str:
    """A script that makes directories in each other, with names of 253 bytes, and goes there."""
    return f"n=$(printf 'd%.0s' $(seq 253)); cd /srv; for i in $(seq {directories}); do mkdir -p $n; cd -P $n; done"


@pytest.mark.any_kernel
@pytest.mark.parametrize("directories", [16, 40])  # about as long as a path may be, and longer
def test_another_name_below_a_long_path(make: Make, directories: int) -> None:
    env, deeper = make(), deep(directories)
    env.start()
    witness.shell(env, f"{deeper}; echo old >f; ln f g")
    for script in ("true", "echo new >>f"):
        witness.shell(env, f"{deeper}; {script}")
        env.stop(fast=True)
        env.checkpoint()
        env.start()
    assert witness.shell(env, f"{deeper}; cat f g") == "old\nnew\n" * 2


@pytest.mark.any_kernel
@pytest.mark.parametrize("area", ["", "loop"])
def test_a_copy_of_long_paths(host_dir: Path, make: Make, gone: Callable[..., Any], area: str) -> None:
    env = make(area=area, disk="30M") if area else make()
    env.start()
    witness.shell(env, f"{deep(16)}; echo x >f; chmod 750 /")
    fork = gone(*env.checkpoint("long").fork())
    fork.start()
    assert witness.shell(fork, f"stat -c %a /; {deep(16)}; cat f") == "750\nx\n"
    witness.shell(env, f"{deep(17)}")
    said = f"cannot checkpoint {env.veid}: it has a path that is too long to be copied: /srv/{'d' * 36}..."
    hint = witness.refused(host_dir, 5, said, "snapshot", "create", env.veid)
    assert hint == ("shorten it inside, with mv" if area else f"ve stop {env.veid} first")
    assert "frozen 0" in (commandline.cgroup(host_dir, env.veid) / "cgroup.events").read_text()
    env.stop(fast=True)
    if not area:
        env.checkpoint("stopped")


@pytest.mark.any_kernel
def test_layers_upon_layers(host_dir: Path, make: Make) -> None:
    env = make()
    for number in range(12):
        env.start()
        witness.shell(env, f"echo {number} >>/srv/log; rm -rf /srv/d{number - 1}; mkdir /srv/d{number}")
        env.stop(fast=True)
        env.checkpoint()
    env.start()
    assert witness.shell(env, "cat /srv/log; ls /srv") == "".join(f"{each}\n" for each in range(12)) + "d11\nlog\n"
    assert {line.point: line for line in witness.mounts(witness.init(host_dir, env.veid))}["/"].kind == "overlay"
    changed = [line for line in commandline.output(host_dir, "diff", env.veid).splitlines() if "/srv" in line]
    assert changed == ["A  /srv/d11", "A  /srv/log"]
    env.stop(fast=True)
    point = Path(env.mount())
    assert sorted(os.listdir(point / "srv")) == ["d11", "log"]
    env.umount()
    commandline.output(host_dir, "cp", f"{env.veid}:/srv/log", host_dir / "copied")
    assert len((host_dir / "copied").read_text().splitlines()) == 12
    (host_dir / "copied").unlink()


def test_more_layers_than_may_be_are_refused(host_dir: Path, make: Make) -> None:
    env = make()
    path = host_dir / f"conf/{env.veid}.toml"
    env.checkpoint("s")
    (layer,) = layers(host_dir)
    (host_dir / f"layer/{layer}/upper/file").touch()
    names = [f"{number:016x}" for number in range(99)]
    for name in names:
        shutil.copytree(host_dir / "layer" / layer, host_dir / "layer" / name)
    path.write_text(path.read_text().replace(f'layers = [\n    "{layer}",\n]', f"layers = {[*names, layer]}"))
    env.start()
    witness.shell(env, "true")
    with pytest.raises(errors.NotSupported, match="it has 100 layers") as refused:
        env.checkpoint()
    assert refused.value.hint.startswith("make a template of it: ve template add NAME $(ve mount ")
    env.stop(fast=True)
    assert "etc" in os.listdir(env.mount())
    env.umount()


@pytest.mark.any_kernel
def test_what_is_not_changed_gets_no_more_layers(host_dir: Path, make: Make, gone: Callable[..., Any]) -> None:
    env = make()
    env.start()
    witness.shell(env, "echo base >/srv/base; chmod 750 /")
    env.stop(fast=True)
    clones = [gone(env.clone()) for _ in range(3)]
    for name in ("one", "two"):
        env.checkpoint(name)
    kept = conf(host_dir, env.veid)
    assert [len(conf(host_dir, each.veid)["layers"]) for each in clones] == [1, 2, 2]
    assert [len(stack.split()) for stack in (*kept["snapshots"].values(), " ".join(kept["layers"]))] == [2, 2, 2]
    assert kept["snapshots"]["one"] != kept["snapshots"]["two"]  # each has the time at which it was made
    assert layers(host_dir) == set().union(*(conf(host_dir, each.veid)["layers"] for each in clones)) | {
        layer for stack in kept["snapshots"].values() for layer in stack.split()
    }
    for each in (*clones, gone(*env.snapshot("one").fork()), env):
        each.start()
        assert witness.shell(each, "cat /srv/base; stat -c %a /") == "base\n750\n"


def test_it_goes_on_when_who_copied_is_killed_and_nobody_copies_on(host_dir: Path, make: Make, tmp_path: Path) -> None:
    env = make()
    env.start()
    events, told, hold = commandline.cgroup(host_dir, env.veid) / "cgroup.events", tmp_path / "told", tmp_path / "hold"
    os.mkfifo(told)
    os.mkfifo(hold)
    (tmp_path / "cp").write_text(f"#!/bin/sh\necho $$ >{told}; read line <{hold}\n")
    (tmp_path / "cp").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with (
        commandline.start(host_dir, "snapshot", "create", env.veid, env=environment) as process,
        commandline.watched(int(told.read_text())) as copier,
    ):
        assert commandline.output(host_dir, "list", "-H", "-o", "status") == "frozen\n"
        commandline.kill(process)
        assert commandline.has_ended(copier)
    assert "frozen 1" in events.read_text()
    assert commandline.output(host_dir, "list", "-H", "-o", "status") == "running\n"
    assert "frozen 0" in events.read_text()
    assert "snapshots" not in conf(host_dir, env.veid)


@pytest.mark.parametrize("way", ["run", "arun", "wait_ready"])
def test_who_enters_meanwhile_waits_for_its_end(
    host_dir: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    env = make()
    env.start()
    told, hold, locked = tmp_path / "told", tmp_path / "hold", ve.Environment.locked
    os.mkfifo(told)
    os.mkfifo(hold)
    (tmp_path / "cp").write_text(f'#!/bin/sh\necho begun >{told}; read line <{hold}; exec /bin/cp "$@"\n')
    (tmp_path / "cp").chmod(0o755)

    def waits(self: "ve.Environment", timeout: float, **how: Any) -> AbstractContextManager[None]:
        hold.write_text("\n")
        assert (threading.current_thread() is threading.main_thread()) == (way != "arun")  # where its loop is
        return locked(self, timeout, **how)

    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with commandline.start(host_dir, "snapshot", "create", env.veid, env=environment) as process:
        assert told.read_text() == "begun\n"
        with monkeypatch.context() as patch:
            patch.setattr(ve.Environment, "locked", waits)
            if way == "run":
                assert witness.shell(env, "echo on") == "on\n"
            elif way == "arun":
                assert asyncio.run(env.arun(["echo", "on"], capture_output=True)).stdout == b"on\n"
            else:
                env.wait_ready("file:/etc/passwd")
        assert process.wait() == 0
    assert list(conf(host_dir, env.veid)["snapshots"]) == ["s1"]


def test_of_one_that_ended_by_itself_nothing_dies_any_more(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    os.kill(witness.init(host_dir, env.veid), signal.SIGKILL)
    witness.wait_stopped(env)
    assert commandline.cgroup(host_dir, env.veid).exists()
    env.checkpoint()
    assert not commandline.cgroup(host_dir, env.veid).exists()  # which a process in it would keep


def test_who_looks_lets_go_only_while_nobody_can_begin_the_next(
    host_dir: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = make()
    env.start()
    env.freeze()
    os.setxattr(commandline.cgroup(host_dir, env.veid), "user.ve.still", b"")  # as who was killed leaves it
    let_go, codes = layers_room.let_go, list[int]()

    def watched(instance: "ve.Environment") -> bool:
        codes.append(subprocess.run(["flock", "-n", host_dir / f"run/lock/{env.veid}", "true"]).returncode)
        return let_go(instance)

    with monkeypatch.context() as patch:
        patch.setattr(layers_room, "let_go", watched)
        assert env.status == ve.Status.RUNNING
    assert codes == [1]
    assert "frozen 0" in (commandline.cgroup(host_dir, env.veid) / "cgroup.events").read_text()


# --- back -------------------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_restore(host_dir: Path, make: Make) -> None:
    env = make()
    for number in range(3):
        env.start()
        witness.shell(env, f"echo {number} >>/srv/log")
        env.stop(fast=True)
        commandline.output(host_dir, "snapshot", "create", env.veid, f"at{number}")
    commandline.output(host_dir, "snapshot", "restore", env.veid, "at1")
    assert os.listdir(host_dir / f"private/{env.veid}/upper") == []
    env.start()
    assert witness.shell(env, "cat /srv/log; echo else >>/srv/log") == "0\n1\n"
    env.stop(fast=True)
    env.restore("at2")
    env.start()
    assert witness.shell(env, "cat /srv/log") == "0\n1\n2\n"
    rows = json.loads(commandline.output(host_dir, "snapshot", "list", "--json", env.veid))
    assert [row["name"] for row in rows] == ["at0", "at1", "at2"]


@pytest.mark.any_kernel
def test_reset_of_a_stopped_ve(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    witness.shell(env, CHANGES)
    env.stop(fast=True)
    env.checkpoint()
    commandline.output(host_dir, "reset", env.veid)
    assert not witness.runs(host_dir, env.veid)
    env.start()
    assert witness.shell(env, "ls /etc/shells; ls /srv; stat -c %a /") == "/etc/shells\n755\n"


def test_reset_of_a_running_ve_starts_it_again(host_dir: Path, make: Make) -> None:
    env = make(hostname="red")
    env.start()
    witness.shell(env, CHANGES)
    init = witness.init(host_dir, env.veid)
    env.reset()
    assert witness.init(host_dir, env.veid) != init
    assert witness.shell(env, "ls /srv; hostname") == "red\n"


@pytest.mark.any_kernel
def test_reset_of_a_fork_is_back_at_its_base(make: Make, gone: Callable[..., Any]) -> None:
    env = make()
    env.start()
    witness.shell(env, "echo base >/srv/base")
    fork = gone(*env.checkpoint().fork())
    fork.start()
    witness.shell(fork, "echo own >/srv/own; rm /srv/base")
    fork.stop(fast=True)
    fork.checkpoint()
    fork.reset()
    fork.start()
    assert witness.shell(fork, "ls /srv") == "base\n"


# --- others on it -----------------------------------------------------------------------------------------------------


def test_eight_forks_share_files_and_nothing_that_they_write(
    host_dir: Path, make: Make, gone: Callable[..., Any]
) -> None:
    env = make(hostname="red", memory="64M", account_only=True, name="base")
    env.start()
    witness.shell(env, CHANGES)
    seen = witness.shell(env, SEEN)
    forks = env.checkpoint("migrated").fork(8)
    gone(*forks)
    assert len({fork.veid for fork in forks}) == 8
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(begun, forks)) == {seen}
    bases = {witness.base(witness.init(host_dir, each.veid)) for each in (env, *forks)}
    assert len(bases) == 9
    witness.shell(forks[0], "echo mine >/srv/one; rm /srv/fifo")
    assert {witness.shell(each, SEEN) for each in (env, *forks[1:])} == {seen}
    asked = conf(host_dir, forks[0].veid)
    assert asked["limits"] == conf(host_dir, env.veid)["limits"]
    assert (asked["hostname"], "name" in asked) == ("red", False)


@pytest.mark.any_kernel
def test_what_only_one_can_have_is_not_forked(make: Make, gone: Callable[..., Any], host_dir: Path) -> None:
    env = make(
        addresses=["10.9.0.5/32"], publish=["8080:80"], nameservers=["10.9.0.1"], env={"A": "1"}, memory="64M",
        account_only=True,
    )  # fmt: skip
    base = env.checkpoint()
    plain, own = gone(*base.fork()), gone(*base.fork(addresses=["10.9.0.6"], physpages=5000, name="other"))
    assert conf(host_dir, plain.veid) == {
        "version": 1, "template": "busybox:1", "env": {"A": "1"}, "account_only": True, "limits": {"memory": "64M"},
        "layers": list(base.layers), "made_on": list(base.layers),
    }  # fmt: skip
    asked = conf(host_dir, own.veid)
    assert (asked["addresses"], asked["name"]) == (["10.9.0.6"], "other")
    assert asked["limits"] == {"physpages": "5000"}
    assert asked["nameservers"] == ["10.9.0.1"]


def test_one_of_them_cannot_be_made_and_none_is(host: "ve.Host", make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make()
    base, before = env.checkpoint(), {each.veid for each in host.list()}
    create, made = making.create, list[int]()

    def create_two(other: "ve.Environment", *rest: Any) -> None:
        if len(made) == 2:
            raise errors.DiskFull("cannot create: no space")
        create(other, *rest)
        made.append(other.veid)

    monkeypatch.setattr(making, "create", create_two)
    with pytest.raises(errors.DiskFull):
        base.fork(3)
    assert len(made) == 2
    assert {each.veid for each in host.list()} == before


@pytest.mark.any_kernel
def test_a_number_that_no_copy_can_have(host_dir: Path, make: Make) -> None:
    env = make()
    base = env.checkpoint()
    numbers: list[Any] = [True, 0, 2**40, "7", 1.5]
    with witness.nothing_changes(host_dir):
        for veid in numbers:
            for act in (base.fork, env.clone):
                with pytest.raises(errors.InvalidValue, match=f"cannot use VEID {veid!r}: it is not"):
                    act(veid=veid)
        with pytest.raises(errors.InvalidValue, match=r"2000000001 is not in 1\.\.1999999999"):
            base.fork(veid=2_000_000_001)


@pytest.mark.any_kernel
def test_files_stay_until_the_last_who_has_them(
    host: "ve.Host", host_dir: Path, spare: str, make: Make, gone: Callable[..., Any]
) -> None:
    env = make(template=spare)
    env.start()
    witness.shell(env, "echo base >/srv/base")
    env.stop(fast=True)
    base = env.checkpoint("base")
    fork = gone(*base.fork())
    rows = json.loads(commandline.output(host_dir, "snapshot", "list", "--json", env.veid))
    assert rows[0]["users"] == [fork.veid]
    commandline.output(host_dir, "snapshot", "delete", env.veid, "base")
    env.destroy()
    assert layers(host_dir) == set(conf(host_dir, fork.veid)["layers"])
    with pytest.raises(errors.InUse, match=f"VE {fork.veid} uses it"):
        host.templates.remove(spare)
    fork.start()
    assert witness.shell(fork, "cat /srv/base") == "base\n"
    fork.stop(fast=True)
    fork.destroy()
    assert layers(host_dir) == set()


def test_a_ve_that_is_thrown_away_on_a_snapshot(host: "ve.Host", host_dir: Path, make: Make) -> None:
    env = make(hostname="red")
    env.start()
    witness.shell(env, CHANGES)
    seen = witness.shell(env, SEEN)
    base = env.checkpoint()
    with host.ephemeral(base) as first, host.ephemeral(base, hostname="blue") as second:
        assert witness.shell(first, SEEN) == witness.shell(second, SEEN) == seen
        assert witness.shell(first, "echo x >/srv/one; hostname") + witness.shell(second, "hostname") == "red\nblue\n"
        assert not list((host_dir / "private").glob("2?????????"))
        base.delete()
        assert layers(host_dir) != set()
    assert layers(host_dir) == set()
    assert witness.shell(env, SEEN) == seen


@pytest.mark.any_kernel
def test_a_snapshot_of_one_that_is_thrown_away(host: "ve.Host", host_dir: Path) -> None:
    with host.ephemeral("busybox", on_disk=True, hostname="red") as env:
        witness.shell(env, "echo base >/srv/base")
        with host.ephemeral(env.checkpoint("prepared")) as fork:
            assert witness.shell(fork, "cat /srv/base; hostname") == "base\nred\n"
        with pytest.raises(errors.NotSupported, match="it is ephemeral"):
            env.reset()
    with host.ephemeral("busybox") as env, pytest.raises(errors.NotSupported, match="is in memory") as refused:
        env.checkpoint()
    assert refused.value.hint == "make it with on_disk=True"


MADE = """
import os, signal, sys, ve
host = ve.Host(sys.argv[1])
with host.ephemeral("busybox", on_disk=True) as env:
    env.run(["sh", "-c", "echo base >/srv/base"], check=True)
    with host.ephemeral(env.checkpoint()) as fork:
        print(env.veid, fork.veid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.any_kernel
def test_nothing_is_left_of_these_when_their_maker_is_killed(host: "ve.Host", host_dir: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MADE, host_dir], cwd=witness.ROOT, stdout=subprocess.PIPE, text=True)
    veids = [int(word) for word in done.stdout.split()]
    assert len(veids) == 2 and layers(host_dir)
    host.list()
    assert [witness.left_of(host_dir, veid) for veid in veids] == [[], []]
    assert layers(host_dir) == set()


@pytest.mark.any_kernel
def test_nor_when_a_reboot_ended_all_of_them(host: "ve.Host", host_dir: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MADE, host_dir], cwd=witness.ROOT, stdout=subprocess.PIPE, text=True)
    veids = [int(word) for word in done.stdout.split()]
    for veid in veids:
        witness.wait_empty(host_dir, veid)
        for link in witness.leases(host_dir, veid):  # these and the run directory are in /run
            link.unlink()
    shutil.rmtree(host_dir / "run")
    assert (host_dir / f"private/{veids[0]}/upper/srv/base").exists() and layers(host_dir)
    host.list()
    assert not (host_dir / f"private/{veids[0]}").exists()
    assert all(each.mended for each in host.doctor(fix=True))
    assert [witness.left_of(host_dir, veid) for veid in veids] == [[], []]


@pytest.mark.any_kernel
@pytest.mark.parametrize("running", [False, True])
def test_clone(host_dir: Path, make: Make, gone: Callable[..., Any], host: "ve.Host", running: bool) -> None:
    env = make(hostname="red")
    env.start()
    witness.shell(env, CHANGES)
    seen = witness.shell(env, SEEN)
    if not running:
        env.stop(fast=True)
    veid = env.veid + 500
    gone(ve.Environment(host.state, veid))
    done = commandline.run(host_dir, "clone", env.veid, veid, "--name", "copy", "--hostname", "blue")
    assert (done.returncode, done.stderr) == (0, f"{veid} (copy) is created from {env.veid}\n")
    copy = host.get("copy")
    assert begun(copy) == seen
    witness.shell(copy, "echo else >/srv/one; hostname >/srv/name")
    if not running:
        env.start()
    assert witness.shell(env, SEEN) == seen
    assert witness.shell(copy, "cat /srv/name") == "blue\n"
    assert "snapshots" not in conf(host_dir, env.veid)


@pytest.mark.any_kernel
def test_what_somebody_is_about_to_use_stays(host_dir: Path, make: Make) -> None:
    env = make()
    base = env.checkpoint()
    with base.held() as (_, _, stack):
        base.delete()
        env.destroy()
        assert layers(host_dir) == {*stack}
    make().destroy()
    assert layers(host_dir) == set()


@pytest.mark.any_kernel
def test_forks_at_once_while_others_go(host: "ve.Host", host_dir: Path, make: Make) -> None:
    """Whoever goes removes what nobody uses: nothing of what is just about to be used."""
    env = make()
    env.start()
    witness.shell(env, "echo base >/srv/base")
    base = env.checkpoint()

    def once(_: int) -> str:
        (fork,) = base.fork()
        with host.ephemeral(fork.checkpoint()) as other:
            fork.destroy()
            return witness.shell(other, "cat /srv/base")

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(once, range(18))) == {"base\n"}
    env.snapshot("s1").delete()


# --- a loop area ------------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_with_a_loop_area(host_dir: Path, make: Make, gone: Callable[..., Any]) -> None:
    env = make(area="loop", disk="30M")
    env.start()
    witness.shell(env, CHANGES.replace("50M", "5M"))
    seen = witness.shell(env, SEEN)
    hot = env.checkpoint("hot")
    env.stop(fast=True)
    env.checkpoint("cold")
    assert begun(env) == seen
    witness.shell(env, "rm -r /srv /house")
    env.stop(fast=True)
    env.restore("cold")
    assert begun(env) == begun(gone(*hot.fork())) == seen
    env.stop(fast=True)
    env.reset()
    env.start()
    assert witness.shell(env, "ls /srv") == ""
    env.stop(fast=True)
    deadline = time.monotonic() + conftest.SETTLE
    image = host_dir / f"private/{env.veid}/area.img"
    while subprocess.run(["losetup", "-j", image], capture_output=True, check=True).stdout:
        assert time.monotonic() < deadline
        os.sched_yield()


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_what_is_refused(host_dir: Path, make: Make) -> None:
    env = make()
    veid = env.veid
    commandline.output(host_dir, "snapshot", "create", veid, "one")
    kept = conf(host_dir, veid)
    none = f"cannot find snapshot two of {veid}: there is none"
    taken = f"cannot checkpoint {veid}: it has a snapshot one"
    assert witness.refused(host_dir, 43, none, "snapshot", "restore", veid, "two") == "there is one"
    assert witness.refused(host_dir, 43, none, "snapshot", "delete", veid, "two") == "there is one"
    hint = witness.refused(host_dir, 44, taken, "snapshot", "create", veid, "one")
    assert hint == f"ve snapshot delete {veid} one"
    bad = "cannot use snapshot '../x': it must be a letter or '_', then letters, digits, '.', '_' or '-'"
    witness.refused(host_dir, 20, bad, "snapshot", "create", veid, "../x")
    witness.refused(host_dir, 44, f"cannot clone {veid}: there is a VE {veid}", "clone", veid, veid)
    for verb in ("create", "list"):
        witness.refused(host_dir, 43, "cannot find VE 4: there is none", "snapshot", verb, 4)
    env.mount()
    lines: dict[str, list[commandline.Word]] = {
        "checkpoint": ["snapshot", "create", veid],
        "restore": ["snapshot", "restore", veid, "one"],
        "reset": ["reset", veid],
        "clone": ["clone", veid],
    }
    for said, words in lines.items():
        hint = witness.refused(host_dir, 41, f"cannot {said} {veid}: it is mounted", *words)
        assert hint == f"ve umount {veid}"
    env.umount()
    env.start()
    running = f"cannot restore {veid}: it is running"
    assert witness.refused(host_dir, 32, running, "snapshot", "restore", veid, "one") == f"ve stop {veid}"
    assert conf(host_dir, veid) == kept


@pytest.mark.any_kernel
def test_what_is_gone(host: "ve.Host", make: Make) -> None:
    env = make()
    base, other = env.checkpoint("base"), env.checkpoint("other")
    other.delete()
    gone = f"^cannot find VE {env.veid}: there is none$"
    acts: list[Callable[[], object]] = [other.fork, other.delete, other.restore, host.ephemeral(other).__enter__]
    for act in acts:
        with pytest.raises(errors.NotFound, match=r"^cannot find snapshot other of"):
            act()
    with pytest.raises(errors.InvalidValue, match="2 VEs cannot all be called venus"):
        base.fork(2, name="venus")
    with pytest.raises(errors.InvalidValue, match="0 VEs are none"):
        base.fork(0)
    env.destroy()
    acts = [base.fork, base.delete, base.restore, env.checkpoint, env.reset, env.clone]
    for act in acts:
        with pytest.raises(errors.NotFound, match=gone):
            act()
    with pytest.raises(errors.NotFound, match=gone), host.ephemeral(base):
        pass


def test_who_is_made_on_one_in_which_nothing_is_stays_its_user(make: Make) -> None:
    """Also when it has a layer more: the empty one is between that and the template no longer."""
    env = make()
    base = env.checkpoint("base")
    [fork] = base.fork()
    fork.checkpoint()
    assert base.users == [fork.veid]
    fork.destroy()
    assert base.users == []


@pytest.mark.any_kernel
def test_one_whose_files_are_lost(host_dir: Path, make: Make) -> None:
    env = make()
    env.checkpoint("lost")
    env.path("/srv/one").write_text("more")
    env.checkpoint("there")
    shutil.rmtree(host_dir / "layer" / env.snapshot("lost").layers[0])
    shown = json.loads(commandline.output(host_dir, "snapshot", "list", env.veid, "--json"))
    assert [(each["name"], bool(each["created"])) for each in shown] == [("lost", False), ("there", True)]


@pytest.mark.any_kernel
def test_one_that_is_deleted_before_it_is_shown(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another process, and with it its layer: the others are shown all the same."""
    env = make()
    for name in ("stays", "goes"):
        env.path("/srv/one").write_text(name)
        env.checkpoint(name)
    env.restore("stays")
    seen = env.snapshots()
    asked: Any = vars(ve.Snapshot)["layers"].fget

    def layers_of(snapshot: "ve.Snapshot") -> Any:
        found = asked(snapshot)
        if snapshot.name == "goes":
            monkeypatch.undo()
            snapshot.delete()
        return found

    monkeypatch.setattr(ve.Snapshot, "layers", property(layers_of))
    shown = json.loads(out.render(out.SNAPSHOTS, seen, as_json=True))
    assert [each["name"] for each in shown] == ["stays"]


@pytest.mark.any_kernel
def test_a_copy_that_finds_no_room(host_dir: Path, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env = make()
    env.start()
    witness.shell(env, "echo x >/srv/x")
    small = tmp_path / "bin"
    small.mkdir()
    script = "for last; do :; done; mkdir -p $last; echo 'cp: error writing x: No space left on device' >&2; exit 1"
    (small / "cp").write_text(f"#!/bin/sh\n{script}\n")
    (small / "cp").chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{small}:{os.environ['PATH']}")
        with pytest.raises(errors.DiskFull, match=f"^cannot checkpoint {env.veid}: .*No space left on device$"):
            env.checkpoint()
    assert layers(host_dir) == set()
    assert "frozen 0" in (commandline.cgroup(host_dir, env.veid) / "cgroup.events").read_text()
    env.checkpoint()


# --- what is left -----------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_the_doctor_and_layers(host: "ve.Host", host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    witness.shell(env, "echo base >/srv/base")
    env.stop(fast=True)
    env.checkpoint("base")
    (layer,) = layers(host_dir)
    stray = host_dir / "layer/00000000000000aa"
    stray.mkdir()
    assert [each.text for each in host.doctor()] == [f"{stray} is a layer of no VE"]
    assert [each.mended for each in host.doctor(fix=True)] == [True]
    assert layers(host_dir) == {layer}
    aside = (host_dir / f"layer/{layer}").rename(host_dir / "aside")
    with pytest.raises(errors.NotFound, match=f"its layer .*{layer}/upper is gone"):
        env.start()
    told = [each.text for each in host.doctor(fix=True)]
    assert told == [f"cannot use {env.veid}: its layer {host_dir}/layer/{layer}/upper is gone"]
    aside.rename(host_dir / f"layer/{layer}")
    assert begun(env).startswith("")


@pytest.mark.any_kernel
def test_layers_of_a_ve_whose_conf_file_is_lost_stay(host: "ve.Host", host_dir: Path, make: Make) -> None:
    env, other = make(), make()
    env.checkpoint("base")
    env.start()
    witness.shell(env, "echo mine >/srv/mine")
    env.stop(fast=True)
    (layer,) = layers(host_dir)
    aside = (host_dir / f"conf/{env.veid}.toml").rename(host_dir / "aside")
    other.destroy()
    host.doctor(fix=True)
    assert layers(host_dir) == {layer}
    aside.rename(host_dir / f"conf/{env.veid}.toml")
    env.start()
    assert witness.shell(env, "cat /srv/mine") == "mine\n"
