"""ve selftest: every promise is found kept; when what keeps it is taken out of a start, that one is found broken."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve._linux import syscalls
from ve.protections import PROTECTIONS

NAMES = [row.name for row in PROTECTIONS]
# What the small init of a VE that is made for it would close, so that one with an init of its own is looked at.
BOOTED = "descriptors"


def statuses(verdicts: "list[ve.Verdict]", status: str) -> list[str]:
    return [each.name for each in verdicts if each.status == status]


def test_every_promise_holds_here(host_dir: Path) -> None:
    commandline.output(host_dir, "selftest")
    with witness.nothing_changes(host_dir):
        done = commandline.run(host_dir, "selftest", "--json")
    found = json.loads(done.stdout)
    assert [each["name"] for each in found] == NAMES
    assert {(each["status"], each["why"]) for each in found} == {("held", "")}
    assert (done.returncode, done.stderr) == (0, "every promise holds\n")


def rows() -> list[Any]:
    """The filter is one program: on a stock kernel, those rows of it that the development machine's kernel lacks."""
    often = [name for name in NAMES if name.startswith("no ") and name not in ("no kexec", "no modules", "no qrtr")]
    marks = dict.fromkeys(often, pytest.mark.any_kernel)
    return [pytest.param(name, marks=marks.get(name, ())) for name in NAMES if name != BOOTED]


@pytest.mark.parametrize("name", rows())
def test_what_is_taken_out_is_what_is_broken(host: "ve.Host", monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("VE_WITHOUT", name)
    assert statuses(host.selftest(), "broken") == [name]


def test_a_descriptor_that_is_not_closed_is_found(host_dir: Path, make: Make) -> None:
    env = make()
    command = f"exec 3</ && exec {' '.join(map(str, commandline.words(host_dir, 'start', env.veid)))}"
    subprocess.run(["bash", "-c", command], env={**os.environ, "VE_WITHOUT": BOOTED}, check=True)
    done = commandline.run(host_dir, "selftest", env.veid)
    assert (done.returncode, done.stderr) == (1, f"broken: {BOOTED}\n")
    assert "why: its init has / of the host open" in done.stdout


def test_a_running_ve_goes_on_as_before(host_dir: Path, make: Make) -> None:
    env = make()
    witness.tell_when_booted(host_dir, env.veid)
    env.start()
    witness.wait_until_booted(host_dir, env.veid)
    look = "cat /proc/mounts /proc/sys/kernel/domainname /proc/1/cgroup; hostname; find /dev; cat /proc/sysvipc/msg"
    before = witness.shell(env, look), commandline.processes(host_dir, env.veid)
    queues = Path("/proc/sysvipc/msg").read_text()
    assert commandline.run(host_dir, "selftest", env.veid).returncode == 0
    assert (witness.shell(env, look), commandline.processes(host_dir, env.veid)) == before
    assert Path("/proc/sysvipc/msg").read_text() == queues


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("profiles", "given_up"),
    [
        (["announcement"], []),
        (["strict"], []),
        (["nesting"], ["secrets", "sysctls", "proc", "capabilities"]),
        (["sysctl"], ["sysctls"]),
    ],
    ids=lambda each: "-".join(each),
)
def test_what_a_profile_gives_up_is_not_called_broken(
    host_dir: Path, make: Make, profiles: list[str], given_up: list[str]
) -> None:
    env = make(profiles=profiles)
    env.start()
    verdicts = env.selftest()
    assert (statuses(verdicts, "broken"), statuses(verdicts, "given up")) == ([], given_up)
    assert all(each.why for each in verdicts if each.status == "given up")


@pytest.mark.any_kernel
def test_a_device_that_was_given_is_told_and_hides_no_other(host_dir: Path, make: Make) -> None:
    env = make(devices=["/dev/kmsg"])
    env.start()
    done = commandline.run(host_dir, "selftest", env.veid)
    assert (done.returncode, done.stderr) == (0, "every promise holds but those given up: devices\n")
    assert "why: it was given /dev/kmsg" in done.stdout
    os.mknod(f"/proc/{witness.init(host_dir, env.veid)}/root/dev/disk", 0o600 | 0o060000, os.makedev(7, 77))
    done = commandline.run(host_dir, "selftest", env.veid)
    assert (done.returncode, done.stderr) == (1, "broken: devices\n")


