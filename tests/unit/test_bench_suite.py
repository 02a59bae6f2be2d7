"""The suite's table says what was found; what is left is what was not there before, each of two that are alike too."""

import os
import sys
from pathlib import Path

import pytest

from bench.suite import __main__ as suite
from bench.suite import contenders, left, run, table
from bench.suite.left import Seen

NOTHING: frozenset[str] = frozenset()


def made(processes: str = "", mounts: str = "", rules: str = "") -> Seen:
    return Seen(
        frozenset(processes.split()), frozenset(mounts.split()), NOTHING, NOTHING, frozenset(rules.split()), NOTHING
    )


def test_the_table_has_a_column_for_each_and_what_is_left_in_words() -> None:
    tidy = run.Whole(35.64, 36.0, 200, 0, made()), run.Killed(50, made(rules="one two"), made())
    untidy = run.Whole(137.0, 140.0, 199, 1, made("a b c", "m")), run.Killed(51, made("a"), made("a"))
    shown = table.of({"ve": tidy, "others": untidy}).splitlines()
    assert shown[:4] == [
        "| | ve | others |",
        "|---|---:|---:|",
        "| wall time, s | 35.6 | 137.0 |",
        "| CPU time, s | 36.0 | 140.0 |",
    ]
    assert "| left | nothing | 3 processes, 1 mounts |" in shown
    assert shown[-2:] == [
        "| then left | 2 rules | 1 processes |",
        "| and once that is cleaned | nothing | 1 processes |",
    ]


def test_what_is_left_is_what_was_not_there_before() -> None:
    assert (made("a b", "m") - made("b c", "m")) == made("a")
    assert list(left._numbered(iter(["/run", "/run", "/"]))) == ["/run 1", "/run 2", "/ 1"]
    assert made("a b").shown() == "  processes: a\n  processes: b"


def test_files_are_found_below_directories(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").touch()
    assert sorted(left._files(tmp_path)) == [f"{tmp_path}/a", f"{tmp_path}/a/b", f"{tmp_path}/a/b/c"]


def test_of_what_pytest_says_the_last_line_counts() -> None:
    said = "7 failed in a test's own words\n3 failed, 190 passed, 1 error in 30.00s\n"
    assert run._count(said, "passed") == 190 and run._count(said, "failed|errors?") == 4
    assert run._count("no tests ran in 0.01s\n", "passed") == 0


def test_a_contender_that_nobody_knows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(contenders.MAKERS) == suite.CONTENDERS
    assert suite.parsed(["testcontainers", "ve"]).contenders == ["testcontainers", "ve"]
    assert suite.parsed([]).contenders == []
    with pytest.raises(SystemExit):
        suite.parsed(["ve", "foo"])
    assert "there is no contender foo: it is ve or testcontainers" in capsys.readouterr().err


def kill(program: str, path: Path, patience: float) -> int:
    """What kill_midway() says of a program in place of pytest that is to make two marks."""
    marks = path / "marks"
    marks.mkdir()
    command = [sys.executable, "-c", program, str(marks)]
    return run.kill_midway(command, os.environ, marks, 2, path / "said", patience)


def test_it_is_killed_once_so_many_tests_are_done(tmp_path: Path) -> None:
    program = "import pathlib, sys, signal; [pathlib.Path(sys.argv[1], n).touch() for n in 'ab']; signal.pause()"
    assert kill(program, tmp_path, 600) == 2


def test_one_that_ends_before_or_does_not_come_so_far_is_told_of(tmp_path: Path) -> None:
    for name in ("ended", "late"):
        (tmp_path / name).mkdir()
    with pytest.raises(RuntimeError, match="ended with 3 by itself, 0 done:\nwhy it does"):
        kill("import os; os.write(2, b'why it does'); os._exit(3)", tmp_path / "ended", 600)
    with pytest.raises(RuntimeError, match="was not so far in 0 s, 0 done"):
        kill("import signal; signal.pause()", tmp_path / "late", 0)
