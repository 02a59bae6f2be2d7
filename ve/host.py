"""The host (VE0): its templates, its networks and its VEs."""

from __future__ import annotations

import contextlib
import os
from functools import cached_property

from ve.environment import Environment
from ve.errors import BrokenConfig, Error, InvalidValue, NotFound, NotRunning, require_root
from ve.state import State
from ve.veid import check_veid
from ve.wholefile import asides

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, Unpack

    from ve.beancounter import Beancounter
    from ve.check import Facility
    from ve.consistency import Problem
    from ve.doctor import Trouble
    from ve.ephemeral import Ephemeral
    from ve.events import Event
    from ve.hardware import Host as Hardware
    from ve.load import Load
    from ve.networks import Networks
    from ve.options import Common, Options
    from ve.outcome import ExitCode
    from ve.plan import Sum
    from ve.ps import Process
    from ve.selftest import Verdict
    from ve.snapshot import Snapshot
    from ve.template import Template, Templates


class Host:
    """The VEs and templates of one state dir: $VE_STATE_DIR or /var/lib/ve, unless another is given.

    One that was named is made by templates.add and build; whoever looks into it before gets InvalidValue.
    """

    def __init__(self, state_dir: str | os.PathLike[str] | None = None) -> None:
        self.state = State(state_dir)
        if os.path.lexists(f"{self.state.path}/area.img") and not os.geteuid():  # not mounted, or it would hide it
            from ve import statedir

            statedir.again(self.state)

    @cached_property
    def templates(self) -> Templates:
        """Its templates."""
        from ve.template import Templates

        return Templates(self.state.template_dir, users=self._users, require=self.state.require, provide=self._provide)

    @cached_property
    def networks(self) -> Networks:
        """Its pools of addresses, those of all state dirs."""
        from ve.networks import Networks

        return Networks()

    def _provide(self) -> None:
        """Another file system for the state dir, made to be there, if no VE can be on its own."""
        from ve import statedir

        statedir.provide(self.state)

    def _provide_for_ves(self) -> None:
        """The same, unless it is not there, as of a typo, or on a disk, which costs one look."""
        with contextlib.suppress(FileNotFoundError):
            if not os.major(os.stat(self.state.path).st_dev):
                self._provide()

    def __repr__(self) -> str:
        return f"<ve.Host {self.state.path}>"

    def create(
        self,
        veid: int,
        *,
        template: str,
        name: str = "",
        area: str = "",
        **options: Unpack[Options],
    ) -> Environment:
        """Make a VE from a template (NAME is its newest version, NAME:VERSION that one), stopped.

        area="loop" puts what it changes into a file system of its own, of the size disk.  Exists if the VEID or the
        name is taken, TemplateNotFound, InvalidValue, DiskFull; then nothing is left.
        """
        check_veid(veid)
        require_root(f"cannot create {veid}")
        self._provide_for_ves()
        from ve import making

        environment = Environment(self.state, veid)
        with self.templates.hold(template) as found:
            making.create(environment, found, {**options, "name": name, "area": area})
        return environment

    def get(self, key: int | str) -> Environment:
        """The VE of this VEID or name; NotFound."""
        require_root(f"cannot look for VE {key}")
        self.state.require()
        return Environment(self.state, self.state.resolve(key))

    def list(self) -> builtins.list[Environment]:
        """All VEs by VEID, ephemeral ones too."""
        self.forget_dead()
        return [Environment(self.state, veid) for veid in self.state.veids()]

    @contextlib.contextmanager
    def ephemeral(
        self,
        template: str | Snapshot,
        *,
        command: Sequence[str] | None = None,
        on_disk: bool = False,
        **options: Unpack[Common],
    ) -> Iterator[Ephemeral]:
        """A running VE that leaves nothing and ends with the block, or with this process, however that ends.

        Of a template, or made on a snapshot, as Snapshot.fork says.  What it changes is kept in memory, or with on_disk
        and in the profile nesting on disk until its end.  command runs under a small init in place of the template's.
        """
        from ve.options import command_words

        require_root(f"cannot run {template}")
        self._provide_for_ves()
        self.forget_dead()
        argv = command_words(command)
        if isinstance(template, str):
            with self.templates.hold(template) as found:
                environment = self.begin(found, options, argv, on_disk=on_disk)
        else:
            from ve import snapshot

            with template.held() as (found, config, stack):
                asked = snapshot.inherited(config, options) | {"area": ""}
                environment = self.begin(found, asked, argv, stack, on_disk)
        try:
            yield environment
        finally:
            environment.end()

    def aephemeral(
        self,
        template: str | Snapshot,
        *,
        command: Sequence[str] | None = None,
        on_disk: bool = False,
        **options: Unpack[Common],
    ) -> contextlib.AbstractAsyncContextManager[Ephemeral]:
        """ephemeral() for asyncio: it begins and ends in a thread of the loop's, see ve/aio.py."""
        from ve import aio

        return aio.ephemeral(self.ephemeral(template, command=command, on_disk=on_disk, **options))

    def run(
        self,
        template: str,
        command: Sequence[str] = (),
        *,
        user: str | None = None,
        cwd: str | None = None,
        **options: Unpack[Common],
    ) -> ExitCode:
        """Run a command in an ephemeral VE, connected to us as Environment.call does it; its code, 0..255.

        Without a command the template's own runs, else a shell; user and cwd are the template's unless given.
        """
        with self.ephemeral(template, command=(), **options) as environment:
            of = environment.template
            argv = tuple(command) or of.command or ("/bin/sh",)
            return environment.call(argv, user=user or of.user or None, cwd=cwd or of.cwd or None)

    def ps(self) -> builtins.list[Process]:
        """The processes of all VEs that run."""
        from ve import ps

        found: builtins.list[Process] = []
        for environment in self.list():
            with contextlib.suppress(NotRunning), environment.running("look at") as (facts, _):
                found += ps.processes(environment.veid, facts, environment.cgroup)
        return found

    def beancounters(
        self, veid: int | None = None, broken: Callable[[Error], object] | None = None
    ) -> builtins.list[tuple[Environment, dict[str, Beancounter]]]:
        """Those of all VEs, or of one, with the VE that has them; NotFound.  See Environment.beancounters.

        broken: is told why a VE is not among them, its ledger being broken for one; without it that is raised.
        """
        from ve import account

        environments = self._those(veid)
        found = account.beancounters(environments, broken)
        return [(each, found[each.veid]) for each in environments if each.veid in found]

    def _those(self, veid: int | None) -> builtins.list[Environment]:
        """All VEs, or the one of this VEID; NotFound."""
        return [each for each in self.list() if veid in (None, each.veid)] or ([] if veid is None else [self.get(veid)])

    def split(self, parts: int) -> dict[str, str]:
        """The limits of each of so many equal VEs that this host has room for, as presets have them.

        InvalidValue says how many it has room for, if not for so many.
        """
        from ve import plan

        here = self._hardware()
        return plan.split(here.memory, here.swap, here.cpus, here.disk, parts, here.threads).words()

    def review(
        self, broken: Callable[[Error], object] | None = None
    ) -> tuple[builtins.list[tuple[Environment, Problem]], builtins.list[Sum]]:
        """What is wrong with the limits of each VE, and what VEs hold, are guaranteed and may have of this host.

        broken: see beancounters(); of such a VE what it holds is not in the sums.
        """
        from ve import consistency, enforce, plan, quota

        found: builtins.list[tuple[Environment, Problem]] = []
        sold = []
        tables = {each.veid: table for each, table in self.beancounters(broken=broken)}
        for environment in self.list():
            with contextlib.suppress(BrokenConfig, NotFound):  # `ve list` says so
                asked = environment.config.resources
                found += [(environment, problem) for problem in consistency.problems(asked)]
                on_disk = quota.held(self.state.private(environment.veid))
                held = {name: bean.held for name, bean in tables.get(environment.veid, {}).items()}
                if environment.config.account_only:  # nobody may count on what nothing keeps it to
                    asked = asked.without(enforce.missing(asked.controllers))
                sold.append((environment.veid, asked, held | {"disk": on_disk.space if on_disk else None}))
        return found, plan.oversold(self._hardware(), sold)

    def _hardware(self) -> Hardware:
        """What there is to divide; of the disk nothing is said where its file system limits no VE."""
        from ve import hardware, quota

        return hardware.host(self.state.path if quota.enforces(self.state.path) else "")

    def loads(self) -> builtins.list[tuple[Environment, Load]]:
        """What each VE that runs makes the host do just now."""
        from dataclasses import replace

        from ve import load, traffic

        traffic.sweep()
        found = []
        for each in self.list():
            with each.init() as init:
                if init:
                    seen = load.of(each.veid, each.cgroup)
                    try:
                        now = traffic.total(self.state, each.veid, init[0])
                        seen = replace(seen, sent=now.sent, received=now.received)
                    except BrokenConfig:  # a newer ve has counted it
                        seen = replace(seen, sent=None, received=None)
                    found.append((each, seen))
        return found

    def events(
        self,
        veid: int | None = None,
        *,
        follow: bool = False,
        act: bool = False,
        compat: str | os.PathLike[str] | None = None,
    ) -> Iterator[Event]:
        """What happened to all VEs, or to one, at their barriers and limits since the last call: see ve/events.py.

        follow: go on as it comes.  act: do what on_barrier and on_failure say, as long as the iterator is read; Locked
        if another process does.  Who acts is told of all that happened, whoever else has read it, and so is who does
        not.  Each is noted as told once the next one is asked for.  compat: at each look at all VEs, write that file as
        write_user_beancounters does.  NotFound if there is no such VE.
        """
        from ve import compat as openvz
        from ve import events

        if compat is not None and veid is not None:
            raise InvalidValue(f"cannot write {os.fspath(compat)}: it is of all VEs", "leave the VE out")

        def those() -> builtins.list[Environment]:  # no NotFound later on: one that is destroyed has no more events
            return [each for each in self.list() if veid in (None, each.veid)]

        self._those(veid)
        write = None if compat is None else lambda tables: openvz.write(compat, tables)
        return events.follow(self.state, those, on=follow, act=act, write=write)

    def write_user_beancounters(
        self, path: str | os.PathLike[str], broken: Callable[[Error], object] | None = None
    ) -> None:
        """Write OpenVZ's /proc/user_beancounters of all VEs that run to path, and what it cannot say to PATH.meta.

        Each is whole at any time, and as old as its mtime.  InvalidValue if something is there that is no file.
        broken: see beancounters().
        """
        from ve import compat

        tables = self.beancounters(broken=broken)
        compat.write(path, [(each.veid, table) for each, table in tables if each.pid is not None])

    def check(self) -> builtins.list[Facility]:
        """Every facility of this host that we use: is it there, and what is lost without it."""
        from ve import check

        return check.check(self.state.path)

    def doctor(self, fix: bool = False) -> builtins.list[Trouble]:
        """What does not agree in this state dir: its files, what the kernel has, and what was left by who was killed.

        fix: mend what can be mended without losing a VE's data; each says whether it is mended, or what to do.
        """
        from ve import doctor

        require_root("cannot examine VEs")
        self.state.require()
        return doctor.examine(self.state, fix)

    def selftest(self) -> builtins.list[Verdict]:
        """Is each promise kept here, by the default profile?  Tried in a VE that is made for it and thrown away."""
        from ve import selftest

        require_root("cannot examine a VE")
        self.forget_dead()
        return selftest.examine_new(self)

    def forget_dead(self) -> None:
        """Remove what ephemeral VEs left whose maker was killed; one that has ended but has its maker stays."""
        require_root("cannot list VEs")
        self.state.require()
        for path in asides(self.state.run_dir):
            with contextlib.suppress(OSError):
                os.unlink(path)
        for veid in (*self.state.ephemeral_veids(), *self.state.thrown_away()):
            environment = Environment(self.state, veid)
            if environment.is_left():
                # Locked: it is being made.  What cannot be removed now is no reason to fail who wants another VE.
                with contextlib.suppress(Error, OSError), self.state.lock(veid, 0):
                    if environment.is_left():
                        from ve import ending  # which whoever lists VEs needs for this alone

                        ending.remove_all(environment)
                    elif not self.state.exists(veid):
                        self.state.remove_lock(veid)  # removed meanwhile, and its lock's file made anew by us

    def begin(
        self,
        template: Template,
        options: Mapping[str, Any],
        command: tuple[str, ...] | None,
        stack: tuple[str, ...] = (),
        on_disk: bool = False,
    ) -> Ephemeral:
        """A running ephemeral VE; the template and the layers are held, or nobody can remove them."""
        from ve import ephemeral

        return ephemeral.begin(self.state, template, options, command, stack, on_disk)

    def _users(self, ref: str) -> builtins.list[int]:
        """The VEs that stay on this version of a template, or may do so for all that can be read."""
        from ve import making

        self.forget_dead()
        return [veid for veid in self.state.veids() if making.template_of(self.state, veid) in (ref, None)]
