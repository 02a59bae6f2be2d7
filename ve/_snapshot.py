"""The verbs of `ve snapshot`, and the others that are about what a VE was: ve clone and ve reset."""

from typing import Any

from ve import _options as opt
from ve import _output as out
from ve._app import Context, group, verb
from ve._session import veid as number

group("snapshot", "Snapshots: what a VE was at some moment, to go back to or to make VEs on.")


@verb("snapshot create")
def snapshot_create(ctx: Context, key: opt.VE, name: opt.NewSnapshot = None) -> None:
    """Keep what a VE is now.

    Of a stopped VE that is done at once.  A running one stands still while what it changed is copied.
    """
    env = ctx.obj.get(key)
    made = env.checkpoint(name or "")
    ctx.obj.say(f"{out.label(env)}: snapshot {made.name} is created")


@verb("snapshot list")
def snapshot_list(ctx: Context, key: opt.VE, as_json: opt.Json = False) -> None:
    """List the snapshots of a VE, and the VEs made on each."""
    print(out.render(out.SNAPSHOTS, ctx.obj.get(key).snapshots(), as_json), end="")


@verb("snapshot restore")
def snapshot_restore(ctx: Context, key: opt.VE, name: opt.Snapshot) -> None:
    """Let a stopped VE be as it was; what it changed since is lost."""
    env = ctx.obj.get(key)
    env.restore(name)
    ctx.obj.say(f"{out.label(env)} is as it was at {name}")


@verb("snapshot delete")
def snapshot_delete(ctx: Context, key: opt.VE, name: opt.Snapshot) -> None:
    """Forget a snapshot; VEs made on it keep what they have."""
    env = ctx.obj.get(key)
    env.snapshot(name).delete()
    ctx.obj.say(f"{out.label(env)}: snapshot {name} is deleted")


@verb("clone")
@opt.with_settings(*(name for name in opt.SETTINGS if name not in opt.ONLY_SET))
def clone(ctx: Context, key: opt.VE, veid: opt.NewVeid = None, name: opt.Name = None, *, asked: dict[str, Any]) -> None:
    """Make another VE with all that is in this one now.

    It is asked for the same, but for its name, its addresses (those that are auto it gets its own of) and ports.
    """
    env = ctx.obj.get(key)
    asked |= {"name": name} if name else {}
    made = env.clone(None if veid is None else number(veid), **asked)
    ctx.obj.say(f"{out.label(made)} is created from {out.label(env)}")


@verb("reset")
def reset(ctx: Context, keys: opt.VEs) -> int:
    """Let VEs be as they were when they were created; what they changed is lost.

    One that runs is killed, and started again.  Its snapshots stay.
    """
    return ctx.obj.each(keys, "is as it was created", lambda env: env.reset())
