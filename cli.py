"""The command line of ve: each verb parses, makes one call of the library, and prints.

Those of two words are in ve/_network.py, ve/_template.py and, with clone and reset, ve/_snapshot.py; the bodies of
those that are typed most are in ve/_verbs.py, which ve/_main.py, where the command begins, can call without any of
this.  ve/_app.py has what verbs share and runs them, ve/_options.py what may be typed, ve/_completion.py how a shell
completes it, ve/_output.py what is shown, ve/_failures.py what is said of failures, ve/_session.py what is said on the
way.  stdout is data, stderr is talk.
"""

import sys
from typing import Any

from ve import _network, _snapshot, _template, errors  # noqa: F401 - verbs of two words
from ve import _options as opt
from ve import _output as out
from ve import _ubc as beans
from ve import _verbs as verbs
from ve._app import Context, app, main, verb
from ve._session import veid as number

__all__ = ["app", "main"]


@verb("create")
@opt.with_settings(*(name for name in opt.SETTINGS if name not in opt.ONLY_SET))
def create(
    ctx: Context,
    veid: opt.Veid,
    template: opt.Template,
    name: opt.Name = None,
    area: opt.Area = None,
    *,
    asked: dict[str, Any],
) -> None:
    """Create a VE from a template."""
    asked |= {"area": area} if area else {}
    made = ctx.obj.host(veid).create(number(veid), template=template, name=name or "", **asked)
    ctx.obj.say(f"{out.label(made)} is created from {made.config.template}")


@verb("start")
def start(
    ctx: Context,
    keys: opt.SomeVEs = None,
    onboot: opt.AllOnboot = False,
    foreground: opt.Foreground = False,
    dry_run: opt.DryRun = False,
    wait: opt.Wait = False,
    ready: opt.Ready = None,
    timeout: opt.ReadyTimeout = None,
) -> int:
    """Start VEs.

    A shutdown from inside ends the VE.  So does a reboot from inside, as nothing of ours waits beside a VE, except
    under --foreground, where it starts again.

    --wait returns once systemd has booted, --ready once the VE is ready in another way, or in all that are given:
    tcp:PORT (somebody accepts connections), log:REGEX (a line since the start), file:PATH (is there), command:LINE
    (a line for its shell ends with 0), boot.  What is not ready in time goes on running.
    """
    conditions = opt.awaited(wait, ready, timeout)
    keys = ctx.obj.those(keys, onboot, "--onboot", lambda env: env.config.onboot and env.status == "stopped")
    if not foreground and not dry_run:
        return verbs.start(ctx.obj, keys, conditions, 60.0 if timeout is None else timeout)
    if conditions is not None:
        raise errors.InvalidValue(f"cannot start {' '.join(keys)}: --foreground and --dry-run do not wait")
    if len(keys) != 1:
        raise errors.InvalidValue(f"cannot start {' '.join(keys)}: --foreground and --dry-run take one VE")
    env = ctx.obj.get(keys[0])
    if dry_run:
        print(out.render(out.PLAN, env.plan()), end="")
        return 0
    return ctx.obj.attend(env)


@verb("stop")
def stop(
    ctx: Context,
    keys: opt.SomeVEs = None,
    everything: opt.AllRunning = False,
    fast: opt.Fast = False,
    timeout: opt.Timeout = 60.0,
) -> int:
    """Stop VEs by their own shutdown, or at the deadline by a kill."""
    keys = ctx.obj.those(keys, everything, "--all", lambda env: env.status in ("running", "frozen"))
    return verbs.stop(ctx.obj, keys, fast, timeout)


@verb("restart")
def restart(ctx: Context, keys: opt.VEs, fast: opt.Fast = False, timeout: opt.Timeout = 60.0) -> int:
    """Stop VEs and start them again."""
    return ctx.obj.each(keys, "is running again", lambda env: env.restart(timeout=0 if fast else timeout))


@verb("freeze")
def freeze(ctx: Context, keys: opt.VEs) -> int:
    """Let no process of these VEs run, until thaw."""
    return ctx.obj.each(keys, "is frozen", lambda env: env.freeze())


