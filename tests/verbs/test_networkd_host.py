"""A host whose systemd-networkd looks at each interface: it has nothing to do with those of VEs."""

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests.hostnet import HostNet
from tests.kernel.netns import wait_until

pytestmark = pytest.mark.any_kernel  # what is ours in it is the same on every kernel

# A sysfs that it cannot write says that no udev tells it of interfaces; its /run is ours to read.
SCRIPT = """
mount -t sysfs -o ro sysfs /sys
mount --bind "$1" /run
mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
chown -R systemd-network:systemd-network /run/systemd
exec /lib/systemd/systemd-networkd
"""
NSPAWNS = "NETWORK_FILE=/usr/lib/systemd/network/80-container-ve.network"


class Networkd:
    """One that runs."""

    def __init__(self, hostnet: HostNet, run: Path) -> None:
        self.hostnet, self.run = hostnet, run

    def decides(self, interface: str) -> str:
        """What to do with an interface: the words of its state file."""
        [link] = json.loads(self.hostnet.run("ip", "-j", "link", "show", "dev", interface).stdout)
        path = self.run / "systemd/netif/links" / str(link["ifindex"])
        wait_until(lambda: path.exists() and bool(re.search("ADMIN_STATE=(?!init|pending)", path.read_text())))
        return path.read_text()


@contextlib.contextmanager
def networkd(hostnet: HostNet, run: Path) -> Iterator[Networkd]:
    """It sees what there is by then with all its names."""
    run.mkdir(mode=0o755)
    words = [*hostnet.words, "unshare", "--mount", "sh", "-ec", SCRIPT, "sh", str(run)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield Networkd(hostnet, run)
        finally:
            process.terminate()


@pytest.mark.parametrize("network", ["", "bridge:br0"])
def test_it_takes_no_ve_for_one_of_nspawns(
    bridged: HostNet, host: "ve.Host", host_dir: Path, veid: int, tmp_path: Path, network: str
) -> None:
    """Whose interfaces on the host are named ve-*, by any name: they get an address, a DHCP server and NAT."""
    env = host.create(veid, template="busybox", network=network, addresses=["192.0.2.50/24"])
    bridged.output(host_dir, "start", veid)
    bridged.run("ip", "link", "add", "venetother", "type", "veth", "peer", "name", "other")
    bridged.run("ip", "link", "property", "add", "dev", "venetother", "altname", f"ve-{veid}")
    with networkd(bridged, tmp_path / "run") as running:
        assert "NETWORK_FILE" not in running.decides(str(env.network.interface))
        assert NSPAWNS in running.decides("venetother")  # so it would be
    bridged.output(host_dir, "stop", "--fast", veid)
