"""What may be asked of a VE: the keywords of create, set, ephemeral and run, and the values of a Config for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypedDict

from ve import limits, shapes
from ve.errors import InvalidValue
from ve.model import Mount

Amount: TypeAlias = str | int | float | tuple[str | int, str | int]


class Words(TypedDict, total=False):
    """Every name, for a type checker; a value is a number, (barrier, limit), or a text such as "512M" or "0:131072"."""

    memory: Amount
    swap: Amount
    processes: Amount
    cpus: Amount
    cpu_weight: Amount
    cpuset: Amount
    io_weight: Amount
    io_read: Amount
    io_write: Amount
    iops: Amount
    disk: Amount
    inodes: Amount
    nofile: Amount
    oom: Amount
    kmemsize: Amount
    lockedpages: Amount
    privvmpages: Amount
    shmpages: Amount
    numproc: Amount
    physpages: Amount
    vmguarpages: Amount
    oomguarpages: Amount
    numtcpsock: Amount
    numflock: Amount
    numpty: Amount
    numsiginfo: Amount
    tcpsndbuf: Amount
    tcprcvbuf: Amount
    othersockbuf: Amount
    dgramrcvbuf: Amount
    numothersock: Amount
    dcachesize: Amount
    numfile: Amount
    numiptent: Amount
    swappages: Amount


class Common(Words, total=False):
    """What a VE of any kind may be given; the rest are its limits."""

    hostname: str
    env: Mapping[str, str]
    mounts: Iterable[Mount | str]
    devices: Iterable[str]
    profiles: Iterable[str]
    capabilities: Mapping[str, str]
    preset: str  # limits by the name of a preset, or by a path with a slash; those given besides come first
    on_barrier: Mapping[str, str]
    on_failure: Mapping[str, str]
    account_only: bool
    user_beancounters: bool
    network: str
    device_lost_ok: bool
    addresses: Iterable[str]
    gateways: Iterable[str]
    publish: Iterable[str]
    rate: str
    delay: str
    loss: str
    nameservers: Iterable[str]  # "inherit": those of the host, as if there were none
    searchdomains: Iterable[str]


class Options(Common, total=False):
    """And one that stays."""

    description: str
    onboot: bool


class Changes(Options, total=False):
    """And one that is changed."""

    add_addresses: Iterable[str]
    remove_addresses: Iterable[str]  # ["all"]: all that there are
    add_publish: Iterable[str]
    remove_publish: Iterable[str]  # the same


def parsed(options: Mapping[str, Any], resolve: Callable[[str], int]) -> dict[str, Any]:
    """The values of a Config, from such as its maker may give: any iterable or mapping.  InvalidValue.

    resolve gives the VEID of a VE by its name, or raises NotFound.  What is None was not given.  Limits are those that
    were given, and those of a preset where no other is.
    """
    known = {name: value for name, value in options.items() if value is not None}
    preset = known.pop("preset", "")
    rest = {name: known.pop(name) for name in [*known] if name not in _FIELDS}
    found = {name: _OF_CONFIG[name](name, value) if name in _OF_CONFIG else value for name, value in known.items()}
    if isinstance(found.get("network"), str):
        found["network"] = shapes.with_veid(found["network"], resolve)
    if words := _limits(rest, preset):
        found["limits"] = words
    return found


def _limits(given: Mapping[str, Any], preset: str) -> dict[str, str]:
    words = limits.words(given)
    if preset:
        from ve import presets

        there = {limits.canonical(name) for name in words}
        words |= {name: text for name, text in presets.load(preset).items() if limits.canonical(name) not in there}
    return words


def _several(name: str, values: Any) -> tuple[Any, ...]:
    if isinstance(values, str):
        raise InvalidValue(f"cannot use {name} {values!r}: it is one string, not a list of them", f"[{values!r}]")
    if not isinstance(values, Iterable):
        raise InvalidValue(f"cannot use {name} {values!r}: it is not a list")
    return tuple(values)


def _texts(name: str, values: Any) -> tuple[str, ...]:
    found = _several(name, values)
    for each in found:
        if not isinstance(each, str):
            raise InvalidValue(f"cannot use {name} {each!r}: it is not a string")
    return found


def command_words(command: Any) -> tuple[str, ...] | None:
    """What a VE shall run, as its words; None is nothing of its own.  InvalidValue."""
    if command is None:
        return None
    if isinstance(command, str):
        raise InvalidValue(
            f"cannot use command {command!r}: it is one string, not its words", f"['sh', '-c', {command!r}]"
        )
    words = _texts("command", command)
    for word in words:
        if "\0" in word:
            raise InvalidValue(f"cannot use command {word!r}: no word has a NUL in it")
    return words


def _mounts(name: str, values: Any) -> tuple[Mount, ...]:
    found = tuple(Mount.parse(each) if isinstance(each, str) else each for each in _several(name, values))
    for each in found:
        if not isinstance(each, Mount):
            raise InvalidValue(f"cannot use {name} {each!r}: it is neither a string nor a Mount")
    return found


def _mapping(name: str, values: Any) -> dict[str, str]:
    if not isinstance(values, Mapping):
        raise InvalidValue(f"cannot use {name} {values!r}: it is not a mapping, such as a dict")
    for each in (part for pair in values.items() for part in pair):
        if not isinstance(each, str):
            raise InvalidValue(f"cannot use {name} {values!r}: {each!r} is not a string")
    return dict(values)


def _reactions(name: str, values: Any) -> dict[str, str]:
    from ve import triggers

    return triggers.by_resource(name.removeprefix("on_"), _mapping(name, values))


def _wishes(name: str, values: Any) -> tuple[str, ...]:
    from ve.addresses import Wish

    return tuple(str(Wish.parse(each)) for each in _texts(name, values))


def _ports(name: str, values: Any) -> tuple[str, ...]:
    from ve.ports import port

    return tuple(str(port(each)) for each in _texts(name, values))


def _or_all(of: Callable[[str, Any], tuple[str, ...]]) -> Callable[[str, Any], tuple[str, ...]]:
    def several(name: str, values: Any) -> tuple[str, ...]:
        found = _texts(name, values)
        return found if found == ("all",) else of(name, found)

    return several


_FIELDS = {"name", "area", *Changes.__annotations__} - {*Words.__annotations__}
_OF_CONFIG: dict[str, Callable[[str, Any], Any]] = {
    "env": _mapping,
    "mounts": _mounts,
    "devices": _texts,
    "profiles": _texts,
    "capabilities": _mapping,
    "on_barrier": _reactions,
    "on_failure": _reactions,
    "addresses": _wishes,
    "gateways": _texts,
    "publish": _ports,
    "nameservers": _texts,
    "searchdomains": _texts,
    "add_addresses": _wishes,
    "remove_addresses": _or_all(_wishes),
    "add_publish": _ports,
    "remove_publish": _or_all(_ports),
}
