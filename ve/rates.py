"""How fast and how badly a network goes, in tc(8)'s words: 10mbit, 10mbit:64k with a burst, 20ms, 0.5%."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ve.errors import InvalidValue

_PER_SECOND = {
    **{f"{prefix}bit": 1000**power / 8 for power, prefix in enumerate(("", "k", "m", "g", "t"))},
    **{f"{prefix}bps": 1000**power for power, prefix in enumerate(("", "k", "m", "g", "t"))},
    **{f"{prefix}ibit": 1024**power / 8 for power, prefix in enumerate(("k", "m", "g", "t"), 1)},
    **{f"{prefix}ibps": 1024**power for power, prefix in enumerate(("k", "m", "g", "t"), 1)},
    "": 1 / 8,
}
_BYTES: dict[str, float] = {
    f"{prefix}{unit}": 1024**power for power, prefix in enumerate("kmg", 1) for unit in ("", "b")
}
_BYTES |= {f"{prefix}bit": 1024**power / 8 for power, prefix in enumerate("kmg", 1)} | {"": 1, "b": 1}
_SECONDS = {"": 1e-6, "us": 1e-6, "usec": 1e-6, "ms": 1e-3, "msec": 1e-3, "s": 1.0, "sec": 1.0}
_WORD = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([a-z%]*)"
_LEAST, _MOST = 125, 10**12 // 8  # bytes a second: 1kbit, 1tbit
PACKET = 1600  # bytes, with which each packet of an Ethernet passes
_BURST_MOST = 1 << 30
_DEFAULT_BURST = 0.02  # seconds: long enough for a busy host to come back to it in time, and no more


@dataclass(frozen=True)
class Rate:
    """Bytes a second each way, and how many may go at once when there was a pause before; text is what was typed."""

    per_second: int
    burst: int
    text: str

    def __str__(self) -> str:
        return self.text


def rate(text: str) -> Rate:
    """Of RATE[:BURST]; InvalidValue says what is wrong."""
    first, colon, second = text.lower().partition(":")
    per_second = int(_quantity(text, first, _PER_SECOND, "rate", "10mbit, 500kbit or 10mbit:64k"))
    if not _LEAST <= per_second <= _MOST:
        raise InvalidValue(f"cannot use rate {text!r}: rates are 1kbit to 1tbit", "10mbit")
    burst = max(int(per_second * _DEFAULT_BURST), 8 << 10)
    if colon:
        burst = int(_quantity(text, second, _BYTES, "rate", "10mbit:64k"))
        if not PACKET <= burst <= _BURST_MOST:
            why = f"a burst is {PACKET} bytes, which one packet needs, to 1g"
            raise InvalidValue(f"cannot use rate {text!r}: {why}", "leave it away, for what suits the rate")
    return Rate(per_second, burst, text)


def delay(text: str) -> float:
    """Seconds, of such as 20ms or 1.5s; InvalidValue."""
    seconds = _quantity(text, text.lower(), _SECONDS, "delay", "20ms")
    if seconds > 60:
        raise InvalidValue(f"cannot use delay {text!r}: it is more than a minute", "20ms")
    return seconds


def loss(text: str) -> float:
    """A fraction, of such as 0.5%; InvalidValue."""
    percent = _quantity(text, text, {"%": 1, "": 1}, "loss", "0.5%")
    if percent > 100:
        raise InvalidValue(f"cannot use loss {text!r}: it is more than all", "0.5%")
    return percent / 100


def _quantity(text: str, word: str, units: dict[str, float], what: str, example: str) -> float:
    found = re.fullmatch(_WORD, word)
    if found is None:
        why = "it is negative" if word.startswith("-") else "it is not a number with a unit"
        raise InvalidValue(f"cannot use {what} {text!r}: {why if word else 'a number is missing'}", example)
    if found[2] not in units:
        known = ", ".join(unit for unit in units if unit)
        raise InvalidValue(f"cannot use {what} {text!r}: there is no unit {found[2]}", f"{example}; there are {known}")
    return float(found[1]) * units[found[2]]
