"""VEs with addresses: on a network namespace that plays the host, judged by ping and ip, and from outside."""

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ve
from tests import lacking
from tests.hostnet import HostNet
from tests.verbs import commandline
from tests.verbs.conftest import Make
from ve import rtnetlink, venet, wire
from ve.addresses import Address


@pytest.fixture
def forwarding(hostnet: HostNet) -> HostNet:
    hostnet.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    return hostnet


@pytest.fixture
def web(forwarding: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> Iterator[int]:
    """A running VE with an address of each family."""
    host.create(veid, template="busybox", addresses=["10.9.0.5", "fd00:9::5"])
    done = forwarding.ve(host_dir, "start", veid)
    assert done.returncode == 0, done.stderr
    yield veid
    forwarding.ve(host_dir, "stop", "--fast", veid)


@pytest.mark.parametrize("address", ["10.9.0.5", "fd00:9::5"])
def test_it_answers_the_host_and_the_outside(forwarding: HostNet, web: int, address: str) -> None:
    forwarding.run("ping", "-c1", "-W5", address)
    forwarding.outside("ping", "-c1", "-W5", address)


@pytest.mark.any_kernel
@pytest.mark.parametrize("address", ["192.0.2.9", "192.0.2.1", "169.254.1.1", "2001:db8::9"])
def test_it_reaches_the_outside_and_the_host(forwarding: HostNet, host_dir: Path, web: int, address: str) -> None:
    assert forwarding.output(host_dir, "exec", web, "ping", "-c1", "-W5", address)


def test_stop_gives_its_interface_and_routes_back(forwarding: HostNet, host_dir: Path, web: int) -> None:
    assert json.loads(forwarding.run("ip", "-j", "route", "show", "10.9.0.5").stdout)
    assert forwarding.ve(host_dir, "stop", "--fast", web).returncode == 0
    assert "venet" not in forwarding.run("ip", "link").stdout
    assert json.loads(forwarding.run("ip", "-j", "route", "show", "10.9.0.5").stdout or "[]") == []


@pytest.mark.any_kernel
def test_a_host_without_ipv6(forwarding: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> None:
    """Is asked for nothing of IPv6, which it would refuse (ipv6.disable=1): so the kernel here has its own way."""
    host.create(veid, template="busybox", addresses=["10.9.0.5"], rate="10mbit")
    before = [*forwarding.words, *lacking.with_mounts("mount -t tmpfs none /proc/sys/net")]
    commandline.output(host_dir, "start", veid, before=before)
    forwarding.run("ping", "-c1", "-W5", "10.9.0.5")
    shown = json.loads(forwarding.run("ip", "-j", "-d", "link").stdout)
    modes = [each["inet6_addr_gen_mode"] for each in shown if each["ifname"].startswith("v")]
    assert modes == ["eui64", "eui64"]
    forwarding.output(host_dir, "stop", "--fast", veid)


@pytest.mark.any_kernel
def test_list_and_status_have_its_addresses(forwarding: HostNet, host_dir: Path, web: int) -> None:
    [shown] = [each for each in json.loads(commandline.output(host_dir, "list", "--json")) if each["veid"] == web]
    assert shown["addresses"] == ["10.9.0.5", "fd00:9::5"]
    assert json.loads(commandline.output(host_dir, "status", "--json", web))["addresses"] == ["10.9.0.5", "fd00:9::5"]


@pytest.mark.any_kernel
def test_addresses_come_and_go_while_it_runs(forwarding: HostNet, host_dir: Path, web: int) -> None:
    said = forwarding.ve(host_dir, "set", web, "--ip-add", "10.9.0.6", "--ip-add", "fd00:9::6", "--ip-del", "10.9.0.5")
    assert (said.returncode, said.stderr) == (0, f"{web}: addresses are set\n")
    forwarding.outside("ping", "-c1", "-W5", "10.9.0.6")
    forwarding.outside("ping", "-c1", "-W5", "fd00:9::6")
    assert forwarding.run("ping", "-c1", "-W1", "10.9.0.5", check=False).returncode == 1
    inside = forwarding.output(host_dir, "exec", web, "ip", "-4", "address", "show", "dev", "venet0")
    assert "10.9.0.6/32" in inside and "10.9.0.5" not in inside


@pytest.mark.any_kernel
def test_what_is_not_saved_ends_with_a_restart(forwarding: HostNet, host_dir: Path, web: int) -> None:
    forwarding.output(host_dir, "set", web, "--ip-add", "10.9.0.6")
    forwarding.output(host_dir, "set", web, "--ip-add", "10.9.0.7", "--save")
    assert json.loads(forwarding.output(host_dir, "restart", "--fast", web) or "null") is None
    status = json.loads(forwarding.output(host_dir, "status", "--json", web))
    assert status["addresses"] == ["10.9.0.5", "fd00:9::5", "10.9.0.7"]
    forwarding.run("ping", "-c1", "-W5", "10.9.0.7")


@pytest.mark.any_kernel
def test_nothing_waits_of_a_change_after_one_that_was_not_saved(forwarding: HostNet, host_dir: Path, web: int) -> None:
    for words in (("--ip-add", "10.9.0.7"), ("--ip-add", "10.9.0.8"), ("--ip-del", "10.9.0.7")):
        said = forwarding.ve(host_dir, "set", web, *words)
        assert (said.returncode, said.stderr) == (0, f"{web}: addresses are set\n")
    forwarding.run("ping", "-c1", "-W5", "10.9.0.8")


@pytest.mark.any_kernel
def test_one_without_gets_its_first_address_while_it_runs(
    forwarding: HostNet, host: "ve.Host", host_dir: Path, veid: int
) -> None:
    host.create(veid, template="busybox")
    forwarding.output(host_dir, "start", veid)
    forwarding.output(host_dir, "set", veid, "--ip", "10.9.0.5")
    forwarding.outside("ping", "-c1", "-W5", "10.9.0.5")
    forwarding.output(host_dir, "stop", "--fast", veid)


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--ip-add", "10.9.0.77"), "VE 1 has it"),
        (("--ip-add", "10.9.0.5"), "it is there twice"),
        (("--ip-del", "10.9.0.9"), "it was not given"),
        (("--ip-add", "10.9.0.300"), "it is not an address"),
        (("--ip-add", "auto:none"), "cannot find pool none"),
    ],
)
def test_a_refusal_changes_nothing(
    forwarding: HostNet, host_dir: Path, web: int, words: tuple[str, str], why: str
) -> None:
    with_other = ("link", "add", "venetother", "type", "veth", "peer", "name", "peer0")
    forwarding.run("ip", *with_other)
    forwarding.run("ip", "link", "property", "add", "dev", "venetother", "altname", "venet-0-0-1")
    forwarding.run("ip", "link", "set", "venetother", "up")
    forwarding.run("ip", "route", "add", "10.9.0.77", "dev", "venetother")
    before = forwarding.run("ip", "route").stdout, forwarding.run("ip", "-6", "route").stdout
    refused = forwarding.ve(host_dir, "set", web, *words, "--ip-add", "10.9.0.8", "--save")
    assert refused.returncode != 0 and why in refused.stderr
    assert (forwarding.run("ip", "route").stdout, forwarding.run("ip", "-6", "route").stdout) == before
    assert json.loads(forwarding.output(host_dir, "status", "--json", web))["addresses"] == ["10.9.0.5", "fd00:9::5"]


