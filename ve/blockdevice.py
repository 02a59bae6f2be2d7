"""The disk that a directory is really on: cgroup v2 limits traffic by whole disks, not by partitions."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from ve import cgrouproot, mountinfo
from ve.amounts import UNLIMITED
from ve.errors import InvalidValue, NotSupported
from ve.limits import Limits

BFQ_MOST = 1000


def holding(path: str) -> str:
    """MAJOR:MINOR of the disk below the file system at path; NotSupported if there is none, as below a tmpfs."""
    number = os.stat(path).st_dev
    if not os.path.exists(_sys(number)):  # btrfs has a number of its own: what it is mounted from is a device
        number = _mounted_from(path)
    if os.path.exists(f"{_sys(number)}/partition"):
        with open(f"{os.path.realpath(_sys(number))}/../dev", encoding="ascii") as file:
            return file.read().strip()
    return f"{os.major(number)}:{os.minor(number)}"


def traffic(limits: Limits, path: str) -> dict[str, int | str]:
    """What the io files of a VE's cgroup are to say for the disk that holds path; what was not asked for is unlimited.

    NotSupported if there is no such disk, or none that divides its time by weights.
    """
    device = holding(path)
    asked = {"rbps": "io_read", "wbps": "io_write", "riops": "iops", "wiops": "iops"}
    most = {key: limits.others.get(name, UNLIMITED) for key, name in asked.items()}
    words = [f"{key}={'max' if value >= UNLIMITED else value}" for key, value in most.items()]
    files: dict[str, int | str] = {"io.max": " ".join([device, *words])}
    if "io_weight" in limits.others:
        files |= _weight(device, limits.others["io_weight"])
    return files


def _weight(device: str, weight: int) -> dict[str, int | str]:
    """cgroup-v2.rst, "IO": by iocost, where it is enabled for the disk, or by the scheduler bfq, up to 1000."""
    if scheduler(device) == "bfq":
        if weight > BFQ_MOST:
            raise InvalidValue(f"cannot use io_weight {weight}: the scheduler bfq knows 1..{BFQ_MOST}")
        return {"io.bfq.weight": weight}
    if not _has_iocost(device):
        raise NotSupported(
            f"cannot weigh the traffic of disk {device}: neither bfq nor iocost divides its time",
            hint=f"echo bfq >/sys/dev/block/{device}/queue/scheduler (modprobe bfq)",
        )
    return {"io.weight": weight}


def _has_iocost(device: str) -> bool:
    with suppress(FileNotFoundError), open(f"{cgrouproot.mount_point()}/io.cost.qos", encoding="ascii") as file:
        return any(line.split()[0] == device and "enable=1" in line.split() for line in file)
    return False


def scheduler(device: str) -> str:
    """The IO scheduler that is in use: none, mq-deadline, bfq, kyber; "" where a device has no choice."""
    try:
        with open(f"/sys/dev/block/{device}/queue/scheduler", encoding="ascii") as file:
            words = file.read().split()
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return ""
    return next((word.strip("[]") for word in words if word.startswith("[")), "")


def _mounted_from(path: str) -> int:
    mount = mountinfo.holding(os.path.realpath(path))
    try:
        number = os.stat(mount.source).st_rdev if mount.source.startswith("/") else 0
    except OSError:
        number = 0
    if not number or not os.path.exists(_sys(number)):
        raise NotSupported(f"cannot limit the disk traffic of {path}: {mount.kind} is on no disk of this host")
    return number


def _sys(number: int) -> str:
    return f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
