"""What a newer ve has written is refused by name, and each verb that would write it leaves it byte for byte."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness

pytestmark = pytest.mark.any_kernel

NEWER = 'version = 2\ntemplate = "busybox:1"\nname = "new"\nsomething = "else"\n'


@pytest.fixture
def newer(host_dir: Path, veid: int) -> Callable[..., None]:
    """Have a file be a newer one's: these verbs refuse it, and say which it is."""

    def refused(path: Path, text: str, *lines: str) -> None:
        before = path.read_bytes()
        path.write_text(text)
        try:
            for line in lines:
                done = commandline.run(host_dir, *line.format(veid=veid).split())
                told, hint, *rest = done.stderr.splitlines()
                assert done.returncode != 0 and f"cannot read {path}: " in told, (line, done.stderr)
                assert "its version 2 is newer than this ve, which knows 1" in told, line
                assert (hint, rest) == ("hint: upgrade ve", []), line
                assert path.read_text() == text, line
            assert not [*path.parent.glob(f".{path.name}*")]
        finally:
            path.write_bytes(before)

    return refused


def test_a_conf_file(host: ve.Host, host_dir: Path, veid: int, newer: Callable[..., None]) -> None:
    env = host.create(veid, template="busybox", name="old")
    newer(
        host_dir / f"conf/{veid}.toml",
        NEWER,
        *("set {veid} --hostname a --save", "set {veid} --memory 64M --save", "rename {veid} other", "start {veid}"),
        *("status {veid}", "mount {veid}"),
    )
    assert (env.config.name, env.status) == ("old", "stopped")
    assert host.get("old").veid == veid


def test_a_ledger(host: ve.Host, host_dir: Path, env: ve.Environment, newer: Callable[..., None]) -> None:
    env.beancounters()
    path = host_dir / f"ubc/{env.veid}"
    newer(path, '{"version": 2}', "ubc {veid}", "ubc {veid} --reset")
    path.write_text('{"version": 2}')
    env.stop(fast=True)
    assert path.read_text() == '{"version": 2}'


def test_facts_of_one_that_runs(host_dir: Path, env: ve.Environment, newer: Callable[..., None]) -> None:
    """No verb ends it, nor says that it does not run: who its init is cannot be told."""
    verbs = ("start", "stop --fast", "restart", "destroy", "mount", "set --hostname a --save", "exec")
    lines = [f"{verb} {{veid}}{' true' * (verb == 'exec')}" for verb in verbs]
    path = host_dir / f"run/{env.veid}"
    newer(path, f"version=2\nnow={env.veid}\n", *lines)
    assert witness.runs(host_dir, env.veid)


def test_facts_of_one_that_runs_in_no_form(host_dir: Path, env: ve.Environment) -> None:
    path = host_dir / f"run/{env.veid}"
    before = path.read_bytes()
    path.write_bytes(before[:-1])
    try:
        [found] = json.loads(commandline.run(host_dir, "doctor", "--fix", "--json").stdout)
        assert f"cannot read {path}: " in found["text"] and not found["mended"]
        assert found["cure"] == f"to end what runs of it, remove {path}, then ve doctor --fix"
        assert witness.runs(host_dir, env.veid)
        path.unlink()
        [found] = json.loads(commandline.output(host_dir, "doctor", "--fix", "--json"))
        assert found["mended"] and not witness.runs(host_dir, env.veid)
    finally:
        path.unlink(missing_ok=True)


def test_facts_of_an_older_ve(host_dir: Path, env: ve.Environment) -> None:
    """It had no version in them, and before that no sum."""
    path = host_dir / f"run/{env.veid}"
    version, *lines, total = path.read_text().splitlines(keepends=True)
    assert version == "version=1\n" and total.startswith("sum=")
    pid = env.pid
    path.write_text("".join(lines))
    assert env.pid == pid is not None
    commandline.output(host_dir, "stop", "--fast", env.veid)
    assert not witness.runs(host_dir, env.veid)


def test_facts_that_nothing_runs_beside_are_passed_over(host_dir: Path, env: ve.Environment) -> None:
    path = host_dir / f"run/{env.veid}"
    env.stop(fast=True)
    path.write_text("version=2\n")
    commandline.output(host_dir, "start", env.veid)
    assert witness.runs(host_dir, env.veid)


def test_of_a_template(host: ve.Host, host_dir: Path, veid: int, newer: Callable[..., None]) -> None:
    host.create(veid, template="busybox")
    newer(host_dir / "template/busybox/1.toml", NEWER, "create 7 --template busybox", "start {veid}", "template list")


def test_a_pool(host: ve.Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newer: Callable[..., None]) -> None:
    monkeypatch.setenv("VE_NETWORK_DIR", str(tmp_path))
    path = tmp_path / "web.toml"
    path.write_text('version = 1\nnetworks = ["10.9.0.0/24"]\n')
    newer(
        path,
        'version = 2\nnetworks = ["10.9.0.0/24"]\n',
        *("network show web", "network list", "network remove web", "network add other --cidr 10.8.0.0/24"),
    )
    assert [each.name for each in tmp_path.glob("*.toml")] == ["web.toml"]


def test_its_traffic(host: ve.Host, host_dir: Path, veid: int, newer: Callable[..., None]) -> None:
    host.create(veid, template="busybox")
    path = host_dir / f"traffic/{veid}"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"version": 1, "traffic": [1, 2, 3, 4], "last": "venet0"}))
    newer(path, '{"version": 2}', "status {veid}", "list -o veid,sent")
    assert host.get(veid).traffic.sent == 1
    path.write_text(json.dumps({"traffic": [1, 2, 3, 4], "last": "venet0"}))  # as the first ve would have had it
    assert host.get(veid).traffic.sent == 1


def test_traffic_keeps_nobody_from_seeing_the_rest(host: ve.Host, host_dir: Path, env: ve.Environment) -> None:
    other = host.create(7, template="busybox")
    path = host_dir / f"traffic/{env.veid}"
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"version": 2}')
    shown = {
        "list": ("list", "--json", "-o", "veid,sent,received"),
        "status": ("status", "--json", env.veid),
        "top": ("top",),
    }
    done = {verb: commandline.run(host_dir, *words) for verb, words in shown.items()}
    for each in done.values():
        assert (each.returncode, each.stderr.splitlines()[1:]) == (14, ["hint: upgrade ve"])
        assert f"cannot read {path}: its version 2 is newer than this ve, which knows 1" in each.stderr
    rows = json.loads(done["list"].stdout)
    assert sorted(rows, key=lambda row: row["veid"]) == [
        {"veid": other.veid, "sent": 0, "received": 0},
        {"veid": env.veid, "sent": None, "received": None},
    ]
    status = json.loads(done["status"].stdout)
    assert (status["traffic"], status["status"]) == (None, "running")
    _, line = map(str.split, done["top"].stdout.splitlines())
    assert (line[0], line[6]) == (str(env.veid), "-")  # behind READ and WRITE
    [found] = json.loads(commandline.run(host_dir, "doctor", "--json").stdout)
    assert (found["veid"], found["cure"]) == (env.veid, "upgrade ve") and str(path) in found["text"]
    other.destroy()