def by_its_root(forwarding: HostNet, host_dir: Path, veid: int, script: str) -> None:
    """In its network, as one with net_admin could."""
    pid = json.loads(forwarding.output(host_dir, "status", "--json", veid))["pid"]
    forwarding.run("nsenter", f"--net=/proc/{pid}/ns/net", "sh", "-ec", script)


def test_an_interface_that_is_down_comes_up(forwarding: HostNet, host_dir: Path, web: int) -> None:
    by_its_root(forwarding, host_dir, web, "ip link set venet0 down")
    forwarding.output(host_dir, "set", web, "--ip-add", "10.9.0.6", "--ip-add", "fd00:9::6")
    for address in ("10.9.0.6", "fd00:9::6"):
        forwarding.outside("ping", "-c1", "-W5", address)


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("ip link set venet0 down name other0", "no interface with this name"),
        ("ip link set venet0 mtu 1000", "Invalid argument"),
        ("echo 1 >/proc/sys/net/ipv6/conf/venet0/disable_ipv6", "Permission denied"),
    ],
)
def test_an_interface_that_is_another_takes_no_address(
    forwarding: HostNet, host_dir: Path, web: int, script: str, why: str
) -> None:
    by_its_root(forwarding, host_dir, web, script)
    before = routes(forwarding)
    refused = forwarding.ve(host_dir, "set", web, "--ip-add", "fd00:9::6")
    said = f"ve: cannot give fd00:9::6 to {web}: its venet0 is not as it was given ({why})\nhint: ve restart {web}\n"
    assert (refused.returncode, refused.stderr) == (51, said)
    assert routes(forwarding) == before
    forwarding.output(host_dir, "set", web, "--ip-del", "fd00:9::5")
    assert "fd00:9::5" not in routes(forwarding)


@pytest.mark.any_kernel
def test_a_pool_that_somebody_has_removed_stops_no_other_change(
    forwarding: HostNet, host: "ve.Host", host_dir: Path, veid: int, tmp_path: Path
) -> None:
    forwarding.output(host_dir, "network", "add", "default", "--cidr", "10.9.1.0/24")
    env = host.create(veid, template="busybox", addresses=["auto:sticky"])
    forwarding.output(host_dir, "start", veid)
    [address] = env.addresses
    [kept] = tmp_path.glob("network/**/default*")
    kept.unlink()
    forwarding.output(host_dir, "set", veid, "--rate", "1mbit")
    forwarding.output(host_dir, "set", veid, "--ip-add", "10.9.0.7")
    assert env.addresses == [address, "10.9.0.7"]
    refused = forwarding.ve(host_dir, "set", veid, "--ip-add", "auto:web")
    assert (refused.returncode, "cannot find pool web" in refused.stderr) == (43, True)
    forwarding.output(host_dir, "stop", "--fast", veid)
    assert "cannot find pool default: there is none" in forwarding.ve(host_dir, "start", veid).stderr


