"""A bug of ours at any effect of a verb, an exception that nobody expected: the VE is as it was, or as was asked for.

As in test_faults, VE_TEST_FAULTS says how many of each verb (all), VE_TEST_SEED which.
"""

import random
from pathlib import Path

import pytest

import ve
from tests.faults import breaker
from tests.faults.test_faults import CASES, SEED, VEID, VERBS, _case, _finish, _wait_for_orphans
from ve.errors import NotFound

pytestmark = pytest.mark.any_kernel

# What stands before the verb, and what it asks for; None: no such VE.
TRIED: dict[str, tuple[str | None, str | None]] = {
    "create": (None, "stopped"),
    "start": ("stopped", "running"),
    "set": ("running", "running"),
    "rename": ("stopped", "stopped"),
    "exec": ("running", "running"),
    "freeze": ("running", "frozen"),
    "mount": ("stopped", "mounted"),
    "ubc": ("running", "running"),
    "reset": ("running", "running"),
}


def status(host: ve.Host) -> str | None:
    try:
        return host.get(VEID).status
    except NotFound:
        return None


def conf(host_dir: Path) -> bytes:
    path = host_dir / f"conf/{VEID}.toml"
    return path.read_bytes() if path.exists() else b""


@pytest.mark.parametrize("name", TRIED)
def test_a_bug_at_any_effect(host: ve.Host, host_dir: Path, name: str) -> None:
    verb = VERBS[name]
    with _case(host, verb):
        before = conf(host_dir)
        whole = breaker.run(lambda: verb.act(host))
        assert whole.status == 0, whole.why
        confs = before, conf(host_dir)
        _finish(host, host_dir, verb)
    cases = range(1, whole.effects + 1)
    for at in cases if CASES == "all" else random.Random(SEED).sample(cases, min(int(CASES), len(cases))):
        with _case(host, verb):
            done = breaker.run(lambda: verb.act(host), at, breaker.BUG)
            _wait_for_orphans(done.session)
            try:
                assert status(host) in TRIED[name]
                assert conf(host_dir) in confs
                _finish(host, host_dir, verb)
            except Exception as error:
                error.add_note(f"{name} with a bug at {at} ({done.name}), seed {SEED}: {done.why}")
                raise
