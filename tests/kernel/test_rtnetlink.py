"""Links, addresses and routes as ip(8) sees them; and what is left of pyroute2 when only a part of it was wanted."""

import _thread
import errno
import ipaddress
import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from tests.hostnet import HostNet, entering, namespace
from ve import rtnetlink
from ve.addresses import Address

pytestmark = pytest.mark.long  # what takes the emulated CPU minutes

NAME, MAC = "venetabcdefghi", "02:76:65:00:00:01"
ADDRESSES = [ipaddress.ip_address(each) for each in ("10.9.0.7", "fd00::7")]


def pair(hostnet: HostNet, inside: int, name: str = NAME) -> int:
    """One that is up, into the namespace of this process; the index of its end on the host."""

    def make() -> int:
        with open(f"/proc/{inside}/ns/net") as netns:
            new = rtnetlink.new_pair(name, "venet0", netns.fileno(), MAC, rtnetlink.IFF_NOARP)
            rtnetlink.ask(new, rtnetlink.alternative_name(name, f"long-name-of-{name}"))
        index = socket.if_nametoindex(name)
        rtnetlink.ask(*rtnetlink.no_own_address(index), rtnetlink.up(index))
        return index

    return hostnet.call(make)


def ip(before: list[str], *words: str) -> Any:
    return json.loads(subprocess.run([*before, "ip", "-j", *words], capture_output=True, check=True).stdout or "[]")


def test_one_is_found_by_either_name(hostnet: HostNet) -> None:
    with namespace() as inside:
        index = pair(hostnet, inside)
        for name in (NAME, f"long-name-of-{NAME}"):
            assert rtnetlink.IFINFOMSG.unpack_from(hostnet.call(rtnetlink.look, name))[2] == index
    with pytest.raises(OSError) as refused:
        hostnet.call(rtnetlink.look, "long-name-of-nobody")
    assert refused.value.errno == errno.ENODEV


def test_a_pair_is_born_on_both_sides(hostnet: HostNet) -> None:
    with namespace() as inside:
        index = pair(hostnet, inside)
        [outer] = ip(hostnet.words, "-d", "link", "show", "dev", NAME)
        [inner] = ip(entering(inside), "link", "show", "dev", "venet0")
        [addresses] = ip(hostnet.words, "address", "show", "dev", NAME)
    assert outer["ifindex"] == index
    assert outer["altnames"] == [f"long-name-of-{NAME}"]
    assert outer["address"] == inner["address"] == MAC
    assert "NOARP" in outer["flags"] and "NOARP" in inner["flags"]
    assert "UP" in outer["flags"] and "UP" not in inner["flags"]
    assert outer["inet6_addr_gen_mode"] == "none"
    assert addresses["addr_info"] == []


def test_addresses_and_routes(hostnet: HostNet) -> None:
    gateway = ipaddress.ip_address("169.254.1.1")
    with namespace() as inside:
        index = pair(hostnet, inside)
        hostnet.call(
            rtnetlink.ask,
            rtnetlink.address(rtnetlink.NEWADDR, index, gateway, local=True),
            *(rtnetlink.address(rtnetlink.NEWADDR, index, each) for each in ADDRESSES),
            *(rtnetlink.host_route(rtnetlink.NEWROUTE, index, each) for each in ADDRESSES),
        )
        [shown] = ip(hostnet.words, "address", "show", "dev", NAME)
        there = {(each["local"], each["prefixlen"], each["scope"]) for each in shown["addr_info"]}
        routes = ip(hostnet.words, "route", "show", "dev", NAME) + ip(hostnet.words, "-6", "route", "show", "dev", NAME)
    assert there == {("169.254.1.1", 32, "link"), ("10.9.0.7", 32, "global"), ("fd00::7", 128, "global")}
    assert {each["dst"] for each in routes} >= {"10.9.0.7", "fd00::7"}


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_a_host_route_is_given_to_one(hostnet: HostNet, address: Address) -> None:
    with namespace() as one, namespace() as other:
        first, second = pair(hostnet, one, "venetone"), pair(hostnet, other, "venetother")
        hostnet.call(rtnetlink.ask, rtnetlink.host_route(rtnetlink.NEWROUTE, first, address))
        with pytest.raises(FileExistsError):
            hostnet.call(rtnetlink.ask, rtnetlink.host_route(rtnetlink.NEWROUTE, second, address))
        hostnet.call(rtnetlink.remove_named, "long-name-of-venetone")
        hostnet.call(rtnetlink.ask, rtnetlink.host_route(rtnetlink.NEWROUTE, second, address))
        [left] = ip(hostnet.words, "-6" if address.version == 6 else "-4", "route", "show", str(address))
    assert left["dev"] == "venetother"


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("threads", [True, False])
def test_what_is_removed_is_gone_at_once(hostnet: HostNet, threads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge tells, too, that it has let go of a port, before that is gone.  Who has no more threads waits."""
    if not threads:
        monkeypatch.setattr(_thread, "start_new_thread", no_thread)
    subprocess.run([*hostnet.words, "ip", "link", "add", "red", "type", "bridge"], check=True)
    with namespace() as one, namespace() as other:
        for _ in range(20):
            for inside, name in ((one, "venetone"), (other, "venetother")):
                pair(hostnet, inside, name)
                subprocess.run([*hostnet.words, "ip", "link", "set", name, "master", "red"], check=True)
            hostnet.call(rtnetlink.remove_named, "long-name-of-venetone", "nobody", "long-name-of-venetother")
            assert not {link["ifname"] for link in ip(hostnet.words, "link")} & {"venetone", "venetother"}
    subprocess.run([*hostnet.words, "ip", "link", "delete", "red"], check=True)
    hostnet.call(rtnetlink.remove_named, "nobody")


def test_the_first_refusal_is_told(hostnet: HostNet) -> None:
    with pytest.raises(OSError) as refused:
        hostnet.call(rtnetlink.ask, rtnetlink.delete(999998), rtnetlink.up(999999))
    assert refused.value.errno == errno.ENODEV


LATER = """
import sys
from ve import rtnetlink
rtnetlink.up(1)
assert not any(name.partition(".")[0] == "pyroute2" for name in sys.modules)
import pyroute2
assert pyroute2.netlink.rtnl.ifinfmsg.ifinfmsg and pyroute2.IPRoute
"""


def test_who_imports_pyroute2_later_has_the_whole_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", LATER], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_who_has_imported_it_already_keeps_it() -> None:
    code = "import pyroute2; from ve import rtnetlink; rtnetlink.up(1); import os; print(pyroute2.IPRoute.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stdout) == (0, "IPRoute\n")
