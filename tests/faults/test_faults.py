"""Every verb, broken at each of its effects: what was there is intact, what was half made is gone or can be finished.

Of each verb so many cases as VE_TEST_FAULTS says (all: each effect in each way), chosen at random by VE_TEST_SEED, that
is printed when one fails.
"""

import contextlib
import errno
import os
import random
import select
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import ve
from tests import conftest
from tests.faults import breaker
from tests.verbs import commandline, witness
from ve import errors

pytestmark = pytest.mark.any_kernel

VEID = 77
WAYS = (breaker.KILL, breaker.KILL_GROUP, errno.EIO, errno.ENOSPC)
CASES = os.environ.get("VE_TEST_FAULTS", "6")
SEED = int(os.environ.get("VE_TEST_SEED") or random.randrange(1 << 32))


@dataclass(frozen=True)
class Verb:
    """What is done, what is there before, and whether the VE is to be used again after it."""

    act: Callable[[ve.Host], object]
    created: bool = True
    started: bool = False
    remains: bool = True


VERBS = {
    "create": Verb(lambda host: host.create(VEID, template="busybox", name="mars", hostname="red"), created=False),
    "start": Verb(lambda host: host.get(VEID).start()),
    "stop": Verb(lambda host: host.get(VEID).stop(fast=True), started=True),
    "restart": Verb(lambda host: host.get(VEID).restart(timeout=0), started=True),
    "destroy": Verb(lambda host: host.get(VEID).destroy(), remains=False),
    "set": Verb(lambda host: host.get(VEID).set(hostname="blue", description="x", save=True), started=True),
    "rename": Verb(lambda host: host.get(VEID).rename("venus")),
    "exec": Verb(lambda host: host.get(VEID).run(["true"], check=True), started=True),
    "freeze": Verb(lambda host: host.get(VEID).freeze(), started=True),
    "mount": Verb(lambda host: host.get(VEID).mount()),
    "ubc": Verb(lambda host: host.beancounters(), started=True),
    "reset": Verb(lambda host: host.get(VEID).reset_beancounters(), started=True),
    "run": Verb(lambda host: host.run("busybox", ["true"]), created=False, remains=False),
}


@pytest.fixture
def neighbour(host: ve.Host, host_dir: Path) -> Iterator[ve.Environment]:
    """One that runs, and must not notice anything."""
    env = host.create(78, template="busybox", name="neighbour")
    env.start()
    env.run(["sh", "-c", "echo kept >/kept"], check=True)
    init = witness.init(host_dir, env.veid)
    yield env
    conftest._end(host, VEID)  # if a case has failed
    assert witness.init(host_dir, env.veid) == init
    assert env.run(["cat", "/kept"], capture_output=True, text=True).stdout == "kept\n"
    env.stop(fast=True)
    env.destroy()


@pytest.mark.parametrize("name", VERBS)
def test_broken_at_each_of_its_effects(host: ve.Host, host_dir: Path, neighbour: ve.Environment, name: str) -> None:
    verb = VERBS[name]
    with _case(host, verb):
        whole = breaker.run(lambda: verb.act(host))
        assert whole.status == 0, whole.why
        _finish(host, host_dir, verb)
    cases = [(at, how) for at in range(1, whole.effects + 1) for how in WAYS]
    chosen = cases if CASES == "all" else random.Random(SEED).sample(cases, min(int(CASES), len(cases)))
    for at, how in sorted(chosen, key=str):
        with _case(host, verb):
            done = breaker.run(lambda: verb.act(host), at, how)
            _wait_for_orphans(done.session)
            try:
                _finish(host, host_dir, verb)
            except Exception as error:
                error.add_note(f"{name} broken at {at} ({done.name}) by {how}, seed {SEED}")
                raise
    print(f"{name}: {whole.effects} effects, {len(chosen)} of {len(cases)} cases tried")


@contextlib.contextmanager
def _case(host: ve.Host, verb: Verb) -> Iterator[None]:
    """With all that is there before; nothing of it is left after."""
    with conftest.guarded():
        if verb.created:
            env = host.create(VEID, template="busybox", name="mars", hostname="red")
            if verb.started:
                env.start()
        yield


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


def _finish(host: ve.Host, host_dir: Path, verb: Verb) -> None:
    """The next commands work, each without a word about what was; then nothing of it is left."""
    host.list()
    if not verb.created:
        with contextlib.suppress(errors.Exists):
            host.create(VEID, template="busybox", name="mars", hostname="red")
    with contextlib.suppress(errors.NotFound):
        env = host.get(VEID)
        if env.status == ve.Status.FROZEN:
            env.thaw()
        if env.status == ve.Status.MOUNTED:
            env.umount()
        if verb.remains:
            with contextlib.suppress(errors.Running):
                env.start()
            assert env.run(["hostname"], capture_output=True, text=True).stdout in ("red\n", "blue\n")
            env.stop(fast=True)
        env.destroy()
    assert host.doctor() == []
    assert witness.left_of(host_dir, VEID) == []
    assert not commandline.cgroup(host_dir, VEID).exists()
    asides = [path for place in ("conf", "ubc", "run") for path in (host_dir / place).glob(".*")]
    assert not asides
