"""Trees that we build ourselves: one function a distribution, and the table that names them."""

import os
import re
from collections.abc import Callable, Sequence

from ve import rootfs
from ve.errors import InvalidValue, NotSupported
from ve.staging import Staging

_HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"

# ---------------------------------------------------------------- busybox

_BUSYBOX_DIRECTORIES = {
    0o755: """bin dev etc etc/init.d home lib media mnt opt proc run sbin srv sys usr usr/bin usr/lib usr/sbin usr/share
        var var/cache var/empty var/lib var/log var/spool var/spool/cron var/spool/cron/crontabs""",
    0o1777: "tmp var/tmp",
    0o700: "root",
}
_BUSYBOX_LINKS = {"etc/mtab": "../proc/self/mounts", "var/run": "../run", "var/lock": "../run"}

_BUSYBOX_FILES = {
    # An empty id is init's own stdin, stdout and stderr.  No "once" line: when that has ended, init sleeps a second.
    "etc/inittab": """\
::sysinit:/etc/init.d/rcS
::shutdown:/etc/init.d/rcK
::restart:/sbin/init
::ctrlaltdel:/sbin/poweroff
""",
    "etc/passwd": """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
""",
    "etc/group": "root:x:0:\ndaemon:x:1:\ntty:x:5:\nutmp:x:43:\nusers:x:100:\nnogroup:x:65534:\n",
    "etc/hosts": _HOSTS,
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    "etc/shells": "/bin/sh\n/bin/ash\n",
    "etc/profile": """\
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
PS1='\\u@\\h:\\w\\$ '
""",
    "etc/resolv.conf": "",
}
_BUSYBOX_SECRETS = {
    "etc/shadow": "root:!:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n"
}
_BUSYBOX_SCRIPTS = {
    "etc/init.d/rcS": """\
#!/bin/sh
# Start what is executable here and named S??*, in the order of names.
for script in /etc/init.d/S??*; do
    [ -x "$script" ] && "$script" start
done
# Only a VE that was started in the foreground has a console.  Not by "&": that would ignore Ctrl-C for good.
if [ -c /dev/console ]; then
    start-stop-daemon -S -b -x /etc/init.d/console
fi
exit 0
""",
    "etc/init.d/rcK": """\
#!/bin/sh
# Stop what rcS started, in the reverse order.
for script in $(ls -r /etc/init.d/S??*); do
    [ -x "$script" ] && "$script" stop
done
exit 0
""",
    "etc/init.d/console": """\
#!/bin/sh
# A shell of root on the console, again whenever it ends.  Who starts a VE is root of the host: no password.
export HOME=/root
cd
exec <>/dev/console >&0 2>&0
while [ -t 0 ]; do
    setsid -c sh -l
done
""",
    "etc/init.d/S10syslogd": """\
#!/bin/sh
# The system log, /var/log/messages; also an example of a service.
case "$1" in
start) syslogd ;;
stop) killall syslogd ;;
restart) "$0" stop; "$0" start ;;
*) echo "usage: $0 start|stop|restart" >&2; exit 1 ;;
esac
""",
}
_NOT_LINKED = {"bin/busybox", "linuxrc"}  # itself, and a name only an initrd needs


