"""A VE in a VE.  The truth comes from the host's /proc and cgroups, and from programs in the inner VE.

host: VE "outer" of the profile nesting, with Python and our package in it (tests/nest.py)
    VE 5 and others of the template busybox that is built in there
"""

import json
import os
import re
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests import conftest, nest
from tests.verbs import commandline, witness

# A Python to copy and to start inside: a software CPU takes many minutes for it; tried on 6.1 by hand.
pytestmark = pytest.mark.any_kernel

ALL = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


@pytest.fixture(scope="module")
def nesting(host: "ve.Host", tmp_path_factory: pytest.TempPathFactory) -> str:
    """The template with Python and our package in it."""
    tree = tmp_path_factory.mktemp("nest") / "tree"
    nest.make_tree(tree)
    return host.templates.add("nest", tree).ref


@pytest.fixture(scope="module")
def outer(host: "ve.Host", nesting: str) -> Iterator["ve.Environment"]:
    """A running VE of the profile nesting, with the template busybox built in it."""
    env = host.create(7000, template=nesting, profiles=["nesting"], hostname="outer")
    try:
        env.start()
        says(env, "ve template build busybox")
        yield env
    finally:
        conftest._end(host, env.veid)


@pytest.fixture
def inner(outer: "ve.Environment") -> Iterator[int]:
    """The number of a running VE in that one; it is gone after the test."""
    says(outer, "ve create 5 --template busybox && ve start 5")
    yield 5
    tell(outer, "ve umount 5; ve stop --fast 5")
    says(outer, "ve destroy 5")


def tell(env: "ve.Environment", script: str) -> "subprocess.CompletedProcess[str]":
    """Run a script in the VE as `ve exec` does."""
    return env.run(["sh", "-c", script], login=True, capture_output=True, text=True, timeout=commandline.PATIENCE)


def says(env: "ve.Environment", script: str) -> str:
    done = tell(env, script)
    assert done.returncode == 0, (script, done.stderr, done.stdout)
    return done.stdout


def refuses(env: "ve.Environment", script: str, sentence: str, hint: str) -> None:
    """The last command of a script must fail with one sentence of ours and a hint."""
    done = tell(env, script)
    lines = done.stderr.splitlines()
    assert done.returncode not in (0, 1), (script, done)
    assert len(lines) == 2 and re.search(sentence, lines[0]) and re.search(hint, lines[1]), (script, done.stderr)


def cgroup_of(host_dir: Path, outer: "ve.Environment", veid: int) -> Path:
    return commandline.cgroup(host_dir, outer.veid) / f"init/ve/{veid}/init"


def host_pid(host_dir: Path, outer: "ve.Environment", veid: int) -> int:
    """The host's number of the init of a VE in the outer one."""
    pids = map(int, (cgroup_of(host_dir, outer, veid) / "cgroup.procs").read_text().split())
    return next(pid for pid in pids if witness.status(pid)["NSpid"].split()[-1] == "1")


def init_of(host_dir: Path, outer: "ve.Environment") -> int:
    """The host's number of the outer VE's own init: PID 1 one level below the host, where those in it are deeper."""
    pids = map(int, (commandline.cgroup(host_dir, outer.veid) / "init/cgroup.procs").read_text().split())
    return next(pid for pid in pids if witness.status(pid)["NSpid"].split()[1:] == ["1"])


def id_map(pid: int) -> list[tuple[int, int, int]]:
    """As this process, in the host's user namespace, sees it."""
    lines = (tuple(map(int, line.split())) for line in Path(f"/proc/{pid}/uid_map").read_text().splitlines())
    return [(inside, host, count) for inside, host, count in lines]


# ---- it works --------------------------------------------------------------------------------------------------------


def test_run(outer: "ve.Environment") -> None:
    done = tell(outer, "echo in | ve run busybox -- sh -c 'cat; id -u; hostname; mkdir /new; rm -r /new /etc; exit 7'")
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.splitlines()[:2] == ["in", "0"] and done.stdout.splitlines()[2] != "outer"
    assert says(outer, "ve list -H") == ""


