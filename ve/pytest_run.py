"""The VEs of one process of pytest: where they are, whether there can be any, and how each is made and ended.

They live for this process (Host.ephemeral), so that nothing outlives it.  Only those that shall be there after a
failure are made to stay; what tells whose they are is their description, by which a later run ends those of one that
was killed.  What a user sees of all this is in ve/pytest_plugin.py.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import stat
from typing import TYPE_CHECKING, Any

from ve import ending, lock, pytest_report, traffic
from ve.errors import (
    Error,
    Exists,
    InvalidValue,
    NotFound,
    NotRoot,
    NotRunning,
    NotSupported,
    TemplateNotFound,
    nearest,
    require_root,
)
from ve.host import Host
from ve.instance import Instance
from ve.options import Common
from ve.pytest_shared import OWNER, Shared, is_gone, owner, remove_orphans
from ve.veid import EPHEMERAL_VEIDS, TEST_VEIDS, any_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ve.environment import Environment
    from ve.snapshot import Snapshot

    Prepare = Callable[[Environment], object]

BUILT = "busybox"  # the template that is built where it is missing
_BUILDING = 600.0  # seconds for another process to build it
_OWN = ("template", "command", "ready", "ready_timeout")  # what a VE can be given here, beside what any may be
_PREPARED = "prepared"  # the snapshot of one that others begin as
_OF, _KEPT = "of pytest ", "kept by pytest: "  # descriptions of those that stay: until its end, or until somebody's
_READY = 60.0  # seconds until one is ready
_NOT_HERE = (NotRoot.exit_code, NotSupported.exit_code)  # of what says that this host can have no VE, not just not this


def checked(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a VE is to be given, each of it something that one can be; InvalidValue names where it was asked for."""
    known = {*_OWN, *Common.__annotations__}
    for name in given:
        if name not in known:
            raise InvalidValue(f"cannot use {where}: there is no option {name}", nearest(name, sorted(known)))
    if (ready := given.get("ready")) is not None and not isinstance(ready, (str, list, tuple)):
        raise InvalidValue(f"cannot use {where}: ready is {ready!r}, and neither a condition nor a list of them")
    return dict(given)


def together(*given: Mapping[str, Any]) -> dict[str, Any]:
    """What a VE is given in all, the last one first; None takes back what the others gave."""
    found: dict[str, Any] = {}
    for each in given:
        found |= each
    return {name: value for name, value in found.items() if value is not None}


