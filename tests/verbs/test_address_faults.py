"""A start of a VE with addresses, failed and killed at each step of its network and the steps after them.

Nothing is left of it on the host once the next command has run: no interface, route, proxy, rule, port or queue.
"""

import os
from pathlib import Path

import pytest

import ve
from tests.hostnet import HostNet
from tests.verbs import commandline
from ve import init, launch

pytestmark = pytest.mark.any_kernel  # what is ours in it is the same on every kernel

STEPS = [step.__name__ for step in (*launch.OF_NETWORK, init.names, launch.await_root, *launch.AFTER)]
SETTINGS = {"addresses": ["10.9.0.5", "fd00:9::5", "auto"], "publish": ["8080:80"], "rate": "10mbit"}
LOOKS = (
    ("ip", "-br", "link"),
    ("ip", "route"),
    ("ip", "-6", "route"),
    ("ip", "neighbour", "show", "proxy"),
    ("tc", "qdisc", "show"),
    ("nft", "list", "ruleset"),
)


def looks(hostnet: HostNet) -> dict[str, str]:
    """What the host's network is, without what is counted."""
    shown = {" ".join(words): hostnet.run(*words).stdout for words in LOOKS}
    rules = shown["nft list ruleset"].splitlines()
    return shown | {"nft list ruleset": "\n".join(line for line in rules if "counter packets" not in line)}


@pytest.fixture
def env(hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> "ve.Environment":
    hostnet.output(host_dir, "network", "add", "default", "--cidr", "10.9.1.0/29", "--nat")
    return host.create(veid, template="busybox", **SETTINGS)  # type: ignore[arg-type]


def works(hostnet: HostNet, host_dir: Path, veid: int) -> None:
    """It starts, answers, and stops."""
    done = hostnet.ve(host_dir, "start", veid)
    assert done.returncode == 0, done.stderr
    hostnet.run("ping", "-c1", "-W10", "10.9.0.5")
    assert "10.9.0.5 . 80" in hostnet.run("nft", "list", "map", "inet", "ve", "published4").stdout
    hostnet.output(host_dir, "stop", "--fast", veid)


@pytest.mark.parametrize("verb", ["destroy", "start"])
def test_nothing_leads_to_what_a_killed_start_had(
    hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int, tmp_path: Path, verb: str
) -> None:
    """Neither neighbours, who were answered for it, nor ports; the next command knows other addresses, or none."""
    hostnet.output(host_dir, "network", "add", "default", "--cidr", "10.9.1.0/24")
    env = host.create(veid, template="busybox", publish=["8080:80"], addresses=["192.0.2.77", "2001:db8::77"])
    words = [*hostnet.words, *commandline.words(host_dir, "start", veid)]
    with commandline.Process(words, env={**os.environ, "VE_FAULT": "facts:kill"}) as process:
        process.wait(commandline.PATIENCE)
    assert "192.0.2.77 dev eth0" in hostnet.run("ip", "neighbour", "show", "proxy").stdout
    assert "192.0.2.77" in hostnet.run("nft", "list", "ruleset").stdout
    hostnet.call(env.set, addresses=["10.9.1.9"], publish=[], save=True)
    hostnet.output(host_dir, verb, veid)
    assert hostnet.run("ip", "-4", "neighbour", "show", "proxy").stdout == ""
    assert hostnet.run("ip", "-6", "neighbour", "show", "proxy").stdout == ""
    assert ".77" not in hostnet.run("nft", "list", "ruleset").stdout
    assert list((tmp_path / "network/run/published").iterdir()) == []
    if verb == "start":
        hostnet.output(host_dir, "stop", "--fast", veid)
    assert list((tmp_path / "network/run/leading").iterdir()) == []


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails(hostnet: HostNet, host_dir: Path, env: "ve.Environment", step: str) -> None:
    works(hostnet, host_dir, env.veid)
    before = looks(hostnet)
    broken = {**os.environ, "VE_FAULT": f"{step}:error"}
    failed = hostnet.ve(host_dir, "start", env.veid, env=broken)
    assert failed.returncode == 47, failed.stderr
    assert looks(hostnet) == before
    works(hostnet, host_dir, env.veid)
    assert looks(hostnet) == before


@pytest.mark.parametrize("step", STEPS)
def test_who_starts_it_is_killed(hostnet: HostNet, host_dir: Path, env: "ve.Environment", step: str) -> None:
    works(hostnet, host_dir, env.veid)
    before = looks(hostnet)
    words = [*hostnet.words, *commandline.words(host_dir, "start", env.veid)]
    with commandline.Process(words, env={**os.environ, "VE_FAULT": f"{step}:kill"}) as process:
        process.wait(commandline.PATIENCE)
    works(hostnet, host_dir, env.veid)
    assert looks(hostnet) == before