def test_the_life_of_one(outer: "ve.Environment", inner: int) -> None:
    assert says(outer, "ve list -H -o veid,status").split() == ["5", "running"]
    says(outer, "ve exec 5 -- sh -c 'rm -r /etc/init.d && mkdir /etc/init.d && echo new >/etc/hosts && echo text >/f'")
    says(outer, "ve cp /etc/passwd 5:/root/ && ve cp 5:/f /tmp/f && ve exec 5 -- chown 1000:1000 /f")
    assert says(outer, "cat /tmp/f; ve ps 5 | wc -l").split()[0] == "text"
    changed = says(outer, "ve diff 5").splitlines()
    says(outer, "ve stop 5 && ve list -H -o status | grep -qx stopped")
    assert says(outer, "ve diff 5").splitlines() == changed
    for line in ("C  /etc/hosts", "A  /f", "A  /root/passwd"):
        assert line in changed
    assert any(re.fullmatch(r"D  /etc/init\.d/.*", line) for line in changed)  # gone with the directory, now opaque
    says(outer, "ve cp -a 5:/f /tmp/g && ve mount 5")
    assert says(outer, "stat -c %u /tmp/g /var/lib/ve/root/5/f").split() == ["1000", "1000"]
    says(outer, "ve umount 5 && echo more >/tmp/f; ve cp /tmp/f 5:/f && ve start 5")
    assert says(outer, "ve exec 5 -- cat /f /etc/hosts").split() == ["more", "new"]
    says(outer, "ve freeze 5 && ve thaw 5 && ve restart 5 && ve exec 5 true")


def test_it_is_there_again_after_a_restart_of_the_outer_one(
    host: "ve.Host", outer: "ve.Environment", inner: int
) -> None:
    says(outer, "ve exec 5 -- sh -c 'echo kept >/f; sync'")
    outer.restart()
    assert says(outer, "ve list -H -o veid,status").split() == ["5", "stopped"]
    assert says(outer, "ve start 5 && ve exec 5 cat /f").splitlines()[-1] == "kept"


def test_in_one_that_is_thrown_away(host: "ve.Host", host_dir: Path, nesting: str) -> None:
    with host.ephemeral(nesting, command=(), profiles=["nesting"]) as env:
        says(env, "ve template build busybox && ve run busybox true && ve create 5 --template busybox && ve start 5")
        assert says(env, "ve exec 5 id -u") == "0\n"
        veid = env.veid
    assert witness.left_of(host_dir, veid) == []


def test_check_says_that_it_can(outer: "ve.Environment") -> None:
    facilities = {each["name"]: each for each in json.loads(says(outer, "ve check --json"))}
    assert not [name for name, each in facilities.items() if each["required"] and not each["present"]]


# ---- what it is made of ----------------------------------------------------------------------------------------------


def test_ids_namespaces_and_cgroup(host_dir: Path, outer: "ve.Environment", inner: int) -> None:
    around, within = init_of(host_dir, outer), host_pid(host_dir, outer, inner)
    _, *given = id_map(around)
    [(first, base, count)] = id_map(within)
    assert (first, count) == (0, 65536)
    assert base in [host for _, host, _ in given]
    assert not any(host < base + count and base < host + size for _, host, size in id_map(around)[:1])
    spaces = [witness.namespaces(pid) for pid in ("self", around, within)]
    for name in ALL:
        assert len({each[name] for each in spaces}) == 3, name
    bound = (f"/proc/{within}/root/etc", f"/proc/{within}/root/bin/busybox")
    assert [os.stat(path).st_uid for path in bound] == [base, base]
    assert int(witness.status(within)["CapBnd"], 16) & int(witness.status(around)["CapBnd"], 16) == int(
        witness.status(within)["CapBnd"], 16
    )
    assert int(witness.status(within)["Seccomp_filters"]) > int(witness.status(around)["Seccomp_filters"])


