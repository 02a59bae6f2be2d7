"""ruff and mypy --strict have nothing to say about the project."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LINTERS = (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"])


@pytest.mark.parametrize("linter", LINTERS, ids=" ".join)
def test_has_nothing_to_say(linter: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *linter], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
