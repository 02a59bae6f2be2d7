"""The rows about many: what a start, a list and the memory of a host cost when there are hundreds."""

import contextlib
from collections.abc import Iterator, Sequence

from bench import measure
from bench.crowd import FIRST, LXC
from bench.ground import Ground
from bench.measure import Once, Times, Way

ENDS = 20  # how many starts are the first ones, and the last


def last(ground: Ground) -> dict[str, Times]:
    crowd = ground.of_ve
    _grow(ground)
    some = min(ENDS, ground.many // 2)
    return {"": {f"number {ground.many}": crowd.times[-some:], "number 1": crowd.times[:some]}}


def up(ground: Ground) -> dict[str, Times]:
    """Seconds."""
    _grow(ground)
    with ground.ours.worker() as worker:
        answers = [worker.do(f"run {FIRST + number} true") for number in range(1, ground.many + 1)]
    return {
        f"{ground.many} started": {"ve, library": [sum(ground.of_ve.times) / 1000]},
        f"{len(answers)} answered": {"ve, library": [sum(answers) / 1000]},
    }


def lists(ground: Ground) -> dict[str, Times]:
    """At one pace: nothing of the kernel's is put off."""
    crowds = ground.of_ve, ground.of_lxc, ground.of_podman
    for crowd in crowds:
        crowd.resize(ground.few)
    lxc = ["lxc-ls", "--lxcpath", str(ground.work / LXC), "--fancy"]
    ways = (
        _way("ve list", ground.ours.command("list")),
        _way("ve ubc", ground.ours.command("ubc")),
        _way("lxc-ls -f", lxc),
        _way("podman ps", [*ground.peers.podman, "ps"]),
    )
    found = measure.by_turns(ways, ground.rounds)["spaced"]
    crowds[-1].resize(0)
    return {
        f"{ground.few}: {ours} against {theirs}": {ours: found[ours], theirs: found[theirs]}
        for ours in ("ve list", "ve ubc")
        for theirs in ("lxc-ls -f", "podman ps")
    }


def memory(ground: Ground) -> dict[str, Times]:
    """Of each of as many.  All told is what is no more available; known are slab, stacks, tables, per CPU and PSS."""
    if ground.many not in ground.of_ve.memory:
        _grow(ground)
    ground.of_ve.resize(0)
    for size in (ground.few, ground.many):
        ground.of_lxc.resize(size)
    lines = {"all told": "gone", "known": "known", "slab": "slab", "PSS": "pss", "processes": "processes"}
    return {
        f"{size}: {line}": {
            "ve": [getattr(ground.of_ve.memory[size], name) / size],
            "LXC": [getattr(ground.of_lxc.memory[size], name) / size],
        }
        for size in (ground.few, ground.many)
        for line, name in lines.items()
    }


def _grow(ground: Ground) -> None:
    for size in (ground.few, ground.many):
        if size > ground.of_ve.size:
            ground.of_ve.resize(size)


def _way(name: str, command: Sequence[str]) -> Way:
    @contextlib.contextmanager
    def ready() -> Iterator[Once]:
        yield lambda: measure.run(command)

    return Way(name, ready)
