"""What touches the host's network, broken at each of its effects, as in test_faults."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import ve
from tests.faults import breaker
from tests.faults.cases import VEID, Verb, try_all
from tests.hostnet import HostNet
from tests.verbs import commandline, witness
from tests.verbs.test_address_faults import looks
from ve import errors

pytestmark = pytest.mark.any_kernel

POOL = ("web", ["10.9.1.0/29", "fd00:9::/64"])
STATIC = ["10.9.0.5", "fd00:9:1::5"]
SETTINGS = {"addresses": [*STATIC, "auto:web:sticky"], "publish": ["8080:80"], "rate": "10mbit"}


VERBS = {
    "network add": Verb(lambda host: host.networks.add("other", ["10.8.0.0/24"], nat=True, hosts=True), created=False),
    "network remove": Verb(lambda host: host.networks.remove("web"), created=False),
    "create": Verb(lambda host: host.create(VEID, template="busybox", **SETTINGS), created=False),  # type: ignore[arg-type]
    "start": Verb(lambda host: host.get(VEID).start()),
    "stop": Verb(lambda host: host.get(VEID).stop(fast=True), started=True),
    "destroy": Verb(lambda host: host.get(VEID).destroy(), remains=False),
    "set --ip": Verb(
        lambda host: host.get(VEID).set(addresses=["10.9.0.6", "auto:web"], save=True), started=True, changes=True
    ),
    "set --ip-add": Verb(
        lambda host: host.get(VEID).network.add_address("10.9.0.7", save=True), started=True, changes=True
    ),
    "set --publish": Verb(
        lambda host: host.get(VEID).set(publish=["8081:80", "53:53/udp"], save=True), started=True, changes=True
    ),
    "set --rate": Verb(lambda host: host.get(VEID).set(rate="5mbit", save=True), started=True, changes=True),
}


@pytest.mark.parametrize("name", VERBS)
def test_broken_at_each_of_its_effects(hostnet: HostNet, host: ve.Host, host_dir: Path, name: str) -> None:
    verb = VERBS[name]
    hostnet.call(host.networks.add, *POOL, nat=True)
    _use(hostnet, host)  # which makes the rules
    before = looks(hostnet)
    run, standing = partial(hostnet.call, breaker.run, partial(verb.act, host)), partial(_standing, hostnet, host, verb)
    print(f"{name}: {try_all(run, standing, lambda _: _finish(hostnet, host, host_dir, verb, before))}")


@contextlib.contextmanager
def _standing(hostnet: HostNet, host: ve.Host, verb: Verb) -> Iterator[None]:
    with contextlib.suppress(errors.Exists):
        hostnet.call(host.networks.add, *POOL, nat=True)
    if verb.created:
        env = hostnet.call(host.create, VEID, template="busybox", **SETTINGS)
        if verb.started:
            hostnet.call(env.start)
    yield


def _use(hostnet: HostNet, host: ve.Host) -> None:
    """It is there or can be, it starts, one reaches it, and it is no more."""
    with contextlib.suppress(errors.Exists):
        hostnet.call(host.networks.add, *POOL, nat=True)
    with contextlib.suppress(errors.Exists):
        hostnet.call(host.create, VEID, template="busybox", **SETTINGS)
    env = host.get(VEID)
    with contextlib.suppress(errors.Running):
        hostnet.call(env.start)
    for address in env.addresses:
        hostnet.run("ping", "-c1", "-w10", address)
    rules = hostnet.run("nft", "list", "map", "inet", "ve", "published4").stdout
    assert all(f" {address} . 80" not in rules or address in env.addresses for address in STATIC)
    hostnet.call(env.stop, fast=True)
    hostnet.call(env.destroy)


def _finish(hostnet: HostNet, host: ve.Host, host_dir: Path, verb: Verb, before: dict[str, str]) -> None:
    """The next commands work; then the host's network is as before, and nothing of the VE is left."""
    if not verb.created:  # what was half made or half removed, the same again makes or removes
        with contextlib.suppress(errors.Exists, errors.NotFound):
            hostnet.call(verb.act, host)
    if verb.changes:  # what was half changed the next change finishes
        hostnet.call(host.get(VEID).set, save=True, **SETTINGS)
    if not verb.remains:
        with contextlib.suppress(errors.NotFound):
            hostnet.call(host.get(VEID).destroy)
    _use(hostnet, host)
    with contextlib.suppress(errors.NotFound):
        hostnet.call(host.networks.remove, "other")
    assert hostnet.call(host.doctor) == []
    assert witness.left_of(host_dir, VEID) == []
    assert not commandline.cgroup(host_dir, VEID).exists()
    assert looks(hostnet) == before
