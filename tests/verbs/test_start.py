"""ve start: what a VE is once it runs, looked at from outside and from inside."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import errors, mounts

VEID_MAX = 2147483644


@pytest.fixture
def red(make: Make) -> "ve.Environment":
    env = make(hostname="red")
    env.start()
    return env


# ---- what is its own -------------------------------------------------------------------------------------------------


@pytest.mark.container
def test_all_eight_namespaces_are_its_own(host_dir: Path, red: "ve.Environment", make: Make) -> None:
    blue = make(hostname="blue")
    blue.start()
    seen = [witness.namespaces("self")] + [witness.namespaces(witness.init(host_dir, env.veid)) for env in (red, blue)]
    for name in witness.NAMESPACES:
        assert len({each[name] for each in seen}) == 3, name


def test_pid_1_is_the_template_s_init(host_dir: Path, red: "ve.Environment") -> None:
    pid = witness.init(host_dir, red.veid)
    assert os.readlink(f"/proc/{pid}/exe").endswith("/bin/busybox")
    assert Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").endswith(b"init")
    assert witness.status(pid)["NSpid"].split()[1:] == ["1"]
    assert red.pid == pid


def test_its_init_has_nothing_of_the_host_open(host_dir: Path, red: "ve.Environment") -> None:
    """/dev/null to read from, its log to write to, and whatever it has opened itself."""
    pid = witness.init(host_dir, red.veid)
    log = os.stat(host_dir / f"private/{red.veid}/log")
    descriptors = {int(name): os.stat(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert all((descriptors[fd].st_dev, descriptors[fd].st_ino) == (log.st_dev, log.st_ino) for fd in (1, 2))
    assert set(descriptors) == {0, 1, 2}
    flags = Path(f"/proc/{pid}/fdinfo/1").read_text().split()[3]
    assert int(flags, 8) & os.O_APPEND


@pytest.mark.container
def test_its_ids_are_65536_of_the_host_s(host_dir: Path, red: "ve.Environment") -> None:
    pid = witness.init(host_dir, red.veid)
    base = witness.base(pid)
    assert Path(f"/proc/{pid}/gid_map").read_text().split() == ["0", str(base), "65536"]
    assert [path.name for path in witness.leases(host_dir, red.veid)] == [str(base // 65536)]
    assert witness.status(pid)["Uid"].split() == [str(base)] * 4
    assert witness.status(pid)["Groups"] == ""


def test_its_init_ignores_and_blocks_no_signal_that_we_left(host_dir: Path, make: Make) -> None:
    """Python ignores SIGPIPE and SIGXFSZ, and who is ignored at exec stays so for all that come after."""
    env = make()
    (host_dir / f"private/{env.veid}/upper/sbin").mkdir()
    script = host_dir / f"private/{env.veid}/upper/sbin/init"
    script.write_text("#!/usr/bin/tail -f\n")  # a program that leaves its signals alone, which a shell does not
    script.chmod(0o755)
    env.start()
    pid = witness.init(host_dir, env.veid)
    assert int(witness.status(pid)["SigIgn"], 16) == 0
    assert int(witness.status(pid)["SigBlk"], 16) == 0


def test_it_has_its_hostname(host_dir: Path, red: "ve.Environment", make: Make) -> None:
    assert witness.shell(red, "hostname") == "red\n"
    assert witness.enter(witness.init(host_dir, red.veid), "hostname", namespaces="--uts") == "red\n"
    named, nameless = make(name="mars"), make()
    for env, hostname in ((named, "mars"), (nameless, f"ve{nameless.veid}")):
        env.start()
        assert witness.enter(witness.init(host_dir, env.veid), "hostname", namespaces="--uts") == f"{hostname}\n"


def test_its_uptime_begins_with_it(make: Make) -> None:
    def uptime() -> float:
        return float(Path("/proc/uptime").read_text().split()[0])

    env = make()
    before = uptime()
    env.start()
    inside = float(witness.shell(env, "cut -d ' ' -f 1 /proc/uptime"))
    assert 0 <= inside <= uptime() - before + 0.02  # two roundings to hundredths


def test_it_has_a_loopback_and_nothing_else(host_dir: Path, red: "ve.Environment") -> None:
    def ip(*words: str) -> list[dict[str, Any]]:
        pid = witness.init(host_dir, red.veid)
        return list(json.loads(witness.enter(pid, "ip", "-j", *words, namespaces="--net") or "[]"))

    [link] = ip("address")
    assert link["ifname"] == "lo" and "UP" in link["flags"]
    assert [(each["local"], each["prefixlen"]) for each in link["addr_info"]] == [("127.0.0.1", 8), ("::1", 128)]
    assert (ip("-4", "route"), [each["dev"] for each in ip("-6", "route") if each["dev"] != "lo"]) == ([], [])
    assert witness.shell(red, "ls /sys/class/net").split() == ["lo"]
    witness.shell(red, "ping -c 1 -W 5 127.0.0.1")


def test_it_sees_no_process_of_the_host(red: "ve.Environment") -> None:
    lines = witness.shell(red, "ps -o pid,comm").splitlines()[1:]
    assert [line.split()[1] for line in lines if line.split()[0] == "1"] == ["init"]
    assert {line.split()[1] for line in lines} <= {"init", "rcS", "S10syslogd", "syslogd", "sh", "ps", "klogd"}


@pytest.mark.container
def test_its_cgroup_is_its_own_and_its_root(host_dir: Path, red: "ve.Environment") -> None:
    pid = witness.init(host_dir, red.veid)
    group = commandline.cgroup(host_dir, red.veid) / "init"
    assert str(pid) in (group / "cgroup.procs").read_text().split()
    assert witness.shell(red, "sed -n s/^0:://p /proc/1/cgroup") == "/\n"
    base = witness.base(pid)
    assert (group.stat().st_uid, group.parent.stat().st_uid) == (base, 0)
    witness.shell(red, "mkdir /sys/fs/cgroup/mine && rmdir /sys/fs/cgroup/mine")
    witness.says_no(red, "echo 1 >/sys/fs/cgroup/cgroup.freeze")  # ours, as are the limits


# ---- its files -------------------------------------------------------------------------------------------------------


@pytest.mark.container
def test_only_the_mounts_of_our_tables_are_inside(host_dir: Path, red: "ve.Environment") -> None:
    lines = witness.mounts(witness.init(host_dir, red.veid))
    must = {f"/{point}" for _, point, *_ in (*mounts.PROTECTED, *mounts.OWN, mounts.RUN)}
    must |= {"/", "/proc/sys", f"/{mounts.BOOT_ID}"}
    may = {f"/{path}" for path in (*mounts.READ_ONLY, *mounts.MASKED)}
    points = [line.point for line in lines]
    assert must <= set(points) <= must | may
    assert len(points) == len(set(points))


def test_its_mounts_are_shared_with_its_own_mount_namespaces_alone(
    host_dir: Path, red: "ve.Environment", make: Make
) -> None:
    def groups(pid: int | str = "self") -> set[str]:
        return {each for line in witness.mounts(pid) for each in line.propagation if not each.startswith("master:")}

    other = make()
    other.start()
    pid = witness.init(host_dir, red.veid)
    assert all(len(line.propagation) == 1 and "shared:" in line.propagation[0] for line in witness.mounts(pid))
    assert not groups(pid) & (groups() | groups(witness.init(host_dir, other.veid)))

    script = "exec unshare --mount --propagation slave sh -c 'echo; read line; grep -c later /proc/self/mountinfo'"
    with red.popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as inner:
        assert inner.stdout is not None
        inner.stdout.readline()
        witness.shell(red, "mount -t tmpfs later /mnt")
        assert inner.communicate("\n")[0] == "1\n"


def test_of_the_host_s_file_systems_it_has_a_null_device_and_its_cgroup(host_dir: Path, red: "ve.Environment") -> None:
    ours = {line.device for line in witness.mounts()}
    shared = [line for line in witness.mounts(witness.init(host_dir, red.veid)) if line.device in ours]
    assert {(line.root.rpartition("/")[2], line.kind) for line in shared if line.point != "/sys/fs/cgroup"} <= {
        ("null", "devtmpfs"),
        ("null", "tmpfs"),
    }


def test_no_path_of_the_host_shows_inside(host_dir: Path, red: "ve.Environment") -> None:
    table = witness.shell(red, "cat /proc/self/mountinfo /proc/self/mounts /proc/swaps; cat /proc/1/environ")
    assert str(host_dir) not in table
    [root] = [line for line in witness.mounts(witness.init(host_dir, red.veid)) if line.point == "/"]
    options = dict(option.partition("=")[::2] for option in root.super_options.split(","))
    assert (options["lowerdir"], options["upperdir"]) == ("template", "private/upper")


def test_the_host_s_mount_table_has_nothing_of_it(host_dir: Path, make: Make) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    make().start()
    assert Path("/proc/self/mountinfo").read_text() == before


def test_what_the_host_mounts_later_does_not_arrive(host_dir: Path, red: "ve.Environment", make: Make) -> None:
    other = make()
    before = witness.mounts(witness.init(host_dir, red.veid))
    other.mount()
    assert witness.mounts(witness.init(host_dir, red.veid)) == before
    other.umount()


@pytest.mark.parametrize(
    "command",
    [
        "umount /proc/sys",
        "umount -l /proc/sys",
        "umount /proc",
        "umount /sys",
        "umount -l /dev",
        "umount /proc/keys || umount /proc/kcore || umount /sys/firmware",
        "mount -o remount,rw /proc/sys",
        "mount -o remount,bind,rw /proc/sys",
        "mount -o remount,rw /sys",
        "mount -o remount,bind,rw,suid,dev,exec /proc",
        "mount -t proc proc /mnt",
        "mount -t sysfs sysfs /mnt",
        "mount --bind /proc /mnt && umount /mnt/sys",
        "echo 1 >/proc/sys/vm/drop_caches",
        "echo b >/proc/sysrq-trigger",
        "mknod /tmp/sda b 8 0 && cat /tmp/sda",
        "mknod /tmp/mem c 1 1 && cat /tmp/mem",
    ],
)
def test_what_protects_is_locked(host_dir: Path, red: "ve.Environment", command: str) -> None:
    before = witness.mounts(witness.init(host_dir, red.veid))
    witness.shell(red, "umount /dev/shm && mount -t tmpfs none /dev/shm && mount -t tmpfs none /mnt && umount /mnt")
    witness.says_no(red, command)
    after = witness.mounts(witness.init(host_dir, red.veid))
    assert [line for line in before if line.point != "/dev/shm"] == [
        line for line in after if line.point != "/dev/shm" and not line.point.startswith("/mnt")
    ]


@pytest.mark.container
def test_its_devices_work(host_dir: Path, red: "ve.Environment") -> None:
    shown = witness.shell(red, "cd /dev && stat -c '%n %F %t:%T %a %u:%g' null zero full random urandom tty")
    assert shown.splitlines() == [
        f"{name} character special file {major:x}:{minor:x} 666 0:0" for name, major, minor in mounts.DEVICES
    ]
    assert witness.shell(red, "echo x >/dev/null && cat /dev/null") == ""
    assert witness.shell(red, "head -c 3 /dev/zero | od -An -tx1").split() == ["00"] * 3
    assert "No space left" in witness.says_no(red, "echo x >/dev/full")
    assert witness.shell(red, "for each in random urandom; do head -c 16 /dev/$each; done | wc -c").strip() == "32"
    assert "No such device" in witness.says_no(red, "echo x >/dev/tty")  # ENXIO: no terminal is ours
    assert witness.shell(red, "echo heard | cat /dev/stdin /dev/fd/0") == "heard\n"
    assert not {"console", "kmsg", "mem", "kvm", "sda", "vda", "loop0"} & set(witness.shell(red, "ls /dev").split())


def test_its_terminals_are_its_own(host_dir: Path, red: "ve.Environment") -> None:
    pid = witness.init(host_dir, red.veid)
    master = os.open(f"/proc/{pid}/root/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    try:
        assert witness.shell(red, "ls /dev/pts; readlink /dev/ptmx").split() == ["0", "ptmx", "pts/ptmx"]
    finally:
        os.close(master)
    assert witness.shell(red, "ls /dev/pts").split() == ["ptmx"]
    with red.popen(
        ["sh", "-c", "tty >/tmp/name && echo told >/dev/tty && ps -o tty,comm >/tmp/ps"], pty=True
    ) as process:
        assert process.wait() == 0
    assert witness.shell(red, "cat /tmp/name") == "/dev/pts/0\n"


def test_what_it_changes_is_in_its_upper_with_the_ids_it_sees(
    host: "ve.Host", host_dir: Path, red: "ve.Environment"
) -> None:
    template = witness.tree(Path(host.templates.get("busybox").path))
    witness.shell(red, "echo new >/new; chown 1000:1001 /new; chmod 4750 /new; echo more >>/etc/hosts; rm /etc/shells")
    upper = host_dir / f"private/{red.veid}/upper"
    new, hosts, shells = (os.lstat(upper / name) for name in ("new", "etc/hosts", "etc/shells"))
    assert (new.st_uid, new.st_gid, stat.S_IMODE(new.st_mode)) == (1000, 1001, 0o4750)
    assert (hosts.st_uid, hosts.st_gid) == (0, 0)
    assert stat.S_ISCHR(shells.st_mode) and shells.st_rdev == 0  # overlayfs's whiteout
    assert witness.tree(Path(host.templates.get("busybox").path)) == template


def test_two_of_one_template_do_not_see_each_other_s_changes(red: "ve.Environment", make: Make) -> None:
    blue = make()
    blue.start()
    witness.shell(red, "echo red >/etc/colour; rm /etc/shells; echo x >>/etc/hosts")
    assert witness.shell(blue, "ls /etc/colour 2>/dev/null; ls /etc/shells; grep -c x$ /etc/hosts; true") == (
        "/etc/shells\n0\n"
    )
    witness.shell(blue, "echo blue >/etc/colour")
    assert (witness.shell(red, "cat /etc/colour"), witness.shell(blue, "cat /etc/colour")) == ("red\n", "blue\n")


def test_what_it_changed_is_there_after_the_next_start(red: "ve.Environment") -> None:
    witness.shell(red, "echo red >/etc/colour; rm -r /etc/init.d/S10syslogd; mkdir -p /srv/a/b; mv /home /moved; sync")
    red.stop(fast=True)
    red.start()
    assert witness.shell(red, "cat /etc/colour; ls /etc/init.d; ls -d /srv/a/b /moved") == (
        "red\nconsole\nrcK\nrcS\n/moved\n/srv/a/b\n"
    )
    assert "No such file" in witness.says_no(red, "ls /home")


# ---- who else is there -----------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_one_that_runs(host_dir: Path, red: "ve.Environment") -> None:
    pid = witness.init(host_dir, red.veid)
    with witness.nothing_changes(host_dir, but=f"private/{red.veid}/upper.*"):
        hint = witness.refused(host_dir, 32, f"cannot start {red.veid}: it is running", "start", red.veid)
    assert hint == f"ve restart {red.veid}"
    assert witness.init(host_dir, red.veid) == pid


def test_of_two_starts_at_once_one_wins(host_dir: Path, make: Make) -> None:
    veid = make().veid
    processes = [witness.python(witness.START, host_dir, veid) for _ in range(4)]
    ends = sorted(process.communicate()[1].strip().rpartition("\n")[2] for process in processes)
    assert ends == ["", *[f"ve.errors.Running: cannot start {veid}: it is running"] * 3]
    assert len([pid for pid in commandline.processes(host_dir, veid) if pid == 1]) == 1


@pytest.mark.any_kernel
def test_the_lock_s_holder_is_named(host: "ve.Host", make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make()
    real = host.state.lock
    with real(env.veid):
        monkeypatch.setattr(type(host.state), "lock", lambda self, veid, timeout, **_: real(veid, 0))
        with pytest.raises(errors.Locked) as caught:
            host.get(env.veid).start()
    assert caught.value.holder == os.getpid() and caught.value.exit_code == 9


SECOND = """
import subprocess, sys
upper, template, point = sys.argv[1:]
options = f"lowerdir={template},upperdir={upper}/upper,workdir={upper}/work,index=on"
subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, point], check=True)
print("mounted", flush=True)
sys.stdin.read()
"""


def test_a_second_overlay_on_its_upper_is_refused(host: "ve.Host", host_dir: Path, make: Make, tmp_path: Path) -> None:
    """Somebody's in a mount namespace that we know nothing of."""
    env = make()
    private, template = host_dir / f"private/{env.veid}", host.templates.get("busybox").path
    with witness.python(SECOND, private, template, tmp_path, before=("unshare", "--mount")) as process:
        assert process.stdout is not None and process.stdout.readline() == "mounted\n"
        with (
            witness.nothing_changes(host_dir),
            pytest.raises(errors.StartFailed, match="another overlay still uses it"),
        ):
            env.start()
        assert not witness.runs(host_dir, env.veid)
        process.communicate()
    env.start()


