"""Addresses that many processes want at once, crash with, and give back: the truth is what `ip -j route` says."""

import ipaddress
import json
import os
import random
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SETTLE
from tests.hostnet import HostNet
from tests.kernel.lessees import Lessee, nursery
from ve import addressed, claims, errors, facts, granting, netlink, pool
from ve.state import State

pytestmark = pytest.mark.long  # what takes the emulated CPU minutes

New = Callable[[int], Lessee]
PROCESSES = range(101, 121)


@pytest.fixture
def new(hostnet: HostNet, tmp_path: Path) -> Iterator[New]:
    """new(veid) is a process that may lease on the host that is played."""
    conf = tmp_path / "state" / "conf"
    conf.mkdir(parents=True)

    def new(veid: int) -> Lessee:
        (conf / f"{veid}.toml").touch()  # by which there is such a VE
        return made(tmp_path / "state", veid)

    with nursery(hostnet.words) as made:
        yield new


def make_pool(name: str, *cidrs: str) -> pool.Pool:
    made = pool.Pool(name, tuple(map(ipaddress.ip_network, cidrs)))
    pool.add(made)
    return made


def truth(hostnet: HostNet) -> dict[str, str]:
    """Each address that has a route of its own to a VE's interface, and that interface."""
    found = [each for family in ("-4", "-6") for each in routes(hostnet, family)]
    assert len({each["dst"] for each in found}) == len(found), "the kernel has two routes to one address"
    return {each["dst"]: each["dev"] for each in found}


def routes(hostnet: HostNet, family: str) -> list[dict[str, Any]]:
    shown = json.loads(hostnet.run("ip", "-j", family, "route").stdout or "[]")
    return [each for each in shown if each.get("dev", "").startswith("venet") and "/" not in each["dst"]]


def settled(hostnet: HostNet, wanted: dict[str, str]) -> dict[str, str]:
    """The truth, once the kernel has taken back what the dead had, which it tells nobody."""
    deadline = time.monotonic() + SETTLE
    while (found := truth(hostnet)) != wanted and time.monotonic() < deadline:
        select.select([], [], [], 0.01)
    return found


# ---- twenty at once -------------------------------------------------------------------------------------------------


def rounds(hostnet: HostNet, new: New, number: int) -> None:
    """In each, all of them at once: who has addresses keeps them, gives them back or dies, who has none leases some."""
    make_pool("default", "10.9.0.0/26", "fd00:9::/122")
    chance = random.Random(20000821)
    lessees = {veid: new(veid) for veid in PROCESSES}
    held: dict[int, dict[str, Any]] = {}
    for turn in range(number):
        act = {
            veid: chance.choice(["keep", "release", "die"] if veid in held else ["lease", "die"]) for veid in lessees
        }
        for veid, what in act.items():
            if veid in held and what == "release":
                lessees[veid].release()
            if veid not in held:
                lessees[veid].ask("auto:sticky" if veid % 5 == 0 else "auto")
        for veid in [veid for veid, what in act.items() if what == "die"]:
            lessees[veid].kill()
            lessees[veid] = new(veid)
            held.pop(veid, None)
        for veid in [veid for veid, what in act.items() if what in ("lease", "release")]:
            answer = lessees[veid].answer()
            assert "refused" not in answer, answer
            held.pop(veid, None)
            held |= {veid: answer} if answer else {}
        wanted = expected(held)
        assert wanted.items() <= truth(hostnet).items(), "one is lost"
        if turn % 10 == 9:
            assert settled(hostnet, wanted) == wanted


def expected(held: dict[int, dict[str, Any]]) -> dict[str, str]:
    all_of_them = [address for given in held.values() for address in given["addresses"]]
    assert len(set(all_of_them)) == len(all_of_them) == 2 * len(held), "one is given twice"
    return {address: given["interface"] for given in held.values() for address in given["addresses"]}


@pytest.mark.timeout(1800)
def test_rounds_of_twenty_processes(hostnet: HostNet, new: New) -> None:
    """Fewer than the thousand of make test-long, which take some minutes."""
    number = int(os.environ.get("VE_TEST_ROUNDS", "15"))
    rounds(hostnet, new, number)
    print(f"{number} rounds of {len(PROCESSES)} processes")


def test_of_twenty_for_two_addresses_two_have_one(hostnet: HostNet, new: New) -> None:
    """All look at the same two, so that many have seen one free when the first one takes it."""
    make_pool("default", "10.9.0.0/30")
    lessees = [new(veid) for veid in PROCESSES]
    for _ in range(10):
        for each in lessees:
            each.ask("auto")
        answers = [each.answer() for each in lessees]
        held = {answer["addresses"][0]: answer["interface"] for answer in answers if "refused" not in answer}
        assert len([answer for answer in answers if "refused" not in answer]) == 2
        assert truth(hostnet) == held
        for each in lessees:
            each.release()
            each.answer()


