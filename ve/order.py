"""What setup is asked for, as plain data: the one message from a launch to its far side (ve/farside.py, Request)."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from ve import (
    actions,
    descriptors,
    ids,
    init,
    log,
    looparea,
    mounts,
    names,
    namespaces,
    outfit,
    quota,
    seccomp,
    setup,
)
from ve.errors import NotRunning
from ve.facts import init_pidfd, namespace
from ve.shapes import SHARED

if TYPE_CHECKING:
    from collections.abc import Callable

    from ve.launch import Launch


def argv(launch: Launch) -> list[str]:
    if launch.boots:
        return [launch.template.init]
    command = launch.template.command if launch.command is None else launch.command
    return ["/" + mounts.SMALL_INIT, *(("--", *command) if command else ("-P",))]  # -P: wait, reap, and no more


def request(launch: Launch, ours: contextlib.ExitStack) -> dict[str, Any]:
    """What setup is asked for; descriptors made for it are closed with ours."""
    config, template, boots = launch.config, launch.template, launch.boots
    scripts = tuple(actions.scripts(launch.state, config.veid, "mount"))
    streams, netns, maker = stdio(launch, ours), other_network(launch, ours), who_made_it(launch, ours)
    return {
        "veid": config.veid,
        "base": launch.base,
        "ids": ids.inside((launch.base, *launch.inner)),
        "state_dir": launch.state.path,
        "template": template.path,
        "layers": tuple(map(launch.state.layer, config.layers)),
        "private": private(launch),
        "area": looparea.exists(private(launch)),
        "scratch_limits": "" if private(launch) else quota.of_tmpfs(config.resources),
        "scratch": launch.state.scratch(),
        "cgroup": f"{launch.cgroup.path}/init",
        "hostname": outfit.hostname(config),
        "mounts": tuple((mount.source, mount.target, mount.read_only) for mount in config.mounts),
        "actions": scripts,
        "environ": dict(os.environb) if scripts else {},  # ours is nobody else's
        "boots": boots,
        "namespaces": tuple(name for name in namespaces.NAMES if name != "net" or config.shape.kind not in SHARED),
        "netns": netns,
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
        "fds": tuple({fd for fd in (maker, netns, *streams) if fd >= 0}),
        **rights(launch),
    }


def who_made_it(launch: Launch, ours: contextlib.ExitStack) -> int:
    """A pidfd of us, whom an ephemeral VE does not outlive; -1 for any other."""
    if not launch.ephemeral:
        return -1
    maker = os.pidfd_open(os.getpid())
    ours.callback(os.close, maker)
    return descriptors.above_stdio(maker, ours)


def other_network(launch: Launch, ours: contextlib.ExitStack) -> int:
    """Of the VE whose network it is to have, -1 if it is none's; NotRunning.

    The host's it has as setup does, which is there already.
    """
    if launch.config.shape.kind != "ve":
        return -1
    veid = int(launch.config.shape.argument)
    facts = launch.state.read_facts(veid)
    pidfd = init_pidfd(facts) if facts else None
    if facts is None or pidfd is None:
        why = f"VE {veid}, whose network it is to have, is not running"
        raise NotRunning(f"cannot start {launch.config.veid}: {why}", f"ve start {veid}")
    ours.callback(os.close, pidfd)
    netns = namespace(facts, pidfd, "net", ours)
    if netns is None:
        raise NotRunning(f"cannot start {launch.config.veid}: VE {veid}, whose network it is to have, has ended")
    return netns


def rights(launch: Launch) -> dict[str, Any]:
    rights, refusals = launch.config.rights, launch.without.refusals
    given = launch.config.devices + rights.devices
    binds = () if launch.boots else ((outfit.small_init(), mounts.SMALL_INIT),)
    if launch.config.user_beancounters:
        binds = (*binds, (launch.state.inside(launch.config.veid), mounts.COUNTERS))
    return {
        "protection": mounts.protection(rights.proc, rights.sysctls, given, (*binds, *names.binds(launch.config))),
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
    wanted: dict[Callable[..., None], object] = {
        setup.stay: launch.stay or launch.ephemeral,
        setup.inner_state: launch.inner,
        init.names: launch.config.addresses,
        init.lo: launch.config.shape.kind not in SHARED,
    }
    return tuple(step.__name__ for step, is_wanted in wanted.items() if not is_wanted)


def private(launch: Launch) -> str:
    """Where on disk its changes are; "" for what is kept in memory."""
    path = launch.state.private(launch.config.veid)
    return "" if launch.ephemeral and not os.path.isdir(path) else path


def stdio(launch: Launch, ours: contextlib.ExitStack) -> tuple[int, ...]:
    """Descriptors for init's standard ones, -1 for its /dev/null."""
    if launch.console or launch.command == ():  # the small init has nothing to say
        return (-1, -1, -1)
    path = launch.state.log(launch.config.veid, ephemeral=launch.ephemeral)
    if launch.ephemeral:
        launch.state.make_dir(os.path.dirname(path))
    fd = log.open_for_init(path, launch.base)
    ours.callback(os.close, fd)
    fd = descriptors.above_stdio(fd, ours)
    return (-1, fd, fd)
