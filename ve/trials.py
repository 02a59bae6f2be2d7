"""The far side of selftest: goes into a VE as a command does, and tries to break each promise from inside.

It enters by the same steps as a command (ve/command.py) and is confined as one, but executes nothing, so that any
template will do; in place of the exec it gives up the capabilities that are gone from its bounding set.

    near (ve/selftest.py)          enters                         tries
    request (a memfd)     ------->
    a socket of a pair    ------------------------------------->
                          <-------------------------------------  ANSWERS name -> why it is broken, "" if it holds
    end of file           ------------------------------------->  takes back what it made, and ends

Each trial is a child, since some of them change what they are.  Nothing here may harm a VE in which a promise is
broken: what is written is what was there, system calls are asked for what cannot be.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import errno
import fcntl
import marshal
import os
import select
import socket
import stat
import time
from contextlib import suppress
from functools import partial

from ve import command, confinement, farside, mountinfo, namespaces
from ve._linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn

    from ve.farside import Request

_PATIENCE = 2  # seconds for a connection that the VE's own packet filter may swallow
_IPC_CREAT, _IPC_RMID = 0o1000, 0  # <linux/ipc.h>
_MNT_EXPIRE = 4  # umount2(2): what could be unmounted is EAGAIN or EBUSY, and stays


def main(request_fd: int, near: int, pidfd: int) -> NoReturn:
    """Enter, try, and wait for the word to end.  Never returns."""
    farside.hide()
    with open(request_fd, "rb") as file:
        request: Request = marshal.load(file)
    channel = socket.socket(fileno=near)
    try:
        request["confinement"] = confinement.of(request["pid"], request["filters"]) | {"keyring": False}
        request["known"] = request["confinement"]["capabilities"] & _known_capabilities()
        group = os.open(request["cgroup"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        farside.forget_imports()
        pid = syscalls.clone3(0, _signal.SIGCHLD, group)
        if pid == 0:
            syscalls.setns(pidfd, namespaces.flags())
            farside.become(0, 0)
            if os.fork() == 0:  # only a child is in the VE's PID namespace
                _try_all(request, channel)
            os.wait()
            os._exit(0)
        os.waitpid(pid, 0)
    except BaseException as error:
        farside.send(channel, "FAILED", f"{type(error).__name__}: {error}")
    os._exit(0)


def _try_all(request: Request, channel: socket.socket) -> NoReturn:
    """As root of the VE, confined: all trials."""
    try:
        within = command.Command(request, channel)
        command.session(within)
        _, [request["shared"]] = farside.receive(channel)
        _, request["foreign"] = farside.receive(channel)
        command.confinement(within)
        syscalls.capset(request["known"])
        _uncover(request)
        answers = {name: _try(trial, request) for name, trial in TRIALS.items()}
        answers |= {name: _try(partial(_refused, row), request) for name, row in request["refusals"].items()}
        farside.send(channel, "ANSWERS", answers)
        farside.receive(channel)
        _try(_remove_queue, request)
    except BaseException as error:
        farside.send(channel, "FAILED", f"{type(error).__name__}: {error}")
    os._exit(0)


def _try(trial: Callable[[Request], str], request: Request) -> str:
    """Why the promise is broken, or "", as a child finds it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            why = trial(request)
        except OSError as error:
            why = f"it could not be tried: {error.strerror} {error.filename or ''}".rstrip()
        except BaseException as error:
            why = f"it could not be tried: {type(error).__name__}: {error}"
        os.write(writing, why.encode("utf-8", "replace")[:1024])  # all of them fit into one message
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        why = file.read().decode("utf-8", "replace")
    return why if os.waitpid(pid, 0)[1] == 0 else "it could not be tried: the process that tries was killed"


def _uncover(request: Request) -> None:
    """In a mount namespace of our own, take away what the VE has mounted on top of what protects the host."""
    try:
        syscalls.umount2("/", _MNT_EXPIRE)
    except OSError as error:
        if error.errno == errno.EPERM:
            return  # what its root may not take away, we cannot; nor may a copy lock what is not locked there
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    except OSError:
        return
    for path, count in request["locked"].items():
        for _ in range(count - 1):
            with suppress(OSError):
                syscalls.umount2(f"/{path}", syscalls.MNT_DETACH)