def test_one_that_is_mounted_is_unmounted(host_dir: Path, make: Make) -> None:
    env = make()
    point = env.mount()
    assert any(line.point == point for line in witness.mounts())
    env.start()
    assert not any(line.point == point for line in witness.mounts())
    assert witness.runs(host_dir, env.veid)


def test_one_that_is_mounted_and_used_is_not_started(host_dir: Path, make: Make) -> None:
    env = make()
    with subprocess.Popen(["cat"], cwd=env.mount() + "/etc", stdin=subprocess.PIPE) as user:
        sentence = f"cannot unmount {env.veid}: process {user.pid} (cat) uses {host_dir}/root/{env.veid}"
        with witness.nothing_changes(host_dir):
            witness.refused(host_dir, 51, sentence, "start", env.veid)
        assert not witness.runs(host_dir, env.veid)
        user.communicate()
    env.start()


# ---- who started it is gone ------------------------------------------------------------------------------------------


def test_it_outlives_a_kill_of_who_started_it(host_dir: Path, make: Make) -> None:
    env = make()
    script = f"{witness.START}; print('started', flush=True); sys.stdin.read()"
    with witness.python(script, host_dir, env.veid) as process:
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert all(b"ve.launcher" in Path(f"/proc/{child}/cmdline").read_bytes() for child in children)
        process.kill()
    pid = witness.init(host_dir, env.veid)
    assert witness.status(pid)["State"][0] in "RSD"
    assert witness.shell(env, "echo alive") == "alive\n"
    assert commandline.output(host_dir, "list", "-H", "-o", "veid,status") == f"{env.veid}  running\n"


