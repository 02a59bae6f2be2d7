"""A VE that is thrown away: its changes are in memory, and it ends with the process that made it.

On disk they are, until then, where that was asked for, where it has VEs in it, whose file system must be idmapped, or
where memory cannot be.

Its setup process stays as PID 1 of a PID namespace in between (ve/setup.py), and ends, all the VE with it, when this
process ends or closes its channel.  What is then left in the run directory and of cgroups, the next command removes.
"""

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from ve import config, ending, hardware, ids, launch, making, outfit, process, unionfs
from ve.environment import Environment
from ve.errors import Locked
from ve.model import Config
from ve.state import THROWN_AWAY, State
from ve.template import Template
from ve.veid import EPHEMERAL_VEIDS, any_of


def begin(
    state: State,
    template: Template,
    options: Mapping[str, Any],
    command: tuple[str, ...] | None,
    stack: tuple[str, ...] = (),
    on_disk: bool = False,
) -> "Ephemeral":
    """A running one under a number that nobody has; the template and the layers are held, or nobody can remove them."""
    while True:
        environment = Ephemeral(state, any_of(EPHEMERAL_VEIDS))
        settings = making.settings_of(state, environment.veid, template.ref, options, stack)
        try:
            with state.lock(environment.veid, 0):
                if not state.exists(environment.veid):
                    environment.begin(settings, template, command, on_disk)
                    return environment
        except Locked:
            continue


class Ephemeral(Environment):
    """A running VE that this process owns."""

    _started: launch.Launch

    def begin(
        self, settings: Config, template: Template, command: tuple[str, ...] | None, on_disk: bool = False
    ) -> None:
        """Start it; under the lock of a VEID that nobody has.  Nothing is left if it fails."""
        from ve import claims, layers, quota, removal  # noqa: F401  undoing needs them, and may have no descriptor left by then

        with contextlib.ExitStack() as undo:
            undo.callback(ending.remove_all, self)
            self.state.write_conf(self.veid, config.dump(settings), ephemeral=True, new=True)
            on_disk = on_disk or bool(settings.rights.inner) or not unionfs.memory_is_enough()
            there = hardware.disk(self.state.path) if on_disk else hardware.in_memory()
            hardware.refuse_disk(settings.resources, there)
            if on_disk:
                private = self.state.make_dir(self.state.private(self.veid))
                outfit.limit_disk(private, settings)
                open(f"{private}/{THROWN_AWAY}", "xb").close()
                unionfs.prepare(private, next(map(self.state.layer, settings.layers), template.path))
            base, *inner = ids.leases(self.state, self.veid, settings.rights.inner, ephemeral=True)
            what = (self.state, settings, template, base, tuple(inner), command)
            self._started = launch.Launch(*what, ephemeral=True)
            self._started.run()
            undo.pop_all()
        if settings.user_beancounters:
            self.beancounters()

    def wait(self) -> int:
        """Wait for the end of its init: its exit code, or 128+N when signal N ended it."""
        return process.shell_code(os.waitstatus_to_exitcode(self._started.wait()))

    def end(self) -> None:
        """End it at once, and remove what it had on the host."""
        try:
            self._started.near.close()
            self._started.setup.wait()
        finally:  # a Ctrl-C while we wait, too
            with self.state.lock(self.veid):
                ending.remove_all(self)
