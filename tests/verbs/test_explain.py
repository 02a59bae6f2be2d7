"""`ve explain` against the kernel, and against programs inside that try what it says."""

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyseccomp
import pytest

import ve
from tests import conftest
from tests.manual import section
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import answers, rights

# It asks each time what system calls there are, which a software CPU takes a minute for.
pytestmark = pytest.mark.any_kernel
CAPABILITIES = Path("/proc/sys/kernel/cap_last_cap").read_text()
# Of these profiles and options there is a running VE for the tests below.
GIVEN: dict[str, dict[str, Any]] = {
    "default": {},
    "announcement": {"profiles": ["announcement"], "capabilities": {"net_raw": "off", "sys_time": "on"}},
    "sysctl": {"profiles": ["sysctl", "fuse"], "capabilities": {"net_admin": "on"}, "devices": ["/dev/loop-control"]},
    "nesting": {"profiles": ["nesting"]},
    "strict": {"profiles": ["strict"]},
}
# Files, which a program inside tries to open for writing; opening one changes nothing.
PATHS = (
    *("/etc/passwd", "/proc/cpuinfo", "/proc/self/oom_score_adj", "/proc/1/oom_score_adj", "/proc/self/status"),
    *(
        "/proc/sys/kernel/shmall",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/overcommit_memory",
    ),
    *("/proc/sys/net/ipv4/ip_forward", "/proc/sys/user/max_user_namespaces", "/proc/sys/fs/mqueue/msg_max"),
    *("/proc/sys/kernel/random/boot_id", "/proc/timer_list", "/proc/keys", "/sys/kernel/mm/ksm/run"),
    *(
        "/sys/fs/cgroup/cgroup.procs",
        "/dev/shm/new",
        "/run/new",
        "/new",
        "/srv/ro/file",
        "/srv/rw/file",
        "/srv/rw/alien",
        "/root/link",
    ),
)
DEVICES = (
    "null",
    "zero",
    "full",
    "random",
    "urandom",
    "ptmx",
    "stdin",
    "fuse",
    "loop-control",
    "net/tun",
    "kmsg",
    "console",
)


@pytest.fixture(scope="module", params=GIVEN)
def env(request: pytest.FixtureRequest, host: "ve.Host", host_dir: Path, probe: Path) -> Iterator["ve.Environment"]:
    """A running VE for each of GIVEN."""
    veid = 6101 + list(GIVEN).index(request.param)
    source = host_dir / "source"
    source.mkdir(exist_ok=True)
    (source / "file").touch()
    (source / "alien").touch()
    os.chown(source / "alien", 100000, 100000)  # whom the VE does not have
    given = dict(GIVEN[request.param], mounts=[f"{source}:/srv/ro:ro", f"{source}:/srv/rw"])
    given["devices"] = [path for path in given.get("devices", []) if os.path.exists(path)]
    made = host.create(veid, template="busybox", **given)
    made.copy_in(str(probe), "/probe", archive=True)
    made.start()
    made.run(["ln", "-s", "/proc/timer_list", "/root/link"], check=True)
    yield made
    conftest._end(host, veid)
    subprocess.run(["rm", "-rf", source], check=True)


def only(env: "ve.Environment", right: str) -> "ve.Explanation":
    [answer] = env.explain(right)
    return answer


