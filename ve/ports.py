"""Ports of the host that lead into a VE, as an admin types them: 8080:80 or 8080:80/udp."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ve.errors import InvalidValue

PROTOCOLS = {"tcp": 6, "udp": 17}  # the kernel's numbers
NO_ADDRESS = '--ip ADDRESS gives it one, --publish "" takes its ports away'  # the cure for who has ports alone
_NUMBER = "[0-9]{1,9}"  # [0-9], as int() takes every script's digits
_EXAMPLE = "8080:80 or 8080:80/udp"


@dataclass(frozen=True, order=True)
class Port:
    """One of the host's ports, and which of the VE's it leads to."""

    host: int
    inside: int
    protocol: str = "tcp"

    def __str__(self) -> str:
        """As it is typed."""
        return f"{self.host}:{self.inside}" + ("" if self.protocol == "tcp" else f"/{self.protocol}")

    @property
    def outer(self) -> str:
        """The host's part, as in 8080/tcp."""
        return f"{self.host}/{self.protocol}"


def port(text: str) -> Port:
    """Of HOST:INSIDE[/PROTOCOL]; InvalidValue says what is wrong with it."""
    pair, slash, protocol = text.partition("/")
    if slash and protocol not in PROTOCOLS:
        what = f"{protocol!r} has no ports to publish" if protocol else "a protocol is missing after /"
        if protocol.lower() in PROTOCOLS:
            what = f"{protocol!r} is not in lower case"
        raise InvalidValue(f"cannot publish {text!r}: {what}", f"tcp or udp: {_EXAMPLE}")
    host, colon, inside = pair.partition(":")
    if not colon:
        raise InvalidValue(f"cannot publish {text!r}: it is not HOSTPORT:PORT", _EXAMPLE)
    return Port(_number(text, host, "host's"), _number(text, inside, "VE's"), protocol or "tcp")


def _number(text: str, digits: str, whose: str) -> int:
    if not re.fullmatch(_NUMBER, digits):
        what = f"the {whose} port {digits!r} is not a number" if digits else f"the {whose} port is missing"
        ranged = re.fullmatch("[0-9]+-[0-9]+", digits)
        hint = "a range is published port by port" if ranged else _EXAMPLE
        raise InvalidValue(f"cannot publish {text!r}: {what}", hint)
    if not 1 <= int(digits) <= 65535:
        raise InvalidValue(f"cannot publish {text!r}: ports are 1 to 65535, and the {whose} is {int(digits)}", _EXAMPLE)
    return int(digits)


def check(words: Iterable[str]) -> None:
    """InvalidValue for one that is none, or for two that are the same of the host's."""
    seen: dict[str, Port] = {}
    for each in map(port, words):
        if other := seen.get(each.outer):
            raise InvalidValue(f"cannot publish {each}: {other} has port {each.outer} already", "another port")
        seen[each.outer] = each