def test_nothing_of_ours_stays_beside_it(host_dir: Path, red: "ve.Environment") -> None:
    """No process of the host has one of its namespaces but those in its cgroup."""
    theirs = set(witness.namespaces(witness.init(host_dir, red.veid)).values())
    group = f"/{commandline.cgroup(host_dir, red.veid).parent.name}/{red.veid}/"
    seen = 0
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if theirs & set(witness.namespaces(name).values()):
                assert f"0::{group}" in Path(f"/proc/{name}/cgroup").read_text()
                seen += 1
    assert seen


def test_its_init_killed_from_outside(host_dir: Path, red: "ve.Environment") -> None:
    pid = witness.init(host_dir, red.veid)
    with commandline.watched(pid) as ended:
        signal.pidfd_send_signal(ended, signal.SIGKILL)
        assert commandline.has_ended(ended)
    assert commandline.output(host_dir, "list", "-H", "-o", "veid,status,pid") == f"{red.veid}  stopped  -\n"
    red.start()
    assert witness.init(host_dir, red.veid) != pid
    assert witness.shell(red, "hostname") == "red\n"


@pytest.mark.parametrize("command", ["reboot", "poweroff -f", "reboot -f"])
def test_an_end_from_inside_ends_it(host_dir: Path, make: Make, command: str) -> None:
    env = make()
    witness.tell_when_booted(host_dir, env.veid)
    env.start()
    witness.wait_until_booted(host_dir, env.veid)
    with commandline.watched(witness.init(host_dir, env.veid)) as ended:
        env.run(command.split(), capture_output=True)
        assert commandline.has_ended(ended)
    witness.wait_empty(host_dir, env.veid)
    assert commandline.output(host_dir, "list", "-H", "-o", "veid,status") == f"{env.veid}  stopped\n"
    env.start()