def opens(env: "ve.Environment", path: str, how: str = ">>") -> bool:
    done = env.run(["sh", "-c", f"exec 3{how}{path}"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def is_native(call: str) -> bool:
    return int(pyseccomp.resolve_syscall(pyseccomp.system_arch(), call)) >= 0


def asks(env: "ve.Environment", call: str, *arguments: int) -> str:
    number = pyseccomp.resolve_syscall(pyseccomp.system_arch(), call)
    return witness.shell(env, " ".join(["/probe", *map(str, (number, *arguments))])).strip()


def test_capabilities_are_those_of_its_bounding_set(host_dir: Path, env: "ve.Environment") -> None:
    bounding = int(witness.status(witness.init(host_dir, env.veid))["CapBnd"], 16)
    names = rights.CAPABILITIES[: int(CAPABILITIES) + 1]
    said = {name: only(env, f"capability:{name}").held for name in names}
    assert said == {name: bool(bounding >> number & 1) for number, name in enumerate(names)}


def test_system_calls_that_are_refused_and_that_are_not(env: "ve.Environment") -> None:
    for row in rights.REFUSALS:
        for call in filter(is_native, row.syscalls):
            answer = only(env, f"syscall:{call}")
            refused = asks(env, call, -1, -1, -1) == row.error  # -1: nothing that could succeed
            assert answer.held == (not refused), call
            assert row.error in answer.why
    for call in ("getpid", "getppid", "umask"):
        assert only(env, call).held and asks(env, call).isdecimal()
    assert asks(env, "settimeofday", 0, 0) == "EPERM" and not only(env, "settimeofday").held
    assert asks(env, "iopl", 3) in ("EPERM", "ENOSYS") and not only(env, "iopl").held  # which not every kernel has


def test_paths_can_be_written_or_not(env: "ve.Environment") -> None:
    said = {path: only(env, path) for path in PATHS}
    hidden = [path for path, answer in said.items() if answer.why.startswith("hidden")]
    assert {path: answer.held for path, answer in said.items() if path not in hidden} == {
        path: opens(env, path) for path in said if path not in hidden
    }
    assert not any(said[path].held for path in hidden)
    assert [witness.shell(env, f"cat {path}") for path in hidden] == [""] * len(hidden)
    assert ("/root/link" in hidden) == ("/proc/timer_list" in hidden)  # where that leads


def test_devices_open_or_not(env: "ve.Environment") -> None:
    said = {name: only(env, f"/dev/{name}").held for name in DEVICES if os.path.exists(f"/dev/{name}")}
    assert {"null", "ptmx"} <= set(said)
    assert said == {name: opens(env, f"/dev/{name}", "<") for name in said}


def test_profiles(env: "ve.Environment") -> None:
    given = json.loads(json.dumps(env.describe()["profiles"]))
    assert {row.name for row in rights.PROFILES if only(env, f"profile:{row.name}").held} == set(given)


def test_namespaces_under_strict(env: "ve.Environment") -> None:
    strict = only(env, "strict").held
    assert ("strict" in only(env, "unshare").why) == strict
    assert (env.run(["unshare", "-U", "true"], stderr=subprocess.DEVNULL).returncode != 0) == strict


def test_a_fresh_proc(env: "ve.Environment") -> None:
    tried = env.run(["sh", "-c", "mkdir -p /p && mount -t proc p /p"], stderr=subprocess.DEVNULL)
    assert ("fresh proc" in only(env, "mount").why) == (tried.returncode != 0)


@pytest.mark.parametrize("name", GIVEN)
def test_a_start_gives_what_was_foretold(make: Make, name: str) -> None:
    options = GIVEN[name] | {"devices": [path for path in GIVEN[name].get("devices", []) if os.path.exists(path)]}
    env = make(**options)
    existing = [path for path in PATHS if not path.startswith(("/srv", "/root"))]
    asked = [*existing, *(f"/dev/{each}" for each in DEVICES if os.path.exists(f"/dev/{each}"))]
    asked += [f"capability:{each}" for each in rights.CAPABILITIES[: int(CAPABILITIES) + 1]]
    foretold = {right: only(env, right) for right in asked}
    assert {answer.when for answer in foretold.values()} == {"next start"}
    env.start()
    found = {right: only(env, right) for right in asked}
    assert {answer.when for answer in found.values()} == {"now"}
    assert {right: answer.held for right, answer in foretold.items()} == {
        right: answer.held for right, answer in found.items()
    }


def test_the_cure_cures(host_dir: Path, make: Make) -> None:
    """Typed as it is told, what is asked for is there."""
    env = make(capabilities={"net_raw": "off"})
    env.start()
    for right, path in (("net_admin", ""), ("/dev/loop-control", "<"), ("/proc/sys/kernel/shmall", ">>")):
        if right.startswith("/dev") and not os.path.exists(right):
            continue
        assert not only(env, right).held
        change, restart = only(env, right).cure.split(", then ")
        commandline.output(host_dir, *change.split()[1:])
        waiting = only(env, right)
        assert not waiting.held and waiting.cure == restart and "next start" in waiting.why
        commandline.output(host_dir, *restart.split()[1:], "--fast")
        assert only(env, right).held
        assert not path or opens(env, right, path)
    bounding = int(witness.status(witness.init(host_dir, env.veid))["CapBnd"], 16)
    assert [bounding >> rights.CAPABILITIES.index(name) & 1 for name in ("net_admin", "net_raw")] == [1, 0]


def test_what_was_changed_inside_since(make: Make) -> None:
    env = make(devices=["/dev/fuse"])
    env.start()
    assert only(env, "/dev/fuse").held
    witness.shell(env, "rm /dev/fuse && mkdir -p /mnt && mount -t tmpfs -o ro none /mnt")
    gone, mounted = only(env, "/dev/fuse"), only(env, "/mnt/x")
    assert not gone.held and gone.setting == "--device /dev/fuse" and gone.cure == f"ve restart {env.veid}"
    assert not mounted.held and "tmpfs that was mounted later" in mounted.why
    witness.shell(env, "mknod /dev/fuse p && umount /mnt")
    assert only(env, "/mnt/x").held and not only(env, "/dev/fuse").held


@pytest.mark.parametrize(
    ("without", "right", "held"),
    [
        ("secrets", "/proc/timer_list", False),
        ("sysctls", "/proc/sys/kernel/shmall", True),
        ("capabilities", "net_admin", True),
    ],
)
def test_a_protection_that_a_start_left_out(
    make: Make, monkeypatch: pytest.MonkeyPatch, without: str, right: str, held: bool
) -> None:
    """The tables do not know of it, the kernel does."""
    env = make()
    assert not only(env, right).held
    monkeypatch.setenv("VE_WITHOUT", without)
    env.start()
    assert only(env, right).held == held and not only(env, right).why.startswith("hidden")
    assert not right.startswith("/") or opens(env, right) == held


def test_a_node_that_was_not_given(host_dir: Path, make: Make) -> None:
    """Root of the host puts it into the VE's /dev; the filter at its cgroup lets nobody open it."""
    env = make()
    env.start()
    init = witness.init(host_dir, env.veid)
    for name, device in (("ours", "/dev/loop-control"), ("zero2", "/dev/zero")):
        os.mknod(f"/proc/{init}/root/dev/{name}", 0o666 | stat.S_IFCHR, os.stat(device).st_rdev)
    assert not only(env, "/dev/ours").held and not opens(env, "/dev/ours", "<")
    assert only(env, "/dev/zero2").held


def test_the_state_dir_of_ves_in_it(make: Make) -> None:
    env = make(profiles=["nesting"])
    env.start()
    for path in ("/var/lib/ve/new", "/var/lib/ve/view/1048576/new"):
        answer = only(env, path)
        assert (answer.held, answer.setting) == (True, "profile nesting"), answer.why
        assert witness.shell(env, f"echo in > {path}; cat {path}") == "in\n"


def test_links_inside_lead_nowhere_else(host_dir: Path, make: Make, tmp_path: Path) -> None:
    """The host's tmp_path is no place of the VE's, whatever a link says."""
    env = make(mounts=[f"{tmp_path}:/srv:ro"])
    env.start()
    witness.shell(env, f"ln -s /srv /ro; ln -s {tmp_path} /out; ln -s /loop /loop; ln -s ../../../../proc/keys /up")
    assert "--mount" in only(env, "/ro/x").setting
    assert only(env, "/out").held and "no such file" in only(env, "/out").why
    assert only(env, "/loop").held
    assert only(env, "/up").why.startswith("hidden")
    assert only(env, "/proc/1/root/etc").why  # a magic link, which is not followed


def test_of_one_that_is_thrown_away(host: "ve.Host") -> None:
    with host.ephemeral("busybox", command=()) as env:
        answer = only(env, "net_admin")
        assert (answer.held, answer.when) == (False, "now")
        assert answer.cure == "ve run ... --capability net_admin:on"
        assert only(env, "/run/x").held == opens(env, "/run/x")  # no init boots, so nothing is mounted there
        assert "template and private area" in only(env, "/run").why
        assert not only(env, "/dev/init").held and not opens(env, "/dev/init")


def test_of_a_frozen_one(make: Make) -> None:
    env = make()
    env.start()
    env.freeze()
    assert only(env, "net_raw").when == "now" and only(env, "/etc/passwd").held


def test_on_the_command_line(host_dir: Path, make: Make) -> None:
    env = make(name="explained")
    done = commandline.run(host_dir, "explain", "explained", "net_admin", "bpf", "/proc/kcore")
    assert done.returncode == 0
    assert "does not run" in done.stderr
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if "to change that" not in line) <= 80
    assert [line[:20].split(":")[0] for line in lines if not line.startswith(" ")] == [
        "no   capability net_",
        "yes  capability bpf",
        "no   system call bpf",
        "no   path /proc/kcor",
    ]
    assert "     to change that: ve set explained --capability net_admin:on --save" in lines
    env.start()
    shown = json.loads(commandline.output(host_dir, "explain", "explained", "syscall:bpf", "--json"))
    assert [(each["right"], each["kind"], each["held"], each["when"]) for each in shown] == [
        ("bpf", "system call", False, "now")
    ]


@pytest.mark.parametrize(
    ("right", "sentence", "hint"),
    [
        ("net_admn", "'net_admn': no capability, system call or profile has that name", "did you mean net_admin?"),
        ("nestign", "'nestign': no capability, system call or profile has that name", "did you mean nesting?"),
        ("syscall:mont", "system call 'mont': there is none", "did you mean mount?"),
        ("/dev/fues", "device '/dev/fues': neither the VE nor the host has one", "did you mean /dev/fuse?"),
    ],
)
def test_what_nobody_knows(host_dir: Path, make: Make, right: str, sentence: str, hint: str) -> None:
    env = make()
    assert witness.refused(host_dir, 20, f"cannot explain {sentence}", "explain", env.veid, right) == hint


def test_the_kinds_are_those_that_the_manual_names() -> None:
    assert all(f"`{kind}`" in section("ve explain") for kind in answers.KINDS)
