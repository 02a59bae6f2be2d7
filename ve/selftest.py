"""`ve selftest`: is each promise of ve/protections.py kept in a running VE?

A process goes in and tries to break it (ve/trials.py); what must not happen outside is looked for outside, by us.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ve import (
    addressed,
    descriptors,
    devices,
    execgroup,
    farside,
    interfaces,
    interpreter,
    leading,
    mountinfo,
    mounts,
    netdir,
    outfit,
    procfs,
    protections,
    rights,
    seccomp,
    spoofing,
    trials,
)
from ve._linux import syscalls
from ve.errand import in_a_thread
from ve.errors import Error, NotRunning, NotSupported
from ve.facts import Facts
from ve.namespaces import NAMES
from ve.polling import readable
from ve.process import Target
from ve.protections import PROTECTIONS
from ve.template import Template
from ve.victim import Victim

if TYPE_CHECKING:
    from ve.environment import Environment
    from ve.host import Host

HELD, BROKEN, GIVEN_UP = "held", "broken", "given up"
_KEY_SPEC_SESSION_KEYRING = -3  # <linux/keyctl.h>
EMPTY = ".empty"  # beside the templates: what a VE for selftest is made from
_PATIENCE = 60  # seconds for the process that tries, which takes a fraction of one
_ADDRESSES = ("203.0.113.65", "2001:db8:76::65")  # beside spoofing.STRANGERS
_WHITEOUT = (stat.S_IFCHR, 0, 0)  # no device: everybody may make one (mknod(2))
_CONSOLE = (stat.S_IFCHR, 5, 1)  # no device has less against being opened


@dataclass(frozen=True)
class Verdict:
    """A promise, what keeps it in this VE, and whether it is held, broken, or given up by what it was given; why."""

    name: str
    promise: str
    means: str
    status: str
    why: str


@contextlib.contextmanager
def ephemeral(host: Host, addresses: Sequence[str] = ()) -> Iterator[Environment]:
    """A running VE with nothing in it but the small init."""
    path = host.state.make_dir(os.path.join(host.templates.path, EMPTY))
    template = Template("selftest", 1, path, "", "nothing")
    environment = host.begin(template, {"addresses": addresses} if addresses else {}, ())
    try:
        yield environment
    finally:
        environment.end()


def examine(environment: Environment, facts: Facts, target: Target) -> list[Verdict]:
    """Try every promise in a running VE; it goes on as before."""
    subject = Subject(environment, facts, target)
    with Victim() as victim:
        answers = subject.enter(victim)
    return [subject.verdict(row, answers) for row in PROTECTIONS]


def examine_new(host: Host) -> list[Verdict]:
    """The same of a VE that is made for it.  Of addresses it has none, so with these another one is made."""
    with ephemeral(host) as environment:
        verdicts = environment.selftest()
    status, why = _addresses_here(host)
    return [replace(each, status=status, why=why) if each.name == "addresses" else each for each in verdicts]


def _addresses_here(host: Host) -> tuple[str, str]:
    try:
        why = in_a_thread(lambda: _routed(host))
    except (Error, OSError) as error:
        if isinstance(error, Error) and error.exit_code == NotSupported.exit_code:
            return GIVEN_UP, f"no VE can have any here: {error}"
        why = f"it could not be tried: {error}"
    return BROKEN if why else HELD, why


def _routed(host: Host) -> str:
    """By a thread that ends: in a network of its own; what is noted of that goes where nobody looks."""
    syscalls.unshare(syscalls.CLONE_NEWNET)
    for name in ("all", "default"):
        with contextlib.suppress(OSError), open(f"/proc/sys/net/ipv4/conf/{name}/rp_filter", "w") as file:
            file.write("0")  # the kernel's own look at sources; ours must do without
    addresses = _ADDRESSES if os.path.isdir("/proc/sys/net/ipv6") else _ADDRESSES[:1]
    with contextlib.ExitStack() as held:
        held.enter_context(netdir.elsewhere(f"/proc/self/fd/{_own_file_system(held)}"))
        environment = held.enter_context(ephemeral(host, addresses))
        facts, pidfd = held.enter_context(environment.running("examine"))
        return _sent_as_another(environment, facts, pidfd)


def _sent_as_another(environment: Environment, facts: Facts, pidfd: int) -> str:
    given = addressed.given(facts)
    if not given.interface:
        return ""
    leading.refuse_elsewhere(environment.state, environment.veid)
    mac = interfaces.mac(environment.state.tag, environment.veid)
    return spoofing.passed(pidfd, given.interface, mac, given.held())


class Subject:
    """The VE that is examined."""

    def __init__(self, environment: Environment, facts: Facts, target: Target) -> None:
        begun = outfit.begun_with(facts, environment.config)
        self.rights = rights.resolve(begun["profiles"], begun["capabilities"])
        self.given = begun["devices"]  # by --device
        self.network = begun.get("network", "")
        self.devices = [*self.given, *self.rights.devices]
        self.environment = environment
        self.facts = facts
        self.target = target
        self.pid = facts.pid
        self.outside: dict[str, str] = {}

    # --- inside

    def enter(self, victim: Victim) -> dict[str, str]:
        """Why each promise is broken, or ""; as found by the process that goes in, and by us while it is there."""
        group = execgroup.create(self.target.cgroup)
        try:
            with contextlib.ExitStack() as held:
                node = _foreign_node(held) if _CONSOLE not in self._allowed() else -1
                channel = self._start(self._request(victim, group.path), held)
                held.callback(group.kill)  # first of all: a VE may have stopped what is to end
                farside.send(channel, "GO", fds=(victim.shared.fileno(),))
                farside.send(channel, "NODE", fds=(node,) if node >= 0 else ())
                answers = self._answers(channel)
                self.outside = {name: self._look(look, victim) for name, look in OUTSIDE.items()}
                channel.shutdown(socket.SHUT_WR)  # let it take back what it made
                readable([channel.fileno()], execgroup.PATIENCE)
                if readable([self.target.pidfd], 0):
                    raise NotRunning(f"cannot examine {self.environment.veid}: it has ended meanwhile")
            return answers
        finally:
            group.kill()
            group.wait_empty(execgroup.PATIENCE)
            group.remove()

    def _answers(self, channel: socket.socket) -> dict[str, str]:
        message: tuple[Any, ...] = ("", f"the process that tries has not answered for {_PATIENCE} seconds")
        if readable([channel.fileno()], _PATIENCE):
            message, _ = farside.receive(channel)
        if message[:1] != ("ANSWERS",):
            why = message[1] if message else "the process that tries was killed"
            raise Error(f"cannot examine {self.environment.veid}: {why}")
        return dict(message[1])

    def _look(self, look: Callable[[Subject, Victim], str], victim: Victim) -> str:
        try:
            return look(self, victim)
        except (OSError, LookupError, StopIteration) as error:  # of /proc: it may be ending
            return f"it could not be looked at: {type(error).__name__}: {error}"

    def _start(self, request: dict[str, Any], held: contextlib.ExitStack) -> socket.socket:
        channel, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far, contextlib.ExitStack() as ours:
            memory = interpreter.request(request)
            ours.callback(os.close, memory)
            fds = [descriptors.above_stdio(fd, ours) for fd in (memory, far.fileno(), self.target.pidfd)]
            null = subprocess.DEVNULL
            process = interpreter.FarSide("ve.trials", *fds, stdin=null, stdout=null)
        held.callback(process.wait)
        held.enter_context(channel)  # closed first: it ends when nobody listens any more
        return channel

    def _request(self, victim: Victim, cgroup: str) -> dict[str, Any]:
        shown = mounts.protection(self.rights.proc, self.rights.sysctls, (), ())
        points = [point for _, point, _, _ in mounts.PROTECTED]
        calls = ("msgget", "msgctl", "setdomainname")
        return {
            "pid": self.pid,
            "env": {},
            "filters": self.target.filters,
            "cgroup": cgroup,
            "victim": victim.pid,
            "abstract": victim.abstract,
            "port": victim.port,
            "key": victim.key,
            "numbers": {name: seccomp.number(name) for name in calls},
            "namespaces": {name: os.readlink(f"/proc/self/ns/{name}") for name in NAMES},
            "host_pts": os.stat("/dev/pts").st_dev,
            "host_root": trials.identity("/"),
            "devices": self._allowed(),
            "locked": {path: self._mounts_at(path) for path in (*points, *shown["masked"], *shown["read_only"])},
            "masked": shown["masked"],
            "knobs": tuple(path for path in shown["read_only"] if path != "proc/sys"),
            "refusals": {f"no {row.name}": _calls(row) for row in rights.REFUSALS},
        }

    def _mounts_at(self, path: str) -> int:
        """How many: one of ours, the others on top of it are the VE's own."""
        return sum(line.point == f"/{path}" for line in mountinfo.lines(self.pid))

    def _allowed(self) -> list[devices.Device]:
        return [*outfit.may_open(filter(None, map(devices.on_host, self.devices))), _WHITEOUT]

    # --- and outside

    def verdict(self, row: protections.Protection, answers: dict[str, str]) -> Verdict:
        why = answers.get(row.name, "") or self.outside.get(row.name, "")
        status = BROKEN if why else HELD
        given_up = protections.given_up(row.name, self.rights, self.given, self.network)
        if given_up and not (why and row.name == "devices"):  # there it was tried with what was not given
            status, why = GIVEN_UP, given_up
        return Verdict(row.name, row.promise, row.means, status, why)

    def status(self, key: str) -> str:
        return procfs.status(self.pid)[key]