def test_of_twenty_that_want_one_address_one_has_it(hostnet: HostNet, new: New) -> None:
    make_pool("default", "10.9.0.0/26")
    lessees = [new(veid) for veid in PROCESSES]
    for each in lessees:
        each.ask("10.9.0.5")
    answers = {each.veid: each.answer() for each in lessees}
    [(winner, given)] = [(veid, answer) for veid, answer in answers.items() if "refused" not in answer]
    assert truth(hostnet) == {"10.9.0.5": given["interface"]}
    refusals = {answer["refused"] for veid, answer in answers.items() if veid != winner}
    assert refusals == {f"cannot give 10.9.0.5 to {veid}: VE {winner} has it" for veid in answers if veid != winner}


def test_what_was_asked_for_as_such_is_never_leased(hostnet: HostNet, new: New) -> None:
    """Half of them want one address each, the others any of the same pool, where there is just room for all."""
    make_pool("default", "10.9.0.0/27")
    lessees = {veid: new(veid) for veid in PROCESSES}
    wishes = {veid: f"10.9.0.{veid - 100}" if veid % 2 else "auto" for veid in PROCESSES}
    for veid, each in lessees.items():
        each.ask(wishes[veid])
    answers = {veid: each.answer() for veid, each in lessees.items()}
    held = {veid: answer for veid, answer in answers.items() if "refused" not in answer}
    assert {veid for veid in PROCESSES if not veid % 2} <= held.keys()
    assert all(given["addresses"] == [wishes[veid]] for veid, given in held.items() if veid % 2)
    there = [(address, given["interface"]) for given in held.values() for address in given["addresses"]]
    assert len(dict(there)) == len(there) == len(held)
    assert truth(hostnet) == dict(there)


# ---- kill -9 --------------------------------------------------------------------------------------------------------


def test_killed_at_any_step_it_leaves_nothing(hostnet: HostNet, new: New, tmp_path: Path) -> None:
    """The next one of this number has what it asks for, and another the rest: two addresses are all that there are."""
    state, kept = State(tmp_path / "state"), tmp_path / "network/address"
    make_pool("default", "10.9.0.0/30")
    for step in range(1, 100):
        killed = new(101)
        killed.ask("auto:sticky", die_at=step)
        answer = killed.answer()
        killed.kill()
        if "refused" not in answer:
            break
        assert settled(hostnet, {}) == {}
        one, other = new(101), new(102)
        for each in (one, other):
            each.ask("auto:sticky")
        given = [each.answer() for each in (one, other)]
        assert sorted(address for each in given for address in each["addresses"]) == ["10.9.0.1", "10.9.0.2"]
        for each in (one, other):
            each.kill()
            claims.release(state, each.veid)
        assert settled(hostnet, {}) == {}
        assert [each.name for each in kept.iterdir() if each.name != ".new"] == []
    assert 15 < step < 99


def test_what_a_dead_ve_has_is_taken_from_it(hostnet: HostNet, new: New, tmp_path: Path) -> None:
    """Its namespace is held, so that the kernel cannot do it."""
    make_pool("default", "10.9.0.0/30")
    dead, other, third = new(101), new(102), new(103)
    for each in (dead, other):
        each.ask("auto")
    its, others = (each.answer() for each in (dead, other))
    with open(f"/proc/{dead.init}/ns/net"):
        note_as_running(State(tmp_path / "state"), dead, its["interface"])
        third.ask("auto")
        assert "none of 2 of IPv4 is free" in third.answer()["refused"]
        dead.kill()
        third.ask("auto")
        given = third.answer()
    assert given["addresses"] == its["addresses"]
    assert truth(hostnet) == {its["addresses"][0]: given["interface"], others["addresses"][0]: others["interface"]}


def note_as_running(state: State, lessee: Lessee, interface: str) -> None:
    start_time = facts.process_start_time(lessee.init)
    assert start_time
    extra = {"home": facts.home(), "interface": interface, "addresses": "{}"}
    noted = facts.Facts(lessee.init, start_time, facts.boot_id(), 0, "busybox:1", "/sbin/init", extra=extra)
    state.write_facts(lessee.veid, noted)


# ---- many -----------------------------------------------------------------------------------------------------------


class Many:
    """Leases for VEs of many numbers by one interface; what each took of messages from and to the kernel."""

    def __init__(self, hostnet: HostNet, lessee: Lessee, state: State) -> None:
        lessee.ask("192.0.2.77")
        self.hostnet, self.state, self.before = hostnet, state, addressed.Given(lessee.answer()["interface"])
        self.pidfd = os.pidfd_open(lessee.init)
        self.messages, self.dumps = 0, 0

    def lease(self, veid: int) -> tuple[str, int]:
        """An address, and how many messages that took."""
        self.messages = 0
        given = self.hostnet.call(granting.add, self.state, veid, self.before, ["auto"], self.pidfd, ephemeral=True)
        return str(given.all()[0]), self.messages


