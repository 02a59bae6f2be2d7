"""What a VE with addresses finds before its init runs: whom it asks for names, its own, and its pool's.

The programs of the template are asked (busybox's and glibc's), not the files alone.
"""

import fcntl
import json
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.hostnet import HostNet
from tests.verbs import witness
from tests.verbs.conftest import Make
from tests.verbs.test_debian import booted, tell
from ve import errors, leases, lock, names, pool, poolhosts, resolver
from ve.addresses import Address, network
from ve.model import Config

pytestmark = pytest.mark.any_kernel  # on the stock kernel tests/kernel and test_addresses.py ask for the same

ADDRESSES = ["10.9.0.5", "fd00:9::5"]
OF_HOST = "search example.org\nnameserver 192.0.2.53\nnameserver 127.0.0.1\n"
INSIDE = "search example.org\nnameserver 192.0.2.53\n"
OWN = "127.0.0.1\tlocalhost\t# ve\n::1\tlocalhost ip6-localhost ip6-loopback\t# ve\n"
RED = "10.9.0.5\tred\t# ve\nfd00:9::5\tred\t# ve\n"
OF_TEMPLATE = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
Start = Callable[..., "ve.Environment"]


@pytest.fixture(autouse=True)
def of_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the host's own resolv.conf says."""
    path = tmp_path / "resolv.conf"
    path.write_text(OF_HOST)
    monkeypatch.setattr(resolver, "OF_HOST", str(path))
    return path


@pytest.fixture
def start(hostnet: HostNet, make: Make, host_dir: Path) -> Iterator[Start]:
    """start(template, before, **options): a running VE; before(upper) is called while it does not run."""
    hostnet.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    envs = []

    def begin(
        template: str = "busybox", before: Callable[[Path], object] = lambda upper: None, **options: Any
    ) -> "ve.Environment":
        env = make(template, **({"hostname": "red", "addresses": ADDRESSES} | options))
        envs.append(env)
        upper = host_dir / f"private/{env.veid}/upper"
        (upper / "etc").mkdir(exist_ok=True)
        (upper / "etc").chmod(0o755)
        before(upper)
        hostnet.call(env.start)
        return env

    yield begin
    for env in envs:
        if env.status == ve.Status.RUNNING:
            hostnet.call(env.stop, fast=True)


def restart(hostnet: HostNet, env: "ve.Environment") -> None:
    hostnet.call(env.stop, fast=True)
    hostnet.call(env.start)


def resolv_conf(env: "ve.Environment") -> str:
    return re.sub("#.*\n", "", witness.shell(env, "cat /etc/resolv.conf"))


def hosts(env: "ve.Environment") -> str:
    return witness.shell(env, "cat /etc/hosts")


# ---- its own ----------------------------------------------------------------------------------------------------


def test_they_are_there_before_its_init_runs(start: Start) -> None:
    def look(upper: Path) -> None:
        (upper / "etc/inittab").write_text("::sysinit:/bin/cp /etc/resolv.conf /etc/hosts /\n::askfirst:/bin/sh\n")
        os.mkfifo(upper / "looked")
        with (upper / "etc/inittab").open("a") as file:
            file.write("::once:/bin/sh -c 'echo >/looked'\n")

    env = start(before=look)
    witness.shell(env, "cat /looked")
    assert witness.shell(env, "cat /hosts") == RED + OF_TEMPLATE
    assert "nameserver 192.0.2.53\n" in witness.shell(env, "cat /resolv.conf")


def test_it_finds_itself_and_no_stranger(start: Start) -> None:
    env = start(hostname="red.example.org")
    for name in ("red", "red.example.org"):
        assert "(10.9.0.5)" in witness.shell(env, f"ping -4 -c1 {name}")
        assert "(fd00:9::5)" in witness.shell(env, f"ping -6 -c1 {name}")
    assert "(127.0.0.1)" in witness.shell(env, "ping -4 -c1 localhost")


def test_the_hosts_nameservers_but_not_its_loopback(start: Start) -> None:
    assert resolv_conf(start()) == INSIDE


def test_what_was_asked_for_comes_first(start: Start) -> None:
    env = start(nameservers=["10.9.0.53", "fd00::53"], searchdomains=["a.example", "b.example"])
    assert resolv_conf(env) == "search a.example b.example\nnameserver 10.9.0.53\nnameserver fd00::53\n"