# --- ports of the host ----------------------------------------------------------------------------------------------


def serve(forwarding: HostNet, host_dir: Path, veid: int, port: int = 80) -> None:
    """Let it answer HTTP with its VEID."""
    script = f"mkdir -p /www && echo {veid} >/www/index.html && httpd -p {port} -h /www"
    forwarding.output(host_dir, "exec", veid, "sh", "-c", script)


def fetch(where: Callable[..., "subprocess.CompletedProcess[str]"], url: str) -> str:
    """What is there; nothing if nobody answers."""
    return where("curl", "-sS", "--noproxy", "*", "--max-time", "10", url, check=False).stdout.strip()


def test_a_published_port_leads_to_it(forwarding: HostNet, host_dir: Path, web: int) -> None:
    serve(forwarding, host_dir, web)
    assert fetch(forwarding.outside, "http://192.0.2.1:8080/") == ""
    forwarding.output(host_dir, "set", web, "--publish", "8080:80")
    for url in ("http://192.0.2.1:8080/", "http://[2001:db8::1]:8080/"):
        assert fetch(forwarding.outside, url) == str(web)
    for url in ("http://127.0.0.1:8080/", "http://192.0.2.1:8080/", "http://[2001:db8::1]:8080/"):
        assert fetch(forwarding.run, url) == str(web)
    forwarding.output(host_dir, "set", web, "--publish", "8081:80")
    assert fetch(forwarding.outside, "http://192.0.2.1:8080/") == ""
    assert fetch(forwarding.outside, "http://192.0.2.1:8081/") == str(web)


@pytest.mark.any_kernel
def test_a_published_port_follows_a_change_of_address(forwarding: HostNet, host_dir: Path, web: int) -> None:
    serve(forwarding, host_dir, web)
    forwarding.output(host_dir, "set", web, "--publish", "8080:80")
    forwarding.output(host_dir, "set", web, "--ip-del", "10.9.0.5", "--ip-add", "10.9.0.50")
    assert fetch(forwarding.outside, "http://192.0.2.1:8080/") == str(web)


@pytest.mark.any_kernel
def test_a_published_port_leads_to_what_was_named_first(
    forwarding: HostNet, host: "ve.Host", host_dir: Path, veid: int
) -> None:
    env = host.create(veid, template="busybox", addresses=["10.9.0.5"], publish=["8080:80"])
    forwarding.output(host_dir, "start", veid)
    forwarding.output(host_dir, "set", veid, "--ip", "10.9.0.6", "--ip", "10.9.0.5", "--save")
    for _ in range(2):
        assert "8080 : 10.9.0.6 . 80" in forwarding.run("nft", "list", "map", "inet", "ve", "published4").stdout
        assert env.addresses == ["10.9.0.6", "10.9.0.5"]
        forwarding.output(host_dir, "restart", "--fast", veid)
    forwarding.output(host_dir, "stop", "--fast", veid)


@pytest.mark.any_kernel
def test_a_port_is_published_from_the_start_and_not_twice(
    forwarding: HostNet, host: "ve.Host", host_dir: Path, web: int
) -> None:
    forwarding.output(host_dir, "set", web, "--publish", "8080:80", "--save")
    forwarding.output(host_dir, "restart", "--fast", web)
    serve(forwarding, host_dir, web)
    assert fetch(forwarding.outside, "http://192.0.2.1:8080/") == str(web)
    other = host.create(web + 5000, template="busybox", addresses=["10.9.0.9"], publish=["8080:81"])
    try:
        refused = forwarding.ve(host_dir, "start", other.veid)
        assert refused.returncode == 44
        said = f"ve: cannot publish port 8080/tcp of {other.veid}: it leads to 10.9.0.5 port 80, of VE {web}\n"
        assert refused.stderr.startswith(said)
        assert forwarding.run("ip", "route", "show", "10.9.0.9").stdout == ""
    finally:
        other.destroy()


# --- ports of those that died ---------------------------------------------------------------------------------------


