"""Stock Debian kernels, unpacked into the project's cache: nothing is installed, the machine's apt is left as it is."""

import os
import re
import shutil
import subprocess
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent.parent / ".cache" / "kernels"
SUITES = {"6.1": "bookworm", "6.12": "trixie", "7": "sid"}
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# What a kernel's package depends on of the kernel itself: from 7 on, image and modules are packages of their own.
_PART = re.compile(r"^ *Depends: (linux-(?:image|base|binary|modules)-\d\S*)$", re.MULTILINE)


def obtain(kernel: str) -> Path:
    """The kernel image of that version (a key of SUITES); its modules are where virtme-ng looks for them, beside it."""
    home = CACHE / kernel
    if not home.exists():
        print(f"==> downloading Debian's kernel {kernel} from {SUITES[kernel]}", flush=True)
        unfinished = CACHE / f"{kernel}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _unpack(_download(SUITES[kernel], unfinished / "apt"), unfinished / "root")
        shutil.rmtree(unfinished / "apt")
        unfinished.rename(home)
    root = home / "root"
    [image] = [*root.glob("boot/vmlinuz-*"), *root.glob("lib/modules/*/vmlinuz")]
    return image


def _download(suite: str, home: Path) -> list[Path]:
    """The packages of the suite's newest kernel, through an apt whose sources, lists and cache are below home."""
    (home / "lists/partial").mkdir(parents=True)
    (home / "archives/partial").mkdir(parents=True)
    sources = home / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {_mirror()} {suite} main\n")
    settings = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": home / "lists",
        "Dir::Cache": home,
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",  # _apt may not pass through the way to the cache
    }
    options = [f"-o{key}={value}" for key, value in settings.items()]
    _output("apt-get", *options, "update", "-qq")
    architecture = _output("dpkg", "--print-architecture").strip()
    found: list[str] = []
    wanted = [f"linux-image-{architecture}"]  # not the cloud flavour: it has no 9p
    while wanted:
        package = wanted.pop()
        wanted += _PART.findall(_output("apt-cache", *options, "depends", package))
        found.append(package)
    _output("apt-get", *options, "download", "-qq", *found[1:], cwd=home)
    return sorted(home.glob("*.deb"))


def _mirror() -> str:
    """Where this machine's apt gets Debian itself from."""
    targets = _output("apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages")
    for line in targets.splitlines():
        label, _, address = line.rpartition(" ")
        if label == "Debian":
            return address
    raise SystemExit("cannot find a Debian mirror in apt's configuration: run apt-get update first")


def _unpack(packages: list[Path], root: Path) -> None:
    """Lay the packages out, with modules that need no unpacking at each load, and an index for modprobe."""
    for package in packages:
        _output("dpkg-deb", "--extract", package, root)
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
    packed = [*root.rglob("*.ko.xz")]
    if packed:
        _output("xargs", "-0", "-P", "0", "-n", "100", "xz", "-d", input="\0".join(map(str, packed)))
    [modules] = (root / "lib/modules").iterdir()
    _output("depmod", "-b", root, modules.name)


def _output(*command: str | Path, cwd: Path | None = None, input: str | None = None) -> str:
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(
        command, cwd=cwd, input=input, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
