"""What a VE was at some moment, under a name, and VEs that are made on that: ve/layers.py is how.

A snapshot is its VE's: it goes with it, and what it has of files stays for as long as VEs made on it do.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ve import ending, layers, limits, making
from ve.errors import BrokenConfig, Exists, InvalidValue, Mounted, NotFound, NotSupported
from ve.options import Words
from ve.template import Shelf
from ve.veid import FORK_VEIDS, check_name, check_veid

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Unpack

    from ve.environment import Environment
    from ve.model import Config
    from ve.options import Options
    from ve.template import Template

# What another VE may have as well; not what only one can have, as its name and an address.
_SHARED = (
    *("hostname", "description", "env", "mounts", "devices", "profiles", "capabilities", "on_barrier", "on_failure"),
    *("network", "device_lost_ok", "gateways", "rate", "delay", "loss", "nameservers", "searchdomains"),
    *("area", "user_beancounters", "account_only"),
)
_OF_ADDRESSES = ("gateways", "nameservers", "searchdomains")  # what is nothing without one
_OF_ONE = ("bridge", "device")  # networks that need an address, or that one VE has alone


class Snapshot:
    """A snapshot of a VE, by its name.  It holds nothing: each question is put to the VE's conf file."""

    def __init__(self, env: Environment, name: str) -> None:
        self.env = env
        self.name = name

    def __repr__(self) -> str:
        return f"<ve.Snapshot {self.name} of {self.env.veid}>"

    @property
    def layers(self) -> tuple[str, ...]:
        """The ids of its layers, the newest first; NotFound if it, or its VE, is gone."""
        return self._layers(self.env.config)

    @property
    def created(self) -> str:
        """UTC, as in 2000-08-21T12:00:00Z; NotFound if it, or its VE, or what it has of files, is gone."""
        try:
            made = os.stat(os.path.dirname(self.env.state.layer(self.layers[0]))).st_mtime
        except FileNotFoundError:
            layers.require(self.env.state, self.env.veid, self.layers)
            raise
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made))

    @property
    def users(self) -> list[int]:
        """The VEIDs of others that are made on it."""
        newest, state = self.layers[0], self.env.state
        others = (type(self.env)(state, veid) for veid in state.veids() if veid != self.env.veid)
        return [each.veid for each in others if newest in _stack(each)]

    def fork(
        self, count: int = 1, *, veid: int | None = None, name: str = "", **options: Unpack[Options]
    ) -> list[Environment]:
        """So many VEs that have all that is in it and their own from then on, stopped, under free numbers.

        veid: the first number to try.  What was asked for its VE is for them as well, but for its name, its addresses
        (those that are auto are kept: each gets its own) and its ports; options come first.  On any error none is made.
        """
        cannot = f"cannot fork {self.name} of {self.env.veid}"
        if count < 1:
            raise InvalidValue(f"{cannot}: {count} VEs are none")
        if name and count > 1:
            raise InvalidValue(f"{cannot}: {count} VEs cannot all be called {name}", "fork without a name, and rename")
        if veid is not None and check_veid(veid) not in FORK_VEIDS:
            raise InvalidValue(f"{cannot}: {veid} is not in {FORK_VEIDS[0]}..{FORK_VEIDS[-1]}, which copies have")
        with ExitStack() as undo:
            made = []
            for _ in range(count):
                made.append(_first_free(self.env, veid, lambda env: self._fork(env, {**options, "name": name})))
                undo.callback(made[-1].destroy)
            undo.pop_all()
        return made

    def _fork(self, env: Environment, options: Mapping[str, Any]) -> None:
        with self.held() as (template, config, stack):
            making.create(env, template, inherited(config, options), stack)

    def restore(self) -> None:
        """Environment.restore, with its name."""
        restore(self.env, self.name)

    def delete(self) -> None:
        """Forget it; the files that VEs made on it have stay theirs.  NotFound if it, or its VE, is gone."""
        env = self.env
        with env.locked():
            config = env.config
            self._layers(config)
            left = {name: stack for name, stack in config.snapshots.items() if name != self.name}
            env.save(replace(config, snapshots=left))
        layers.sweep(env.state)

    @contextmanager
    def held(self) -> Iterator[tuple[Template, Config, tuple[str, ...]]]:
        """Its template, what was asked for its VE, and its layers, none of which can be removed meanwhile."""
        env = self.env
        if env.config.unfinished:
            with env.locked():
                env.require_private()
        with layers.held(env.state):
            config = env.config
            stack = self._layers(config)
            layers.require(env.state, env.veid, stack)
            with Shelf(env.state.template_dir).hold(config.template) as template:
                yield template, config, stack

    def _layers(self, config: Config) -> tuple[str, ...]:
        if self.name not in config.snapshots:
            there = f"there is {', '.join(config.snapshots)}" if config.snapshots else "it has none"
            raise NotFound(f"cannot find snapshot {self.name} of {self.env.veid}: there is none", there)
        return tuple(config.snapshots[self.name].split())


def every(env: Environment) -> list[Snapshot]:
    """Those of a VE, the oldest first."""
    return [Snapshot(env, name) for name in env.config.snapshots]


def get(env: Environment, name: str) -> Snapshot:
    """As Environment.snapshot."""
    found = Snapshot(env, name)
    found.layers  # noqa: B018 - is there one?
    return found


