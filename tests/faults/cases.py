"""Which cases of a verb are tried, and how: each effect in each way, or so many of them, chosen at random.

VE_TEST_FAULTS is how many of each verb (6; all), VE_TEST_SEED chooses which; it is printed when one fails.
"""

import contextlib
import errno
import os
import random
import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ve
from tests.faults import breaker

VEID, OTHER = 77, 79
WAYS = (breaker.KILL, breaker.KILL_GROUP, errno.EIO, errno.ENOSPC)
COUNT = os.environ.get("VE_TEST_FAULTS", "6")
SEED = int(os.environ.get("VE_TEST_SEED") or random.randrange(1 << 32))


@dataclass(frozen=True)
class Verb:
    """What is done; whether the VE is there before, runs, is to be used again after it, and changes.

    before: what is done to the VE first; sees: a command that ends well in it, before and after.
    """

    act: Callable[[ve.Host], object]
    created: bool = True
    started: bool = False
    remains: bool = True
    changes: bool = False
    before: Callable[[ve.Environment], object] = lambda env: None
    sees: str = "true"


def try_all(
    run: Callable[..., breaker.Broken],
    standing: Callable[[], contextlib.AbstractContextManager[object]],
    finish: Callable[[breaker.Broken], None],
    ways: Sequence[str | int] = WAYS,
) -> str:
    """Run a verb whole by run (breaker.run of it), then in its cases; how many there are, and were chosen, in words.

    standing is with what is there before, finish what is to be true after.
    """
    with standing():
        whole = run()
        assert whole.status == 0, whole.why
        finish(whole)
    cases = [(at, how) for at in range(1, whole.effects + 1) for how in ways]
    chosen = cases if COUNT == "all" else random.Random(SEED).sample(cases, min(int(COUNT), len(cases)))
    for at, how in sorted(chosen, key=str):
        with standing():
            done = run(at, how)
            _wait_for_orphans(done.session)
            try:
                finish(done)
            except BaseException as error:
                error.add_note(f"broken at {at} ({done.name}) by {how}, seed {SEED}: {done.why}")
                raise
    return f"{whole.effects} effects, {len(chosen)} of {len(cases)} cases tried"


def _wait_for_orphans(session: int) -> None:
    """What a killed command forked ends by itself."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(path.joinpath("stat").read_text().rpartition(")")[2].split()[3]) == session:
                fd = os.pidfd_open(int(path.name))
                try:
                    assert select.select([fd], [], [], 30)[0], f"{path} of the killed command goes on"
                finally:
                    os.close(fd)
