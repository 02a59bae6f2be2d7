"""Removing a tree that strangers have filled, and nothing that somebody has mounted in it.

It is removed through a mount of its own, which is without those below it: whoever mounts something there meanwhile,
its content is not to be seen, and the directory that it is mounted on stays.
"""

import os

from ve import mountinfo, program
from ve._linux import syscalls
from ve.errors import Error, InUse


def remove(path: str, cannot: str) -> None:
    """Remove what is at path, if anything is; cannot: how the sentence of an error begins.

    InUse names what is mounted there; Error has what rm(1) says of anything else.
    """
    if not os.path.lexists(path):
        return
    directory, name = os.path.split(path)
    fd = syscalls.open_tree(syscalls.AT_FDCWD, directory, syscalls.OPEN_TREE_CLONE)
    try:
        remove_in(fd, name, cannot)
    except Error:
        refuse_mounted(path, cannot)
        raise
    finally:
        os.close(fd)


def remove_in(directory: int, name: str, cannot: str) -> None:
    """Remove what has this name in a directory, if anything has; what is mounted there stays, and is an Error."""
    why = _rm(directory, name)
    if why.endswith(": Operation not permitted"):  # only the host's root can have made it so: chattr(1)
        program.run(directory, "chattr", "-R", "-f", "-i", "-a", "--", name)
        why = _rm(directory, name)
    if why:
        raise Error(f"{cannot}: {why}")


def refuse_mounted(path: str, cannot: str) -> None:
    """InUse if something is mounted at path or below."""
    for point in mountinfo.below(path):
        raise InUse(f"{cannot}: something is mounted at {point}", hint=f"umount {point}")


def _rm(directory: int, name: str) -> str:
    """rm(1), which no depth or name of a file stops; the first thing that it says."""
    done = program.run(directory, "rm", "-rf", "--one-file-system", "--", name)
    return program.said(done, "rm") if done.returncode or done.stderr else ""
