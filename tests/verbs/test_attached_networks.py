"""VEs on a bridge of the admin's, with a macvlan, and with a device of the host's that comes back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ve
from tests.hostnet import HostNet
from tests.kernel.netns import wait_until
from tests.verbs import commandline

pytestmark = pytest.mark.any_kernel  # on the stock kernel tests/kernel and test_addresses.py ask for the same


@pytest.fixture
def port(bridged: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> int:
    words = ["192.0.2.50/24", "2001:db8::50/64"]
    host.create(veid, template="busybox", network="bridge:br0", addresses=words, gateways=["192.0.2.9"])
    bridged.output(host_dir, "start", veid)
    return veid


def test_a_port_of_a_bridge(bridged: HostNet, host_dir: Path, port: int) -> None:
    for address in ("192.0.2.50", "2001:db8::50"):
        bridged.outside("ping", "-c1", "-W10", address)
        bridged.run("ping", "-c1", "-W10", address)
    routes = bridged.output(host_dir, "exec", port, "ip", "route")
    assert "default via 192.0.2.9 dev eth0" in routes
    status = json.loads(bridged.output(host_dir, "status", "--json", port))
    assert (status["network"], status["addresses"]) == ("bridge:br0", ["192.0.2.50/24", "2001:db8::50/64"])
    bridged.output(host_dir, "stop", "--fast", port)
    assert "venet" not in bridged.run("ip", "-br", "link").stdout
    assert "192.0.2.50" not in bridged.run("nft", "list", "ruleset").stdout


def test_a_pool_shows_the_address_of_one_that_runs(bridged: HostNet, host_dir: Path, port: int) -> None:
    bridged.output(host_dir, "network", "add", "lan", "--cidr", "192.0.2.48/28")

    def shown() -> tuple[str, str | None, str]:
        [lease] = json.loads(bridged.output(host_dir, "network", "show", "lan", "--json"))["leases"]
        return lease["address"], lease["interface"], lease["kind"]

    [name] = [
        each["ifname"] for each in json.loads(bridged.run("ip", "-j", "link").stdout) if "venet" in each["ifname"]
    ]
    assert shown() == ("192.0.2.50", name, "both")
    bridged.output(host_dir, "stop", "--fast", port)
    assert shown() == ("192.0.2.50", None, "claim")


def test_no_address_but_its_own_leaves_the_port(bridged: HostNet, host_dir: Path, port: int) -> None:
    bridged.output(host_dir, "set", port, "--capability", "net_admin:on", "--save")
    bridged.output(host_dir, "restart", "--fast", port)
    script = "ip address add 192.0.2.66/24 dev eth0; ping -c2 -W1 -I 192.0.2.66 192.0.2.9; ping -c1 -W5 192.0.2.9"
    with bridged.watching("icmp or arp") as seen:
        bridged.output(host_dir, "exec", port, "sh", "-c", script)
    assert any("192.0.2.50" in line for line in seen) and not any("192.0.2.66" in line for line in seen)
    bridged.output(host_dir, "stop", "--fast", port)


def test_a_macvlan(hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> None:
    host.create(veid, template="busybox", network="macvlan:eth0", addresses=["192.0.2.51/24"])
    hostnet.output(host_dir, "start", veid)
    hostnet.outside("ping", "-c1", "-W10", "192.0.2.51")
    hostnet.output(host_dir, "stop", "--fast", veid)
    assert "macvlan" not in hostnet.run("ip", "-d", "link").stdout


def test_a_device_comes_back(hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> None:
    hostnet.run("ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1")
    hostnet.run("ip", "address", "add", "198.51.100.1/24", "dev", "spare0")
    hostnet.run("ip", "link", "set", "spare0", "up")
    env = host.create(veid, template="busybox", network="device:spare0", addresses=["198.51.100.2/24"])
    refused = hostnet.ve(host_dir, "start", veid)
    assert refused.returncode == 5 and "would be lost if the VE ended by itself" in refused.stderr
    env.set(device_lost_ok=True, save=True)
    hostnet.output(host_dir, "start", veid)
    assert "198.51.100.2/24" in hostnet.output(host_dir, "exec", veid, "ip", "address", "show", "dev", "spare0")
    assert "spare0" not in hostnet.run("ip", "-br", "link").stdout.replace("spare0@", "", 0).split("spare1")[0]
    hostnet.output(host_dir, "stop", "--fast", veid)
    [back] = json.loads(hostnet.run("ip", "-j", "address", "show", "dev", "spare0").stdout)
    assert "UP" in back["flags"]
    assert "198.51.100.1" in [each["local"] for each in back["addr_info"]]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--network", "bridge:br9", "--ip", "192.0.2.50/24"), "there is no interface br9"),
        (("--network", "bridge:eth0", "--ip", "192.0.2.50/24"), "it is not a bridge"),
        (("--network", "macvlan:eth9"), "there is no interface eth9"),
        (("--network", "device:lo"), "each VE has a loopback of its own"),
    ],
)
def test_what_is_not_there_is_said_at_the_start(
    hostnet: HostNet, host_dir: Path, host: "ve.Host", veid: int, words: tuple[str, ...], why: str
) -> None:
    hostnet.output(host_dir, "create", veid, "--template", "busybox", *words)
    before = hostnet.run("ip", "-br", "link").stdout
    refused = hostnet.ve(host_dir, "start", veid)
    assert refused.returncode != 0 and why in refused.stderr
    assert hostnet.run("ip", "-br", "link").stdout == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--network", "bridge:br0"), "it has no address to send from"),
        (("--network", "bridge:br0", "--ip", "auto"), "a pool's addresses are routed"),
        (("--network", "macvlan:eth0", "--rate", "1mbit"), "nothing of it is on the host"),
        (("--network", "device:eth0", "--publish", "80:80"), "its host does not route to it"),
        (("--network", "host", "--ip", "10.9.0.5"), "it has no interface"),
        (("--ip", "10.9.0.5", "--gateway", "10.9.0.1"), "its way out is its host"),
        (("--network", "macvlan:eth0", "--gateway", "192.0.2.9"), "it is in no network of its addresses"),
        (("--network", "macvlan:eth0", "--gateway", "fe80::1%eth0"), "it names an interface"),
        (("--network", "brigde:br0"), "there is no such kind"),
        (("--network", "host", "--publish", "80:80"), "its host does not route to it"),
        (("--publish", "80:80"), "cannot publish 80:80 of {veid}: it has no address"),
        (("--network", "none", "--rate", "1mbit"), "nothing of it is on the host"),
        (("--network", "ve:7", "--delay", "1ms"), "nothing of it is on the host"),
        (("--network", "host", "--nameserver", "192.0.2.53"), "without addresses it has those of its template"),
        (("--searchdomain", "example.org"), "without addresses it has those of its template"),
        (("--network", "macvlan:eth0", "--nameserver", "192.0.2.53"), "without addresses it has those of its template"),
    ],
)
def test_what_does_not_go_together(
    hostnet: HostNet, host_dir: Path, host: "ve.Host", veid: int, words: tuple[str, ...], why: str
) -> None:
    refused = hostnet.ve(host_dir, "create", veid, "--template", "busybox", *words)
    assert refused.returncode == 20 and why.format(veid=veid) in refused.stderr, refused


def test_a_start_that_fails_has_the_device_back(hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> None:
    hostnet.run("ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1")
    hostnet.run("ip", "address", "add", "198.51.100.1/24", "dev", "spare0")
    host.create(veid, template="busybox", network="device:spare0", device_lost_ok=True)
    failed = hostnet.ve(host_dir, "start", veid, env={**os.environ, "VE_FAULT": "facts:error"})
    assert failed.returncode == 47, failed.stderr
    [back] = json.loads(hostnet.run("ip", "-j", "address", "show", "dev", "spare0").stdout)
    assert "198.51.100.1" in [each["local"] for each in back["addr_info"]]


def spare(hostnet: HostNet, mac: str = "02:00:00:00:00:11") -> None:
    hostnet.run("ip", "link", "add", "spare0", "address", mac, "type", "veth", "peer", "name", "spare1")


def addresses(hostnet: HostNet, name: str) -> tuple[bool, list[str]]:
    """Is it up, and what of IPv4 has it?"""
    [link] = json.loads(hostnet.run("ip", "-j", "address", "show", "dev", name).stdout)
    return "UP" in link["flags"], [each["local"] for each in link["addr_info"] if each["family"] == "inet"]


@pytest.mark.parametrize("step", ["tell_names", "facts"])
@pytest.mark.parametrize("verb", ["start", "destroy"])
def test_what_a_device_was_outlives_who_started_it(
    hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int, step: str, verb: str
) -> None:
    """The kernel gives a physical one back, as it is here made anew, without its addresses and down."""
    spare(hostnet)
    hostnet.run("ip", "address", "add", "198.51.100.1/24", "dev", "spare0")
    hostnet.run("ip", "link", "set", "spare0", "up")
    host.create(veid, template="busybox", network="device:spare0", device_lost_ok=True)
    words = [*hostnet.words, *commandline.words(host_dir, "start", veid)]
    with commandline.Process(words, env={**os.environ, "VE_FAULT": f"{step}:kill"}) as process:
        process.wait(commandline.PATIENCE)
    wait_until(lambda: "spare" not in hostnet.run("ip", "link").stdout)
    spare(hostnet)
    hostnet.output(host_dir, verb, veid)
    if verb == "start":
        hostnet.output(host_dir, "stop", "--fast", veid)
    assert addresses(hostnet, "spare0") == (True, ["198.51.100.1"])
    assert os.listdir(host_dir / "run/device") == []


NESTED = """
mkfifo /made
unshare -n sh -c 'echo >/made; exec sleep 300' >/dev/null 2>&1 &
read made </made
ip link set spare0 netns $!
"""


@pytest.mark.parametrize("script", ["ip link delete spare0", NESTED], ids=["deleted", "moved"])
def test_a_device_that_is_lost_is_said_to_be(
    hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int, script: str
) -> None:
    spare(hostnet)
    rights = {"capabilities": {"net_admin": "on", "sys_admin": "on"}}
    host.create(veid, template="busybox", network="device:spare0", device_lost_ok=True, **rights)  # type: ignore[arg-type]
    hostnet.output(host_dir, "start", veid)
    hostnet.output(host_dir, "exec", veid, "sh", "-c", script)
    stopped = hostnet.ve(host_dir, "stop", "--fast", veid)
    why = f"cannot give spare0 back: {veid} is stopped, and its root had moved or deleted it"
    assert stopped.stderr == f"ve: {why}\nhint: only with net_admin can its root do so\n"
    assert stopped.returncode == 51
    assert not commandline.cgroup(host_dir, veid).exists()
    assert os.listdir(host_dir / "run/device") == []


def test_a_device_whose_name_is_taken_comes_back_by_another(
    hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int
) -> None:
    spare(hostnet)
    hostnet.run("ip", "address", "add", "198.51.100.1/24", "dev", "spare0")
    hostnet.run("ip", "link", "set", "spare0", "up")
    host.create(veid, template="busybox", network="device:spare0", device_lost_ok=True)
    hostnet.output(host_dir, "start", veid)
    hostnet.run("ip", "link", "add", "spare0", "type", "bridge")
    stopped = hostnet.ve(host_dir, "stop", "--fast", veid)
    why = "cannot give spare0 back: another interface has its name by now; it is spare0-2"
    assert (stopped.returncode, stopped.stderr) == (51, f"ve: {why}\nhint: ip link set spare0-2 name spare0\n")
    assert addresses(hostnet, "spare0-2") == (True, ["198.51.100.1"])
    assert addresses(hostnet, "spare0") == (False, [])
    assert not commandline.cgroup(host_dir, veid).exists()  # it is stopped and cleared


@pytest.mark.parametrize("network", ["bridge:br0", "macvlan:br0"])
def test_one_that_is_thrown_away_has_its_address_alone(
    bridged: HostNet, host: "ve.Host", host_dir: Path, veid: int, network: str
) -> None:
    there = ("--network", network, "--ip", "192.0.2.50/24")
    host.create(veid, template="busybox", network=network, addresses=["192.0.2.51/24"])
    refused = bridged.ve(host_dir, "run", "busybox", "--network", network, "--ip", "192.0.2.51/24", "--", "true")
    assert refused.returncode == 125 and f": VE {veid} has it" in refused.stderr
    words = [*bridged.words, *commandline.words(host_dir, "run", "busybox", *there, "--", "sh", "-c", "echo; cat")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with commandline.Process(words, **pipes) as running:  # type: ignore[call-overload]
        running.stdout.readline()
        bridged.outside("ping", "-c1", "-W10", "192.0.2.50")
        for line in (("create", veid + 5000, "--template", "busybox"), ("run", "busybox")):
            refused = bridged.ve(host_dir, *line, *there, *(("--", "true") if line[0] == "run" else ()))
            assert refused.returncode and " has it\n" in refused.stderr, refused
        running.kill()  # it ends with its maker, and with it its claim
        running.wait()
    bridged.output(host_dir, "create", veid + 5000, "--template", "busybox", *there)
    bridged.output(host_dir, "destroy", veid + 5000)
    bridged.output(host_dir, "list")  # removes what the dead one left


@pytest.mark.parametrize("step", ["tell_names", "facts", "go"])
@pytest.mark.parametrize("verb", ["start", "destroy"])
def test_a_killed_start_leaves_no_port(
    bridged: HostNet, host: "ve.Host", host_dir: Path, veid: int, tmp_path: Path, step: str, verb: str
) -> None:
    host.create(veid, template="busybox", network="bridge:br0", addresses=["192.0.2.50/24"])
    words = [*bridged.words, *commandline.words(host_dir, "start", veid)]
    with commandline.Process(words, env={**os.environ, "VE_FAULT": f"{step}:kill"}) as process:
        process.wait(commandline.PATIENCE)
    bridged.output(host_dir, verb, veid)
    if verb == "start":
        bridged.outside("ping", "-c1", "-W10", "192.0.2.50")
        bridged.output(host_dir, "stop", "--fast", veid)
    assert "192.0.2.50" not in bridged.run("nft", "list", "ruleset").stdout
    assert os.listdir(tmp_path / "network/run/guarded") == []


MODULES = """
import os, sys, ve
env = ve.Host(sys.argv[1]).get(int(sys.argv[2]))
eval(sys.argv[3])
os.write(1, b"whole" if "pyroute2" in sys.modules else b"parts")
"""


@pytest.mark.parametrize("network", ["bridge:br0", "macvlan:br0", "device:spare0"])
def test_no_start_imports_the_whole_of_pyroute2(
    bridged: HostNet, host: "ve.Host", host_dir: Path, veid: int, network: str
) -> None:
    """Which takes 200 ms: it does so where another thread could see it half."""
    bridged.run("ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1")
    options = {"addresses": ["192.0.2.50/24"], "gateways": ["192.0.2.9"], "device_lost_ok": True}
    host.create(veid, template="busybox", network=network, **options)  # type: ignore[arg-type]
    started = bridged.run(sys.executable, "-c", MODULES, host_dir, veid, "env.start()")
    stopped = bridged.run(sys.executable, "-c", MODULES, host_dir, veid, "env.stop(fast=True)")
    assert (started.stdout, stopped.stdout) == ("parts", "parts")


def test_no_change_of_addresses_does(hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> None:
    host.create(veid, template="busybox", addresses=["10.9.0.5"])
    hostnet.output(host_dir, "start", veid)
    for change in ("env.set(add_addresses=['10.9.0.6'])", "env.set(remove_addresses=['10.9.0.5'])"):
        assert hostnet.run(sys.executable, "-c", MODULES, host_dir, veid, change).stdout == "parts"
    hostnet.output(host_dir, "stop", "--fast", veid)
