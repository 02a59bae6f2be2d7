"""The short way of the plainest command lines: it calls, prints and fails as the parser does, and only it is short."""

import contextlib
import io
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import ve
from tests.unit.test_cli import World, world
from ve import _app, _cli, _main, errors

__all__ = ["world"]  # the fixture

PLAIN = (
    *("list", "ubc", "start 101", "start web 102 103", "stop 101", "stop web 102", "exec 101 true", "exec web -- -x y"),
    *(
        "exec 101 sh -c 'a -- b' -- --help",
        "exec 101",
        "exec 101 --",
        "exec 101 -- -- a",
        "exec 101 list",
        "exec list a",
    ),
    *("run busybox", "run busybox -- true", "run b:1 sh -c true --user root", "run busybox --", "start 99999999999"),
    *("--state-dir /s list", "--state-dir /s exec 101 -- true", "--state-dir list ubc", "--state-dir /s start web"),
)
NOT_PLAIN = (
    *("", "help", "help exec", "--help", "-h", "--version", "list --json", "list -H", "list 101", "ubc 101", "ubc -q"),
    *(
        "start",
        "start --onboot",
        "start 101 --foreground",
        "start -5",
        "start --",
        "start -- 101",
        "stop --all",
        "stop",
    ),
    *(
        "stop --fast 101",
        "stop 101 -t 5",
        "exec",
        "exec -- true",
        "exec --user root 101 true",
        "exec 101 --user root x",
    ),
    *("exec 101 --help", "exec -h", "run", "run -- true", "run --memory 1G busybox true", "run busybox --memory 1G x"),
    *(
        "-q list",
        "--quiet start 101",
        "--state-dir list",
        "--state-dir",
        "--state-dir=/s list",
        "--state-dir /s -q list",
    ),
    *("--state-dir /s", "-x", "none", "exex 101 true", "create 101 --template b", "status 101", "restart 101"),
)
WORDS = (
    *("list", "ubc", "start", "stop", "exec", "run", "ps", "help", "template", "101", "web", "busybox:1", "true", "-5"),
    *(
        "--",
        "-",
        "",
        " ",
        "-q",
        "--state-dir",
        "/s",
        "--help",
        "-h",
        "--json",
        "--fast",
        "--user",
        "root",
        "--all",
        "-x",
    ),
    *("\x1b[2J", "\udcff", "é", "0101", "٣", "99999999999", "=", "--state-dir=/s", "--version", "--cwd", "-e", "A=b"),
)
# What the library has to say: each by the method that says it.
ANSWERS: tuple[dict[str, Any], ...] = (
    {},
    {"get": errors.NotFound("cannot find VE 101: there is none", hint="ve list shows all")},
    {"call": ve.ExitCode(7), "run": ve.ExitCode(126)},
    {"call": ve.ExitCode.of(137, "physpages", "physpages was used up"), "run": 255},
    {"call": errors.NotRunning("cannot run a command in 101: it is not running", "ve start 101")},
    {"call": errors.CannotExecute("cannot execute x: no such file"), "run": errors.TemplateNotFound("cannot find it")},
    {"start": errors.StartFailed("cannot start 101: cgroup: no"), "stop": errors.Locked("cannot lock 101: it is")},
    {"start": OSError(28, "No space left on device", "/x"), "stop": False, "list": PermissionError(13, "no")},
    {"start": KeyboardInterrupt(15), "call": KeyboardInterrupt(), "run": BrokenPipeError(32, "pipe")},
    {"list": ValueError("\x1b")},
    {"stop": RuntimeError("odd"), "run": MemoryError(), "beancounters": errors.BrokenConfig("cannot read it: half")},
)  # fmt: skip
Ended = tuple[int, str, str, list[Any], list[Any]]


def ended(main: Callable[[list[str]], int], line: list[str], answers: dict[str, Any], at: list[World]) -> Ended:
    """The exit code, what was written to stdout and stderr, and what the library was asked for."""
    at.append(World())
    at[-1].answers |= {"beancounters": []} | answers
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True) for _ in "oe"]
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        code = main(line)
    out, err = (stream.buffer.getvalue().decode() for stream in streams)
    asked = [(name, [*map(_named, args)], options) for name, args, options in at[-1].calls]
    return code, out, err, asked, at[-1].state_dirs


def _named(value: Any) -> Any:
    """What two calls have alike: of a function its name."""
    return value.__name__ if callable(value) else value


@pytest.fixture
def at(world: World, monkeypatch: pytest.MonkeyPatch) -> list[World]:
    """The worlds that were asked, the last one being asked now."""
    worlds: list[World] = []
    monkeypatch.setitem(vars(ve), "Host", lambda state_dir: worlds[-1].host(state_dir))
    return worlds


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The lines that went to the parser."""
    lines: list[list[str]] = []
    parse = _app._parsed

    def noted(here: Any) -> int | None:
        lines.append(here.words)
        return parse(here)

    monkeypatch.setattr(_app, "_parsed", noted)
    yield lines


def words(line: str) -> list[str]:
    return shlex.split(line)


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("line", PLAIN)
def test_a_plain_line_is_the_same_by_both_ways(
    line: str, answers: dict[str, Any], at: list[World], parsed: list[list[str]]
) -> None:
    short = ended(_main.main, words(line), answers, at)
    assert not parsed, "it was to do without the parser"
    assert short == ended(_cli.main, words(line), answers, at)
    assert len(parsed) == 1


@pytest.mark.parametrize("line", NOT_PLAIN)
def test_any_other_line_is_for_the_parser(line: str, at: list[World], parsed: list[list[str]]) -> None:
    first = ended(_main.main, words(line), {}, at)
    assert len(parsed) == 1 and len(at) == 1
    assert first == ended(_cli.main, words(line), {}, at)


def test_no_line_tells_the_two_apart(at: list[World]) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=[*HealthCheck])
    @given(st.lists(st.sampled_from(WORDS), max_size=6), st.sampled_from(ANSWERS))
    @example(["exec", "101", "-", "x"], {})
    @example(["--state-dir", "-x", "list"], {})
    @example(["--state-dir", "", "list"], {})
    @example(["start", ""], {})
    def tried(line: list[str], answers: dict[str, Any]) -> None:
        assert ended(_main.main, line, answers, at) == ended(_cli.main, line, answers, at)

    tried()


def test_completion_is_for_the_parser(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_VE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "ve lis")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        _main.main(["list"])
    assert capsys.readouterr().out == "list\n"


def test_it_takes_the_line_of_the_process(at: list[World], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["ve", "--state-dir", "/s", "exec", "101", "true"])
    assert ended(lambda _: _main.main(), [], {"call": 3}, at)[0] == 3
    assert at[-1].state_dirs == ["/s"]
