"""What a VE starts with: what its conf file says and, where that is silent, its template, this host and we."""

import os
import stat
from collections.abc import Iterable
from typing import Any

from ve import blockdevice, devices, looparea, mounts, ptys, quota, seccomp
from ve.amounts import UNLIMITED
from ve.errors import InvalidValue, NotSupported
from ve.facts import Facts
from ve.limits import Limits, resolve
from ve.model import Config
from ve.rights import REFUSALS, Refusal
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


def limits(facts: Facts | None) -> Limits | None:
    """Of a VE that was started in this boot: what it has been given, as it has it now.  None if nobody noted it."""
    import json  # only who counts pays for it

    given = json.loads(facts.extra.get("asked", "{}")) if facts else {}  # an older ve notes less
    return resolve(given["limits"], account_only=True) if "limits" in given else None


def barriers(facts: Facts | None) -> dict[str, int]:
    """Of these, by beancounter: those barriers that are a warning."""
    return (limits(facts) or Limits()).warnings()


def cgroup_files(limits: Limits, place: str, *, disk: bool) -> dict[str, int | str]:
    """What the files of a VE's cgroup are to say; disk: also for the one that holds the directory place."""
    return limits.files() | (blockdevice.traffic(limits, place) if disk else {})


def asked_files(config: Config, place: str) -> dict[str, int | str]:
    """Of these, what they do not say anyway."""
    limits = config.resources
    asked, usual = (blockdevice.traffic(each, place) if limits.on_disk else {} for each in (limits, Limits()))
    return limits.asked_files() | {name: value for name, value in asked.items() if value != usual.get(name)}


def most_ptys(limits: Limits) -> int | None:
    """How many it may have at once; None: as many as the host."""
    limit = limits.limit("numpty")
    return None if limit >= UNLIMITED else limit


def devpts(most: int, base: int) -> dict[str, str]:
    """All options of a VE's devpts, for who is in the host's user namespace; base: the host's id of its root."""
    words = dict(word.partition("=")[::2] for word in mounts.OWN[0][3].split(",") if "=" in word)
    return words | {"gid": str(base + int(words["gid"])), "max": str(min(most, ptys.MOST))}


def limit_disk(private: str, config: Config) -> None:
    """Let its private area hold what was asked for, as quota.apply; a loop area is of that size already."""
    limits = Limits() if looparea.exists(private) else config.resources
    quota.apply(private, limits, config.account_only, divided=bool(config.rights.inner))


def may_open(given: Iterable[devices.Device]) -> list[devices.Device]:
    """The devices that its processes may open: those of every VE, and these."""
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


def filters(state: State, name: str, refusals: tuple[Refusal, ...] = REFUSALS) -> tuple[bytes, ...]:
    """The filters of system calls that this name stands for, from the run directory, or compiled and kept there."""
    kept = state.kept_filters(name)
    if not kept and name == seccomp.name(refusals):
        kept = seccomp.compile(refusals)
        state.keep_filters(name, kept)
    if not kept:
        why = "what its start kept of it is gone or damaged"
        raise NotSupported(f"cannot find the filter {name} of system calls: {why}", "restart the VE")
    return kept