def build_busybox(staging: Staging, suite: str | None, include: Sequence[str]) -> str:
    """Debian's busybox-static as a system: an init, a start script, a system log.  NotSupported if it is not static."""
    if suite is not None or include:
        raise InvalidValue(f"{staging.what}: busybox has no suites and no packages")
    os.mkdir(staging.tree)
    os.chmod(staging.tree, 0o755)
    tree = os.open(staging.tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for mode, names in _BUSYBOX_DIRECTORIES.items():
            for name in names.split():
                rootfs.make_directory(tree, name, mode)
        staging.run("cp", "--", staging.program("busybox"), f"{staging.tree}/bin/busybox")
        os.chmod("bin/busybox", 0o755, dir_fd=tree)
        for applet in _applets(staging):
            os.symlink(os.path.relpath("/bin/busybox", f"/{os.path.dirname(applet)}"), applet, dir_fd=tree)
        for name, target in _BUSYBOX_LINKS.items():
            os.symlink(target, name, dir_fd=tree)
        version = _busybox_version(staging)
        release = f'ID=busybox\nNAME="BusyBox"\nVERSION_ID="{version}"\nPRETTY_NAME="BusyBox {version}"\n'
        for mode, files in (
            (0o644, _BUSYBOX_FILES | {"etc/os-release": release}),
            (0o640, _BUSYBOX_SECRETS),
            (0o755, _BUSYBOX_SCRIPTS),
        ):
            for name, text in files.items():
                rootfs.write(tree, name, text, mode)
    finally:
        os.close(tree)
    return "build busybox"


def _applets(staging: Staging) -> list[str]:
    """Where each applet belongs, as in usr/bin/id; asked inside the tree, where only a static busybox can run."""
    from ve.errors import Error

    try:
        names = staging.run("chroot", staging.tree, "/bin/busybox", "--list-full").split()
    except Error as error:
        raise NotSupported(
            f"{staging.what}: {staging.program('busybox')} is not static", hint="apt-get install busybox-static"
        ) from error
    return [name for name in names if name not in _NOT_LINKED and os.path.dirname(name)]


def _busybox_version(staging: Staging) -> str:
    match = re.search(r"v(\d[\w.]*)", staging.run("chroot", staging.tree, "/bin/busybox", "--help"))
    return match[1] if match else ""


# ---------------------------------------------------------------- debian

DEBIAN_SUITE = "bookworm"
DEBIAN_PACKAGES = (
    "dbus", "iproute2", "iputils-ping", "less", "libnss-myhostname", "libpam-systemd", "login", "nano", "netbase",
    "passwd", "procps", "systemd", "systemd-sysv",
)  # fmt: skip
_SUITE = re.compile(r"[a-z][a-z0-9.-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_SUITES_WITHOUT_UPDATES = {"sid", "unstable", "experimental"}
# What of the host's apt has to hold for a build too: how it reaches its mirror, and whether an old one is taken.
_APT_OPTION = re.compile(
    r'Acquire::(?:Check-Valid-Until|Check-Date|Retries|\w+::Proxy(?:-Auto-Detect)?(?:::\S+)?) "[^"]*";'
)
_APT_OPTIONS_FILE = "99mmdebstrap"  # where mmdebstrap leaves --aptopt; nothing of the host's stays in a template
_MMDEBSTRAP_STEPS = 9  # lines of the form "I: what it does" in an ordinary run

# Debian makes host keys when the package is installed; a template must not share them.
_SSH_KEYS = """\
[Service]
ExecStartPre=
ExecStartPre=/usr/bin/ssh-keygen -A
ExecStartPre=/usr/sbin/sshd -t
"""


def build_debian(staging: Staging, suite: str | None, include: Sequence[str]) -> str:
    """A small Debian with systemd, from the mirror that the host's apt uses, else from Debian's own."""
    suite = suite or DEBIAN_SUITE
    if not _SUITE.fullmatch(suite):
        raise InvalidValue(f"{staging.what}: {suite!r} is not the name of a suite")
    for package in include:
        if not _PACKAGE.fullmatch(package):
            raise InvalidValue(f"{staging.what}: {package!r} is not the name of a package")
    options = [f"--aptopt={option}" for option in _apt_options(staging)]
    packages = ",".join((*DEBIAN_PACKAGES, *include))
    done = 0

    def heard(line: str) -> bool:
        nonlocal done
        if not line.startswith("I: "):
            return False
        done += 1
        staging.report(min(done, _MMDEBSTRAP_STEPS), _MMDEBSTRAP_STEPS, line[3:].rstrip("."))
        return True

    staging.run(
        "mmdebstrap", "--mode=root", "--variant=apt", "--format=directory", f"--include={packages}", *options,
        suite, staging.tree, *_mirrors(staging, suite),
        heard=heard,
    )  # fmt: skip
    tree = os.open(staging.tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _make_anonymous(tree)
    finally:
        os.close(tree)
    return " ".join(("build debian --suite", suite, *(f"--include {package}" for package in include)))


def _make_anonymous(tree: int) -> None:
    """Take out what two machines must not share, and what came from this one."""
    # Empty, not "uninitialized": systemd makes an id, but does not take the boot for the first one (machine-id(5)).
    rootfs.write(tree, "etc/machine-id", "", 0o444)
    rootfs.write(tree, "etc/resolv.conf", "")
    rootfs.write(tree, "etc/hosts", _HOSTS)
    for directory, pattern in (
        ("etc", r"hostname"),
        ("etc/apt/apt.conf.d", _APT_OPTIONS_FILE),
        ("etc/ssh", r"ssh_host_.*_key(\.pub)?"),
        ("var/lib/dbus", r"machine-id"),
    ):
        rootfs.remove_matching(tree, directory, pattern)
    if rootfs.has_file(tree, "usr/sbin/sshd"):
        rootfs.make_directory(tree, "etc/systemd/system/ssh.service.d")
        rootfs.write(tree, "etc/systemd/system/ssh.service.d/keys.conf", _SSH_KEYS)


def _mirrors(staging: Staging, suite: str) -> list[str]:
    """Lines for sources.list, with the addresses that the host's apt has for Debian; none if it has none."""
    targets = staging.run(
        "apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Identifier: Packages", "Origin: Debian"
    )
    known = dict(reversed([line.split(" ", 1) for line in targets.splitlines() if " " in line]))
    if "Debian" not in known:
        return []
    lines = [f"deb {known['Debian']} {suite} main"]
    if suite not in _SUITES_WITHOUT_UPDATES:
        lines.append(f"deb {known['Debian']} {suite}-updates main")
        if "Debian-Security" in known:
            lines.append(f"deb {known['Debian-Security']} {suite}-security main")
    return lines


def _apt_options(staging: Staging) -> list[str]:
    return [line[:-1] for line in staging.run("apt-config", "dump").splitlines() if _APT_OPTION.fullmatch(line)]


# Each makes staging.tree from (suite, packages) and returns what `source` says of it.
Builder = Callable[[Staging, str | None, Sequence[str]], str]
BUILDERS: dict[str, Builder] = {"busybox": build_busybox, "debian": build_debian}
