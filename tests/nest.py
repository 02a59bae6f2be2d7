"""A root file system with Python, our package and what that needs of this machine, as a template for VEs with VEs.

It is copied from the machine and the venv that the tests run in, so nothing is downloaded or built, and it works on the
stock kernel's read-only root too.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = "opt/ve"
# Beside busybox: what `ve` runs whose options busybox does not have.
UNNEEDED = ("pyroute2", "pygments", "markdown-it-py")  # nothing of what they are for is done in there
PROGRAMS = ("/usr/bin/setpriv", "/usr/bin/unshare", "/bin/cp", "/bin/rm", "/bin/sync", "/usr/bin/catatonit")
UNUSED = ("test", "idlelib", "lib2to3", "tkinter", "ensurepip", "turtledemo", "pydoc_data", "config-*", "site-packages")
MERGED = ("bin", "sbin", "lib", "lib64")  # one directory of each name, below /usr
FILES = {
    "usr/bin/ve": f"""\
#!/bin/sh
PYTHONPATH=/{SITE} exec python3 -c 'import sys; sys.argv[0] = "ve"; from ve._cli import main; sys.exit(main())' "$@"
""",
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
}


def make_tree(tree: Path) -> None:
    """Fill a directory that is not there yet."""
    for name in ("etc", "root", "tmp", "var/lib", "run", SITE, *(f"usr/{name}" for name in MERGED)):
        (tree / name).mkdir(parents=True)
    for name in MERGED:
        (tree / name).symlink_to(f"usr/{name}")
    _busybox(tree)
    python = Path(sys.executable).resolve()
    for program in (*map(Path, PROGRAMS), python, Path(shutil.which("ldconfig") or "/sbin/ldconfig")):
        _copy(tree, program)
    (tree / "usr/bin/python3").symlink_to(python)
    _copy_directory(Path(sysconfig.get_path("stdlib")), tree / sysconfig.get_path("stdlib").lstrip("/"), UNUSED)
    for name in _distributions("ve"):
        _copy_distribution(metadata.distribution(name), tree / SITE)
    _copy_directory(ROOT / "ve", tree / SITE / "ve")
    for library in {*tree.rglob("*.so"), *_seccomp()}:
        for needed in (*_libraries(library), *([library] if library in _seccomp() else [])):
            _copy(tree, needed)
    for path, text in FILES.items():
        (tree / path).write_text(text)
    (tree / "usr/bin/ve").chmod(0o755)
    subprocess.run(["ldconfig", "-X", "-r", tree], check=True)  # ctypes looks libseccomp up in its cache


def _busybox(tree: Path) -> None:
    shutil.copy(shutil.which("busybox") or "", tree / "bin/busybox")
    applets = subprocess.check_output([tree / "bin/busybox", "--list-full"], text=True).split()
    for applet in set(applets) - {"bin/busybox", "linuxrc"}:
        (tree / applet).parent.mkdir(parents=True, exist_ok=True)
        (tree / applet).symlink_to("/bin/busybox")


def _copy(tree: Path, path: Path) -> None:
    """A file of the machine under the same name, and the libraries that it is linked with."""
    for each in (path, *_libraries(path)):
        target = tree / str(each).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copy(each, target)


def _libraries(path: Path) -> list[Path]:
    done = subprocess.run(["ldd", path], capture_output=True, text=True, check=False)  # a static one has none
    return [Path(name) for name in re.findall(r"(/\S+) \(0x", done.stdout)]


def _seccomp() -> list[Path]:
    """libseccomp, which no file of Python's is linked with."""
    known = subprocess.check_output(["ldconfig", "-p"], text=True)
    return [Path(name) for name in re.findall(r"libseccomp\.so\.2 .*=> (\S+)", known)]


def _copy_directory(source: Path, target: Path, unused: tuple[str, ...] = ()) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*unused), dirs_exist_ok=True)


def _distributions(name: str) -> set[str]:
    """A Python distribution and all that it requires."""
    found, left = set(), {name}
    while left:
        found.add(name := left.pop())
        needs = (re.match(r"[\w.-]+", need) for need in metadata.requires(name) or () if "extra ==" not in need)
        left |= {need[0] for need in needs if need and _is_installed(need[0])} - {*found, *UNNEEDED}
    return found


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False  # a requirement of another platform
    return True


def _copy_distribution(distribution: metadata.Distribution, target: Path) -> None:
    """Its packages, modules and metadata, by their first names: old ones do not name each of their files."""
    site = Path(sysconfig.get_path("platlib")).resolve()
    names = set((distribution.read_text("top_level.txt") or "").split())
    names |= {file.parts[0] for file in distribution.files or ()}
    for name in names - {"..", "__pycache__", "ve"}:
        for source in (site / name, *site.glob(f"{name}.py"), *site.glob(f"{name}.*.so")):
            if source.is_dir():
                _copy_directory(source, target / source.name)
            elif source.is_file():
                shutil.copy(source, target)
