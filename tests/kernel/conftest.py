"""What several tests of the mechanism of commands share."""

from collections.abc import Iterator

import pytest

from tests.kernel import standin
from ve.process import Target


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A VE's stand-in to run commands in, for the tests of one file."""
    with standin.running(tmp_path_factory.mktemp("standin") / "root") as target:
        yield target
