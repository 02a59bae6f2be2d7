"""ve ubc, and what refuses a limit where no controller is: on any kernel."""

import fcntl
import json
import os
import re
import stat
from pathlib import Path

import pytest

import ve
from tests.conftest import cgroup_root
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import errors, ledger
from ve.beancounter import RESOURCES

NAMES = [*(row.name for row in RESOURCES), "diskspace", "diskinodes"]

LONG_AGO = 1e9  # 2001-09-09T01:46:40Z


def controllers() -> list[str]:
    return (cgroup_root() / "cgroup.controllers").read_text().split()


def test_each_resource_of_each_ve(host_dir: Path, env: "ve.Environment", make: Make) -> None:
    stopped = make(numproc="100", account_only=True)
    rows = json.loads(commandline.output(host_dir, "ubc", "--json"))
    of = {veid: [row for row in rows if row["veid"] == veid] for veid in (env.veid, stopped.veid)}
    assert [row["name"] for row in of[env.veid]] == NAMES == [row["name"] for row in of[stopped.veid]]
    assert {row["held"] for row in of[stopped.veid][: len(RESOURCES)]} == {None}
    [numproc] = [row for row in of[stopped.veid] if row["name"] == "numproc"]
    assert (numproc["barrier"], numproc["limit"]) == (100, 100)
    if "pids" in controllers():
        [numproc] = [row for row in of[env.veid] if row["name"] == "numproc"]
        assert numproc["held"] == int((commandline.cgroup(host_dir, env.veid) / "pids.current").read_text())


def test_a_table_for_people(host_dir: Path, env: "ve.Environment") -> None:
    header, *lines = commandline.output(host_dir, "ubc", env.veid).splitlines()
    assert header.split() == ["VEID", "RESOURCE", "HELD", "MAXHELD", "BARRIER", "LIMIT", "FAILCNT"]
    assert lines[0].split()[:2] == [str(env.veid), "kmemsize"]
    assert [line.split()[0] for line in lines[1:]] == NAMES[1:]


def test_list_has_them_by_vzlist_s_names(host_dir: Path, make: Make) -> None:
    env = make(numproc="50:100", account_only=True)
    line = commandline.output(host_dir, "list", "-H", "-o", "veid,numproc.b,numproc.l,numproc,kmemsize.f")
    assert f"{env.veid}  50  100  -  -" in re.sub(" {2,}", "  ", line).splitlines()


def test_openvz_s_file(host_dir: Path, env: "ve.Environment", tmp_path: Path) -> None:
    """Only VEs that run; whole, whoever reads it meanwhile; only root reads it."""
    file = tmp_path / "user_beancounters"
    file.write_text("old")
    assert commandline.output(host_dir, "ubc", "--compat", file) == ""
    lines = file.read_text().splitlines()
    assert lines[0] == "Version: 2.5"
    assert any(line.split()[:2] == [f"{env.veid}:", "kmemsize"] for line in lines)
    assert stat.S_IMODE(file.stat().st_mode) == 0o400
    assert f"{env.veid} numfile failcnt unknown" in Path(f"{file}.meta").read_text().splitlines()
    assert sorted(os.listdir(tmp_path)) == ["user_beancounters", "user_beancounters.meta"]


