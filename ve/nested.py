"""What the host prepares for the VEs in a VE: a state dir whose files can have the ids of each of them.

Only who has CAP_SYS_ADMIN over a file system's own user namespace may map its ids (mount_setattr(2)): never the root of
a VE, whose files are the host's.  So the launch of a VE of the profile nesting maps them beforehand.  It shows one
directory of the VE's private area in the VE as its state dir, and there once more for each range of ids that a VE in it
may lease:

    private/<VEID>/inner/              on the host, with the ids as they are on disk
    /var/lib/ve/                       in the VE: 0 on disk is the VE's root
    /var/lib/ve/view/<N>/              in the VE: 0 on disk is N, root of the VE in it that has the ids from N on

It is no overlay, so that overlayfs takes it as an upper layer.
"""

from __future__ import annotations

import os
from contextlib import suppress

from ve import mounts, namespaces, unionfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

STATE_DIR = "/var/lib/ve"


def prepare(source: str, userns: int, ranges: Sequence[tuple[int, int, int]], buried: tuple[str, ...]) -> None:
    """In the VE's root as working directory: show source as its state dir, and for these ranges of its ids."""
    with suppress(FileExistsError):
        os.mkdir(source)
    os.chown(source, 0, 0)  # whoever we are, and whatever it was made its
    os.chmod(source, 0o711)
    mounts.bind_from_host(source, STATE_DIR, False, userns, buried)
    maps = [[(0, host, count)] for _, host, count in ranges]
    for (inside, _, _), one in zip(ranges, namespaces.mappings(maps), strict=True):
        mounts.bind_from_host(source, f"{STATE_DIR}/{unionfs.VIEWS}/{inside}", False, one, buried)
        os.close(one)