def _known_capabilities() -> int:
    with open("/proc/sys/kernel/cap_last_cap", encoding="utf-8") as file:
        return (1 << int(file.read()) + 1) - 1


# --- the trials: each returns why the promise is broken, or "" ----------------------------------------------------


def processes(request: Request) -> str:
    """Orphans, numbers and signals of processes; whether the victim outlives it is seen outside."""
    if (parent := _parent_of_an_orphan()) != 1:
        return f"an orphan went to process {parent}"
    victim = request["victim"]
    fcntl.fcntl(request["shared"], fcntl.F_SETFL, fcntl.fcntl(request["shared"], fcntl.F_GETFL) | os.O_ASYNC)
    if victim not in _pids():
        with suppress(ProcessLookupError):
            fcntl.fcntl(request["shared"], fcntl.F_SETOWN, victim)
        try:
            os.kill(victim, 0)
        except ProcessLookupError:
            pass
        except PermissionError:
            return "it can name a process of the host"
    return ""


def _parent_of_an_orphan() -> int:
    reading, writing = os.pipe()
    if os.fork() == 0:
        parent = select.poll()
        parent.register(os.pidfd_open(os.getpid()), select.POLLIN)
        if os.fork() == 0:
            parent.poll()
            os.write(writing, b"%d" % os.getppid())
        os._exit(0)
    os.close(writing)
    return int(os.read(reading, 16))


def _pids() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdecimal()}


def sockets(request: Request) -> str:
    """Who answers may be the VE's own; whether it was the host is seen outside."""
    word = request["abstract"]
    for family, address in ((socket.AF_UNIX, word), (socket.AF_INET, ("127.0.0.1", request["port"]))):
        with socket.socket(family, socket.SOCK_STREAM) as ours, suppress(OSError):
            ours.settimeout(_PATIENCE)
            ours.connect(address)
            ours.send(word)
    return ""


def ipc(request: Request) -> str:
    """A queue under a key; whether the host has it now is seen outside."""
    syscalls.by_number(request["numbers"]["msgget"], request["key"], _IPC_CREAT | 0o600)
    return ""


def _remove_queue(request: Request) -> str:
    queue = syscalls.by_number(request["numbers"]["msgget"], request["key"], 0)
    syscalls.by_number(request["numbers"]["msgctl"], queue, _IPC_RMID, None)
    return ""


def utsname(request: Request) -> str:
    """A name that is too long is refused after the right to change it was asked for; no name is changed."""
    try:
        syscalls.by_number(request["numbers"]["setdomainname"], b"", 65)
    except OSError as error:
        if error.errno != errno.EINVAL:
            return f"its root cannot change it: {error.strerror}"
    return ""


def clocks(request: Request) -> str:
    if os.readlink("/proc/self/ns/time") == request["namespaces"]["time"]:
        return "its uptime is the host's"
    try:
        time.clock_settime(time.CLOCK_REALTIME, time.time())
    except PermissionError:
        return ""
    return "it set the wall clock"


def cgroups(request: Request) -> str:
    """Ours is beside that of init, which is the root here."""
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        [path] = [line.rstrip("\n").partition("::")[2] for line in file if line.startswith("0::")]
    return "" if path.startswith("/../exec/exec.") else f"it sees the host's tree: this process is at {path}"


def mounts(request: Request) -> str:
    try:
        syscalls.mount("ve", "/dev", "tmpfs")
        syscalls.umount2("/dev")
    except OSError as error:
        return f"its root cannot mount: {error.strerror}"
    for path in request["locked"]:
        try:
            syscalls.umount2(f"/{path}", _MNT_EXPIRE)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EBUSY):
                continue
        return f"its root can take away /{path}"
    return ""


def ptys(request: Request) -> str:
    if os.stat("/dev/pts").st_dev == request["host_pts"]:
        return "/dev/pts is the host's"
    if os.path.ismount("/dev/pts"):
        os.close(os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY))
    return ""


