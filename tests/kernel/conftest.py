"""What several tests of the mechanism of commands share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import standin
from ve.process import Target

HERE = Path(__file__).parent
ELSEWHERE = ("any_kernel", "long")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What depends on the kernel is tried on the stock one in a container."""
    for item in items:
        if HERE in item.path.parents and not any(map(item.get_closest_marker, ELSEWHERE)):
            item.add_marker("container")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A VE's stand-in to run commands in, for the tests of one file."""
    with standin.running(tmp_path_factory.mktemp("standin") / "root") as target:
        yield target
