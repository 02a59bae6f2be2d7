"""Presets: what a VE of some size may use, by name, or from a file of the admin's.

    [limits]
    memory = "512M"
    processes = 240

A preset is that table of a conf file: names and values are those of `ve set`, and stay words here.
"""

from __future__ import annotations

import re

from ve.errors import BrokenConfig, InvalidValue
from ve.wholefile import read_regular

NAMES = ("light", "basic", "heavy")  # each a file beside this one
SIZE_MAX = 1 << 20  # bytes of the admin's own
_KEY = re.compile(r"[a-z_]+")


def load(name: str) -> dict[str, str]:
    """The limits of a preset, name -> value; with a slash in it, name is the path of the admin's own file.

    InvalidValue if there is none, BrokenConfig if it cannot be read as one.  Whether there are such limits is not
    looked at.
    """
    if not isinstance(name, str):
        raise InvalidValue(f"cannot use preset {name!r}: it is not a string")
    if "/" in name:
        return parse(_content(name), name)
    if name not in NAMES:
        hint = f"there are {', '.join(NAMES)}; a file of yours is given with its path: ./{name}"
        raise InvalidValue(f"cannot use preset {name!r}: there is none", hint)
    from importlib import resources  # only who uses a preset pays for it

    return parse(resources.files(__name__).joinpath(f"{name}.toml").read_bytes(), f"{name}.toml")


def parse(data: bytes, path: str) -> dict[str, str]:
    """The same of a file's content; path is only for messages."""
    import tomllib

    try:
        table = tomllib.loads(data.decode())
    except ValueError as error:  # no TOML, or no UTF-8
        raise BrokenConfig(f"cannot read {path}: {error}") from error
    except RecursionError:
        raise BrokenConfig(f"cannot read {path}: it is nested too deeply") from None
    limits = table.pop("limits", {})
    if table or not limits or not isinstance(limits, dict):
        raise BrokenConfig(f"cannot read {path}: it is not one table [limits]")
    for key, value in limits.items():
        if "-" in key:
            raise BrokenConfig(f"cannot read {path}: limits.{key} has no '-'", hint=f"{key.replace('-', '_')}")
        if not _KEY.fullmatch(key) or isinstance(value, bool) or not isinstance(value, str | int | float):
            raise BrokenConfig(f"cannot read {path}: limits.{key} is not a string or a number")
    return {key: str(value) for key, value in limits.items()}


def _content(path: str) -> bytes:
    try:
        return read_regular(path, SIZE_MAX)
    except OSError as error:
        raise InvalidValue(f"cannot use preset {path}: {error.strerror}") from error
    except ValueError:  # a NUL in it, or half of a surrogate pair
        raise InvalidValue(f"cannot use preset {path!r}: it is no path") from None
