"""What confines a process of a VE beside its namespaces: on every way in, by this one function.

The VE's init goes through it before its exec, and so does each command that enters from outside (exec, enter, console,
run, popen); what they start inherits it.  Both are far sides, so this imports next to nothing.
"""

from __future__ import annotations

import errno

from ve import procfs
from ve._linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypedDict

    class Confinement(TypedDict):
        """What a far side is told."""

        capabilities: int  # those it may have, a bit each
        keyring: bool  # a session keyring of its own
        no_new_privs: bool
        filters: tuple[bytes, ...]  # programs for seccomp(2)


def confine(confinement: Confinement) -> None:
    """As root of the VE, in its namespaces: have no more than this, for ever, and neither what we start.

    Capabilities that are dropped from the bounding set are gone with the next exec (capabilities(7)).
    """
    if confinement["keyring"]:
        _own_keyring()
    for capability in range(64):
        if not confinement["capabilities"] >> capability & 1 and not _drop(capability):
            break
    if confinement["no_new_privs"]:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    for program in confinement["filters"]:
        syscalls.seccomp(syscalls.SECCOMP_SET_MODE_FILTER, program)


def of(pid: int, filters: tuple[bytes, ...]) -> Confinement:
    """That of the VE whose init is pid; the kernel tells all of it but the filters.  ProcessLookupError."""
    try:
        fields = procfs.status(pid)
        capabilities, no_new_privs = int(fields["CapBnd"], 16), fields["NoNewPrivs"] == "1"
    except (OSError, KeyError):
        raise ProcessLookupError(errno.ESRCH, "No such process") from None
    return {"capabilities": capabilities, "keyring": True, "no_new_privs": no_new_privs, "filters": filters}


def _own_keyring() -> None:
    """A new session keyring, empty: ours is that of whoever called us (session-keyring(7))."""
    try:
        syscalls.keyctl(syscalls.KEYCTL_JOIN_SESSION_KEYRING)
    except OSError as error:
        if error.errno != errno.ENOSYS:  # a kernel without keys, or a VE in a VE, where the outer filter refuses
            raise


def _drop(capability: int) -> bool:
    """False if the kernel knows neither this one nor any after it."""
    try:
        syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True
