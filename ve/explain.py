"""`ve explain`: whether a VE has a right, which setting decides that, and how to change it.

What a word means is told here, by its spelling; ve/answers.py has what there is to say.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ve import answers, devices, mounts, outfit, places, rights, seccomp
from ve.errors import InvalidValue, NotFound, NotSupported
from ve.facts import Facts
from ve.instance import Instance
from ve.model import Config, Mount

_PREFIXES = {kind.replace("system call", "syscall"): kind for kind in answers.KINDS}


@dataclass(frozen=True)
class Explanation:
    """One answer; kind is a key of answers.KINDS, when "now" or "next start", cure empty if nothing changes it."""

    right: str
    kind: str
    held: bool
    when: str
    why: str
    setting: str
    cure: str


def explain(instance: Instance, right: str) -> list[Explanation]:
    """An answer for each thing of this name; InvalidValue names the nearest if there is none."""
    with instance.init() as init:
        if init:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # of /proc: it ends while we look
                return _answers(instance, right, init[0])
    return _answers(instance, right, None)


def _answers(instance: Instance, right: str, facts: Facts | None) -> list[Explanation]:
    with contextlib.ExitStack() as held:
        running = None
        if facts:
            running = places.Running(facts.pid)
            held.callback(running.close)
        settings = instance.config
        subject = answers.Subject(
            key=instance.name or str(instance.veid),
            config=_begun(outfit.begun_with(facts, settings), settings),
            waiting=settings,
            boots=facts.init != "small" if facts else _boots(instance),
            ephemeral=instance.ephemeral,
            running=running,
            other_filter=facts is not None and facts.extra.get("filter") != seccomp.name(),
        )
        return [_explained(subject, kind, name) for kind, name in named(right, subject)]


def _begun(begun: dict[str, Any], settings: Config) -> Config:
    """What of rights a start had."""
    return replace(
        settings,
        profiles=tuple(begun["profiles"]) if begun["profiles"] != ["default"] else (),
        capabilities=dict(begun["capabilities"]),
        devices=tuple(begun["devices"]),
        mounts=tuple(map(Mount.parse, begun["mounts"])),
    )


def _boots(instance: Instance) -> bool:
    try:
        return bool(instance.template.init)
    except NotFound:
        return True  # it cannot start anyway


def _explained(subject: answers.Subject, kind: str, name: str) -> Explanation:
    answer = answers.KINDS[kind](name, subject)
    if subject.running and not subject.ephemeral:
        begun, waiting = (
            answers.KINDS[kind](name, replace(subject, config=config, running=None)).held
            for config in (subject.config, subject.waiting)
        )
        if begun != waiting != answer.held:
            why = f"{answer.why}; its next start changes that"
            answer = replace(answer, why=why, cure=f"ve restart {subject.key}")
    when = "now" if subject.running else "next start"
    return Explanation(name, kind, answer.held, when, answer.why, answer.setting, answer.cure)


# --- what a word means --------------------------------------------------------------------------------------------


def named(right: str, subject: answers.Subject) -> list[tuple[str, str]]:
    """The kinds of right that this is the name of, and its name there; KIND:NAME is of that kind alone."""
    kind, colon, name = right.partition(":")
    if colon and kind in _PREFIXES:
        return [_of_kind(_PREFIXES[kind], name, subject)]
    if right.startswith("/"):
        return [_of_path(right, subject)]
    found = [(kind, plain) for kind, (plain, known) in _names(right).items() if plain in known]
    if found:
        return found
    known = {name for _, names in _names(right).values() for name in names}
    near = "" if "/" in right else rights.nearest(right.lower(), known)
    what = f"cannot explain {right!r}: no capability, system call or profile has that name"
    raise InvalidValue(what, f"did you mean {near}?" if near else "a path or a device begins with /")


def _names(right: str) -> dict[str, tuple[str, Iterable[str]]]:
    """Of each kind that has names: how this one is spelled there, and all there are."""
    return {
        "capability": (right.lower().removeprefix("cap_"), rights.CAPABILITIES),
        "system call": (re.sub(r"\((2)?\)$", "", right), _system_calls()),
        "profile": (right, [row.name for row in rights.PROFILES]),
    }


def _system_calls() -> set[str]:
    try:
        return seccomp.system_calls()
    except NotSupported:  # of libseccomp; then only those of our own table can be told
        return {call for row in rights.REFUSALS for call in row.syscalls}


def _of_kind(kind: str, name: str, subject: answers.Subject) -> tuple[str, str]:
    if kind in ("device", "path"):
        if not name.startswith("/"):
            near = f"/dev/{name.removeprefix('dev/')}" if kind == "device" else f"/{name}"
            raise InvalidValue(f"cannot explain {kind} {name!r}: it is not an absolute path", f"did you mean {near}?")
        return _of_path(name, subject) if kind == "device" else (kind, name)
    plain, known = _names(name)[kind]
    if plain not in known:
        hint = rights.did_you_mean(plain, known)
        if kind == "system call" and not rights.nearest(plain, known):
            hint = "a VE gets ENOSYS for one that libseccomp does not know"
        raise InvalidValue(f"cannot explain {kind} {name!r}: there is none", hint)
    return kind, plain


def _of_path(text: str, subject: answers.Subject) -> tuple[str, str]:
    """A device below /dev, or a path; InvalidValue for a name there that nobody has."""
    if "\0" in text:
        raise InvalidValue(f"cannot explain {text!r}: it is no path")
    path = "/" + os.path.normpath(text).lstrip("/")
    if not path.startswith("/dev/") or _is_mounted(path) or path.startswith("/dev/fd/"):
        return "path", path
    inside = subject.running.find(path).at if subject.running else None
    if path in _devices(subject) or devices.is_one(inside) or devices.on_host(path):
        return "device", path
    if inside:
        return "path", path
    raise InvalidValue(f"cannot explain device {path!r}: neither the VE nor the host has one", mounts.device_hint(path))


def _is_mounted(path: str) -> bool:
    return any(f"{path}/".startswith(f"/{point}/") for _, point, _, _ in mounts.OWN)


def _devices(subject: answers.Subject) -> set[str]:
    """Those that have a name of ours."""
    own = {f"/dev/{name}" for name, *_ in (*mounts.DEVICES, *mounts.LINKS)}
    of_profiles = {path for row in rights.PROFILES for path in row.devices}
    return own | of_profiles | {"/dev/console", *subject.config.devices, *subject.waiting.devices}