def create(env: Environment, name: str) -> Snapshot:
    """As Environment.checkpoint."""
    cannot = f"cannot checkpoint {env.veid}"
    with env.locked():
        _require_files(env, cannot)
        config = env.config
        name = check_name(name, "snapshot") if name else _free_name(config)
        if name in config.snapshots:
            raise Exists(f"{cannot}: it has a snapshot {name}", f"ve snapshot delete {env.veid} {name}")
        with _held(env) as held:
            stack, unfinished = layers.take(env, cannot, held)
            found = config.snapshots | {name: " ".join(stack)}
            _write(env, replace(config, snapshots=found), stack, unfinished)
    return Snapshot(env, name)


def restore(env: Environment, name: str) -> None:
    """As Environment.restore."""
    with env.locked():
        env.refuse_running("restore")
        cannot = f"cannot restore {env.veid}"
        _require_files(env, cannot)
        stack = Snapshot(env, name).layers
        layers.require(env.state, env.veid, stack)
        _write(env, env.config, stack, layers.NEW)
    layers.sweep(env.state)


def reset(env: Environment) -> bool:
    """As Environment.reset, but for its next start; did it run?  Under its lock."""
    cannot = f"cannot reset {env.veid}"
    if env.shown:
        raise Mounted(f"{cannot}: it is mounted", hint=f"ve umount {env.veid}")
    _require_files(env, cannot)
    with env.init() as init:
        runs = init is not None
    if runs:
        ending.stop(env, 0, fast=True)
    config = env.config
    _write(env, config, config.made_on, layers.NEW)
    layers.sweep(env.state)
    return runs


def clone(env: Environment, veid: int | None, options: Mapping[str, Any]) -> Environment:
    """As Environment.clone."""
    cannot = f"cannot clone {env.veid}"
    if veid is not None and env.state.exists(check_veid(veid)):
        raise Exists(f"{cannot}: there is a VE {veid}", hint="ve list shows all")
    with env.locked():
        _require_files(env, cannot)
        asked = inherited(env.config, options)
        making.settings_of(env.state, env.veid, env.config.template, asked)  # before anything is changed
        with _held(env) as held, Shelf(env.state.template_dir).hold(env.config.template) as template:
            stack, unfinished = layers.take(env, cannot, held)
            if unfinished:
                _write(env, env.config, stack, unfinished)

            def make(other: Environment) -> None:
                making.create(other, template, asked, stack)

            if veid is None:
                return _first_free(env, None, make)
            made = type(env)(env.state, veid)
            make(made)
            return made


def inherited(config: Config, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a VE that is made on another's files is asked for: what that was, where it may have it too, and options."""
    found = {name: value for name in _SHARED if (value := getattr(config, name))}
    found["addresses"] = [each for each in config.addresses if each.partition(":")[0] == "auto"]
    asked = {limits.canonical(name) for name in options if name in Words.__annotations__}
    if "preset" not in options:
        found |= {name: value for name, value in config.limits.items() if limits.canonical(name) not in asked}
    if config.shape.kind in _OF_ONE and not options.get("addresses"):
        found.pop("network", None)
    found |= options
    if not found["addresses"]:
        found = {name: value for name, value in found.items() if name not in _OF_ADDRESSES or name in options}
    return found


@contextmanager
def _held(env: Environment) -> Iterator[int]:
    """layers.held for who may give env other layers: of what it had, nothing is left that nobody has."""
    before = env.config.layers
    with layers.held(env.state) as held:
        yield held
    if {*before} - {*env.config.layers}:
        layers.sweep(env.state)


def _write(env: Environment, config: Config, stack: tuple[str, ...], unfinished: str) -> None:
    """The moment at which it is done; what is unfinished then is finished here, or by the next who needs its upper."""
    if unfinished:
        config = replace(config, layers=stack, unfinished=unfinished)
    env.save(config)
    if unfinished:
        env.require_private()


def _require_files(env: Environment, cannot: str) -> None:
    """Mounted, NotSupported, NotFound if what it changed cannot become a layer, or be replaced; under its lock."""
    private = env.state.private(env.veid)
    if env.ephemeral and not os.path.isdir(private):
        raise NotSupported(f"{cannot}: what it changed is in memory", "make it with on_disk=True")
    if os.path.isdir(f"{private}/inner"):
        raise NotSupported(f"{cannot}: VEs are in it (profile nesting), whose files are in no layer")
    with env.init() as init:
        if init is None:
            if env.shown:
                raise Mounted(f"{cannot}: it is mounted", hint=f"ve umount {env.veid}")
            ending.clear(env)  # its init may have ended by itself, and what still dies writes to the upper
    env.require_private()


def _free_name(config: Config) -> str:
    return next(name for number in itertools.count(1) if (name := f"s{number}") not in config.snapshots)


def _first_free(env: Environment, veid: int | None, make: Callable[[Environment], None]) -> Environment:
    """Make a VE under the first number from veid on, or above env's, that nobody has."""
    first = veid if veid is not None else env.veid + 1 if env.veid + 1 in FORK_VEIDS else FORK_VEIDS.start
    for number in itertools.chain(range(first, FORK_VEIDS.stop), FORK_VEIDS):
        other = type(env)(env.state, number)
        if env.state.exists(number) or env.state.is_locked(number):
            continue
        try:
            make(other)
            return other
        except Exists:
            if not env.state.exists(number):  # its name it is that is taken
                raise
    raise Exists("cannot make a VE: all numbers are taken")


def _stack(env: Environment) -> tuple[str, ...]:
    try:
        return (*env.config.layers, *env.config.made_on)
    except (BrokenConfig, NotFound):
        return ()