@pytest.mark.parametrize(("command", "end"), [("poweroff -f", "halt"), ("reboot -f", "reboot"), ("kill", "killed")])
def test_in_the_foreground_it_is_known_how_it_ended(host_dir: Path, make: Make, command: str, end: str) -> None:
    env = make()
    running = env.start_foreground()
    pid = witness.init(host_dir, env.veid)
    assert os.readlink(f"/proc/{pid}/fd/0") in ("/dev/console", "/dev/pts/0", "/0")
    assert os.stat(f"/proc/{pid}/root/dev/console").st_rdev == os.stat(f"/proc/{pid}/root/dev/pts/0").st_rdev
    if command == "kill":
        os.kill(pid, signal.SIGKILL)
    else:
        env.run(command.split(), capture_output=True)
    assert running.wait() == end
    assert not commandline.cgroup(host_dir, env.veid).exists()
    env.start()


# ---- what bad input gets ---------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
@pytest.mark.parametrize("verb", ["start", "stop", "restart", "destroy", "status", "mount", "umount", "diff", "ps"])
def test_one_that_is_not_there(host: "ve.Host", host_dir: Path, verb: str) -> None:
    with witness.nothing_changes(host_dir):
        hint = witness.refused(host_dir, 43, "cannot find VE 4711: there is none", verb, "4711")
    assert hint == "ve list shows all"


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("key", "code", "sentence"),
    [
        ("0", 20, "cannot use VEID 0: it is not in 1..2147483644"),
        ("-1", 20, "cannot start -1: a VEID is a number, 1 to 2147483644"),
        ("2147483645", 20, "cannot use VEID 2147483645: it is not in 1..2147483644"),
        ("nobody-has-it", 43, "cannot find VE nobody-has-it: there is none"),
        ("../conf/1", 20, None),
        ("", 20, None),
    ],
)
def test_a_key_that_cannot_be(host: "ve.Host", host_dir: Path, key: str, code: int, sentence: str | None) -> None:
    sentence = sentence or (
        f"cannot use name {key!r}: it must be a letter or '_', then letters, digits, '.', '_' or '-'"
    )
    with witness.nothing_changes(host_dir):
        witness.refused(host_dir, code, sentence, "start", key)