def test_no_two_share_ids(host_dir: Path, outer: "ve.Environment", inner: int) -> None:
    says(outer, "ve create 6 --template busybox && ve start 6")
    command = ["ve", "run", "busybox", "--", "sh", "-c", "echo up; cat"]
    ephemeral = outer.popen(command, login=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert ephemeral.stdout and ephemeral.stdout.readline() == "up\n"
        veids = says(outer, "ve list -H -o veid").split()
        bases = {id_map(host_pid(host_dir, outer, int(veid)))[0][1] for veid in veids}
        assert len(veids) == len(bases) == 3
    finally:
        ephemeral.communicate()
        says(outer, "ve stop --fast 6; ve destroy 6")


# ---- what it may not -------------------------------------------------------------------------------------------------


def test_its_root_does_not_reach_the_outer_one(host_dir: Path, outer: "ve.Environment", inner: int) -> None:
    says(outer, "echo secret >/secret; chmod 644 /secret; (sleep 1000 & echo $! >/sleeper) >/dev/null 2>&1")
    try:
        assert "secret" not in says(outer, "ve exec 5 -- ls /")
        shown = says(outer, "ve exec 5 -- ls /proc; ve exec 5 -- ps")
        assert "sleep" not in shown and len(re.findall(r"^\d+$", shown, re.MULTILINE)) < 10
        for command in (
            "mkdir -p /p; mount -t proc p /p",
            "umount /proc/sys",
            "mknod /tmp/null c 1 3",
            "mknod /tmp/disk b 7 0",
            "echo x >/proc/sys/kernel/core_pattern",
            "ip link add dummy0 type dummy",
            "mkdir /sys/fs/cgroup/../outside",
        ):
            assert tell(outer, f"ve exec 5 -- sh -c '{command}'").returncode != 0, command
        assert says(outer, "ve exec 5 -- hostname x; hostname") == "outer\n"
        assert says(outer, "ve exec 5 -- cat /proc/self/cgroup").splitlines()[-1].startswith("0::/exec")
    finally:
        says(outer, "kill $(cat /sleeper); rm /secret /sleeper")


def test_nor_the_host(outer: "ve.Environment") -> None:
    """sys_time, which the profile gives, is for the clocks of new time namespaces only."""
    assert "not permitted" in tell(outer, "date -s 2020-01-01").stderr
    assert tell(outer, "mknod /dev/shm/null c 1 3").returncode != 0
    assert tell(outer, "umount /var/lib/ve/view/* || umount /var/lib/ve").returncode != 0


def test_its_root_is_nobody_s_on_disk(host_dir: Path, outer: "ve.Environment", inner: int) -> None:
    """Files keep the ids that they have inside, whatever ids it runs with: on the host's disk too."""
    says(outer, "ve exec 5 -- sh -c 'echo x >/f; chown 1000:1000 /f'")
    inside = host_dir / f"private/{outer.veid}/inner/private/5/upper"
    assert [(inside / name).stat().st_uid for name in ("root", "f") if (inside / name).exists()][-1] == 1000
    assert (host_dir / f"private/{outer.veid}").stat().st_mode & 0o077 == 0


# ---- its end ---------------------------------------------------------------------------------------------------------


def test_killing_the_outer_one_ends_it(host: "ve.Host", host_dir: Path, outer: "ve.Environment", inner: int) -> None:
    around, within = init_of(host_dir, outer), host_pid(host_dir, outer, inner)
    pidfd = os.pidfd_open(within)
    try:
        os.kill(around, signal.SIGKILL)
        witness.wait_empty(host_dir, outer.veid)
        assert select.select([pidfd], [], [], commandline.PATIENCE)[0]
        witness.wait_stopped(outer)
    finally:
        os.close(pidfd)
        outer.restart()
    assert says(outer, "ve list -H -o veid,status").split() == ["5", "stopped"]


def test_destroying_the_outer_one_leaves_nothing(host: "ve.Host", host_dir: Path, nesting: str, veid: int) -> None:
    env = host.create(veid, template=nesting, profiles=["nesting"])
    env.start()
    says(env, "ve template build busybox && ve create 5 --template busybox && ve start 5")
    within = host_pid(host_dir, env, 5)
    env.stop(fast=True)
    assert not Path(f"/proc/{within}").exists()
    env.destroy()
    assert witness.left_of(host_dir, veid) == []


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_without_the_profile(host: "ve.Host", nesting: str, veid: int) -> None:
    env = host.create(veid, template=nesting)
    env.start()
    refuses(env, "ve template build busybox", "no fresh /proc can be mounted", "profile nesting")
    says(env, "mkdir -p /var/lib/ve")
    env.copy_in(f"{host.templates.path}", "/var/lib/ve/", archive=True)
    refuses(env, "ve run busybox true", "cannot find host ids", "profile nesting")
    assert tell(env, "ve check >/dev/null").returncode == 5


def test_on_an_overlay(outer: "ve.Environment") -> None:
    """Its root cannot have loop devices; but a tmpfs, whose user.* attributes are of kernel 6.6."""
    says(outer, "ve --state-dir /else template build busybox")
    if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 6):
        assert says(outer, "ve --state-dir /else run busybox -- id -u; mount | grep ' /else '").startswith(
            "0\nve on /else"
        )
        says(outer, "umount /else")
    else:
        refuses(outer, "ve --state-dir /else run busybox true", "cannot map the ids of /else", "profile nesting")
    says(outer, "rm -r /else")


def test_a_third_level(outer: "ve.Environment") -> None:
    refuses(outer, "ve run --profile nesting busybox true", "it wants 33 ranges", "no VE has as many")


def test_from_a_cgroup_outside(outer: "ve.Environment") -> None:
    done = outer.run(["ve", "run", "busybox", "true"], capture_output=True, text=True)
    assert done.returncode == 125 and "cgroup" in done.stderr and "login=True" in done.stderr
    assert says(outer, "ve list -H") == ""
