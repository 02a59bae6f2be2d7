"""Each grade in the table of beancounters is borne out by a test that says so: @pytest.mark.bears_out(numproc="exact").

What is enforced is so on a stock kernel with all controllers, where tests/limits are run; what is only counted may be
seen on any.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from ve.beancounter import RESOURCES, Resource

TESTS = Path(__file__).resolve().parent.parent


def marks() -> Iterator[tuple[str, str, Path]]:
    """Name, grade and file of every mark on a test."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for call in node.decorator_list:
                    if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.bears_out":
                        yield from ((str(each.arg), ast.literal_eval(each.value), path) for each in call.keywords)


MARKS = tuple(marks())


@pytest.mark.parametrize("row", RESOURCES, ids=lambda row: row.name)
def test_its_grade_is_borne_out(row: Resource) -> None:
    found = [(grade, path.parent.name) for name, grade, path in MARKS if name == row.name]
    assert {grade for grade, _ in found} == {row.grade}
    if row.enforced or row.guaranteed:
        assert {place for _, place in found} == {"limits"}


def test_no_test_bears_out_what_is_no_row() -> None:
    assert {name for name, _, _ in MARKS} <= {row.name for row in RESOURCES}
