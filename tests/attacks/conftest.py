"""VEs that attack what enters them, with the program of entering.c at /entering."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ve
from tests import conftest
from tests.programs import compiled

_veids = itertools.count(7101)
Hostile = Callable[..., "ve.Environment"]


@pytest.fixture(scope="session")
def entering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of entering.c, which runs in any root."""
    return compiled(tmp_path_factory.mktemp("entering") / "entering", Path(__file__).with_name("entering.c"))


@pytest.fixture
def hostile(host: "ve.Host", entering: Path) -> Iterator[Hostile]:
    """hostile("stop") starts a VE whose init attacks so, hostile() one whose init is busybox's; gone after the test."""
    made = []

    def start(init: str = "", **options: Any) -> "ve.Environment":
        made.append(next(_veids))
        env = host.create(made[-1], template="busybox", **options)
        prepare(env, entering, init)
        env.start()
        while init and "ready" not in Path(env.log_path).read_text():
            assert env.status == "running"
        return env

    yield start
    for veid in made:
        conftest._end(host, veid)


@pytest.fixture(scope="module")
def box(host: "ve.Host", entering: Path) -> Iterator["ve.Environment"]:
    """A running VE of busybox with the program in it, for all tests of a module."""
    env = host.create(next(_veids), template="busybox")
    prepare(env, entering)
    env.start()
    yield env
    conftest._end(host, env.veid)


def prepare(env: "ve.Environment", entering: Path, init: str = "") -> None:
    """Put the program into a stopped VE, and in place of its init."""
    env.copy_in(str(entering), "/entering", archive=True)
    if init:
        upper = Path(env.state.private(env.veid), "upper")
        (upper / "sbin").mkdir(mode=0o755)
        (upper / "sbin/init").write_bytes(entering.read_bytes())
        (upper / "sbin/init").chmod(0o755)
        (upper / "attack").write_text(init)
