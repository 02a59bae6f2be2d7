"""Every verb that works on one VE; those on its files are in ve/contents.py, those that run commands in ve/commands.py.

What a verb needs it imports itself: one command of a shell is one verb, which would wait for the rooms of all others.
"""

from __future__ import annotations

import contextlib

from ve.commands import Commands
from ve.contents import Contents
from ve.errors import BrokenConfig, Locked, Mounted, NotRunning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Unpack

    from ve.beancounter import Beancounter
    from ve.connection import Connection
    from ve.explain import Explanation
    from ve.foreground import Foreground
    from ve.launch import Launch, Step
    from ve.options import Changes, Options
    from ve.selftest import Verdict
    from ve.snapshot import Snapshot


class Environment(Commands, Contents):
    """A VE and its verbs; made by Host.create, Host.get and Host.list.

    Every verb takes the VE's lock (Locked after 10 seconds, naming the holder), except those that only look or run a
    command inside, which waits for a checkpoint alone.
    """

    @property
    def hostname(self) -> str:
        """What it was given as such, at its start or by set() since; of one that is stopped, at its next start."""
        from ve import outfit

        with self.init() as init:
            return str(outfit.begun_with(init[0] if init else None, self.config)["hostname"])

    @property
    def network(self) -> Connection:
        """Its interface, addresses and ports."""
        from ve.connection import Connection

        return Connection(self)

    def publish(self, *ports: str, save: bool = False) -> None:
        """Lead ports of the host to it: Connection.publish."""
        self.network.publish(*ports, save=save)

    def describe(self) -> dict[str, object]:
        """All that `ve status` shows, in its order."""
        from ve import describe

        return describe.describe(self)

    def explain(self, right: str) -> list[Explanation]:
        """Whether it has a right, what decides that and how to change it: one for each thing of that name.

        A capability, a system call, a device, a path or a profile; InvalidValue names the nearest one there is.
        """
        from ve import explain

        return explain.explain(self, right)

    # --- start and stop -----------------------------------------------------------------------------------------

    def plan(self) -> list[Step]:
        """The steps that start would take, in their order; nothing is done."""
        from ve import ids, launch

        settings = self.config
        base, *inner = ids.next_leases(self.state, self.veid, settings.rights.inner, ephemeral=self.ephemeral)
        return launch.plan(launch.Launch(self.state, settings, self.template, base, tuple(inner)))

    def start(self) -> None:
        """Start it: its init has been executed when this returns, and it runs on when this process ends.

        Running if it runs, InUse if somebody uses its mounted root, StartFailed naming the step that failed.
        """
        with self.locked():
            self._start()

    def start_foreground(self) -> Foreground:
        """Start it with a console, which is there for as long as this process; it also learns how the VE ended."""
        from ve.foreground import Foreground

        with self.locked():
            return Foreground(self, self._start(console=True, stay=True))

    def _start(self, *, console: bool = False, stay: bool = False) -> Launch:
        """Under the VE's lock."""
        from ve import ending, ids, launch

        self.refuse_ephemeral("start")
        self.refuse_running("start")
        settings, template = self.config, self.template
        self.require_private()
        if self.shown:
            self._unmount()
        ending.clear(self)
        base, *inner = ids.leases(self.state, self.veid, settings.rights.inner)
        started = launch.Launch(self.state, settings, template, base, tuple(inner), console=console, stay=stay)
        started.run()
        if settings.user_beancounters:
            # Of its ledger: it runs, and is shown them at the next look.
            with contextlib.suppress(BrokenConfig, Locked):
                self.beancounters()
        return started

    def wait_ready(self, *conditions: str | Sequence[str], timeout: float = 60.0) -> None:
        """Wait until all of these are so: "boot", "tcp:PORT", "log:REGEX", "file:PATH", "command:LINE", or an argv.

        Without any it is boot: see ve/ready.py.  NotReady, which has its log, timeout seconds later, or once it has
        ended; what runs goes on.  InvalidValue, NotRunning, also if it is frozen; NotSupported for what never comes;
        Locked if a checkpoint takes longer.
        """
        from ve import ready

        ready.wait(self, conditions, timeout)

    def stop(self, timeout: float = 60.0, fast: bool = False) -> bool:
        """Shut it down through its own init, and kill it timeout seconds later, or at once if fast.

        True if it went by itself.  A frozen one is thawed first.  NotRunning, StopFailed; NotSupported where its
        interface is in another network namespace than ours.  ActionFailed if an action script failed, InUse if its
        device is lost, or not as it was on the host: it is stopped all the same.
        """
        from ve import ending

        with self.locked(even_if_read_only=True):
            return ending.stop(self, timeout, fast)

    def restart(self, timeout: float = 60.0) -> None:
        """Stop it if it runs, then start it; nobody else can come in between."""
        from ve import ending

        with self.locked():
            self.refuse_ephemeral("restart")
            with contextlib.suppress(NotRunning):
                ending.stop(self, timeout, fast=False)
            self._start()

    def freeze(self) -> None:
        """Let none of its processes run until thaw; they keep what they have.

        Error names those that the kernel cannot stop in 10 seconds; then all go on.
        """
        from ve import cgroups, layers

        with self.locked(even_if_read_only=True), self.running("freeze"):
            layers.let_go(self)
            cgroups.freeze(self.veid, self.cgroup)

    def thaw(self) -> None:
        """Let its processes go on."""
        with self.locked(even_if_read_only=True), self.running("thaw"):
            self.cgroup.freeze(False)

    # --- its life -----------------------------------------------------------------------------------------------

    def destroy(self) -> None:
        """Remove it with all that it changed; what was mounted into it from the host stays.

        Running or Mounted if it is one of these.
        """
        from ve import ending

        with self.locked():
            self.refuse_running("destroy")
            if self.shown:
                raise Mounted(f"cannot destroy {self.veid}: it is mounted", hint=f"ve umount {self.veid}")
            ending.remove_all(self)

    def rename(self, name: str) -> None:
        """Give it another name, or none (""); Exists if another VE has that."""
        from dataclasses import replace

        with self.locked(), contextlib.ExitStack() as undo:
            settings = replace(self.config, name=name)
            before = self.state.names(self.veid)
            if name and name not in before:
                undo.callback(self.state.release_name, name, self.veid)
                self.state.claim_name(name, self.veid)
            self.save(settings)
            undo.pop_all()
            for old in before:
                if old != name:
                    self.state.release_name(old, self.veid)

    def set(self, *, save: bool = False, **options: Unpack[Changes]) -> list[str]:
        """Change what was asked for, all for good with save.

        At once of a running VE: hostname, addresses, publish, rate, delay, loss, nameservers, searchdomains and limits.
        Returns the names of those that wait for the next start, and "names: WHY" (below it perhaps "hint: CURE") where
        its own /etc could not be told of a change that has been made all the same.  What can neither change now nor is
        saved is refused with InvalidValue: nothing is accepted and then ignored.  "" takes a limit away.  Of a preset a
        running VE gets what can change now, and without save not the rest, such as numsiginfo.
        """
        from ve import settings
        from ve.options import parsed

        with self.locked():
            found = parsed(options, self.state.resolve)
            unnamed = found.get("limits", {}).keys() - options.keys() if options.get("preset") else ()
            return settings.change(self, found, save, unnamed, options.get("network"))

    # --- what it was --------------------------------------------------------------------------------------------

    def checkpoint(self, name: str = "") -> Snapshot:
        """Keep what it is now as a snapshot, under a name or as s1, s2...; it goes on as before.

        Of a stopped one that is done at once; a running one stands still while what it changed is copied, but not who
        writes to it from the host.  Exists if it has one of that name, Mounted; NotSupported if there are VEs in it, or
        with what stands in the way.
        """
        from ve import snapshot

        return snapshot.create(Environment(self.state, self.veid), name)

    def snapshots(self) -> list[Snapshot]:
        """Its snapshots, the oldest first."""
        from ve import snapshot

        return snapshot.every(Environment(self.state, self.veid))

    def snapshot(self, name: str) -> Snapshot:
        """The snapshot of this name; NotFound."""
        from ve import snapshot

        return snapshot.get(Environment(self.state, self.veid), name)

    def restore(self, name: str) -> None:
        """Be as it was at a snapshot; what it changed since is lost.  Running, Mounted, NotFound."""
        from ve import snapshot

        self.refuse_ephemeral("restore")
        snapshot.restore(self, name)

    def reset(self) -> None:
        """Be as it was when it was created; what it changed is lost, but what snapshots keep.

        One that runs is killed, and started again.  Mounted if it is.
        """
        from ve import snapshot

        self.refuse_ephemeral("reset")
        with self.locked():
            if snapshot.reset(self):
                self._start()

    def clone(self, veid: int | None = None, *, name: str = "", **options: Unpack[Options]) -> Environment:
        """Another VE with all that is in this one now, stopped, under a free number unless one is given.

        As checkpoint() and Snapshot.fork(), which says what options are for, but that no snapshot is left.
        """
        from ve import snapshot

        return snapshot.clone(Environment(self.state, self.veid), veid, {**options, "name": name})

    # --- what it uses -------------------------------------------------------------------------------------------

    def beancounters(self) -> dict[str, Beancounter]:
        """What it uses, has used and was refused, by the names of ve/beancounter.py; noted in its ledger."""
        from ve import account

        return account.beancounters([self])[self.veid]

    def reset_beancounters(self) -> None:
        """Count maxheld and failcnt from now on."""
        from ve import ledger

        self.refuse_ephemeral("reset the beancounters of")
        ledger.begin(self.state, self.veid, self.cgroup)

    # --- what it does -------------------------------------------------------------------------------------------

    def selftest(self) -> list[Verdict]:
        """Is each promise of the boundary kept in it, as it runs now?  It goes on as before.  NotRunning."""
        from ve import selftest

        with self.running("examine") as (facts, _), self._target() as target:
            return selftest.examine(self, facts, target)

    def log_chunks(self, follow: bool = False) -> Iterator[bytes]:
        """What its init wrote and, while a VE with a journal runs, that; follow goes on until the VE ends."""
        from ve import journal

        self.trim_log()
        return journal.chunks(self.log_path, self, follow)
