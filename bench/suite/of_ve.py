"""With the fixtures of ve: a VE that is prepared once, and forked for each test."""

from collections.abc import Callable
from typing import Any

import pytest

import ve as library
from bench.suite import database


@pytest.fixture(scope="session")
def ve_options() -> dict[str, Any]:
    return {
        "template": database.NAME,
        "command": database.SERVER,
        "ready": f"log:{database.READY}",
        "addresses": ["auto:suite"],
    }


@pytest.fixture(scope="session")
def ve_prepare() -> Callable[[library.Environment], object]:
    return _prepare


def _prepare(env: library.Environment) -> None:
    env.run(["sh", "-ec", database.PREPARE], check=True)


@pytest.fixture
def url(ve: library.Environment) -> str:
    return f"postgresql://test:test@{ve.addresses[0]}/test"
