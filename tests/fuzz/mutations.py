"""What a fuzzer makes of valid input, and how long it goes on.

VE_TEST_FUZZ is by how much longer than in `make test` (1): `make fuzz` takes 10.  What fails is shrunk, printed with
what gives the same again (@reproduce_failure), and kept in .hypothesis, from where the next run takes it first.
"""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

LONGER = int(os.environ.get("VE_TEST_FUZZ") or 1)

# What a reader may not have thought of: numbers, ends of lines, what some take for a space, for a quote or for nothing.
ODD = (
    *("0", "-1", "1e999", "9" * 25, "9" * 5000, "NaN", "inf", "-0", "1_0", "0x1", "٣", "true", "null", "None"),
    *("[]", "{}", '""', "''", "[" * 3000, '{"a":' * 3000, "\0", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"),
    *(
        "\t",
        " ",
        "\\",
        "\\x",
        "\\u",
        '"',
        "'",
        "=",
        ":",
        "/",
        "..",
        "-",
        "--",
        "#",
        "%",
        ",",
        "\x1b[2J",
        "\x7f",
        "é",
        "💣",
    ),
    *("K", "İ", "\ufeff", "a" * 300, "%s", "$(id)", "*"),
)


def bounded(rounds: int) -> Callable[[Any], Any]:
    """So many rounds of a test, times VE_TEST_FUZZ."""
    return settings(
        max_examples=rounds * LONGER,
        deadline=None,
        derandomize=False,  # which it would be in CI: each run is to try others
        print_blob=True,
        suppress_health_check=[*HealthCheck],
    )


_TOKEN = re.compile(rb"[\w.]+|\"[^\"\n]*\"|\[[^\[\]]*\]|[^\w\s]")  # a word, a string, a list, or one mark


@st.composite
def mutated(draw: st.DrawFn, samples: Sequence[bytes], odd: Sequence[str] = ()) -> bytes:
    """One of the samples, after a few cuts, insertions and repetitions; or anything at all."""
    data = draw(st.sampled_from([*samples]))
    pieces = st.sampled_from([*ODD, *odd]).map(str.encode) | st.binary(max_size=4) | st.sampled_from([*samples])
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([0, 0, 1, 2, 8, 64, 1 << 20])))
        if spans := [each.span() for each in _TOKEN.finditer(data)] if draw(st.booleans()) else []:
            start, stop = draw(st.sampled_from(spans))
        data = data[:start] + draw(pieces | st.just(b"") | st.just(data[start:stop] * 2)) + data[stop:]
    return data


TEXT = st.text(st.characters(codec=None), max_size=20)


def words(*samples: str) -> st.SearchStrategy[str]:
    """Any text, and what is nearly one of these."""
    near = mutated([sample.encode() for sample in samples]).map(lambda data: data.decode("utf-8", "surrogateescape"))
    return near | TEXT | st.sampled_from(samples)
