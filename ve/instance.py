"""A VE as the files and the kernel have it: what is true of it now.

Imported are the rooms that every question needs; each of the others, where it is asked.
"""

from __future__ import annotations

import contextlib
import os

from ve import cgroups, log, mountinfo
from ve.errors import BrokenConfig, Error, Locked, NotFound, NotMounted, NotRunning, NotSupported, Running
from ve.facts import ended, home, init_pidfd, process_start_time
from ve.wholefile import read_small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ve.facts import Facts
    from ve.files import Place
    from ve.firewall import Traffic
    from ve.model import Config, Status
    from ve.quota import Held
    from ve.state import State
    from ve.template import Template

_DYING = 5.0  # seconds for the kernel to end what has nothing left to live for, which takes long only where it hangs


class Instance:
    """One VE, by its VEID.  It holds nothing: each question is put to the files or the kernel when it is asked."""

    def __init__(self, state: State, veid: int) -> None:
        self.state = state
        self.veid = veid
        self._known: dict[str, Any] | None = None  # in the block of asked_once()

    def __repr__(self) -> str:
        return f"<ve.{type(self).__name__} {self.veid} {self.status}>"

    # --- what was asked for

    @property
    def config(self) -> Config:
        """What was asked for; BrokenConfig if that cannot be read, NotFound if the VE is no more."""
        from ve import config

        if self._known and "config" in self._known:
            known: Config = self._known["config"]
            return known
        path = self.state.conf_of(self.veid)
        if path is None:
            raise self._gone()
        found = config.load(path, self.veid)
        if self._known is not None:
            self._known["config"] = found
        return found

    @property
    def name(self) -> str:
        names = self.state.names(self.veid)
        if len(names) > 1:  # a rename was killed half way: its conf file says how far it came
            with contextlib.suppress(BrokenConfig, NotFound):
                names.sort(key=lambda name: name != self.config.name)
        return names[0] if names else ""

    @property
    def ephemeral(self) -> bool:
        return os.path.exists(self.state.conf(self.veid, ephemeral=True))

    @property
    def template(self) -> Template:
        """The version that it was created from; TemplateNotFound if somebody removed that by hand."""
        from ve.template import Shelf

        return Shelf(self.state.template_dir).get(self.config.template)

    def save(self, settings: Config) -> None:
        """Write what was asked for, whole; under the VE's lock."""
        from ve import config

        self.state.write_conf(self.veid, config.dump(settings), ephemeral=self.ephemeral)

    # --- what is

    @property
    def status(self) -> Status:
        """Asked of the kernel."""
        with self.init() as init:
            return self.status_of(init)

    def status_of(self, init: tuple[Facts, int] | None) -> Status:
        """The same, for who has asked init()."""
        from ve.model import Status

        if init:
            return Status.FROZEN if self.frozen else Status.RUNNING
        return Status.MOUNTED if self.shown else Status.STOPPED

    @property
    def frozen(self) -> bool:
        """Do its processes stand still?  They go on where that was for a checkpoint which was killed."""
        if not self.cgroup.frozen():
            return False
        from ve import layers

        # Who makes the next one has the lock.
        with contextlib.suppress(Locked), self.state.lock(self.veid, 0, even_if_read_only=True):
            return not layers.let_go(self)
        return True

    @property
    def pid(self) -> int | None:
        """The host's pid of its init; None if it does not run."""
        with self.init() as init:
            return init[0].pid if init else None

    @property
    def addresses(self) -> list[str]:
        """Those that it has while it runs; of another, those that it was given for good."""
        from ve import addressed

        with self.init() as init:
            return addressed.addresses(init[0] if init else None, () if init else self.config.addresses)

    @property
    def traffic(self) -> Traffic:
        """What it has sent and received since it was made, over its restarts: bytes and packets."""
        from ve import traffic

        with self.init() as init:
            return traffic.total(self.state, self.veid, init[0] if init else None)

    @property
    def log_path(self) -> str:
        """Of one that is thrown away, in the run directory."""
        return self.state.log(self.veid, ephemeral=self.ephemeral)

    @property
    def cgroup(self) -> cgroups.Cgroup:
        return cgroups.cgroup(self.state.tag, self.veid)

    @property
    def shown(self) -> bool:
        """Is its root shown to the host?"""
        return mountinfo.is_point(self.state.root(self.veid))

    @contextlib.contextmanager
    def asked_once(self) -> Iterator[None]:
        """In the block, what config and init() tell is asked once, by who is alone with this object."""
        with contextlib.ExitStack() as held:
            self._known = {"held": held}
            held.callback(setattr, self, "_known", None)
            yield

    @contextlib.contextmanager
    def init(self) -> Iterator[tuple[Facts, int] | None]:
        """The facts of the running VE and a pidfd of its init, or None.  Every verb asks, so its log is cut here."""
        if self._known is None:
            with self._init() as init:
                yield init
            return
        if "init" not in self._known:
            self._known["init"] = self._known["held"].enter_context(self._init())
        yield self._known["init"]

    @contextlib.contextmanager
    def _init(self) -> Iterator[tuple[Facts, int] | None]:
        self.trim_log()
        facts = self.state.read_facts(self.veid)
        pidfd = init_pidfd(facts) if facts else None
        if facts and pidfd is None and facts.extra.get("home", home()) != home() and self.cgroup.populated():
            raise NotSupported(
                f"cannot look at {self.veid}: it runs, but was started in another PID or time namespace than ours",
                hint="run ve there",
            )
        try:
            yield (facts, pidfd) if facts and pidfd is not None else None
        finally:
            if pidfd is not None:
                os.close(pidfd)

    @contextlib.contextmanager
    def running(self, verb: str) -> Iterator[tuple[Facts, int]]:
        """The same of a VE that must run: NotRunning."""
        with self.init() as init:
            if init is None:
                self.refuse_unknown()
                hint = "ve list shows which run" if verb == "stop" else f"ve start {self.veid}"
                raise NotRunning(f"cannot {verb} {self.veid}: it is not running", hint)
            yield init

    def refuse_running(self, verb: str) -> None:
        """Under its lock: so an init that still waits for its launch waits for one that was killed, and ends."""
        with self.init() as init:
            if init and not (_waits(init[0].pid) and ended(init[1], _DYING)):
                cure = "restart" if verb == "start" else "stop"
                raise Running(f"cannot {verb} {self.veid}: it is running", hint=f"ve {cure} {self.veid}")

    def refuse_frozen(self, verb: str, patience: float = 10.0) -> None:
        """NotRunning until somebody thaws it; a checkpoint is waited for: Locked after patience seconds."""
        while self.frozen:
            from ve import layers

            if not layers.stands_still(self) and self.cgroup.frozen():
                raise NotRunning(f"cannot {verb} {self.veid}: it is frozen", hint=f"ve thaw {self.veid}")
            with self.locked(patience, even_if_read_only=True):
                layers.let_go(self)

    def refuse_unknown(self) -> None:
        """NotSupported if something of it runs, and who its init is cannot be read: nobody ends that unasked."""
        try:
            self.state.check_facts(self.veid)
        except BrokenConfig as error:
            if self.cgroup.populated():
                cure = f"to end what runs of it, remove {self.state.facts(self.veid)}, then ve doctor --fix"
                raise NotSupported(f"cannot tell who the init of {self.veid} is: {error}", error.hint or cure) from None

    def refuse_ephemeral(self, verb: str) -> None:
        if self.ephemeral:
            raise NotSupported(f"cannot {verb} {self.veid}: it is ephemeral, nothing of it is on disk")

    @contextlib.contextmanager
    def locked(self, timeout: float = 10.0, *, even_if_read_only: bool = False) -> Iterator[None]:
        """Hold the VE alone; NotFound if it was destroyed while we waited, Locked after timeout seconds.

        even_if_read_only: see State.lock.
        """
        with self.state.lock(self.veid, timeout, even_if_read_only=even_if_read_only):
            if not self.state.exists(self.veid):
                with contextlib.suppress(OSError):  # its disk may be read-only by now
                    self.state.remove_lock(self.veid)
                raise self._gone()
            self.refuse_unknown()
            yield

    def _gone(self) -> NotFound:
        return NotFound(f"cannot find VE {self.veid}: there is none", hint="ve list shows all")

    # --- its files

    def require_private(self) -> str:
        """Its private area, with all that an overlay needs and nothing unfinished; NotFound if that or a layer is gone.

        Under its lock.
        """
        from ve import layers, looparea

        private, config = self.state.private(self.veid), self.config
        if config.unfinished:
            layers.finish(self, config, self.template.path)
        layers.require(self.state, self.veid, config.layers)
        if looparea.exists(private):
            return private
        if not os.path.isdir(f"{private}/upper"):
            raise NotFound(f"cannot use {self.veid}: its private area {private} is gone")
        with contextlib.suppress(FileExistsError):  # a backup does not have it
            os.mkdir(f"{private}/work", 0o700)
        return private

    def stopped_root(self) -> int:
        """Its root, while it does not run, as a mount in no mount table; for the caller to close.  Under its lock."""
        from ve import looparea, quota, stopped, unionfs

        private = self.require_private()
        *stack, template = below = (*map(self.state.layer, self.config.layers), self.template.path)
        area = looparea.exists(private)
        with contextlib.nullcontext() if area else quota.headroom(private):
            if area or stack:
                return stopped.root(below, private, self.state.scratch())
            return unionfs.Overlay(template, f"{private}/upper", f"{private}/work").detached()

    @contextlib.contextmanager
    def top(self) -> Iterator[str]:
        """A path to where its upper and overlayfs's scratch are, whether it runs or not."""
        from ve import looparea

        private = self.state.private(self.veid)
        if not looparea.exists(private):
            yield private
            return
        area = looparea.mount(private)
        try:
            yield f"/proc/self/fd/{area}"
        finally:
            os.close(area)

    @contextlib.contextmanager
    def place(self) -> Iterator[Place]:
        """Where its files are now: in the running VE, in its mounted root, or in an overlay for the moment.

        A VE that does not run stays locked as long, since its upper may not be in two overlays.
        """
        from ve import show
        from ve.files import Place

        with contextlib.ExitStack() as held:
            init, lock = held.enter_context(self.init()), held.enter_context(contextlib.ExitStack())
            if init is None:
                lock.enter_context(self.locked())
                init = held.enter_context(self.init())  # somebody may have started it while we waited
            if init:
                lock.close()
                yield Place(self.veid, pidfd=init[1])
                return
            if self.shown and show.is_clone(self.state.root(self.veid)):
                self.hide()  # what a running VE was shown by, read only; it has ended since
            if self.shown:
                root = os.open(self.state.root(self.veid), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            else:
                root = self.stopped_root()
            held.callback(os.close, root)
            yield Place(self.veid, rootfd=root)

    def is_left(self) -> bool:
        """Is it ephemeral and its maker gone, and with that its init?  One without facts never ran in this boot.

        An init whose maker has just gone is about to go, too, and waited for.  Also one that a reboot has ended.
        """
        if not self.ephemeral:
            return self.state.is_nobodys(self.veid)
        with self.init() as init:
            facts = init[0] if init else self.state.read_facts(self.veid)
            if facts and process_start_time(facts.maker_pid) == facts.maker_start:
                return False
            return init is None or ended(init[1], _DYING)

    def disk(self) -> Held | None:
        """What is counted of its private area, and what it may have; None where nobody counts, as in memory."""
        from ve import looparea, quota
        from ve.amounts import UNLIMITED

        private = self.state.private(self.veid)
        if looparea.exists(private):
            taken, size = looparea.held(private)
            return quota.Held(taken, None, size, UNLIMITED)
        return quota.held(private)

    def hide(self) -> None:
        """No longer show its root to the host; NotMounted, InUse.  Under the VE's lock."""
        from ve import show

        if not self.shown:
            raise NotMounted(f"cannot unmount {self.veid}: it is not mounted")
        show.hide(self.veid, self.state.root(self.veid))

    def trim_log(self) -> None:
        with contextlib.suppress(OSError, Error):  # a log that cannot be cut keeps nobody from stop or destroy
            log.trim(self.log_path)


def _waits(pid: int) -> bool:
    """Is it an init that waits for the end of its launch?"""
    from ve import farside

    return read_small(f"/proc/{pid}/comm").rstrip() == farside.WAITING
