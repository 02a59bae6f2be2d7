"""What a process may do: the few process attributes that a launch sets, by python-prctl."""

from __future__ import annotations

import os

import prctl

from ve import farside


def become(host_id: int) -> None:
    """Take host_id as user and group, and no others, but keep every capability (capabilities(7), "securebits")."""
    prctl.securebits.no_setuid_fixup = True
    farside.become(host_id, host_id)


def be_called(name: bytes) -> None:
    """Until the next exec; for all to see, also in the VE."""
    prctl.set_name(os.fsdecode(name))


def become_root() -> None:
    """In a user namespace whose ids are mapped by now: be its root, as a login would (no securebits stay)."""
    farside.become(0, 0)
    prctl.securebits.no_setuid_fixup = False
