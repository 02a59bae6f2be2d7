"""Claims: the addresses that a VE has for good, running or not, as it was asked to have them, or to keep them (sticky).

    /var/lib/ve/network/address/<ADDRESS> -> <state dir>/conf/<VEID>.toml    a claim: no other VE is given this one
    <state dir>/address/<VEID> -> ADDRESS [ADDRESS...]                       who confirms it

As with host ids (ve/ids.py) a claim is a symlink, the VE's while the two name each other and that VE is there or in the
making; any other is nobody's.  What only a running VE has is no claim but a lease, which the kernel keeps: ve/venet.py.
"""

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ve.addresses import Address
from ve.errors import InUse
from ve.model import VEID_MAX
from ve.pool import alone, directory
from ve.state import State


@dataclass(frozen=True)
class Claimant:
    """A VE that has a claim, or wants one."""

    state: State
    veid: int

    @property
    def conf(self) -> str:
        return self.state.conf(self.veid)

    @property
    def record(self) -> str:
        return os.path.join(self.state.path, "address", str(self.veid))

    def claims(self) -> list[str]:
        return (_text(self.record) or "").split()

    def confirms(self, address: str) -> bool:
        """It holds its lock while it is made or destroyed."""
        return address in self.claims() and (os.path.exists(self.conf) or self.state.is_locked(self.veid))


def claim(state: State, veid: int, addresses: Sequence[Address]) -> None:
    """Have these, and no others, for good; InUse names the VE that has one.  Under the lock of veid."""
    claimant, wanted = Claimant(state, veid), sorted(map(str, addresses))
    if claimant.claims() == wanted and all(_text(_link(address)) == claimant.conf for address in wanted):
        return
    with alone(make=True):
        for address in wanted:
            if other := holder(address, claimant):
                raise InUse(f"cannot give {address} to {veid}: VE {_named(other)} has it", "choose another address")
        _drop(claimant, keep=wanted)
        if not wanted:
            return
        with state.writing():
            state.make_dir(os.path.dirname(claimant.record))
            _replace_link(" ".join(wanted), claimant.record)
        for address in wanted:
            _replace_link(claimant.conf, _link(address))


def release(state: State, veid: int) -> None:
    """Give them all back.  Under the lock of veid."""
    claimant = Claimant(state, veid)
    if _text(claimant.record) is not None:
        with alone():
            _drop(claimant)


def holder(address: str, but: Claimant | None = None) -> Claimant | None:
    """The VE, other than this one, that has claimed an address."""
    claimant = _claimant(_text(_link(address)))
    if claimant is None or (but and claimant.conf == but.conf) or not claimant.confirms(address):
        return None
    return claimant


def claimed() -> list[tuple[str, Claimant]]:
    """All claims, with whose they are."""
    with contextlib.suppress(FileNotFoundError):
        found = [(address, holder(address)) for address in sorted(os.listdir(os.path.join(directory(), "address")))]
        return [(address, claimant) for address, claimant in found if claimant]
    return []


def _drop(claimant: Claimant, keep: Sequence[str] = ()) -> None:
    for address in claimant.claims():
        if address not in keep and _text(_link(address)) == claimant.conf:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_link(address))
    if not keep:
        with claimant.state.writing(), contextlib.suppress(FileNotFoundError):
            os.unlink(claimant.record)


def _claimant(target: str | None) -> Claimant | None:
    place, _, name = (target or "").rpartition("/conf/")
    found = re.fullmatch(r"([1-9][0-9]{0,9})\.toml", name)
    return Claimant(State(place or "/"), int(found[1])) if found and int(found[1]) <= VEID_MAX else None


def _named(claimant: Claimant) -> str:
    return f"{claimant.veid} of {claimant.state.path}"


def _link(address: str) -> str:
    return os.path.join(directory(), "address", address)


def _replace_link(text: str, path: str) -> None:
    aside = f"{path}.new"
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
