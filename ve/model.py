"""The words of this house as types: what was asked for (Config and its parts), and what is (Status).

A value is checked where it is made, so what holds one need not look again; InvalidValue says what is wrong with it.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from ve import rights
from ve.errors import InvalidValue
from ve.limits import Limits
from ve.limits import resolve as resolve_limits
from ve.shapes import ATTACHED, Shape
from ve.veid import NAME, check_name, check_veid

_HOSTNAME = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*"
_NUMBER = r"[1-9][0-9]{0,8}"
_CONTROL = "[\0-\x1f\x7f-\x9f\ud800-\udfff]"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_LAYER = "[0-9a-f]{16}"
LAYERS_MAX = 100  # with the paths of more, the options of an overlay could be longer than a page


class Status(StrEnum):
    """What the kernel says of a VE, in the words of `ve list`."""

    STOPPED = "stopped"
    MOUNTED = "mounted"  # stopped, and its root is shown to the host
    RUNNING = "running"
    FROZEN = "frozen"


@dataclass(frozen=True)
class Mount:
    """A directory or file of the host that the VE sees: SRC:DST[:ro]."""

    source: str
    target: str
    read_only: bool = False

    def __post_init__(self) -> None:
        for path in (self.source, self.target):
            if not path.startswith("/") or ":" in path or not _is_text(path):
                raise InvalidValue(f"cannot use mount {str(self)!r}: it is not SRC:DST[:ro] with absolute paths")
        parts = self.target.split("/")
        if ".." in parts or not set(parts) - {"", "."}:
            raise InvalidValue(f"cannot use mount {str(self)!r}: its target must be a path below the VE's root")

    @classmethod
    def parse(cls, text: str) -> "Mount":
        source, _, rest = text.partition(":")
        target, _, mode = rest.partition(":")
        if not source.startswith("/") or not target.startswith("/") or mode not in ("", "ro", "rw"):
            raise InvalidValue(f"cannot use mount {text!r}: it is not SRC:DST[:ro] with absolute paths")
        return cls(source, target, mode == "ro")

    def __str__(self) -> str:
        return f"{self.source}:{self.target}" + (":ro" if self.read_only else "")


AREAS = ("", "loop")
_STRINGS = ("template", "name", "hostname", "description", "network", "rate", "delay", "loss", "area", "unfinished")
UNFINISHED = ("", "move", "new")


@dataclass(frozen=True)
class Config:
    """What was asked for: the whole of conf/<VEID>.toml."""

    veid: int
    template: str  # NAME:VERSION, as a VE stays on the version that it was created from
    name: str = ""
    hostname: str = ""
    description: str = ""
    onboot: bool = False
    env: dict[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    devices: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()  # of ve/rights.py
    capabilities: dict[str, str] = field(default_factory=dict)  # name -> "on" or "off", whatever the profiles say
    limits: dict[str, str] = field(default_factory=dict)  # of ve/limits.py
    on_barrier: dict[str, str] = field(default_factory=dict)  # beancounter -> action, of ve/triggers.py
    on_failure: dict[str, str] = field(default_factory=dict)
    network: str = ""  # of ve/shapes.py; "": routed if it has addresses, else none
    device_lost_ok: bool = False  # of a network device:IF, which the kernel may delete with the VE
    addresses: tuple[str, ...] = ()  # of ve/addresses.py
    gateways: tuple[str, ...] = ()  # where it is not routed
    publish: tuple[str, ...] = ()  # of ve/ports.py
    rate: str = ""  # of ve/rates.py, as are
    delay: str = ""
    loss: str = ""
    nameservers: tuple[str, ...] = ()  # of ve/resolver.py
    searchdomains: tuple[str, ...] = ()
    area: str = ""  # "loop": what it changes is in a file system of its own
    user_beancounters: bool = False  # it sees its own in /run/user_beancounters
    account_only: bool = False  # a limit that nothing keeps it to is accepted, and counted
    layers: tuple[str, ...] = ()  # of ve/layers.py: what is between its template and its upper, the newest first
    made_on: tuple[str, ...] = ()  # those that it was made on, which may be empty ones that are between them no more
    snapshots: dict[str, str] = field(default_factory=dict)  # name -> its layers, the newest first
    unfinished: str = ""  # what is still to be done to its upper: become the newest layer, or be a new one

    def __post_init__(self) -> None:
        check_veid(self.veid)
        for name in _STRINGS:
            _refuse_other(name, getattr(self, name), str, "a string")
        for name in ("onboot", "user_beancounters", "account_only"):  # or "no" would be yes, until it is written
            _refuse_other(name, getattr(self, name), bool, "True or False")
        check_template(self.template)
        if self.name:
            check_name(self.name)
        if self.hostname:
            check_hostname(self.hostname)
        for key, value in self.env.items():
            if not re.fullmatch(_VARIABLE, key) or not _is_text(value):
                raise InvalidValue(f"cannot use environment variable {key!r}: it is not NAME=VALUE")
        for device in self.devices:
            if not device.startswith("/dev/") or ".." in device.split("/") or not _is_text(device):
                raise InvalidValue(f"cannot use device {device!r}: it is not a path below /dev")
        self._check_network()
        if self.area not in AREAS:
            raise InvalidValue(f"cannot use area {self.area!r}: there is only {AREAS[1]}")
        self._check_layers()
        if re.search(_CONTROL, self.description):
            raise InvalidValue("cannot use the description: it has more than one line, or control characters")
        if self.on_barrier or self.on_failure:
            from ve import triggers

            triggers.check(triggers.BARRIER, self.on_barrier)
            triggers.check(triggers.FAILURE, self.on_failure)
        self.rights  # noqa: B018 - are there such profiles and capabilities?
        self.resources  # noqa: B018 - and such limits?

    def _check_layers(self) -> None:
        if self.unfinished not in UNFINISHED:
            raise InvalidValue(f"cannot use unfinished {self.unfinished!r}: it is none of {', '.join(UNFINISHED[1:])}")
        for name, stack in ("its layers", self.layers), ("what it was made on", self.made_on):
            _refuse_no_layers(name, stack)
        for name, words in self.snapshots.items():
            check_name(name, "snapshot")
            _refuse_no_layers(f"snapshot {name}", tuple(words.split()))

    def _check_network(self) -> None:
        """Most VEs have few of these words, and each who looks at one imports the rooms of those that it has."""
        shape = self.shape
        if shape.kind == "ve":
            check_veid(int(shape.argument))
        if self.gateways or self.addresses:
            from ve import addresses

            addresses.check_gateways(self.gateways)
            addresses.check(self.addresses)
        if self.publish:
            from ve import ports

            ports.check(self.publish)
        if self.rate or self.delay or self.loss:
            from ve import rates

            for parse, word in ((rates.rate, self.rate), (rates.delay, self.delay), (rates.loss, self.loss)):
                if word:
                    parse(word)
        if self.nameservers or self.searchdomains:
            from ve import resolver

            resolver.check(self.nameservers, self.searchdomains)

    def refuse_idle(self) -> None:
        """InvalidValue for an action that nothing of what the VE may use would ever make happen."""
        if not self.on_barrier and not self.on_failure:
            return
        from ve import triggers

        for kind, chosen in ((triggers.BARRIER, self.on_barrier), (triggers.FAILURE, self.on_failure)):
            triggers.refuse_idle(kind, chosen, self.resources)

    @property
    def shape(self) -> Shape:
        """Of its network."""
        return Shape.parse(self.network or ("routed" if self.addresses else "none"))

    @property
    def is_connected(self) -> bool:
        """Has it an interface of its own, beside its loopback?"""
        return self.shape.kind == "routed" or self.shape.kind in ATTACHED

    @cached_property
    def rights(self) -> rights.Rights:
        """What its root may do."""
        return rights.resolve(self.profiles, self.capabilities)

    @cached_property
    def resources(self) -> Limits:
        """What it may use."""
        return resolve_limits(self.limits, self.account_only)


def _refuse_other(name: str, value: object, kind: type, expected: str) -> None:
    if not isinstance(value, kind):
        raise InvalidValue(f"cannot use {name} {value!r}: it is not {expected}")


def _refuse_no_layers(what: str, stack: tuple[str, ...]) -> None:
    if not all(re.fullmatch(_LAYER, each) for each in stack) or len(stack) > LAYERS_MAX:
        raise InvalidValue(f"cannot use {what}: {' '.join(stack)!r} are not {LAYERS_MAX} ids of layers at most")


def check_template(ref: str) -> str:
    """The full name of a template: NAME:VERSION."""
    name, _, version = ref.partition(":")
    if not re.fullmatch(NAME, name) or not re.fullmatch(_NUMBER, version):
        raise InvalidValue(f"cannot use template {ref!r}: it is not NAME:VERSION")
    return ref


def check_hostname(hostname: str) -> str:
    if len(hostname) > 64 or not re.fullmatch(_HOSTNAME, hostname):  # 64: __NEW_UTS_LEN, see sethostname(2)
        raise InvalidValue(f"cannot use hostname {hostname!r}: see hostname(7) for what one may be")
    return hostname


def _is_text(value: str) -> bool:
    """Whether a system call takes it and a conf file, which is UTF-8, can hold it."""
    return "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)
