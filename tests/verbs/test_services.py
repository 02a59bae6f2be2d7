"""What people run, in the default profile: Debian's systemd, apt, sshd, cron, nginx and PostgreSQL on one VE.

All of it is on a network that is loopback alone, so it is asked from the host by programs in the VE's own.
"""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ve
from tests import conftest, debian
from tests.verbs import commandline, witness
from tests.verbs.test_debian import DEADLINE, booted, tell

# Half a gigabyte to unpack and three boots are many minutes on the stock-kernel VM; what they need of a kernel,
# test_debian and test_bundles try there.  By hand: make test-vm PYTEST_ARGS="tests/verbs/test_services.py -m ''"
pytestmark = [pytest.mark.any_kernel, pytest.mark.timeout(1200)]  # once, the archive is made too

SERVICES = ("cron", "nginx", "postgres", "rsyslogd", "sshd", "systemd-journal", "systemd-logind")
JOB = "* * * * * root id -un >/root/cron\n"


@pytest.fixture(scope="module", autouse=True)
def leaves_no_trace() -> Iterator[None]:
    """As for every test, but of all of them: systemd makes cgroups as it serves, and keeps some for a while."""
    with conftest.guarded():
        yield


@pytest.fixture(scope="module")
def machine(host: "ve.Host", host_dir: Path) -> Iterator["ve.Environment"]:
    """One that has booted; cron has a job from the beginning, as its minute is long."""
    template = host.templates.add("services", str(debian.services()))
    env = host.create(6101, template=template.ref, hostname="serves")
    try:
        upper = host_dir / f"private/{env.veid}/upper"
        tell(host_dir, env.veid)
        for directory, mode in (("root", 0o700), ("etc/cron.d", 0o755)):
            (upper / directory).mkdir(mode=mode)
        os.mkfifo(upper / "root/cron", 0o600)
        (upper / "etc/cron.d/witness").write_text(JOB)
        env.start()
        booted(env, host_dir)
        yield env
    finally:
        conftest._end(host, env.veid)


@pytest.fixture(scope="module")
def kir(machine: "ve.Environment") -> str:
    """A user of it, who may use sudo."""
    witness.shell(machine, "useradd --create-home --shell /bin/bash kir && echo kir:secret | chpasswd")
    witness.shell(machine, "echo 'kir ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/kir && chmod 440 /etc/sudoers.d/kir")
    return "kir"


def init(env: "ve.Environment", host_dir: Path) -> int:
    return witness.init(host_dir, env.veid)


def commands(env: "ve.Environment", host_dir: Path) -> dict[str, int]:
    """Host pids of its processes, by what the kernel calls their programs: one of each."""
    found = {}
    for pid in commandline.processes(host_dir, env.veid).values():
        with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
            found[Path(f"/proc/{pid}/comm").read_text().strip()] = pid
    return found


def page(env: "ve.Environment", host_dir: Path, path: str) -> str:
    """What its web server answers to a program of the host that is in its network."""
    script = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=30).read().decode(), end='')"
    program = (sys.executable, "-I", "-c", script, f"http://127.0.0.1/{path}")
    return witness.enter(init(env, host_dir), *program, namespaces="--net")


# ---- systemd ---------------------------------------------------------------------------------------------------------


def test_all_units_are_up(machine: "ve.Environment", host_dir: Path) -> None:
    assert witness.shell(machine, "systemctl is-system-running") == "running\n"
    assert witness.shell(machine, "systemctl list-units --failed --no-legend --plain") == ""
    assert set(SERVICES) <= set(commands(machine, host_dir))


