"""`ve status`: what is true of one VE now, and what of its conf file waits for the next start."""

import contextlib
import os
import subprocess
import time
from typing import Any

from ve import addressed, outfit, traffic
from ve.amounts import UNLIMITED
from ve.errors import BrokenConfig, Error, NotRunning
from ve.facts import Facts, namespace
from ve.ids import IDS
from ve.instance import Instance
from ve.model import Config

_SHOWN_OF_NETWORK = ("gateways", "publish", "rate", "delay", "loss", "nameservers", "searchdomains")


def describe(instance: Instance) -> dict[str, object]:
    """All that there is to tell, in the order of `ve status`."""
    settings = instance.config
    with instance.init() as init:
        facts, status = init[0] if init else None, instance.status_of(init)
        begun = outfit.begun_with(facts, settings)
        hostname = _hostname(instance.veid, init) if init else begun["hostname"]
    return {
        "veid": instance.veid,
        "name": instance.name,
        "status": str(status),
        "pid": facts.pid if facts else None,
        "uptime": _uptime(facts.start_time) if facts else None,
        "template": begun["template"],
        "hostname": hostname,
        "network": begun["network"] or ("routed" if begun["addresses"] else "none"),
        "addresses": addressed.addresses(facts, settings.addresses),
        **{name: begun[name] for name in _SHOWN_OF_NETWORK},
        "traffic": _traffic(instance, facts),
        "description": settings.description,
        "onboot": settings.onboot,
        "ephemeral": instance.ephemeral,
        "env": begun["env"],
        "mounts": begun["mounts"],
        "devices": begun["devices"],
        "profiles": begun["profiles"],
        "capabilities": begun["capabilities"],
        "limits": begun["limits"],
        "user_beancounters": begun["user_beancounters"],
        "pending": pending(begun, settings),
        "ids": f"{facts.base}-{facts.base + IDS - 1}" if facts else None,
        "area": settings.area,
        "snapshots": [*settings.snapshots],
        "disk": _disk(instance),
        "private": None if instance.ephemeral else instance.state.private(instance.veid),
        "log": instance.log_path,
        "root": instance.state.root(instance.veid) if instance.shown else None,
        "cgroup": instance.cgroup.path if facts else None,
        "reboot": "from inside it ends the VE; under ve start --foreground it starts it again",
    }


def _disk(instance: Instance) -> dict[str, int | None] | None:
    """Bytes and inodes that are counted of its private area, and what it may have; None where nobody counts."""
    held = instance.disk()
    if held is None:
        return None
    limits = {"space_limit": held.space_limit, "inodes_limit": held.inodes_limit}
    found = {name: None if limit >= UNLIMITED else limit for name, limit in limits.items()}
    return {"space": held.space, "inodes": held.inodes, **found}


def pending(begun: dict[str, Any], settings: Config) -> dict[str, Any]:
    """What the next start will give in place of what the VE has begun with."""
    return {key: value for key, value in outfit.asked(settings).items() if value != begun[key]}


def set_hostname(veid: int, init: tuple[Facts, int], hostname: str) -> None:
    """Of a running VE; NotRunning if it has ended."""
    done = _in_uts(veid, init, "hostname", hostname)
    if done.returncode:
        raise Error(f"cannot set the hostname of {veid}: {done.stderr.strip()}")


def _traffic(instance: Instance, facts: Facts | None) -> dict[str, int] | None:
    """None where a newer ve has counted it."""
    with contextlib.suppress(BrokenConfig):
        return traffic.total(instance.state, instance.veid, facts)._asdict()
    return None


def _hostname(veid: int, init: tuple[Facts, int]) -> str | None:
    """As a command inside would say it: the VE's root may have changed it.  None if it has ended meanwhile."""
    with contextlib.suppress(NotRunning):
        done = _in_uts(veid, init, "uname", "-n")
        return None if done.returncode else done.stdout.removesuffix("\n")
    return None


def _in_uts(veid: int, init: tuple[Facts, int], *command: str) -> "subprocess.CompletedProcess[str]":
    """By nsenter(1), as a thread of this process must not enter another namespace; NotRunning."""
    with contextlib.ExitStack() as held:
        uts = namespace(*init, "uts", held)
        if uts is None:
            raise NotRunning(f"cannot enter {veid}: it is not running")
        return subprocess.run(
            ["nsenter", f"--uts=/proc/self/fd/{uts}", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            check=False,
            pass_fds=[uts],
        )


def _uptime(start_time: int) -> str:
    """How long ago a process started, as in 3d 04:05:06."""
    seconds = int(time.clock_gettime(time.CLOCK_BOOTTIME) - start_time / os.sysconf("SC_CLK_TCK"))
    days, seconds = divmod(seconds, 86400)
    return f"{days}d {seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