class Run:
    """What all tests of this process share."""

    def __init__(self, state_dir: str, template: str, *, leader: int, keep: bool) -> None:
        """leader: the process that gives this one its tests, which may be itself."""
        self._state_dir = state_dir
        self._template = template
        self._leader = leader
        self._keep = keep
        self._refusal: str | None = None
        self._prepared: dict[str, Snapshot | Exception] = {}

    @functools.cached_property
    def host(self) -> Host:
        """The Host that they are on; its state dir is made, and rid of what runs that were killed have left."""
        host = Host(_safe_directory(self._state_dir))
        _remove_orphans(host)
        return host

    @functools.cached_property
    def shared(self) -> Shared:
        """The VEs that it has together with other workers."""
        return Shared(os.path.join(_own_directory(self.host), owner(self._leader)))

    def refusal(self, template: str) -> str:
        """Why there can be no VE here, or "": found once, by trying.  Any other error says no more than that."""
        if self._refusal is None:
            try:
                require_root("cannot make a VE")
                self._have(template)
                with self.host.ephemeral(template, command=()):
                    self._refusal = ""
            except Error as error:
                if error.exit_code not in _NOT_HERE:
                    raise
                why = re.sub(r"\b\d{10}\b", _unnumbered, str(error))
                self._refusal = f"no VE can run here: {why}" + (f" (hint: {error.hint})" if error.hint else "")
        return self._refusal

    def template(self, options: Mapping[str, Any]) -> str:
        return str(options.get("template") or self._template)

    @contextlib.contextmanager
    def running(
        self, options: Mapping[str, Any], of: str | Snapshot, *, on_disk: bool = False
    ) -> Iterator[Environment]:
        """A VE with what checked() gave, made from of, that is ready, and runs as long as the block does.

        on_disk: so that it can be checkpointed; such a one never stays.
        """
        rest = {name: value for name, value in options.items() if name not in _OWN}
        command = options.get("command")
        if isinstance(of, str):
            self._have(of)
        stays = self._keep and command is None and not on_disk  # which has the init of its template
        made = self._staying(of, rest) if stays else self.host.ephemeral(of, command=command, on_disk=on_disk, **rest)
        with made as environment:
            if ready := options.get("ready"):
                conditions = (ready,) if isinstance(ready, str) else ready
                with _telling_of(environment):
                    environment.wait_ready(*conditions, timeout=options.get("ready_timeout", _READY))
            yield environment

    def prepared(self, prepare: Prepare, options: Mapping[str, Any]) -> Snapshot:
        """What a VE was after prepare(it), which is called once for all workers.

        What it raises is raised again to who asks again; other workers call it anew.
        """
        template = self.template(options)
        named = f"{_named(prepare)} {template} {sorted(options.items())!r}"
        key = f"{_PREPARED}-{hashlib.sha256(named.encode()).hexdigest()[:16]}"

        def make(stack: contextlib.ExitStack) -> str:
            environment = stack.enter_context(self.running(options, template, on_disk=True))
            with _telling_of(environment):
                prepare(environment)
                environment.stop()
                environment.checkpoint(_PREPARED)
            return str(environment.veid)

        if key not in self._prepared:
            try:
                self._prepared[key] = self.host.get(int(self.shared.take(key, make))).snapshot(_PREPARED)
            except Exception as error:
                self._prepared[key] = error
        if isinstance(found := self._prepared[key], Exception):
            raise found
        return found

    def shared_session(self, making: Callable[[], contextlib.AbstractContextManager[Environment]]) -> Environment:
        """One for all workers of this run, made by the first that wants it, until the last of them ends."""
        veid = self.shared.take("session", lambda stack: str(stack.enter_context(making()).veid))
        return self.host.get(int(veid))

    def close(self) -> None:
        if "shared" in vars(self):
            self.shared.close()
        if "host" in vars(self):
            with contextlib.suppress(Error, OSError):  # those counts are in nobody's way
                traffic.sweep()

    def keep(self, environment: Environment, test: str) -> bool:
        """Let it stay after its block, with the test's name as its description; whether it does."""
        if environment.ephemeral:
            return False
        environment.set(description=f"{_KEPT}{test}", save=True)
        return True

    def _have(self, template: str) -> None:
        """Build it, if it is the one that we build; TemplateNotFound says where we looked."""
        try:
            self.host.templates.get(template)
        except TemplateNotFound as error:
            if template != BUILT:
                path = self.host.state.path
                hint = f"ve --state-dir {path} template list shows what there is; --ve-state-dir takes another"
                raise TemplateNotFound(f"{error} (in {path})", hint) from None
            self._build()

    def _build(self) -> None:
        """Alone among the workers of all runs."""
        path = os.path.join(_own_directory(self.host), "build")
        with lock.released(lock.acquire(path, f"template {BUILT}", _BUILDING)):
            if BUILT not in (each.name for each in self.host.templates.list()):
                self.host.templates.build(BUILT)

    @contextlib.contextmanager
    def _staying(self, of: str | Snapshot, options: dict[str, Any]) -> Iterator[Environment]:
        environment = self._create(of, {**options, "description": _OF + owner(os.getpid())})
        try:
            environment.start()
            yield environment
        finally:
            with contextlib.suppress(NotFound):  # its test has destroyed it
                if not environment.config.description.startswith(_KEPT):  # by any worker that has it
                    _remove(environment)

    def _create(self, of: str | Snapshot, options: dict[str, Any]) -> Environment:
        """Under a number that nobody has."""
        while True:
            veid = any_of(TEST_VEIDS)
            with contextlib.suppress(Exists), _noted(self.host, veid):
                if isinstance(of, str):
                    return self.host.create(veid, template=of, **options)
                return of.fork(veid=veid, **options)[0]