# What each is to refuse or to show, by a unit of its own; that it is nothing without, test_debian's units show.
SANDBOXES = (
    ("PrivateTmp=yes", "ls -A /tmp | wc -l", "0"),
    ("ProtectSystem=strict", "touch /etc/no 2>/dev/null || echo refused", "refused"),
    ("ProtectHome=yes", "ls -A /root | wc -l", "0"),
    ("ReadOnlyPaths=/srv", "touch /srv/no 2>/dev/null || echo refused", "refused"),
    ("InaccessiblePaths=/srv", "ls -A /srv | wc -l", "0"),
    ("TemporaryFileSystem=/srv", "ls -A /srv | wc -l", "0"),
    ("BindReadOnlyPaths=/etc/debian_version:/srv/bound", "cat /srv/bound", r"12\..*"),
    ("PrivateDevices=yes", "touch /dev/no 2>/dev/null || echo refused", "refused"),
    ("ProtectKernelTunables=yes", "cat /proc/sys/kernel/ostype", "Linux"),  # what it protects is read only anyway
    ("ProtectControlGroups=yes", "mkdir /sys/fs/cgroup/no 2>/dev/null || echo refused", "refused"),
    ("ProtectHostname=yes", "hostname no 2>/dev/null || echo refused", "refused"),
    ("DynamicUser=yes", "test $(id -u) -ge 61184 && echo dynamic", "dynamic"),
    ("PrivateUsers=yes", "cat /proc/self/uid_map | tr -s ' '", "0 0 1"),
    (
        "PrivateNetwork=yes",
        "ls /sys/class/net; readlink /proc/self/ns/net | grep -v $(readlink /proc/1/ns/net)",
        r"lo\nnet:.*",
    ),
    ("PrivateIPC=yes", "readlink /proc/self/ns/ipc | grep -v $(readlink /proc/1/ns/ipc)", "ipc:.*"),
    ("RestrictNamespaces=yes", "unshare --user true 2>/dev/null || echo refused", "refused"),
    ("NoNewPrivileges=yes", "grep -c '^NoNewPrivs:.1' /proc/self/status", "1"),
    (
        "MemoryDenyWriteExecute=yes",
        "test $(sed -n s/^Seccomp_filters:.//p /proc/self/status) -gt 2 && echo more",
        "more",
    ),
    ("SystemCallFilter=~uname SystemCallErrorNumber=EPERM", "uname 2>/dev/null || echo refused", "refused"),
    ("CapabilityBoundingSet=CAP_CHOWN", "sed -n s/^CapBnd:.//p /proc/self/status", "0{15}1"),
    ("User=nobody AmbientCapabilities=CAP_CHOWN", "sed -n s/^CapEff:.//p /proc/self/status", "0{15}1"),
    ("RestrictAddressFamilies=AF_UNIX", "ping -c 1 127.0.0.1 2>/dev/null || echo refused", "refused"),
    ("LoadCredential=word:/etc/debian_version", "cat $CREDENTIALS_DIRECTORY/word", r"12\..*"),
    ("DynamicUser=yes LoadCredential=word:/etc/debian_version", "cat $CREDENTIALS_DIRECTORY/word", r"12\..*"),
    ("SetCredential=word:secret", "cat $CREDENTIALS_DIRECTORY/word", "secret"),
    ("StateDirectory=witness User=nobody", "touch $STATE_DIRECTORY/yes && echo written", "written"),
    ("RootDirectory=/srv/root MountAPIVFS=yes", "test -e /etc/passwd || cat /proc/self/comm", "cat"),
    ("Delegate=yes", "mkdir /sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/own && echo made", "made"),
)


@pytest.mark.parametrize(("properties", "script", "shown"), SANDBOXES, ids=[each[0] for each in SANDBOXES])
def test_sandboxes_of_its_services(machine: "ve.Environment", properties: str, script: str, shown: str) -> None:
    if "RootDirectory" in properties:
        witness.shell(
            machine,
            "mkdir -p /srv/root/usr && ln -sfn usr/bin /srv/root/bin && ln -sfn usr/lib /srv/root/lib "
            "&& ln -sfn usr/lib64 /srv/root/lib64",
        )
        properties += " BindReadOnlyPaths=/usr"
    options = [word for each in properties.split() for word in ("-p", each)]
    run = ["systemd-run", "--quiet", "--wait", "--pipe", *options, "/bin/sh", "-c", script.replace("$", "$$")]
    done = machine.run(run, capture_output=True, text=True)
    assert re.fullmatch(shown, done.stdout.strip()), done