@verb("thaw")
def thaw(ctx: Context, keys: opt.VEs) -> int:
    """Let frozen VEs go on."""
    return ctx.obj.each(keys, "is running again", lambda env: env.thaw())


@verb("destroy")
def destroy(ctx: Context, keys: opt.VEs) -> int:
    """Delete stopped VEs and what they changed (nothing of a --mount)."""
    return ctx.obj.each(keys, "is destroyed", lambda env: env.destroy())


@verb("set")
@opt.with_settings(*opt.SETTINGS)
def set_(
    ctx: Context,
    key: opt.VE,
    asked: dict[str, Any],
    userpasswd: opt.Password = None,
    ssh_key: opt.SshKey = None,
    save: opt.Save = False,
) -> None:
    """Change a VE, running or stopped.

    --hostname, limits and what a routed network has (--ip, --publish, --rate, --nameserver...) change a running one at
    once, and for good only with --save.  --userpasswd and --ssh-key edit the VE's own files.  All else needs --save.
    What can be repeated replaces all there was, and "" takes it away.
    """
    target, say = ctx.obj.get(key), ctx.obj.say
    if not asked and userpasswd is None and ssh_key is None:
        raise errors.InvalidValue(f"cannot set {key}: no option says what", hint="see ve set --help")
    if asked:
        for line in out.changes(opt.set_by(asked), target.set(**asked, save=save), save):
            say(f"{out.label(target)}: {line}")
    if userpasswd is not None:
        user, password = opt.user_and_password(userpasswd)
        target.set_password(user, password)
        say(f"{out.label(target)}: the password of {user} is set")
    if ssh_key is not None:
        target.add_ssh_key(opt.text_or_file(ssh_key))
        say(f"{out.label(target)}: the key may log in as root")


@verb("rename")
def rename(ctx: Context, key: opt.VE, name: opt.NewName) -> int:
    """Give a VE another name."""
    return ctx.obj.each([key], f"is named {name}", lambda env: env.rename(name))


@verb("run", cls=opt.Wrapper)
@opt.with_settings(*(name for name in opt.SETTINGS if name not in ("description", "onboot", *opt.ONLY_SET)))
def run(
    ctx: Context,
    template: opt.Ref,
    asked: dict[str, Any],
    command: opt.Cmd = None,
    user: opt.User = None,
    cwd: opt.Cwd = None,
) -> int:
    """Run a command in a throw-away VE, and leave nothing of it.

    Without CMD it is the template's own command, or else its shell.  The exit code is the command's, or 125 when ve
    itself failed.
    """
    return verbs.run(ctx.obj, template, command, user, cwd, asked)


@verb("exec", cls=opt.Wrapper)
def exec_(
    ctx: Context, key: opt.VE, command: opt.Cmd = None, user: opt.User = None, cwd: opt.Cwd = None, env: opt.Env = None
) -> int:
    """Run a command in a running VE, as ssh does.

    Pipes, signals and our terminal reach it.  The exit code is the command's, 128+N when signal N ended it, 126 or 127
    when it could not be run, or 125 when ve itself failed.
    """
    return verbs.exec_(ctx.obj, key, command, user, cwd, opt.variables(env) if env else None)


@verb("enter")
def enter(ctx: Context, key: opt.VE) -> int:
    """Open a login shell of root in a running VE."""
    return ctx.obj.ended(ctx.obj.get(key).enter())


@verb("console")
def console(ctx: Context, key: opt.VE) -> int:
    """Log in to a running VE on a new terminal of it."""
    return ctx.obj.ended(ctx.obj.get(key).console())


@verb("logs")
def logs(ctx: Context, key: opt.VE, follow: opt.Follow = False) -> None:
    """Show what a VE's init wrote, and its journal when it has one."""
    for chunk in ctx.obj.get(key, out.LOG_ALONE).log_chunks(follow):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


