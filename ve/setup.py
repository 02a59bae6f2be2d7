"""The far side of a launch: from a small process on the host to the VE's first program.

It is single-threaded whatever the process that called start() looks like (ve/interpreter.py), and it imports little,
since a cold start pays for each import; once the VE's root is the root, nothing may be imported at all.

Two processes of ours are at work, each with its list of steps below.  setup stays in the host's user namespace with
every capability but, from the second step on, under the user id that is the VE's root.  init is what it clones: it
owns the VE's namespaces, waits until its root is there, and becomes the VE's PID 1 by exec.  The conversation, in the
only order it can happen:

    launch (ve/launch.py)          setup                          init
    request (a memfd)     ------->
                          <-----   INIT pid
                                              <------ x --------  it needs the host's /proc no more
                          <-----   MOUNTED    ------- x ------->
    NAMES texts           ------------------------------------->  (only if it has addresses)
                          <-------------------------------------  READY [a pty, if it has a console]
    GO                    ------------------------------------->  exec
                          <-------------------------------------  end of file: exec closed the channel
                          <-----   ENDED status                   (only if setup was asked to stay)

Instead of any answer there may be ERROR step, why, hint, exit code.  Where the other end is gone, we end as well:
before GO nothing of a VE survives the process that starts it.

setup stays for a foreground VE, because only a parent learns that init rebooted, and for an ephemeral one, because that
must die with its maker: there setup is PID 1 of a PID namespace in between, and the kernel kills what is in that when
setup ends (pid_namespaces(7)).
"""

from __future__ import annotations

import errno
import marshal
import os
import select
import signal

from ve import farside, init, mounts, namespaces, nested, privileges, rlimits, unionfs
from ve._linux import syscalls
from ve._linux.syscalls import SyscallError
from ve.errors import ActionFailed, Error, NotSupported
from ve.steps import Launch, fault, go, reason, tell, unrunnable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from ve.farside import Request


def main(request_fd: int, near: int, line: int) -> NoReturn:
    """Read the request, go through setup's steps, and stay if asked to.  Never returns."""
    os.umask(0o022)
    with open(request_fd, "rb") as file:
        request: Request = marshal.load(file)
    for fd in request["leaked"]:
        os.set_inheritable(fd, True)
    launch = Launch(request, near, line)
    if request["area"]:
        from ve import looparea  # noqa: F401 - few have one, and later it could not be found
    farside.forget_imports()
    go(SETUP, launch, launch.near)


def own_mounts(launch: Launch) -> None:
    """a mount namespace of its own for setup, with room for the layers: no mount of a VE is in the host's"""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    mounts.make_slave()
    scratch = launch.request["scratch"]
    base = launch.request["base"]
    options = f"mode=755,uid={base},gid={base}{launch.request['scratch_limits']}"
    syscalls.mount("ve", scratch, "tmpfs", syscalls.MS_NODEV | syscalls.MS_NOSUID, options)
    os.chdir(scratch)


def limits(launch: Launch) -> None:
    """the resource limits, nice value and OOM score of a machine's own init, whatever who starts the VE has"""
    asked = launch.request["rlimits"]
    for name in rlimits.reset(asked):
        why = f"{name} {asked[name]} is more than the process that starts it may have"
        raise NotSupported(f"cannot limit the VE: {why}", "run it with CAP_SYS_RESOURCE")


def mapped_root(launch: Launch) -> None:
    """the host id that is root in the VE, keeping the host's capabilities"""
    privileges.become(launch.request["base"])


def clocks(launch: Launch) -> None:
    """a time namespace, where uptime and the monotonic clock begin now"""
    namespaces.start_clocks_at_zero()


