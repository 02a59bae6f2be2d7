"""Debian root file systems for the tests, built once by `ve template build debian` and kept as archives.

mmdebstrap takes its time, and the stock-kernel VM has no network: there the archives are what this machine made.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import ve

CACHE = Path(__file__).resolve().parent.parent / ".cache"
ARCHIVE = CACHE / "debian.tar.zst"
SERVICES = (
    *("anacron", "cron", "dbus-user-session", "nginx-light", "openssh-server", "postgresql"),
    *("rsyslog", "sudo"),
)
ADDED_LATER = "redis-server"  # in a repository inside, for apt: its scripts add a user, its unit has a sandbox
REPOSITORY = "srv/repository"
CONTAINERS = (
    *("busybox-static", "crun", "docker.io", "fuse-overlayfs", "iptables", "netavark", "nftables", "podman"),
    *("squashfs-tools", "squashfuse", "uidmap"),
)


def mirror() -> str:
    """A line for sources.list: where this machine's apt gets Debian itself from."""
    wanted = ["Identifier: Packages", "Origin: Debian", "Label: Debian"]
    targets = subprocess.check_output(["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted], text=True)
    return f"deb {targets.splitlines()[0]} bookworm main"


def archive() -> Path:
    """A plain one."""
    return _kept(ARCHIVE)


def services() -> Path:
    """One with SERVICES, and a repository of packages that are not installed."""
    return _kept(CACHE / "services.tar.zst", SERVICES, _add_repository)


def postgresql() -> Path:
    """One with PostgreSQL, for `make bench-suite`."""
    return _kept(CACHE / "postgresql.tar.zst", ("postgresql",))


def containers() -> Path:
    """One with CONTAINERS: Docker, Podman and what FUSE is shown with."""
    return _kept(CACHE / "containers.tar.zst", CONTAINERS)


def _kept(path: Path, include: Sequence[str] = (), finish: Callable[[Path], None] = lambda _: None) -> Path:
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        unfinished = path.with_name(f"unfinished-{os.getpid()}-{path.name}")  # make test makes two at once
        with tempfile.TemporaryDirectory(prefix="ve-debian.", dir="/var/tmp") as state_dir:
            tree = Path(ve.Host(state_dir).templates.build("debian", include=include).path)
            finish(tree)
            kept = ["--xattrs", "--xattrs-include=*", "--acls", "--sparse", "--numeric-owner"]
            subprocess.run(["tar", "--zstd", *kept, "-C", tree, "-cf", unfinished, "."], check=True)
        unfinished.rename(path)
    return path


def _add_repository(tree: Path) -> None:
    """ADDED_LATER and what it needs besides the tree, from where the tree's own apt gets packages, with an index."""
    settings = {"Dir": tree, "Dir::State::status": tree / "var/lib/dpkg/status", "APT::Sandbox::User": "root"}
    apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
    subprocess.run([*apt, "update"], check=True)
    subprocess.run([*apt, "--download-only", "--yes", "install", ADDED_LATER], check=True, stdout=subprocess.DEVNULL)
    repository = tree / REPOSITORY
    repository.mkdir()
    for package in (tree / "var/cache/apt/archives").glob("*.deb"):
        shutil.move(package, repository / package.name.replace("%3a", "+"))
    write_index(repository)
    for lists in (tree / "var/lib/apt/lists").iterdir():
        if lists.is_file():
            lists.unlink()


def write_index(repository: Path) -> None:
    """What apt reads of the packages in a directory: `deb [trusted=yes] URL ./`."""
    index = ""
    for package in sorted(repository.glob("*.deb")):
        digest = hashlib.sha256(package.read_bytes()).hexdigest()
        index += subprocess.check_output(["dpkg-deb", "--field", package], text=True)
        index += f"Filename: ./{package.name}\nSize: {package.stat().st_size}\nSHA256: {digest}\n\n"
    (repository / "Packages").write_text(index)
