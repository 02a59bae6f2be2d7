"""What this host has of all that a VE needs: one table, each line of it tried for real.

What the kernel must do is tried by another process (ve/probes.py), so that the caller is never changed and nothing is
left; what is a program or a controller is looked for.
"""

from __future__ import annotations

import marshal
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ve import beancounter, interpreter, seccomp
from ve.errors import NotSupported
from ve.namespaces import NAMESPACES

_PT_INTERP = 3  # elf(5)
_NEW_KERNEL = "use a kernel from 5.19 on, such as Debian 12's 6.1"
_PRIVILEGED = "run it as root; a container must be privileged"
_CGROUP = "mount -t cgroup2 none /sys/fs/cgroup; in a container: --privileged with --cgroupns=private"
_V2 = "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all on the kernel command line"
_FILE_SYSTEM = "put the state directory on ext4, xfs or btrfs (tmpfs from kernel 6.3): --state-dir"


@dataclass(frozen=True)
class Facility:
    """Something that this host has or lacks; lost: what is lost without it; cure: how to get it, if it is missing."""

    name: str
    present: bool
    required: bool  # to start any VE
    lost: str
    cure: str


# name, required, what is lost without it, the cure
Row = tuple[str, bool, str, str]
KERNEL: tuple[Row, ...] = (
    ("root", True, "every verb that changes something", "run it as root, for example with sudo"),
    *((f"{name} namespace", True, f"VEs of their own: {what}", _PRIVILEGED) for name, _, _, what in NAMESPACES),
    ("CLONE_INTO_CGROUP", True, "VEs that are counted from their first process on", _NEW_KERNEL),
    ("pidfd", True, "processes that cannot be mistaken for others", _NEW_KERNEL),
    ("openat2", True, "safe access to the files of a VE", _NEW_KERNEL),
    ("mount API", True, "mounts that the host does not see", f"{_PRIVILEGED}; {_NEW_KERNEL}"),
    ("idmapped mounts", True, "VEs whose root is nobody on the host", _FILE_SYSTEM),
    ("overlayfs", True, "template and private area combined", f"modprobe overlay; {_FILE_SYSTEM}"),
    ("cgroup2", True, "VEs that can be counted, frozen and ended", _CGROUP),
    ("cgroup.kill", True, "the certain end of a VE's processes", _NEW_KERNEL),
    ("seccomp", True, "a filter of system calls", "use a kernel with CONFIG_SECCOMP_FILTER"),
    ("namespace limits", True, "a bound on the namespaces that a VE makes", _PRIVILEGED),
    ("device filter", True, "a fence around the host's devices", "use a kernel with CONFIG_CGROUP_BPF"),
    ("device nodes", False, "device nodes of a VE's own: the host's are bound instead", _PRIVILEGED),
)
CONTROLLERS: tuple[Row, ...] = tuple(
    (f"{name} controller", False, f"limits of {what}", _V2)
    for name, what in (("memory", "memory"), ("cpu", "CPU time"), ("pids", "processes"), ("io", "disk traffic"))
)
LIBRARIES: tuple[Row, ...] = (("libseccomp", True, "a filter of system calls", "apt-get install libseccomp2"),)
PROGRAMS: tuple[Row, ...] = (
    ("catatonit", False, "ve run, and VEs of templates that have no init", "apt-get install catatonit"),
    ("bsdtar", False, "template add of an archive", "apt-get install libarchive-tools"),
    ("skopeo", False, "template add of an OCI image", "apt-get install skopeo"),
    ("umoci", False, "template add of an OCI image", "apt-get install umoci"),
    ("mmdebstrap", False, "template build debian", "apt-get install mmdebstrap"),
    ("busybox-static", False, "template build busybox", "apt-get install busybox-static"),
)


def check(state_path: str) -> list[Facility]:
    """Try everything that VEs in this state directory, which may not exist yet, would need."""
    cgroup_root = _cgroup_root()
    missing = _probe(os.path.abspath(state_path), cgroup_root)
    controllers = _read(f"{cgroup_root}/cgroup.controllers").split() if cgroup_root else []
    return [
        *_facilities(KERNEL, lambda name: missing.get(name) == ""),
        *_facilities(CONTROLLERS, lambda name: name.removesuffix(" controller") in controllers),
        *_facilities(LIBRARIES, lambda _: _has_libseccomp()),
        *_facilities(PROGRAMS, lambda name: _is_static("busybox") if name == "busybox-static" else _has(name)),
    ]


def _facilities(rows: Iterable[Row], present: Callable[[str], bool]) -> list[Facility]:
    return [Facility(name, present(name), required, lost, cure) for name, required, lost, cure in rows]


def _probe(state_path: str, cgroup_root: str) -> dict[str, str]:
    """Why each of KERNEL is missing, or empty; nothing at all if the process that tries has failed."""
    done = subprocess.run(
        interpreter.command("ve.probes", state_path, cgroup_root),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us; it cleans up in any case
        check=False,
    )
    return marshal.loads(done.stdout) if done.stdout else {}


def _cgroup_root() -> str:
    try:
        return beancounter.mount_point()
    except NotSupported:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _has(program: str) -> bool:
    return shutil.which(program) is not None


def _has_libseccomp() -> bool:
    try:
        return bool(seccomp.compile())
    except NotSupported:
        return False


def _is_static(program: str) -> bool:
    """Whether the program needs no interpreter, and so runs in any root: its ELF header names none (PT_INTERP)."""
    path = shutil.which(program)
    if path is None:
        return False
    with open(path, "rb") as file:
        head = file.read(4096)
    if head[:4] != b"\x7fELF" or len(head) < 64:
        return False
    order = "<" if head[5] == 1 else ">"
    wide = head[4] == 2
    [table] = struct.unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28)
    size, count = struct.unpack_from(order + "HH", head, 54 if wide else 42)
    kinds = (head[table + number * size :][:4] for number in range(count))
    return struct.pack(order + "I", _PT_INTERP) not in kinds