def test_what_is_inherited_is_read_at_each_start(start: Start, hostnet: HostNet, of_host: Path) -> None:
    env = start(nameservers=["inherit"])
    of_host.write_text("nameserver 192.0.2.54\n")
    assert resolv_conf(env) == INSIDE
    restart(hostnet, env)
    assert resolv_conf(env) == "nameserver 192.0.2.54\n"


def test_what_is_right_already_is_not_written_again(start: Start, hostnet: HostNet) -> None:
    env = start()
    look = "stat -c '%n %i %Y %a %u' /etc/hosts /etc/resolv.conf"
    before = witness.shell(env, look)
    restart(hostnet, env)
    assert witness.shell(env, look) == before
    assert [line.split()[3:] for line in before.splitlines()] == [["644", "0"]] * 2


def test_an_admins_lines_stay_and_ours_change(start: Start, hostnet: HostNet) -> None:
    def write(upper: Path) -> None:
        (upper / "etc/hosts").write_text("127.0.0.1 localhost me\n# mine\n10.1.1.1  db\n\n10.2.2.2 ve # not yours")

    env = start(before=write)
    mine = "127.0.0.1 localhost me\n# mine\n10.1.1.1  db\n\n10.2.2.2 ve # not yours\n"
    localhost = OWN.splitlines(keepends=True)[1]
    assert hosts(env) == localhost + RED + mine
    env.run(["sh", "-c", "echo '10.3.3.3 more' >>/etc/hosts"], check=True)
    hostnet.call(env.stop, fast=True)
    hostnet.call(env.set, addresses=["10.9.0.6"], save=True)
    hostnet.call(env.start)
    assert hosts(env) == localhost + "10.9.0.6\tred\t# ve\n" + mine + "10.3.3.3 more\n"


def test_what_changes_while_it_runs_is_there_at_once(start: Start, hostnet: HostNet) -> None:
    """Beside what its root has written since; and nothing of it is left of a change that is refused."""
    env = start()
    env.run(["sh", "-c", "echo '10.3.3.3 more' >>/etc/hosts; echo 'nameserver 10.3.3.3' >/etc/resolv.conf"], check=True)
    hostnet.call(env.set, add_addresses=["10.9.0.6"], remove_addresses=["10.9.0.5"])
    others, own = OF_TEMPLATE + "10.3.3.3 more\n", "fd00:9::5\tred\t# ve\n10.9.0.6\tred\t# ve\n"
    assert hosts(env) == own + others
    assert resolv_conf(env) == "nameserver 10.3.3.3\n"
    hostnet.call(env.set, nameservers=["10.9.0.53"], searchdomains=["a.example"], hostname="blue")
    assert resolv_conf(env) == "search a.example\nnameserver 10.9.0.53\n"
    assert hosts(env) == own.replace("red", "blue") + others
    assert hostnet.call(env.set, nameservers=["10.9.0.54"], save=True) == []
    assert resolv_conf(env) == "search a.example\nnameserver 10.9.0.54\n"
    before = hosts(env), resolv_conf(env)
    with pytest.raises(errors.Error), hostnet.call(socket.create_server, ("192.0.2.1", 9022)):
        hostnet.call(env.set, addresses=["10.9.0.7"], nameservers=["10.9.0.55"], publish=["9022:22"])
    assert (hosts(env), resolv_conf(env)) == before
    hostnet.call(env.set, remove_addresses=["all"])
    assert hosts(env) == others


