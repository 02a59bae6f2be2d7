"""Stand-ins for VEs with a network: namespaces that a process holds, with the interface and the addresses of a VE.

Sockets are made in them by a thread of ours that goes there, and used from wherever the test is.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.hostnet import HostNet, entering, namespace
from ve import leading, venet
from ve._linux import syscalls
from ve.addresses import Wish
from ve.errand import in_a_thread

T = TypeVar("T")
PATIENCE = 30.0  # seconds, after which what does not come is lost
MARK = b"this is the last one"


@dataclass(frozen=True)
class StandIn:
    """One of them, by the pid of who holds it."""

    pid: int
    name: str = ""

    @property
    def words(self) -> list[str]:
        return entering(self.pid)

    def call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        def there() -> T:
            with open(f"/proc/{self.pid}/ns/net") as netns:
                syscalls.setns(netns.fileno(), syscalls.CLONE_NEWNET)
            return function(*args, **options)

        return in_a_thread(there)

    def send(self, frames: list[bytes], interface: str = "venet0") -> None:
        """In their order, which one CPU keeps."""

        def there() -> None:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
                wire.bind((interface, 0))
                for frame in frames:
                    wire.send(frame)

        self.call(there)


@contextlib.contextmanager
def routed(hostnet: HostNet, veid: int, *addresses: str) -> Iterator[StandIn]:
    """As a start of a VE with addresses leaves it."""
    wishes = [Wish.parse(address) for address in addresses]
    with namespace() as pid, open(f"/proc/{pid}/ns/net") as netns:
        pidfd = os.pidfd_open(pid)
        try:
            name = hostnet.call(venet.connect, pidfd, netns.fileno(), "ve-test", veid, "/nowhere")
            for wish in wishes:
                hostnet.call(venet.lease, name, wish.address)
            hostnet.call(venet.add, pidfd, name, wishes)
        finally:
            os.close(pidfd)
        stand_in = StandIn(pid, name)
        wait_until_ready(hostnet, stand_in, addresses)
        yield stand_in
        hostnet.call(leading.remove_links, "ve-test", veid)


def wait_until_ready(hostnet: HostNet, stand_in: StandIn, addresses: tuple[str, ...]) -> None:
    """Two works of the kernel's own are still to be done, of which it tells nobody.

    An end whose peer comes up sends nothing before (net/core/link_watch.c), and an IPv6 address is no way in
    (net/ipv6/addrconf.c, addrconf_dad_work).
    """

    def is_up() -> bool:
        [about] = json.loads(hostnet.run("ip", "-j", "link", "show", "dev", stand_in.name).stdout)
        return bool(about["operstate"] == "UP")

    def lead_in() -> bool:
        words = [*stand_in.words, "ip", "-j", "-6", "route", "show", "table", "local"]
        shown = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout or "[]")
        return {each["dst"] for each in shown} >= {each for each in addresses if ":" in each}

    wait_until(lambda: is_up() and lead_in())


def wait_until(what: Callable[[], bool]) -> None:
    """For what the kernel tells nobody of."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)


@contextlib.contextmanager
def sniffing(where: Callable[..., Any], interface: str) -> Iterator[socket.socket]:
    """A socket that gets all that comes in there."""
    with where(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
        wire.bind((interface, 3))
        wire.settimeout(PATIENCE)
        yield wire


def until_mark(sock: socket.socket) -> list[bytes]:
    """What came in, with what ends with the mark as the last one; not what went out there."""
    found = [b""]
    while not found[-1].rstrip(b"\0").endswith(MARK):
        data, where = sock.recvfrom(2048)
        if sock.family != socket.AF_PACKET or where[2] != socket.PACKET_OUTGOING:
            found.append(data)
    return found[1:]
