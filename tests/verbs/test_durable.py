"""What a verb has done outlives a power cut: each directory whose names it changes is synced before it returns.

tests/vm/test_powercut.py tries that on a disk; where it takes too long, here is what it has found.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ve
from ve import traffic
from ve.firewall import Traffic

pytestmark = pytest.mark.any_kernel

VEID = 3991
ADDRESS = "10.254.7.9"


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VE_NETWORK_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What is synced from here on."""
    found = list[Path]()

    def fsync(fd: int, really: Callable[[int], None] = os.fsync) -> None:
        found.append(Path(os.readlink(f"/proc/self/fd/{fd}")))
        really(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


@pytest.fixture
def env(host: ve.Host, networks: Path) -> Iterator[ve.Environment]:
    env = host.create(VEID, template="busybox", name="durable", addresses=[ADDRESS])
    yield env
    if VEID in host.state.veids():
        env.destroy()


def test_create(synced: list[Path], host_dir: Path, networks: Path, env: ve.Environment) -> None:
    places = ("private", f"private/{VEID}", "name", "address", "conf")
    assert {*(host_dir / place for place in places), networks / "address"} <= {*synced}
    assert synced[-1] == host_dir / "conf"  # with which there is the VE, and all that it needs


def test_rename(synced: list[Path], host_dir: Path, env: ve.Environment) -> None:
    synced.clear()
    env.rename("hardy")
    names, conf = host_dir / "name", host_dir / "conf"
    assert [place for place in synced if place in (names, conf)] == [names, conf, names]


def test_other_addresses(synced: list[Path], host_dir: Path, networks: Path, env: ve.Environment) -> None:
    synced.clear()
    env.set(addresses=[], save=True)
    assert {host_dir / "address", networks / "address", host_dir / "conf"} <= {*synced}


def test_destroy(synced: list[Path], host: ve.Host, host_dir: Path, networks: Path, env: ve.Environment) -> None:
    env.reset_beancounters()
    traffic._note(host.state, VEID, Traffic(1, 2, 3, 4), "venetdurable")
    synced.clear()
    env.destroy()
    places = ["private", "address", "ubc", "traffic", "conf", "name"]  # and with conf all is gone
    assert [path.name for path in synced if path.parent == host_dir] == places
    assert synced.index(networks / "address") < synced.index(host_dir / "address")


def test_the_end_of_a_template(synced: list[Path], host: ve.Host) -> None:
    template = host.templates.add("durable", host.templates.get("busybox").path)
    synced.clear()
    host.templates.remove(template.ref)
    assert Path(template.path).parent in synced


def test_the_end_of_a_pool(synced: list[Path], host: ve.Host, networks: Path) -> None:
    host.networks.add("durable", ["10.254.7.0/24"])
    synced.clear()
    host.networks.remove("durable")
    assert synced == [networks]


def test_a_pool_that_was_not_written_to_its_end(host: ve.Host, networks: Path) -> None:
    left = networks / ".other.toml.1"  # of a number that a process has
    left.write_text("vers")
    host.networks.add("durable", ["10.254.7.0/24"])
    assert not left.exists()
    host.networks.remove("durable")


def test_traffic(synced: list[Path], host: ve.Host, host_dir: Path, env: ve.Environment) -> None:
    synced.clear()
    traffic._note(host.state, VEID, Traffic(1, 2, 3, 4), "venetdurable")
    assert synced[-1] == host_dir / "traffic"