def test_nothing_is_told_of_what_cannot_be_saved(
    start: Start, hostnet: HostNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = start(addresses=[])
    before = hosts(env), resolv_conf(env)

    def full(_: Config) -> None:
        raise errors.DiskFull("cannot write its conf file")

    monkeypatch.setattr(env, "save", full)
    with pytest.raises(errors.DiskFull):
        hostnet.call(env.set, addresses=ADDRESSES, save=True)
    assert (hosts(env), resolv_conf(env)) == before


def test_one_without_gets_them_with_its_first_address(start: Start, hostnet: HostNet) -> None:
    env = start(addresses=[])
    hostnet.call(env.set, addresses=ADDRESSES)
    assert (resolv_conf(env), hosts(env)) == (INSIDE, RED + OF_TEMPLATE)


def test_a_link_there_leads_nowhere_while_it_runs(start: Start, hostnet: HostNet, tmp_path: Path) -> None:
    """Of its root's making: neither out of it, nor is what it leads to inside written."""
    env = start()
    (tmp_path / "hosts").write_text("the host's\n")
    links = f"ln -sf {tmp_path}/hosts /etc/hosts; echo mine >/mine; ln -sf /mine /etc/resolv.conf"
    env.run(["sh", "-c", links], check=True)
    hostnet.call(env.set, addresses=["10.9.0.6"], nameservers=["10.9.0.53"])
    assert (tmp_path / "hosts").read_text() == "the host's\n" and witness.shell(env, "cat /mine") == "mine\n"
    assert resolv_conf(env) == INSIDE.partition("nameserver")[0] + "nameserver 10.9.0.53\n"
    assert "10.9.0.6\tred\t# ve\n" in hosts(env)


UNTELLABLE = {
    "rm /etc/hosts; mkdir /etc/hosts": ("Is a directory", "a directory is there: remove it"),
    "mkdir /etc/.hosts.ve": ("Is a directory", "a directory is there: remove it"),
    "mount --bind /etc /etc; mount -o remount,ro,bind /etc": ("Read-only file system", "it is on a read-only mount"),
}


@pytest.mark.parametrize("veto", UNTELLABLE)
def test_its_root_cannot_keep_what_is_to_be_taken(start: Start, hostnet: HostNet, host_dir: Path, veto: str) -> None:
    """What its own files cannot be told is said; the address is gone all the same."""
    env = start()
    witness.shell(env, veto)
    (why, cure), key = UNTELLABLE[veto], env.veid
    done = hostnet.ve(host_dir, "set", key, "--ip-del", "10.9.0.5", "--hostname", "blue", "--save")
    said = f"{key}: names wait for a restart: cannot write /etc/hosts of the VE: {why}\nhint: {cure}"
    assert done.returncode == 0 and said in done.stderr
    assert "10.9.0.5" not in ways(env) and witness.shell(env, "hostname") == "blue\n"
    assert (env.addresses, env.hostname) == (["fd00:9::5"], "blue")
    assert env.config.addresses == ("fd00:9::5",)


def test_a_ve_without_addresses_is_left_as_it_is(start: Start) -> None:
    env = start(addresses=[], before=lambda upper: (upper / "etc/hosts").write_text("mine\n"))
    assert hosts(env) == "mine\n"
    assert witness.shell(env, "cat /etc/resolv.conf") == Path(env.template.path, "etc/resolv.conf").read_text()
    assert witness.says_no(env, "ls /run/systemd /run/NetworkManager")


def test_an_ephemeral_ve_has_them_too(hostnet: HostNet, host: "ve.Host") -> None:
    with hostnet.held(host.ephemeral("busybox", hostname="red", addresses=ADDRESSES)) as env:
        assert (resolv_conf(env), hosts(env)) == (INSIDE, RED + OF_TEMPLATE)


# ---- whatever lies there ----------------------------------------------------------------------------------------


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(path.parent, os.O_PATH)
        made.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


ODD: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "socket": _socket,
    "device": lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(5, 1)),
    "stub": lambda path: path.symlink_to("../run/systemd/resolve/stub-resolv.conf"),
    "file": lambda path: path.symlink_to("/etc/passwd"),
    "itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_file_is_replaced_and_not_opened(start: Start, kind: str) -> None:
    def put(upper: Path) -> None:
        for name in ("resolv.conf", "hosts", ".resolv.conf.ve", ".hosts.ve"):
            ODD[kind](upper / "etc" / name)

    env = start(before=put)
    assert (resolv_conf(env), hosts(env)) == (INSIDE, OWN + RED)
    assert witness.shell(env, "ls -a /etc | grep '[.]ve$' || true") == ""
    assert "192.0.2.53" not in witness.shell(env, "cat /etc/passwd")


HOPELESS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a directory": (
        lambda upper: (upper / "etc/hosts").mkdir(),
        "cannot write /etc/hosts of the VE: Is a directory",
    ),
    "a directory aside": (
        lambda upper: (upper / "etc/.hosts.ve").mkdir(),
        "cannot write /etc/hosts of the VE: Is a directory",
    ),
    "etc is a link": (
        lambda upper: (upper / "etc").rmdir() or (upper / "etc").symlink_to("/tmp"),  # type: ignore[func-returns-value]
        "cannot write to /etc of the VE: it is not a directory there",
    ),
}


@pytest.mark.parametrize("kind", HOPELESS)
def test_where_they_cannot_be_the_start_says_so(start: Start, hostnet: HostNet, kind: str) -> None:
    before, why = HOPELESS[kind]
    with pytest.raises(errors.StartFailed, match=f"^cannot start [0-9]+: names: {re.escape(why)}$") as caught:
        start(before=before)
    assert caught.value.step == "names"
    assert "venet" not in hostnet.run("ip", "link").stdout


