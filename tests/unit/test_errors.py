"""The tree of errors and the table of exit codes hold each other."""

import re

import pytest

from ve import errors

CLASSES = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.Error)]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_has_a_code_of_the_table(error: type[errors.Error]) -> None:
    assert error.exit_code in errors.EXIT_CODES
    assert error("cannot x y: z").hint == ""
    assert error("cannot x y: z", hint="do w").hint == "do w"
    assert str(error("cannot x y: z", hint="do w")) == "cannot x y: z"


@pytest.mark.parametrize("error", CLASSES)
def test_it_is_one_printable_line(error: type[errors.Error]) -> None:
    """A VE chooses names that stand in it, and a program writes it to a log."""
    told = error("cannot x \x1b[2J\n\udcff\u2028é", hint="a\rb")
    assert (str(told), told.hint) == (r"cannot x \x1b[2J\n\udcff\u2028é", r"a\rb")


def test_the_docstring_draws_the_tree() -> None:
    drawn = set(re.findall(r"\b[A-Z][A-Za-z]+\b", (errors.__doc__ or "").split("\n\n")[1]))
    missing = {each.__name__ for each in CLASSES} - drawn
    assert not missing


def test_a_decision_is_a_class() -> None:
    """Whoever catches NotFound gets a template's too, and a conf file's error is one of a value."""
    assert issubclass(errors.TemplateNotFound, errors.NotFound)
    assert issubclass(errors.BrokenConfig, errors.InvalidValue)
    assert (errors.Locked("x", holder=7).holder, errors.Locked("x").holder) == (7, 0)
    assert errors.StartFailed("x", step="pivot").step == "pivot"
    assert errors.StopFailed("x", pids=(1, 2)).pids == (1, 2)
