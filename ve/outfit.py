"""What a VE starts with: what its conf file says and, where that is silent, its template, this host and we.

And what one that runs has begun with.  Who lists VEs or runs a command in one asks for that alone, so that what only a
start needs is imported where it is used.
"""

from __future__ import annotations

import os

from ve.errors import InvalidValue, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ve import devices
    from ve.facts import Facts
    from ve.limits import Limits
    from ve.model import Config
    from ve.rights import Refusal
    from ve.state import State
    from ve.template import Template

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CATATONIT = "/usr/bin/catatonit"  # Debian's is static, so it runs in any root


def hostname(config: Config) -> str:
    """What `hostname` says inside: never the host's own name."""
    return config.hostname or config.name or f"ve{config.veid}"


def environment(config: Config, template: Template | None) -> dict[str, str]:
    """What a command in the VE finds in its environment, unless it is told otherwise."""
    given = {**(template.env if template else {}), **config.env}
    return {"PATH": PATH, "HOME": "/root", "USER": "root", "container": "ve", **given}


def asked(config: Config) -> dict[str, Any]:
    """What of a config a start gives to a VE, and nothing does later, as `ve status` shows it."""
    return {
        "template": config.template,
        "hostname": hostname(config),
        "env": config.env,
        "mounts": [str(mount) for mount in config.mounts],
        "devices": list(config.devices),
        "profiles": list(config.rights.profiles),
        "capabilities": config.capabilities,
        "limits": config.limits,
        "network": config.network,
        "device_lost_ok": config.device_lost_ok,
        "addresses": list(config.addresses),
        "gateways": list(config.gateways),
        "publish": list(config.publish),
        "rate": config.rate,
        "delay": config.delay,
        "loss": config.loss,
        "nameservers": list(config.nameservers),
        "searchdomains": list(config.searchdomains),
        "user_beancounters": config.user_beancounters,
    }


def begun_with(facts: Facts | None, config: Config) -> dict[str, Any]:
    """What a running VE has of the things that a start reads; of another, what its next start will give it."""
    return asked(config) | _noted(facts)


def limits(facts: Facts | None) -> Limits | None:
    """Of a VE that was started in this boot: what it has been given, as it has it now.  None if nobody noted it."""
    from ve.limits import resolve

    given = _noted(facts)
    return resolve(given["limits"], account_only=True) if "limits" in given else None


def barriers(facts: Facts | None) -> dict[str, int]:
    """Of these, by beancounter: those barriers that are a warning."""
    found = limits(facts)
    return found.warnings() if found else {}


def memory(facts: Facts) -> str:
    """The beancounter whose limit the memory of a running VE has."""
    given = _noted(facts).get("limits")
    if not given:
        return "physpages"  # without another look, as each command asks
    from ve.limits import MEMORY, resolve

    found = resolve(given, account_only=True)
    return next(name for name in MEMORY if found.is_met(name))


def rlimits(facts: Facts) -> dict[str, int]:
    """Those that a running VE was given at its start, for its commands too."""
    import json

    return dict(json.loads(facts.extra.get("rlimits", "{}")))


def _noted(facts: Facts | None) -> dict[str, Any]:
    """Of asked(), what a start noted; an older ve notes less."""
    import json

    return dict(json.loads(facts.extra.get("asked", "{}"))) if facts else {}


def cgroup_files(limits: Limits, place: str, *, disk: bool) -> dict[str, int | str]:
    """What the files of a VE's cgroup are to say; disk: also for the one that holds the directory place."""
    from ve import blockdevice

    return limits.files() | (blockdevice.traffic(limits, place) if disk else {})


def asked_files(config: Config, place: str) -> dict[str, int | str]:
    """Of these, what they do not say anyway."""
    from ve import blockdevice
    from ve.limits import Limits

    limits = config.resources
    asked, usual = (blockdevice.traffic(each, place) if limits.on_disk else {} for each in (limits, Limits()))
    return limits.asked_files() | {name: value for name, value in asked.items() if value != usual.get(name)}


def most_ptys(limits: Limits) -> int | None:
    """How many it may have at once; None: as many as the host."""
    from ve.amounts import UNLIMITED

    limit = limits.limit("numpty")
    return None if limit >= UNLIMITED else limit


def devpts(most: int, base: int) -> dict[str, str]:
    """All options of a VE's devpts, for who is in the host's user namespace; base: the host's id of its root."""
    from ve import mounts, ptys

    words = dict(word.partition("=")[::2] for word in mounts.OWN[0][3].split(",") if "=" in word)
    return words | {"gid": str(base + int(words["gid"])), "max": str(min(most, ptys.MOST))}


def limit_disk(private: str, config: Config) -> None:
    """Let its private area hold what was asked for, as quota.apply; a loop area is of that size already."""
    from ve import looparea, quota
    from ve.limits import Limits

    limits = Limits() if looparea.exists(private) else config.resources
    quota.apply(private, limits, config.account_only, divided=bool(config.rights.inner))


def may_open(given: Iterable[devices.Device]) -> list[devices.Device]:
    """The devices that its processes may open: those of every VE, and these."""
    import stat

    from ve import devices, mounts

    plain = ((stat.S_IFCHR, major, minor) for _, major, minor in mounts.DEVICES)
    return [*plain, *devices.TERMINALS, *given]


def small_init() -> str:
    """Of the host: what is PID 1 where a template's own init is not."""
    if not os.access(CATATONIT, os.X_OK):
        raise NotSupported(f"cannot find {CATATONIT}, the small init", hint="apt-get install catatonit")
    return CATATONIT


def user(template: Template) -> tuple[int, int]:
    """Whose the command is that a template without an init runs: uid and gid."""
    uid, _, gid = (template.user or "0:0").partition(":")
    try:
        return int(uid), int(gid or uid)
    except ValueError:
        raise InvalidValue(f"cannot use user {template.user} of template {template.ref}: it is not UID:GID") from None


def filters(state: State, name: str, refusals: tuple[Refusal, ...] | None = None) -> tuple[bytes, ...]:
    """The filters of system calls that this name stands for, from the run directory, or compiled and kept there.

    refusals: what they are made of; None is what every VE is refused.
    """
    return state.kept_filters(name) or _compiled(state, name, refusals)


def _compiled(state: State, name: str, refusals: tuple[Refusal, ...] | None) -> tuple[bytes, ...]:
    from ve import rights, seccomp

    refusals = rights.REFUSALS if refusals is None else refusals
    if name != seccomp.name(refusals):
        why = "what its start kept of it is gone or damaged"
        raise NotSupported(f"cannot find the filter {name} of system calls: {why}", "restart the VE")
    compiled = seccomp.compile(refusals)
    state.keep_filters(name, compiled)
    return compiled