def test_a_read_only_etc_is_refused_and_files_that_are_mounted_stay(
    start: Start, hostnet: HostNet, state_dir: Path
) -> None:
    given = state_dir / "given"
    given.mkdir()
    (given / "hosts").write_text("given\n")
    with pytest.raises(errors.StartFailed, match=r"names: cannot write /etc/resolv.conf of the VE: Read-only file"):
        start(mounts=[f"{given}:/etc:ro"])
    env = start(mounts=[f"{given}/hosts:/etc/hosts"], addresses=["10.9.0.7"])
    assert hosts(env) == "given\n"
    assert os.listdir(given) == ["hosts"]
    assert witness.shell(env, "ls -a /etc | grep '[.]ve$' || true") == ""


# ---- a template's own network configuration ---------------------------------------------------------------------


def ways(env: "ve.Environment") -> str:
    return witness.shell(env, "ip -4 address show dev venet0; ip -6 address show dev venet0; ip route; ip -6 route")


def still_reaches(env: "ve.Environment", hostnet: HostNet) -> None:
    for address in ADDRESSES:
        hostnet.outside("ping", "-c1", "-W5", address)
    shown = ways(env)
    for wanted in ("10.9.0.5/32", "fd00:9::5/128", "default via 169.254.1.1", "default via fe80::1"):
        assert wanted in shown
    assert "169.254.1.1 dev venet0" in shown


@pytest.mark.parametrize("rights", [{}, {"net_admin": "on"}])
def test_ifupdown_has_nothing_to_break(start: Start, hostnet: HostNet, host_dir: Path, rights: dict[str, str]) -> None:
    def write(upper: Path) -> None:
        (upper / "etc/network").mkdir()
        lines = "auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet dhcp\niface eth0 inet6 auto\n"
        (upper / "etc/network/interfaces").write_text(lines)
        (upper / "etc/init.d").mkdir()
        script = upper / "etc/init.d/S40network"
        script.write_text("#!/bin/sh\ntest $1 = start && timeout 5 ifup -a; echo done >/booted\n")
        script.chmod(0o755)
        os.mkfifo(upper / "booted")

    env = start(before=write, capabilities=rights)
    assert witness.shell(env, "cat /booted") == "done\n"
    still_reaches(env, hostnet)


NETWORKD = {
    "00-all": "[Match]\nName=*\n\n[Network]\nDHCP=yes\nLinkLocalAddressing=ipv4\nIPv6AcceptRA=yes\n",
    "10-ether": "[Match]\nType=ether\n\n[Network]\nAddress=10.99.0.1/24\nGateway=10.99.0.254\n",
}


def test_networkd_leaves_it_alone(start: Start, hostnet: HostNet, host_dir: Path, debian: str) -> None:
    """Also where it may do as it likes."""

    def write(upper: Path) -> None:
        tell(host_dir, int(upper.parent.name))
        directory = upper / "etc/systemd/network"
        directory.mkdir()
        directory.chmod(0o755)
        for name, lines in NETWORKD.items():
            (directory / f"{name}.network").write_text(lines)
        wants = upper / "etc/systemd/system/multi-user.target.wants"
        (wants / "systemd-networkd.service").symlink_to("/lib/systemd/system/systemd-networkd.service")

    env = start(debian, before=write, capabilities={"net_admin": "on"})
    booted(env, host_dir)
    assert witness.shell(env, "systemctl is-active systemd-networkd") == "active\n"
    links = json.loads(witness.shell(env, "networkctl list --json=short"))["Interfaces"]
    assert {link["Name"]: link["AdministrativeState"] for link in links}["venet0"] == "unmanaged"
    known = {family: witness.shell(env, f"getent ahostsv{family} red").split()[0] for family in (4, 6)}
    assert known == {4: "10.9.0.5", 6: "fd00:9::5"}
    routes = witness.enter(witness.init(host_dir, env.veid), "ip", "route", namespaces="--net")
    assert "10.99" not in routes and "default via 169.254.1.1" in routes
    for address in ADDRESSES:
        hostnet.outside("ping", "-c1", "-W5", address)


def test_networkmanager_is_told_to_leave_it_alone(start: Start) -> None:
    said = witness.shell(start(), "cat /run/NetworkManager/conf.d/*.conf; ls -ld /run/NetworkManager")
    assert "unmanaged-devices+=interface-name:venet0\n" in said
    assert said.splitlines()[-1].startswith("drwxr-xr-x")


