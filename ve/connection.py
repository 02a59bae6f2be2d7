"""The network of one VE, as a program has it: env.network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ve import addressed, outfit
from ve.claims import Claimant
from ve.networks import Lease

if TYPE_CHECKING:
    from ve.addressed import Given
    from ve.environment import Environment
    from ve.firewall import Traffic


class Connection:
    """Each call asks the files and the kernel anew; what changes, changes at once, and for good with save."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    @property
    def interface(self) -> str | None:
        """Its name on the host, where the traffic of the VE can be watched; None while it has none."""
        return self._given().interface or None

    @property
    def addresses(self) -> list[Lease]:
        """What it has while it runs; nothing otherwise."""
        given, claimant = self._given(), Claimant(self._environment.state, self._environment.veid)
        claimed = [address for address in claimant.claims() if claimant.has(address)]
        where = (claimant.veid, claimant.state.path, given.interface or None)
        return [Lease(address, *where, "both" if address in claimed else "lease") for address in given.held()]

    @property
    def ports(self) -> list[str]:
        """Those of the host that lead to it while it runs, such as "8080:80"; of another, those that it is to have."""
        with self._environment.init() as init:
            return list(outfit.begun_with(init[0] if init else None, self._environment.config)["publish"])

    @property
    def traffic(self) -> Traffic:
        """What it has sent and received since it was made, over its restarts: bytes and packets."""
        return self._environment.traffic

    def add_address(self, wish: str, *, save: bool = False) -> list[Lease]:
        """Give it an address, or one of a pool ("auto:web"); those that it got for that, and none while it is stopped.

        InUse names who has it; InvalidValue, also for a stopped VE without save; NotFound for a pool that is none.
        """
        before = [each.address for each in self.addresses]
        self._environment.set(add_addresses=[wish], save=save)
        return [each for each in self.addresses if each.address not in before]

    def remove_address(self, wish: str, *, save: bool = False) -> None:
        """Take from it what it was given for this word, or with "all" everything; InvalidValue if it has no such."""
        self._environment.set(remove_addresses=[wish], save=save)

    def publish(self, *ports: str, save: bool = False) -> None:
        """Lead these ports of the host to it, such as "8080:80" or "53:53/udp", besides those that do already.

        Exists names who has one, InUse if a process of the host listens there.
        """
        self._environment.set(add_publish=ports, save=save)

    def unpublish(self, *ports: str, save: bool = False) -> None:
        """No longer; InvalidValue for one that does not lead to it."""
        self._environment.set(remove_publish=ports, save=save)

    def _given(self) -> Given:
        with self._environment.init() as init:
            return addressed.given(init[0] if init else None)
