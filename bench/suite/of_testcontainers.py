"""With testcontainers, as its documentation has it: a container for each test, of an image in which all is prepared."""

from collections.abc import Iterator

import pytest
from testcontainers.community.postgres import PostgresContainer

from bench.suite import database


@pytest.fixture
def url() -> Iterator[str]:
    with PostgresContainer(f"localhost/{database.NAME}", driver=None) as server:
        yield server.get_connection_url()
