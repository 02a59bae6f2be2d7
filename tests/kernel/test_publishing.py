"""Ports of the host that lead into VEs: who gets there, from where, and who does not any more."""

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tests.hostnet import HostNet
from tests.kernel.netns import PATIENCE, StandIn, routed
from tests.kernel.test_firewall import BLUE, HOST, OUTSIDE, RED, blue, elements, net, nothing, red
from ve import firewall, nftables, publishing
from ve.errors import Exists, InUse, InvalidValue, NotSupported
from ve.ports import Port

pytestmark = pytest.mark.long  # what takes the emulated CPU minutes

__all__ = ["blue", "net", "red"]

WEB, WEB_UDP = Port(8080, 80), Port(8080, 80, "udp")
REDS, BLUES = [ip_address(each) for each in RED], [ip_address(each) for each in BLUE]
LACKING = 0x20 << 8 | 1  # a subsystem of netfilter's that no kernel has
Where = Callable[..., Any]


@contextlib.contextmanager
def serving(where: StandIn | HostNet, word: bytes, port: int = 80, at: str = "") -> Iterator[socket.socket]:
    with where.call(socket.create_server, (at, port), family=socket.AF_INET6, dualstack_ipv6=not at) as server:
        server.settimeout(PATIENCE)
        yield server


def answered(where: Where, address: str, port: int, server: socket.socket) -> str:
    """Who the server thinks that it is who asks from there."""
    with where(socket.create_connection, (address, port), PATIENCE) as client:
        taken, peer = server.accept()
        with taken:
            taken.sendall(b"hello")
            assert client.recv(5) == b"hello"
    return str(peer[0]).removeprefix("::ffff:").partition("%")[0]


def refused(where: Where, address: str, port: int) -> bool:
    try:
        where(socket.create_connection, (address, port), PATIENCE).close()
    except ConnectionRefusedError:
        return True
    return False


def outside(net: HostNet) -> Where:
    return StandIn(net.other).call


def test_from_everywhere(net: HostNet, red: StandIn, blue: StandIn) -> None:
    net.call(publishing.publish, 101, [WEB], REDS, red.name)
    with serving(red, b"red") as server:
        seen = {
            (who, to): answered(where, to, 8080, server)
            for who, where in {"outside": outside(net), "host": net.call, "blue": blue.call, "red": red.call}.items()
            for to in HOST
        }
        here = answered(net.call, "127.0.0.1", 8080, server)
        gateway = answered(blue.call, "169.254.1.1", 8080, server)
    assert seen == {
        **{("outside", to): OUTSIDE[six] for six, to in enumerate(HOST)},
        **{("host", to): to for to in HOST},
        **{("blue", to): BLUE[six] for six, to in enumerate(HOST)},
        **{("red", to): ("169.254.1.1", "fe80::1")[six] for six, to in enumerate(HOST)},
    }
    assert (here, gateway) == ("169.254.1.1", BLUE[0])