def test_who_looks_for_events_writes_it_too(host_dir: Path, env: "ve.Environment", tmp_path: Path) -> None:
    file = tmp_path / "user_beancounters"
    commandline.output(host_dir, "events", "--quiet", "--compat", file)
    assert f"{env.veid}:" in file.read_text().split()
    assert Path(f"{file}.meta").exists()
    witness.refused(host_dir, 20, f"cannot write {file}: it is of all VEs", "events", env.veid, "--compat", file)


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--numfile", "100"), "cannot limit numfile: it is only counted; no stock kernel counts"),
        (("--numproc", "200:100"), "cannot use numproc '200:100': its barrier 200 is above its limit 100"),
        (("--numproc", "-5"), "cannot use numproc '-5': it is negative"),
        (("--numproc", "5k"), "cannot use numproc '5k': it is a count, which has no suffix"),
        (("--memory", "5X"), "cannot use memory '5X': it is not a number with"),
        (("--memory", "1G", "--physpages", "5"), "cannot use both memory and physpages: they are the same"),
        (("--account-only", "--memory", "4000G"), "cannot limit memory to 4000G: this host has"),
        (("--account-only", "--cpus", "5000"), "cannot limit cpus to 5000: this host has"),
        (("--account-only", "--cpuset", "0,4095"), "cannot use cpuset 0,4095: this host has no CPU 4095"),
        (("--account-only", "--processes", "99999999"), "cannot limit processes to 99999999: this host has"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_what_no_host_gives_is_refused_by_name(
    host_dir: Path, words: tuple[str, ...], sentence: str, host: "ve.Host"
) -> None:
    with witness.nothing_changes(host_dir):
        done = commandline.run(host_dir, "create", 3999, "--template", "busybox", *words)
    assert done.returncode == 20, done
    assert done.stderr.startswith(f"ve: {sentence}"), done
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.any_kernel
def test_a_limit_is_refused_where_its_controller_is_missing(host_dir: Path, make: Make, host: "ve.Host") -> None:
    """As on a hybrid host; without limits the VE starts, and where it is only to be counted."""
    if "memory" in controllers():
        env = make(memory="64M")
        env.start()
        assert (commandline.cgroup(host_dir, env.veid) / "memory.max").read_text() == f"{64 << 20}\n"
        return
    with witness.nothing_changes(host_dir):
        hint = witness.refused(
            *(host_dir, 5, "cannot limit memory: cgroup2 has no memory controller here"),
            *("create", 3999, "--template", "busybox", "--memory", "64M", "--cpus", "1"),
        )
    assert "cgroup_no_v1=all on the kernel command line" in hint
    env = make(memory="64M", account_only=True)
    env.start()
    assert env.status == ve.Status.RUNNING


def test_of_one_that_is_stopped_it_says_until_when_it_was_counted(host_dir: Path, env: "ve.Environment") -> None:
    assert commandline.run(host_dir, "ubc", env.veid).stderr == ""
    env.stop(fast=True)
    os.utime(host_dir / f"ubc/{env.veid}", (LONG_AGO, LONG_AGO))
    for _ in range(2):  # to look at what is not there is no look
        said = commandline.run(host_dir, "ubc", env.veid).stderr
        assert said == f"{env.veid} does not run: this was counted until 2001-09-09T01:46:40Z\n"
    commandline.output(host_dir, "events", env.veid)
    assert looked(host_dir, env) == ("2001-09-09T01:46:40Z", None)


def test_what_a_power_cut_took_is_said_until_a_reset(host_dir: Path, env: "ve.Environment") -> None:
    """Its processes and its cgroup are gone, and nobody of ours has seen them go."""
    commandline.output(host_dir, "ubc", env.veid)
    os.utime(host_dir / f"ubc/{env.veid}", (LONG_AGO, LONG_AGO))
    group = commandline.cgroup(host_dir, env.veid)
    (group / "cgroup.kill").write_text("1")
    witness.wait_empty(host_dir, env.veid)
    for path, _, _ in [*os.walk(group)][::-1]:
        os.rmdir(path)
    loss = f"{env.veid}: not counted is what came from 2001-09-09T01:46:40Z on, until the host crashed"
    assert loss in commandline.run(host_dir, "ubc", env.veid).stderr.splitlines()
    env.start()
    assert looked(host_dir, env) == ("2001-09-09T01:46:40Z",) * 2
    env.restart(timeout=0)  # an orderly end loses nothing more
    assert commandline.run(host_dir, "ubc", env.veid).stderr == f"{loss}\n"
    commandline.run(host_dir, "ubc", env.veid, "--reset")
    assert looked(host_dir, env)[1] is None


def looked(host_dir: Path, env: "ve.Environment") -> tuple[str | None, str | None]:
    [one] = {(row["looked"], row["gap"]) for row in json.loads(commandline.output(host_dir, "ubc", "--json", env.veid))}
    return one


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    "option", [("--io-write", "10M/s"), ("--io-read", "1M"), ("--iops", "5"), ("--io-weight", "9")]
)
def test_so_is_one_of_disk_traffic(host_dir: Path, make: Make, host: "ve.Host", option: tuple[str, str]) -> None:
    """At create, set and start alike: that of a VE whose conf file came from a host that has the controller."""
    if "io" in controllers():
        return  # tests/limits/test_shares.py
    name = option[0].removeprefix("--").replace("-", "_")
    sentence = f"cannot limit {name}: cgroup2 has no io controller here"
    env = make()
    with witness.nothing_changes(host_dir):
        witness.refused(host_dir, 5, sentence, "create", 3999, "--template", "busybox", *option)
        witness.refused(host_dir, 5, sentence, "set", env.veid, "--save", *option)
    with (host_dir / f"conf/{env.veid}.toml").open("a") as conf:
        conf.write(f'[limits]\n{name} = "{option[1]}"\n')
    hint = witness.refused(host_dir, 5, f"cannot start {env.veid}: host: {sentence}", "start", env.veid)
    assert "cgroup_no_v1=all on the kernel command line" in hint or "Delegate=yes" in hint


def test_reset_is_noted(host_dir: Path, env: "ve.Environment") -> None:
    said = commandline.run(host_dir, "ubc", env.veid, "--reset").stderr
    assert said == f"{env.veid} counts from now on\n"
    since = json.loads((host_dir / f"ubc/{env.veid}").read_text())["since"]
    assert since > 1.6e9


