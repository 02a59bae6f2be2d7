"""The verbs on what is in one VE: its root and its files."""

from __future__ import annotations

import contextlib

from ve.errors import Mounted
from ve.instance import Instance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ve.diff import Change
    from ve.path import Path, Segment


class Contents(Instance):
    """What is in a VE; its other verbs are in ve/environment.py."""

    def mount(self) -> str:
        """Show its root to the host, read only if it runs (ve/show.py); the path.  Mounted if it is shown."""
        from ve import actions, show

        self.refuse_ephemeral("mount")
        point = self.state.root(self.veid)
        with self.locked(), self.init() as init:
            if self.shown:
                raise Mounted(f"cannot mount {self.veid}: it is mounted at {point}", hint=f"ve umount {self.veid}")
            self.state.make_dir(point)
            if init:
                show.running(init[1], point)
                return point
            actions.run(self.state, self.veid, "premount", point)
            with contextlib.ExitStack() as undo:
                show.stopped(self.stopped_root(), point)
                undo.callback(self.hide)
                actions.run(self.state, self.veid, "mount", point)
                undo.pop_all()
            return point

    def umount(self) -> None:
        """No longer show its root; InUse names who looks at it, NotMounted if it is not shown."""
        with self.locked():
            self._unmount()

    def _unmount(self) -> None:
        """With the scripts that are the counterpart of those of mount(); under the VE's lock."""
        from ve import ending, show

        running = show.is_clone(self.state.root(self.veid))  # or it was, when it was mounted
        self.hide()
        if not running:
            ending.act_unmounted(self)

    def path(self, *segments: Segment) -> Path:
        """A path in it, running or stopped, as pathlib has them: env.path("/etc/hosts").read_text()."""
        from ve.path import Path

        return Path(self, *segments)

    def copy_in(self, source: str, target: str, archive: bool = False) -> None:
        """Copy a file or tree of the host into the VE, running or stopped; it will belong to the VE's root.

        archive keeps owners, times, xattrs and hard links.
        """
        from ve import files

        with self.place() as place:
            files.copy_in(place, source, target, archive)

    def copy_out(self, source: str, target: str, archive: bool = False) -> None:
        """Copy a file or tree of the VE to the host; it will belong to us, or to whom it does there if archive."""
        from ve import files

        with self.place() as place:
            files.copy_out(place, source, target, archive)

    def set_password(self, user: str, password: str) -> None:
        """Set a user's password in the VE's own files, running or stopped."""
        from ve import files

        with self.place() as place:
            files.set_password(place, user, password)

    def add_ssh_key(self, key: str, user: str = "root") -> None:
        """Let the holder of a public key log in as user, if the VE runs an sshd."""
        from ve import files

        with self.place() as place:
            files.add_ssh_key(place, key, user)

    def diff(self) -> list[Change]:
        """What it changed of its template, or who made its layers: A added, C changed, D deleted."""
        from ve import diff

        self.refuse_ephemeral("compare")
        if self.config.unfinished:
            with self.locked():
                self.require_private()
        with self.top() as top:
            below = map(self.state.layer, self.config.layers)
            return diff.changes((f"{top}/upper", *below), self.template.path)
