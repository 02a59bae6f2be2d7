"""The near side of a launch: what the process that starts a VE does itself, and how it talks to the far side.

A launch is a list: BEFORE, MEANWHILE and AFTER here, SETUP in ve/setup.py, where the conversation is drawn, and INIT in
ve/init.py.  Each step leaves its undoing on the stack of the Launch, so a failure or the caller's end takes everything
back; the VE runs from the moment that the last step has returned.
"""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

from ve import (
    actions,
    attachment,
    cgroups,
    descriptors,
    devices,
    enforce,
    farside,
    init,
    insidefile,
    interpreter,
    leading,
    log,
    mounts,
    names,
    network,
    order,
    outfit,
    protections,
    quota,
    seccomp,
    setup,
    sharedmemory,
    steps,
)
from ve._linux import syscalls
from ve.addressed import Given
from ve.amounts import UNLIMITED
from ve.errors import FULL, DiskFull, Error, InvalidValue, NotSupported, StartFailed
from ve.facilities import require
from ve.facts import Facts, boot_id, home, process_start_time
from ve.model import Config
from ve.shapes import ATTACHED
from ve.state import State
from ve.template import Template
from ve.wholefile import read_small


@dataclass(frozen=True)
class Step:
    """One line of a plan: the process that does it, the step's name, and what it is about."""

    process: str
    name: str
    text: str


@dataclass
class Launch:
    """One start, and what its steps hand on to each other.

    command is what to run under the small init in place of the template's own (None): () is nothing, so that it only
    waits.  console gives it a pty; stay keeps setup as init's parent; an ephemeral VE ends with this
    process, and has no private area on disk unless its maker has made one.
    """

    state: State
    config: Config
    template: Template
    base: int
    inner: tuple[int, ...] = ()
    command: tuple[str, ...] | None = None
    console: bool = False
    stay: bool = False
    ephemeral: bool = False
    undo: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    headroom: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    cgroup: cgroups.Cgroup = field(init=False)
    setup: interpreter.FarSide = field(init=False)
    near: socket.socket = field(init=False)
    line: socket.socket = field(init=False)
    pid: int = 0  # of init, and
    start_time: int = 0  # with it one process for ever
    terminal: int = -1  # the master of the console's pty
    given: Given = field(default_factory=Given)
    without: protections.Without = field(init=False)  # what the tests of selftest take out

    def __post_init__(self) -> None:
        self.without = protections.taken_out(os.environ.get("VE_WITHOUT", ""))

    @property
    def boots(self) -> bool:
        """Does the template's own init run, not the small one?"""
        return bool(self.template.init) and self.command is None

    def run(self) -> None:
        """Start the VE; StartFailed names the step, and nothing is left."""
        with self.undo:
            for step in (*BEFORE, *MEANWHILE, *AFTER):
                self._take(step)
            self.undo.pop_all()

    def _take(self, step: Callable[["Launch"], None]) -> None:
        if step.__name__ in self.without.steps or (step in OF_NETWORK and not self.config.is_connected):
            return
        try:
            steps.fault(os.environ.get("VE_FAULT", ""), step.__name__)
            step(self)
        except OSError as error:
            if error.errno in FULL:
                raise DiskFull(f"cannot start {self.config.veid}: {error.strerror}") from error
            self.fail(step.__name__, *steps.reason(error))
        except (InvalidValue, NotSupported) as error:
            self.fail(step.__name__, *steps.reason(error))

    def fail(self, step: str, why: str, hint: str = "", code: int = 0) -> NoReturn:
        """Raise StartFailed; code is the exit code of the error that caused it, where that is one of ours.

        What the kernel refused may be what this host lacks altogether: then that is named.
        """
        from ve import check  # only who fails asks

        if code in (0, Error.exit_code) and not hint:
            why, hint = check.explained(why, self.state.path)
            code = NotSupported.exit_code if hint else code
        error = StartFailed(f"cannot start {self.config.veid}: {step.replace('_', ' ')}: {why}", hint, step)
        error.exit_code = error.exit_code if code in (0, Error.exit_code) else code
        raise error

    def pidfd_of_setup(self) -> int:
        """Becomes readable when the VE that setup stays for has ended; for the caller to close."""
        return os.pidfd_open(self.setup.pid)

    def wait(self) -> int:
        """Of a VE whose setup stays: wait for its end and give init's wait status; once."""
        answer = self._receive(self.near)
        self.near.close()
        self.setup.wait()
        if answer[:1] != ("ENDED",):
            return signal.SIGKILL  # setup itself was killed, and an ephemeral VE with it
        return cast(int, answer[1])

    def expect(self, channel: socket.socket, kind: str) -> tuple[Any, ...]:
        answer = self._receive(channel)
        if answer[:1] == (kind,):
            return answer[1:]
        if answer[:1] != ("ERROR",):  # one has gone without a word, so the other has one
            answer = self._receive(self.near if channel is self.line else self.line)
        return self.fail(*(answer[1:] if answer[:1] == ("ERROR",) else (kind.lower(), *self._why_killed())))

    def _why_killed(self) -> tuple[str, str]:
        """And the cure, where that is known."""
        words = read_small(f"{self.cgroup.path}/memory.events").split()
        if b"oom_kill" in words and int(words[words.index(b"oom_kill") + 1]):
            return "its memory was used up before its init ran", "--memory gives it more"
        return "the launch was killed", ""

    def _receive(self, channel: socket.socket) -> tuple[Any, ...]:
        message, fds = farside.receive(channel)
        for fd in fds:
            self.terminal = fd
            self.undo.callback(os.close, fd)
        return message