@pytest.mark.any_kernel
@pytest.mark.parametrize("verb", [("destroy",), ("start",)], ids=" ".join)
def test_clearing_a_dead_ve_leaves_another_its_ports(
    forwarding: HostNet, host: "ve.Host", host_dir: Path, veid: int, verb: tuple[str, ...]
) -> None:
    """One dies, and what it had been leased another is given, who publishes by it: the port is the living one's."""
    forwarding.output(host_dir, "network", "add", "default", "--cidr", "10.9.1.0/29")
    dead = host.create(veid, template="busybox", addresses=["auto"], publish=["8080:80"])
    forwarding.output(host_dir, "start", veid)
    about = json.loads(forwarding.output(host_dir, "status", "--json", veid))
    kill(about["pid"])
    [address] = about["addresses"]
    other = host.create(veid + 5000, template="busybox", addresses=[address], publish=["8080:80"])
    try:
        forwarding.output(host_dir, "start", other.veid)
        serve(forwarding, host_dir, other.veid)
        assert fetch(forwarding.outside, "http://192.0.2.1:8080/") == str(other.veid)
        forwarding.ve(host_dir, *verb, dead.veid)
        assert fetch(forwarding.outside, "http://192.0.2.1:8080/") == str(other.veid)
    finally:
        for each in (host.get(veid) for veid in host.state.veids()):
            if each.pid:
                forwarding.output(host_dir, "stop", "--fast", each.veid)
        other.destroy()


def kill(pid: int) -> None:
    """The init of a VE; it has ended when this returns."""
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGKILL)
        select.select([pidfd], [], [])
    finally:
        os.close(pidfd)


# --- changes that are refused, and in which order they are made -----------------------------------------------------


def routes(forwarding: HostNet) -> str:
    """By which the host leads to VEs."""
    shown = [forwarding.run("ip", family, "route").stdout for family in ("-4", "-6")]
    return "".join(line for line in "".join(shown).splitlines(keepends=True) if "dev venet" in line)


@pytest.mark.any_kernel
def test_a_refused_change_leaves_ports_addresses_and_claims(
    forwarding: HostNet, host: "ve.Host", host_dir: Path, veid: int, tmp_path: Path
) -> None:
    forwarding.output(host_dir, "network", "add", "default", "--cidr", "10.9.1.0/24")
    env = host.create(veid, template="busybox", addresses=["auto", "fd00:9::5"], publish=["8080:80"])
    forwarding.output(host_dir, "start", veid)
    serve(forwarding, host_dir, veid)
    forwarding.output(host_dir, "set", veid, "--ip-add", "10.9.0.7")
    before = routes(forwarding), env.addresses
    with forwarding.call(socket.create_server, ("192.0.2.1", 9022)):
        words = ("--ip", "10.9.0.6", "--ip", "fd00:9::6", "--publish", "9022:22", "--rate", "10mbit")
        refused = forwarding.ve(host_dir, "set", veid, *words)
    assert refused.stderr.startswith(
        f"ve: cannot publish port 9022/tcp of {veid}: a process of the host listens there\n"
    )
    assert (routes(forwarding), env.addresses) == before
    assert (tmp_path / "network/address/10.9.0.7").readlink() == host_dir / f"conf/{veid}.toml"
    for url in ("http://192.0.2.1:8080/", "http://[2001:db8::1]:8080/"):
        assert fetch(forwarding.outside, url) == str(veid)
    forwarding.output(host_dir, "stop", "--fast", veid)


