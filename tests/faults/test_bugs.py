"""A bug of ours at any effect of a verb, which nobody expects: the VE is as it was, or as was asked for."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import ve
from tests.faults import breaker
from tests.faults.cases import VEID, try_all
from tests.faults.test_faults import VERBS, finish, standing
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
    verb, confs = VERBS[name], set[bytes]()

    @contextlib.contextmanager
    def before() -> Iterator[None]:
        with standing(host, verb):
            confs.add(conf(host_dir))
            yield

    def after(done: breaker.Broken) -> None:
        if not done.name:  # it was whole
            confs.add(conf(host_dir))
        else:
            assert status(host) in TRIED[name]
            assert conf(host_dir) in confs
        finish(host, host_dir, verb)

    try_all(partial(breaker.run, partial(verb.act, host)), before, after, [breaker.BUG])