def test_a_ledger_of_a_newer_ve_is_not_touched(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    env.beancounters()
    written = host_dir / f"ubc/{env.veid}"
    written.write_text('{"version": 2, "more": 1}')
    done = commandline.run(host_dir, "ubc", env.veid)
    assert done.returncode == 14
    assert f"cannot read {written}: its version 2 is newer than this ve, which knows 1" in done.stderr
    env.stop(fast=True)
    assert written.read_text() == '{"version": 2, "more": 1}'


def test_a_ledger_that_is_none_is_told_of_and_keeps_nobody_from_anything(
    host_dir: Path, make: Make, tmp_path: Path
) -> None:
    broken, sound = make(user_beancounters=True), make()
    sound.start()
    written = host_dir / f"ubc/{broken.veid}"
    written.parent.mkdir(exist_ok=True)
    written.write_text('{"version": 1, "ended": [1]}')
    commandline.output(host_dir, "start", broken.veid)
    done = commandline.run(host_dir, "ubc")
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {str(sound.veid)}
    assert str(broken.veid) not in done.stdout.split()
    why = f"ve: cannot read {written}: it is not a ledger\nhint: ve ubc {broken.veid} --reset begins a new one\n"
    assert (done.returncode, done.stderr.startswith(why)) == (14, True), done
    commandline.output(host_dir, "stop", "--fast", broken.veid)
    commandline.output(host_dir, "ubc", broken.veid, "--reset")
    assert commandline.run(host_dir, "ubc").returncode == 0
    written.write_text("[")
    for line in (["list", "-o", "veid,numfile"], ["plan", "--check"], ["ubc", "--compat", tmp_path / "compat"]):
        done = commandline.run(host_dir, *line)
        assert (done.returncode, done.stderr.startswith(why)) == (14, True), done
    assert f"{sound.veid}:" in (tmp_path / "compat").read_text()
    commandline.output(host_dir, "destroy", broken.veid)
    assert not written.exists()


def test_a_reset_of_all_leaves_out_what_is_thrown_away(host_dir: Path, host: "ve.Host", env: "ve.Environment") -> None:
    with host.ephemeral("busybox", command=("sleep", "1000")) as passing:
        commandline.run(host_dir, "ubc", env.veid)
        before = (host_dir / f"ubc/{env.veid}").read_text()
        done = commandline.run(host_dir, "ubc", "--reset")
        assert (done.returncode, str(passing.veid) in done.stderr) == (0, False), done
        assert json.loads((host_dir / f"ubc/{env.veid}").read_text())["since"] > json.loads(before)["since"] == 0
        why = f"cannot reset the beancounters of {passing.veid}: it is ephemeral, nothing of it is on disk"
        witness.refused(host_dir, 5, why, "ubc", passing.veid, "--reset")


IDLE = (
    (("--compat", "FILE", "VE"), "cannot use --compat with VE: it writes a file of all VEs"),
    (("--compat", "FILE", "--json"), "cannot use --compat with --json: it writes a file of all VEs"),
    (
        ("--compat", "FILE", "--watch", "-q"),
        "cannot use --compat with --quiet and --watch: it writes a file of all VEs",
    ),
    (("--compat", "FILE", "--reset"), "cannot use --reset with --compat: it shows nothing"),
    (("--reset", "--watch"), "cannot use --reset with --watch: it shows nothing"),
    (("--reset", "VE", "--json"), "cannot use --reset with --json: it shows nothing"),
    (("--compat", ""), "cannot write '': it is no path"),
    (("--compat", "/dev/null"), "cannot write /dev/null: it is there, and no regular file"),
)


@pytest.mark.parametrize(("words", "sentence"), IDLE, ids=lambda value: " ".join(value) if type(value) is tuple else "")
def test_what_would_be_ignored_or_lost_is_refused(
    host_dir: Path, make: Make, words: tuple[str, ...], sentence: str
) -> None:
    env = make()
    here = {"VE": str(env.veid), "FILE": str(host_dir / "file")}
    with witness.nothing_changes(host_dir):
        witness.refused(host_dir, 20, sentence, "ubc", *(here.get(word, word) for word in words))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_of_a_ve_that_is_not_there_is_nothing_to_tell(host: "ve.Host") -> None:
    with pytest.raises(errors.NotFound):
        host.beancounters(3999)
    with pytest.raises(errors.NotFound):
        host.events(3999)


@pytest.mark.any_kernel
def test_what_others_keep_a_stop_from_noting_is_kept_for_the_next_look(
    host_dir: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "PATIENCE", 0.05)
    env = make()
    env.start()
    with (host_dir / "run/ubc").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        env.stop(fast=True)
        assert not witness.runs(host_dir, env.veid)
        group = commandline.cgroup(host_dir, env.veid)
        assert (group / "cgroup.events").read_text().startswith("populated 0\n")
        with pytest.raises(errors.Locked, match="cannot lock the beancounters: "):
            env.start()
        with pytest.raises(errors.Locked, match="cannot lock the beancounters: "):
            env.destroy()
    env.start()
    env.stop(fast=True)
    assert not group.exists()


@pytest.mark.any_kernel
def test_a_failure_that_nothing_counts_is_not_none(host_dir: Path, make: Make) -> None:
    """Where a controller is missing, 0 would be a lie."""
    env = make(numproc="100", account_only=True)
    env.start()
    rows = json.loads(commandline.output(host_dir, "ubc", "--json", env.veid))
    [failcnt] = [row["failcnt"] for row in rows if row["name"] == "numproc"]
    assert failcnt == (0 if "pids" in controllers() else None)
