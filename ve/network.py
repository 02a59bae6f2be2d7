"""The network of a VE with addresses: what a start gives it.

What changes while it runs is in ve/granting.py, what its end takes back in ve/leading.py.  Most VEs have no network,
and their starts import no more than this.
"""

from __future__ import annotations

import contextlib
from types import MappingProxyType

from ve.errors import InvalidValue
from ve.leading import disconnect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ve.addressed import Given
    from ve.state import State

_SPEED = ("rate", "delay", "loss")


def connect(state: State, veid: int, wishes: Sequence[str], pidfd: int, pid: int, *, ephemeral: bool) -> Given:
    """Give a VE that is being started its interface and its addresses; disconnect() takes all back.

    InUse names who has an address, or a pool that has none left.
    """
    from ve import granting

    if not ephemeral:
        granting.claim(state, veid, wishes)
    disconnect(state, veid)  # what a start has left that was killed
    return granting.add(state, veid, granting.linked(state, veid, pidfd, pid), wishes, pidfd, ephemeral=ephemeral)


def have_rules() -> None:
    """The rules that keep every VE to its own addresses; after a boot, what `ve network add --nat` was told as well.

    NotSupported if the host cannot forward as it was told, at each start anew.
    """
    from ve import bridgeports, firewall

    bridgeports.ensure()
    firewall.ensure(_masqueraded)


def _masqueraded() -> list[str]:
    """CIDRs, for which the host forwards from now on: that comes before the table, which so is the sign of both."""
    from ve import forwarding, pool

    sources = [each for each in pool.pools() if each.nat]
    for source in sources:
        forwarding.turn_on(source.versions, contextlib.ExitStack(), f"cannot let pool {source.name} reach out")
    return [str(each) for source in sources for each in source.networks]


def publish(veid: int, given: Given, words: Sequence[str], before: Sequence[str] = ()) -> None:
    """Let these ports of the host lead to it, and those before no more.  InvalidValue, Exists, InUse: as before.

    Those of both are led to what is the first of its addresses now.
    """
    from ve import ports, publishing

    addresses = given.held()
    if words and not addresses:
        raise InvalidValue(f"cannot publish {words[0]} of {veid}: it has no address", ports.NO_ADDRESS)
    wanted, had = set(map(ports.port, words)), set(map(ports.port, before))
    publishing.publish(veid, sorted(wanted), addresses, given.interface)
    if had - wanted:
        publishing.unpublish(had - wanted, addresses)


def limit(veid: int, given: Given, words: Mapping[str, str], before: Mapping[str, str] = MappingProxyType({})) -> None:
    """Let it send and receive as fast, as late and as well as these words say: rate, delay, loss; "" is as it comes."""
    from ve import bandwidth, rates

    (rate, *faults), (had, *had_faults) = ([each.get(name, "") for name in _SPEED] for each in (words, before))
    if given.interface and rate != had:
        bandwidth.limit(veid, given.interface, rates.rate(rate) if rate else None)
    if given.interface and faults != had_faults:
        delay, loss = faults
        bandwidth.impair(veid, given.interface, rates.delay(delay or "0"), rates.loss(loss or "0"))
