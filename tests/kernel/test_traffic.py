"""What VEs have sent is added up where the kernel forgets it, and it forgets it in time; nft(8) says what it knows."""

import json
from pathlib import Path

import pytest

from tests.hostnet import HostNet
from ve import firewall, nftables, traffic
from ve.facts import Facts
from ve.state import State

LIVING = "venetliving"


@pytest.fixture
def counting(hostnet: HostNet) -> HostNet:
    """With our rules, and one VE that lives."""
    hostnet.call(firewall.ensure, lambda: ())
    count(hostnet, LIVING, 1)
    return hostnet


def count(hostnet: HostNet, interface: str, packets: int) -> None:
    """As if it had sent and received so many packets of a hundred bytes."""
    for name in ("sent", "received"):
        element = f'{{ "{interface}" counter packets {packets} bytes {100 * packets} }}'
        hostnet.run("nft", "add", "element", "inet", "ve", name, element)


def known(hostnet: HostNet, name: str = "sent") -> set[str]:
    """The interfaces that the kernel counts for."""
    [found] = [
        each["set"]
        for each in json.loads(hostnet.run("nft", "-j", "list", "set", "inet", "ve", name).stdout)["nftables"]
        if "set" in each
    ]
    return {each["elem"]["val"] if isinstance(each, dict) else each for each in found.get("elem", [])}


def end(hostnet: HostNet, state: State, interface: str, veid: int = 0) -> None:
    """A VE's, of which this is noted; without VEID one that is thrown away."""
    facts = Facts(1, 1, "", 0, "t:1", "small", extra={"interface": interface, "addresses": "{}"})
    hostnet.call(traffic.note_end, state, veid or 1, facts, ephemeral=not veid)


@pytest.mark.any_kernel
def test_one_end_of_many_sweeps(counting: HostNet, state_dir: Path, tmp_path: Path) -> None:
    state = State(str(state_dir))
    names = [f"venet{each}" for each in range(traffic.MANY)]
    for name in names:
        count(counting, name, 2)
    for name in names[1:]:
        end(counting, state, name)
    assert known(counting) == {LIVING, *names}
    end(counting, state, names[0], 101)
    assert known(counting) == known(counting, "received") == {LIVING}
    assert list((tmp_path / "network/run/counted").iterdir()) == []
    assert counting.call(traffic.total, state, 101, None) == (200, 2, 200, 2)
    end(counting, state, names[0], 101)  # once more, as a command does that finds it dead
    assert counting.call(traffic.total, state, 101, None) == (200, 2, 200, 2)


@pytest.mark.any_kernel
def test_a_look_at_all_sweeps_what_nobody_has_counted_too(counting: HostNet, state_dir: Path) -> None:
    state = State(str(state_dir))
    count(counting, "venetgone", 3)
    for name in ("venetgone", "venetsilent"):
        end(counting, state, name)
    counting.call(traffic.sweep)
    assert known(counting) == {LIVING}
    counting.call(traffic.sweep)


@pytest.mark.any_kernel
def test_another_who_sweeps_at_the_same_time(
    counting: HostNet, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between our look at what there is and its removal."""
    state, change = State(str(state_dir)), nftables.change
    count(counting, "venetgone", 3)
    end(counting, state, "venetgone")

    def later(*changes: nftables.Change) -> None:
        monkeypatch.setattr(nftables, "change", change)
        traffic.sweep()
        change(*changes)

    monkeypatch.setattr(nftables, "change", later)
    counting.call(traffic.sweep)
    assert known(counting) == {LIVING}
