"""Claims: the addresses that a VE has for good, running or not, as it was asked to have them, or to keep them (sticky).

    /var/lib/ve/network/address/<ADDRESS> -> <state dir>/conf/<VEID>.toml    a claim: no other VE is given this one
    <state dir>/address/<VEID> -> ADDRESS [ADDRESS...]                       who confirms it

As with host ids (ve/ids.py) a claim is a symlink, the VE's while the two name each other and that VE is there or in the
making; any other is nobody's.  What only a running VE has is no claim but a lease, of the kernel's: ve/leases.py.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from ve.errors import InUse
from ve.facts import lives
from ve.netdir import directory
from ve.state import State
from ve.veid import veid_named
from ve.wholefile import sync

if TYPE_CHECKING:  # each VE that goes asks what it has claimed, which mostly is nothing
    from collections.abc import Collection, Iterable, Iterator

    from ve.addresses import Address

HINT = "`ve network show POOL` says who has which; choose another address"


class Claimant(NamedTuple):
    """A VE that has a claim, or wants one."""

    state: State
    veid: int

    @property
    def conf(self) -> str:
        return self.state.conf(self.veid)

    def named(self, seen_from: State) -> str:
        return f"VE {self.veid}" + ("" if seen_from.path == self.state.path else f" of {self.state.path}")

    @property
    def record(self) -> str:
        return os.path.join(self.state.path, "address", str(self.veid))

    def claims(self) -> list[Address]:
        """What its record says; nothing where that says anything but addresses."""
        if not (words := (_text(self.record) or "").split()):
            return []
        from ipaddress import ip_address

        try:
            return [ip_address(word) for word in words]
        except ValueError:
            return []

    def has(self, address: Address) -> bool:
        """Is the claim to it this VE's own?"""
        return _text(_link(address)) == self.conf

    def confirms(self, address: Address) -> bool:
        """It is there, or holds its lock while it is made or destroyed; one that is thrown away lives."""
        is_there = os.path.exists(self.conf) or self.state.is_locked(self.veid)
        return address in self.claims() and (is_there or self._lives_meanwhile())

    def sync(self, directory: str) -> None:
        """As what has been changed there is to be so after a power cut; not for one that is thrown away."""
        with contextlib.suppress(FileNotFoundError):
            if not os.path.exists(self.state.conf(self.veid, ephemeral=True)):
                sync(directory)

    def _lives_meanwhile(self) -> bool:
        facts = self.state.read_facts(self.veid)
        return bool(facts and facts.ephemeral and lives(facts))


def claim(state: State, veid: int, addresses: Iterable[Address]) -> None:
    """Have these, and no others, for good; InUse names the VE that has one.  Under the lock of veid."""
    claimant, wanted = Claimant(state, veid), sorted(set(addresses), key=_order)
    if claimant.claims() == wanted and all(map(claimant.has, wanted)):
        return
    from ve.pool import alone

    with alone(make=True):
        for address in wanted:
            refuse_claimed(claimant, address)
        _drop(claimant, keep=wanted)
        if wanted:
            with state.writing():
                records = state.make_dir(os.path.dirname(claimant.record))
                _replace_link(" ".join(map(str, wanted)), claimant.record)
                claimant.sync(records)
            for address in wanted:
                _replace_link(claimant.conf, _link(address))
            claimant.sync(os.path.join(directory(), "address"))


def release(state: State, veid: int) -> None:
    """Give them all back.  Under the lock of veid."""
    claimant = Claimant(state, veid)
    if _text(claimant.record) is not None:
        from ve.pool import alone

        with alone():
            _drop(claimant)


def holder(address: Address, but: Claimant | None = None) -> Claimant | None:
    """The VE, other than this one, that has claimed an address."""
    claimant = _claimant(_text(_link(address)))
    if claimant is None or (but and claimant.conf == but.conf) or not claimant.confirms(address):
        return None
    return claimant


def refuse_claimed(claimant: Claimant, address: Address) -> None:
    """InUse if another VE has claimed it."""
    if other := holder(address, claimant):
        why = f"{other.named(claimant.state)} has it"
        raise InUse(f"cannot give {address} to {claimant.veid}: {why}", HINT)


def claimed() -> list[tuple[Address, Claimant]]:
    """All claims, with whose they are."""
    found = [(address, claimant) for address, claimant in _links() if claimant.confirms(address)]
    return sorted(found, key=lambda each: _order(each[0]))


def stray(state: State) -> list[tuple[int, str]]:
    """Claims for a VE of this state dir that are not its: its VEID, and the claim's path."""
    ours = [(address, claimant) for address, claimant in _links() if claimant.state.path == state.path]
    return [(claimant.veid, _link(address)) for address, claimant in ours if not claimant.confirms(address)]


def remove_stray(state: State, path: str) -> None:
    """Remove one of these, if it still is."""
    from ve.pool import alone

    with alone():
        if path in (link for _, link in stray(state)):
            os.unlink(path)


def _links() -> Iterator[tuple[Address, Claimant]]:
    """Each address that is claimed, and the VE that its link names, be the claim its own or not."""
    from ipaddress import ip_address

    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(os.path.join(directory(), "address"))):
            with contextlib.suppress(ValueError):  # one in the making
                address = ip_address(name)
                if claimant := _claimant(_text(_link(address))):
                    yield address, claimant


def _order(address: Address) -> tuple[int, int]:
    return address.version, int(address)


def _drop(claimant: Claimant, keep: Collection[Address] = ()) -> None:
    for address in claimant.claims():
        if address not in keep and claimant.has(address):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_link(address))
    if not keep:
        claimant.sync(os.path.join(directory(), "address"))  # while the record still says where to look for them
        with claimant.state.writing(), contextlib.suppress(FileNotFoundError):
            os.unlink(claimant.record)
        claimant.sync(os.path.dirname(claimant.record))  # or the next VE of this number would have them


def _claimant(target: str | None) -> Claimant | None:
    place, _, name = (target or "").rpartition("/conf/")
    veid = veid_named(name, ".toml")
    return Claimant(State(place or "/"), veid) if veid else None


def _link(address: Address) -> str:
    return os.path.join(directory(), "address", str(address))


def _replace_link(text: str, path: str) -> None:
    """While nobody else does; so there is one name for what is not finished, and a killed one's is used again."""
    aside = os.path.join(os.path.dirname(path), ".new")
    for _ in range(2):
        with contextlib.suppress(FileExistsError):
            os.symlink(text, aside)
            break
        os.unlink(aside)
    os.rename(aside, path)


def _text(link: str) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None
