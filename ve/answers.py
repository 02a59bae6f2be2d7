"""The answers of `ve explain`, for each kind of right: is it held, what decides that, and how is that changed.

Of a running VE the kernel is asked what it can tell (ve/places.py), and the tables of its start which setting decided.
Of one that does not run, the tables tell what its next start gives.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ve import devices, mounts, outfit, places, rights
from ve.errors import InvalidValue
from ve.model import Config

# What there is to say of a capability that the kernel asks for in the host's user namespace, where a VE's root has none
ON_HOST = "but the kernel asks for it on the host, where a VE's root has none: it moves nothing"
REMARKS = {
    **dict.fromkeys(("sys_module", "sys_rawio", "mknod", "sys_pacct", "sys_tty_config", "wake_alarm"), ON_HOST),
    **dict.fromkeys(("block_suspend", "linux_immutable", "syslog", "audit_control", "audit_read"), ON_HOST),
    "sys_time": "but the wall clock is the host's: it only moves the clocks of new time namespaces",
}
# System calls that the filter lets through and the kernel refuses without a capability: on the host, or in the VE.
NEEDS: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
    ("sys_time", True, ("settimeofday", "clock_settime", "stime")),
    ("sys_rawio", True, ("iopl", "ioperm")),
    ("sys_admin", True, ("swapon", "swapoff")),
    ("sys_pacct", True, ("acct",)),
    ("sys_tty_config", True, ("vhangup",)),
    ("sys_boot", False, ("reboot",)),
    ("sys_chroot", False, ("chroot",)),
    ("sys_admin", False, ("mount", "umount2", "pivot_root", "fsopen", "fsmount", "sethostname", "setdomainname")),
)
# What the VE's own namespaces have below /proc/sys, and the capability that writing it takes beside being root there.
OWN_SYSCTLS = {
    **dict.fromkeys(rights.profile("sysctl").sysctls, ""),
    "net": "net_admin",
    "user": "sys_resource",
}
MAKE_NAMESPACES = ("unshare", "clone", "clone3")
MAKE_NODES = ("mknod", "mknodat")
MOUNT = ("mount", "fsopen", "fsmount")
_LATER = "whoever mounted it: a process inside, or an action script"


@dataclass(frozen=True)
class Subject:
    """The VE that is asked about: what it was started with, or will be, and what its conf file has for the next."""

    key: str  # what to call it in a command
    config: Config
    waiting: Config
    boots: bool
    ephemeral: bool
    running: places.Running | None
    other_filter: bool = False  # it was started with a filter that is not of our table

    def change(self, **options: Iterable[str]) -> str:
        """The command that gives it these values of repeatable options, which replace all that there are."""
        given = " ".join(text for name, values in options.items() for text in _spelled(f"--{name}", values))
        if self.ephemeral:
            return f"ve run ... {given}"
        return f"ve set {self.key} {given} --save" + (f", then ve restart {self.key}" if self.running else "")

    def has(self, capability: str) -> bool:
        return self.running.has(capability) if self.running else capability in self.config.rights.capabilities


def _spelled(option: str, values: Iterable[str]) -> list[str]:
    return [f"{option} {shlex.quote(value)}" for value in dict.fromkeys(values)] or [f'{option} ""']


@dataclass(frozen=True)
class Answer:
    held: bool
    why: str
    setting: str
    cure: str = ""


def capability(name: str, subject: Subject) -> Answer:
    """Of its root, over what the VE's own user namespace owns."""
    option, held = subject.config.capabilities.get(name), subject.has(name)
    granting = [row.name for row in rights.PROFILES if name in row.grants]
    given = [profile for profile in subject.config.rights.profiles if profile in granting]
    if held != (name in subject.config.rights.capabilities):
        setting = "the kernel, whatever it was given"
    elif option:
        setting = f"--capability {name}:{option}"
    elif given:
        setting = f"profile {given[0]}"
    elif name in rights.ANNOUNCED:
        setting = f"the announcement takes it from root{_but(granting)}"
    else:
        setting = "every VE has it"
    why = "its root has it" if held else "its root lacks it"
    remark = REMARKS.get(name, "")
    cure = subject.change(capability=_switched(name, "off" if held else "on", subject))
    if remark == ON_HOST and not held:
        cure = ""
    return Answer(held, f"{why}, {remark}" if remark else why, setting, cure)


def _switched(name: str, switch: str, subject: Subject) -> list[str]:
    switches = {**subject.waiting.capabilities, name: switch}
    return [f"{each}:{word}" for each, word in switches.items()]


