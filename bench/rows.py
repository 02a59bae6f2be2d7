"""The table: what is measured, of what it is a multiple, and how small that was asked to be.

A row whose peer is ahead stays in it.  Each measure takes the ground (bench/ground.py) and gives what it found; a row
may have several lines, each with its own peer.
"""

from collections.abc import Callable
from dataclasses import dataclass

from bench import library, many, measure
from bench.ground import Ground
from bench.measure import Times, Way
from bench.ours import address


@dataclass(frozen=True)
class Row:
    """name is what `make bench ROWS=` takes; asked is a ratio to the first peer, of `import` milliseconds."""

    name: str
    what: str
    asked: float | None
    measure: Callable[[Ground], dict[str, Times]]  # by line: the first of each is ours, the second what it is held to
    unit: str = "ms"


def turns(*ways: Callable[[Ground], Way]) -> Callable[[Ground], dict[str, Times]]:
    """These by turns, ours first."""
    return lambda ground: measure.by_turns([way(ground) for way in ways], ground.rounds)


VEID = 101
ROUTED = address(0)
LXC_ADDRESS = "10.98.0.9"
ROWS = (
    Row(
        "life",
        "library, warm: ephemeral VE, `true` as its init, gone, loopback only",
        2.0,
        turns(
            lambda on: on.ours.lives("Host.ephemeral()"),
            lambda on: on.floor.way("lo"),
        ),
    ),
    Row(
        "life-routed",
        "the same with a routed address",
        2.5,
        turns(
            lambda on: on.ours.lives("Host.ephemeral(...)", ROUTED),
            lambda on: on.floor.way("veth"),
        ),
    ),
    Row(
        "fork",
        "library, warm: the life of a VE made on a snapshot, against that of an empty one",
        2.0,
        turns(
            lambda on: on.ours.forks("Host.ephemeral(snapshot)", VEID),
            lambda on: on.ours.lives("Host.ephemeral()"),
        ),
    ),
    Row(
        "exec",
        'library, warm: `env.run(["true"])` in a running VE',
        0.6,
        turns(
            lambda on: on.ours.runs(VEID),
            lambda on: on.peers.oci_exec("crun"),
            lambda on: on.floor.way("exec"),
            lambda on: on.peers.lxc_attach(),
        ),
    ),
    Row(
        "cli-exec",
        "CLI, cold: `ve exec 101 true`",
        0.8,
        turns(
            lambda on: on.ours.cold(VEID, "exec", str(VEID), "true"),
            lambda on: on.peers.oci_exec("runc"),
            lambda on: on.peers.oci_exec("crun"),
            lambda on: on.peers.lxc_attach(),
        ),
    ),
    Row(
        "cli-run",
        "CLI, cold: `ve run busybox -- true`, no network",
        1.0,
        turns(
            lambda on: on.ours.throw_away(),
            lambda on: on.peers.oci_run("runc"),
            lambda on: on.peers.oci_run("crun"),
            lambda on: on.peers.plain("unshare"),
            lambda on: on.peers.plain("bubblewrap"),
            lambda on: on.peers.lxc_life(),
            lambda on: on.peers.plain("systemd-nspawn"),
            lambda on: on.peers.podman_run(),
        ),
    ),
    Row(
        "cli-life",
        "CLI, cold: life of a VE with an address, `true` as its init",
        1.0,
        turns(lambda on: on.ours.foreground(VEID, ROUTED), lambda on: on.peers.lxc_life(LXC_ADDRESS)),
    ),
    Row(
        "cli-start",
        "CLI, cold: `ve start` of a VE with an address, until its init runs",
        2.0,
        turns(lambda on: on.ours.start(VEID, ROUTED), lambda on: on.peers.lxc_start(LXC_ADDRESS)),
    ),
    Row("import", "`import ve` over subprocess, typing and dataclasses", 15.0, library.imports),
    Row(
        "touched",
        "a start from a process with 1 GiB touched and 8 threads, against a small one",
        1.5,
        turns(
            lambda on: on.ours.lives("1 GiB, 8 threads", mib=1024, threads=8),
            lambda on: on.ours.lives("small"),
        ),
    ),
    Row("last", "start of the last VE of many against the first", 1.3, many.last),
    Row("up", "many VEs, each with an address: all up, all answering exec", None, many.up, "s"),
    Row("list", "CLI, cold: `ve list` and `ve ubc` against `lxc-ls -f`, `podman ps`", 0.3, many.lists),
    Row("memory", "host memory that an idle VE with an address adds", 0.6, many.memory, "KiB"),
)