def test_with_curl(net: HostNet, red: StandIn, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("the page of red")
    net.call(publishing.publish, 101, [WEB], REDS, red.name)
    words = [*red.words, sys.executable, "-u", "-m", "http.server", "-b", "::", "-d", str(tmp_path), "80"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as web:
        try:
            assert web.stdout and b"Serving" in web.stdout.readline()
            fetch = ("curl", "-sSf", "-m30")
            pages = [net.outside(*fetch, f"http://{to}:8080/page").stdout for to in (HOST[0], f"[{HOST[1]}]")]
            pages.append(net.run(*fetch, "http://127.0.0.1:8080/page").stdout)
        finally:
            web.kill()
    assert pages == ["the page of red"] * 3


def test_the_loopback_of_ipv6_and_other_addresses_are_no_way_in(net: HostNet, red: StandIn, blue: StandIn) -> None:
    net.call(publishing.publish, 101, [WEB], REDS, red.name)
    with serving(red, b"red"):
        assert refused(net.call, "::1", 8080)
        assert refused(outside(net), BLUE[0], 8080)  # another VE's own port
        assert refused(outside(net), HOST[0], 80)


def test_datagrams(net: HostNet, red: StandIn) -> None:
    net.call(publishing.publish, 101, [WEB_UDP], REDS, red.name)
    assert ask(net, red, HOST[0]) == b"red"
    assert ask(net, red, HOST[1]) == b"red"
    assert refused(outside(net), HOST[0], 8080)  # of TCP nothing was said


def ask(net: HostNet, who: StandIn, to: str) -> bytes:
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with (
        outside(net)(socket.socket, family, socket.SOCK_DGRAM) as client,
        who.call(socket.socket, family, socket.SOCK_DGRAM) as server,
    ):
        for each in (client, server):
            each.settimeout(PATIENCE)
        server.bind(("", 80))
        client.sendto(b"who?", (to, 8080))
        _, peer = server.recvfrom(100)
        server.sendto(b"red", peer)
        answer: bytes = client.recv(100)
        return answer


# ---- who has it -----------------------------------------------------------------------------------------------------


def test_a_port_has_one_owner(net: HostNet, red: StandIn, blue: StandIn) -> None:
    net.call(publishing.publish, 101, [WEB], REDS, red.name)
    with pytest.raises(Exists) as refused:
        net.call(publishing.publish, 102, [Port(8081, 80), WEB], BLUES, blue.name)
    assert str(refused.value) == "cannot publish port 8080/tcp of 102: it leads to 10.9.0.1 port 80, of VE 101"
    net.run("ip", "link", "set", "dev", red.name, "alias", "/elsewhere")  # by which it is of another state dir
    with pytest.raises(Exists, match=r"of VE 101 of /elsewhere$"):
        net.call(publishing.publish, 102, [WEB], BLUES, blue.name)
    assert published(net) == {("tcp", 8080): RED}
    assert not os.path.exists(firewall.record(BLUES[0]))
    net.call(publishing.publish, 101, [WEB], REDS, red.name)  # as it is
    net.call(publishing.publish, 102, [WEB_UDP], BLUES, blue.name)
    assert published(net) == {("tcp", 8080): RED, ("udp", 8080): BLUE}


def published(net: HostNet) -> dict[tuple[str, int], tuple[str, str]]:
    """Where each port leads, by both families."""
    four, six = (
        {tuple(key["concat"]): value["concat"][0] for key, value in elements(net, f"published{version}")}
        for version in (4, 6)
    )
    assert four.keys() == six.keys()
    return {key: (four[key], six[key]) for key in four}


def test_a_dead_ones_port_is_taken_over(net: HostNet, blue: StandIn) -> None:
    with routed(net, 101, *RED) as red:
        net.call(publishing.publish, 101, [WEB, Port(8081, 81)], REDS, red.name)
    net.call(publishing.publish, 102, [WEB], BLUES, blue.name)
    assert published(net) == {("tcp", 8080): BLUE}
    with serving(blue, b"blue") as server:
        assert answered(outside(net), HOST[0], 8080, server) == OUTSIDE[0]
        assert answered(blue.call, HOST[1], 8080, server) == "fe80::1"
    assert elements(net, "itself4") == [{"concat": [BLUE[0], BLUE[0]]}]


def test_a_host_process_that_listens_keeps_its_port(net: HostNet, red: StandIn) -> None:
    for at in ("::", "::1"):
        with serving(net, b"host", 8080, at), pytest.raises(InUse, match="8080/tcp of 101: a process of") as refused:
            net.call(publishing.publish, 101, [WEB], REDS, red.name)
        assert refused.value.hint == "another port; ss -lntp 'sport = :8080' shows it"
    with net.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 8080))
        with pytest.raises(InUse, match="8080/udp"):
            net.call(publishing.publish, 101, [WEB_UDP], REDS, red.name)
        net.call(publishing.publish, 101, [WEB], REDS, red.name)
    assert published(net) == {("tcp", 8080): RED}


def test_who_only_connects_does_not_keep_a_port(net: HostNet, red: StandIn) -> None:
    with serving(StandIn(net.other), b"outside") as server, net.call(socket.socket) as sock:
        sock.bind(("", 8080))
        sock.connect((OUTSIDE[0], 80))
        server.accept()[0].close()
        net.call(publishing.publish, 101, [WEB], REDS, red.name)
    assert published(net) == {("tcp", 8080): RED}