@verb("list")
def list_(
    ctx: Context,
    everything: opt.All = False,
    output: opt.Columns = out.LIST_DEFAULT,
    bare: opt.NoHeader = False,
    as_json: opt.Json = False,
) -> int:
    """List all VEs, running or not."""
    return verbs.list_(ctx.obj, output, bare, as_json)


@verb("status")
def status(ctx: Context, key: opt.VE, as_json: opt.Json = False) -> int:
    """Show all that is known of a VE."""
    env = ctx.obj.get(key)
    facts = env.describe()
    print(out.dump_json(facts) if as_json else out.as_facts(facts), end="")
    ctx.obj.pass_over_all([] if facts.get("traffic") else [out.broken(env, "traffic")])
    return ctx.obj.code


@verb("ubc")
def ubc(
    ctx: Context,
    key: opt.OneVE = None,
    quiet: opt.OnlyNear = False,
    watch: opt.Watch = False,
    reset: opt.Reset = False,
    compat: opt.Compat = None,
    as_json: opt.Json = False,
) -> int:
    """Show the beancounters of VEs: what each uses, used at most, may use, and how often it was refused.

    ~ marks the most that somebody saw, where the kernel keeps no maximum; - what nothing here tells.  MAXHELD and
    FAILCNT count from the last --reset on, over restarts of the VE and of the host.  --compat writes OpenVZ's
    /proc/user_beancounters of all VEs that run to a file, for programs that read that.
    """
    beans.refuse_idle(VE=key, quiet=quiet, watch=watch, reset=reset, compat=compat, json=as_json)
    if compat is not None:
        ctx.obj.host("VEs").write_user_beancounters(compat, ctx.obj.pass_over)
        return ctx.obj.code
    if reset:
        keys = beans.counted(ctx.obj.host("VEs"), key)
        return ctx.obj.each(keys, "counts from now on", lambda env: env.reset_beancounters())
    return verbs.ubc(ctx.obj, key, quiet, watch, as_json)


@verb("plan")
def plan(ctx: Context, split: opt.Split = None, check: opt.CheckPlan = False, as_json: opt.Json = False) -> int:
    """Divide this host among VEs, or see whether it is oversold.

    The exit code of --check is 1 if a VE's configuration is wrong or this host is oversold.
    """
    from ve import _plan as planned  # the other verbs do without

    host = ctx.obj.host("this host")
    if (split is None) == (not check):
        raise errors.InvalidValue("cannot plan: one of --split and --check says what", hint="ve plan --help")
    if split is not None:
        text, code = planned.divided(host, split, as_json)
    else:
        text, code = planned.reviewed(host, as_json, ctx.obj.pass_over)
    print(text, end="")
    return ctx.obj.code or code


@verb("top")
def top(ctx: Context, key: opt.OneVE = None) -> int:
    """Watch what VEs make the host do: CPU, memory, processes, disk, and what they wait for.

    q ends it; the letter of a column sorts by that.  Without a terminal it is shown once.
    """
    from ve import _top  # a fifth of a second

    host, veid = ctx.obj.host("VEs"), ctx.obj.veid(key)
    print(_top.watched(host, veid), end="")
    seen = [env for env in host.list() if veid in (None, env.veid) and env.pid is not None]
    ctx.obj.pass_over_all(out.broken(env, "traffic") for env in seen)
    return ctx.obj.code


@verb("events")
def events(
    ctx: Context,
    key: opt.OneVE = None,
    act: opt.Act = False,
    follow: opt.Coming = False,
    quiet: opt.OnlyChosen = False,
    compat: opt.Compat = None,
    as_json: opt.Json = False,
) -> None:
    """Show what happened to VEs at their barriers and limits since it was last shown.

    Who went over a barrier, was refused, or was killed for want of memory.  --act does what was chosen for it, once
    for each crossing; that is done only while this runs.
    """
    host = ctx.obj.host("VEs")
    veid = ctx.obj.veid(key)
    for event in host.events(veid, follow=follow, act=act, compat=compat):
        if not quiet or event.action or event.kind in ("action", "error"):
            print(out.event_line(event, as_json), flush=True)


