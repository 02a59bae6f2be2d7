"""The words for the shapes of a VE's network: --network KIND[:WHAT].

routed        addresses of its own, which the host routes to it; what a VE has that is given addresses
none          a loopback
host          the host's own network
ve:VEID       that of another VE, which runs; who asks for it may also say ve:NAME
bridge:BR     a port of a bridge of the admin's
macvlan:IF    an Ethernet address of its own on an interface of the host
device:IF     an interface of the host, moved in for as long as it runs
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from ve.errors import InvalidValue, nearest

_NEVER = "[/:\\s\0-\x1f\x7f-\x9f\ud800-\udfff]"


def _is_veid(text: str) -> bool:
    return re.fullmatch("[1-9][0-9]{0,9}", text) is not None


def is_interface(text: str) -> bool:
    """Whether an interface can have this name: dev_valid_name in the kernel's net/core/dev.c."""
    return text not in ("", ".", "..") and len(text.encode(errors="replace")) < 16 and not re.search(_NEVER, text)


# kind -> what comes after the colon, as it is shown and as it must be; nothing for ""
KINDS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "routed": ("", lambda text: not text),
    "none": ("", lambda text: not text),
    "host": ("", lambda text: not text),
    "ve": ("VEID", _is_veid),
    "bridge": ("BR", is_interface),
    "macvlan": ("IF", is_interface),
    "device": ("IF", is_interface),
}
ATTACHED = ("bridge", "macvlan", "device")  # those that have an interface, and no route of the host
SHARED = ("host", "ve")  # those whose namespace is not the VE's own
UNGUARDED = ("macvlan", "device")  # those whose packets pass no rule of ours
INSIDE = {"routed": "venet0", "bridge": "eth0", "macvlan": "eth0"}  # what a VE's interface is called in it


def with_veid(text: str, resolve: Callable[[str], int]) -> str:
    """The same of ve:NAME by the VEID of that VE, which it keeps under any name; as resolve if there is none."""
    kind, _, key = text.partition(":")
    return f"ve:{resolve(key)}" if kind == "ve" and (key[:1].isalpha() or key[:1] == "_") else text


class Shape(NamedTuple):
    """One of KINDS, and the bridge, interface or VEID that it is about."""

    kind: str
    argument: str = ""

    @classmethod
    def parse(cls, text: str) -> Shape:
        """InvalidValue says what is wrong with it, or names the nearest kind."""
        kind, _, argument = text.partition(":")
        if kind not in KINDS:
            raise InvalidValue(f"cannot use network {text!r}: there is no such kind", nearest(kind, map(_shown, KINDS)))
        what, is_one = KINDS[kind]
        if not is_one(argument) or (not what and ":" in text):
            why = f"it is not {_shown(kind)}" if what else f"{kind} stands alone"
            raise InvalidValue(f"cannot use network {text!r}: {why}")
        return cls(kind, argument)

    @property
    def inside(self) -> str:
        """What its interface is called in the VE, where a device keeps its name; "" if it has none of its own."""
        return self.argument if self.kind == "device" else INSIDE.get(self.kind, "")

    def __str__(self) -> str:
        return self.kind + (f":{self.argument}" if self.argument else "")


def _shown(kind: str) -> str:
    what, _ = KINDS[kind]
    return f"{kind}:{what}" if what else kind