def test_bad_wishes(net: HostNet, red: StandIn) -> None:
    with pytest.raises(InvalidValue, match="has no address"):
        net.call(publishing.publish, 101, [WEB], [], red.name)
    net.call(publishing.publish, 101, [], REDS, red.name)
    assert published(net) == {}


# ---- and has it no more ---------------------------------------------------------------------------------------------


def test_unpublished(net: HostNet, red: StandIn) -> None:
    net.call(publishing.publish, 101, [WEB, Port(8081, 81)], REDS, red.name)
    net.call(publishing.unpublish, [WEB], REDS)
    assert published(net) == {("tcp", 8081): RED}
    assert refused(outside(net), HOST[0], 8080)
    net.call(publishing.unpublish, [Port(8081, 81), Port(1, 1)], REDS)
    assert published(net) == {}
    assert elements(net, "itself4") == elements(net, "itself6") == []
    assert os.listdir(os.path.dirname(firewall.record(REDS[0]))) == []


@pytest.mark.parametrize("six", (False, True), ids=("IPv4", "IPv6"))
def test_a_published_port_never_reaches_a_stranger(net: HostNet, six: bool) -> None:
    """Not even by a connection that the kernel still knows."""
    family = socket.AF_INET6 if six else socket.AF_INET
    with outside(net)(socket.socket, family, socket.SOCK_DGRAM) as client:
        client.bind(("", 5000))
        with routed(net, 101, RED[six]) as first, first.call(socket.socket, family, socket.SOCK_DGRAM) as server:
            net.call(publishing.publish, 101, [WEB_UDP], [REDS[six]], first.name)
            server.settimeout(PATIENCE)
            server.bind(("", 80))
            client.sendto(b"for the first", (HOST[six], 8080))
            assert server.recv(100) == b"for the first"
        net.call(publishing.forget_dead, REDS[six])
        with routed(net, 102, RED[six]) as second, second.call(socket.socket, family, socket.SOCK_DGRAM) as server:
            server.settimeout(PATIENCE)
            server.bind(("", 80))
            client.sendto(b"for the first", (HOST[six], 8080))
            client.sendto(b"for the second", (RED[six], 80))
            assert server.recv(100) == b"for the second"


@pytest.mark.parametrize("six", (False, True), ids=("IPv4", "IPv6"))
@pytest.mark.parametrize("who", ("host", "blue"))
def test_a_dead_ones_port_does_not_lead_out_of_the_host(net: HostNet, blue: StandIn, who: str, six: bool) -> None:
    """The kernel takes its interface before anybody takes the port; the LAN has somebody at its address."""
    address, family = ("192.0.2.77", "2001:db8::77")[six], (socket.AF_INET, socket.AF_INET6)[six]
    net.outside("ip", "address", "add", f"{address}/{128 if six else 32}", "dev", "eth0", *(["nodad"] if six else []))
    with routed(net, 101, address) as dead:
        net.call(publishing.publish, 102, [WEB_UDP], [ip_address(address)], dead.name)
    where = net.call if who == "host" else blue.call
    with outside(net)(socket.socket, family, socket.SOCK_DGRAM) as stranger:
        stranger.settimeout(PATIENCE)
        stranger.bind(("", 80))
        with where(socket.socket, family, socket.SOCK_DGRAM) as client:
            with contextlib.suppress(PermissionError):  # what a dropped packet is to a sender of the host's
                client.sendto(b"for the dead", (HOST[six], 8080))
            client.sendto(b"for the stranger", (address, 80))
        assert stranger.recv(100) == b"for the stranger"


