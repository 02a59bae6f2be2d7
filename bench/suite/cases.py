"""The tests themselves: `url`, where a test's own database is, is a fixture of one of the plugins beside this file."""

import os
from pathlib import Path

import psycopg
import pytest

from bench.suite.database import DONE, ROWS, TESTS


@pytest.mark.parametrize("number", range(int(os.environ.get(TESTS, "1"))))
def test_sale(url: str, number: int) -> None:
    """Each takes the same away, so each must have found all."""
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM item").fetchone() == (ROWS,)
        connection.execute("DELETE FROM item WHERE price < 3")
        connection.execute("INSERT INTO item VALUES (%s, %s)", (ROWS + 1, number))
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM item WHERE price < 3 AND id <= %s", (ROWS,)).fetchone() == (0,)
        assert connection.execute("SELECT price FROM item WHERE id = %s", (ROWS + 1,)).fetchone() == (number,)
    if directory := os.environ.get(DONE):
        Path(directory, str(number)).touch()