@pytest.fixture
def many(hostnet: HostNet, new: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Many]:
    made = Many(hostnet, new(1), State(tmp_path / "state"))
    ask, get, dump = netlink.ask, netlink.get, netlink.dump

    def counted_ask(channel: socket.socket, *messages: bytes) -> None:
        made.messages += len(messages)
        ask(channel, *messages)

    def counted_get(channel: socket.socket, kind: int, body: bytes) -> memoryview:
        made.messages += 1
        return get(channel, kind, body)

    def counted_dump(channel: socket.socket, kind: int, request: bytes) -> Iterator[memoryview]:
        made.dumps += 1
        for body in dump(channel, kind, request):
            made.messages += 1
            yield body

    monkeypatch.setattr(netlink, "ask", counted_ask)
    monkeypatch.setattr(netlink, "get", counted_get)
    monkeypatch.setattr(netlink, "dump", counted_dump)
    yield made
    os.close(made.pidfd)


def test_a_full_pool(hostnet: HostNet, new: New) -> None:
    """A /29 has room for six; one that leaves makes room for one."""
    make_pool("default", "10.9.0.0/29")
    lessees = [new(veid) for veid in range(101, 109)]
    for each in lessees[:6]:
        each.ask("auto")
    given = [each.answer() for each in lessees[:6]]
    lessees[6].ask("auto")
    assert lessees[6].answer() == {
        "refused": "cannot lease an address of pool default for 107: none of 6 of IPv4 is free"
    }
    lessees[0].release()
    lessees[0].answer()
    for each in lessees[6:]:
        each.ask("auto")
    answers = [each.answer() for each in lessees[6:]]
    [last] = [answer for answer in answers if "refused" not in answer]
    assert last["addresses"] == given[0]["addresses"]
    assert set(truth(hostnet)) == {f"10.9.0.{number}" for number in range(1, 7)}


def test_254_of_a_24(hostnet: HostNet, many: Many) -> None:
    make_pool("default", "10.9.0.0/24")
    taken = [many.lease(veid) for veid in range(101, 355)]
    assert {address for address, _ in taken} == {f"10.9.0.{number}" for number in range(1, 255)}
    assert {f"10.9.0.{number}" for number in range(1, 255)} <= truth(hostnet).keys()
    with pytest.raises(errors.InUse, match="none of 254 of IPv4 is free"):
        many.lease(355)


def test_2000_of_a_20_cost_no_more_for_the_last_than_for_the_first(hostnet: HostNet, many: Many) -> None:
    """Where half is taken, every second address that is asked for is: by two messages more, whatever their number."""
    make_pool("default", "10.9.16.0/20")
    taken = [many.lease(veid) for veid in range(101, 2101)]
    assert len({address for address, _ in taken} & truth(hostnet).keys()) == 2000
    first, last = (sum(messages for _, messages in part) / 200 for part in (taken[:200], taken[-200:]))
    assert first < 8 and last < first + 4
    assert many.dumps == 0


# ---- addresses that are the host's ----------------------------------------------------------------------------------

ITS_OWN = {
    "192.0.2.1": "this host has it itself",
    "2001:db8::1": "this host has it itself",
    "192.0.2.255": "it is a broadcast address of this host",
    "192.0.2.9": "this host sends by it to other networks",
    "2001:db8::9": "this host sends by it to other networks",
    "192.0.2.40": "this host sends by it to other networks",
    "10.9.7.7": "this host has another route to it",
}


@pytest.mark.parametrize("address", ITS_OWN)
def test_what_the_host_has_a_use_for_is_not_given(hostnet: HostNet, new: New, address: str) -> None:
    hostnet.run("ip", "route", "add", "10.9.7.7", "via", "192.0.2.9")
    hops = ("nexthop", "via", "192.0.2.9", "nexthop", "via", "192.0.2.40")
    hostnet.run("ip", "route", "add", "10.77.0.0/16", *hops)
    one = new(101)
    one.ask(address)
    assert one.answer()["refused"] == f"cannot give {address} to 101: {ITS_OWN[address]}"
    assert truth(hostnet) == {}


def test_a_pool_in_the_hosts_own_network(hostnet: HostNet, new: New) -> None:
    """.1 is the host, .9 its gateway: of six that are left, all can be had."""
    make_pool("default", "192.0.2.0/30", "192.0.2.8/29")
    lessees = [new(veid) for veid in range(101, 109)]
    for each in lessees:
        each.ask("auto")
    answers = [each.answer() for each in lessees]
    given = {answer["addresses"][0] for answer in answers if "refused" not in answer}
    assert given == {"192.0.2.2", *(f"192.0.2.{number}" for number in range(10, 15))}
    assert truth(hostnet).keys() == given
