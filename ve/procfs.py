"""What /proc tells of one process: proc_pid_status(5) and its neighbours.

A process of a VE chooses its own name, and with that a part of what is read here.
"""

from __future__ import annotations

import errno
import os

_WHOLE = 1 << 20  # bytes


def status(pid: int | str) -> dict[str, str]:
    """The fields of /proc/PID/status.

    The kernel writes a newline in a name as \\n, but nothing else that ends a line for Python, such as a carriage
    return: so a name could look like other fields.
    """
    with open(f"/proc/{pid}/status", "rb") as file:
        lines = os.fsdecode(file.read()).split("\n")
    return dict(line.partition(":\t")[::2] for line in lines)


def host_ids(pid: int | str, kind: str) -> list[range]:
    """The uids or gids (kind) of ours that the process's user namespace has, in their order inside."""
    with open(f"/proc/{pid}/{kind}_map", "rb") as file:
        rows = [tuple(map(int, line.split())) for line in file]
    return [range(outside, outside + count) for _, outside, count in rows]


def mount_number(fd: int | str, pid: int | str = "self") -> int:
    """Of the mount that a descriptor is in, as mountinfo has it: fdinfo, proc_pid_fdinfo(5)."""
    lines = contents(f"/proc/{pid}/fdinfo/{fd}", None).splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(b"mnt_id:"))


def threads() -> int:
    """How many there can be at once on this host: as the kernel allows, and as there are pids for.

    pid_max is the lower one where no init has raised it.
    """
    return min(int(contents(f"/proc/sys/kernel/{name}", None)) for name in ("threads-max", "pid_max"))


def contents(name: str, directory: int | None, most: int = _WHOLE) -> bytes:
    """All of a file of a process whose /proc/PID is open as directory: it stays that process, whoever has its pid next.

    So of a cgroup.  OSError with EFBIG if there are more bytes than most; ESRCH or ENOENT once the process has ended.
    """
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return anew(fd, most)
    finally:
        os.close(fd)


def anew(fd: int, most: int = _WHOLE) -> bytes:
    """The same of a file that is open: the kernel writes it anew for who reads it from its beginning."""
    text = b""
    while part := os.pread(fd, 1 << 14, len(text)):  # a short one may have stopped before a long line
        text += part
        if len(text) > most:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return text