def root(request: Request) -> str:
    """No mount shows the host's root, and a chroot leads nowhere else."""
    for line in mountinfo.lines():
        if identity(line.point) == request["host_root"]:
            return f"the host's root is at {line.point}"
    ours = identity("/")
    inside = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.chroot("/dev")
    except PermissionError:  # it lacks that right: then this leads nowhere
        return ""
    os.fchdir(inside)
    for _ in range(64):
        os.chdir("..")
    found = identity(".")
    return "" if found == ours else "a chroot leads out of its root"


def identity(path: str) -> tuple[int, int] | None:
    """Of the file at path, or None."""
    try:
        at = os.stat(path)
    except OSError:
        return None
    return at.st_dev, at.st_ino


def devices(request: Request) -> str:
    allowed = {tuple(each) for each in request["devices"]}
    for path, at in _nodes("/dev"):
        node = stat.S_IFMT(at.st_mode), os.major(at.st_rdev), os.minor(at.st_rdev)
        if node not in allowed:
            return f"there is {path}"
    return ""


def _nodes(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    """The device nodes below, on this file system."""
    with os.scandir(directory) as entries:
        for entry in entries:
            at = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(at.st_mode) and not os.path.ismount(entry.path):
                yield from _nodes(entry.path)
            elif stat.S_ISCHR(at.st_mode) or stat.S_ISBLK(at.st_mode):
                yield entry.path, at


def device_filter(request: Request) -> str:
    """A node that the host's root has put there."""
    if not request["foreign"]:
        return ""
    [where] = request["foreign"]
    try:
        os.close(os.open("node", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=where))
    except PermissionError:
        return ""
    except OSError as error:
        return f"it reached the driver of a device that it was not given, which says: {error.strerror}"
    return "it opened a device that it was not given"


def secrets(request: Request) -> str:
    for path in request["masked"]:
        if _shows(f"/{path}"):
            return f"/{path} can be read"
    return ""


def _shows(path: str) -> bool:
    try:
        if os.path.isdir(path):
            return bool(os.listdir(path))
        at = os.stat(path)
    except OSError:
        return False  # it is not there, or says no
    return not stat.S_ISCHR(at.st_mode)


def sysctls(request: Request) -> str:
    return _writable("/proc/sys/kernel/shmall") or _not_read_only("proc/sys")


def proc(request: Request) -> str:
    return next(filter(None, (_not_read_only(path) for path in request["knobs"])), "")


def sysfs(request: Request) -> str:
    return _not_read_only("sys")


def _not_read_only(path: str) -> str:
    try:
        return "" if os.statvfs(f"/{path}").f_flag & os.ST_RDONLY else f"/{path} is not read only"
    except FileNotFoundError:
        return ""


def _writable(path: str) -> str:
    """Writes what is there."""
    with open(path, "rb") as file:
        value = file.read()
    try:
        with open(path, "wb") as file:
            file.write(value)
    except OSError as error:
        return "" if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) else f"{path}: {error.strerror}"
    return f"it wrote {path}"


def namespaces_(request: Request) -> str:
    for name in namespaces.NAMES:
        with open(f"/proc/sys/user/max_{name}_namespaces", encoding="utf-8") as file:
            if int(file.read()) > namespaces.MOST:
                return f"it may make any number of {name} namespaces"
    return ""


def _refused(row: tuple[str, tuple[tuple[str, int, tuple[int, int] | None], ...]], _: Request) -> str:
    """Each call answers as the filter does; -1 can be no valid argument of any of them."""
    error, calls = row
    for name, number, argument in calls:
        arguments = [-1] * 6
        if argument is not None:
            arguments[argument[0]] = argument[1]
        try:
            fd = syscalls.by_number(number, *arguments)
        except OSError as refused:
            if refused.errno != getattr(errno, error):
                return f"{name} reached the kernel, which says: {refused.strerror}"
        else:
            return f"{name} was done ({fd})"
    return ""


TRIALS: dict[str, Callable[[Request], str]] = {
    "processes": processes,
    "sockets": sockets,
    "ipc": ipc,
    "utsname": utsname,
    "clocks": clocks,
    "cgroups": cgroups,
    "mounts": mounts,
    "ptys": ptys,
    "root": root,
    "devices": devices,
    "device filter": device_filter,
    "secrets": secrets,
    "sysctls": sysctls,
    "proc": proc,
    "sysfs": sysfs,
    "namespaces": namespaces_,
}
