"""The pools of this host, as a program has them: host.networks.

They are the host's and not a state dir's, as its routes are: every Host has the same.
"""

import builtins
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ve import claims, firewall, forwarding, leases, linknames, parting, pool, poolhosts, venet
from ve.addressed import given
from ve.addresses import Address, network
from ve.errors import InUse, InvalidValue, NotSupported, require_root
from ve.facts import lives
from ve.network import have_rules
from ve.pool import Pool

if TYPE_CHECKING:
    from ve.environment import Environment

_SHOWN = 5  # VEs that a refusal names


@dataclass(frozen=True)
class Lease:
    """An address of a pool that a VE has: while it runs ("lease"), for good ("claim"), or both.

    veid and state_dir are None where the kernel does not say whose the interface is, interface where the VE does not
    run or has none on the host.
    """

    address: Address
    veid: int | None
    state_dir: str | None
    interface: str | None
    kind: Literal["lease", "claim", "both"]


class Networks:
    """The pools that VEs are given addresses of."""

    def add(self, name: str, cidrs: Iterable[str], nat: bool = False, hosts: bool = False) -> builtins.list[str]:
        """Make a pool of these networks; gives what it changed on the host, such as "net.ipv4.ip_forward: 0 -> 1".

        And what keeps its VEs from others, where the host does not forward: "net.ipv4.ip_forward is 0: ...".
        nat: what its VEs send to other networks leaves the host under the host's address, and the host forwards it.
        hosts: its VEs find each other by name.  Exists, InvalidValue (no CIDR, or one that overlaps another pool's),
        NotSupported (a family that this host lacks, or cannot forward); then nothing has changed.
        """
        cannot = f"cannot add pool {name}"
        require_root(cannot)
        if isinstance(cidrs, str):
            raise InvalidValue(f"cannot use cidrs {cidrs!r}: it is one string, not a list of them", f"[{cidrs!r}]")
        made = Pool(name, tuple(map(network, cidrs)), nat, hosts)
        for version in made.versions:
            venet.require(version, cannot)
        with ExitStack() as undo:
            pool.check(made)
            changed = []
            if nat:
                changed = forwarding.turn_on(made.versions, undo, cannot)
                have_rules()  # what may be refused is, before there is the pool
            pool.add(made)
            undo.callback(pool.remove, name)
            if nat:
                _masquerade()
            undo.pop_all()
        lonely = "its VEs and others than this host do not reach each other"
        return [*changed, *(f"{name} is 0: {lonely}" for name in forwarding.off(made.versions))]

    def list(self) -> builtins.list[Pool]:
        """All pools, by name."""
        require_root("cannot list pools")
        return pool.pools()

    def get(self, name: str) -> Pool:
        """NotFound names the nearest."""
        require_root(f"cannot look for pool {name}")
        return pool.get(name)

    def remove(self, name: str) -> None:
        """Forget a pool; InUse as long as a VE has an address of it, running or not."""
        require_root(f"cannot remove pool {name}")
        self._refuse_used(pool.get(name))
        with ExitStack() as undo:
            gone = pool.remove(name)
            if gone.nat:
                undo.callback(_masquerade)
            undo.callback(pool.add, gone)
            self._refuse_used(gone)  # who leased one meanwhile has seen the pool; who comes now sees that it is gone
            if gone.nat:
                _masquerade()
            undo.pop_all()
        poolhosts.clear(name)

    def leases(self, name: str = "") -> builtins.list[Lease]:
        """The addresses of a pool, or of all, that VEs of any state dir have, in their order."""
        require_root(f"cannot look at pool {name}" if name else "cannot list pools")
        return _taken([pool.get(name)] if name else pool.pools())

    def partition(self, one: "Iterable[Environment]", other: "Iterable[Environment]") -> None:
        """Let nothing pass between these running VEs and those, either way, until heal(), or the end of one: for tests.

        They reach the host and all others as before.  NotRunning; NotSupported for one without addresses of its own to
        which the host routes, as on a bridge.
        """
        require_root("cannot part the network")
        sides = [[_routed(each) for each in side] for side in (one, other)]
        have_rules()  # somebody may have flushed them since these have started
        parting.part(*sides)

    def heal(self, *environments: "Environment") -> None:
        """Undo every partition() that one of these VEs is in; without any, of all VEs of the host."""
        require_root("cannot heal the network")
        interfaces = [interface for each in environments if (interface := each.network.interface)]
        if interfaces or not environments:
            parting.heal(interfaces)

    def _refuse_used(self, source: Pool) -> None:
        taken = _taken([source])
        if taken:
            shown = ", ".join(f"{each.address} ({_whose(each)})" for each in taken[:_SHOWN])
            more = f" and {len(taken) - _SHOWN} more" if len(taken) > _SHOWN else ""
            hint = f"stop or destroy them, or ve set VE --ip ... --save; `ve network show {source.name}` has all"
            raise InUse(f"cannot remove pool {source.name}: VEs have {shown}{more}", hint)


def _routed(environment: "Environment") -> str:
    """Its interface on the host."""
    with environment.running("part"):
        interface = environment.network.interface
        if interface is None or environment.config.shape.kind != "routed":
            why = "it has no address of its own to which the host routes"
            raise NotSupported(f"cannot part {environment.veid}: {why}", "give it one with addresses=, and no network=")
        return interface


def _taken(sources: Sequence[Pool]) -> builtins.list[Lease]:
    """Claims, and what the kernel has; of an address that a VE has by both, one."""

    def is_of_them(address: Address) -> bool:
        return any(address in source for source in sources)

    held = {address: holder for address, holder in leases.all_leases() if is_of_them(address)}
    found = []
    for address, claimant in claims.claimed():
        if is_of_them(address):
            holder = held.get(address)
            own = holder and holder.name == linknames.alternative_name(claimant.state.tag, claimant.veid)
            interface = held.pop(address).interface if own else _attached(claimant, address)
            kind: Literal["claim", "both"] = "claim" if interface is None else "both"
            found.append(Lease(address, claimant.veid, claimant.state.path, interface or None, kind))
    found += [
        Lease(address, holder.veid, holder.state_dir or None, holder.interface, "lease")
        for address, holder in held.items()
    ]
    return sorted(found, key=lambda each: (each.address.version, int(each.address)))


def _attached(claimant: claims.Claimant, address: Address) -> str | None:
    """The interface of a running VE that has no lease of the address, as it is not routed; "" if not on the host.

    None if it does not run with that address.
    """
    facts = claimant.state.read_facts(claimant.veid)
    had = given(facts if facts and lives(facts) else None)
    return had.interface if address in had.held() else None


def _whose(lease: Lease) -> str:
    return f"VE {lease.veid}" if lease.veid is not None else str(lease.interface)


def _masquerade() -> None:
    """Hide the networks of those pools that have nat, and no others, behind this host.

    While nobody adds or removes a pool, so that of two who do none is left out.
    """
    with pool.alone():
        have_rules()
        firewall.masquerade([str(each) for source in pool.pools() if source.nat for each in source.networks])