@verb("explain")
def explain(ctx: Context, key: opt.VE, rights: opt.Rights, as_json: opt.Json = False) -> None:
    """Say whether a VE has a right, and what decides that.

    With the command that changes it, where there is one.

    RIGHT is a capability, a system call, a device, a path or a profile.  A name that is several of them, such as bpf,
    gets an answer for each; capability:bpf and syscall:bpf get one.
    """
    env = ctx.obj.get(key)
    answers = [answer for right in rights for answer in env.explain(right)]
    if any(answer.when == "next start" for answer in answers):
        ctx.obj.say(f"{out.label(env)} does not run: this is what its next start gives")
    print(out.render(out.EXPLAIN, answers, as_json) if as_json else out.explained(answers), end="")


@verb("ps")
def ps(ctx: Context, key: opt.OneVE = None, as_json: opt.Json = False) -> None:
    """Show the processes of VEs: PID and UID inside, HOSTPID outside."""
    veid = ctx.obj.veid(key)
    processes = [process for process in ctx.obj.host("VEs").ps() if veid in (None, process.veid)]
    print(out.render(out.PS, processes, as_json), end="")


@verb("check")
def check(ctx: Context, as_json: opt.Json = False) -> int:
    """Show what VEs use of this host, and what is lost without it."""
    facilities = ctx.obj.host("this host").check()
    print(out.render(out.CHECK, facilities, as_json) if as_json else out.checked(facilities), end="")
    ctx.obj.say(out.can_start(facilities))
    return errors.NotSupported.exit_code if any(f.required and not f.present for f in facilities) else 0


@verb("doctor")
def doctor(ctx: Context, fix: opt.Fix = False, as_json: opt.Json = False) -> int:
    """Find what does not agree: the files of VEs, what the kernel has of them, and what was left by who was killed.

    No verb needs it: each mends that for its own VE.  The exit code is 1 if anything is left to be mended.
    """
    troubles = ctx.obj.host("VEs").doctor(fix)
    print(out.render(out.DOCTOR, troubles, as_json) if as_json else out.troubles(troubles), end="")
    left = [each for each in troubles if not each.mended]
    ctx.obj.say(f"{len(left)} left to be mended" if left else "all VEs are as they should be")
    return int(bool(left))


@verb("selftest")
def selftest(ctx: Context, key: opt.ExaminedVE = None, as_json: opt.Json = False) -> int:
    """Try to break every promise of the boundary, and show which hold.

    From inside a VE that is made for it and thrown away, or a running one that is named; it goes on as before.
    """
    found = ctx.obj.get(key).selftest() if key else ctx.obj.host("this host").selftest()
    print(out.render(out.SELFTEST, found, as_json) if as_json else out.examined(found), end="")
    ctx.obj.say(out.judged(found))
    return int(any(verdict.status == "broken" for verdict in found))


@verb("mount")
def mount(ctx: Context, key: opt.VE) -> None:
    """Show a VE's root to the host and print its path."""
    print(ctx.obj.get(key).mount())


@verb("umount")
def umount(ctx: Context, key: opt.VE) -> int:
    """Take back what mount did."""
    return ctx.obj.each([key], "is unmounted", lambda env: env.umount())


@verb("cp")
def cp(ctx: Context, source: opt.Source, target: opt.Target, archive: opt.Archive = False) -> None:
    """Copy between the host and a VE, whose side is VE:PATH."""
    from_ve, to_ve = opt.copy_sides(source, target)
    if from_ve:
        ctx.obj.get(from_ve[0]).copy_out(from_ve[1], target, archive=archive)
    if to_ve:
        ctx.obj.get(to_ve[0]).copy_in(source, to_ve[1], archive=archive)


@verb("diff")
def diff(ctx: Context, key: opt.VE, as_json: opt.Json = False) -> None:
    """Show what a VE added (A), changed (C) and deleted (D)."""
    print(out.render(out.DIFF, ctx.obj.get(key).diff(), as_json, header=False), end="")


if __name__ == "__main__":
    sys.exit(main())
