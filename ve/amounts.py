"""How much: numbers as an admin types them, in vzctl's spelling, and as the kernel counts them.

A bound is BARRIER:LIMIT, or one number for both, in the resource's own unit: pages, bytes or items.  What is counted in
pages or bytes also takes a suffix, B K M G T for bytes or P for pages, in either case; `unlimited` is a number too.
"""

import os
import re
from typing import NamedTuple

from ve.errors import InvalidValue

UNLIMITED = 2**63 - 1  # LONG_MAX, as /proc/user_beancounters has it
PAGE = os.sysconf("SC_PAGE_SIZE")
PAGES, BYTES, ITEMS = "pages", "bytes", "items"
_MULTIPLES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": PAGE}
_WHOLE = r"(?i)([0-9]{1,19})(?:([bkmgtp])(?:i?b)?)?"
_FRACTION = r"(?i)([0-9]{1,12}(?:\.[0-9]{1,6})?)(?:([bkmgt])(?:i?b)?)?"


class Bound(NamedTuple):
    """A barrier, which is a warning, and a limit, which is a wall."""

    barrier: int
    limit: int

    def __str__(self) -> str:
        return f"{number_text(self.barrier)}:{number_text(self.limit)}"


def bound(name: str, text: str, unit: str) -> Bound:
    """Of BARRIER:LIMIT or one number for both; InvalidValue names the resource and what is wrong."""
    first, colon, second = text.partition(":")
    barrier = number(name, first, unit)
    limit = number(name, second, unit) if colon else barrier
    if barrier > limit:
        raise InvalidValue(f"cannot use {name} {text!r}: its barrier {first} is above its limit {second}")
    return Bound(barrier, limit)


def number(name: str, text: str, unit: str) -> int:
    """One number of this unit, pages being rounded up; InvalidValue."""
    if text.lower() == "unlimited":
        return UNLIMITED
    found = re.fullmatch(_WHOLE, text)
    if found is None:
        raise InvalidValue(f"cannot use {name} {text!r}: {_why(text, unit)}", _whole_hint(text, unit))
    digits, suffix = int(found[1]), (found[2] or "").lower()
    if suffix and unit == ITEMS:
        raise InvalidValue(f"cannot use {name} {text!r}: it is a count, which has no suffix", hint=f"{digits}")
    if unit == PAGES:
        whole = digits if suffix in ("", "p") else -(-digits * _MULTIPLES[suffix] // PAGE)
    else:
        whole = digits * _MULTIPLES[suffix]
    if whole > UNLIMITED:
        raise InvalidValue(f"cannot use {name} {text!r}: it is more than any kernel counts", hint="unlimited")
    return whole


def size(name: str, text: str) -> int:
    """Bytes, of such as 512M, 1.5G or unlimited; InvalidValue."""
    if text.lower() == "unlimited":
        return UNLIMITED
    found = re.fullmatch(_FRACTION, text)
    if found is None:
        of_pages = re.fullmatch(_WHOLE, text)
        why = "P is for what is counted in pages" if of_pages else _why(text, BYTES, "B, K, M, G or T")
        raise InvalidValue(f"cannot use {name} {text!r}: {why}")
    return min(int(float(found[1]) * _MULTIPLES[(found[2] or "").lower()]), UNLIMITED)


def rate(name: str, text: str) -> int:
    """Bytes a second, of such as 10M/s or 10M; InvalidValue."""
    return size(name, text.removesuffix("/s"))


def count(name: str, text: str) -> int:
    """Items, with no suffix; InvalidValue."""
    return number(name, text, ITEMS)


def number_text(value: int) -> str:
    return "unlimited" if value >= UNLIMITED else str(value)


def size_text(value: int) -> str:
    """Bytes in the largest unit that divides them."""
    if value >= UNLIMITED:
        return "unlimited"
    for suffix in "TGMK":
        if value and value % _MULTIPLES[suffix.lower()] == 0:
            return f"{value // _MULTIPLES[suffix.lower()]}{suffix}"
    return str(value)


def _why(text: str, unit: str, suffixes: str = "B, K, M, G, T or P") -> str:
    if text.startswith("-"):
        return "it is negative"
    if not text:
        return "a number is missing"
    if unit != ITEMS and re.fullmatch(_FRACTION, text):
        return "it is not a whole number"
    return "it is not a number" if unit == ITEMS else f"it is not a number with {suffixes} behind it"


def _whole_hint(text: str, unit: str) -> str:
    """The same of a fraction such as 1.5G, in whole ones of the next suffix."""
    found = re.fullmatch(_FRACTION, text)
    if unit == ITEMS or found is None or not found[2]:
        return ""
    return size_text(int(float(found[1]) * _MULTIPLES[found[2].lower()]))