@pytest.mark.any_kernel
def test_ports_go_before_their_address(
    forwarding: HostNet, host: "ve.Host", host_dir: Path, web: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the address is given back, nothing leads to it any more, but to its VE's other one."""
    forwarding.output(host_dir, "set", web, "--publish", "8080:80")
    shown, give_back = [], venet.give_back

    def given_back(name: str, address: Address) -> None:
        shown.append(forwarding.run("nft", "list", "map", "inet", "ve", "published4").stdout)
        give_back(name, address)

    monkeypatch.setattr(venet, "give_back", given_back)
    forwarding.call(host.get(web).set, add_addresses=["10.9.0.6"], remove_addresses=["10.9.0.5"])
    assert len(shown) == 1 and "tcp . 8080 : 10.9.0.6 . 80" in shown[0] and "10.9.0.5" not in shown[0]


@pytest.mark.any_kernel
def test_an_address_gets_another_length_or_word(
    forwarding: HostNet, host: "ve.Host", host_dir: Path, web: int, tmp_path: Path
) -> None:
    forwarding.output(host_dir, "network", "add", "default", "--cidr", "10.9.1.0/24")
    before = routes(forwarding)
    forwarding.output(host_dir, "set", web, "--ip", "10.9.0.5/24", "--ip", "fd00:9::5/64", "--save")
    shown = forwarding.output(host_dir, "exec", web, "ip", "address", "show", "dev", "venet0")
    assert [line.split()[1] for line in shown.splitlines() if " global" in line] == ["10.9.0.5/24", "fd00:9::5/64"]
    assert routes(forwarding) == before
    forwarding.outside("ping", "-c1", "-W5", "10.9.0.5")
    forwarding.outside("ping", "-c1", "-W5", "fd00:9::5")

    forwarding.output(host_dir, "set", web, "--ip", "auto")
    before, [auto] = routes(forwarding), host.get(web).addresses
    refused = forwarding.ve(host_dir, "set", web, "--ip-add", auto)
    assert refused.stderr.startswith(f"ve: cannot give {auto} to {web}: it has that already, by another word\n")
    forwarding.output(host_dir, "set", web, "--ip", auto, "--save")
    assert routes(forwarding) == before
    assert host.get(web).addresses == [auto]
    assert (tmp_path / "network/address" / auto).readlink() == host_dir / f"conf/{web}.toml"
    forwarding.outside("ping", "-c1", "-W5", auto)


@pytest.mark.any_kernel
def test_of_two_of_a_network_the_second_stays_when_the_first_goes(
    forwarding: HostNet, host_dir: Path, web: int
) -> None:
    """The kernel takes both, as the one is secondary to the other."""
    forwarding.output(host_dir, "set", web, "--ip", "10.9.0.7/24", "--ip", "10.9.0.8/24")
    forwarding.output(host_dir, "set", web, "--ip-del", "10.9.0.7/24")
    forwarding.outside("ping", "-c1", "-W5", "10.9.0.8")


# --- changes that are killed ----------------------------------------------------------------------------------------


def set_killed(forwarding: HostNet, host_dir: Path, veid: int, point: str, turn: int = 1, **asked: list[str]) -> None:
    """Who changes it is killed when it comes to this function for the so-many-th time."""
    program = f"""
import itertools, os, signal
import ve
from ve import granting, rtnetlink, settings, venet, wire
work, turns = {point}, itertools.count(1)
def killed(*words, **options):
    if next(turns) == {turn}:
        os.kill(os.getpid(), signal.SIGKILL)
    return work(*words, **options)
{point} = killed
ve.Host({str(host_dir)!r}).get({veid}).set(**{asked!r})
"""
    done = forwarding.run(sys.executable, "-c", program, check=False)
    assert done.returncode == -9, done.stderr


@pytest.mark.any_kernel
@pytest.mark.parametrize("point", ["rtnetlink.no_own_address", "granting.add", "settings._note"])
def test_a_first_address_that_was_killed_is_given_anew(
    forwarding: HostNet, host: "ve.Host", host_dir: Path, veid: int, point: str
) -> None:
    env = host.create(veid, template="busybox")
    forwarding.output(host_dir, "start", veid)
    set_killed(forwarding, host_dir, veid, point, add_addresses=["10.9.0.5"])
    forwarding.output(host_dir, "set", veid, "--ip-add", "10.9.0.6")
    forwarding.run("ping", "-c1", "-W5", "10.9.0.6")
    assert env.addresses == ["10.9.0.6"]
    assert [line.split()[0] for line in routes(forwarding).splitlines() if "10.9" in line] == ["10.9.0.6"]
    forwarding.output(host_dir, "stop", "--fast", veid)


@pytest.mark.any_kernel
def test_a_first_address_that_fails_leaves_no_interface(
    forwarding: HostNet, host: "ve.Host", host_dir: Path, veid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = host.create(veid, template="busybox")
    forwarding.output(host_dir, "start", veid)

    def fail(index: int) -> bytes:
        raise OSError(errno.ENOMEM, "no")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no"):
        patch.setattr(rtnetlink, "up", fail)
        forwarding.call(env.set, add_addresses=["10.9.0.5"])
    assert "venet" not in forwarding.run("ip", "link").stdout
    forwarding.output(host_dir, "set", veid, "--ip-add", "10.9.0.5")
    forwarding.run("ping", "-c1", "-W5", "10.9.0.5")
    forwarding.output(host_dir, "stop", "--fast", veid)


@pytest.mark.any_kernel
@pytest.mark.parametrize("turn", [1, 2], ids=["given, not noted", "taken, not noted"])
def test_a_killed_change_of_addresses_is_made_anew(
    forwarding: HostNet, host: "ve.Host", host_dir: Path, web: int, turn: int
) -> None:
    asked = {"add_addresses": ["10.9.0.6"], "remove_addresses": ["10.9.0.5"]}
    set_killed(forwarding, host_dir, web, "settings._note", turn, **asked)
    forwarding.output(host_dir, "set", web, "--ip", "10.9.0.5", "--ip", "10.9.0.7", "--ip", "fd00:9::5")
    for address in ("10.9.0.5", "10.9.0.7"):
        forwarding.run("ping", "-c1", "-W5", address)
    shown = sorted(line.split()[0] for line in routes(forwarding).splitlines() if "10.9" in line)
    assert shown == ["10.9.0.5", "10.9.0.7"]
    assert sorted(host.get(web).addresses) == ["10.9.0.5", "10.9.0.7", "fd00:9::5"]


@pytest.mark.any_kernel
def test_an_address_that_was_taken_by_half_is_answered_for_no_more(
    forwarding: HostNet, host_dir: Path, web: int
) -> None:
    forwarding.output(host_dir, "set", web, "--ip-add", "192.0.2.77")
    set_killed(forwarding, host_dir, web, "wire.unproxy", remove_addresses=["192.0.2.77"])
    assert "192.0.2.77" in forwarding.run("ip", "neighbour", "show", "proxy").stdout
    forwarding.output(host_dir, "set", web, "--ip-add", "10.9.0.6")
    assert forwarding.run("ip", "neighbour", "show", "proxy").stdout == ""


@pytest.mark.any_kernel
def test_a_change_that_fails_late_leaves_no_address_inside(
    forwarding: HostNet, host: "ve.Host", host_dir: Path, web: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(link: str, address: Address) -> None:
        raise OSError(errno.ENOMEM, "no")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no"):
        patch.setattr(wire, "announce", fail)
        forwarding.call(host.get(web).set, add_addresses=["192.0.2.77"])
    assert "192.0.2.77" not in forwarding.output(host_dir, "exec", web, "ip", "address")
    assert forwarding.run("ip", "neighbour", "show", "proxy").stdout == ""


@pytest.mark.any_kernel
def test_another_interface_is_as_fast(forwarding: HostNet, host_dir: Path, web: int) -> None:
    """Its root, or the admin, has deleted the one that was."""
    forwarding.output(host_dir, "set", web, "--rate", "10mbit")
    [name] = {line.split()[2] for line in routes(forwarding).splitlines()}
    forwarding.run("ip", "link", "delete", name)
    forwarding.output(host_dir, "set", web, "--ip-add", "10.9.0.6")
    for address in ("10.9.0.5", "10.9.0.6"):
        forwarding.run("ping", "-c1", "-W5", address)
    shown = forwarding.run("tc", "qdisc", "show").stdout
    assert shown.count("rate 10Mbit") == 2 and name not in shown


@pytest.mark.any_kernel
def test_a_rate_waits_for_the_first_address(forwarding: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> None:
    host.create(veid, template="busybox")
    forwarding.output(host_dir, "start", veid)
    forwarding.output(host_dir, "set", veid, "--rate", "10mbit")
    forwarding.output(host_dir, "set", veid, "--ip-add", "10.9.0.5")
    assert forwarding.run("tc", "qdisc", "show").stdout.count("rate 10Mbit") == 2
    forwarding.run("ping", "-c1", "-W5", "10.9.0.5")
    forwarding.output(host_dir, "stop", "--fast", veid)


@pytest.mark.any_kernel
def test_another_shape_waits_for_the_next_start(bridged: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> None:
    """With it its addresses, which are no routed VE's."""
    env = host.create(veid, template="busybox", addresses=["10.9.0.5"])
    bridged.output(host_dir, "start", veid)
    before = routes(bridged)
    asked = ("--network", "bridge:br0", "--ip", "192.0.2.50/24")
    refused = bridged.ve(host_dir, "set", veid, *asked)
    assert refused.stderr.startswith(f"ve: cannot set addresses, network of {veid} without --save")
    bridged.output(host_dir, "set", veid, *asked, "--save")
    assert (routes(bridged), env.addresses) == (before, ["10.9.0.5"])
    bridged.output(host_dir, "restart", "--fast", veid)
    assert (routes(bridged), env.addresses) == ("", ["192.0.2.50/24"])
    bridged.outside("ping", "-c1", "-W10", "192.0.2.50")
    bridged.output(host_dir, "stop", "--fast", veid)


# --- what a start finds after a boot --------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_a_host_that_cannot_forward_is_asked_at_each_start(
    hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int
) -> None:
    """As after a boot, where the first start makes what `ve network add --nat` made."""
    hostnet.output(host_dir, "network", "add", "default", "--cidr", "fd00:9::/64", "--nat")
    host.create(veid, template="busybox", addresses=["auto"])
    hostnet.run("nft", "flush", "ruleset")
    hostnet.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=0", "net.ipv6.conf.eth0.accept_ra=1")
    hostnet.run("ip", "-6", "route", "replace", "default", "via", "2001:db8::9", "dev", "eth0", "proto", "ra")
    for _ in range(2):
        refused = hostnet.ve(host_dir, "start", veid)
        assert "cannot let pool default reach out: a host that forwards IPv6 loses" in refused.stderr
    hostnet.run("sysctl", "-qw", "net.ipv6.conf.eth0.accept_ra=2")
    hostnet.output(host_dir, "start", veid)
    assert hostnet.run("sysctl", "-n", "net.ipv6.conf.all.forwarding").stdout == "1\n"
    assert hostnet.output(host_dir, "exec", veid, "ping", "-c1", "-W5", "2001:db8::9")
    hostnet.output(host_dir, "stop", "--fast", veid)


# --- its own addresses only -----------------------------------------------------------------------------------------


@pytest.fixture
def admin(forwarding: HostNet, host_dir: Path, web: int) -> int:
    """A VE whose root may change its network, and so gives itself what it likes."""
    forwarding.output(host_dir, "set", web, "--capability", "net_admin:on", "--save")
    forwarding.output(host_dir, "restart", "--fast", web)
    return web


def test_no_address_but_its_own_gets_out(forwarding: HostNet, host_dir: Path, admin: int) -> None:
    script = "ip address add 10.9.0.66/32 dev venet0; ping -c3 -W1 -I 10.9.0.66 192.0.2.9; ping -c1 -W5 192.0.2.9"
    with forwarding.watching("icmp") as seen:
        forwarding.output(host_dir, "exec", admin, "sh", "-c", script)
    assert {line.split()[2] for line in seen if "echo request" in line} == {"10.9.0.5"}


@pytest.mark.any_kernel
def test_without_our_rules_it_would(forwarding: HostNet, host_dir: Path, admin: int) -> None:
    forwarding.run("nft", "delete", "table", "inet", "ve")
    script = "ip address add 10.9.0.66/32 dev venet0; ping -c1 -W1 -I 10.9.0.66 192.0.2.9; ping -c1 -W5 192.0.2.9"
    with forwarding.watching("icmp") as seen:
        forwarding.output(host_dir, "exec", admin, "sh", "-c", script)
    assert "10.9.0.66" in {line.split()[2] for line in seen if "echo request" in line}


@pytest.mark.any_kernel
def test_a_start_makes_the_rules_that_somebody_flushed(forwarding: HostNet, host_dir: Path, web: int) -> None:
    forwarding.run("nft", "flush", "ruleset")
    forwarding.output(host_dir, "restart", "--fast", web)
    assert "table inet ve" in forwarding.run("nft", "list", "tables").stdout


# --- what it sent ---------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_traffic_is_counted_over_restarts_and_deaths(forwarding: HostNet, host_dir: Path, web: int) -> None:
    def pings(count: int) -> None:
        forwarding.output(host_dir, "exec", web, "ping", "-c", count, "-s", 1000, "-W5", "192.0.2.9")

    def came() -> int:  # and went: but IPv6 says something of itself too
        traffic = json.loads(forwarding.output(host_dir, "status", "--json", web))["traffic"]
        assert traffic["sent_packets"] >= traffic["received_packets"] and traffic["sent"] >= traffic["received"]
        return int(traffic["received_packets"])

    pings(3)
    assert came() == 3
    forwarding.output(host_dir, "stop", "--fast", web)
    assert came() == 3
    forwarding.output(host_dir, "start", web)
    pings(2)
    os.kill(json.loads(forwarding.output(host_dir, "status", "--json", web))["pid"], signal.SIGKILL)
    forwarding.ve(host_dir, "start", web)
    assert came() == 5
    listed = forwarding.output(host_dir, "list", "-H", "-o", "veid,received").split()
    assert listed[listed.index(str(web)) + 1] == str(5 * 1028)


# --- the library ----------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_a_program_changes_its_network(forwarding: HostNet, host: "ve.Host", host_dir: Path, web: int) -> None:
    env = host.get(web)
    [lease] = forwarding.call(env.network.add_address, "10.9.0.60")
    assert (str(lease.address), lease.veid, lease.interface) == ("10.9.0.60", web, env.network.interface)
    serve(forwarding, host_dir, web)
    assert fetch(forwarding.outside, "http://10.9.0.60/") == str(web)
    forwarding.call(env.publish, "8080:80")
    forwarding.call(env.network.publish, "8081:80")
    for number in (8080, 8081):
        assert fetch(forwarding.outside, f"http://192.0.2.1:{number}/") == str(web)
    forwarding.call(env.network.unpublish, "8080:80")
    assert fetch(forwarding.outside, "http://192.0.2.1:8080/") == ""
    forwarding.call(env.network.remove_address, "10.9.0.60")
    assert forwarding.run("ip", "route", "show", "10.9.0.60").stdout == ""
    with pytest.raises(ve.errors.InvalidValue, match="it was not given"):
        forwarding.call(env.network.unpublish, "8080:80")


@pytest.mark.any_kernel
def test_a_port_is_saved_without_others(forwarding: HostNet, host: "ve.Host", host_dir: Path, web: int) -> None:
    """And two programs that publish lose neither: each says what it adds, and not what there is to be."""
    env = host.get(web)
    forwarding.call(env.publish, "8080:80")
    forwarding.call(env.publish, "8081:80", save=True)
    assert env.config.publish == ("8081:80",)
    forwarding.call(env.publish, "8080:80", save=True)
    with pytest.raises(ve.errors.InvalidValue, match="8080:80 has port 8080/tcp already"):
        forwarding.call(env.publish, "8080:90")
    words = ["import sys, ve", f"ve.Host({str(host_dir)!r}).get({web}).publish(sys.argv[1])"]
    programs = [
        subprocess.Popen([*forwarding.words, sys.executable, "-c", "\n".join(words), f"{number}:80"])
        for number in range(9001, 9007)
    ]
    assert [each.wait() for each in programs] == [0] * 6
    forwarding.call(env.network.unpublish, "8081:80", save=True)
    assert env.config.publish == ("8080:80",)
    serve(forwarding, host_dir, web)
    for number in (8080, *range(9001, 9007)):
        assert fetch(forwarding.outside, f"http://192.0.2.1:{number}/") == str(web)
    assert fetch(forwarding.outside, "http://192.0.2.1:8081/") == ""


@pytest.mark.any_kernel
def test_a_rate_is_there_from_the_start_and_changes(forwarding: HostNet, host_dir: Path, web: int) -> None:
    """That it holds is tests/kernel/test_bandwidth.py's; here tc(8) is asked what there is, on both sides."""
    forwarding.output(host_dir, "set", web, "--rate", "10mbit", "--save")
    forwarding.output(host_dir, "restart", "--fast", web)
    shown = forwarding.run("tc", "qdisc", "show").stdout
    assert shown.count("rate 10Mbit") == 2
    forwarding.output(host_dir, "set", web, "--rate", "20mbit")
    assert forwarding.run("tc", "qdisc", "show").stdout.count("rate 20Mbit") == 2
    forwarding.output(host_dir, "set", web, "--rate", "")
    assert "rate" not in forwarding.run("tc", "qdisc", "show").stdout
    assert "vi" not in forwarding.run("ip", "-br", "link").stdout


def test_ports_of_an_address_that_is_not_kept(hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int) -> None:
    """And both can go when somebody has flushed the rules."""
    host.create(veid, template="busybox")
    for words in (("start", veid), ("set", veid, "--ip", "10.9.0.61"), ("set", veid, "--publish", "8061:80")):
        hostnet.output(host_dir, *words)
    assert "10.9.0.61 . 80" in hostnet.run("nft", "list", "map", "inet", "ve", "published4").stdout
    refused = hostnet.ve(host_dir, "set", veid, "--ip-del", "all")
    why = f"ve: cannot publish 8061:80 of {veid}: it has no address\nhint: --ip ADDRESS gives it one, --publish"
    assert (refused.returncode, refused.stderr.startswith(why)) == (20, True), refused
    hostnet.run("nft", "flush", "ruleset")
    hostnet.output(host_dir, "set", veid, "--ip-del", "all", "--publish", "")
    assert hostnet.run("ip", "route", "show", "10.9.0.61").stdout == ""


@pytest.mark.any_kernel
def test_an_address_that_is_not_saved_is_no_place_for_ports_that_are(
    hostnet: HostNet, host_dir: Path, make: Make
) -> None:
    env = make()
    hostnet.call(env.start)
    hostnet.output(host_dir, "set", env.veid, "--ip", "10.9.0.5")
    refused = hostnet.ve(host_dir, "set", env.veid, "--publish-add", "8080:80", "--save")
    why = f"ve: cannot publish 8080:80 of {env.veid} for good: its address 10.9.0.5 is not saved\n"
    cure = f"ve set {env.veid} --ip-add 10.9.0.5 --save"
    assert (refused.returncode, refused.stderr) == (20, f"{why}hint: {cure}\n")
    refused = hostnet.ve(host_dir, "set", env.veid, "--publish", "8080:80", "--ip", "", "--save")
    assert "it has no address" in refused.stderr
    hostnet.output(host_dir, *cure.split()[1:])
    hostnet.output(host_dir, "set", env.veid, "--publish-add", "8080:80", "--save")
    assert env.config.publish == ("8080:80",)


@pytest.mark.any_kernel
def test_ports_are_added_removed_and_listed(forwarding: HostNet, host_dir: Path, web: int) -> None:
    def listed() -> list[str]:
        rows = json.loads(commandline.output(host_dir, "list", "--json", "-o", "veid,publish"))
        [ports] = [row["publish"] for row in rows if row["veid"] == web]
        return list(ports)

    def set_(*words: str) -> "subprocess.CompletedProcess[str]":
        return forwarding.ve(host_dir, "set", web, *words)

    serve(forwarding, host_dir, web)
    assert listed() == []
    said = set_("--publish-add", "8080:80", "--publish-add", "8081:80")
    assert (said.returncode, said.stderr) == (0, f"{web}: publish is set\n")
    assert set_("--publish-add", "8082:80/udp", "--publish-del", "8081:80").returncode == 0
    assert listed() == ["8080:80", "8082:80/udp"]
    assert fetch(forwarding.outside, "http://192.0.2.1:8080/") == str(web)
    for words, why in {
        ("--publish-del", "8081:80"): f"cannot take 8081:80 from {web}: it was not given",
        ("--publish-del", "8080"): "cannot publish '8080': it is not HOSTPORT:PORT",
        ("--publish-add", "8080:81"): "cannot publish 8080:81: 8080:80 has port 8080/tcp already",
        ("--publish-add", "0:80"): "cannot publish '0:80': ports are 1 to 65535",
        ("--publish-add", "all"): "cannot publish 'all': it is not HOSTPORT:PORT",
    }.items():
        refused = set_(*words)
        assert refused.returncode == 20 and why in refused.stderr, refused.stderr
    assert listed() == ["8080:80", "8082:80/udp"]
    assert set_("--publish-del", "all").returncode == 0
    assert listed() == [] and fetch(forwarding.outside, "http://192.0.2.1:8080/") == ""