def _processes(subject: Subject, victim: Victim) -> str:
    if subject.status("NSpid").split()[-1] != "1":
        return "its init is not PID 1"
    return "its process sent SIGIO to one of the host" if victim.killed_by() == signal.SIGIO else ""


def _ipc(subject: Subject, victim: Victim) -> str:
    keys = [line.split()[0] for line in _read("/proc/sysvipc/msg").splitlines()[1:]]
    return "its message queue is the host's" if str(victim.key) in keys else ""


def _sockets(subject: Subject, victim: Victim) -> str:
    if victim.met(socket.AF_UNIX):
        return "an abstract socket of the host answers"
    return "the loopback interface is the host's" if victim.met(socket.AF_INET) else ""


def _addresses(subject: Subject, victim: Victim) -> str:
    return _sent_as_another(subject.environment, subject.facts, subject.target.pidfd)


def _users(subject: Subject, victim: Victim) -> str:
    for kind in ("uid", "gid"):
        for ids in procfs.host_ids(subject.pid, kind):
            if 0 in ids:
                return f"its {kind} 0 is the host's"
            if any(ids.start < other.stop and other.start < ids.stop for other in _ids_of_others(subject, kind)):
                return f"its {kind}s are those of another VE, too"
    return ""


def _ids_of_others(subject: Subject, kind: str) -> Iterator[range]:
    state = subject.environment.state
    for veid in state.veids():
        facts = state.read_facts(veid)
        if facts and facts.pid != subject.pid:
            with contextlib.suppress(OSError):
                yield from procfs.host_ids(facts.pid, kind)


