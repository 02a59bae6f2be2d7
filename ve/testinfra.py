"""pytest-testinfra's backend for VEs: --hosts=ve://101, ve://NAME or ve://USER@NAME, of the state dir $VE_STATE_DIR.

Under pytest it is there by itself (ve/testinfra_entry.py); a program that calls testinfra.get_host("ve://101") imports
this module before.
"""

import subprocess
from typing import Any

from testinfra import backend
from testinfra.backend import base

from ve import process
from ve.host import Host


class Backend(base.BaseBackend):  # type: ignore[misc]
    """One VE, which is looked up for each command: a fixture may start it."""

    NAME = "ve"

    def __init__(self, hostspec: str, *args: Any, **kwargs: Any) -> None:
        self.key, self.user = self.parse_containerspec(hostspec)
        super().__init__(self.key, *args, **kwargs)

    def run(self, command: str, *args: str, **kwargs: Any) -> Any:
        """A CommandResult of what a shell in the VE makes of it; NotFound, NotRunning and so on of the VE."""
        script = self.get_command(command, *args)
        words = ["/bin/sh", "-c", script]
        environment = Host().get(self.key)
        done = environment.run(words, user=self.user, stdin=subprocess.DEVNULL, capture_output=True)
        return self.result(process.shell_code(done.returncode), self.encode(script), done.stdout, done.stderr)


backend.BACKENDS["ve"] = f"{__name__}.{Backend.__name__}"
