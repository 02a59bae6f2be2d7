"""Numbers as they are typed: vzctl's spelling, and what is refused."""

import pytest

from ve import amounts
from ve.amounts import BYTES, ITEMS, PAGE, PAGES, UNLIMITED, Bound
from ve.errors import InvalidValue


@pytest.mark.parametrize(
    ("text", "unit", "bound"),
    [
        ("200", ITEMS, (200, 200)),
        ("0:131072", PAGES, (0, 131072)),
        ("65536:69632", PAGES, (65536, 69632)),
        ("512M", PAGES, (512 << 20 >> 12, 512 << 20 >> 12)),
        ("1b:4097B", PAGES, (1, 2)),  # what is begun is a page
        ("5P", PAGES, (5, 5)),
        ("2p", BYTES, (2 * 4096, 2 * 4096)),
        ("14372700:14790164", BYTES, (14372700, 14790164)),
        ("1k:1T", BYTES, (1024, 1 << 40)),
        ("10MiB", BYTES, (10 << 20, 10 << 20)),
        ("33792:unlimited", PAGES, (33792, UNLIMITED)),
        ("UNLIMITED", ITEMS, (UNLIMITED, UNLIMITED)),
        (str(UNLIMITED), ITEMS, (UNLIMITED, UNLIMITED)),
    ],
)
def test_bounds(text: str, unit: str, bound: tuple[int, int]) -> None:
    assert PAGE == 4096  # the numbers above are of such a machine
    assert amounts.bound("x", text, unit) == bound


@pytest.mark.parametrize(
    ("text", "unit", "why"),
    [
        ("2:1", ITEMS, "its barrier 2 is above its limit 1"),
        ("unlimited:5", PAGES, "its barrier unlimited is above its limit 5"),
        ("-1", ITEMS, "it is negative"),
        ("5:-1", PAGES, "it is negative"),
        ("5k", ITEMS, "it is a count, which has no suffix"),
        ("", ITEMS, "a number is missing"),
        ("5:", PAGES, "a number is missing"),
        ("1:2:3", PAGES, "it is not a number with B, K, M, G, T or P behind it"),
        ("1.5", PAGES, "it is not a whole number"),
        ("ten", ITEMS, "it is not a number"),
        ("5x", BYTES, "it is not a number with"),
        ("٣", ITEMS, "it is not a number"),
        (" 5", ITEMS, "it is not a number"),
        ("9999999999999999999", ITEMS, "it is more than any kernel counts"),
        ("9000000000G", BYTES, "it is more than any kernel counts"),
    ],
)
def test_what_is_no_bound(text: str, unit: str, why: str) -> None:
    with pytest.raises(InvalidValue, match=why) as raised:
        amounts.bound("numproc", text, unit)
    assert str(raised.value).startswith("cannot use numproc '")


@pytest.mark.parametrize(
    ("text", "size"), [("512M", 512 << 20), ("1.5G", 3 << 29), ("0", 0), ("100", 100), ("unlimited", UNLIMITED)]
)
def test_sizes(text: str, size: int) -> None:
    assert amounts.size("memory", text) == size
    assert amounts.rate("io_read", text) == size
    assert amounts.rate("io_read", f"{text}/s") == size


@pytest.mark.parametrize("text", ["", "-5M", "5P", "M", "5M/h", "1e9", "0x10", "5 M", "nan", "inf"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidValue):
        amounts.rate("io_read", text)


@pytest.mark.parametrize(
    ("number", "text"), [(512 << 20, "512M"), (1 << 30, "1G"), (1000, "1000"), (0, "0"), (UNLIMITED, "unlimited")]
)
def test_sizes_as_they_are_shown(number: int, text: str) -> None:
    assert amounts.size_text(number) == text


def test_a_bound_as_it_is_shown() -> None:
    assert str(Bound(0, UNLIMITED)) == "0:unlimited"