@pytest.mark.parametrize("shape", ["macvlan:eth0", "device:spare0"])
def test_they_leave_an_interface_of_another_name_alone_too(start: Start, hostnet: HostNet, shape: str) -> None:
    hostnet.run("ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1")
    env = start(network=shape, device_lost_ok=True, addresses=["192.0.2.51/24"])
    own = witness.shell(env, "ip -o -4 address show | grep 192.0.2.51").split()[1]
    said = witness.shell(env, "cat /run/NetworkManager/conf.d/*.conf /run/systemd/network/*.network").splitlines()
    assert f"unmanaged-devices+=interface-name:{own}" in said and f"Name={own}" in said


# ---- a pool's ---------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(hostnet: HostNet) -> str:
    pool.add(pool.Pool("web", (network("10.8.0.0/24"), network("fd00:8::/64")), hosts=True))
    return "web"


RED_IN_WEB = Config(7, "busybox:1", hostname="red", addresses=("10.8.0.5",))


def lease(hostnet: HostNet, address: str) -> None:
    """As a VE has it that somebody else starts."""
    if "venetother" not in hostnet.run("ip", "-br", "link").stdout:
        hostnet.run("ip", "link", "add", "venetother", "type", "veth", "peer", "name", "other")
        for end in ("venetother", "other"):
            hostnet.run("ip", "link", "set", end, "up")
    hostnet.run("ip", "route", "add", address, "dev", "venetother")


def told(name: str = "web") -> list[str]:
    return Path(poolhosts.directory(name), "hosts").read_text().splitlines()[2:]


def test_the_ves_of_a_pool_find_each_other_by_name(start: Start, hostnet: HostNet, shared: str) -> None:
    red = start(addresses=["auto:web"])
    blue = start(addresses=["auto:web"], hostname="blue.example.org", name="azure")
    green = start(addresses=["10.8.0.77"], hostname="green")
    for env in (red, blue, green):
        for name in ("red", "blue", "blue.example.org", "azure", "green"):
            witness.shell(env, f"ping -c1 -W5 {name}")
    assert "(10.8.0.77)" in witness.shell(red, "ping -c1 green")
    assert "(127.0.0.1)" in witness.shell(red, "ping -4 -c1 localhost")

    hostnet.call(blue.stop, fast=True)
    restart(hostnet, green)
    assert "bad address" in witness.says_no(red, "ping -c1 blue")
    witness.shell(red, "ping -c1 green")


def test_no_name_leads_to_who_has_the_address_now(start: Start, hostnet: HostNet, shared: str) -> None:
    """Blue has ended by itself: its line stays as long as nobody has its address."""
    poolhosts.update("web", {ip_address("10.8.0.9"): "blue"}, lambda address: True)
    red, green = start(addresses=["10.8.0.5"]), start(addresses=["10.9.0.7"], hostname="green")
    hostnet.call(green.set, add_addresses=["10.8.0.9"])
    assert told() == ["10.8.0.5\tred", "10.8.0.9\tgreen"]
    assert "(10.8.0.9)" in witness.shell(red, "ping -c1 -W5 green")
    hostnet.call(green.set, remove_addresses=["10.8.0.9"])
    assert told() == ["10.8.0.5\tred"]
    hostnet.call(green.set, add_addresses=["auto:web"])
    assert len(told()) == 3
    hostnet.call(green.stop, fast=True)
    assert told() == ["10.8.0.5\tred"]


def test_a_new_hostname_is_known_to_the_others_at_once(
    start: Start, hostnet: HostNet, host_dir: Path, shared: str
) -> None:
    red, green = start(addresses=["10.8.0.5"], name="mars"), start(addresses=["auto:web"], hostname="green")
    hostnet.output(host_dir, "set", red.veid, "--hostname", "scarlet")
    assert "(10.8.0.5)" in witness.shell(green, "ping -4 -c1 -W5 scarlet")
    assert "(10.8.0.5)" in witness.shell(red, "ping -4 -c1 -W5 scarlet")  # it reads the same file
    assert "bad address" in witness.says_no(green, "ping -c1 red")
    witness.shell(green, "ping -c1 -W5 mars")
    with hostnet.call(socket.create_server, ("", 8080)), pytest.raises(errors.InUse):
        hostnet.call(red.set, hostname="crimson", publish=["8080:80"])
    assert told()[0] == "10.8.0.5\tscarlet mars"


