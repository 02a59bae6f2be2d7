"""VEs in the host's network, or in another VE's: what they reach there, and that they may change nothing of it."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.hostnet import HostNet, entering
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import errors

pytestmark = pytest.mark.any_kernel  # on the stock kernel tests/kernel and test_addresses.py ask for the same

Start = Callable[..., "ve.Environment"]


@pytest.fixture
def start(hostnet: HostNet, make: Make) -> Iterator[Start]:
    envs = []

    def begin(before: Callable[["ve.Environment"], object] = lambda env: None, **options: Any) -> "ve.Environment":
        env = make(**options)
        before(env)
        hostnet.call(env.start)
        envs.append(env)
        return env

    yield begin
    for env in reversed(envs):
        if env.status == ve.Status.RUNNING:
            hostnet.call(env.stop, fast=True)


def netns(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


def test_it_is_in_the_hosts_network(start: Start, hostnet: HostNet, host_dir: Path) -> None:
    env = start(network="host")
    assert netns(witness.init(host_dir, env.veid)) == netns(hostnet.host)
    assert "192.0.2.1/24" in witness.shell(env, "ip address show eth0")
    assert witness.shell(env, "ls /sys/class/net").split() == ["eth0", "lo"]
    assert "Connection refused" in witness.says_no(env, "nc -w5 192.0.2.9 9 </dev/null")  # the outside has said so


REFUSED = {
    "interfaces": "ip link set eth0 down",
    "addresses": "ip address add 192.0.2.2/24 dev eth0",
    "routes": "ip route del default",
    "privileged ports": "nc -l -p 80 </dev/null",
    "sysctls": "echo 1 >/proc/sys/net/ipv4/ip_forward",
    "sysfs": "echo 1400 >/sys/class/net/eth0/mtu",
    "namespaces": "nsenter --net=/proc/1/ns/net ip link set eth0 down",
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("kind", ["host", "ve"])
def test_its_root_changes_nothing_there(start: Start, hostnet: HostNet, kind: str, what: str) -> None:
    if kind == "host":
        env = start(network="host", capabilities={"net_admin": "on"})
        words = entering(hostnet.host)
    else:
        other = start(capabilities={"net_admin": "on"})
        pid = witness.init(Path(other.log_path).parents[2], other.veid)
        words = entering(pid)
        subprocess.run([*words, "ip", "link", "add", "eth0", "type", "bridge"], check=True)
        subprocess.run([*words, "ip", "link", "set", "eth0", "up"], check=True)
        subprocess.run([*words, "ip", "route", "add", "default", "dev", "eth0"], check=True)
        env = start(network=f"ve:{other.veid}", capabilities={"net_admin": "on"})
    look = [*words, "sh", "-c", "ip address; ip route; cat /proc/sys/net/ipv4/ip_forward"]
    before = re.sub("_lft.*", "", subprocess.check_output(look, text=True))
    why = witness.says_no(env, REFUSED[what])
    assert re.search("(?i)not permitted|permission denied|read-only|can't open|not found", why), why
    assert re.sub("_lft.*", "", subprocess.check_output(look, text=True)) == before


def test_it_makes_no_packets_of_its_own(start: Start) -> None:
    """No packet socket and no raw one: it hears nothing of others' traffic and forges none."""
    env = start(network="host", capabilities={"net_admin": "on", "net_raw": "on"})
    assert re.search("(?i)not permitted|denied", witness.says_no(env, "ping -c1 192.0.2.9"))
    assert re.search("(?i)not permitted", witness.says_no(env, "arping -c1 -I eth0 192.0.2.9"))


def test_it_shares_another_ves_network(start: Start, host_dir: Path) -> None:
    one = start(addresses=["10.9.0.5"])
    other = start(network=f"ve:{one.veid}")
    pids = [witness.init(host_dir, env.veid) for env in (one, other)]
    assert netns(pids[0]) == netns(pids[1]) != netns(os.getpid())
    assert "10.9.0.5" in witness.shell(other, "ip address show venet0")
    inside = ["sh", "-c", "echo hello | nc -l -p 8080"]
    with one.popen(inside) as serving:
        said = witness.shell(other, "until nc 127.0.0.1 8080 </dev/null 2>/dev/null; do usleep 10000; done")
        assert (said, serving.wait()) == ("hello\n", 0)
    others = {name: link for name, link in witness.namespaces(pids[0]).items() if name != "net"}
    assert all(link != witness.namespaces(pids[1])[name] for name, link in others.items())


def test_the_other_ends_by_itself(start: Start, hostnet: HostNet, host_dir: Path) -> None:
    """Who shares its network keeps that, until the next start of the other one, or its destroy, takes it away."""
    one = start(addresses=["10.9.0.5"])
    other = start(network=f"ve:{one.veid}")
    os.kill(witness.init(host_dir, one.veid), signal.SIGKILL)
    witness.wait_stopped(one)
    assert "10.9.0.5" in witness.shell(other, "ip address show venet0")
    hostnet.run("ping", "-c1", "-W10", "10.9.0.5")
    hostnet.call(one.start)
    assert "venet0" not in witness.shell(other, "ip link")
    assert "10.9.0.5" in witness.shell(one, "ip address show venet0")


