"""How a VE ends, and what is then left of it and taken away."""

from __future__ import annotations

import contextlib
import errno
import functools
import os

from ve import actions, addressed, attachment, cgroups, insidefile, leading, outfit, shutdown, traffic
from ve.errors import ActionFailed, Error, Locked
from ve.wholefile import sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ve.environment import Environment
    from ve.instance import Instance

_HALTING = 5.0  # seconds for a command that tells an init to halt


def stop(env: Environment, timeout: float, fast: bool) -> bool:
    """As Environment.stop, under the VE's lock."""
    refused: ActionFailed | None = None
    with env.running("stop") as (facts, pidfd):
        leading.refuse_elsewhere(env.state, env.veid)
        if env.cgroup.frozen():  # before a script that may want to execute something in it
            env.cgroup.freeze(False)
        try:
            actions.run(env.state, env.veid, "stop", f"/proc/{facts.pid}/root")
        except ActionFailed as error:  # a broken script shall not make a VE that nobody can stop
            refused = error
        deadline = 0 if fast else timeout
        with attachment.coming_back(env.state, env.veid, facts.pid) as told:
            halt = functools.partial(_halt, env)
            orderly = shutdown.shut_down(env.veid, facts.pid, pidfd, env.cgroup, deadline, halt)
        leave(env)
        act_unmounted(env)
    for other in (refused, *told):
        if other:
            raise other
    return orderly


def _halt(env: Environment, command: tuple[str, ...]) -> None:
    """Execute it in the VE; TimeoutExpired.  One that hangs in the kernel ends with the VE: nobody waits for it."""
    import subprocess

    from ve import patience

    null = subprocess.DEVNULL
    process = env.popen(command, stdin=null, stdout=null, stderr=null, enter_timeout=_HALTING)
    patience.wait(process, _HALTING, _HALTING)


def act_unmounted(instance: Instance) -> None:
    """Run the action scripts of its end."""
    state, veid = instance.state, instance.veid
    for action in ("umount", "postumount"):
        actions.run(state, veid, action, state.root(veid))


def clear(instance: Instance) -> None:
    """Remove what a VE that has ended left in the kernel and the run directory; under the VE's lock.

    StopFailed names what even SIGKILL does not end; NotSupported if what it left is in another network namespace,
    or if it may run for all that can be read.
    Locked if others hold for too long what VEs have together: then the rest is left to the next command.  The facts
    of an ephemeral VE stay: they say who made it.
    """
    state, veid = instance.state, instance.veid
    instance.refuse_unknown()
    leading.refuse_elsewhere(state, veid)
    shutdown.end(veid, instance.cgroup)
    facts = state.read_facts(veid)
    leading.disconnect(state, veid, lambda: addressed.given(facts))
    attachment.look_after(state, veid)
    traffic.note_end(state, veid, facts, ephemeral=instance.ephemeral)
    if not instance.ephemeral:
        from ve import ledger

        ledger.note_end(state, veid, instance.cgroup, outfit.barriers(facts))
    cgroups.remove(state.tag, veid)
    insidefile.remove(state, veid)
    if not instance.ephemeral:
        state.remove_facts(veid)


def leave(instance: Instance) -> None:
    """Clear what can be cleared now; the rest waits for the next command, as of a VE that ended by itself.

    It waits until it can be written, too, where the file system of the state dir has become read-only.
    """
    try:
        clear(instance)
    except (Error, OSError) as error:
        why = error.__cause__ if isinstance(error, Error) else error
        if not isinstance(error, Locked) and getattr(why, "errno", None) != errno.EROFS:
            raise


def remove_all(instance: Instance) -> None:
    """Remove everything that is found under this VEID, its lock last; under that lock, which protects no more."""
    remove_remains(instance)
    instance.state.remove_lock(instance.veid)


def remove_remains(instance: Instance) -> None:
    """Remove everything but the lock that is found under this VEID, whatever made it half; under the VE's lock."""
    from ve import claims, ids, layers, quota, removal  # which who only stops does without

    state, veid = instance.state, instance.veid
    clear(instance)
    state.remove_facts(veid)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(state.log(veid, ephemeral=True))
    private, root = state.private(veid), state.root(veid)
    cannot = f"cannot destroy {veid}"
    for path in (private, root):
        removal.refuse_mounted(path, cannot)
    was_there = os.path.isdir(private)
    quota.release(private)
    for path in (private, root):
        removal.remove(path, cannot)
    if was_there and not instance.ephemeral:  # before its conf file is gone, or its data would be nobody's
        sync(os.path.dirname(private))
    if state.exists(veid):
        layers.remove_unused(state, going=veid)
    ids.release(state, veid)
    claims.release(state, veid)
    if not instance.ephemeral:
        from ve import ledger

        with ledger.held(state):
            ledger.remove(state, veid)
    traffic.remove(state, veid)
    names = state.names(veid)
    state.retire_actions(veid)
    state.remove_conf(veid)
    for name in names:
        state.release_name(name, veid)