# --- the steps ----------------------------------------------------------------------------------------------------


def host(launch: Launch) -> None:
    """this host has what the next steps would not miss: its own /proc, and what the profiles promise"""
    attachment.check(launch.config)
    require(launch.config)


def premount_action(launch: Launch) -> None:
    """the action script "premount\""""
    actions.run(launch.state, launch.config.veid, "premount", launch.state.root(launch.config.veid))


def cgroup(launch: Launch) -> None:
    """its cgroup, before there is a process to count"""
    launch.cgroup = cgroups.create(launch.state.tag, launch.config.veid, launch.base)
    launch.undo.callback(cgroups.remove, launch.state.tag, launch.config.veid)
    launch.undo.callback(launch.cgroup.wait_empty, 10)  # of an init that we have not heard of, or was told to end
    launch.undo.callback(launch.cgroup.kill)


def resources(launch: Launch) -> None:
    """what it may use, taken and read back; below that its root may divide it"""
    if launch.boots:
        cgroups.delegate(launch.cgroup)
    enforce.apply(launch.cgroup, outfit.asked_files(launch.config, launch.state.path), launch.config.account_only)


def device_filter(launch: Launch) -> None:
    """the devices that its processes may open"""
    given = map(devices.of, map(mounts.host_device, launch.config.devices + launch.config.rights.devices))
    devices.allow(launch.cgroup.path, outfit.may_open(given))


def disk(launch: Launch) -> None:
    """what it may keep on disk, and until its own init runs what a start needs besides"""
    if private := order.private(launch):
        outfit.limit_disk(private, launch.config)
        launch.undo.push(launch.headroom)
        launch.headroom.enter_context(quota.headroom(private))


def user_beancounters(launch: Launch) -> None:
    """where its /run/user_beancounters is written, if it shall see that"""
    if launch.config.user_beancounters:
        launch.undo.callback(insidefile.remove, launch.state, launch.config.veid)
        insidefile.prepare(launch.state, launch.config.veid, launch.base)


def setup_process(launch: Launch) -> None:
    """a small process for setup, which ends if we do"""
    launch.near, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    launch.undo.callback(launch.near.close)
    launch.line, line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    launch.undo.callback(launch.line.close)
    with contextlib.ExitStack() as ours:
        ours.callback(near.close)
        ours.callback(line.close)
        request = launch.without.change(order.request(launch, ours))
        memory = interpreter.request(request)
        ours.callback(os.close, memory)
        fds = [descriptors.above_stdio(fd, ours) for fd in (memory, near.fileno(), line.fileno())]
        null, passed = subprocess.DEVNULL, (*request["fds"], *request["leaked"])
        flags = syscalls.CLONE_NEWPID if launch.ephemeral else 0
        launch.setup = interpreter.FarSide("ve.setup", *fds, passed=passed, flags=flags, stdin=null, stdout=null)
    launch.undo.callback(launch.setup.wait)
    launch.undo.callback(launch.near.close)  # first, since setup may be waiting for us


def adopt_init(launch: Launch) -> None:
    """the pid of init, and its start time while no other process can have that pid"""
    [launch.pid] = launch.expect(launch.near, "INIT")
    launch.start_time = process_start_time(launch.pid) or launch.fail("adopt_init", "the launch was killed")


def rules(launch: Launch) -> None:
    """the rules that keep VEs to their own addresses"""
    network.have_rules()


def interface(launch: Launch) -> None:
    """its interface, and its addresses: leased for as long as it runs"""
    config = launch.config
    launch.undo.callback(leading.disconnect, launch.state, config.veid, lambda: launch.given)
    pidfd = os.pidfd_open(launch.pid)
    try:
        who = (launch.state, config.veid)
        if config.shape.kind in ATTACHED:
            launch.given = attachment.attach(
                *(*who, config.shape, config.addresses, config.gateways, pidfd, launch.pid),
                lost_ok=config.device_lost_ok,
            )
            launch.undo.callback(attachment.take_back, *who, launch.pid)
        else:
            launch.given = network.connect(*who, config.addresses, pidfd, launch.pid, ephemeral=launch.ephemeral)
    finally:
        os.close(pidfd)


