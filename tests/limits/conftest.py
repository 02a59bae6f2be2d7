"""What only a kernel with all controllers on cgroup2 shows: the VM has one, and runs these tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

import ve
from tests.programs import compiled
from tests.verbs.conftest import Make, make

__all__ = ["eat", "limited", "make"]


@pytest.fixture(scope="session")
def eat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of eat.c."""
    return compiled(tmp_path_factory.mktemp("eat") / "eat", Path(__file__).with_name("eat.c"))


@pytest.fixture
def limited(make: Make, eat: Path) -> Callable[..., "ve.Environment"]:
    """A running VE with these limits, and the program /eat in it."""

    def start(**limits: str) -> "ve.Environment":
        env = make(**limits)
        env.start()
        env.copy_in(str(eat), "/eat", archive=True)
        return env

    return start
