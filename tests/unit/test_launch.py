"""Why a launch ended without a word: by the kernel's count of whom it killed for want of memory."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ve import steps
from ve.launch import Launch


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ("low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n", "its memory was used up before its init ran"),
        ("low 0\nhigh 0\nmax 3\noom 0\noom_kill 0\noom_group_kill 0\n", "the launch was killed"),
        (None, "the launch was killed"),
    ],
)
def test_what_is_said_of_a_launch_that_was_killed(tmp_path: Path, events: str | None, why: str) -> None:
    if events is not None:
        (tmp_path / "memory.events").write_text(events)
    launch: Any = SimpleNamespace(cgroup=SimpleNamespace(path=str(tmp_path)))
    assert Launch._why_killed(launch)[0] == why


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(22, "Invalid argument"), "Invalid argument"),
        (OSError(2, "No such file or directory", "/x"), "/x: No such file or directory"),
        (OSError("illegal IP address string"), "illegal IP address string"),
        (OSError(), "OSError"),
    ],
)
def test_a_reason_is_never_empty(error: OSError, why: str) -> None:
    assert steps.reason(error) == (why, "", 0)
