"""What the kernel is asked for all of, while it changes: it says so, and is asked again."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.hostnet import HostNet
from ve import netlink, rtnetlink

MANY = 150  # interfaces, which the kernel tells of in several parts


class Meddled:
    """A channel by which something happens before each second part of an answer is asked for."""

    def __init__(self, channel: socket.socket, meddle: Callable[[], object], *, always: bool) -> None:
        self._channel, self._meddle, self._always = channel, meddle, always
        self._parts, self.asked = 0, 0

    def send(self, data: bytes) -> int:
        self._parts, self.asked = 0, self.asked + 1
        return self._channel.send(data)

    def recvfrom_into(self, *args: Any) -> Any:
        self._parts += 1
        if self._parts == 2 and (self._always or self.asked == 1):
            self._meddle()
        return self._channel.recvfrom_into(*args)


@pytest.fixture
def crowded(hostnet: HostNet) -> Iterator[HostNet]:
    lines = "".join(f"link add crowd{each} type bridge\n" for each in range(MANY))
    hostnet.run("ip", "-batch", "-", input=lines)
    yield hostnet


def dumped(hostnet: HostNet, *, always: bool) -> tuple[list[str], int]:
    """The names of all links, and how often they were asked for."""
    names = iter(range(1000))

    def add_one() -> None:
        hostnet.run("ip", "link", "add", f"late{next(names)}", "type", "bridge")

    def ask() -> tuple[list[str], int]:
        with netlink.connect(socket.NETLINK_ROUTE) as channel:
            meddled: Any = Meddled(channel, add_one, always=always)
            bodies = netlink.whole(meddled, rtnetlink.GETLINK, rtnetlink.IFINFOMSG.pack(0, 0, 0, 0, 0))
        about = (dict(netlink.attributes(body, rtnetlink.IFINFOMSG.size)) for body in bodies)
        return [bytes(each[rtnetlink.IFLA_IFNAME]).rstrip(b"\0").decode() for each in about], meddled.asked

    return hostnet.call(ask)


@pytest.mark.any_kernel
def test_what_has_changed_meanwhile_is_asked_for_again(crowded: HostNet) -> None:
    names, asked = dumped(crowded, always=False)
    assert asked == 2
    assert sorted(names) == sorted({"lo", "eth0", "late0", *(f"crowd{each}" for each in range(MANY))})


@pytest.mark.any_kernel
def test_what_always_changes_is_not_taken_for_whole(crowded: HostNet) -> None:
    with pytest.raises(InterruptedError):
        dumped(crowded, always=True)
