"""What a VE's root may do, as tables: capabilities, refused system calls, and the profiles that choose among them.

A VE has every capability but those of ANNOUNCED, and every system call but those of REFUSALS; profiles give some of it
back, or take more.  What a VE got is resolve()'s answer, and each right in it can be traced to its row.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from ve.errors import InvalidValue

# capabilities(7), each at its number.  What a later kernel adds has no name here, and no VE gets it.
CAPABILITIES = (
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap"),
    *("linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw", "ipc_lock", "ipc_owner"),
    *("sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct", "sys_admin", "sys_boot", "sys_nice"),
    *("sys_resource", "sys_time", "sys_tty_config", "mknod", "lease", "audit_write", "audit_control", "setfcap"),
    *("mac_override", "mac_admin", "syslog", "wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf"),
    "checkpoint_restore",
)
# What the announcement takes from root.  Its NET_NICE is no Linux capability; SYS_NICE is what it can have meant.
ANNOUNCED = ("sys_module", "sys_rawio", "sys_time", "net_admin", "sys_nice")


class Refusal(NamedTuple):
    """System calls that a VE is refused, and why.

    The error is ENOSYS where programs know to do without, else one that the kernel itself does not give there, so that
    it shows who has refused.
    """

    name: str
    why: str
    error: str
    syscalls: tuple[str, ...]
    argument: tuple[int, int] | None = None  # refused only where the argument of this number, from 0, has this value,
    only: str = ""  # which has this name

    @property
    def calls(self) -> str:
        return ", ".join(self.syscalls) + (f" ({self.only})" if self.only else "")


REFUSALS = (
    Refusal("modules", "they are the kernel of all VEs", "EACCES", ("init_module", "finit_module", "delete_module")),
    Refusal("kexec", "it starts another kernel", "EACCES", ("kexec_load", "kexec_file_load")),
    Refusal("log", "it reads the host's kernel log, which dmesg_restrict=0 leaves to all", "EACCES", ("syslog",)),
    Refusal("bpf", "it puts programs into the kernel", "EACCES", ("bpf",)),
    Refusal("perf", "it watches what is not the VE's", "EACCES", ("perf_event_open", "lookup_dcookie")),
    Refusal(
        "io_uring", "no filter sees its calls", "ENOSYS", ("io_uring_setup", "io_uring_enter", "io_uring_register")
    ),
    Refusal("userfaultfd", "it holds the kernel up in the middle of a copy", "EACCES", ("userfaultfd",)),
    Refusal("keys", "no namespace keeps keyrings apart", "ENOSYS", ("add_key", "keyctl", "request_key")),
    Refusal("handles", "it opens files by number, outside the VE's root too", "EACCES", ("open_by_handle_at",)),
    Refusal(
        "vsock",
        "no namespace keeps its addresses apart: the hypervisor is one",
        "EACCES",
        ("socket",),
        (0, 40),
        "AF_VSOCK",
    ),
    Refusal(
        "qrtr",
        "no namespace keeps its addresses apart: VEs and the host meet",
        "EACCES",
        ("socket",),
        (0, 42),
        "AF_QIPCRTR",
    ),
    Refusal(
        "signals", "it chooses what another's process is sent", "EACCES", ("fcntl", "fcntl64"), (1, 10), "F_SETSIG"
    ),
    Refusal("aio", "the host has so many contexts for all: one VE could take them", "ENOSYS", ("io_setup",)),
)


SYSCTLS_OF_IPC = ("shmmax", "shmall", "shmmni", "msgmax", "msgmnb", "msgmni", "sem")  # sysvipc(7)


class Profile(NamedTuple):
    """A row of PROFILES: what it changes."""

    name: str
    text: str
    grants: tuple[str, ...] = ()  # capabilities
    devices: tuple[str, ...] = ()
    proc: str = ""  # "read only" or "whole"; otherwise what is about the host is masked or read only
    no_new_privs: bool = False
    user_namespaces: bool = True
    sysctls: tuple[str, ...] = ()  # below /proc/sys; those that the VE's own namespaces have, and may be written
    inner: int = 0  # ranges of ids that it has beside its own, for VEs in it
    loses: str = ""  # what a VE that has it does without


_UNMASKED = "the masks and protections of /proc and /sys: its root can raise shmall, the limit of shmpages"

PROFILES = (
    Profile("default", "a machine's root, less what the announcement and today's attacks take from it"),
    Profile(
        *("announcement", "the announcement to the letter: all of /proc is read only"),
        proc="read only",
        loses="programs that write to /proc, such as to their own oom_score_adj",
    ),
    Profile(
        *("strict", "for code that nobody has read: no setuid program gains rights, no user namespace can be made"),
        no_new_privs=True,
        user_namespaces=False,
        loses="sudo, su and what else is setuid, and programs that make a sandbox for themselves",
    ),
    Profile(
        *("nesting", "VEs in this VE: ids and a state dir for them, and /proc is whole, so that they may mount one"),
        grants=("net_admin", "sys_time"),  # the latter sets the clocks of a new time namespace, and no others
        proc="whole",
        inner=32,
        loses=_UNMASKED,
    ),
    Profile(
        *("docker", "Docker, Podman and their like in this VE"),
        grants=("net_admin",),
        devices=("/dev/fuse",),
        proc="whole",
        loses=_UNMASKED,
    ),
    Profile(
        *("fuse", "file systems in user space"),
        devices=("/dev/fuse",),
        loses="the distance to the kernel's FUSE code",
    ),
    Profile(
        *("tun", "tunnels, such as VPNs"),
        grants=("net_admin",),
        devices=("/dev/net/tun",),
        loses="the distance to the kernel's code that configures networks",
    ),
    Profile(
        *("sysctl", "sysctls of the VE's own IPC and network namespaces can be written, the latter with net_admin"),
        sysctls=("net", "fs/mqueue", *(f"kernel/{name}" for name in SYSCTLS_OF_IPC)),
        loses="the limit of shmpages: its root can raise shmall",
    ),
)


# Of two profiles: what the one is, what the other, and why they cannot be one VE's.
_CONTRADICTIONS: tuple[tuple[Callable[[Profile], bool], Callable[[Profile], bool], str], ...] = (
    (
        lambda row: row.proc == "read only",
        lambda row: row.proc == "whole" or bool(row.sysctls),
        "all of /proc is read only in the one, and can be written in the other",
    ),
    (
        lambda row: not row.user_namespaces,
        lambda row: row.proc == "whole",
        "no user namespace can be made in the one, and the other is for what makes them",
    ),
)


class Rights(NamedTuple):
    """What one VE got."""

    profiles: tuple[str, ...]
    capabilities: frozenset[str]
    devices: tuple[str, ...]
    proc: str
    no_new_privs: bool
    user_namespaces: bool
    sysctls: tuple[str, ...]
    inner: int

    @property
    def mask(self) -> int:
        """Its capabilities as the kernel writes them: a bit each."""
        return sum(1 << number for number, name in enumerate(CAPABILITIES) if name in self.capabilities)


def resolve(profiles: Iterable[str], capabilities: Mapping[str, str]) -> Rights:
    """The rights of a VE with these profiles, and with these capabilities "on" or "off" whatever the profiles say.

    InvalidValue names the nearest known one, or two profiles that contradict each other.
    """
    rows = [profile(name) for name in profiles or ("default",)]
    for row, other in itertools.permutations(rows, 2):
        if why := next((why for one, another, why in _CONTRADICTIONS if one(row) and another(other)), ""):
            raise InvalidValue(f"cannot combine profiles {row.name} and {other.name}: {why}")
    held = set(CAPABILITIES) - set(ANNOUNCED) | {name for row in rows for name in row.grants}
    for name, switch in capabilities.items():
        known = capability(name)
        if switch not in ("on", "off"):
            hint = f"--capability {name}:on, or --capability {name}:off"
            raise InvalidValue(f"cannot set capability {name} to {switch!r}: it is on or off", hint)
        (held.add if switch == "on" else held.discard)(known)
    return Rights(
        tuple(row.name for row in rows),
        frozenset(held),
        tuple(dict.fromkeys(device for row in rows for device in row.devices)),
        next((row.proc for row in rows if row.proc), ""),
        any(row.no_new_privs for row in rows),
        all(row.user_namespaces for row in rows),
        tuple(dict.fromkeys(name for row in rows for name in row.sysctls)),
        max(row.inner for row in rows),
    )


def profile(name: str) -> Profile:
    """The row of this name; InvalidValue names the nearest one."""
    rows = {row.name: row for row in PROFILES}
    if name not in rows:
        each = name.split(",")
        hint = did_you_mean(name, rows) if len(each) < 2 else f"each has its own: --profile {' --profile '.join(each)}"
        raise InvalidValue(f"cannot use profile {name!r}: there is none", hint)
    return rows[name]


def capability(name: str) -> str:
    """The name, as in CAPABILITIES; InvalidValue names the nearest one."""
    if name not in CAPABILITIES:
        hint = did_you_mean(name.lower().removeprefix("cap_"), CAPABILITIES)
        raise InvalidValue(f"cannot use capability {name!r}: there is none", hint)
    return name


def name_of(number: int) -> str:
    """Of a capability, as the kernel writes it; of one that we do not know, its number."""
    return f"CAP_{CAPABILITIES[number].upper()}" if number < len(CAPABILITIES) else f"capability {number}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The hint for a name that is none of those known."""
    near = nearest(name, known)
    return f"did you mean {near}?" if near else f"there are {', '.join(known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of these names that can be meant by this one, or nothing."""
    import difflib  # only who mistypes pays for it

    return next(iter(difflib.get_close_matches(name, list(known), 1)), "")