def reach(launch: Launch) -> None:
    """the ports of the host that lead to it, and how fast its network goes"""
    config, given = launch.config, launch.given
    network.publish(config.veid, given, config.publish)
    network.limit(config.veid, given, vars(config))


def tell_names(launch: Launch) -> None:
    """what its resolver is to read, now that its addresses are known"""
    if launch.config.addresses:
        wanted = names.wanted(launch.config, launch.given.held(), launch.boots)
        farside.send(launch.line, "NAMES", wanted)  # where init is gone, await_init hears why


def await_root(launch: Launch) -> None:
    """wait for setup"""
    launch.expect(launch.near, "MOUNTED")


def await_init(launch: Launch) -> None:
    """wait for init"""
    launch.expect(launch.line, "READY")
    launch.headroom.close()


def facts(launch: Launch) -> None:
    """note what the kernel cannot be asked for, in the run directory"""
    import json  # only a start needs it

    veid = launch.config.veid
    facts = Facts(
        pid=launch.pid,
        start_time=launch.start_time,
        boot_id=boot_id(),
        base=launch.base,
        template=launch.template.ref,
        init=launch.template.init if launch.boots else "small",
        ephemeral=launch.ephemeral,
        maker_pid=os.getpid() if launch.ephemeral else 0,
        maker_start=process_start_time(os.getpid()) or 0 if launch.ephemeral else 0,
        extra={
            "home": home(),
            "tag": launch.state.tag,
            "filter": seccomp.name(launch.without.refusals),
            "env": json.dumps(outfit.environment(launch.config, launch.template)),
            "asked": json.dumps(outfit.asked(launch.config)),
            "rlimits": json.dumps(launch.config.resources.rlimits()),
            "logged": str(log.written(launch.state.log(veid))),
            **launch.given.noted(),
        },
    )
    launch.undo.callback(launch.state.remove_facts, veid)
    launch.state.write_facts(veid, facts)


def shared_memory(launch: Launch) -> None:
    """how many pages of System V shared memory it may have"""
    pages = launch.config.resources.limit("shmpages")
    if pages < UNLIMITED:
        sharedmemory.limit(launch.pid, launch.base, pages)


def start_action(launch: Launch) -> None:
    """the action script "start\""""
    actions.run(launch.state, launch.config.veid, "start", f"/proc/{launch.pid}/root")


def go(launch: Launch) -> None:
    """let init execute, and see that it did"""
    if not farside.send(launch.line, "GO"):
        launch.fail("execute", "init has ended")
    if answer := launch._receive(launch.line):
        launch.fail(*answer[1:])
    tells_its_end = launch.stay or launch.ephemeral
    # What is killed loses its program before the line.
    if launch.boots and not tells_its_end and not os.path.exists(f"/proc/{launch.pid}/exe"):
        launch.fail("execute", "init has ended", f"what it said: ve logs {launch.config.veid}")
    launch.line.close()
    if not tells_its_end:
        launch.setup.wait()
        launch.near.close()


BEFORE = (host, premount_action, cgroup, resources, device_filter, disk, user_beancounters, setup_process)
OF_NETWORK = (rules, interface, tell_names, reach)
MEANWHILE = (adopt_init, *OF_NETWORK, await_root, await_init)  # setup and init take the steps of their own
AFTER = (facts, shared_memory, start_action, go)


def plan(launch: Launch) -> list[Step]:
    """Every step that run() would take, in the order in which it happens; not those that only wait for another."""

    def of(process: str, steps: Iterable[Callable[..., None]]) -> list[Step]:
        return [Step(process, step.__name__, _text(launch, step)) for step in steps]

    outside = of("setup", (step for step in setup.SETUP if step.__name__ not in order.left_out(launch)))
    *inside, execute = of("init", (step for step in init.INIT if step.__name__ not in order.left_out(launch)))
    linked = of("ve", OF_NETWORK if launch.config.is_connected else ())
    return [*of("ve", BEFORE), *outside, *linked, *inside, *of("ve", AFTER), execute]


def _text(launch: Launch, step: Callable[..., None]) -> str:
    """A step's docstring, with what it is about in this launch."""
    detail = {
        "cgroup": f"{cgroups.cgroup(launch.state.tag, launch.config.veid).path}",
        "mapped_root": f"{launch.base}",
        "layers": ", ".join((launch.template.path, *launch.config.layers[::-1], order.private(launch) or "a tmpfs")),
        "given": ", ".join(map(str, launch.config.mounts)) or "nothing",
        "hostname": outfit.hostname(launch.config),
        "interface": ", ".join([str(launch.config.shape), *launch.config.addresses]),
        "reach": ", ".join([*launch.config.publish, launch.config.rate]).strip(", ") or "nothing",
        "execute": " ".join(order.argv(launch)),
    }.get(step.__name__)
    text = " ".join((step.__doc__ or "").split())
    return f"{text}: {detail}" if detail else text
