"""ve list: all VEs, and what the kernel says of them."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import _output as out
from ve._session import Once, Session
from ve.facts import dump_facts, parse_facts

pytestmark = pytest.mark.any_kernel


def listed(host_dir: Path, fields: str = "veid,status") -> list[str]:
    return commandline.output(host_dir, "list", "-H", "-o", fields).splitlines()


def test_each_with_its_status(host_dir: Path, make: Make) -> None:
    make()
    mounted, running, frozen, killed = (make() for _ in range(4))
    for env in (running, frozen, killed):
        env.start()
    mounted.mount()
    frozen.freeze()
    with commandline.watched(witness.init(host_dir, killed.veid)) as ended:
        signal.pidfd_send_signal(ended, signal.SIGKILL)
        assert commandline.has_ended(ended)
    assert [line.split()[1] for line in listed(host_dir)] == ["stopped", "mounted", "running", "frozen", "stopped"]
    pids = [line.split()[1] for line in listed(host_dir, "veid,pid")]
    assert pids == ["-", "-", *(str(witness.init(host_dir, env.veid)) for env in (running, frozen)), "-"]
    frozen.thaw()
    assert "frozen 0" in (commandline.cgroup(host_dir, frozen.veid) / "cgroup.events").read_text()


def test_json_has_what_scripts_need(host_dir: Path, make: Make) -> None:
    env = make(name="mars", hostname="red")
    idle = make()
    env.start()
    first, second = json.loads(commandline.output(host_dir, "list", "--json"))
    assert first == {
        "veid": env.veid,
        "name": "mars",
        "status": "running",
        "pid": witness.init(host_dir, env.veid),
        "addresses": [],
        "template": "busybox:1",
        "hostname": "red",
    }
    assert (second["veid"], second["status"], second["pid"]) == (idle.veid, "stopped", None)


@pytest.mark.parametrize("line", ["bogus = 1", "no TOML", "version = 1000"])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_one_whose_conf_file_is_broken(host_dir: Path, make: Make, line: str, options: list[str]) -> None:
    """It is shown as far as it is known, and so are the others."""
    broken, fine = make(), make()
    with (host_dir / f"conf/{broken.veid}.toml").open("r+") as file:
        rest = file.read().replace("version = 1\n", "") if line.startswith("version") else file.read()
        file.seek(0)
        file.write(f"{line}\n{rest}")
    done = commandline.run(host_dir, "list", *options)
    assert done.returncode == 14 and str(broken.veid) in done.stderr
    assert str(broken.veid) in done.stdout and str(fine.veid) in done.stdout


def test_a_pid_that_somebody_else_has_now_is_not_its_init(host_dir: Path, make: Make) -> None:
    """The number alone is not the process: its start time and the boot belong to it."""
    env = make()
    env.start()
    path = host_dir / f"run/{env.veid}"
    whole = path.read_bytes()
    facts = parse_facts(whole)
    assert facts and facts.pid == witness.init(host_dir, env.veid)
    for wrong in (
        dump_facts(facts._replace(pid=os.getpid())),
        dump_facts(facts._replace(start_time=facts.start_time + 1)),
        dump_facts(facts._replace(boot_id=f"0{facts.boot_id}")),
        whole.replace(b"base=", b"base=1"),
        whole[: len(whole) // 2],
        b"",
    ):
        assert wrong != whole
        path.write_bytes(wrong)
        assert listed(host_dir) == [f"{env.veid}  stopped"]
    path.write_bytes(whole)
    assert listed(host_dir) == [f"{env.veid}  running"]


@pytest.mark.parametrize("as_json", [False, True])
def test_one_that_is_destroyed_before_it_is_shown(make: Make, host: "ve.Host", as_json: bool) -> None:
    """By another process, while all are looked at: that is no reason to show none."""
    gone, stays = make(), make()
    seen = host.list()
    gone.destroy()
    text = out.render(out.choose_fields(out.LIST_DEFAULT, dict), map(Once, seen), as_json)
    assert str(stays.veid) in text and str(gone.veid) not in text


def test_one_that_is_destroyed_before_it_is_started(make: Make, host: "ve.Host", host_dir: Path) -> None:
    gone, stays = make(onboot=True), make(onboot=True)
    session = Session(["start", "--onboot"], str(host_dir), "start")

    def wanted(env: "ve.Environment") -> bool:
        if env.veid == gone.veid:
            gone.destroy()
        return env.config.onboot

    assert session.those(None, True, "--onboot", wanted) == [str(stays.veid)]


@pytest.mark.any_kernel
def test_none(state_dir: Path) -> None:
    done = commandline.run(state_dir, "list")
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (0, "", 1)
    assert commandline.output(state_dir, "list", "-H") == ""
    assert json.loads(commandline.output(state_dir, "list", "--json")) == []
    assert os.listdir(state_dir) == []


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    "words",
    [
        ("list",), ("ps",), ("status", "101"), ("start", "101"), ("stop", "--all"), ("exec", "101", "true"),
        ("run", "busybox", "true"), ("create", "101", "--template", "busybox"), ("template", "list"),
        ("template", "remove", "busybox"),
    ],
)  # fmt: skip
def test_of_a_state_dir_that_is_not_there(tmp_path: Path, words: tuple[str, ...]) -> None:
    """A slip of the pen shall not look like a host without VEs."""
    code = 125 if words[0] in ("exec", "run") else 20
    sentence = f"cannot use state dir {tmp_path}/typo: there is no such directory"
    assert "template build" in witness.refused(tmp_path / "typo", code, sentence, *words)
    assert os.listdir(tmp_path) == []


@pytest.mark.any_kernel
def test_the_default_one_need_not_be_there() -> None:
    """Nor is an empty VE_STATE_DIR another."""
    script = 'mount -t tmpfs none /var/lib && mount -t tmpfs none /run && exec "$@"'
    line = ["unshare", "--mount", "sh", "-c", script, "sh", str(commandline.VE), "list", "-H"]
    ours = {name: value for name, value in os.environ.items() if name != "VE_STATE_DIR"}
    for given in ({}, {"VE_STATE_DIR": ""}):
        done = subprocess.run(line, env=ours | given, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.any_kernel
def test_a_field_that_is_none(host: "ve.Host", host_dir: Path) -> None:
    hint = witness.refused(host_dir, 20, "cannot list 'colour': no such field", "list", "-o", "veid,colour")
    assert "veid" in hint and "status" in hint


@pytest.mark.any_kernel
def test_what_is_no_conf_file_is_no_ve(host_dir: Path, make: Make) -> None:
    env = make()
    conf = host_dir / "conf"
    strangers = [conf / name for name in ("x.toml", "0x1.toml", f".{env.veid}.toml.77", f"{env.veid}.toml~")]
    for path in strangers:
        path.write_text("")
    assert listed(host_dir, "veid") == [str(env.veid)]
    for path in strangers:
        path.unlink()


def test_two_state_dirs_do_not_see_each_other_s(host_dir: Path, state_dir: Path, make: Make) -> None:
    """Nor do they touch them: the same VEID in both."""
    env = make(hostname="red")
    env.start()
    other = ve.Host(state_dir)
    other.templates.build("busybox")
    twin = other.create(env.veid, template="busybox", hostname="blue")
    assert listed(state_dir) == [f"{env.veid}  stopped"]
    twin.start()
    assert (witness.shell(env, "hostname"), witness.shell(twin, "hostname")) == ("red\n", "blue\n")
    assert witness.base(witness.init(host_dir, env.veid)) != witness.base(witness.init(state_dir, env.veid))
    twin.stop(fast=True)
    twin.destroy()
    assert witness.shell(env, "hostname") == "red\n"
    assert listed(state_dir) == []