def _but(profiles: list[str]) -> str:
    if not profiles:
        return ""
    who = f"profile {profiles[0]} gives" if len(profiles) == 1 else f"profiles {', '.join(profiles)} give"
    return f", and {who} it back"


def system_call(name: str, subject: Subject) -> Answer:
    """Does the filter let it through, and is there a capability that the kernel wants before all else?"""
    if subject.running and not subject.running.filtered:
        return Answer(True, "it runs without a filter of system calls", "the kernel, whatever it was given")
    rows = [row for row in rights.REFUSALS if name in row.syscalls]
    stale = "; it was started with the filter of another ve" if subject.other_filter and subject.running else ""
    for row in rows:
        if row.argument is None:
            why = f"the filter answers {row.error}: {row.why}{stale}"
            return Answer(False, why, f"row {row.name} of the refused system calls")
    passes = f"the filter lets it through{''.join(map(_but_for, rows))}{stale}"
    names = " and ".join(row.name for row in rows)
    setting = f"row {names} of the refused system calls" if rows else "it is not refused to any VE"
    for needed, of_host, calls in NEEDS:
        if name in calls and of_host:
            return Answer(False, f"{passes}, but the kernel wants {needed} on the host", "the kernel, of every VE")
        if name in calls and not subject.has(needed):
            of = capability(needed, subject)
            why = f"{passes}, but the kernel wants capability {needed}, which its root lacks"
            return Answer(False, why, of.setting, of.cure)
    return Answer(True, passes + _note(name, subject.config.rights), setting)


def _but_for(row: rights.Refusal) -> str:
    return f", but answers {row.error} for {row.only}: {row.why}"


def _note(name: str, given: rights.Rights) -> str:
    """What else the VE's rights say of a system call that is let through."""
    if name in MAKE_NAMESPACES and not given.user_namespaces:
        return ", but no user namespace can be made, by profile strict"
    if name in MOUNT and given.proc != "whole":
        return ", but the kernel refuses a fresh proc where another is masked; in profile nesting none is"
    if name in MAKE_NODES:
        return ", but the kernel wants mknod on the host for the node of a device"
    return ""


def device(path: str, subject: Subject) -> Answer:
    """May it be opened?"""
    name, option = path.removeprefix("/dev/"), subject.waiting.devices
    granting = [row for row in rights.PROFILES if path in row.devices]
    given = [row.name for row in granting if row.name in subject.config.rights.profiles]
    if path in subject.config.devices:
        setting = f"--device {path}"
    elif given:
        setting = f"profile {given[0]}"
    elif name in {each for each, *_ in (*mounts.DEVICES, *mounts.LINKS)}:
        setting = places.EVERY
    elif name == "console":
        setting = "only ve start --foreground gives one"
    else:
        setting = "no --device and no profile gives it"
    promised = not setting.startswith(("no ", "only "))
    held = _opens(path, subject) if subject.running else promised
    if held:
        fewer = [each for each in option if each != path]
        cure = subject.change(device=fewer) if path in option else ""
        return Answer(True, "its node is there, and may be opened", setting, cure)
    if promised:
        cure = "" if subject.ephemeral else f"ve restart {subject.key}"
        return Answer(False, "it was given, but its node is gone from /dev", setting, cure)
    cure = "" if name == "console" else subject.change(device=[*option, path])
    if cure and not devices.on_host(path):
        cure = f"load its driver on the host, then {cure}"
    return Answer(False, "it has no node that may be opened", setting, cure)


def _opens(path: str, subject: Subject) -> bool:
    """Is there a node, and does the filter at the VE's cgroup let it open that one?"""
    if not subject.running:
        return False
    if subject.running.link(path) in dict(mounts.LINKS).values():
        return True  # to what whoever follows it has open, or to its own ptmx
    at = subject.running.find(path).at
    if at is None or not devices.is_one(at):
        return False
    given = map(devices.on_host, subject.config.devices + subject.config.rights.devices)
    allowed = outfit.may_open(filter(None, given))
    kind, major, minor = devices.of(at)
    return (kind, major, minor) in allowed or (kind, major, None) in allowed


