"""The command `ve`: where it begins.

What a short command costs is mostly the import of what parses command lines.  So the plainest lines, a verb that is
typed often with words and no option, are matched here and make the same call at once.  typer parses all others; it is
the only one that says what is wrong with a line.
"""

from __future__ import annotations

import os
import sys
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from ve._session import Session


def command() -> NoReturn:
    """Run the command line of this process, and end: what Python would tidy up goes with the process, 5 ms sooner."""
    code = main()
    from ve._session import mute

    mute(sys.stdout)
    os._exit(code)


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    words = sys.argv[1:] if argv is None else argv
    state_dir, line = (words[1], words[2:]) if words[:1] == ["--state-dir"] and len(words) > 2 else (None, words)
    call = None if os.environ.get("_VE_COMPLETE") else _plain(line)
    if call is None:
        from ve import _cli  # cli.py, with every verb

        return _cli.main(argv)
    from ve import caller
    from ve._session import Session, stand_on_firm_ground

    stand_on_firm_ground()
    caller.is_the_command = argv is None
    here = Session(words, state_dir, verb=line[0])
    return here.run(lambda: call(here))


def _plain(line: list[str]) -> Callable[[Session], int] | None:
    """What such a line does; None if it is none."""
    from ve import _verbs as verbs

    match line:
        case ["list"]:
            return verbs.list_
        case ["ubc"]:
            return verbs.ubc
        case ["start" | "stop" as verb, _, *_] if _are_plain(line):
            return partial(verbs.start if verb == "start" else verbs.stop, keys=line[1:])
        case ["exec", key, *rest] if _are_plain([key, *rest[:1]]):
            return partial(verbs.exec_, key=key, command=rest)
        case ["exec", key, "--", *command] if _are_plain([key]):
            return partial(verbs.exec_, key=key, command=command)
        case ["run", template, *rest] if _are_plain([template, *rest[:1]]):
            return partial(verbs.run, template=template, command=rest)
        case ["run", template, "--", *command] if _are_plain([template]):
            return partial(verbs.run, template=template, command=command)
    return None


def _are_plain(words: list[str]) -> bool:
    """No options: what begins with a dash is for the parser."""
    return not any(word.startswith("-") for word in words)
