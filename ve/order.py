"""What setup is asked for, as plain data: the one message from a launch to its far side (ve/farside.py, Request)."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from ve import actions, ids, interpreter, log, looparea, mounts, namespaces, outfit, quota, seccomp, setup

if TYPE_CHECKING:
    from ve.launch import Launch


def argv(launch: Launch) -> list[str]:
    if launch.boots:
        return [launch.template.init]
    command = launch.template.command if launch.command is None else launch.command
    return ["/" + mounts.SMALL_INIT, *(("--", *command) if command else ("-P",))]  # -P: wait, reap, and no more


def request(launch: Launch, ours: contextlib.ExitStack) -> dict[str, Any]:
    """What setup is asked for; descriptors made for it are closed with ours."""
    config, template, boots = launch.config, launch.template, launch.boots
    streams = stdio(launch, ours)
    maker = os.pidfd_open(os.getpid()) if launch.ephemeral else -1
    if launch.ephemeral:
        ours.callback(os.close, maker)
        maker = interpreter.above_stdio(maker, ours)
    return {
        "veid": config.veid,
        "base": launch.base,
        "ids": ids.inside((launch.base, *launch.inner)),
        "state_dir": launch.state.path,
        "template": template.path,
        "private": private(launch),
        "area": looparea.exists(private(launch)),
        "scratch_limits": "" if private(launch) else quota.of_tmpfs(config.resources),
        "scratch": launch.state.scratch(),
        "cgroup": f"{launch.cgroup.path}/init",
        "hostname": outfit.hostname(config),
        "mounts": tuple((mount.source, mount.target, mount.read_only) for mount in config.mounts),
        "actions": tuple(actions.scripts(launch.state, config.veid, "mount")),
        "boots": boots,
        "namespaces": namespaces.NAMES,
        "own_mounts": mounts.own(boots, outfit.most_ptys(config.resources)),
        "own_links": mounts.COUNTERS_LINK if config.user_beancounters else (),
        "old_root": "",
        "argv": argv(launch),
        "env": outfit.environment(config, template) | {"TERM": (launch.console and os.environ.get("TERM")) or "linux"},
        "cwd": "/" if boots else template.cwd or "/",
        "user": (0, 0) if boots else outfit.user(template),
        "console": launch.console,
        "stdio": streams,
        "left_out": left_out(launch),
        "leaked": (),
        "ephemeral": launch.ephemeral,
        "maker": maker,
        "fault": os.environ.get("VE_FAULT", ""),
        "fds": tuple({fd for fd in (maker, *streams) if fd >= 0}),
        **rights(launch),
    }


def rights(launch: Launch) -> dict[str, Any]:
    rights, refusals = launch.config.rights, launch.without.refusals
    given = launch.config.devices + rights.devices
    binds = () if launch.boots else ((outfit.small_init(), mounts.SMALL_INIT),)
    if launch.config.user_beancounters:
        binds = (*binds, (launch.state.inside(launch.config.veid), mounts.COUNTERS))
    return {
        "protection": mounts.protection(rights.proc, rights.sysctls, given, binds),
        "user_namespaces": rights.user_namespaces,
        "rlimits": launch.config.resources.rlimits(),
        "confinement": {
            "capabilities": rights.mask,
            "keyring": True,
            "no_new_privs": rights.no_new_privs,
            "filters": outfit.filters(launch.state, seccomp.name(refusals), refusals),
        },
    }


def left_out(launch: Launch) -> tuple[str, ...]:
    """Steps that are not for this launch."""
    wanted = {setup.stay: launch.stay or launch.ephemeral, setup.inner_state: launch.inner}
    return tuple(step.__name__ for step, is_wanted in wanted.items() if not is_wanted)


def private(launch: Launch) -> str:
    """Where on disk its changes are; "" for what is kept in memory."""
    path = launch.state.private(launch.config.veid)
    return "" if launch.ephemeral and not os.path.isdir(path) else path


def stdio(launch: Launch, ours: contextlib.ExitStack) -> tuple[int, ...]:
    """Descriptors for init's standard ones, -1 for its /dev/null."""
    if launch.console or launch.ephemeral:
        return (-1, -1, -1)
    fd = log.open_for_init(launch.state.log(launch.config.veid), launch.base)
    ours.callback(os.close, fd)
    fd = interpreter.above_stdio(fd, ours)
    return (-1, fd, fd)
