"""What the documents show is what happens: their console blocks are typed in order, their Python blocks are run.

Numbers are compared as numbers, since pids differ, but for a line that is nothing but an exit code; and the state dir
of the documents is /var/lib/ve.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests import conftest
from tests.verbs import commandline

ROOT = Path(__file__).resolve().parent.parent.parent
README, MANUAL, LIBRARY = ROOT / "README.md", ROOT / "docs/manual.md", ROOT / "docs/library.md"


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)


def typed(document: Path) -> Iterator[tuple[str, str]]:
    """Each command line of a document's console blocks, and what it shows."""
    for block in blocks(document, "console"):
        for part in f"\n{block}".split("\n$ ")[1:]:
            command, _, shown = part.partition("\n")
            yield command, shown


def programs(document: Path) -> tuple[str, str]:
    """A document's Python blocks as one program, and what the text blocks right behind them say that it prints."""
    pairs = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", document.read_text(), re.M | re.S)
    return "\n".join(code for code, _ in pairs), "".join(shown for _, shown in pairs)


def plain(text: str, state_dir: Path) -> list[str]:
    """Its lines without what differs from one run to another."""
    lines = text.replace(str(state_dir), "/var/lib/ve").splitlines()
    return [line if line.isdigit() else " ".join(re.sub(r"\d+", "0", line).split()) for line in lines]


@pytest.fixture
def environment(state_dir: Path) -> Iterator[dict[str, str]]:
    """Of a shell that has the command ve and an empty state dir with the template busybox; its VEs are taken away."""
    host = ve.Host(state_dir)
    path = f"{commandline.VE.parent}:{os.environ['PATH']}"
    yield os.environ | {"VE_STATE_DIR": str(state_dir), "PATH": path, "PYTHONPATH": str(ROOT)}
    for env in host.list():
        conftest._end(host, env.veid)


@pytest.mark.any_kernel  # sixty times the command line, which takes a software CPU ten minutes
@pytest.mark.parametrize("document", [README, MANUAL], ids=lambda path: path.name)
def test_what_is_typed_shows_what_is_shown(
    document: Path, environment: dict[str, str], state_dir: Path, tmp_path: Path
) -> None:
    if document != README:
        ve.Host(state_dir).templates.build("busybox")
    for command, shown in typed(document):
        done = subprocess.run(
            ["bash", "-c", command],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=commandline.PATIENCE,
        )
        assert (command, plain(done.stdout, state_dir)) == (command, plain(shown, state_dir))
        assert done.returncode == 0, command


@pytest.mark.any_kernel
def test_the_demo_prints_what_is_shown(tmp_path: Path) -> None:
    script = [ROOT / "scripts/demo.sh", commandline.VE.parent]
    done = subprocess.run(
        script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=commandline.PATIENCE
    )
    assert done.returncode == 0, done.stdout
    printed = iter(plain(done.stdout, tmp_path))
    shown = plain(blocks(README, "text")[0], tmp_path)
    assert shown.pop(0) == "# make demo"
    assert [line for line in shown if line not in ("...", "==> ready: .venv/bin/ve") and line not in printed] == []


@pytest.mark.any_kernel
@pytest.mark.parametrize("document", [README, LIBRARY], ids=lambda path: path.name)
def test_programs_print_what_is_shown(document: Path, environment: dict[str, str], state_dir: Path) -> None:
    code, shown = programs(document)
    if document != README:
        ve.Host(state_dir).templates.build("busybox")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=commandline.PATIENCE,
    )
    assert done.returncode == 0, done.stdout
    assert plain(done.stdout, state_dir) == plain(shown, state_dir)
