"""What leads to a VE on its host's network: noted before it does, and taken back when the VE ends.

    <run>/network/leading/<TAG>-<VEID>    the boot, the network namespace that it was started in, its interface there,
                                          and addresses that something may lead to: its leftovers are found by that

Each VE that ends asks, with a network or not, so what only one with addresses needs is imported for those.
"""

from __future__ import annotations

import contextlib
import os

from ve import linknames, netdir, rtnetlink, wholefile
from ve.addressed import Given
from ve.errors import NotSupported
from ve.facts import boot_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ve.addresses import Address
    from ve.state import State


def disconnect(state: State, veid: int, had: Callable[[], Given] = Given) -> None:
    """Remove its interface and with it its leases, if there is one: also what a killed start has left.

    had: what is known that it had besides.  What leads to its addresses goes first, so that it never leads to another.
    """
    known = had()
    _, interface, held = _noted(state, veid)
    if not interface:
        interface, held = known.interface, known.held()
    _lead_nowhere(interface, held)
    remove_links(state.tag, veid)
    owner = linknames.alternative_name(state.tag, veid)
    if os.path.lexists(netdir.guarded(owner)):
        from ve import bridgeports

        bridgeports.release(owner)
    for address in held:
        answer_no_more(address)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_leading(state, veid))


def remove_links(tag: str, veid: int) -> None:
    """Remove the interface of a VE from the host, if it has one; and what its packets were held in."""
    own = linknames.alternative_name(tag, veid)
    rtnetlink.remove_named(own, own + linknames.QUEUES)


def _lead_nowhere(interface: str, held: list[Address]) -> None:
    """No port of the host leads to these any more, and nobody is parted from who had them."""
    if held:
        from ve import parting, publishing

        for address in held:
            publishing.forget(address, interface)
        if interface:
            parting.heal((interface,))


def refuse_elsewhere(state: State, veid: int) -> None:
    """NotSupported if it has its interface, and what leads to it, in another network namespace, which is still there.

    From here that cannot be taken back; of one that is gone there is nothing left.
    """
    name, *_ = _noted(state, veid)
    if not name:
        return
    from ve import netns

    if path := netns.elsewhere(name):
        why = "it was started in another network namespace than ours"
        hint = f"run ve there: nsenter --net={path} ve ..."
        raise NotSupported(f"cannot reach what {veid} has on its host's network: {why}", hint)


def note(state: State, veid: int, given: Given) -> None:
    """Before anything leads to its addresses that does not go with its interface: facts come late in a start."""
    from ve import netns

    path = _leading(state, veid)
    with wholefile.writing(path, "it is in the run directory: is that on a read-only file system?"):
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        lines = [boot_id(), netns.here(), given.interface, *map(str, given.held())]
        wholefile.write_whole(path, "\n".join(lines).encode(), durable=False)


def _noted(state: State, veid: int) -> tuple[str, str, list[Address]]:
    """The namespace, its interface there, and the addresses; nothing if there is no such note of this boot."""
    if not (noted := wholefile.read_small(_leading(state, veid))):
        return "", "", []
    from ipaddress import ip_address

    with contextlib.suppress(ValueError):
        boot, name, interface, *words = noted.decode(errors="replace").split("\n")
        found = [*map(ip_address, words)]
        if boot == boot_id():
            return name, interface, found
    return "", "", []


def _leading(state: State, veid: int) -> str:
    return os.path.join(netdir.run_directory(), "leading", linknames.alternative_name(state.tag, veid))


def answer_no_more(address: Address) -> None:
    """For an address that no VE has: then the route to it is that of the link that it is on, if it is on one."""
    from ve import leases, poolhosts, wire

    poolhosts.forget(address, leases.holder)
    if link := wire.uplink(address):
        wire.unproxy(link, address)
        if leases.holder(address):  # by now; who leases looks for nobody who does this
            wire.proxy(link, address)
