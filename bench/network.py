"""What an address costs the start of a VE, and what of that is the import of pyroute2's part.

    python bench/network.py [TIMES]

Two VEs of busybox, one with an address, are started so often (15), each time by a fresh interpreter, as a command is.
All is in a network namespace that plays the host, and in a state dir below VE_BENCH_DIR or /var/tmp: the machine's own
network stays as it is.  It needs what a start needs, and nft.  The machine's speed cancels out in the ratios.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from ubc import machine

import ve
from ve._linux import syscalls

PLAIN, ROUTED = 1, 2
# In a fresh interpreter: the milliseconds of a start, without the import of ve; with a third word what it will import
# of pyroute2 is there already.
START = """
import sys, time, ve
env = ve.Host(sys.argv[1]).get(int(sys.argv[2]))
if sys.argv[3:]:
    from ve import rtnetlink
    for name in ("ifinfmsg", "ifaddrmsg", "rtmsg"):
        rtnetlink.part(f"netlink.rtnl.{name}")
begun = time.perf_counter()
env.start()
print((time.perf_counter() - begun) * 1000)
"""


def main(times: int) -> None:
    print(f"# {machine()}")
    syscalls.unshare(syscalls.CLONE_NEWNET)
    with made() as host:
        ways = {"plain": (PLAIN,), "routed": (ROUTED,), "imported": (ROUTED, "imported")}
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(times + 1):  # the first one loads the rules, and is left out
            for name, (veid, *words) in ways.items():
                found[name].append(started(host, int(veid), *map(str, words)))
        plain, routed, imported = (statistics.median(found[name][1:]) for name in ways)
        print(f"a start without an address: {plain:.0f} ms")
        print(f"a start with an address: {routed:.0f} ms, {routed / plain:.2f} times that")
        share = (routed - imported) / plain
        print(f"of that, importing pyroute2's messages: {routed - imported:.0f} ms, {share:.2f} times that", flush=True)


@contextlib.contextmanager
def made() -> Iterator["ve.Host"]:
    """A host with both VEs, which do not run."""
    directory = os.environ.get("VE_BENCH_DIR", "/var/tmp")
    with tempfile.TemporaryDirectory(prefix="ve-bench.", dir=directory) as place, contextlib.ExitStack() as undo:
        os.chmod(place, 0o755)
        os.environ["VE_NETWORK_DIR"] = os.path.join(place, "network")
        host = ve.Host(os.path.join(place, "host"))
        host.templates.build("busybox")
        for veid, addresses in ((PLAIN, []), (ROUTED, ["10.9.0.5"])):
            env = host.create(veid, template="busybox", addresses=addresses)
            undo.callback(env.destroy)
            undo.callback(stop, env)
        yield host


def stop(env: "ve.Environment") -> None:
    with contextlib.suppress(ve.errors.NotRunning):
        env.stop(fast=True)


def started(host: "ve.Host", veid: int, *words: str) -> float:
    """The milliseconds of one start, whose VE is stopped again."""
    command = [sys.executable, "-c", START, host.state.path, str(veid), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    stop(host.get(veid))
    return float(done.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
