"""A network that is not routed: a port of a bridge, a macvlan or a device of the host, as a VE gets and gives it back.

The admin's segment decides what comes and goes there, so addresses are given as they are asked for: no lease, and no
way out but a gateway that was named.  The host sees to it that a bridge's port sends from its own addresses alone.
"""

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network

from ve import firewall, interfaces, network, rtnetlink, venet
from ve.addresses import Wish
from ve.errors import InvalidValue
from ve.facts import Facts
from ve.model import Config
from ve.network import Given
from ve.shapes import ATTACHED, SHARED, Shape
from ve.state import State

_DEFAULT = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


def check(config: Config) -> None:
    """InvalidValue for what does not go together with the shape of its network."""
    shape = config.shape
    own, attached = f"a VE with network {shape}", shape.kind in ATTACHED
    pools = [each for each in config.addresses if Wish.parse(each).address is None]
    slow = config.rate or config.delay or config.loss
    for why, is_so in {
        f"cannot use network {shape}: that is this VE itself": shape == Shape("ve", str(config.veid)),
        f"cannot give addresses to {own}: it has no interface": shape.kind in ("none", *SHARED) and config.addresses,
        f"cannot give {', '.join(pools)} to {own}: a pool's addresses are routed": attached and pools,
        f"cannot give a gateway to {own}: its way out is its host": not attached and config.gateways,
        f"cannot use network {shape}: it has no address to send from": shape.kind == "bridge" and not config.addresses,
        f"cannot publish ports of {own}: its host does not route to it": attached and config.publish,
        f"cannot slow {own}: nothing of it is on the host": shape.kind in ("macvlan", "device") and slow,
    }.items():
        if is_so:
            raise InvalidValue(why)


def attach(
    state: State,
    veid: int,
    shape: Shape,
    words: Sequence[str],
    gateways: Sequence[str],
    pidfd: int,
    pid: int,
    *,
    lost_ok: bool,
    ephemeral: bool,
) -> Given:
    """Give a VE that is being started its interface; network.disconnect() and give_back() take it back.

    InvalidValue for an interface that is none, NotSupported for a device that would be lost, InUse for an address that
    another VE has.
    """
    if not ephemeral:
        network.claim(state, veid, words)
    network.disconnect(state, veid)
    wishes = tuple(map(Wish.parse, words))
    own = interfaces.mac(state.tag, veid)
    with open(f"/proc/{pid}/ns/net") as netns, contextlib.ExitStack() as undo:
        name, device = "", ""
        if shape.kind == "bridge":
            name = venet.new_name()
            firewall.guard_port(name, own, [wish.address for wish in wishes if wish.address])
            undo.callback(firewall.release_port, name)
            interfaces.bridge(netns.fileno(), shape.argument, name, shape.inside, own)
            undo.callback(venet.cut, name)
            rtnetlink.ask(rtnetlink.alternative_name(name, venet.alternative_name(state.tag, veid)))
        elif shape.kind == "macvlan":
            interfaces.macvlan(netns.fileno(), shape.argument, shape.inside, own)
        else:
            taken = interfaces.take(netns.fileno(), shape.argument, device_lost_ok=lost_ok)
            undo.callback(interfaces.give_back, netns.fileno(), taken)
            device = taken.noted()
        _configure(pidfd, shape.inside, wishes, gateways)
        undo.pop_all()
    return Given(name, tuple(zip(words, ((wish,) for wish in wishes), strict=True)), device)


def _configure(pidfd: int, name: str, wishes: Sequence[Wish], gateways: Sequence[str]) -> None:
    def there() -> None:
        index = socket.if_nametoindex(name)
        for wish in wishes:
            if wish.address:
                rtnetlink.ask(rtnetlink.address(rtnetlink.NEWADDR, index, wish.address, wish.length))
        for gateway in map(ip_address, gateways):
            rtnetlink.ask(rtnetlink.route(rtnetlink.NEWROUTE, index, _DEFAULT[gateway.version], gateway))

    venet.inside(pidfd, there)


def take_back(given: Given, pid: int) -> None:
    """Have the device on the host again of a VE whose start fails, while its init is there."""
    if given.device:
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/ns/net") as netns:
            interfaces.give_back(netns.fileno(), interfaces.Device.of(given.device))


@contextlib.contextmanager
def coming_back(facts: Facts) -> Iterator[None]:
    """Have the device of a VE that ends meanwhile on the host again, also one that the kernel would delete with it."""
    device = network.given(facts).device
    if not device:
        yield
        return
    netns = os.open(f"/proc/{facts.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
        interfaces.give_back(netns, interfaces.Device.of(device))
    finally:
        os.close(netns)


def look_after(facts: Facts | None) -> None:
    """Make the device of a VE that has ended by itself what it was, where the kernel has given it back."""
    if device := network.given(facts).device:
        interfaces.give_back(None, interfaces.Device.of(device))
