"""What a running VE has of a network, as its facts say; most VEs have none, and for those nothing more is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ve.addresses import Address, Wish
    from ve.facts import Facts


class Given(NamedTuple):
    """What a running VE has: its interface on the host, and the addresses that each wish has got it."""

    interface: str = ""
    addresses: tuple[tuple[str, tuple[Wish, ...]], ...] = ()

    def all(self) -> list[Wish]:
        return [each for _, given in self.addresses for each in given]

    def held(self) -> list[Address]:
        """The same, without the lengths of their networks."""
        return [each.address for each in self.all() if each.address]

    def only(self, words: Sequence[str]) -> Given:
        """What it has by these, in their order: a start would give it the same first."""
        had = dict(self.addresses)
        return self._replace(addresses=tuple((word, had[word]) for word in words if word in had))

    def noted(self) -> dict[str, str]:
        """As facts keep it."""
        if self == Given():
            return {}
        import json  # only a VE with a network pays for it

        table = {wish: list(map(str, given)) for wish, given in self.addresses}
        return {"interface": self.interface, "addresses": json.dumps(table)}


def given(facts: Facts | None) -> Given:
    """What the facts of a running VE say."""
    if not facts or "interface" not in facts.extra:
        return Given()
    import json

    from ve.addresses import Wish

    table = json.loads(facts.extra["addresses"])
    addresses = tuple((wish, tuple(map(Wish.parse, each))) for wish, each in table.items())
    return Given(facts.extra["interface"], addresses)


def addresses(facts: Facts | None, wishes: Sequence[str]) -> list[str]:
    """What `ve list` says: those of a VE that runs, else those that it was asked to have."""
    if facts:
        return [str(each) for each in given(facts).all()]
    if not wishes:
        return []
    from ve.addresses import Wish

    return [text for text in wishes if Wish.parse(text).address]
