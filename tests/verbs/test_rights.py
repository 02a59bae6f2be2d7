"""What root of a VE may do, asked by programs inside it, and of the kernel from outside: capabilities, system calls,
/proc and profiles.  What must be refused inside is seen to be no error of the asking where nothing confines it."""

import json
import marshal
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyseccomp
import pytest

import ve
from tests import conftest
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import rights, seccomp

CONFINED = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters")
NATIVE = pyseccomp.system_arch()
VSOCK, UNIX, STREAM = 40, 1, 1
REFUSED = [(call, row) for row in rights.REFUSALS for call in row.syscalls if row.argument is None]


@pytest.fixture(scope="module")
def box(host: "ve.Host", probe: Path) -> Iterator["ve.Environment"]:
    """A running VE of the default profile with /probe in it."""
    env = host.create(6001, template="busybox")
    env.copy_in(str(probe), "/probe", archive=True)
    env.start()
    yield env
    conftest._end(host, env.veid)


def number(call: str, architecture: int = NATIVE) -> int:
    return int(pyseccomp.resolve_syscall(architecture, call))


def asks(env: "ve.Environment", *arguments: object) -> str:
    return witness.shell(env, " ".join(["/probe", *map(str, arguments)])).strip()


def outside(probe: Path, *arguments: object) -> str:
    return subprocess.check_output([probe, *map(str, arguments)], text=True).strip()


# ---- capabilities and system calls -----------------------------------------------------------------------------------


def test_every_way_in_is_confined_alike(host_dir: Path, box: "ve.Environment") -> None:
    init = witness.init(host_dir, box.veid)
    expected = {key: witness.status(init)[key] for key in CONFINED}, witness.namespaces(init)
    look = "cat /proc/self/status; for each in /proc/self/ns/*; do readlink $each; done"
    program = ["-c", look]
    shown = {
        "run": witness.shell(box, look),
        "popen": box.popen(["sh", *program], stdout=subprocess.PIPE, text=True).communicate()[0],
        "exec": commandline.run(host_dir, "exec", box.veid, "--", "sh", *program).stdout,
        "enter": commandline.run(host_dir, "enter", box.veid, input=look).stdout,
        "login": box.run(["sh", *program], login=True, capture_output=True, text=True).stdout,
    }
    for way, text in shown.items():
        fields = dict(re.findall(r"^(\w+):\t(.*)$", text, re.MULTILINE))
        spaces = dict(re.findall(r"^((\w+):\[\d+\])$", text, re.MULTILINE))
        assert {key: fields[key] for key in CONFINED} == expected[0], way
        assert set(spaces) == set(expected[1].values()), way
    assert expected[0]["Seccomp"] == "2"


def test_the_announced_capabilities_are_gone_and_no_unknown_one_is_there(host_dir: Path, box: "ve.Environment") -> None:
    status = witness.status(witness.init(host_dir, box.veid))
    named = "".join(f"{name}," for name in rights.ANNOUNCED).rstrip(",")
    decoded = subprocess.check_output(["capsh", f"--decode={status['CapBnd']}"], text=True)
    assert not {f"cap_{name}" for name in named.split(",")} & set(re.findall(r"\w+", decoded))
    assert int(status["CapBnd"], 16) >> len(rights.CAPABILITIES) == 0
    assert {status[key] for key in ("CapInh", "CapAmb")} == {"0" * 16}


def test_the_table_has_the_kernel_s_numbers() -> None:
    header = Path("/usr/include/linux/capability.h").read_text()
    named = {int(value): name.lower() for name, value in re.findall(r"#define CAP_([A-Z_]+)\s+(\d+)$", header, re.M)}
    assert tuple(named[each] for each in sorted(named)) == rights.CAPABILITIES[: len(named)]


@pytest.mark.parametrize(("call", "row"), REFUSED, ids=[call for call, _ in REFUSED])
def test_refused_system_calls(box: "ve.Environment", probe: Path, call: str, row: rights.Refusal) -> None:
    arguments = (number(call), -1, -1, -1)  # never anything that could succeed
    assert asks(box, *arguments) == row.error
    assert outside(probe, *arguments) != row.error