BROKEN = [
    ('version = 1\ntemplate = "busybox:1"\nhostname = red\n', "line 3: invalid value"),
    ('version = 1\ntemplate = "busybox:1"\nhostnam = "red"\n', "line 3: key hostnam: there is no such key"),
    ('version = 1\ntemplate = "busybox:1"\nonboot = "yes"\n', "line 3: key onboot: must be true or false"),
    ('version = 1\nhostname = "red"\n', "key template: is missing"),
    ("", "key version: is missing"),
]


@pytest.mark.any_kernel
@pytest.mark.parametrize(("text", "why"), BROKEN)
def test_a_broken_conf_file(host_dir: Path, make: Make, text: str, why: str) -> None:
    """File, line and key are named; what need not read it goes on."""
    env = make()
    conf = host_dir / f"conf/{env.veid}.toml"
    whole = conf.read_text()
    env.start()
    conf.write_text(text)
    sentence = f"cannot read {conf}: {why}"
    witness.refused(host_dir, 14, sentence, "status", env.veid)
    done = commandline.run(host_dir, "list", "-H", "-o", "veid,status,template")
    assert (done.returncode, done.stdout) == (14, f"{env.veid}  running  -\n")
    assert done.stderr.startswith(f"ve: {sentence}\n")
    assert commandline.run(host_dir, "stop", "--fast", env.veid).returncode == 0
    assert not commandline.cgroup(host_dir, env.veid).exists()
    with witness.nothing_changes(host_dir):
        witness.refused(host_dir, 14, sentence, "start", env.veid)
        witness.refused(host_dir, 14, sentence, "mount", env.veid)
        witness.refused(host_dir, 14, sentence, "set", env.veid, "--hostname=blue", "--save")
    conf.write_text(whole)
    env.start()
    env.stop(fast=True)
    conf.write_text(text)
    assert commandline.run(host_dir, "destroy", env.veid).returncode == 0
    assert witness.left_of(host_dir, env.veid) == []


