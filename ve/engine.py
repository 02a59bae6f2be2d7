"""What runs the container that we are in, and with which of its flags it has what we lack.

Each flag was tried: podman 4.3 (crun), systemd-nspawn 252; docker's are those that its manual has for the same.
"""

from __future__ import annotations

import errno
import os

from ve import mountinfo
from ve.namespaces import NAMESPACES

PODMAN, DOCKER, NSPAWN = "podman run", "docker run", "systemd-nspawn"
ENGINES = (PODMAN, DOCKER, NSPAWN)
FILES = {"/run/.containerenv": PODMAN, "/.dockerenv": DOCKER}
GIVEN = "/etc/hostname"  # both mount it; the files alone may have come with an image that a machine was made of
FIRST = "/proc/1/environ"
_NAMES = {"podman": PODMAN, "docker": DOCKER, "systemd-nspawn": NSPAWN}  # what PID 1 has as $container

_ADMIN = {PODMAN: "--privileged or --cap-add all", DOCKER: "--privileged", NSPAWN: "--capability=all"}
_CGROUP = {
    PODMAN: "--privileged or --systemd=always",
    DOCKER: "--privileged",
    NSPAWN: "on a hybrid host with SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 in its environment",
}
_UNMASKED = {
    PODMAN: "--privileged or --security-opt unmask=all",
    DOCKER: "--privileged or --security-opt systempaths=unconfined",
    NSPAWN: "SYSTEMD_NSPAWN_API_VFS_WRITABLE=1 in its environment",
}
_KEYS = {
    PODMAN: "--privileged or --security-opt seccomp=unconfined",
    DOCKER: "--privileged or --security-opt seccomp=unconfined",
    NSPAWN: "--system-call-filter=@keyring",
}
_IDS = {
    PODMAN: "no --userns and --uidmap, or one with ids above 1048576: --uidmap 0:100000:3000000",
    DOCKER: "--userns=host",
    NSPAWN: "no --private-users, or one with as many ids: --private-users=100000:3000000",
}
_VOLUME = {
    PODMAN: "-v ve:/var/lib/ve",
    DOCKER: "-v ve:/var/lib/ve",
    NSPAWN: "--bind=DIRECTORY:/var/lib/ve, of ext4, xfs or btrfs",
}
_LOOP = {
    PODMAN: "--privileged",
    DOCKER: "--privileged",
    NSPAWN: "--bind=/dev/loop-control, and --property=DeviceAllow='block-loop rwm'",
}
_LIMITS = {PODMAN: "--privileged or --cap-add sys_resource", DOCKER: "--privileged or --cap-add sys_resource"}


def _device(path: str) -> dict[str, str]:
    flag = f"--device {path}"
    return {PODMAN: flag, DOCKER: flag, NSPAWN: f"--bind={path}, and --property=DeviceAllow='{path} rwm'"}


# By the row of ve/facilities.py that is missing.
FLAGS: dict[str, dict[str, str]] = {
    "full root": _ADMIN,
    "own /proc": {PODMAN: "--pid=private"},
    "host ids": _IDS,
    "state directory": _VOLUME,
    "fit state directory": _VOLUME,
    "idmapped mounts": _VOLUME,
    "overlayfs": _VOLUME,
    "run directory": {PODMAN: "--tmpfs /run", DOCKER: "--tmpfs /run", NSPAWN: "--tmpfs=/run"},
    "cgroup2": _CGROUP,
    "CLONE_INTO_CGROUP": _CGROUP,
    "namespace limits": _UNMASKED,
    "mount of proc": _UNMASKED,
    "mount of sysfs": _UNMASKED,
    "session keyring": _KEYS,
    "device filter": {**_CGROUP, NSPAWN: "--system-call-filter=bpf"},
    "device nodes": {engine: f"{flag}, with no user namespace" for engine, flag in _ADMIN.items()},
    "rlimits": _LIMITS,
    "/dev/fuse": _device("/dev/fuse"),
    "/dev/net/tun": _device("/dev/net/tun"),
    "/dev/loop-control": _LOOP,
}
_RIGHTS = ("pidfd", "mount API", "mount of tmpfs", "pivot_root", "fsopen", "seccomp", "idmapped tmpfs")
_NAMESPACES = tuple(f"{name} namespace" for name, *_ in NAMESPACES)
FLAGS |= dict.fromkeys((*_RIGHTS, *_NAMESPACES), _ADMIN)


def running() -> str:
    """The engine; nothing where we are in no container, or in one of somebody unknown."""
    for path, engine in FILES.items():
        if os.path.exists(path) and mountinfo.is_point(GIVEN):
            return engine
    try:
        with open(FIRST, "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return ""
    return next((_NAMES.get(os.fsdecode(word[10:]), "") for word in words if word.startswith(b"container=")), "")


def cure(row: str, number: int, engine: str) -> str:
    """With which flags a row would be there, the kernel having said number.  "" if that is not the engine's doing."""
    flags = FLAGS.get(row, {})
    if number == errno.EPERM and flags is _VOLUME:  # it may not even mount
        flags = _ADMIN
    return f"{engine} {flags[engine]}" if engine in flags else ""