def test_setup_stays_where_it_was(start: Start, hostnet: HostNet, host: "ve.Host") -> None:
    one = start()
    with hostnet.held(host.ephemeral("busybox", network=f"ve:{one.veid}")) as env:
        assert netns(int(witness.status(env.pid or 0)["PPid"])) == netns(hostnet.host)
        assert witness.shell(env, "readlink /proc/self/ns/net").strip() == netns(one.pid or 0)


def test_action_scripts_stay_where_they_were(start: Start, hostnet: HostNet, host_dir: Path, tmp_path: Path) -> None:
    one, said = start(), tmp_path / "said"

    def script(env: "ve.Environment") -> None:
        path = host_dir / f"conf/{env.veid}.mount"
        path.write_text(f"#!/bin/sh\nreadlink /proc/self/ns/net >{said}\n")
        path.chmod(0o755)

    env = start(network=f"ve:{one.veid}", before=script)
    (host_dir / f"conf/{env.veid}.mount").unlink()
    assert said.read_text().strip() == netns(hostnet.host)


def test_what_selftest_says(start: Start, hostnet: HostNet) -> None:
    for network in ("host", f"ve:{start().veid}"):
        env = start(network=network)
        verdicts = hostnet.call(env.selftest)
        assert [each.name for each in verdicts if each.status == "broken"] == []
        given_up = [(each.name, each.why) for each in verdicts if each.status == "given up"]
        why = f"its network is {network}: all that is there is for both"
        assert given_up == [("sockets", why), ("addresses", why)]


def test_another_by_its_name(host_dir: Path, make: Make) -> None:
    """Which stands for its VEID, as it is when that is said."""
    one, other = make(name="mars"), make(network="ve:mars")
    assert other.config.network == f"ve:{one.veid}"
    one.rename("venus")
    commandline.output(host_dir, "set", other.veid, "--network", "ve:venus", "--save")
    assert other.config.network == f"ve:{one.veid}"
    one.start()
    link = commandline.output(
        host_dir, "run", "busybox", "--network", "ve:venus", "--", "readlink", "/proc/self/ns/net"
    )
    assert link.strip() == netns(one.pid or 0)


def test_another_that_does_not_run(start: Start, hostnet: HostNet, make: Make) -> None:
    one = make()
    with pytest.raises(errors.NotRunning) as caught:
        start(network=f"ve:{one.veid}")
    why = f"VE {one.veid}, whose network it is to have, is not running"
    assert re.fullmatch(f"cannot start [0-9]+: {why}", str(caught.value))
    assert caught.value.hint == f"ve start {one.veid}"


BAD = {
    "vee:1": (20, "cannot use network 'vee:1': there is no such kind"),
    "ve:5": (20, "cannot use network ve:5: that is this VE itself"),
    "ve:nobody": (43, "cannot find VE nobody: there is none"),
    "ve:+5": (20, "cannot use network 've:+5': it is not ve:VEID"),
    "bridge:br0": (20, "cannot use network bridge:br0: it has no address to send from"),
}


@pytest.mark.parametrize("word", BAD)
def test_words_that_are_refused(host: "ve.Host", host_dir: Path, word: str) -> None:
    code, why = BAD[word]
    witness.refused(host_dir, code, why, "create", "5", "--template", "busybox", "--network", word)


def test_it_is_called_as_it_was_typed(host_dir: Path, make: Make) -> None:
    env = make(name="mars")
    why = "cannot use network ve:mars: that is this VE itself"
    witness.refused(host_dir, 20, why, "set", env.veid, "--network", "ve:mars", "--save")
    why = "cannot give addresses to a VE with network ve:mars: it has no interface"
    line = ["create", "5", "--template", "busybox", "--network", "ve:mars", "--ip", "10.9.0.5"]
    witness.refused(host_dir, 20, why, *line)


def test_no_addresses_beside(host: "ve.Host", host_dir: Path) -> None:
    why = "cannot give addresses to a VE with network host: it has no interface"
    line = ["create", "5", "--template", "busybox", "--network", "host", "--ip", "10.9.0.5"]
    witness.refused(host_dir, 20, why, *line)


def test_the_abstract_sockets_of_the_host_are_there_too(start: Start, hostnet: HostNet) -> None:
    """Which is why selftest does not promise what it promises of others."""
    env = start(network="host")
    with hostnet.call(socket.socket, socket.AF_UNIX) as listening:
        listening.bind("\0ve-test")
        assert "@ve-test" in witness.shell(env, "cat /proc/net/unix")
