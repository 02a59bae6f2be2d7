"""What a VE is promised, and what of a launch keeps each promise: the table that `ve selftest` goes through.

Each row can be taken out of a launch by VE_WITHOUT=NAME in the environment, for the tests of selftest: then its promise
must be found broken, and no other.  How a promise is tried is in ve/trials.py (inside) and ve/selftest.py (outside).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from ve import mounts
from ve.errors import InvalidValue
from ve.rights import ANNOUNCED, PROFILES, REFUSALS, Refusal, Rights
from ve.shapes import SHARED, UNGUARDED, Shape

EVERY_CAPABILITY = (1 << 64) - 1
_SYSCTL, *_KNOBS = mounts.READ_ONLY


@dataclass(frozen=True)
class Without:
    """What of a launch goes with a row, and what could not be done without that."""

    namespaces: tuple[str, ...] = ()  # that are not made
    steps: tuple[str, ...] = ()  # that are not taken
    own_mounts: tuple[str, ...] = ()  # that are not there
    request: dict[str, Any] = field(default_factory=dict)  # what setup is told instead
    protection: dict[str, Any] = field(default_factory=dict)  # and of what protects the host
    binds: tuple[tuple[str, str], ...] = ()  # of the host's, that are there besides
    confinement: dict[str, Any] = field(default_factory=dict)  # and of what confines processes
    refusal: str = ""  # that the filter of system calls lacks

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        return tuple(row for row in REFUSALS if row.name != self.refusal)

    def change(self, request: dict[str, Any]) -> dict[str, Any]:
        """The request of a launch without it."""
        binds = request["protection"]["binds"] + self.binds
        return {
            **request,
            "namespaces": tuple(name for name in request["namespaces"] if name not in self.namespaces),
            "left_out": (*request["left_out"], *self.steps),
            "own_mounts": tuple(row for row in request["own_mounts"] if row[1] not in self.own_mounts),
            "protection": request["protection"] | {"binds": binds} | self.protection,
            "confinement": request["confinement"] | self.confinement,
            **self.request,
        }


@dataclass(frozen=True)
class Protection:
    """A row: what is promised, what keeps it, and how a launch goes without."""

    name: str
    promise: str
    means: str
    without: Without


PROTECTIONS = (
    Protection(
        "processes",
        "its init is PID 1; it sees, signals and traces its own processes only",
        "PID namespace",
        Without(namespaces=("pid",)),
    ),
    Protection(
        "sockets",
        "its sockets, abstract ones too, its interfaces and addresses are its own",
        "network namespace",
        Without(namespaces=("net",), steps=("lo", "interface")),
    ),
    Protection(
        "addresses",
        "it sends from its own addresses only, whatever its root does",
        "rules at its interface on the host",
        Without(steps=("rules",)),
    ),
    Protection(
        "ipc",
        "its System V IPC and POSIX queues are its own",
        "IPC namespace",
        Without(namespaces=("ipc",), own_mounts=("dev/mqueue",)),
    ),
    Protection(
        "utsname",
        "its hostname is its own, to change as it likes",
        "UTS namespace",
        Without(namespaces=("uts",), steps=("hostname",)),
    ),
    Protection(
        "clocks",
        "its uptime begins with it; the wall clock is not to be set",
        "time namespace; no CAP_SYS_TIME of the host",
        Without(steps=("clocks",)),
    ),
    Protection(
        "cgroups",
        "its cgroup is the root of the tree that it sees",
        "cgroup namespace",
        Without(steps=("cgroup_tree",), own_mounts=("sys/fs/cgroup",)),
    ),
    Protection(
        "mounts",
        "it may mount, and take nothing away that protects the host",
        "mount namespace, made when the rest is mounted",
        Without(steps=("lock_mounts", "own_file_systems")),
    ),
    Protection(
        "users",
        "its users, root too, are nobody on the host and in other VEs",
        "user namespace with ids of its own",
        Without(request={"base": 0, "ids": ((0, 0, 1 << 16),)}),
    ),
    Protection(
        "ptys",
        "its terminals are its own",
        "devpts of its own",
        Without(own_mounts=("dev/pts",), binds=(("/dev/pts", "dev/pts"),)),
    ),
    Protection(
        "root",
        "nothing leads out of its root: no chroot, mount or link",
        "pivot_root, and the old root unmounted",
        Without(request={"old_root": "dev/mqueue"}, own_mounts=("dev/mqueue",)),
    ),
    Protection(
        "devices",
        "the host's console, kernel log, disks and memory are not in its /dev",
        "a /dev of its own",
        Without(protection={"devices": ("/dev/kmsg",)}),
    ),
    Protection(
        "device filter",
        "a device that it was not given does not open, wherever the node is from",
        "BPF program at its cgroup",
        Without(steps=("device_filter",)),
    ),
    Protection(
        "secrets",
        "what /proc and /sys tell of the kernel's inside and of others is hidden",
        "masks over files and directories",
        Without(protection={"masked": ()}),
    ),
    Protection(
        "sysctls",
        "the host's sysctls are not to be written",
        "/proc/sys read only",
        Without(protection={"read_only": tuple(_KNOBS)}),
    ),
    Protection(
        "proc",
        "what else of /proc is about the host is not to be written",
        ", ".join(f"/{path}" for path in _KNOBS) + " read only",
        Without(protection={"read_only": (_SYSCTL,)}),
    ),
    Protection(
        "sysfs",
        "/sys is not to be written",
        "sysfs read only",
        Without(
            protection={
                "mounts": tuple(
                    (kind, point, flags & ~1 if point == "sys" else flags, options)
                    for kind, point, flags, options in mounts.PROTECTED
                )
            }
        ),
    ),
    Protection(
        "capabilities",
        f"its root lacks {', '.join(name.upper() for name in ANNOUNCED)}, and what a later kernel may add",
        "capability bounding set",
        Without(confinement={"capabilities": EVERY_CAPABILITY}),
    ),
    Protection(
        "namespaces",
        "it cannot use up the host's namespaces",
        "limits of its user namespace",
        Without(steps=("namespace_limits",)),
    ),
    Protection(
        "keyring",
        "no keyring of the host's is its session's",
        "session keyring of its own",
        Without(confinement={"keyring": False}),
    ),
    Protection(
        "descriptors",
        "no descriptor, directory or variable of the host's is inside",
        "all closed before its init is executed",
        Without(request={"leaked": (3,)}, steps=("descriptors",)),
    ),
    *(
        Protection(
            f"no {row.name}",
            f"{row.calls} cannot be called: {row.why}",
            "filter of system calls",
            Without(refusal=row.name),
        )
        for row in REFUSALS
    ),
)


NEEDED = {"utsname": "sys_admin", "mounts": "sys_admin"}  # what its root is promised takes this


def taken_out(name: str) -> Without:
    """What goes with the row of this name; nothing with none ("")."""
    rows = {row.name: row.without for row in PROTECTIONS} | {"": Without()}
    if name not in rows:
        raise InvalidValue(f"cannot start without {name!r} (VE_WITHOUT): there is no such protection")
    return rows[name]


def given_up(name: str, rights: Rights, devices: Collection[str] = (), network: str = "") -> str:
    """Why a VE of these rights, --device and --network is not promised what the row of this name says; empty if it is.

    The devices of profiles are none of what the row "devices" is about, whoever gives them.
    """
    if name in ("sockets", "addresses") and network and Shape.parse(network).kind in SHARED:
        return f"its network is {network}: all that is there is for both"
    if name == "addresses" and network and Shape.parse(network).kind in UNGUARDED:
        return f"its network is {network}: nobody looks at what it sends there"
    rows = [row for row in PROFILES if row.name in rights.profiles]
    if name in ("secrets", "sysctls", "proc") and rights.proc == "whole":
        return f"profile {', '.join(row.name for row in rows if row.proc)} shows a whole /proc"
    if name == "sysctls" and rights.sysctls:
        return "profile sysctl lets it write the sysctls of its own namespaces"
    if (capability := NEEDED.get(name)) and capability not in rights.capabilities:
        return f"its root lacks {capability}, which this takes"
    given = sorted({*devices} - {path for row in PROFILES for path in row.devices})
    if name == "devices" and given:
        return f"it was given {', '.join(given)}"
    granted = sorted(rights.capabilities.intersection(ANNOUNCED))
    if name == "capabilities" and granted:
        return f"it was given {', '.join(granted)}"
    return ""