def test_timers_scopes_and_temporary_files(machine: "ve.Environment") -> None:
    witness.shell(machine, "mkfifo /run/told && systemd-run --quiet --on-active=1ms sh -c 'echo timer >/run/told'")
    assert witness.shell(machine, "cat /run/told") == "timer\n"
    scope = ["systemd-run", "--quiet", "--scope", "sed", "-n", "s/^0:://p", "/proc/self/cgroup"]
    done = machine.run(scope, login=True, capture_output=True, text=True)
    assert re.fullmatch(r"/system\.slice/run-\w+\.scope\n", done.stdout), done
    witness.shell(
        machine, "echo 'd /run/made 0750 nobody nogroup' >/etc/tmpfiles.d/made.conf && systemd-tmpfiles --create"
    )
    assert witness.shell(machine, "stat -c '%U %a' /run/made") == "nobody 750\n"


def test_the_logs(machine: "ve.Environment") -> None:
    witness.shell(machine, "logger -t witness both of them; journalctl --sync")
    assert "both of them" in witness.shell(machine, "journalctl -t witness -o cat")
    assert "both of them" in witness.shell(machine, "until grep witness /var/log/syslog; do sleep 0.1; done")


# ---- users -----------------------------------------------------------------------------------------------------------


def logged_in(env: "ve.Environment", user: str, script: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """A script of this user, whom systemd gives a session."""
    command = ["su", user, "-c", script]
    return env.run(command, login=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def test_users_and_setuid_programs(machine: "ve.Environment", kir: str) -> None:
    done = logged_in(machine, kir, "id -un; sudo id -un; sudo -u nobody id -un")
    assert done.stdout == "kir\nroot\nnobody\n"  # and nothing about a name of the host that cannot be resolved
    before = witness.shell(machine, f"getent shadow {kir}")
    assert logged_in(machine, kir, "passwd", input="secret\nmuch longer\nmuch longer\n").returncode == 0
    assert witness.shell(machine, f"getent shadow {kir}") != before
    assert "Permission denied" in logged_in(machine, kir, "cat /etc/shadow").stdout
    witness.shell(machine, f"groupadd crew && usermod -aG crew {kir} && chage -M 90 {kir}")
    assert logged_in(machine, kir, "id -nG").stdout == "kir crew\n"


def test_a_user_s_own_systemd(machine: "ve.Environment", kir: str) -> None:
    witness.shell(machine, f"loginctl enable-linger {kir} && systemctl start user@$(id -u {kir})")
    run = f"systemd-run --user --machine={kir}@ --quiet --wait --pipe"
    assert witness.shell(machine, f"{run} sed -n s/^0:://p /proc/self/cgroup").startswith(
        "/user.slice/user-1000.slice/"
    )
    witness.shell(machine, f"loginctl disable-linger {kir}")


def test_ssh_with_a_key(machine: "ve.Environment", host_dir: Path, kir: str, tmp_path: Path) -> None:
    """A client of the host in the VE's network, with the key that `ve set` gave."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    commandline.output(host_dir, "set", machine.veid, "--ssh-key", f"@{tmp_path}/key.pub")
    options = ("StrictHostKeyChecking=accept-new", f"UserKnownHostsFile={tmp_path}/known", "BatchMode=yes")
    ssh = ["ssh", "-F", "none", "-i", str(tmp_path / "key"), *(f"-o{each}" for each in options), "root@127.0.0.1"]
    look = "id -un; cat /proc/self/sessionid /proc/self/loginuid >/dev/null; sed -n s/^0:://p /proc/self/cgroup; tty"
    user, cgroup, terminal = witness.enter(init(machine, host_dir), *ssh, "-tt", look, namespaces="--net").splitlines()
    assert user == "root"
    assert re.fullmatch(r"/user\.slice/user-0\.slice/session-\d+\.scope", cgroup)  # logind's
    assert re.fullmatch(r"/dev/pts/\d+", terminal)


# ---- packages --------------------------------------------------------------------------------------------------------


def test_apt_installs_what_adds_a_user_and_a_service(machine: "ve.Environment", host_dir: Path) -> None:
    witness.shell(machine, f"echo 'deb [trusted=yes] file:/{debian.REPOSITORY} ./' >/etc/apt/sources.list")
    apt = "DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0"
    witness.shell(machine, f"{apt} update && {apt} --yes install {debian.ADDED_LATER}")
    assert witness.shell(machine, f"dpkg --verify {debian.ADDED_LATER}; redis-cli ping") == "PONG\n"
    served = commands(machine, host_dir)["redis-server"]
    user = int(witness.shell(machine, "id -u redis"))
    assert os.stat(f"/proc/{served}").st_uid == witness.base(init(machine, host_dir)) + user
    about = witness.status(served)  # of the sandbox that Debian gives it
    assert about["NoNewPrivs"] == "1" and int(about["Seccomp_filters"]) > 2 and about["CapBnd"] == "0" * 16
    mine, its = witness.namespaces(served), witness.namespaces(init(machine, host_dir))
    assert {name for name in mine if mine[name] != its[name]} == {"mnt", "user", "uts"}
    witness.shell(machine, f"{apt} --yes purge {debian.ADDED_LATER}")
    assert "redis-server" not in commands(machine, host_dir)


PACKAGE = """\
set -e
mkdir -p /root/mine/DEBIAN /root/mine/usr/bin
cd /root/mine
printf 'Package: mine\\nVersion: 1\\nArchitecture: all\\nMaintainer: a <a@b>\\nDescription: a\\n' >DEBIAN/control
echo '#!/bin/sh
useradd --system mine && chown mine /usr/bin/mine && chmod 4755 /usr/bin/mine' >DEBIAN/postinst
echo '#!/bin/sh
userdel mine' >DEBIAN/prerm
chmod 755 DEBIAN/p*
cp /usr/bin/id usr/bin/mine
dpkg-deb --root-owner-group --build . ../mine.deb
"""


def test_dpkg_installs_a_file(machine: "ve.Environment") -> None:
    witness.shell(machine, PACKAGE)
    witness.shell(machine, "dpkg --install /root/mine.deb")
    assert "euid=" in witness.shell(machine, "/usr/bin/mine")  # its user by setuid
    assert witness.shell(machine, "stat -c '%U %a' /usr/bin/mine; dpkg --verify mine") == "mine 4755\n"
    witness.shell(machine, "dpkg --purge mine; ! test -e /usr/bin/mine; ! getent passwd mine")


# ---- servers ---------------------------------------------------------------------------------------------------------


def test_nginx(machine: "ve.Environment", host_dir: Path) -> None:
    witness.shell(machine, "echo a page >/var/www/html/page")
    assert page(machine, host_dir, "page") == "a page\n"
    before = commands(machine, host_dir)["nginx"]
    witness.shell(machine, "systemctl reload nginx && systemctl restart nginx")
    assert page(machine, host_dir, "page") == "a page\n"
    assert commands(machine, host_dir)["nginx"] != before


def test_cron(machine: "ve.Environment") -> None:
    assert witness.shell(machine, "head -n 1 /root/cron") == "root\n"


def sql(env: "ve.Environment", statement: str, port: int = 5432) -> str:
    command = ["psql", "-p", str(port), "-qAtc", statement]
    done = env.run(command, user="postgres", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return str(done.stdout).strip()


def test_postgresql_across_stops_and_a_kill(machine: "ve.Environment", host_dir: Path) -> None:
    sql(machine, "create table kept (n int); insert into kept select generate_series(1, 1000)")
    witness.shell(machine, "pg_createcluster 15 second --start")
    assert sql(machine, "select 40 + 2", 5433) == "42"
    assert machine.stop(DEADLINE)
    machine.start()
    booted(machine, host_dir)
    assert sql(machine, "select sum(n) from kept") == "500500"
    log = witness.shell(machine, "cat /var/log/postgresql/postgresql-15-main.log")
    assert "database system is shut down" in log and "not properly shut down" not in log

    sql(machine, "insert into kept values (500)")
    machine.stop(fast=True)
    machine.start()
    booted(machine, host_dir)
    assert sql(machine, "select sum(n) from kept") == "501000"
    log = witness.shell(machine, "cat /var/log/postgresql/postgresql-15-main.log")
    assert "automatic recovery in progress" in log
