"""TOML as conf files and pools are written in it: read, and what is wrong with one said by line and key."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from ve.errors import UPGRADE, BrokenConfig, nearest, newer


class Broken(Exception):
    """What is expected where; at: the key that stands there, and a pattern of the part of its value."""

    def __init__(self, message: str, hint: str = "", at: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.hint = hint
        self.at = at

    def of(self, path: str, data: bytes) -> BrokenConfig:
        """The error for who reads this file, with the line where that can be told."""
        line = _line(data.decode(errors="replace").splitlines(), *self.at) if self.at else 0
        place = f"line {line}: " if line else ""
        return BrokenConfig(f"cannot read {path}: {place}{self}", hint=self.hint)


def table(data: bytes, newest: int) -> dict[str, Any]:
    """What is in it, without its version, which is one up to the newest; Broken."""
    found = _loaded(data)
    if "version" not in found:
        raise Broken("key version: is missing")
    version = found.pop("version")
    if type(version) is not int or version < 1:
        raise Broken(f"key version: must be {newest}", at=("version",))
    if why := newer(version, newest):
        raise Broken(why, UPGRADE, ("version",))
    return found


def refuse_unknown(found: Mapping[str, Any], keys: Collection[str]) -> None:
    """Broken for a key that is none of these."""
    for key in found:
        if key not in keys:
            raise Broken(f"key {key}: there is no such key", nearest(key, keys), (key,))


def _loaded(data: bytes) -> dict[str, Any]:
    import tomllib  # 18 ms; most verbs ask the kernel only

    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Broken(f"line {line}: must be UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).rstrip(")").partition(" (at ")
        end = f"line {len(data.splitlines())}"  # where it says only "end of document"
        place = where.partition(",")[0] if where.startswith("line ") else end
        raise Broken(f"{place}: {what[:1].lower()}{what[1:]}") from None
    except RecursionError:
        raise Broken("it is nested too deeply") from None
    except ValueError:  # int()'s own, of more digits than it converts
        raise Broken("a number in it is too long") from None


def _line(lines: list[str], key: str, part: str = "") -> int:
    """The number of the line where a key stands or, from there on, a part of its value; 0 if it is spelled oddly."""
    begins = re.compile(rf"""\s*\[?\s*["']?{re.escape(key)}\b""")
    first = next((number for number, line in enumerate(lines, 1) if begins.match(line)), 0)
    word = re.compile(rf"(?<!\w){part}")
    behind = enumerate(lines[first - 1 :], first) if first and part else ()
    return next((number for number, line in behind if word.search(line)), first)