def test_of_two_that_had_an_address_the_dead_one_takes_nothing(net: HostNet) -> None:
    with routed(net, 101, RED[0]) as dead:
        net.call(publishing.publish, 101, [WEB, Port(8081, 81)], REDS[:1], dead.name)
    with routed(net, 102, RED[0]) as second:
        net.call(publishing.publish, 101, [WEB], REDS[:1], second.name)
        net.call(publishing.forget, REDS[0], dead.name)
        net.call(publishing.forget_dead, REDS[0])
        four = {tuple(key["concat"]): value["concat"] for key, value in elements(net, "published4")}
        assert four == {("tcp", 8080): [RED[0], 80]}
        assert elements(net, "itself4") == [{"concat": [RED[0], RED[0]]}]
    net.call(publishing.forget_dead, REDS[0])
    assert elements(net, "published4") == elements(net, "itself4") == []


def test_a_port_moves_within_its_ve(net: HostNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one address to another, at once or not at all."""

    def fail(_: str) -> None:
        raise OSError("no")

    with routed(net, 101, RED[0], BLUE[0]) as red:
        net.call(publishing.publish, 101, [WEB, Port(8081, 81)], REDS[:1], red.name)
        net.call(publishing.publish, 101, [WEB], BLUES[:1], red.name)
        four = {tuple(key["concat"]): value["concat"] for key, value in elements(net, "published4")}
        assert four == {("tcp", 8080): [BLUE[0], 80], ("tcp", 8081): [RED[0], 81]}
        with monkeypatch.context() as patch, pytest.raises(OSError, match="no"):
            patch.setattr(publishing, "_route_localnet", fail)
            net.call(publishing.publish, 101, [Port(8081, 81), Port(8082, 82)], BLUES[:1], red.name)
        assert {key["concat"][1]: value["concat"] for key, value in elements(net, "published4")} == {
            8080: [BLUE[0], 80],
            8081: [RED[0], 81],
        }
        net.call(publishing.forget, REDS[0], red.name)
        four = {tuple(key["concat"]): value["concat"] for key, value in elements(net, "published4")}
        assert four == {("tcp", 8080): [BLUE[0], 80]}


def test_forgetting_costs_a_look_where_there_is_nothing(
    net: HostNet, red: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    net.call(publishing.publish, 101, [WEB], REDS, red.name)

    def never(what: str) -> None:
        raise AssertionError(what)

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "alone", never)
        net.call(publishing.forget, BLUES[0], red.name)
        with pytest.raises(AssertionError):
            net.call(publishing.forget, REDS[0], red.name)
    for each in REDS:
        net.call(publishing.forget, each, red.name)
        net.call(publishing.forget, each, red.name)
    assert published(net) == {}


def test_a_kernel_that_does_not_tell_of_connections(
    net: HostNet, red: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is published then; where it was before, it goes all the same."""
    with monkeypatch.context() as patch, pytest.raises(NotSupported, match="does not tell of connections") as refused:
        patch.setattr(publishing, "_CT_GET_STATS", LACKING)
        net.call(publishing.publish, 101, [WEB], REDS, red.name)
    assert "CONFIG_NF_CT_NETLINK" in refused.value.hint
    assert published(net) == {} and not os.path.exists(firewall.record(REDS[0]))
    net.call(publishing.publish, 101, [WEB], REDS, red.name)
    with monkeypatch.context() as patch:
        patch.setattr(publishing, "_CT_GET", LACKING)
        for each in REDS:
            with pytest.raises(NotSupported):
                net.call(publishing.forget, each, red.name)
            net.call(publishing.forget, each, red.name)
    assert published(net) == {}
    assert os.listdir(os.path.dirname(firewall.record(REDS[0]))) == []


@pytest.mark.parametrize("verb", (publishing.forget, publishing.forget_dead))
def test_what_the_kernel_does_not_take_out_is_still_known(
    net: HostNet, monkeypatch: pytest.MonkeyPatch, verb: Callable[..., None]
) -> None:
    change = nftables.change

    def fail(*changes: nftables.Change) -> None:
        if any(each.name == "published4" for each in changes):
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        change(*changes)

    with routed(net, 101, RED[0]) as dead:
        net.call(publishing.publish, 101, [WEB], REDS[:1], dead.name)
    words = (REDS[0], dead.name) if verb is publishing.forget else (REDS[0],)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="buffer"):
        patch.setattr(nftables, "change", fail)
        net.call(verb, *words)
    assert elements(net, "published4") != []
    net.call(verb, *words)
    assert elements(net, "published4") == elements(net, "itself4") == []
    assert os.listdir(os.path.dirname(firewall.record(REDS[0]))) == []