@pytest.mark.parametrize("family", [VSOCK, VSOCK | 1 << 32], ids=["plain", "with bits that nobody looks at"])
def test_no_socket_to_the_hypervisor(box: "ve.Environment", family: int) -> None:
    assert asks(box, number("socket"), family, STREAM, 0) == "EACCES"
    assert asks(box, number("socket"), UNIX, STREAM, 0).isdecimal()


@pytest.mark.skipif(NATIVE != pyseccomp.Arch.X86_64, reason="only x86 has this second way into the kernel")
def test_the_way_of_32_bit_programs_is_no_way_around(box: "ve.Environment", probe: Path) -> None:
    x86 = pyseccomp.Arch.X86
    assert outside(probe, "-32", number("getpid", x86)).isdecimal()
    assert asks(box, "-32", number("getpid", x86)).isdecimal()
    assert asks(box, "-32", number("keyctl", x86), -1) == "ENOSYS"
    assert asks(box, "-32", number("bpf", x86), -1) == "EACCES"
    assert asks(box, "-32", 359, UNIX, STREAM, 0).isdecimal()  # socket(2)
    assert asks(box, "-32", 359, VSOCK, STREAM, 0) == "EACCES"
    assert asks(box, "-32", 102, 1, -1) == "EACCES"  # socketcall(SYS_SOCKET, ...)
    assert asks(box, number("getpid") | 1 << 30) == "ENOSYS"  # x32


def test_a_system_call_newer_than_libseccomp_is_not_there(box: "ve.Environment") -> None:
    assert asks(box, 1000) == "ENOSYS"
    assert asks(box, 462, -1, -1, -1) == "ENOSYS"  # mseal, of 6.10: EINVAL where nothing confines


