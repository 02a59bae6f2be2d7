"""Action scripts, which an administrator puts beside the conf files: what the host does at the turns of a VE's life.

Those of "mount" at a start run where the VE's root is already seen, in the middle of ve/setup.py.
"""

import os
import subprocess

from ve import steps
from ve.errors import ActionFailed
from ve.state import State


def run(state: State, veid: int, name: str, root: str) -> None:
    """Run those of this name; ActionFailed if one says no."""
    for path in scripts(state, veid, name):
        environment = os.environ | {"VEID": str(veid), "VE_ROOT": root}
        try:
            code = subprocess.run([path], env=environment, stdin=subprocess.DEVNULL, stdout=2, check=False).returncode
        except OSError as error:
            raise steps.unrunnable(path, veid, error) from error
        if code:
            hint = "mend it, or chmod -x it"
            raise ActionFailed(f"cannot complete the {name} script of {veid}: {path} ended with {code}", hint)


def scripts(state: State, veid: int, name: str) -> list[str]:
    """Those of this name that there are, an executable file each: that for all VEs first."""
    return [path for path in (state.action(None, name), state.action(veid, name)) if os.access(path, os.X_OK)]
