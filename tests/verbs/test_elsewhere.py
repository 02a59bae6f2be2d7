"""A VE has its interface and ports in the network namespace that it was started in: from another one they stay."""

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.hostnet import HostNet, entering, namespace
from tests.verbs import commandline
from tests.verbs.test_addresses import kill
from ve import netns
from ve.errand import inside

pytestmark = pytest.mark.any_kernel

WHY = "it was started in another network namespace than ours"
OPTIONS: dict[str, dict[str, Any]] = {
    "routed": {"addresses": ["10.9.0.5"], "publish": ["8080:80"]},
    "bridge": {"network": "bridge:br0", "addresses": ["192.0.2.50/24"]},
    "device": {"network": "device:spare0", "device_lost_ok": True},
}


@pytest.fixture(params=OPTIONS)
def env(
    request: pytest.FixtureRequest, bridged: HostNet, host: "ve.Host", host_dir: Path, veid: int
) -> "ve.Environment":
    """Running, with something of each shape that has anything on its host."""
    bridged.run("ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1")
    made = host.create(veid, template="busybox", **OPTIONS[request.param])
    bridged.output(host_dir, "start", veid)
    return made


def refused(state_dir: Path, *words: str | int) -> None:
    done = commandline.run(state_dir, *words)
    assert (done.returncode, done.stdout) == (5, "")
    assert WHY in done.stderr and "hint: run ve there: nsenter --net=/proc/" in done.stderr


def had(bridged: HostNet) -> list[str]:
    """The elements of maps and sets of the host that have an address of a VE's."""
    rules = bridged.run("nft", "list", "ruleset").stdout
    return sorted(re.findall(r"[^{},]*\b(?:10\.9\.0\.5|192\.0\.2\.50)\b[^{},]*", rules))


def test_one_that_runs_is_not_stopped(bridged: HostNet, host_dir: Path, env: "ve.Environment") -> None:
    before, pid = had(bridged), env.pid
    for verb in (("stop", "--fast"), ("restart",)):
        refused(host_dir, *verb, env.veid)
    assert (had(bridged), env.pid) == (before, pid)
    bridged.output(host_dir, "stop", "--fast", env.veid)


def test_what_one_has_left_that_was_killed_is_not_forgotten(
    bridged: HostNet, host_dir: Path, env: "ve.Environment"
) -> None:
    """Nothing would take it back then, from wherever."""
    kill(env.pid or 0)
    before = had(bridged)
    for verb in ("start", "destroy"):
        refused(host_dir, verb, env.veid)
    done = commandline.run(host_dir, "doctor", "--fix", "--json")
    assert done.returncode == 1 and WHY in done.stdout
    assert had(bridged) == before
    bridged.output(host_dir, "destroy", env.veid)
    assert had(bridged) == []


def test_no_address_is_given_or_tried_from_there(host_dir: Path, hostnet: HostNet, host: "ve.Host", veid: int) -> None:
    host.create(veid, template="busybox", addresses=["10.9.0.5"])
    hostnet.output(host_dir, "start", veid)
    refused(host_dir, "set", veid, "--ip-add", "10.9.0.6")
    refused(host_dir, "selftest", veid)
    assert host.get(veid).addresses == ["10.9.0.5"]
    assert commandline.output(host_dir, "exec", veid, "echo", "is as before") == "is as before\n"
    commandline.output(host_dir, "set", veid, "--hostname", "red")
    hostnet.output(host_dir, "set", veid, "--ip-add", "10.9.0.6")


def test_one_that_has_nothing_there_may_be_stopped_anywhere(
    hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int
) -> None:
    hostnet.run("ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1")
    for network, addresses in (("none", []), ("macvlan:spare0", ["192.0.2.51/24"])):
        host.create(veid, template="busybox", network=network, addresses=addresses)
        hostnet.output(host_dir, "start", veid)
        commandline.output(host_dir, "stop", "--fast", veid)
        commandline.output(host_dir, "destroy", veid)


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "running"])
def test_of_a_namespace_that_is_gone_nothing_is_left(
    hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int, killed: bool
) -> None:
    env = host.create(veid, template="busybox", **OPTIONS["routed"])
    with namespace() as pid:
        commandline.output(host_dir, "start", veid, before=entering(pid))
        if killed:
            kill(env.pid or 0)
    commandline.output(host_dir, *(("destroy",) if killed else ("stop", "--fast")), veid)


def test_one_that_a_mount_keeps_is_there(
    hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int, tmp_path: Path
) -> None:
    """As `ip netns add` does; no process is in it."""
    host.create(veid, template="busybox", **OPTIONS["routed"])
    with kept(tmp_path / "kept") as path:
        before = ["nsenter", f"--net={path}", "--"]
        commandline.output(host_dir, "start", veid, before=before)
        done = commandline.run(host_dir, "stop", veid)
        assert done.returncode == 5 and f"nsenter --net={path} " in done.stderr
        commandline.output(host_dir, "stop", "--fast", veid, before=before)


def test_the_first_that_has_its_number_answers_for_all(hostnet: HostNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that are there no two have one: whoever has it now with another cookie shows that it is gone."""
    entered = list[int | str]()

    def enter(fd: int, work: Callable[[], str]) -> str:
        entered.append(fd)
        return inside(fd, work)

    monkeypatch.setattr(netns, "inside", enter)
    with subprocess.Popen([*hostnet.words, "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as another:
        assert another.stdin and another.stdout
        another.stdin.write(b"there\n")
        another.stdin.flush()
        assert another.stdout.readline() == b"there\n"
        number = os.readlink(f"/proc/{another.pid}/ns/net")
        assert number == os.readlink(f"/proc/{hostnet.host}/ns/net")
        assert netns.elsewhere(f"{number} 1") == "" and len(entered) == 1
        assert netns.elsewhere(hostnet.call(netns.here)) in [
            f"/proc/{pid}/ns/net" for pid in (hostnet.host, another.pid)
        ]
    entered.clear()
    monkeypatch.setattr(netns, "_known_as", entered.append)
    for cookie in ("1", netns.here().partition(" ")[2]):
        assert netns.elsewhere(f"{os.readlink('/proc/self/ns/net')} {cookie}") == ""
    assert entered == []


def test_what_another_boot_noted_is_of_no_namespace_of_this_one(
    hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int, tmp_path: Path
) -> None:
    """VE_NETWORK_DIR may outlive a boot, in which numbers and cookies begin anew."""
    env = host.create(veid, template="busybox", **OPTIONS["routed"])
    hostnet.output(host_dir, "start", veid)
    kill(env.pid or 0)
    refused(host_dir, "start", veid)
    [note] = (tmp_path / "network/run/leading").iterdir()
    boot, *others = note.read_text().split("\n")
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    note.write_text("\n".join(["00000000-0000-4000-8000-000000000000", *others]))
    with namespace() as pid:  # another host's, which has nothing of it
        commandline.output(host_dir, "destroy", veid, before=entering(pid))
    assert not note.exists()


@contextlib.contextmanager
def kept(path: Path) -> Iterator[Path]:
    path.touch()
    with namespace() as pid:
        subprocess.run(["mount", "--bind", f"/proc/{pid}/ns/net", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)