def path(name: str, subject: Subject) -> Answer:
    """May its root write it, or what is below it?"""
    planned = places.planned(subject.config, subject.boots)
    name = re.sub(r"^/proc/(self|thread-self)(?=/|$)", "/proc/1", name)  # whose is no matter here
    name = re.sub(r"^/proc/(net|mounts)(?=/|$)", r"/proc/1/\1", name)
    name = re.sub(r"^/dev/fd(?=/)", "/proc/1/fd", name)
    if not subject.running:
        place = places.covering(name, planned)
        return _in_place(name, place, place.access, subject)
    found = subject.running.find(name)
    unknown = places.Place(found.mount.point, "", f"a {found.mount.kind} that was mounted later", _LATER)
    place = planned.get(found.mount.point, unknown)
    if found.why_not == errno.ENOENT and found.mount.kind in ("proc", "sysfs"):
        return Answer(False, "this kernel has no such file, or none for the VE", "the kernel")
    access = place.access if place.access == places.HIDDEN else _access(name, found, subject.running)
    return _in_place(name, place, access, subject, _missing(found.why_not))


def _missing(number: int) -> str:
    if number == errno.ENOENT:
        return "; there is no such file now"
    return f"; it could not be followed: {os.strerror(number)}" if number else ""


def _access(name: str, found: places.Found, running: places.Running) -> str:
    if found.read_only:
        return places.READ_ONLY
    if name.startswith("/proc/sys/"):  # whose owner and mode say less than the kernel asks there
        return places.WRITABLE
    ours = found.at is None or found.mount.point == name or running.owns(found.at)
    return places.WRITABLE if ours else places.NOT_OURS


def _in_place(name: str, place: places.Place, access: str, subject: Subject, there: str = "") -> Answer:
    if access == places.WRITABLE and name.startswith("/proc/sys/"):
        return _sysctl(name, place, subject)
    if access == places.WRITABLE and place.point == "/proc" and not re.match("/proc(/[0-9].*)?$", name):
        access = places.NOT_OURS  # of what is no process's
    where = "" if place.point in (name, "/") or place.point in place.what else f", in {place.point}"
    why = f"{access}: {place.what}{where}{there}"
    return Answer(access == places.WRITABLE, why, place.setting, _cure(name, place, access, subject))


def _cure(name: str, place: places.Place, access: str, subject: Subject) -> str:
    """How the other access to a path is got."""
    for mount in subject.waiting.mounts:
        if place.setting == f"--mount {mount}":
            other = replace(mount, read_only=not mount.read_only)
            all_ = [str(other if each == mount else each) for each in subject.waiting.mounts]
            return subject.change(mount=all_)
    if access != places.READ_ONLY or _area(name) not in rights.profile("sysctl").sysctls:
        return ""
    options = {"profile": _with_profile("sysctl", subject)}
    needed = OWN_SYSCTLS.get(_area(name))
    if needed and needed not in subject.waiting.rights.capabilities:
        options["capability"] = _switched(needed, "on", subject)
    return subject.change(**options)


def _area(path: str) -> str:
    """Which of OWN_SYSCTLS a path is in, or nothing."""
    return next((own for own in OWN_SYSCTLS if f"{path}/".startswith(f"/proc/sys/{own}/")), "")


def _sysctl(name: str, place: places.Place, subject: Subject) -> Answer:
    """One that no mount protects: the kernel lets a VE's root write those of the VE's own namespaces."""
    area = _area(name)
    if not area:
        return Answer(False, "can be read, not written: the kernel leaves it to root of the host", "the kernel")
    if (needed := OWN_SYSCTLS[area]) and not subject.has(needed):
        of = capability(needed, subject)
        return Answer(False, f"can be read; to write it the kernel wants capability {needed}", of.setting, of.cure)
    limit = "; it is the limit of shmpages, which so holds no more" if area == "kernel/shmall" else ""
    return Answer(True, f"can be written: it is of a namespace of the VE's own{limit}", place.setting)


def profile(name: str, subject: Subject) -> Answer:
    """Does it have it, and what is that good and bad for?"""
    row, held = rights.profile(name), name in subject.config.rights.profiles
    loses = f"; a VE that has it loses {row.loses}" if row.loses else ""
    setting = " ".join(f"--profile {each}" for each in subject.config.profiles) or "no --profile was given"
    fewer = [each for each in subject.waiting.profiles if each != name]
    cure = subject.change(profile=fewer) if held else subject.change(profile=_with_profile(name, subject))
    return Answer(held, f"{row.text}{loses}", setting, "" if held and name == "default" else cure)


def _with_profile(name: str, subject: Subject) -> list[str]:
    """One more; in place of the others where it contradicts them."""
    more = [*(each for each in subject.waiting.profiles if each != "default"), name]
    with contextlib.suppress(InvalidValue):
        rights.resolve(more, {})
        return more
    return [name]


KINDS: dict[str, Callable[[str, Subject], Answer]] = {
    "capability": capability,
    "system call": system_call,
    "device": device,
    "path": path,
    "profile": profile,
}