def test_a_refused_change_leaves_the_names_as_they_were(start: Start, hostnet: HostNet, shared: str) -> None:
    red = start(addresses=["10.8.0.5"])
    with hostnet.call(socket.create_server, ("", 8080)), pytest.raises(errors.InUse):
        hostnet.call(red.set, addresses=["10.8.0.6"], publish=["8080:80"])
    assert told() == ["10.8.0.5\tred"]
    witness.shell(red, "ping -c1 -W5 red")


def test_nobody_in_there_may_change_or_hold_up_the_pools_names(start: Start, host_dir: Path, shared: str) -> None:
    red = start(addresses=["10.8.0.5"], capabilities={"net_admin": "on"})
    for attempt in ("echo x >>/etc/hosts", "touch /dev/pool/x", "umount /dev/pool", "mount -o remount,rw /dev/pool"):
        witness.says_no(red, attempt)
    with open(f"/proc/{witness.init(host_dir, red.veid)}/root/dev/pool/hosts") as seen:
        fcntl.flock(seen, fcntl.LOCK_EX)  # as a program inside can
        blue = start(addresses=["10.8.0.6"], hostname="blue")
    assert "(10.8.0.6)" in witness.shell(red, "ping -c1 blue")
    assert "(10.8.0.5)" in witness.shell(blue, "ping -c1 red")
    assert witness.shell(red, "ls /dev/pool") == "hosts\n"


def test_a_name_of_its_own_again_once_the_pool_has_none(start: Start, hostnet: HostNet, shared: str) -> None:
    red = start(addresses=["10.8.0.5"])
    assert witness.shell(red, "readlink /etc/hosts") == "/dev/pool/hosts\n"
    red.run(["sh", "-c", "rm /etc/hosts; echo mine >/etc/hosts"], check=True)  # it is its own file all the same
    hostnet.call(red.stop, fast=True)
    pool.remove("web")
    hostnet.call(red.start)
    assert hosts(red) == OWN + "10.8.0.5\tred\t# ve\nmine\n"


def test_another_pool_of_that_name_knows_none_of_its_names(start: Start, hostnet: HostNet, shared: str) -> None:
    """Red was in it, and still finds localhost by what it sees of it; blue has ended by itself."""
    red = start(addresses=["10.8.0.5", "10.9.0.5"])
    poolhosts.update("web", {ip_address("10.8.0.9"): "blue"}, lambda address: True)
    hostnet.call(red.set, remove_addresses=["10.8.0.5"], save=True)
    hostnet.call(ve.Host().networks.remove, "web")
    pool.add(pool.Pool("web", (network("10.8.0.0/24"),), hosts=True))
    assert told() == []
    assert "(127.0.0.1)" in witness.shell(red, "ping -4 -c1 localhost")


def test_many_at_once_lose_no_line(shared: str, tmp_path: Path) -> None:
    def one(number: int) -> None:
        lines: dict[Address, str] = {ip_address(f"10.8.0.{number}"): f"ve{number}"}
        poolhosts.update("web", lines, lambda address: True)

    with ThreadPoolExecutor(20) as threads:
        list(threads.map(one, range(1, 101)))
    lines = Path(poolhosts.directory("web"), "hosts").read_text().splitlines()
    assert sorted(lines[2:]) == sorted(f"10.8.0.{number}\tve{number}" for number in range(1, 101))


def test_who_comes_while_another_waits_keeps_its_line(shared: str, hostnet: HostNet) -> None:
    """Red has all but the lock when blue leases its address and writes its line."""
    acquire = lock.acquire

    def late(path: str, what: int | str, timeout: float) -> int:
        patch.undo()
        lease(hostnet, "10.8.0.6")
        hostnet.call(poolhosts.update, "web", {ip_address("10.8.0.6"): "blue"}, leases.holder)
        return acquire(path, what, timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock, "acquire", late)
        hostnet.call(names.wanted, RED_IN_WEB, [ip_address("10.8.0.5")], False)
    assert told() == ["10.8.0.6\tblue", "10.8.0.5\tred"]


def test_what_a_start_looks_at_does_not_grow(shared: str) -> None:
    """Of two thousand that ended by themselves each start finds some, and the next ones the others."""
    nobody: list[Address] = []
    poolhosts.update("web", {ip_address("fd00:8::") + number: f"ve{number}" for number in range(2000)}, nobody.append)
    poolhosts.update("web", {}, nobody.append)
    assert 1 <= len(nobody) <= 32 and len(told()) == 2000 - len(nobody)
    while told():
        poolhosts.update("web", {}, nobody.append)
    assert len(set(nobody)) == len(nobody) == 2000
