"""A host that lacks something: a start, run or exec is refused by the name of what is missing, and never works by half.

What a host lacks is taken away from the command by a filter of system calls, by capabilities or by a mount.
"""

import re
import subprocess
from pathlib import Path

import pytest

import ve
from tests import lacking
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import facilities, rights

pytestmark = pytest.mark.any_kernel  # seen on 6.1 and 6.12; what is ours in it is the same on every kernel


ROWS = {row.name: row for row in facilities.KERNEL}
NEEDED = [name for name in lacking.REFUSED if ROWS[name].needed_by == facilities.EVERY]
OPTIONAL = [name for name in lacking.REFUSED if name not in NEEDED]
# What fails by an error of ours, which names it already.
NAMED_OTHERWISE = {"device filter": "device filter: cannot keep devices from a VE: Function not implemented"}
NO_FUSE = lacking.with_mounts("mount --bind /etc/hostname /dev/fuse")
NO_TUN = lacking.with_mounts("mount --bind /etc/hostname /dev/net/tun")


def refused(state_dir: Path, code: int, before: tuple[str, ...], *words: commandline.Word) -> tuple[str, str]:
    """The sentence and the hint of a command that lacks something."""
    line = [*before, *commandline.words(state_dir, *words)]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == code, done
    said, hint = done.stderr.splitlines()
    return said.removeprefix("ve: "), hint.removeprefix("hint: ")


@pytest.mark.any_kernel
@pytest.mark.parametrize("name", NEEDED)
def test_a_start_is_refused_by_name(host_dir: Path, make: Make, name: str) -> None:
    env = make()
    with witness.nothing_changes(host_dir):
        said, hint = refused(host_dir, 5, lacking.without(name), "start", env.veid)
    assert said.startswith(f"cannot start {env.veid}: ")
    wanted = NAMED_OTHERWISE.get(name, f"no {name} here, and every profile needs it")
    assert said.endswith(wanted)
    assert hint in lacking.cures(name)
    assert not witness.runs(host_dir, env.veid)


@pytest.mark.any_kernel
@pytest.mark.parametrize("name", OPTIONAL)
def test_a_start_does_without_the_rest(host_dir: Path, make: Make, name: str) -> None:
    env = make(hostname="red")
    line = [*lacking.without(name), *commandline.words(host_dir, "start", env.veid)]
    assert subprocess.run(line, stderr=subprocess.DEVNULL, check=False).returncode == 0
    assert witness.shell(env, "hostname; echo >/dev/null") == "red\n"


@pytest.mark.any_kernel
@pytest.mark.parametrize("name", ["setuid", "sys_ptrace", "sys_admin", "sys_time"])
def test_a_root_that_lacks_rights(host_dir: Path, make: Make, name: str) -> None:
    env = make()
    with witness.nothing_changes(host_dir):
        said, _ = refused(host_dir, 5, lacking.without_capability(name), "start", env.veid)
    row = "time namespace" if name == "sys_time" else f"full root here (it has no {name})"
    assert re.search(rf"no {re.escape(row)}.*, and every profile needs it$", said)


@pytest.mark.any_kernel
def test_a_proc_of_others(host_dir: Path, make: Make) -> None:
    """Another PID namespace's: pids read there would be those of other processes."""
    env = make()
    with witness.nothing_changes(host_dir):
        said, _ = refused(host_dir, 5, ("unshare", "--pid", "--fork"), "start", env.veid)
    assert said == f"cannot start {env.veid}: host: no own /proc here, and every profile needs it"


def test_a_run_is_refused_by_name(host_dir: Path, host: "ve.Host") -> None:
    with witness.nothing_changes(host_dir):
        said, _ = refused(host_dir, 125, lacking.without("mount of mqueue"), "run", "busybox", "true")
    assert said.endswith("no mount of mqueue here, and every profile needs it")


@pytest.mark.any_kernel
@pytest.mark.parametrize("name", ["CLONE_INTO_CGROUP", "seccomp", "session keyring"])
def test_an_exec_is_refused_by_name(host_dir: Path, env: "ve.Environment", name: str) -> None:
    said, hint = refused(host_dir, 125, lacking.without(name), "exec", env.veid, "true")
    assert said.startswith(f"cannot enter {env.veid}: ")
    assert said.endswith(f"no {name} here, and every profile needs it")
    assert hint


def test_what_is_not_lacking_is_not_blamed(host_dir: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make()
    monkeypatch.setenv("VE_FAULT", "union:error")
    done = commandline.run(host_dir, "start", env.veid)
    assert (done.returncode, done.stderr.count("every profile")) == (47, 0), done


# ---- profiles --------------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("before", "profile", "device", "cure"),
    [
        (NO_FUSE, "docker", "/dev/fuse", "modprobe fuse; the profile nesting does without"),
        (NO_FUSE, "fuse", "/dev/fuse", "modprobe fuse; the profile default does without"),
        (
            *(NO_TUN, "tun", "/dev/net/tun"),
            "modprobe tun; the profile default with --capability net_admin:on does without",
        ),
    ],
)
def test_a_profile_whose_device_is_missing(
    host_dir: Path, make: Make, before: tuple[str, ...], profile: str, device: str, cure: str
) -> None:
    env = make(profiles=[profile])
    why = f"cannot give profile {profile} to the VE: {device}: it is not a device"
    with witness.nothing_changes(host_dir):
        told = refused(host_dir, 5, before, "start", env.veid)
        assert told == (f"cannot start {env.veid}: host: {why}", cure)
        words = ("create", 3999, "--template", "busybox", "--profile", profile)
        assert refused(host_dir, 5, before, *words) == (why, cure)
    other = re.findall(r"the profile (\w+)", cure)[0]
    assert device not in rights.profile(other).devices


@pytest.mark.any_kernel
def test_a_device_whose_driver_is_missing(host_dir: Path, make: Make) -> None:
    env = make(profiles=["fuse"])
    script = "mount -t tmpfs none /mnt; mknod /mnt/fuse c 10 254; mount --bind /mnt/fuse /dev/fuse"
    said, _ = refused(host_dir, 5, lacking.with_mounts(script), "start", env.veid)
    assert said.endswith("cannot give profile fuse to the VE: /dev/fuse: No such device")


@pytest.mark.any_kernel
def test_a_capability_that_the_host_s_root_lacks_is_a_ve_s_all_the_same(host_dir: Path, make: Make) -> None:
    """A new user namespace has all of them, whatever its maker has."""
    env = make(capabilities={"net_admin": "on"})
    line = [*lacking.without_capability("net_admin"), *commandline.words(host_dir, "start", env.veid)]
    subprocess.run(line, stderr=subprocess.DEVNULL, check=True)
    witness.shell(env, "ip link set lo down && ip link set lo up")


# ---- ve check --------------------------------------------------------------------------------------------------------


def test_check_says_so_too(host_dir: Path) -> None:
    done = commandline.run(host_dir, "check")
    assert done.returncode == 0 and done.stderr.startswith("VEs can start here")
    line = [*lacking.without("mount of mqueue"), *commandline.words(host_dir, "check")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (5, "no VE can start here without mount of mqueue\n")
    shown = re.sub(r"\s+", " ", done.stdout)
    assert (
        "no mount of mqueue: mount No such device (needed by every VE; lost without it: POSIX queues in VEs)" in shown
    )
    assert "cure: use a kernel with CONFIG_POSIX_MQUEUE" in shown