def _capabilities(subject: Subject, victim: Victim) -> str:
    known = 1 << int(_read("/proc/sys/kernel/cap_last_cap")) + 1
    for key in ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"):
        if more := int(subject.status(key), 16) & (known - 1) & ~subject.rights.mask:
            names = [rights.name_of(number) for number in range(64) if more >> number & 1]
            return f"its init has {', '.join(names)} ({key})"
    return ""


def _keyring(subject: Subject, victim: Victim) -> str:
    """Its own is charged to its root; the kernel counts them by user (proc_key-users(5))."""
    owner = next((str(ids.start) for ids in procfs.host_ids(subject.pid, "uid")), "")
    users = [line.partition(":")[0].strip() for line in _read("/proc/key-users").splitlines()]
    return "its init has none of its own" if owner not in users and _has_keys() else ""


def _has_keys() -> bool:
    """Not in a VE, where the filter refuses them, nor where the kernel has none."""
    try:
        syscalls.by_number(seccomp.number("keyctl"), syscalls.KEYCTL_GET_KEYRING_ID, _KEY_SPEC_SESSION_KEYRING, 0)
    except OSError as error:
        return error.errno != errno.ENOSYS
    return True


def _descriptors(subject: Subject, victim: Victim) -> str:
    """Of init: none whose mount is one of the host's, but its log."""
    hosts = {line.number for line in mountinfo.lines()}
    log = trials.identity(subject.environment.log_path)
    for number in sorted(os.listdir(f"/proc/{subject.pid}/fd"), key=int):
        link = f"/proc/{subject.pid}/fd/{number}"
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if procfs.mount_number(number, subject.pid) in hosts and trials.identity(link) != log:
                return f"its init has {os.readlink(link)} of the host open"
    if not subject.environment.ephemeral:
        return ""  # started by who knows whom, and its init may have been executed anew: it can have ours by chance
    ours = {f"{key}={value}" for key, value in os.environ.items() if key not in subject.target.env and key != "TERM"}
    if strange := sorted(ours.intersection(_read(f"/proc/{subject.pid}/environ").split("\0"))):
        return f"its init has {strange[0]} of the host's environment"
    return ""


OUTSIDE: dict[str, Callable[[Subject, Victim], str]] = {
    "processes": _processes,
    "sockets": _sockets,
    "addresses": _addresses,
    "ipc": _ipc,
    "users": _users,
    "capabilities": _capabilities,
    "keyring": _keyring,
    "descriptors": _descriptors,
}


def _calls(row: rights.Refusal) -> tuple[str, tuple[tuple[str, int, tuple[int, int] | None], ...]]:
    known = ((call, seccomp.number(call), row.argument) for call in row.syscalls)
    return row.error, tuple(each for each in known if each[1] >= 0)


def _foreign_node(held: contextlib.ExitStack) -> int:
    """A device node that only the host's root can have made, on a file system that nobody but us has; -1 if none can.

    Not in the VE's /dev: its root could put a link in its place, and we would follow that.
    """
    try:
        where = _own_file_system(held)
        os.mknod("node", 0o666 | _CONSOLE[0], os.makedev(*_CONSOLE[1:]), dir_fd=where)
        os.chmod("node", 0o666, dir_fd=where)  # mknod went through the umask
    except PermissionError:  # we are in a VE ourselves, and nobody here can make one
        return -1
    return where


def _own_file_system(held: contextlib.ExitStack) -> int:
    """One that nobody else has, and that goes with us."""
    fs = syscalls.fsopen("tmpfs")
    held.callback(os.close, fs)
    syscalls.fsconfig(fs, syscalls.FSCONFIG_CMD_CREATE)
    where = syscalls.fsmount(fs)
    held.callback(os.close, where)
    return where


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            return file.read()
    except FileNotFoundError:
        return ""