# What may become of the file of the compiled filters; weak is one of a filter that refuses nothing.
DAMAGES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "nothing is left": lambda own, weak: b"",
    "half of it": lambda own, weak: own[: len(own) // 2],
    "one of the two programs": lambda own, weak: b"".join(own.splitlines(keepends=True)[:-1]),
    "another byte": lambda own, weak: own[:-2] + bytes([own[-2] ^ 1]) + own[-1:],
    "another's": lambda own, weak: weak,
    "not ours": lambda own, weak: marshal.dumps(()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_filter_is_no_weaker_one(
    host: "ve.Host", host_dir: Path, box: "ve.Environment", probe: Path, damage: str
) -> None:
    path = host_dir / "run/filter" / seccomp.name()
    whole = path.read_bytes()
    host.state.keep_filters("weak", seccomp.compile(()))
    weak = path.with_name("weak")
    path.write_bytes(DAMAGES[damage](whole, weak.read_bytes()))
    weak.unlink()
    done = commandline.run(host_dir, "exec", box.veid, "/probe", number("bpf"), -1, -1, -1)
    assert (done.returncode, done.stdout, done.stderr) == (0, "EACCES\n", "")
    counted = witness.shell(box, "grep Seccomp_filters /proc/self/status").split()[1]
    assert counted == witness.status(witness.init(host_dir, box.veid))["Seccomp_filters"]
    assert path.read_bytes() == whole  # as compiled anew


def test_a_damaged_filter_that_only_its_start_knew_is_said(
    host_dir: Path, host: "ve.Host", box: "ve.Environment", monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of another ve: then there is none, and no command runs without."""
    monkeypatch.setattr(seccomp, "name", lambda *_: "of this ve")
    for path in (host_dir / "run/filter").iterdir():
        path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(ve.errors.NotSupported, match="what its start kept of it is gone or damaged") as refused:
        box.run(["true"])
    assert refused.value.hint == "restart the VE"


def test_a_user_inside_has_no_capability(box: "ve.Environment") -> None:
    fields = box.run(["cat", "/proc/self/status"], user="65534", capture_output=True, text=True).stdout
    assert re.search(r"^CapEff:\t0{16}$", fields, re.MULTILINE) and re.search(r"^Seccomp:\t2$", fields, re.MULTILINE)


def test_its_session_keyring_is_its_own(host_dir: Path, box: "ve.Environment") -> None:
    """keyctl(2) is refused inside; the host counts what the VE's root has."""
    base = witness.base(witness.init(host_dir, box.veid))
    assert re.search(rf"^ *{base}: ", Path("/proc/key-users").read_text(), re.MULTILINE)
    assert asks(box, number("keyctl"), 0, -3, 0) == "ENOSYS"


# ---- devices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [True, False], ids=["given", "not given"])
def test_a_device_opens_if_it_was_given_whatever_nodes_there_are(host_dir: Path, make: Make, given: bool) -> None:
    """Root of the host puts a node into its /dev, which no root of a VE can."""
    env = make(devices=["/dev/loop-control"] if given else [])
    env.start()
    init = witness.init(host_dir, env.veid)
    node = Path(f"/proc/{init}/root/dev/ours")
    os.mknod(node, 0o666 | stat.S_IFCHR, os.stat("/dev/loop-control").st_rdev)
    os.chown(node, witness.base(init), witness.base(init))
    if given:
        witness.shell(env, "true </dev/ours")
    else:
        assert "not permitted" in witness.says_no(env, "true </dev/ours")
    for command in ("mknod /tmp/m c 1 1", "mknod /dev/m c 1 1", "mknod /tmp/m b 7 0"):
        witness.says_no(env, command)
    witness.shell(
        env, "for name in null zero full random urandom tty ptmx pts/ptmx; do test -c /dev/$name || exit; done"
    )
    witness.shell(env, "true </dev/ptmx && true </dev/zero && true </dev/urandom && true </dev/full && echo >/dev/null")


# ---- profiles --------------------------------------------------------------------------------------------------------


def started(make: Make, *profiles: str, **options: object) -> "ve.Environment":
    env = make(profiles=profiles, **options)
    env.start()
    return env


def test_default(box: "ve.Environment") -> None:
    assert "Read-only" in witness.says_no(box, "echo 1 >/proc/sys/kernel/shmall")
    assert "Read-only" in witness.says_no(box, "echo 1 >/proc/sys/net/ipv4/ip_forward")
    witness.says_no(box, "mkdir /p && mount -t proc proc /p")
    witness.says_no(box, "ip link add dummy0 type dummy")
    witness.shell(box, "echo 5 >/proc/self/oom_score_adj; unshare -U true; ! test -e /dev/fuse; ! test -e /dev/net/tun")
    assert witness.shell(box, "cat /proc/sys/user/max_*_namespaces").split() == ["1024"] * 8


def test_announcement(make: Make) -> None:
    env = started(make, "announcement")
    assert "Read-only" in witness.says_no(env, "echo 5 >/proc/self/oom_score_adj")
    for way in ("mount -o remount,rw /proc", "mount -o remount,bind,rw /proc", "umount /proc", "umount -l /proc"):
        witness.says_no(env, way)
    assert witness.shell(env, "hostname blue; hostname") == "blue\n"


def test_strict(host_dir: Path, make: Make, box: "ve.Environment", probe: Path) -> None:
    env = make(profiles=["strict"])
    env.copy_in(str(probe), "/probe", archive=True)
    env.start()
    witness.says_no(env, "unshare -U true")
    witness.says_no(env, "echo 9 >/proc/sys/user/max_user_namespaces")
    assert witness.status(witness.init(host_dir, env.veid))["NoNewPrivs"] == "1"
    for each, user in ((box, "0"), (env, "1000")):  # whose id a setuid program has
        witness.shell(each, "cp /probe /bin/probe; chmod 4755 /bin/probe")
        done = each.run(["/bin/probe", str(number("geteuid"))], user="1000", capture_output=True, text=True)
        assert done.stdout.strip() == user


def test_nesting(make: Make) -> None:
    env = started(make, "nesting")
    fresh = "mkdir -p /p && mount -t proc p /p && umount /p && mount -t sysfs -o ro,nosuid,nodev,noexec s /p"
    witness.shell(env, fresh)
    witness.shell(env, "ip link add dummy0 type dummy 2>/dev/null || ip link set lo down && ip link set lo up")


@pytest.mark.parametrize(("name", "device"), [("fuse", "/dev/fuse"), ("tun", "/dev/net/tun"), ("docker", "/dev/fuse")])
def test_devices_of_a_profile(host_dir: Path, make: Make, name: str, device: str) -> None:
    if not os.path.exists(device):
        with pytest.raises(ve.Error, match=device):
            make(profiles=[name])
        return
    env = started(make, name)
    at = os.stat(device)
    major_minor = f"{os.major(at.st_rdev):x}:{os.minor(at.st_rdev):x}"
    assert witness.shell(env, f"stat -c %t:%T {device}").strip() == major_minor


def test_sysctl(make: Make) -> None:
    env = started(make, "sysctl", capabilities={"net_admin": "on"})
    witness.shell(env, "echo 77 >/proc/sys/kernel/shmmni; echo 1 >/proc/sys/net/ipv4/ip_forward")
    assert witness.shell(env, "cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_forward").split() == ["77", "1"]
    assert Path("/proc/sys/kernel/shmmni").read_text() != "77\n"
    witness.says_no(env, "echo x >/proc/sys/kernel/core_pattern")


def test_a_capability_more_or_less(host_dir: Path, make: Make) -> None:
    env = started(make, capabilities={"net_admin": "on", "net_raw": "off"})
    held = int(witness.status(witness.init(host_dir, env.veid))["CapBnd"], 16)
    assert [held >> rights.CAPABILITIES.index(name) & 1 for name in ("net_admin", "net_raw")] == [1, 0]
    witness.shell(env, "ip link set lo down && ip link set lo up")


@pytest.mark.any_kernel
def test_it_is_kept_and_shown_and_another_waits_for_the_next_start(host_dir: Path, veid: int) -> None:
    options = ("--profile", "strict", "--profile", "sysctl", "--capability", "net_raw:off")
    commandline.output(host_dir, "create", veid, "--template", "busybox", *options)
    status = json.loads(commandline.output(host_dir, "status", veid, "--json"))
    assert (status["profiles"], status["capabilities"]) == (["strict", "sysctl"], {"net_raw": "off"})
    commandline.output(host_dir, "start", veid)
    commandline.output(host_dir, "set", veid, "--profile", "", "--capability", "", "--save")
    look = ("exec", veid, "--", "grep", "NoNewPrivs", "/proc/self/status")
    assert commandline.output(host_dir, *look).split() == ["NoNewPrivs:", "1"]
    commandline.output(host_dir, "restart", veid)
    assert commandline.output(host_dir, *look).split() == ["NoNewPrivs:", "0"]


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("option", "hint"),
    [
        (("--profile", "defalt"), "did you mean default?"),
        (("--capability", "net_admn:on"), "did you mean net_admin?"),
        (("--capability", "CAP_NET_ADMIN:on"), "did you mean net_admin?"),
        (("--capability", "net_admin"), "on or off"),
        (("--profile", "announcement", "--profile", "nesting"), "cannot combine"),
        (("--profile", "sysctl", "--profile", "announcement"), "cannot combine profiles announcement and sysctl"),
        (("--profile", "nesting", "--profile", "strict"), "cannot combine profiles strict and nesting"),
    ],
)
def test_what_is_not_known_is_refused(host_dir: Path, veid: int, option: tuple[str, ...], hint: str) -> None:
    with witness.nothing_changes(host_dir):
        done = commandline.run(host_dir, "create", veid, "--template", "busybox", *option)
    assert done.returncode == 20 and hint in done.stderr
