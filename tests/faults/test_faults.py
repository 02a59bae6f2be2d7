"""Every verb, broken at each of its effects: what was there is intact, what was half made is gone or can be finished.

How many cases of each are tried is said in cases.py.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import ve
from tests import conftest
from tests.faults import breaker
from tests.faults.cases import OTHER, VEID, Verb, try_all
from tests.verbs import commandline, witness
from ve import errors

pytestmark = pytest.mark.any_kernel

KEPT = "test $(cat /srv/kept) = kept"


def _change(env: ve.Environment) -> None:
    path = Path(env.state.private(env.veid), "upper/srv")
    path.mkdir(exist_ok=True)
    (path / "kept").write_text("kept\n")


def _change_twice(env: ve.Environment) -> None:
    """With a snapshot in between."""
    _change(env)
    env.checkpoint("s")
    path = Path(env.state.private(env.veid), "upper/srv")
    path.mkdir()
    (path / "later").write_text("later\n")


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
    "snapshot create": Verb(lambda host: host.get(VEID).checkpoint("s"), before=_change, sees=KEPT),
    "snapshot create of a running one": Verb(
        lambda host: host.get(VEID).checkpoint("s"), started=True, before=_change, sees=KEPT
    ),
    "snapshot restore": Verb(lambda host: host.get(VEID).restore("s"), before=_change_twice, sees=KEPT),
    "snapshot delete": Verb(lambda host: host.get(VEID).snapshot("s").delete(), before=_change_twice, sees=KEPT),
    "snapshot fork": Verb(lambda host: host.get(VEID).snapshot("s").fork(veid=OTHER), before=_change_twice, sees=KEPT),
    "clone": Verb(lambda host: host.get(VEID).clone(OTHER), before=_change, sees=KEPT),
    "reset to how it was created": Verb(lambda host: host.get(VEID).reset(), started=True, before=_change_twice),
    "destroy with snapshots": Verb(lambda host: host.get(VEID).destroy(), remains=False, before=_change_twice),
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
    run, before = partial(breaker.run, partial(verb.act, host)), partial(standing, host, verb)
    print(f"{name}: {try_all(run, before, lambda _: finish(host, host_dir, verb))}")


@contextlib.contextmanager
def standing(host: ve.Host, verb: Verb) -> Iterator[None]:
    """With all that is there before; nothing of it is left after."""
    with conftest.guarded():
        if verb.created:
            env = host.create(VEID, template="busybox", name="mars", hostname="red")
            verb.before(env)
            if verb.started:
                env.start()
        yield


def finish(host: ve.Host, host_dir: Path, verb: Verb) -> None:
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
            env.run(["sh", "-c", verb.sees], check=True)
            env.stop(fast=True)
        env.destroy()
    if witness.left_of(host_dir, OTHER):
        _finish_other(host, verb)
    assert host.doctor() == []
    assert witness.left_of(host_dir, OTHER) == []
    assert not any((host_dir / "layer").glob("*"))
    assert witness.left_of(host_dir, VEID) == []
    assert not commandline.cgroup(host_dir, VEID).exists()
    asides = [path for place in ("conf", "ubc", "run") for path in (host_dir / place).glob(".*")]
    assert not asides


def _finish_other(host: ve.Host, verb: Verb) -> None:
    """It is whole, or can be made."""
    try:
        other = host.get(OTHER)
    except errors.NotFound:
        other = host.create(OTHER, template="busybox")
    else:
        other.start()
        other.run(["sh", "-c", verb.sees], check=True)
        other.stop(fast=True)
    other.destroy()