@pytest.mark.any_kernel
def test_a_state_dir_that_cannot_be_written(host_dir: Path, make: Make) -> None:
    """It is told so by whatever writes; what only looks works."""
    env = make(name="mars")
    sentence = f"cannot write the state dir {host_dir}: Read-only file system"
    before = witness.read_only(host_dir)
    with witness.nothing_changes(host_dir):
        for words in (("start", env.veid), ("destroy", env.veid), ("mount", env.veid), ("rename", env.veid, "venus")):
            witness.refused(host_dir, 5, sentence, *words, before=before)
        witness.refused(host_dir, 5, sentence, "set", env.veid, "--hostname=blue", "--save", before=before)
    for looks in (["list"], ["status", env.veid], ["diff", env.veid], ["ps"]):
        line = [*before, *commandline.words(host_dir, *looks)]
        assert subprocess.run(line, stdout=subprocess.DEVNULL, check=False).returncode == 0, looks


@pytest.mark.any_kernel
def test_a_private_area_that_has_vanished(host_dir: Path, make: Make) -> None:
    env = make()
    (host_dir / f"private/{env.veid}").rename(host_dir / "elsewhere")
    sentence = f"cannot use {env.veid}: its private area {host_dir}/private/{env.veid} is gone"
    with witness.nothing_changes(host_dir):
        witness.refused(host_dir, 43, sentence, "start", env.veid)
    (host_dir / "elsewhere").rename(host_dir / f"private/{env.veid}")
    env.start()


