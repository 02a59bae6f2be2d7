"""What a process may do: the few process attributes that a launch sets, by python-prctl."""

from __future__ import annotations

import os
import signal

import prctl

from ve._linux import syscalls


def become(host_id: int) -> None:
    """Take host_id as user and group, and no others, but keep every capability (capabilities(7), "securebits")."""
    prctl.securebits.no_setuid_fixup = True
    os.setgroups([])
    os.setresgid(host_id, host_id, host_id)
    os.setresuid(host_id, host_id, host_id)


def become_root() -> None:
    """In a user namespace whose ids are mapped by now: be its root, as a login would (no securebits stay)."""
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    prctl.securebits.no_setuid_fixup = False


def hide() -> None:
    """Nobody but the host's root may trace us or look at our memory, descriptors and executable (ptrace(2))."""
    prctl.set_dumpable(0)


def die_with_parent() -> None:
    """SIGKILL when the thread that forked us ends; a second line only, since prctl(2) lets it be cleared."""
    prctl.set_pdeathsig(signal.SIGKILL)


def reset_signals() -> None:
    """All signals at their default and unblocked: the interpreter ignores SIGPIPE and SIGXFSZ, a program must not."""
    for number in range(1, 65):
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            syscalls.rt_sigaction(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
