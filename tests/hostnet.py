"""A network namespace that plays the host, with another that plays the outside: nothing of the real machine changes.

    hostnet          192.0.2.1/24 and 2001:db8::1/64 on its eth0
    its outside      192.0.2.9/24 and 2001:db8::9/64 on its eth0, which routes 10.0.0.0/8 and fd00::/8 to the host

def test_it(hostnet: HostNet, host_dir: Path) -> None:
    hostnet.ve(host_dir, "start", 101)
    hostnet.call(env.start)
    hostnet.outside("ping", "-c1", "10.9.0.1")
"""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tests.verbs import commandline
from ve._linux import syscalls
from ve.errand import in_a_thread

T = TypeVar("T")

_OUTSIDE = """
    ip link set lo up
    ip link set eth0 up
    ip address add 192.0.2.9/24 dev eth0
    ip address add 2001:db8::9/64 dev eth0 nodad
    ip route add 10.0.0.0/8 via 192.0.2.1
    ip route add fd00::/8 via 2001:db8::1
"""
# Without the kernel's own look at sources (rp_filter), which a new namespace has from the real machine: ours must do.
_HOST = """
    sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
    ip link set lo up
    ip link add eth0 type veth peer name eth0 netns {outside}
    ip link set eth0 up
    ip address add 192.0.2.1/24 dev eth0
    ip address add 2001:db8::1/64 dev eth0 nodad
    ip route add default via 192.0.2.9
    ip -6 route add default via 2001:db8::9
"""


class HostNet:
    """The two namespaces, each held by a process that waits."""

    def __init__(self, host: int, outside: int) -> None:
        self.host, self.other = host, outside
        self.words = entering(host)

    def run(self, *args: str | int | Path, **options: Any) -> "subprocess.CompletedProcess[str]":
        """A command on the host."""
        return _run(self.host, args, options)

    def outside(self, *args: str | int | Path, **options: Any) -> "subprocess.CompletedProcess[str]":
        """A command outside."""
        return _run(self.other, args, options)

    def ve(self, state_dir: Path, *args: str | int | Path, **options: Any) -> "subprocess.CompletedProcess[str]":
        """The command `ve` on the host, as tests.verbs.commandline runs it."""
        return commandline.run(state_dir, *args, before=self.words, **options)

    def output(self, state_dir: Path, *args: str | int | Path, **options: Any) -> str:
        """What it printed, as it ended well."""
        return commandline.output(state_dir, *args, before=self.words, **options)

    def call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """The same of a function of ours: by a thread that is there."""

        def there() -> T:
            with open(f"/proc/{self.host}/ns/net") as namespace:
                syscalls.setns(namespace.fileno(), syscalls.CLONE_NEWNET)
            return function(*args, **options)

        return in_a_thread(there)

    @contextlib.contextmanager
    def watching(self, what: str) -> Iterator[list[str]]:
        """What tcpdump on the outside's eth0 tells of such packets meanwhile, line by line; full when that is over."""
        words = [*entering(self.other), "tcpdump", "--immediate-mode", "-lnqi", "eth0", what]
        seen: list[str] = []
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout and process.stderr
            for line in process.stderr:
                if "listening on" in line:
                    break
            yield seen
            process.terminate()
            seen += process.stdout.read().splitlines()

    @contextlib.contextmanager
    def held(self, manager: contextlib.AbstractContextManager[T]) -> Iterator[T]:
        """The same of a with block: it begins and ends there, and is not there meanwhile."""
        given = self.call(manager.__enter__)
        try:
            yield given
        finally:
            self.call(manager.__exit__, None, None, None)


def entering(pid: int) -> list[str]:
    """What stands before a command so that it is in the network namespace of this process; its mounts stay ours."""
    return ["nsenter", f"--net=/proc/{pid}/ns/net", "--"]


def _run(pid: int, args: tuple[str | int | Path, ...], options: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    options = {"capture_output": True, "text": True, "timeout": commandline.PATIENCE, "check": True} | options
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([*entering(pid), *map(str, args)], **options)


@contextlib.contextmanager
def namespace() -> Iterator[int]:
    """A network namespace of its own: the pid of a process that holds it and waits."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout and holder.stdout.readline()
        yield holder.pid
    finally:
        holder.kill()
        holder.communicate()


@contextlib.contextmanager
def made() -> Iterator[HostNet]:
    with namespace() as host, namespace() as outside:
        made = HostNet(host, outside)
        made.run("sh", "-ec", _HOST.format(outside=outside))
        made.outside("sh", "-ec", _OUTSIDE)
        yield made
