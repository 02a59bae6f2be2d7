"""A privileged container in the guest, its root an overlay of this machine's: python -m tests.vm KERNEL --podman ...

podman keeps all that is its own on the guest's disk, which is also the container's volume: there the tests have their
state dirs, and its root, an overlay, where they try what a state dir does on one.
"""

from tests.vm import guest

_STORE = (
    *("--root", "/run/disk/podman/root", "--runroot", "/run/disk/podman/run", "--storage-driver", "overlay"),
    *("--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", "crun"),
)
_PRIVILEGED = (
    *("--rm", "--privileged", "--init", "--init-path", "/usr/bin/catatonit", "--network", "none"),
    *("--cgroupns", "private", "--pids-limit", "-1", "--env-host", "--volume", "/run/disk:/run/disk"),
)


def inside(command: list[str]) -> list[str]:
    """The command as it runs in such a container."""
    where = ("--workdir", str(guest.ROOT), "--rootfs", f"{guest.HOST}:O")
    return ["podman", *_STORE, "run", *_PRIVILEGED, *where, *command]