@pytest.mark.any_kernel
def test_one_restored_from_a_backup(host_dir: Path, make: Make, tmp_path: Path) -> None:
    """Of its upper and its conf file, as the manual says."""
    env = make()
    env.start()
    witness.shell(env, "echo kept > /kept; rm /etc/shells; mv /etc/init.d /etc/moved")
    env.stop(fast=True)
    kept = [host_dir / f"private/{env.veid}/upper", host_dir / f"conf/{env.veid}.toml"]
    subprocess.run(["cp", "-a", *kept, tmp_path], check=True)
    env.destroy()
    kept[0].parent.mkdir()
    for path in kept:
        subprocess.run(["cp", "-a", tmp_path / path.name, path], check=True)
    env.start()
    assert (
        witness.shell(env, "cat /kept; ls -d /etc/shells /etc/moved/rcS 2>/dev/null || :") == "kept\n/etc/moved/rcS\n"
    )


@pytest.mark.any_kernel
def test_one_failure_does_not_keep_the_others_from_starting(host_dir: Path, make: Make) -> None:
    first, second = make(), make(name="mars")
    done = commandline.run(host_dir, "start", first.veid, 4711, "mars")
    assert (done.returncode, done.stdout) == (43, "")
    assert "cannot find VE 4711" in done.stderr and f"{second.veid} (mars) is running" in done.stderr
    assert witness.runs(host_dir, first.veid) and witness.runs(host_dir, second.veid)


@pytest.mark.any_kernel
def test_the_plan_does_nothing(host_dir: Path, make: Make) -> None:
    env = make(hostname="red")
    with witness.nothing_changes(host_dir):
        plan = commandline.output(host_dir, "start", "--dry-run", env.veid)
    steps = [line.split()[1] for line in plan.splitlines()[1:]]
    assert [name for name in steps if name in ("clone_init", "union", "lock_mounts", "execute")] == [
        "clone_init", "union", "lock_mounts", "execute",
    ]  # fmt: skip
    assert "the hostname: red" in plan


def test_the_program_that_starts_is_left_as_it_was(host_dir: Path, make: Make) -> None:
    """From a process with threads, another working directory and umask: nothing of it changes."""
    env = make()
    script = """
import os, signal, sys, threading
import ve
def look():
    spaces = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
    handlers = [signal.getsignal(number) for number in signal.Signals]
    mask = [line for line in open("/proc/self/status") if line.startswith(("Umask", "Cap", "SigB", "Uid"))]
    return spaces, handlers, mask, os.getcwd(), dict(os.environ), sorted(os.listdir("/proc/self/fd"))
os.chdir("/proc"); os.umask(0o77)
halt = threading.Event()
for _ in range(4):
    threading.Thread(target=halt.wait, daemon=True).start()
env = ve.Host(sys.argv[1]).get(int(sys.argv[2]))
env.start()
env.stop(fast=True)  # now there is a launcher
before = look()
env.start()
assert look() == before, (before, look())
halt.set()
"""
    with witness.python(script, host_dir, env.veid, env={**os.environ, "PYTHONPATH": str(witness.ROOT)}) as process:
        _, err = process.communicate()
    assert process.returncode == 0, err
    shown = witness.shell(env, "umask; stat -c %a /dev /dev/null /run /proc; pwd")
    assert shown.split() == ["0022", "755", "666", "755", "555", "/"]


def test_it_starts_whatever_the_umask_and_the_descriptors(host_dir: Path, make: Make) -> None:
    """Standard descriptors that are closed would otherwise become channels of ours."""
    env = make()
    line = [sys.executable, "-c", witness.START, str(host_dir), str(env.veid)]
    done = subprocess.run(
        ["sh", "-c", 'umask 0777; exec "$@" <&- >&- 2>&-', "sh", *line], cwd=witness.ROOT, check=False
    )
    assert done.returncode == 0
    assert witness.shell(env, "stat -c %a /dev /dev/null /dev/shm /run").split() == ["755", "666", "1777", "755"]
    cgroup = Path(env.cgroup.path)
    assert [oct(path.stat().st_mode & 0o777) for path in (cgroup.parent, cgroup, cgroup / "init")] == ["0o755"] * 3
