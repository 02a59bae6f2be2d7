"""What this host has of all that VEs need (the tables of ve/facilities.py), each line of it tried for real.

What the kernel must do is tried by another process (ve/probes.py), so that the caller is never changed and nothing is
left; what is a program, a controller or a device is looked for.
"""

from __future__ import annotations

import errno
import marshal
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ve import (
    cgrouproot,
    engine,
    facilities,
    ground,
    interpreter,
    mountinfo,
    otherfirewalls,
    quota,
    seccomp,
    substitute,
)
from ve.errors import NotSupported
from ve.facilities import EVERY, Row
from ve.state import State

_PT_INTERP = 3  # elf(5)
_LAYERS = ("idmapped mounts", "overlayfs")  # what a file system may be unfit for
_SELINUX, _APPARMOR = "/sys/fs/selinux/enforce", "/proc/self/attr/current"


@dataclass(frozen=True)
class Facility:
    """Something that this host has or lacks; lost: what is lost without it.

    Only of what is missing: cure, how to get it, and why, what the kernel said.  required is whether no VE starts
    without it; else needed_by names what does not work, if it is something that can be named.
    """

    name: str
    present: bool
    required: bool
    needed_by: tuple[str, ...]
    lost: str
    cure: str
    why: str = ""


Missing = tuple[int, str] | tuple[int, str, str]  # errno, what is to be said of it, the cure for just that; or (0, "")


def check(state_path: str, only: Iterable[str] = ()) -> list[Facility]:
    """Try all that VEs in this state directory, which may not exist yet, would need; or these facilities only."""
    wanted = set(only)
    found = []
    for rows, look in _looks(State(state_path), wanted):
        found += [_facility(row, look(row.name)) for row in rows if not wanted or row.name in wanted]
    return found


def explained(why: str, state_path: str, only: Iterable[str] = ()) -> tuple[str, str]:
    """What failed, and what this host lacks that every VE needs, if it does; the cure of that, or ""."""
    missing = next((each for each in check(state_path, only) if each.required and not each.present), None)
    if missing is None:
        return why, ""
    _, _, said = missing.why.partition(" ")  # most begin with a system call's name
    reason = "" if said in why else f" ({missing.why})"
    return f"{why}: no {missing.name} here{reason}, and every profile needs it", missing.cure


def _looks(state: State, wanted: set[str]) -> list[tuple[tuple[Row, ...], Callable[[str], Missing]]]:
    root = _cgroup_root()
    names = [row.name for row in facilities.KERNEL if not wanted or row.name in wanted]
    tried = _probe(state, root, names)
    layers = [name for name in _LAYERS if name in tried]
    better, instead = _instead(state, root, layers) if _lacks(tried, layers) else ("", {})
    tried |= instead
    controllers = _read(f"{root}/cgroup.controllers").split() if root else []
    return [
        (facilities.KERNEL, lambda name: tried.get(name, (0, "the process that tries it has failed"))),
        (facilities.CONTROLLERS, lambda name: _unless(name.split()[0] in controllers, "cgroup2 does not offer it")),
        (facilities.STORAGE, lambda _: (0, quota.lacking(ground.nearest(state.path)))),
        (facilities.LIBRARIES, lambda _: _without_libseccomp()),
        (facilities.DEVICES, lambda path: (0, facilities.refused(path))),
        (facilities.PROGRAMS, lambda name: _unless(_has(name), "not installed")),
        (facilities.NOTES, lambda name: _NOTES[name](state.path, better)),
    ]


def way(state: State) -> str:
    """Which of substitute.WAYS VEs can be on where the state dir is on what they cannot; "" if none, or no need."""
    root = _cgroup_root()
    return _instead(state, root, _LAYERS)[0] if _lacks(_probe(state, root, _LAYERS), _LAYERS) else ""


def _instead(state: State, root: str, names: Sequence[str]) -> tuple[str, dict[str, Missing]]:
    """The first way to have these, and what is said of them then."""
    for each in substitute.WAYS if substitute.unfit(state.path) else ():
        tried = _probe(state, root, names, each)
        if not _lacks(tried, names):
            return each, tried
    return "", {}


def _lacks(tried: Mapping[str, Missing], names: Sequence[str]) -> bool:
    return any(tried.get(name, (0, "not tried"))[1] for name in names)


def _facility(row: Row, missing: Missing) -> Facility:
    number, why, *better = missing
    own = row.cures.get(number, "") if number != errno.EPERM else ""
    flags = engine.cure(row.name, number, engine.running()) if why else ""
    cure = next(filter(None, (*better, own, flags, row.cures.get(number), row.cure)), "")
    return Facility(row.name, not why, row.needed_by == EVERY, row.needed_by, row.lost, cure, why)


def _unless(present: bool, why: str) -> Missing:
    return 0, "" if present else why


def _probe(state: State, cgroup_root: str, names: Sequence[str], way: str = "") -> dict[str, Missing]:
    """What is missing of these; nothing at all if the process that tries has failed."""
    done = subprocess.run(
        interpreter.command("ve.probes", state.path, state.run_dir, cgroup_root, way, *names),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us; it cleans up in any case
        check=False,
    )
    return marshal.loads(done.stdout) if done.stdout else {}


def _cgroup_root() -> str:
    try:
        return cgrouproot.find()
    except (NotSupported, OSError):  # or /proc is not there
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _without_libseccomp() -> Missing:
    try:
        seccomp.compile()
    except (NotSupported, OSError) as error:
        return 0, str(error)
    return 0, ""


def _security_module(path: str, better: str) -> Missing:
    if _read(_SELINUX).strip() == "1":
        return 0, "SELinux is enforcing"
    label = _read(_APPARMOR).strip("\0\n")
    return 0, f"AppArmor confines us: {label}" if label.endswith(("(enforce)", "(kill)")) else ""


def _other_firewall(path: str, better: str) -> Missing:
    found = otherfirewalls.others_drop()
    if not found:
        return 0, ""
    chains = ", ".join(each.chain for each in found)
    return 0, f"{chains} drops what VEs send and get", "; ".join(each.cure for each in found)


def _unfit(path: str, better: str) -> Missing:
    """Whether the state dir is on a file system of its own, or will be."""
    if there := substitute.present(path):
        kind = mountinfo.holding(os.path.dirname(os.path.realpath(path))).kind
        return 0, f"it is on {substitute.told(there, path)}, as nobody can map the ids of {kind}"
    if not better:
        return 0, ""
    later = f"the first template or VE puts it on {substitute.told(better, path)}"
    return 0, f"nobody can map the ids of {substitute.unfit(path)}; {later}"


_NOTES = {
    "fit state directory": _unfit,
    "no security module": _security_module,
    "no firewall that drops by default": _other_firewall,
}


def _has(program: str) -> bool:
    path = shutil.which(program.removesuffix("-static"))
    return path is not None and (not program.endswith("-static") or _is_static(path))


def _is_static(path: str) -> bool:
    """Whether the program needs no interpreter, and so runs in any root: its ELF header names none (PT_INTERP)."""
    with open(path, "rb") as file:
        head = file.read(4096)
    if head[:4] != b"\x7fELF" or len(head) < 64:
        return False
    order = "<" if head[5] == 1 else ">"
    wide = head[4] == 2
    [table] = struct.unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28)
    size, count = struct.unpack_from(order + "HH", head, 54 if wide else 42)
    kinds = (head[table + number * size :][:4] for number in range(count))
    return struct.pack(order + "I", _PT_INTERP) not in kinds
