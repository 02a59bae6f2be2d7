"""Config as TOML and back: what stands in conf/<VEID>.toml.

    version = 1
    template = "busybox:1"
    hostname = "red"
    mounts = ["/srv/www:/var/www:ro"]

    [env]
    LANG = "C.UTF-8"

The keys are Config's fields, all but the VEID, which is the file's name; what is left out has Config's default.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from ve.errors import BrokenConfig, InvalidValue, NotFound
from ve.model import Config, Mount
from ve.tomlfile import Broken, refuse_unknown, table
from ve.wholefile import read_regular

VERSION = 1
SIZE_MAX = 16 << 20  # bytes; more than a command line can ask for

_EXPECTED = {str: "a string", bool: "true or false", list: "an array of strings", dict: "a table of strings"}

# Each key: its TOML type, and what makes one string of it a part of Config's value; str() is the way back.
KEYS: dict[str, tuple[type, Callable[[str], Any]]] = {
    "template": (str, str),
    "name": (str, str),
    "hostname": (str, str),
    "description": (str, str),
    "onboot": (bool, bool),
    "env": (dict, str),
    "mounts": (list, Mount.parse),
    "devices": (list, str),
    "profiles": (list, str),
    "capabilities": (dict, str),
    "limits": (dict, str),
    "on_barrier": (dict, str),
    "on_failure": (dict, str),
    "network": (str, str),
    "device_lost_ok": (bool, bool),
    "addresses": (list, str),
    "gateways": (list, str),
    "publish": (list, str),
    "rate": (str, str),
    "delay": (str, str),
    "loss": (str, str),
    "nameservers": (list, str),
    "searchdomains": (list, str),
    "area": (str, str),
    "user_beancounters": (bool, bool),
    "account_only": (bool, bool),
    "layers": (list, str),
    "made_on": (list, str),
    "snapshots": (dict, str),
    "unfinished": (str, str),
}


def load(path: str | os.PathLike[str], veid: int) -> Config:
    """The Config in this file; BrokenConfig names the line or key and what is expected there; NotFound if it is not."""
    return parse(content(path, veid), veid, os.fspath(path))


def content(path: str | os.PathLike[str], veid: int) -> bytes:
    """What is in this file; BrokenConfig if that cannot be a conf file whatever it says, NotFound if there is none."""
    try:
        return read_regular(path, SIZE_MAX)
    except FileNotFoundError:
        if os.path.islink(path):
            raise BrokenConfig(f"cannot read {os.fspath(path)}: it is a link that leads nowhere") from None
        raise NotFound(f"cannot find VE {veid}: there is none", hint="ve list shows all") from None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        raise BrokenConfig(f"cannot read {os.fspath(path)}: {error.strerror}") from error


def parse(data: bytes, veid: int, path: str) -> Config:
    """The same of a file's content; path is only for messages."""
    try:
        return _config(table(data, VERSION), veid)
    except Broken as error:
        raise error.of(path, data) from None


def dump(config: Config) -> bytes:
    """The file's content.  Keys that have their default are left out."""
    import tomli_w  # only who writes pays for it

    plain = Config(config.veid, config.template)
    found: dict[str, Any] = {"version": VERSION}
    for key, (shape, _) in KEYS.items():
        value = getattr(config, key)
        if key == "template" or value != getattr(plain, key):
            found[key] = [str(part) for part in value] if shape is list else value
    return tomli_w.dumps(found).encode()


def _config(found: dict[str, Any], veid: int) -> Config:
    refuse_unknown(found, KEYS)
    if "template" not in found:
        raise Broken("key template: is missing")
    try:
        return Config(veid, **{key: _value(key, raw) for key, raw in found.items()})
    except InvalidValue as error:
        for key, raw in found.items():
            _value(key, raw, alone=True)
        raise Broken(str(error), error.hint) from None  # of the whole: each key alone was right


def _value(key: str, raw: object, alone: bool = False) -> Any:
    """Config's value of one key; alone: checked by Config, part by part so that a message can name the part."""
    shape, make = KEYS[key]
    if type(raw) is not shape:
        raise Broken(f"key {key}: must be {_EXPECTED[shape]}", at=(key,))
    parts = {}
    for name, label, part in _parts(key, raw):
        if shape is not bool and not isinstance(part, str):
            raise Broken(f"key {label}: must be a string", at=_at(key, label, name, part))
        try:
            parts[name] = make(part)
            if alone:
                _try(key, {name: parts[name]} if shape is dict else (parts[name],) if shape is list else parts[name])
        except InvalidValue as error:
            raise Broken(f"key {label}: {error}", error.hint, _at(key, label, name, part)) from None
    return parts if shape is dict else tuple(parts.values()) if shape is list else parts[key]


def _try(key: str, value: Any) -> None:
    """InvalidValue if no Config has it."""
    Config(1, **{"template": "any:1", "account_only": True, key: value})


def _at(key: str, label: str, name: str | int, part: object) -> tuple[str, ...]:
    """Where a part stands, as Broken has it."""
    if label == key:
        return (key,)
    return (key, rf"{re.escape(name)}[\"']?\s*=" if isinstance(name, str) else rf"{re.escape(str(part))}(?!\w)")


def _parts(key: str, raw: object) -> Iterator[tuple[Any, str, Any]]:
    if isinstance(raw, dict):
        yield from ((name, f"{key}.{name}", part) for name, part in raw.items())
    elif isinstance(raw, list):
        yield from ((index, f"{key}[{index}]", part) for index, part in enumerate(raw))
    else:
        yield key, key, raw
