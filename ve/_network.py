"""The verbs of `ve network`, and how they show pools."""

from typing import Any

import ve
from ve import _network_options as net
from ve import _options as opt
from ve import _output as out
from ve._app import Context, group, verb

group("network", "Pools: networks of this host whose addresses VEs are given.")

Table = dict[str, Any]


@verb("network add")
def network_add(
    ctx: Context, name: net.NewPool, cidr: net.Cidrs, nat: net.Nat = False, pool_hosts: net.PoolHosts = False
) -> None:
    """Make a pool of addresses, for ve create --ip auto.

    --nat turns forwarding on, for all of this host, and says so: VEs reach what the host reaches, under its address.
    """
    changed = ctx.obj.host(name).networks.add(name, cidr, nat=nat, hosts=pool_hosts)
    for line in changed:
        ctx.obj.say(line)
    ctx.obj.say(f"pool {name} is added")


@verb("network list")
def network_list(ctx: Context, as_json: opt.Json = False) -> None:
    """List pools, with how many of their addresses VEs have."""
    networks = ctx.obj.host().networks
    leases = networks.leases()
    rows = [_row(pool, leases) for pool in networks.list()]
    print(out.dump_json(rows) if as_json else out.columns([*ROW], rows), end="")


@verb("network show")
def network_show(ctx: Context, name: net.Pool, as_json: opt.Json = False) -> None:
    """Show a pool, and which VE has which of its addresses.

    A lease is for as long as its VE runs, a claim for good.
    """
    networks = ctx.obj.host(name).networks
    pool, leases = networks.get(name), networks.leases(name)
    rows = [{**vars(lease), "address": str(lease.address)} for lease in leases]
    if as_json:
        print(out.dump_json({**_row(pool, leases), "leases": rows}), end="")
        return
    print(out.as_facts(_row(pool, leases)), end="")
    print(out.columns(list(rows[0]), rows) if rows else "", end="")


@verb("network remove")
def network_remove(ctx: Context, name: net.Pool) -> None:
    """Forget a pool that no VE has an address of."""
    ctx.obj.host(name).networks.remove(name)
    ctx.obj.say(f"pool {name} is removed")


ROW = ("name", "networks", "nat", "hosts", "taken", "size")


def _row(pool: "ve.Pool", leases: "list[ve.Lease]") -> Table:
    """What there is to tell of a pool; taken and size by family, as it may have two.  leases: of other pools, too."""
    versions: list[int] = [lease.address.version for lease in leases if lease.address in pool]
    size = {f"IPv{version}": pool.size(version) for version in pool.versions}
    return {
        "name": pool.name,
        "networks": list(map(str, pool.networks)),
        "nat": pool.nat,
        "hosts": pool.hosts,
        "taken": {f"IPv{version}": versions.count(version) for version in pool.versions},
        "size": size,
    }