@pytest.mark.any_kernel
def test_a_hole_that_a_ve_s_root_cannot_make_is_seen(host_dir: Path, env: "ve.Environment") -> None:
    """Root of the host opens one by hand: a disk's node in the VE's /dev."""
    node = Path(f"/proc/{witness.init(host_dir, env.veid)}/root/dev/disk")
    os.mknod(node, 0o600 | 0o060000, os.makedev(7, 77))
    done = commandline.run(host_dir, "selftest", env.veid)
    assert (done.returncode, done.stderr) == (1, "broken: devices\n")
    assert "there is /dev/disk" in done.stdout


@pytest.mark.any_kernel
def test_killed_it_leaves_nothing(host_dir: Path, env: "ve.Environment") -> None:
    """As setup of the VE that is made for it is about to be told that it may go on, and while it is in another."""
    for fault, arguments in (("go", ()), ("", (env.veid,))):
        process = commandline.start(host_dir, "selftest", *arguments, env={**os.environ, "VE_FAULT": f"{fault}:kill"})
        if not fault:
            group = commandline.cgroup(host_dir, env.veid)
            while process.poll() is None and not list(group.glob("exec.*")):
                pass
            process.kill()
        process.wait()
        witness.shell(env, "true")
        commandline.output(host_dir, "list")
        assert not list(commandline.cgroup(host_dir, env.veid).glob("exec.*"))
    assert len(commandline.output(host_dir, "list", "-H").splitlines()) == len({env.veid})


@pytest.mark.any_kernel
@pytest.mark.parametrize(("state", "code"), [("stopped", 31), ("frozen", 31)])
def test_a_ve_that_does_not_run_cannot_be_examined(host_dir: Path, make: Make, state: str, code: int) -> None:
    env = make()
    if state == "frozen":
        env.start()
        env.freeze()
    done = commandline.run(host_dir, "selftest", env.veid)
    assert done.returncode == code and done.stderr.startswith("ve: cannot ")


@pytest.mark.any_kernel
def test_what_cannot_be_taken_out_is_refused(host_dir: Path) -> None:
    done = commandline.run(host_dir, "selftest", env={**os.environ, "VE_WITHOUT": "nosuch"})
    assert done.returncode == 20 and "VE_WITHOUT" in done.stderr


SHADOWS = "\n".join(f"mount -t tmpfs none /{point}" for point in ("sys/firmware", "sys", "proc", "dev"))


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    "does",
    [
        "mknod /dev/whiteout c 0 0",
        "mkdir /dev/.ve-selftest; touch /dev/.ve-selftest-node",
        'mkdir -p /tmp; d=$(printf \'/tmp/a\\rb\'); mkdir "$d"; mount -t tmpfs none "$d"',
        SHADOWS,
    ],
    ids=["whiteout", "names", "carriage return", "mounts on top"],
)
def test_what_its_root_may_do_breaks_no_promise_and_stays(host_dir: Path, env: "ve.Environment", does: str) -> None:
    witness.shell(env, does)
    mounts = Path(f"/proc/{witness.init(host_dir, env.veid)}/mountinfo")
    before = mounts.read_text()
    assert statuses(env.selftest(), "broken") == []
    assert mounts.read_text() == before


def test_nothing_is_made_in_its_dev_where_its_root_could_put_a_link_in_the_place(
    host_dir: Path, env: "ve.Environment"
) -> None:
    """The host's root would follow it: what comes after a name is made there is no longer about what was made."""
    watch = syscalls.inotify_init1(os.O_NONBLOCK)
    try:
        directory = f"/proc/{witness.init(host_dir, env.veid)}/root/dev"
        syscalls.inotify_add_watch(watch, directory, syscalls.IN_CREATE | syscalls.IN_DELETE)
        assert statuses(env.selftest(), "broken") == []
        with contextlib.suppress(BlockingIOError):
            assert b"selftest" not in os.read(watch, 65536)  # its init may still be making what it wants there
    finally:
        os.close(watch)


