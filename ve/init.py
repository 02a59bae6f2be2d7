"""The last of a launch inside: what setup clones becomes the VE's PID 1.  The conversation is drawn in ve/setup.py.

It owns the VE's namespaces, waits until its root is there, takes what it may have, and executes the VE's own init.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import struct
import termios

from ve import farside, loopback, mounts, namespaces, ownfiles, privileges
from ve._linux import ioctls, syscalls
from ve.confinement import confine
from ve.errors import Error
from ve.steps import Launch, tell


def namespace_limits(launch: Launch) -> None:
    """how many namespaces it may make, while /proc/sys is the host's and can be written"""
    namespaces.limit(launch.request["user_namespaces"])


def root_is_ready(launch: Launch) -> None:
    """wait until setup has mounted the root"""
    os.write(launch.limited, b"x")
    os.close(launch.go_on)
    if not os.read(launch.root_ready, 1):
        os._exit(1)  # setup has failed, and says so itself


def root_inside(launch: Launch) -> None:
    """user and group 0 of the VE, in its root"""
    farside.hide()
    privileges.become_root()
    os.chdir("/")


def cgroup_tree(launch: Launch) -> None:
    """a cgroup namespace: its own cgroup is the root of the tree"""
    syscalls.unshare(syscalls.CLONE_NEWCGROUP)


def lock_mounts(launch: Launch) -> None:
    """a mount namespace of the VE's own: what is mounted by now is locked"""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    mounts.make_own()


def own_file_systems(launch: Launch) -> None:
    """/dev/pts, /dev/shm, /dev/mqueue, /sys/fs/cgroup, /run where an init boots, and what is linked there"""
    mounts.mount_own(launch.request["own_mounts"])
    mounts.link_own(launch.request["own_links"])


def hostname(launch: Launch) -> None:
    """the hostname"""
    _socket.sethostname(launch.request["hostname"])


def lo(launch: Launch) -> None:
    """lo up: 127.0.0.1 and ::1"""
    loopback.up()


def names(launch: Launch) -> None:
    """whom it asks for names, and its own: /etc/resolv.conf and /etc/hosts, once it is known what it was leased"""
    wanted = farside.receive(launch.line)[0]
    if wanted[:1] != ("NAMES",):
        os._exit(1)  # launch is gone or gave up, so are we
    ownfiles.write(wanted[1])


def session(launch: Launch) -> None:
    """a session of its own; a console or the log as standard output"""
    os.setsid()
    stdio: tuple[int, ...] = launch.request["stdio"]
    if launch.request["console"]:
        launch.console, slave = _open_console()
        stdio = (slave, slave, slave)
        if not launch.request["boots"]:  # a command wants job control; an init gives terminals away itself
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for number, fd in enumerate(stdio):
        os.dup2(fd if fd >= 0 else os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC), number)


def descriptors(launch: Launch) -> None:
    """nothing of the host's open, but the line to launch until exec"""
    farside.close_all_but(launch.line.fileno(), *((launch.console,) if launch.console >= 0 else ()))


def ready(launch: Launch) -> None:
    """tell launch, and wait for its word"""
    privileges.be_called(farside.WAITING)
    tell(launch.line, "READY", fds=(launch.console,) if launch.console >= 0 else ())
    if launch.console >= 0:
        os.close(launch.console)
    if farside.receive(launch.line)[0] != ("GO",):
        os._exit(1)  # launch is gone or gave up, so are we


def execute(launch: Launch) -> None:
    """the VE's init, confined"""
    request = launch.request
    if request["cwd"] != "/":
        os.chdir(request["cwd"])
    confine(request["confinement"])
    if request["user"] != (0, 0):
        farside.become(*request["user"])
    farside.reset_signals()
    try:
        os.execve(request["argv"][0], request["argv"], request["env"])
    except OSError as error:
        raise Error(f"cannot execute {request['argv'][0]} of the VE: {error.strerror}") from error


INIT = (
    namespace_limits,
    root_is_ready,
    root_inside,
    cgroup_tree,
    lock_mounts,
    own_file_systems,
    hostname,
    lo,
    names,
    session,
    descriptors,
    ready,
    execute,
)


def _open_console() -> tuple[int, int]:
    """A new pty of the VE's own, whose slave is bound to /dev/console: master, slave."""
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, ioctls.TIOCSPTLCK, struct.pack("i", 0))
    [number] = struct.unpack("i", fcntl.ioctl(master, ioctls.TIOCGPTN, struct.pack("i", 0)))
    terminal = f"/dev/pts/{number}"
    mounts.console(terminal)
    return master, os.open(terminal, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
