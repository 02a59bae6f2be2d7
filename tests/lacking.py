"""A host that lacks something: python lacking.py SYSCALL[:TEXT]=ERRNO... -- COMMAND...

The command, and all that it starts, is refused each of these system calls with that error, as on a kernel that was
built without them or under the filter of a container.  With TEXT only those whose third argument is that string:
mount(2)'s kind of file system.  The exit code is the command's.
"""

import errno
import fcntl
import os
import select
import socket
import struct
import sys

import pyseccomp

# What a host lacks where the kernel answers so: the rows of ve/facilities.py that a filter can take away, one by one.
# "pivot_root" and the like stay alone; "mount API" and "mount of tmpfs" take with them what is tried by means of them.
REFUSED = {
    "memfd": "memfd_create=ENOSYS",
    "pidfd": "pidfd_open=ENOSYS",
    "CLONE_INTO_CGROUP": "clone3=ENOSYS",
    "mount API": "move_mount=ENOSYS",
    "mount of proc": "mount:proc=EPERM",
    "mount of sysfs": "mount:sysfs=EPERM",
    "mount of tmpfs": "mount:tmpfs=ENODEV",
    "mount of devpts": "mount:devpts=ENODEV",
    "mount of mqueue": "mount:mqueue=ENODEV",
    "mount of cgroup2": "mount:cgroup2=ENODEV",
    "pivot_root": "pivot_root=EINVAL",
    "overlayfs": "mount:overlay=ENODEV",
    "seccomp": "seccomp=EINVAL",
    "session keyring": "keyctl=EPERM",
    "device filter": "bpf=ENOSYS",
    "openat2": "openat2=ENOSYS",
    "fsopen": "fsopen=ENOSYS",
    "inotify": "inotify_init1=EMFILE",
    "xattrs": "fsetxattr=EOPNOTSUPP",
    "device nodes": "mknodat=EPERM",
}
NOT_ALONE = {"mount API", "mount of tmpfs", "memfd"}  # in one of these overlayfs is asked what it can note

# <linux/seccomp.h>
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND
_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE

Refused = tuple[str, str, int]  # name, text, errno


def main(words: list[str]) -> int:
    end = words.index("--")
    refused = [_parse(word) for word in words[:end]]
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        _load(refused)
        socket.send_fds(theirs, [b"x"], _listeners())
        os.execvp(words[end + 1], words[end + 1 :])
    theirs.close()
    listeners = socket.recv_fds(ours, 1, 1)[1]
    ended = os.pidfd_open(pid)
    while ended not in (ready := select.select([*listeners, ended], [], [])[0]):
        _answer(ready[0], {text: error for _, text, error in refused if text})
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _parse(word: str) -> Refused:
    call, _, error = word.partition("=")
    name, _, text = call.partition(":")
    return name, text, getattr(errno, error)


def _load(refused: list[Refused]) -> None:
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    rules.set_attr(pyseccomp.Attr.CTL_NNP, 0)
    for name, text, error in refused:
        rules.add_rule(pyseccomp.NOTIFY if text else pyseccomp.ERRNO(error), name)
    rules.load()


def _listeners() -> list[int]:
    paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    links = {path: os.readlink(path) for path in paths if os.path.lexists(path)}  # not the one of listdir itself
    return [int(os.path.basename(path)) for path, link in links.items() if link == "anon_inode:seccomp notify"]


def _answer(listener: int, errors: dict[str, int]) -> None:
    asked = bytearray(80)
    try:
        fcntl.ioctl(listener, _RECEIVE, asked)
        number, pid, *_, third = struct.unpack_from("QIIiIQQQQ", asked)
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(third)
            text = memory.read(32).partition(b"\0")[0].decode() if third else ""
        error = errors.get(text, 0)
        fcntl.ioctl(listener, _SEND, struct.pack("QqiI", number, 0, -error, 0 if error else _CONTINUE))
    except OSError:
        pass  # who asked was killed


def cures(name: str) -> set[str]:
    """All that may be said to cure the lack of a facility, here or in a container."""
    from ve import engine, facilities  # which what is run under a filter does without

    tables = (facilities.KERNEL, facilities.STORAGE, facilities.LIBRARIES, facilities.DEVICES, facilities.NOTES)
    row = next(row for rows in tables for row in rows if row.name == name)
    flags = {engine.cure(name, number, each) for each in engine.ENGINES for number in (0, errno.EPERM)}
    return {row.cure, *row.cures.values()} | flags - {""}


def without(row: str) -> tuple[str, ...]:
    """What stands before a command that shall find this facility missing."""
    return (sys.executable, __file__, REFUSED[row], "--")


def without_capability(name: str) -> tuple[str, ...]:
    return ("setpriv", "--bounding-set", f"-{name}", "--inh-caps", f"-{name}", "--")


def with_mounts(script: str) -> tuple[str, ...]:
    """Behind a script that mounts in a namespace of its own."""
    return ("unshare", "--mount", "sh", "-ec", f'{script}; exec "$@"', "sh")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
