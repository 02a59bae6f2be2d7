"""What a newer ve has written is refused by name, and each verb that would write it leaves it byte for byte."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline

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