class Factory:
    """Gives running VEs; close() ends all of them, the last one first."""

    def __init__(self, run: Run, given: Mapping[str, Any], marked: Mapping[str, Any], prepare: Prepare | None) -> None:
        """given: what each VE is, and the one that prepare() is called with; marked: what the test wants besides."""
        self._run = run
        self._given = given
        self._marked = marked
        self._prepare = prepare
        self._stack = contextlib.ExitStack()
        self.made: list[Environment] = []
        self.close: Callable[[], None] = self._stack.close

    def __call__(self, template: str | None = None, **options: Any) -> Environment:
        """A running VE, with what the test's marker says and this besides or instead."""
        try:
            named = {} if template is None else {"template": template}
            self.made.append(self._stack.enter_context(self.making(**named, **options)))
        except Error as error:
            if error.hint:
                error.add_note(f"hint: {error.hint}")  # pytest shows notes below the traceback
            raise
        return self.made[-1]

    def making(self, **options: Any) -> contextlib.AbstractContextManager[Environment]:
        """The same as a block, at whose end it ends."""
        wanted = together(self._given, self._marked, checked(options, "ve_factory()"))
        of: str | Snapshot = self._run.template(wanted)
        if self._prepare:
            of = self._run.prepared(self._prepare, together(self._given, {"template": of}))
        return self._run.running(wanted, of)


def _named(prepare: Callable[..., object]) -> str:
    """What tells it from others, the same in each worker: two conftest.py without a package are one module by name."""
    if isinstance(prepare, functools.partial):
        return f"{_named(prepare.func)} {prepare.args!r} {sorted(prepare.keywords.items())!r}"
    code = getattr(prepare, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(prepare)


def _unnumbered(found: re.Match[str]) -> str:
    """The same of each process, so that it is said once."""
    return "a VE" if int(found[0]) in EPHEMERAL_VEIDS else found[0]


@contextlib.contextmanager
def _telling_of(environment: Environment) -> Iterator[None]:
    """Add state and log of a VE to an error: pytest shows them below it, when the VE is gone."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{pytest_report.title(environment)}, as it was then: {pytest_report.text(environment)}")
        raise


def _safe_directory(path: str) -> str:
    """Make it if need be: one that nobody but us can write to, as its place may be such that anybody can."""
    with contextlib.suppress(FileExistsError):
        os.makedirs(path, mode=0o711)
    about = os.lstat(path)
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o022:
        why = "it is not a directory that is ours and that nobody else can write to"
        raise InvalidValue(f"cannot use state dir {path}: {why}", "remove it, or take another with --ve-state-dir")
    return path


def _own_directory(host: Host) -> str:
    return host.state.make_dir(os.path.join(host.state.run_dir, "pytest"))


def _remove_orphans(host: Host) -> None:
    """End the VEs of runs that were killed; what cannot be ended now is no reason for a test to fail."""
    remove_orphans(_own_directory(host))
    _remove_half_made(host)
    for environment in host.list():
        with contextlib.suppress(Error, OSError):
            whose = re.fullmatch(f"{_OF}({OWNER})", environment.config.description)
            if whose and is_gone(whose[1]):
                _remove(environment)


@contextlib.contextmanager
def _noted(host: Host, veid: int) -> Iterator[None]:
    """Until it has a conf file, nothing but its number says of what is on disk whose it is, should we be killed."""
    note = os.path.join(_own_directory(host), f"{owner(os.getpid())}.{veid}")
    os.close(os.open(note, os.O_CREAT | os.O_CLOEXEC, 0o600))
    try:
        yield
    finally:
        os.unlink(note)


def _remove_half_made(host: Host) -> None:
    directory = _own_directory(host)
    for name in os.listdir(directory):
        noted = re.fullmatch(f"({OWNER})[.]([0-9]+)", name)
        if noted and is_gone(noted[1]):
            with contextlib.suppress(Error, OSError), host.state.lock(veid := int(noted[2]), 0):
                if not host.state.exists(veid):
                    ending.remove_all(Instance(host.state, veid))
                os.unlink(os.path.join(directory, name))


def _remove(environment: Environment) -> None:
    with contextlib.suppress(NotRunning):
        environment.stop(fast=True)
    environment.destroy()
