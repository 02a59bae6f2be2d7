"""What VEs use of a host, as tables: what needs it, what is lost without it, and how to get it; no guess, all is tried.

ve/probes.py tries KERNEL, ve/check.py looks for the rest.  There is a row for each thing that a host can lack alone: by
how its kernel was built, by the filter of system calls or the capabilities of the container or service that we run in,
by a mount or a sysctl.  What goes with another row has none.  overlayfs on idmapped layers is of kernel 5.19, and so
stands for all that is older: cgroup.kill and cgroup.freeze, PR_SET_PDEATHSIG, TIOCGPTPEER, the fields of /proc and
fdinfo that we read, eventfd, poll of cgroup.events; "pidfd" for setns(2) too, "mount API" for all of it but fsopen(2)
and what belongs to that, "session keyring" for a kernel that has keys at all.  A capability that is newer than ours is
dropped by its number.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ve import enforce, limits
from ve.errors import NotSupported
from ve.namespaces import NAMESPACES
from ve.rights import PROFILES, Profile, profile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ve.model import Config

EVERY = ("every VE",)
ENTERING = ("full root", "CLONE_INTO_CGROUP", "pidfd", "memfd", "seccomp", "session keyring")  # what an exec uses

_NEW_KERNEL = "use a kernel from 5.19 on, such as Debian 12's 6.1; in a container: --privileged"
_PRIVILEGED = "run it as root, not in a chroot; a container must be privileged"
_CGROUP = "mount -t cgroup2 none /sys/fs/cgroup; in a container: --privileged with --cgroupns=private"
_V2 = "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all on the kernel command line"
_FILE_SYSTEM = "put the state directory on ext4, xfs or btrfs (tmpfs from kernel 6.3): --state-dir"
_SEEN_PROC = (
    "in a container nothing may be mounted on its own /proc and /sys: --privileged; in a VE: the profile nesting"
)


@dataclass(frozen=True)
class Row:
    """One facility; cures has better ones than cure for what the kernel may answer."""

    name: str
    needed_by: tuple[str, ...]
    lost: str
    cure: str
    cures: Mapping[int, str] = field(default_factory=dict)


def _namespace(name: str, what: str) -> Row:
    cures = {
        errno.ENOSPC: f"sysctl user.max_{name}_namespaces is 0 or used up: raise it",
        errno.EINVAL: f"use a kernel with CONFIG_{name.upper()}_NS",
    }
    return Row(f"{name} namespace", EVERY, f"VEs of their own: {what}", _PRIVILEGED, cures)


def _mount(kind: str, lost: str, config: str) -> Row:
    cures = {errno.ENODEV: f"use a kernel with CONFIG_{config}"}
    return Row(f"mount of {kind}", EVERY, lost, _SEEN_PROC, cures)


KERNEL = (
    Row("root", EVERY, "every verb that changes something", "run it as root, for example with sudo"),
    Row(
        "own /proc",
        EVERY,
        "all that the kernel tells",
        "mount -t proc proc /proc, in our PID namespace",
    ),
    Row("full root", EVERY, "VEs: root has less rights here than a machine's", _PRIVILEGED),
    *(_namespace(name, what) for name, _, _, what in NAMESPACES),
    Row(
        *("host ids", EVERY, "VEs whose root is nobody on the host"),
        "a container must have host ids above 65535 in its /proc/self/uid_map; in a VE: the profile nesting",
    ),
    Row("state directory", EVERY, "a place for what VEs are", "let --state-dir be a directory that can be written"),
    Row("run directory", EVERY, "locks, and what is known of VEs that run", "mount -t tmpfs -o mode=755 tmpfs /run"),
    Row("memfd", EVERY, "a way to hand over a request", "use a kernel with CONFIG_MEMFD_CREATE"),
    Row("pidfd", EVERY, "processes that cannot be mistaken for others", _NEW_KERNEL),
    Row("cgroup2", EVERY, "VEs that can be counted, frozen and ended", _CGROUP),
    Row("CLONE_INTO_CGROUP", EVERY, "VEs that are counted from their first process on", _NEW_KERNEL),
    Row("mount API", EVERY, "mounts that the host does not see", _NEW_KERNEL, {errno.EPERM: _PRIVILEGED}),
    _mount("proc", "a /proc of a VE's own", "PROC_FS"),
    _mount("sysfs", "a /sys of a VE's own", "SYSFS"),
    _mount("tmpfs", "a /dev of a VE's own", "TMPFS"),
    _mount("devpts", "terminals in VEs", "UNIX98_PTYS"),
    _mount("mqueue", "POSIX queues in VEs", "POSIX_MQUEUE"),
    _mount("cgroup2", "cgroups in VEs", "CGROUPS"),
    Row(
        *("pivot_root", EVERY, "roots that nobody leaves", _PRIVILEGED),
        {errno.EINVAL: "boot from a disk: the root of an initramfs cannot be left"},
    ),
    Row("idmapped mounts", EVERY, "VEs whose root is nobody on the host", _FILE_SYSTEM),
    Row("overlayfs", EVERY, "template and private area combined", f"modprobe overlay; {_FILE_SYSTEM}"),
    Row("seccomp", EVERY, "a filter of system calls", "use a kernel with CONFIG_SECCOMP_FILTER"),
    Row(
        *("session keyring", EVERY, "VEs apart from the keys of who starts them"),
        "in a container: --privileged, or a filter that allows keyctl or answers ENOSYS",
        {errno.EDQUOT: "raise sysctl kernel.keys.root_maxkeys"},
    ),
    Row("namespace limits", EVERY, "a bound on the namespaces that a VE makes", _PRIVILEGED),
    Row("device filter", EVERY, "a fence around the host's devices", "use a kernel with CONFIG_CGROUP_BPF"),
    Row("openat2", ("ve cp", "ve set --userpasswd", "--mount"), "safe access to the files of a VE", _NEW_KERNEL),
    Row("fsopen", ("ve mount", "ve cp"), "the files of a VE that is stopped", _NEW_KERNEL),
    Row("idmapped tmpfs", ("--mount of what is on a tmpfs",), "such mounts", "use a kernel from 6.3 on"),
    Row(
        *("inotify", ("ve logs --follow", "ve events --follow"), "news of a log or a cgroup"),
        "raise sysctl fs.inotify.max_user_instances",
    ),
    Row("xattrs", ("templates with file capabilities",), "what is in extended attributes", _FILE_SYSTEM),
    Row("device nodes", (), "device nodes of a VE's own: the host's are bound instead", _PRIVILEGED),
    Row("rlimits", (), "the limits of a machine's init: a VE has those of its caller", "run it with CAP_SYS_RESOURCE"),
)
CONTROLLERS = tuple(
    Row(f"{name} controller", tuple(f"--{option}" for option in options.split()), f"limits of {what}", _V2)
    for name, what, options in (
        ("memory", "memory", "memory swap oom physpages swappages privvmpages vmguarpages oomguarpages"),
        ("cpu", "CPU time", "cpus cpu-weight"),
        ("cpuset", "the CPUs that a VE runs on", "cpuset"),
        ("pids", "processes", "processes numproc"),
        ("io", "disk traffic", "io-read io-write iops io-weight"),
    )
)
STORAGE = (
    Row(
        *("project quota", ("--disk", "--inodes"), "limits of disk space, but in a loop area (--area loop)"),
        "put the state directory on xfs (mount -o prjquota) or ext4 (mkfs.ext4 -O project,quota; mount -o prjquota)",
    ),
)
LIBRARIES = (Row("libseccomp", EVERY, "a filter of system calls", "apt-get install libseccomp2"),)
PROGRAMS = (
    Row("catatonit", ("ve run", "templates without an init"), "a PID 1 for them", "apt-get install catatonit"),
    Row("nft", ("addresses of VEs",), "the rules around VEs' networks", "apt-get install nftables"),
    Row("bsdtar", ("ve template add",), "templates from archives", "apt-get install libarchive-tools"),
    Row("skopeo", ("ve template add",), "templates from OCI images", "apt-get install skopeo"),
    Row("umoci", ("ve template add",), "templates from OCI images", "apt-get install umoci"),
    Row("mmdebstrap", ("ve template build",), "template build debian", "apt-get install mmdebstrap"),
    Row("mkfs.ext4", ("--area loop",), "limits of disk space on any file system", "apt-get install e2fsprogs"),
    Row("busybox-static", ("ve template build",), "template build busybox", "apt-get install busybox-static"),
)
_KINDS = ("proc", "no_new_privs", "user_namespaces")  # of profiles; the rest of them is what they give
_DRIVERS = {"/dev/fuse": "fuse", "/dev/net/tun": "tun"}
DEVICES = (
    *(
        Row(
            *(path, tuple(f"profile {row.name}" for row in PROFILES if path in row.devices)),
            "what these profiles are for",
            f"modprobe {_DRIVERS[path]}" if path in _DRIVERS else "load its driver",
        )
        for path in dict.fromkeys(path for row in PROFILES for path in row.devices)
    ),
    Row(
        *("/dev/loop-control", ("--area loop",), "limits of disk space on any file system"),
        "modprobe loop; in a container: --privileged, with the host's /dev; in a VE there are none",
    ),
)
# Not a lack, but what to think of when something is refused, or is less than it seems.
NOTES = (
    Row(
        *("fit state directory", (), "a way less to the disk, or memory"),
        "put it on a volume: podman or docker run -v ve:/var/lib/ve; or on ext4, xfs or btrfs: --state-dir",
    ),
    Row(
        *("no security module", (), "certainty: AppArmor or SELinux may refuse what root may do"),
        "in a container: --security-opt apparmor=unconfined --security-opt label=disable; else see its audit log",
    ),
    Row(
        *("no firewall that drops by default", (), "networks of VEs beyond the host: it may drop what is forwarded"),
        "a rule that accepts venet*, in both directions",
    ),
)


# --- what one VE asks for -------------------------------------------------------------------------------------------


def require(settings: Config) -> None:
    """NotSupported where this host lacks what a start would not miss: its own /proc, what the profiles promise.

    Capabilities are not asked for: of a new user namespace there are all, whatever its maker has (user_namespaces(7)).
    """
    if not own_proc():
        cure = next(row.cure for row in KERNEL if row.name == "own /proc")
        raise NotSupported("no own /proc here, and every profile needs it", cure)
    _require_controllers(settings)
    rows = [profile(name) for name in settings.rights.profiles]
    for each in DEVICES:
        brought_by = next((row for row in rows if each.name in row.devices), None)
        if brought_by and (why := refused(each.name)):
            what = f"cannot give profile {brought_by.name} to the VE: {each.name}: {why}"
            raise NotSupported(what, f"{each.cure}; {without(brought_by, each.name)}")


def _require_controllers(settings: Config) -> None:
    wanted = settings.resources.controllers
    if not wanted or settings.account_only:
        return
    for controller in enforce.missing(wanted):
        named = ", ".join(limits.of_controller(settings.limits, controller))
        raise NotSupported(f"cannot limit {named}: cgroup2 has no {controller} controller here", enforce.cure())


def own_proc() -> bool:
    """Does /proc number the processes as we do?"""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def refused(path: str) -> str:
    """Why a device of the host cannot be used, or nothing: a node may be there, and no driver behind it."""
    try:
        if not stat.S_ISCHR(os.stat(path).st_mode):
            return "it is not a device"
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        return "" if error.errno == errno.EBUSY else error.strerror or str(error)
    return ""


def without(row: Profile, what: str) -> str:
    """The profile that is nearest to this one and does without a device or capability."""

    def missing(other: Profile) -> list[str]:
        kept = {*row.grants, *row.devices, *row.sysctls} - {*other.grants, *other.devices, *other.sysctls, what}
        return [*kept, *(name for name in _KINDS if getattr(other, name) != getattr(row, name))]

    others = [other for other in PROFILES if what not in (*other.devices, *other.grants)]
    nearest = min(others, key=lambda other: len(missing(other)))
    added = [f"--capability {name}:on" for name in row.grants if name != what and name not in nearest.grants]
    return " ".join([f"the profile {nearest.name}", *(["with", *added] if added else []), "does without"])
