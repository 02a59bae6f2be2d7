"""No verb does work that is proportional to the number of other VEs, but for those that list them.

What is counted is system calls, by strace, of our process and all that it starts, to the VE's init, which does nothing.
Whoever waits asks a few times more or less, so the least of several counts is taken; work for each of the others would
be at least one call each.
`make bench-quick` shows the same numbers, with up to 1,000 others.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import floor, quick
from bench.ours import IDLE, Ours, stopped

pytestmark = pytest.mark.any_kernel

FEW, MANY, COUNTS = 2, 32, 3
OPERATIONS = {
    "start and stop": "start 201\nstop 201",
    "exec": "run 202 true",
    "create and destroy": f"create 203 {IDLE}\ndestroy 203",
    "a throw-away VE": f"throw_away {IDLE}",
}
LISTING = "ve list"


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[int]]]:
    """What each operation takes, with a few others and with many."""
    work = tmp_path_factory.mktemp("growth")
    for path in (work, *work.parents[:2]):
        path.chmod(0o755)
    ours = Ours(work, floor.build(work / "programs"))
    with contextlib.ExitStack() as held:
        yield _counted(ours, quick.Counter(ours, work), held)


def _counted(ours: Ours, counter: quick.Counter, held: contextlib.ExitStack) -> dict[str, list[int]]:
    assert Path(ours.idle).is_dir()
    for veid in (201, 202):
        held.enter_context(ours.created(veid, IDLE))
    ours.host.get(202).start()
    found: dict[str, list[int]] = {name: [] for name in (*OPERATIONS, LISTING)}
    for size in (FEW, MANY):
        while len(ours.host.list()) < 2 + size:
            env = held.enter_context(ours.created(301 + len(ours.host.list()), IDLE))
            env.start()
            held.callback(stopped, env)
        for name, operation in OPERATIONS.items():
            found[name].append(min(counter.warm(operation) for _ in range(COUNTS)))
        found[LISTING].append(counter.cold("list"))
    return found


@pytest.mark.parametrize("operation", OPERATIONS)
def test_others_cost_nothing(operation: str, counted: dict[str, list[int]]) -> None:
    few, many = counted[operation]
    assert few > 100 and many - few < (MANY - FEW) / 2


def test_work_for_each_of_them_would_be_seen(counted: dict[str, list[int]]) -> None:
    few, many = counted[LISTING]
    assert many - few >= MANY - FEW
