"""What root of a VE can administer: mounts by default, and by a profile FUSE, tunnels, its network, and containers."""

import select
import signal
import subprocess
import time
from pathlib import Path

import pytest

import ve
from tests.programs import compiled
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import cgroups

NETWORK = (
    "ip addr add 10.7.7.1/24 dev lo",
    "ip link set lo mtu 1400",
    "ip route add 10.8.0.0/16 dev lo",
    "ip link add left type veth",
    "ip link add bridge0 type bridge",
)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the programs of fuse.c and tun.c."""
    directory = tmp_path_factory.mktemp("programs")
    for name in ("fuse", "tun"):
        compiled(directory / name, Path(__file__).with_name(f"{name}.c"))
    return directory


def started(make: Make, programs: Path, **options: object) -> "ve.Environment":
    env = make(**options)
    for program in ("fuse", "tun"):
        env.copy_in(str(programs / program), f"/bin/{program}", archive=True)
    env.start()
    return env


# ---- mounts ----------------------------------------------------------------------------------------------------------


def test_mounts_of_the_default_profile(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    witness.shell(env, "cd /mnt && mkdir tmpfs bind overlay && mount -t tmpfs -o size=1m ours tmpfs && echo t >tmpfs/f")
    witness.shell(env, "cd /mnt && mount --bind tmpfs bind && mount -o remount,bind,ro bind && mkdir tmpfs/u tmpfs/w")
    witness.shell(env, "cd /mnt && mount -t overlay -o lowerdir=/etc,upperdir=tmpfs/u,workdir=tmpfs/w ours overlay")
    shown = {line.point: line for line in witness.mounts(witness.init(host_dir, env.veid))}
    kinds = {name: shown[f"/mnt/{name}"].kind for name in ("tmpfs", "bind", "overlay")}
    assert kinds == {"tmpfs": "tmpfs", "bind": "tmpfs", "overlay": "overlay"}
    assert "Read-only" in witness.says_no(env, "echo >/mnt/bind/f")
    witness.shell(env, "echo ours >/mnt/overlay/passwd && rm /mnt/overlay/group")
    assert witness.shell(env, "cat /mnt/bind/f /mnt/bind/u/passwd; stat -c %F /mnt/bind/u/group") == (
        "t\nours\ncharacter special file\n"
    )
    witness.shell(env, "grep -q root /etc/passwd && umount /mnt/overlay /mnt/bind /mnt/tmpfs && ls -A /mnt/tmpfs")
    assert "overlay" not in {line.kind for line in witness.mounts(witness.init(host_dir, env.veid))[1:]}


def test_a_file_system_in_user_space(host_dir: Path, make: Make, programs: Path) -> None:
    env = started(make, programs, profiles=["fuse"])
    with env.popen(["fuse", "/mnt"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdout.readline() == "mounted\n"
        assert {line.kind for line in witness.mounts(witness.init(host_dir, env.veid)) if line.point == "/mnt"} == {
            "fuse"
        }
        assert witness.shell(env, "cat /mnt/hello") == "from user space\n"
        done = env.run(["cat", "/mnt/hello"], user="nobody", capture_output=True, text=True)
        assert done.stdout == "from user space\n"
        witness.shell(env, "umount /mnt")
        assert server.wait(commandline.PATIENCE) == 0


def test_who_waits_for_one_that_does_not_answer_cannot_be_frozen(
    host_dir: Path, make: Make, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No signal reaches it: freeze says who it is, and lets all go on."""
    env = started(make, programs, profiles=["fuse"])
    monkeypatch.setattr(cgroups, "PATIENCE", 0.5)
    with env.popen(["fuse", "/mnt"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdout.readline() == "mounted\n"
        server.send_signal(signal.SIGSTOP)
        with env.popen(["cat", "/mnt/hello"], stdout=subprocess.PIPE, text=True) as reader:
            [pid] = wait_for_fuse(host_dir, env)
            with pytest.raises(
                ve.Error, match=f"cannot freeze {env.veid}: 1 processes .*: {pid}; all go on"
            ) as refused:
                env.freeze()
            assert "/sys/fs/fuse/connections/N/abort" in refused.value.hint
            assert "frozen 0" in (commandline.cgroup(host_dir, env.veid) / "cgroup.events").read_text()
            server.send_signal(signal.SIGCONT)
            assert reader.communicate(timeout=commandline.PATIENCE)[0] == "from user space\n"
        env.freeze()
        env.thaw()
        witness.shell(env, "umount /mnt")
        assert server.wait(commandline.PATIENCE) == 0


def wait_for_fuse(host_dir: Path, env: "ve.Environment") -> list[int]:
    """Wait until a process of the VE waits for an answer of FUSE; which one."""
    deadline = time.monotonic() + commandline.PATIENCE
    while time.monotonic() < deadline:
        pids = (commandline.cgroup(host_dir, env.veid)).rglob("cgroup.procs")
        of = [int(pid) for file in pids for pid in file.read_text().split()]
        if found := [pid for pid in of if Path(f"/proc/{pid}/wchan").read_text() == "request_wait_answer"]:
            return found
        select.select([], [], [], 0.02)
    raise AssertionError("nobody waits")


# ---- the network -----------------------------------------------------------------------------------------------------


def test_a_tunnel(make: Make, programs: Path) -> None:
    env = started(make, programs, profiles=["tun"])
    with env.popen(["tun", "tunnel"], stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdout is not None and peer.stdout.readline() == "ready\n"
        witness.shell(env, "ip addr add 10.9.9.1/24 dev tunnel && ip link set tunnel up")
        assert " 0% packet loss" in witness.shell(env, "ping -c 1 10.9.9.2")
        peer.terminate()


def test_its_network_with_net_admin(host_dir: Path, make: Make) -> None:
    env = make(capabilities={"net_admin": "on"})
    env.start()
    for command in NETWORK:
        witness.shell(env, command)
    seen = witness.enter(witness.init(host_dir, env.veid), "ip", "address", namespaces="--net")
    assert all(word in seen for word in ("10.7.7.1/24", "mtu 1400", "left@veth0", "bridge0"))


def test_none_of_it_without(make: Make, programs: Path) -> None:
    env = started(make, programs, devices=["/dev/net/tun"])
    assert "Operation not permitted" in witness.says_no(env, "tun tunnel")
    assert "No such file" in witness.says_no(env, "fuse /mnt")
    for command in NETWORK:
        witness.says_no(env, command)


# ---- Debian's tools --------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel  # the programs of ours above have tried the kernel's part
@pytest.mark.timeout(1200)
def test_squashfuse_of_root_and_of_a_user(host: "ve.Host", containers: str) -> None:
    with host.ephemeral(containers, profiles=["fuse"], command=["sleep", "inf"]) as env:
        witness.shell(env, "mksquashfs /etc/apt /tmp/image -quiet -no-progress && useradd --create-home kir")
        for command in (["sh", "-c"], ["su", "kir", "-c"]):  # the latter by fusermount3, which is setuid
            script = "mkdir ~/m; squashfuse /tmp/image ~/m && ls ~/m && fusermount3 -u ~/m && ls -A ~/m"
            done = env.run([*command, script], capture_output=True, text=True)
            assert (done.returncode, "sources.list" in done.stdout.split()) == (0, True), done


@pytest.mark.any_kernel
@pytest.mark.timeout(1200)
def test_nftables_and_two_ends_of_a_veth(host: "ve.Host", containers: str) -> None:
    rules = "add table inet t; add chain inet t in { type filter hook input priority 0; }; add rule inet t in drop"
    with host.ephemeral(containers, capabilities={"net_admin": "on"}, command=["sleep", "inf"]) as env:
        witness.shell(env, f"nft '{rules}' && ! ping -c 1 -W 1 127.0.0.1")
        witness.shell(env, "nft flush ruleset && ping -c 1 127.0.0.1 && iptables -A INPUT -j ACCEPT")
        witness.shell(env, "ip netns add far && ip link add near type veth peer name far netns far")
        witness.shell(env, "ip addr add 10.5.5.1/24 dev near && ip link set near up")
        far = "nsenter --net=/run/netns/far ip"  # `ip netns exec` would have a fresh /sys, which the kernel refuses
        witness.shell(env, f"{far} addr add 10.5.5.2/24 dev far && {far} link set far up")
        assert " 0% packet loss" in witness.shell(env, "ping -c 1 10.5.5.2")
    with host.ephemeral(containers, command=["sleep", "inf"]) as env:
        assert "not permitted" in witness.says_no(env, f"nft '{rules}'")
