"""A host that systemd divides: the cgroups of VEs are in a unit that it delegates to us.

The host is a VE of the profile nesting with Debian's systemd, and in it Python and this project as they are here.
"""

import os
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests.hostnet import HostNet, namespace
from tests.verbs import commandline, test_debian, witness
from tests.verbs.conftest import Make
from ve import venet

UNIT = "ve-host.service"
# One who waits for events hears of it there.
WATCH = (
    'import subprocess; from ve.watch import Watch; watch = Watch("ve"); '
    'subprocess.run(["ve", "stop", "--fast", "5"], check=True); print(watch.wait(60))'
)
# A VE in it, of nothing but busybox.
INNER = """
set -e
cd /root
mkdir -p tree/bin tree/sbin tree/proc tree/sys tree/dev tree/etc tree/run
mv busybox tree/bin/
ln -s busybox tree/bin/sh
ln -s ../bin/busybox tree/sbin/init
echo ::sysinit:/bin/busybox true >tree/etc/inittab
ve template add inner tree
ve create 5 --template inner
ve start 5
"""


@pytest.fixture
def machine(make: Make, debian: str, host_dir: Path) -> Iterator["ve.Environment"]:
    """Debian's systemd, with the command `ve` and a VE 5 that runs."""
    python, stdlib = Path(sys.executable).resolve(), sysconfig.get_path("stdlib")
    shown = (python, stdlib, witness.ROOT)
    env = make(debian, hostname="host", profiles=["nesting"], mounts=[f"{path}:{path}:ro" for path in shown])
    test_debian.tell(host_dir, env.veid)
    env.start()
    test_debian.booted(env, host_dir)
    env.copy_in("/bin/busybox", "/root/busybox", archive=True)
    witness.shell(env, f"test -e /usr/bin/python3 || ln -s {python} /usr/bin/python3")
    witness.shell(env, f"ln -s {commandline.VE} /usr/local/bin/ve")
    login(env, INNER)
    yield env


def login(env: "ve.Environment", script: str) -> str:
    """What a script prints that a login runs, who alone may start VEs in the VE."""
    done = env.run(["sh", "-c", script], capture_output=True, text=True, login=True)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def inner(env: "ve.Environment") -> str:
    """Of the VE in it, as `ve list` there says."""
    return login(env, "ve list -H -o veid,status").strip()


@pytest.mark.any_kernel
def test_the_cgroups_are_in_a_delegated_unit(host_dir: Path, machine: "ve.Environment") -> None:
    shown = witness.shell(machine, f"systemctl show --property=ActiveState,Delegate {UNIT}")
    assert set(shown.split()) == {"ActiveState=active", "Delegate=yes"}
    pid = int(login(machine, "ve list -H -o pid"))
    at = witness.shell(machine, f"cat /proc/{pid}/cgroup").splitlines()[-1]
    assert at == f"0::/system.slice/{UNIT}/ve/5/init"
    witness.shell(machine, "systemctl daemon-reload")
    assert inner(machine) == "5  running"
    witness.shell(machine, f"systemctl stop {UNIT}")  # as at shutdown: VEs are stopped in their own way
    assert inner(machine) == "5  running"
    login(machine, "ve restart --fast 5 2>/dev/null")
    assert inner(machine) == "5  running"
    assert "active" in witness.shell(machine, f"systemctl is-active {UNIT}")
    assert login(machine, f"{sys.executable} -c '{WATCH}'") == "{5}\n"
    assert inner(machine) == "5  stopped"


def test_networkd_of_the_host_takes_no_interface_of_ours_for_its_own(make: Make, debian: str, host_dir: Path) -> None:
    """For the veth pair of a container of systemd-nspawn, which it gives an address, a DHCP server and masquerading."""
    env = make(debian, hostname="host", capabilities={"net_admin": "on"})
    test_debian.tell(host_dir, env.veid)
    wants = host_dir / f"private/{env.veid}/upper/etc/systemd/system/multi-user.target.wants"
    (wants / "systemd-networkd.service").symlink_to("/lib/systemd/system/systemd-networkd.service")
    env.start()
    test_debian.booted(env, host_dir)
    host, deadline = HostNet(witness.init(host_dir, env.veid), 0), time.monotonic() + commandline.PATIENCE
    with namespace() as inner, open(f"/proc/{inner}/ns/net") as netns:
        pidfd = os.pidfd_open(inner)
        name = host.call(venet.connect, pidfd, netns.fileno(), "ve", 101, "/var/lib/ve")
        os.close(pidfd)
        while "venet-101" not in (shown := witness.shell(env, f"networkctl status {name} 2>&1 || true")):
            assert time.monotonic() < deadline, shown
        witness.shell(env, f"networkctl reconfigure {name}")
        assert "Network File: n/a" in witness.shell(env, f"networkctl status {name}")
        host.run("ip", "link", "delete", "venet-101")
