"""A network that is not routed: a port of a bridge, a macvlan or a device of the host, as a VE gets and gives it back.

The admin's segment decides what comes and goes there, so addresses are given as they are asked for: no lease, and no
way out but a gateway that was named.  The host sees to it that a bridge's port sends from its own addresses alone.

    <run dir>/device/<VEID>     which device of the host's it has, and what that was there: of this boot
"""

from __future__ import annotations

import contextlib
import os
import time

from ve import leading
from ve.errors import Error, InUse, InvalidValue
from ve.facts import boot_id
from ve.shapes import ATTACHED, Shape
from ve.wholefile import read_small, write_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ve import interfaces
    from ve.addressed import Given
    from ve.addresses import Wish
    from ve.model import Config
    from ve.state import State


def check(config: Config, typed: str | None = None) -> None:
    """InvalidValue for what does not go together with the shape of its network, where it would mean nothing.

    typed: how that was said, as ve:NAME is kept otherwise.  One that nobody named is that of a VE that may be given
    addresses while it runs, and then its ports and rate hold.
    """
    shape, called = config.shape, typed or config.shape
    own, kind = f"a VE with network {called}", shape.kind if config.network else "routed"
    if shape == Shape("ve", str(config.veid)):
        raise InvalidValue(f"cannot use network {called}: that is this VE itself")
    pools = _pools(config.addresses) if config.addresses else []
    slow = config.rate or config.delay or config.loss
    for what, is_asked, kinds, why in (
        (f"give addresses to {own}", config.addresses, ("routed", *ATTACHED), "it has no interface"),
        (f"give {', '.join(pools)} to {own}", pools, ("routed",), "a pool's addresses are routed"),
        (f"give a gateway to {own}", config.gateways, ATTACHED, "its way out is its host"),
        (f"publish ports of {own}", config.publish, ("routed",), "its host does not route to it"),
        (f"slow {own}", slow, ("routed", "bridge"), "nothing of it is on the host"),
    ):
        if is_asked and kind not in kinds:
            raise InvalidValue(f"cannot {what}: {why}")
    if config.gateways:
        from ve import addresses

        addresses.check_reachable(config.gateways, config.addresses)
    if not config.addresses:
        _check_without(config, kind)


def _pools(words: Sequence[str]) -> list[str]:
    """Those that ask for an address of a pool."""
    from ve.addresses import Wish

    return [each for each in words if Wish.parse(each).address is None]


def _check_without(config: Config, kind: str) -> None:
    if kind == "bridge":
        raise InvalidValue(f"cannot use network {config.shape}: it has no address to send from")
    if config.publish:
        from ve.ports import NO_ADDRESS

        raise InvalidValue(f"cannot publish {config.publish[0]} of {config.veid}: it has no address", NO_ADDRESS)
    if {*config.nameservers, *config.searchdomains} - {"inherit"}:
        why = "without addresses it has those of its template"
        raise InvalidValue(f"cannot give nameservers or searchdomains to {config.veid}: {why}")


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
) -> Given:
    """Give a VE that is being started its interface; leading.disconnect() and give_back() take it back.

    InvalidValue for an interface that is none, NotSupported for a device that would be lost, InUse for an address that
    another VE has.
    """
    from ve import bridgeports, granting, interfaces, linknames, rtnetlink, venet
    from ve.addressed import Given
    from ve.addresses import Wish

    granting.claim(state, veid, words)  # of one that is thrown away too: the kernel keeps no lease of these
    leading.disconnect(state, veid)
    wishes = tuple(map(Wish.parse, words))
    own = interfaces.mac(state.tag, veid)
    name = linknames.new_name() if shape.kind == "bridge" else ""
    given = Given(name, tuple(zip(words, ((wish,) for wish in wishes), strict=True)))
    with open(f"/proc/{pid}/ns/net") as netns, contextlib.ExitStack() as undo:
        if shape.kind != "macvlan":  # which is all in the VE
            leading.note(state, veid, given)
        if shape.kind == "bridge":
            owner = linknames.alternative_name(state.tag, veid)
            undo.callback(bridgeports.release, owner)
            bridgeports.guard(owner, name, own, [wish.address for wish in wishes if wish.address])
            interfaces.bridge(netns.fileno(), shape.argument, name, shape.inside, own)
            undo.callback(venet.cut, name)
            rtnetlink.ask(rtnetlink.alternative_name(name, owner))
        elif shape.kind == "macvlan":
            interfaces.macvlan(netns.fileno(), shape.argument, shape.inside, own)
        else:
            _take(state, veid, interfaces.device(shape.argument, lost_ok=lost_ok), netns.fileno(), undo)
        _configure(pidfd, shape.inside, wishes, gateways)
        undo.pop_all()
    return given


