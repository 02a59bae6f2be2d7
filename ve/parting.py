"""Which VEs cannot reach each other, though the host would forward between them: pairs of their interfaces.

Elements of the set parted of the table inet ve (ve/ruleset.py), one for each direction.  An interface has a name that
no later one has, so an element that is left says nothing of any other VE.
"""

from __future__ import annotations

from contextlib import suppress

from ve import nftables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_FAMILY, _SET = "inet", "parted"
_NAME = 16  # bytes of an interface's name: IFNAMSIZ


def part(one: Iterable[str], other: Collection[str]) -> None:
    """From now on nothing passes between these interfaces and those, either way; in the calling thread's namespace."""
    pairs = [(each, second) for each in one for second in other if each != second]
    keys = [_key(*names) for pair in pairs for names in (pair, pair[::-1])]
    nftables.change(*(nftables.there(_FAMILY, _SET, key) for key in dict.fromkeys(keys)))


def heal(interfaces: Collection[str] = ()) -> None:
    """Undo that for every pair that has one of these; for all if there are none of these."""
    for key in [each.key for each in nftables.elements(_FAMILY, _SET)]:
        if not interfaces or not {*_names(key)}.isdisjoint(interfaces):
            with suppress(FileNotFoundError):  # somebody else has just done so
                nftables.change(nftables.gone(_FAMILY, _SET, key))


def _key(source: str, target: str) -> bytes:
    return nftables.joined(nftables.interface(source), nftables.interface(target))


def _names(key: bytes) -> Iterator[str]:
    for at in (0, _NAME):
        yield key[at : at + _NAME].rstrip(b"\0").decode(errors="surrogateescape")
