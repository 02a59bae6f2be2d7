"""A Debian root file system for the tests, built once by `ve template build debian` and kept as an archive.

mmdebstrap takes its time, and the stock-kernel VM has no network: there the archive is what this machine made.
"""

import subprocess
import tempfile
from pathlib import Path

import ve

ARCHIVE = Path(__file__).resolve().parent.parent / ".cache" / "debian.tar.zst"


def mirror() -> str:
    """A line for sources.list: where this machine's apt gets Debian itself from."""
    wanted = ["Identifier: Packages", "Origin: Debian", "Label: Debian"]
    targets = subprocess.check_output(["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted], text=True)
    return f"deb {targets.splitlines()[0]} bookworm main"


def archive() -> Path:
    if not ARCHIVE.exists():
        ARCHIVE.parent.mkdir(exist_ok=True)
        unfinished = ARCHIVE.with_name("unfinished.tar.zst")
        with tempfile.TemporaryDirectory(prefix="ve-debian.", dir="/var/tmp") as state_dir:
            tree = ve.Host(state_dir).templates.build("debian").path
            kept = ["--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--numeric-owner"]
            subprocess.run(["tar", "--zstd", *kept, "-C", tree, "-cf", unfinished, "."], check=True)
        unfinished.rename(ARCHIVE)
    return ARCHIVE
