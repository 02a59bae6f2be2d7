"""What may be waited for, and how it is spelled; how text that comes in pieces becomes lines."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.manual import section
from ve import ready
from ve.errors import InvalidValue


@pytest.mark.parametrize(
    ("wish", "kind", "argument"),
    [
        ("boot", "boot", None),
        ("tcp:80", "tcp", 80),
        ("tcp:65535", "tcp", 65535),
        ("log:a: b", "log", re.compile("a: b")),
        ("file:/run/a b:c", "file", "/run/a b:c"),
        ("command:pg_isready -q", "command", ["/bin/sh", "-c", "pg_isready -q"]),
        (["pg_isready", "-q"], "command", ["pg_isready", "-q"]),
        (("true",), "command", ["true"]),
    ],
)
def test_conditions(wish: Any, kind: str, argument: object) -> None:
    [condition] = ready.parse([wish])
    assert (condition.kind, condition.argument) == (kind, argument)


def test_without_any_it_is_boot() -> None:
    assert [each.kind for each in ready.parse(())] == ["boot"]


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ("boot:", "nothing can stand behind boot"),
        *(
            (f"tcp{port}", "it is no port")
            for port in ("", ":", ":0", ":65536", ":http", ":-1", ":8 0", ":٣", ":123456")
        ),
        ("log:", "it is empty"),
        ("log", "it is empty"),
        *((f"log:{regex}", "it is no regular expression") for regex in ("(", "[", "*", "(?P<a")),
        *((f"file:{path}", "it is no absolute path") for path in ("", "etc", "/a\0b")),
        *((f"command:{line}", "it is no command line") for line in ("", "  ", "a\0b")),
        ("", "there is no condition ''"),
        ("port:80", "there is no condition 'port'"),
        ([], "it is empty"),
    ],
)
def test_what_is_none(wish: Any, why: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        ready.parse(["boot", wish])
    assert str(caught.value).startswith("cannot wait for ") and why in str(caught.value)


def test_who_mistypes_is_told_the_nearest() -> None:
    with pytest.raises(InvalidValue) as caught:
        ready.parse(["flie:/x"])
    assert caught.value.hint == "did you mean file?"


def test_the_manual_and_the_docstring_have_all() -> None:
    rows = re.findall(r"^\| `([a-z]+)(?::[A-Z]+)?` \| ", section("ve start").partition("CONDITION is")[2], re.MULTILINE)
    assert rows == re.findall(r"^    ([a-z]+)", ready.__doc__ or "", re.MULTILINE) == list(ready._READ)
    assert list(ready._WAITS) == list(ready._EXAMPLES) == rows
    for text in ready._EXAMPLES.values():
        ready.parse([text.replace("'", "")])


@given(st.binary(max_size=200), st.lists(st.integers(1, 50), min_size=1))
def test_lines_are_whole_however_they_come(text: bytes, sizes: list[int]) -> None:
    """Each line is there as a whole; a piece of one that is not whole yet may be there besides."""
    pieces, rest = [], text
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    seen = [line.encode(errors="replace") for line in ready._lines(iter([*pieces, rest]))]
    whole = [line.decode(errors="replace").rstrip("\r").encode(errors="replace") for line in text.split(b"\n")]
    assert [line for line in whole if line and line not in seen] == []