def _configure(pidfd: int, name: str, wishes: Sequence[Wish], gateways: Sequence[str]) -> None:
    from ipaddress import ip_address

    from ve import rtnetlink

    index = rtnetlink.index_there(pidfd, name)
    given = [(wish.address, wish.length) for wish in wishes if wish.address]
    out = [(rtnetlink.default(gateway.version), gateway) for gateway in map(ip_address, gateways)]
    rtnetlink.ask_there(
        pidfd,
        *(rtnetlink.address(rtnetlink.NEWADDR, index, *each) for each in given),
        *(rtnetlink.route(rtnetlink.NEWROUTE, index, *each) for each in out),
    )


# --- a device of the host's -----------------------------------------------------------------------------------------


def _take(state: State, veid: int, device: interfaces.Device, netns: int, undo: contextlib.ExitStack) -> None:
    """Move it in, and note what it was."""
    from ve import interfaces

    undo.callback(_forget, state, veid)
    _note(state, veid, device)
    taken = interfaces.take(netns, device)
    undo.callback(interfaces.give_back, netns, taken)
    _note(state, veid, taken)


def take_back(state: State, veid: int, pid: int) -> None:
    """Have the device on the host again of a VE whose start fails, while its init is there."""
    if device := _noted(state, veid):
        from ve import interfaces

        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/ns/net") as netns:
            interfaces.give_back(netns.fileno(), device)
            _forget(state, veid)


@contextlib.contextmanager
def coming_back(state: State, veid: int, pid: int) -> Iterator[list[Error]]:
    """Have the device of a VE that ends meanwhile on the host again, also one that the kernel would delete with it.

    Why it is not there, or not by its name, is in what this gives: for the caller to raise when the VE is cleared.
    """
    told, device = list[Error](), _noted(state, veid)
    if not device:
        yield told
        return
    from ve import interfaces

    netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield told
        try:
            name = interfaces.give_back(netns, device)
        except Error as error:
            told.append(error)
            name = device.kind  # a physical one the kernel gives back yet, when the namespace is gone
        else:
            if name not in ("", device.name):
                why = f"another interface has its name by now; it is {name}"
                told.append(InUse(f"cannot give {device.name} back: {why}", f"ip link set {name} name {device.name}"))
        if name:
            _forget(state, veid)
            return
    finally:
        os.close(netns)
    try:
        if look_after(state, veid):
            told.clear()
            return
        why = f"{veid} is stopped, and its root had moved or deleted it"
        told.append(InUse(f"cannot give {device.name} back: {why}", "only with net_admin can its root do so"))
    except Error as error:
        told.append(error)


def look_after(state: State, veid: int) -> bool:
    """Make the device of a VE that has ended what it was, where the kernel gives it back; False if it is lost.

    InUse is what the kernel refuses of it; whoever comes later is not told again.
    """
    device = _noted(state, veid)
    if not device:
        return True
    from ve import interfaces, leasing

    deadline = time.monotonic() + leasing.DYING
    try:
        while not (name := interfaces.give_back(None, device)) and not device.kind and time.monotonic() < deadline:
            time.sleep(0.01)  # the kernel tells nobody when it has taken a namespace apart
    finally:
        _forget(state, veid)
    return bool(name)


def _note(state: State, veid: int, device: interfaces.Device) -> None:
    """Before it is moved, so that who looks after it knows what it was whenever we are killed."""
    state.make_dir(os.path.dirname(state.device(veid)))
    with state.writing():
        write_whole(state.device(veid), f"{boot_id()}\n{device.noted()}".encode(), durable=False)


def _noted(state: State, veid: int) -> interfaces.Device | None:
    boot, _, noted = read_small(state.device(veid)).decode(errors="replace").partition("\n")
    if boot != boot_id():  # there is none, or it is at home after another boot
        return None
    from ve import interfaces

    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):  # who has changed that has lost it
        return interfaces.Device.of(noted)
    return None


def _forget(state: State, veid: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(state.device(veid))