@pytest.mark.parametrize("point", ("_write", "_route_localnet"))
def test_killed_while_it_publishes(net: HostNet, red: StandIn, point: str) -> None:
    """Whatever there is of it is forgotten; here just after what the point does."""
    program = f"""
import os, signal
from ipaddress import ip_address
from ve import publishing
from ve.ports import Port
work = publishing.{point}
def killed(*words):
    work(*words)
    os.kill(os.getpid(), signal.SIGKILL)
publishing.{point} = killed
publishing.publish(101, [Port(8080, 80)], [ip_address(each) for each in {RED!r}], {red.name!r})
"""
    done = net.run(sys.executable, "-c", program, check=False)
    assert done.returncode == -9, done.stderr
    for each in REDS:
        net.call(publishing.forget, each, red.name)
    assert published(net) == {}
    assert elements(net, "itself4") == elements(net, "itself6") == []
    net.call(publishing.publish, 101, [WEB], REDS, red.name)
    assert published(net) == {("tcp", 8080): RED}


def test_a_port_that_leads_elsewhere_in_the_same_ve(net: HostNet, red: StandIn) -> None:
    net.call(publishing.publish, 101, [WEB, Port(8081, 81)], REDS, red.name)
    with pytest.raises(FileNotFoundError):
        net.call(publishing.publish, 101, [Port(8080, 90)], REDS, "venetnobody")
    assert inner(net, 8080) == (80, 80)
    net.call(publishing.publish, 101, [Port(8080, 90)], REDS, red.name)
    net.call(publishing.unpublish, [WEB], REDS)  # which it is no more
    assert inner(net, 8080) == (90, 90)
    with serving(red, b"red", 90) as server:
        assert answered(outside(net), HOST[0], 8080, server) == OUTSIDE[0]
    for each in REDS:
        net.call(publishing.forget, each, red.name)
    assert published(net) == {}


def inner(net: HostNet, port: int) -> tuple[int, ...]:
    found = [elements(net, f"published{version}") for version in (4, 6)]
    return tuple(value["concat"][1] for both in found for key, value in both if key["concat"] == ["tcp", port])


def test_a_failed_one_leaves_nothing(net: HostNet, red: StandIn) -> None:
    with pytest.raises(FileNotFoundError):
        net.call(publishing.publish, 101, [WEB], REDS, "venetnobody")
    assert published(net) == {}
    assert os.listdir(os.path.dirname(firewall.record(REDS[0]))) == []


def test_after_a_flush_a_dead_ones_ports_stay_away(net: HostNet, red: StandIn) -> None:
    with routed(net, 102, *BLUE) as dead:
        net.call(publishing.publish, 102, [Port(8081, 80)], BLUES, dead.name)
    net.call(publishing.publish, 101, [WEB], REDS, red.name)
    net.run("nft", "flush", "ruleset")
    assert net.call(firewall.ensure, nothing)
    assert published(net) == {("tcp", 8080): RED}
    with serving(red, b"red") as server:
        assert answered(red.call, HOST[0], 8080, server) == "169.254.1.1"


def test_of_twenty_one_gets_it(net: HostNet, red: StandIn, blue: StandIn) -> None:
    program = """
import sys
from ipaddress import ip_address
from ve import publishing
from ve.errors import Exists
from ve.ports import Port
try:
    publishing.publish(101, [Port(8080, 80)], [ip_address(sys.argv[2])], sys.argv[1])
    print("mine")
except Exists:
    print("not mine")
"""
    pairs = [(red.name, RED[0]), (blue.name, BLUE[0])] * 5
    started = [
        subprocess.Popen([*net.words, sys.executable, "-c", program, *pair], stdout=subprocess.PIPE, text=True)
        for pair in pairs
    ]
    said = [each.communicate()[0].strip() for each in started]
    [(_, value)] = elements(net, "published4")
    winner = value["concat"][0]
    assert [word == "mine" for word in said] == [address == winner for _, address in pairs]
    assert json.dumps(said).count('"mine"') == 5
