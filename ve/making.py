"""How a VE is made on disk: its conf file, with which it exists, and what a start of it needs to be there."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any

from ve import attachment, config, ending, hardware, mounts
from ve.errors import BrokenConfig, Exists, NotFound
from ve.facilities import require
from ve.model import Config
from ve.options import parsed
from ve.wholefile import sync

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ve.instance import Instance
    from ve.state import State
    from ve.template import Template


def create(instance: Instance, template: Template, options: Mapping[str, Any], stack: tuple[str, ...] = ()) -> None:
    """Make this VE from a template that is held; Exists, InvalidValue, DiskFull, and then nothing is left of it.

    stack: layers that it is made on, the newest first, which are held as well.
    """
    state, veid = instance.state, instance.veid
    settings = settings_of(state, veid, template.ref, options, stack)
    with state.lock(veid), contextlib.ExitStack() as undo:
        if state.exists(veid):
            raise Exists(f"cannot create {veid}: it exists", hint="ve list shows all")
        undo.callback(ending.remove_all, instance)
        ending.remove_remains(instance)  # what a create or destroy left that was killed
        _fill(state, veid, settings, template)
        undo.pop_all()


def settings_of(state: State, veid: int, ref: str, options: Mapping[str, Any], stack: tuple[str, ...] = ()) -> Config:
    """A Config from create's arguments, which need not be of its very types; InvalidValue for what the host lacks."""
    settings = Config(veid, ref, **parsed(options, state.resolve), layers=stack, made_on=stack)
    settings.refuse_idle()
    attachment.check(settings, options.get("network"))
    mounts.check_given(settings.mounts, settings.devices)
    require(settings)
    hardware.refuse_beyond(settings.resources)
    return settings


def template_of(state: State, veid: int) -> str | None:
    """The template of a VE, also when its conf file is broken; None if that does not even say so much."""
    path = state.conf_of(veid)
    if path is None:
        return ""  # just destroyed
    try:
        data = config.content(path, veid)
        with contextlib.suppress(BrokenConfig):
            return config.parse(data, veid, path).template
    except NotFound:
        return ""
    except BrokenConfig:
        return None
    found = re.search(r'^template *= *"([^"]*)"', data.decode(errors="replace"), re.MULTILINE)
    return found[1] if found else None


def _fill(state: State, veid: int, settings: Config, template: Template) -> None:
    """Make what a VE is on disk; its conf file, with which it exists, comes last.  Under its lock."""
    from ve import granting, ids, outfit, unionfs  # which one that is thrown away does without
    from ve.staging import full_disk_named

    hardware.refuse_disk(settings.resources, hardware.disk(state.path))
    private, below = state.make_dir(state.private(veid)), next(map(state.layer, settings.layers), template.path)
    with full_disk_named(f"cannot create {veid}", state.path):
        if settings.area:
            _make_area(private, settings, below)
        outfit.limit_disk(private, settings)
        if not settings.area:
            unionfs.prepare(private, below)
        for directory in (private, os.path.dirname(private)):  # before there is a VE that needs it
            sync(directory)
    state.make_dir(state.root(veid))
    ids.lease(state, veid)
    granting.claim(state, veid, settings.addresses)
    if settings.name:
        state.claim_name(settings.name, veid)
    state.write_conf(veid, config.dump(settings), new=True)


def _make_area(private: str, settings: Config, below: str) -> None:
    """A loop area, with in it what would be in private."""
    import shutil

    from ve import looparea, unionfs
    from ve.amounts import UNLIMITED

    others = settings.resources.others
    content = f"{private}/content"
    os.mkdir(content)
    unionfs.prepare(content, below)
    looparea.make(private, content, others.get("disk", UNLIMITED), others.get("inodes", 0))
    shutil.rmtree(content)