def clone_init(launch: Launch) -> None:
    """init, cloned into the VE's cgroup and new user, pid, uts, ipc and net namespaces (or another VE's network)"""
    cgroup = os.open(launch.request["cgroup"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    flags = namespaces.flags(namespaces.CLONE, launch.request["namespaces"])
    if launch.request["netns"] >= 0:
        syscalls.setns(launch.request["netns"], syscalls.CLONE_NEWNET)
    try:
        pid = syscalls.clone3(flags, signal.SIGCHLD, cgroup)
    except SyscallError as error:
        if error.errno != errno.EACCES:
            raise
        raise NotSupported(  # who moves a process must be allowed to write to what both cgroups are below
            "from the cgroup of this process no other can be entered",
            hint="in a VE, call ve from what its init started, by `ve exec`, or by Environment.run(..., login=True)",
        ) from error
    if pid == 0:
        go(init.INIT, launch, launch.line)
    os.close(cgroup)
    launch.line.close()
    os.close(launch.root_ready)
    os.close(launch.limited)
    _go_home(launch, syscalls.CLONE_NEWTIME)
    if launch.request["netns"] >= 0:
        _go_home(launch, syscalls.CLONE_NEWNET)
    launch.pid = pid
    launch.pidfd = os.pidfd_open(pid)
    tell(launch.near, "INIT", namespaces.host_pid(launch.pidfd))


def id_maps(launch: Launch) -> None:
    """user and group ids 0..65535 of the VE are base.. on the host; and ids for VEs in it, if it may have some"""
    pid = namespaces.host_pid(launch.pidfd)
    namespaces.map_ids(pid, launch.request["ids"])
    launch.userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def layers(launch: Launch) -> None:
    """the template and the layers on it, read only, and the private area, their ids mapped"""
    request = launch.request
    below = {str(number): path for number, path in enumerate(request["layers"])} | {"template": request["template"]}
    for name in (*below, "private", "root"):
        os.mkdir(name, 0o755)
    if request["area"]:
        launch.private = os.path.abspath("area")
        os.mkdir("area", 0o755)
        _attach(_area(request["private"]), "area")
    for name, path in (below | {"private": launch.private}).items():
        if path:
            _attach(unionfs.layer(request["state_dir"], path, request["base"], launch.userns), name)
    launch.lower = ":".join(below)
    if not request["private"]:  # thrown away with this tmpfs, which belongs to the mapped root already
        unionfs.prepare("private", next(iter(below)))


def union(launch: Launch) -> None:
    """all these combined by overlayfs, and looked at: it may have become read only"""
    unionfs.Overlay(launch.lower, "private/upper", "private/work").mount("root")
    os.chdir("root")
    launch.root = os.stat(".")


def given(launch: Launch) -> None:
    """what --mount gives of the host"""
    buried = mounts.buried(launch.request["boots"])
    for source, target, read_only in launch.request["mounts"]:
        mounts.bind_from_host(source, target, read_only, launch.userns, buried)


def inner_state(launch: Launch) -> None:
    """a state dir for VEs in it, with the ids of each"""
    _, *inner = launch.request["ids"]
    if inner:
        nested.prepare(f"{launch.private}/inner", launch.userns, inner, mounts.buried(launch.request["boots"]))


def mount_action(launch: Launch) -> None:
    """the action script "mount", which sees the VE's root and may mount there"""
    for path in launch.request["actions"]:
        refused, say = os.pipe()
        pid = os.fork()
        if pid == 0:
            _exec_action(path, launch.request, say)
        os.close(say)
        ended = os.pidfd_open(pid)
        if launch.near.fileno() in _first(ended, launch.near.fileno()):
            os.killpg(pid, signal.SIGKILL)
            os._exit(1)
        os.close(ended)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if number := os.read(refused, 16):
            raise unrunnable(path, launch.request["veid"], OSError(int(number), ""))
        os.close(refused)
        if code:
            raise ActionFailed(f"{path} ended with {code}")


def protected_mounts(launch: Launch) -> None:
    """/proc, /sys, /dev with what they mask, then the VE's root as root; locked once init unshares"""
    request = launch.request
    if not os.read(launch.limits_set, 1):  # it still needs the host's /proc until then
        os._exit(1)  # it has failed, and says so itself
    syscalls.setns(launch.pidfd, syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWPID)
    answer, say = os.pipe()
    pid = os.fork()  # proc shows the pid namespace of its mounter, and only a child of ours is in the VE's
    if pid == 0:
        try:
            mounts.mount_protected(request["base"], request["protection"])
            fault(request["fault"], "pivot")
            mounts.pivot(request["old_root"])
            os.write(say, marshal.dumps(()))
        except (OSError, Error) as error:
            os.write(say, marshal.dumps(reason(error)))
        os._exit(0)
    os.close(say)
    said = os.read(answer, 65536)
    os.close(answer)
    os.waitpid(pid, 0)
    if failure := marshal.loads(said) if said else ("the process that mounts was killed", "", 0):
        what, hint, code = failure
        failed = Error(what, hint)
        failed.exit_code = code or failed.exit_code
        raise failed
    if not os.path.samestat(os.stat("/"), launch.root):  # or init would execute what is in the host's
        raise Error("the VE's root did not become the root")


def hand_over(launch: Launch) -> None:
    """setup is back in the host's namespaces, and init may go on"""
    _go_home(launch, 0)
    tell(launch.near, "MOUNTED")
    os.write(launch.go_on, b"x")
    os.close(launch.go_on)


def stay(launch: Launch) -> None:
    """wait for init and tell how it ended, or for the end of who asked"""
    maker = (launch.request["maker"],) if launch.request["ephemeral"] else ()
    if launch.pidfd not in _first(launch.pidfd, launch.near.fileno(), *maker):
        os._exit(0)  # the kernel ends what is in our PID namespace; a foreground VE runs on
    tell(launch.near, "ENDED", os.waitpid(launch.pid, 0)[1])


SETUP = (
    own_mounts,
    limits,
    mapped_root,
    clocks,
    clone_init,
    id_maps,
    layers,
    union,
    inner_state,
    given,
    mount_action,
    protected_mounts,
    hand_over,
    stay,
)


# --- their parts


def _first(*fds: int) -> set[int]:
    """Wait until one of these is readable or hung up; all that are."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll()}


def _go_home(launch: Launch, only: int) -> None:
    """Back into the host's namespaces (one of them, or all).

    In a VE not into that of time, which is its host's: then action scripts have the clocks of the VE in it.
    """
    for fd, flag in launch.home:
        try:
            if only in (0, flag):
                syscalls.setns(fd, flag)
        except SyscallError as error:
            if (error.errno, flag) != (errno.EPERM, syscalls.CLONE_NEWTIME):
                raise


def _area(private: str) -> int:
    from ve import looparea

    return looparea.mount(private)


def _attach(mount: int, point: str) -> None:
    try:
        syscalls.move_mount(mount, syscalls.AT_FDCWD, point)
    finally:
        os.close(mount)


def _exec_action(path: str, request: Request, say: int) -> NoReturn:
    try:
        os.setsid()
        privileges.become_root()
        os.dup2(2, 1)
        environment = {b"VEID": b"%d" % request["veid"], b"VE_ROOT": os.getcwdb()}
        os.chdir("/")
        farside.reset_signals()
        os.execve(path, [path], request["environ"] | environment)
    except OSError as error:
        os.write(say, b"%d" % (error.errno or 0))
    os._exit(127)
