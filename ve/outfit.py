"""What a VE starts with: what its conf file says and, where that is silent, its template, this host and we."""

import marshal
import os
import stat
from collections.abc import Iterable
from typing import Any, cast

from ve import devices, mounts, seccomp
from ve.errors import InvalidValue, NotSupported
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
    }


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
        kept = marshal.dumps(seccomp.compile(refusals))
        state.keep_filters(name, kept)
    if not kept:
        raise NotSupported(f"cannot find the filter {name} of system calls: another ve compiled it", "restart the VE")
    return cast(tuple[bytes, ...], marshal.loads(kept))