@pytest.mark.any_kernel
@pytest.mark.parametrize("name", [r"\rCapEff:\tff", r"\rNSpid:\t7", r"a\rb"])
def test_an_init_may_call_itself_as_it_likes(make: Make, host_dir: Path, name: str) -> None:
    env = make()
    init = host_dir / f"private/{env.veid}/upper/sbin/init"
    init.parent.mkdir(mode=0o755)
    init.write_text(
        "#!/bin/sh\n"
        f"printf '{name}' >/proc/self/comm\nmkfifo /named\necho >/named\nwhile :; do read wait </named; done\n"
    )
    init.chmod(0o755)
    env.start()
    witness.shell(env, "until test -p /named; do :; done; cat /named")
    assert [(each.name, each.why) for each in env.selftest() if each.status == "broken"] == []
    assert [each.held for each in env.explain("net_admin")] == [False]


@pytest.mark.any_kernel
def test_many_at_once(host_dir: Path, env: "ve.Environment") -> None:
    many = [commandline.start(host_dir, "selftest", env.veid) for _ in range(6)]
    assert [process.wait() for process in many] == [0] * 6


@pytest.mark.any_kernel
@pytest.mark.parametrize("how", ["blocked", "ignored"])
def test_signals_that_the_caller_does_not_hear(host_dir: Path, env: "ve.Environment", how: str) -> None:
    words = list(map(str, commandline.words(host_dir, "selftest", env.veid)))
    switch = {
        "blocked": "pthread_sigmask(SIG_BLOCK, range(1, 65))",
        "ignored": "[signal(n, SIG_IGN) for n in (SIGIO, SIGRTMIN)]",
    }[how]
    code = f"import os, sys; from signal import *; {switch}; os.execv(sys.argv[1], sys.argv[1:])"
    assert subprocess.run([sys.executable, "-c", code, *words], timeout=60, check=False).returncode == 0


@pytest.mark.any_kernel
def test_a_ve_that_stops_what_comes_in_keeps_nobody(host_dir: Path, env: "ve.Environment") -> None:
    stopper = env.popen(["sh", "-c", "while :; do kill -STOP -1; done"])
    process = commandline.start(host_dir, "selftest", env.veid)
    try:
        group = commandline.cgroup(host_dir, env.veid)
        while process.poll() is None and not any(each.read_text() for each in group.glob("exec.*/cgroup.procs")):
            pass
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        process.kill()
        process.wait()
        stopper.kill()
        stopper.wait()


@pytest.mark.any_kernel
def test_the_victim_ends_with_who_is_killed(host_dir: Path, env: "ve.Environment") -> None:
    """It is found again by a variable of its environment."""
    mark = f"VE_TEST_MARK={os.getpid()}"
    process = commandline.start(host_dir, "selftest", env.veid, env={**os.environ, **dict([mark.split("=")])})
    group = commandline.cgroup(host_dir, env.veid)
    while process.poll() is None and not list(group.glob("exec.*")):
        pass
    process.kill()
    process.wait()
    for pid in witness_marked(mark):
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            try:
                assert select.select([fd], [], [], 30)[0], f"{pid} goes on"
            finally:
                os.close(fd)


def witness_marked(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


@pytest.mark.any_kernel
@pytest.mark.parametrize(("lacks", "given_up"), [("sys_admin", ["utsname", "mounts"]), ("sys_chroot", [])])
def test_a_right_that_its_root_was_not_given_is_no_broken_promise(make: Make, lacks: str, given_up: list[str]) -> None:
    env = make(capabilities={lacks: "off"})
    env.start()
    verdicts = env.selftest()
    assert (statuses(verdicts, "broken"), statuses(verdicts, "given up")) == ([], given_up)


@pytest.mark.any_kernel
def test_a_variable_of_its_own_is_not_the_host_s(
    make: Make, host: "ve.Host", host_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLOUR", "blue")
    env = make()
    init = host_dir / f"private/{env.veid}/upper/sbin/init"
    init.parent.mkdir(mode=0o755)
    init.write_text("#!/bin/sh\nexport COLOUR=blue\nexec /bin/busybox init\n")
    init.chmod(0o755)
    env.start()
    assert statuses(env.selftest(), "broken") == []
