"""A VE's own section of OpenVZ's file, where the VE itself can read it: /run/user_beancounters, if that was asked for.

    <run dir>/inside/<VEID>/user_beancounters     root's, and the VE's root may read it

A file that is bound would stay the one that it was, as each new one takes its place by rename(2).  So the directory is
bound, read only and locked, and /run/user_beancounters in the VE is a link into it.  Whoever looks at the VE's
beancounters from the host writes the file anew: its mtime is its age.
"""

from __future__ import annotations

import os
from contextlib import suppress

from ve.errors import DiskFull
from ve.state import State
from ve.wholefile import read_small, write_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ve.beancounter import Beancounter

NAME = "user_beancounters"


def prepare(state: State, veid: int, base: int) -> str:
    """The directory, made for a VE whose root is base on the host, with a file that has no numbers yet; its path."""
    path = state.make_dir(state.inside(veid))
    os.chown(path, -1, base)
    os.chmod(path, 0o2750)  # setgid: what is made in it belongs to the VE's group 0, and never for a moment to others
    from ve import compat

    _write(path, compat.text([]))
    return path


def refresh(state: State, veid: int, table: Mapping[str, Beancounter]) -> None:
    """Write the file of a VE that has one; what is not new only gets another mtime, so that no inode is spent on it.

    A disk that is full keeps nobody from looking.
    """
    path = state.inside(veid)
    if os.path.isdir(path):
        with suppress(DiskFull, FileNotFoundError):  # it ends just now
            from ve import compat

            _write(path, compat.text([(veid, table)]))


def remove(state: State, veid: int) -> None:
    """Of a VE that has ended, or of none."""
    path = state.inside(veid)
    if os.path.lexists(path):
        import shutil

        shutil.rmtree(path, ignore_errors=True)


def _write(directory: str, text: str) -> None:
    file = f"{directory}/{NAME}"
    if read_small(file) == text.encode():
        os.utime(file)
    else:
        write_whole(file, text.encode(), 0o440, durable=False)
