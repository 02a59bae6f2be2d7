"""A Debian with systemd, booted and taken down by its own means."""

import os
import re
import select
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make

DEADLINE = 120.0  # seconds for a shutdown on an emulated CPU; a service that hangs would take systemd 90 natively
# Says through a FIFO that systemd can be asked, and by a file that systemd itself has stopped it.
UNIT = """\
[Unit]
After=dbus.socket
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo booted >/booted'
ExecStop=/bin/sh -c 'echo stopped >/stopped'
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture
def machine(make: Make, debian: str, host_dir: Path) -> Iterator["ve.Environment"]:
    """A Debian that has booted."""
    env = make(debian, hostname="deb")
    tell(host_dir, env.veid)
    env.start()
    booted(env, host_dir)
    yield env


def tell(host_dir: Path, veid: int, name: str = "witness.service", text: str = UNIT) -> None:
    """Give a stopped Debian the unit above, or another."""
    upper = host_dir / f"private/{veid}/upper"
    if name == "witness.service":
        os.mkfifo(upper / "booted", 0o600)
    units = upper / "etc/systemd/system"
    (units / "multi-user.target.wants").mkdir(parents=True, exist_ok=True)
    for path in (units.parent.parent, units.parent, units, units / "multi-user.target.wants"):
        path.chmod(0o755)
    (units / name).write_text(text)
    (units / f"multi-user.target.wants/{name}").symlink_to(f"../{name}")


def booted(env: "ve.Environment", host_dir: Path) -> str:
    """Wait until it has: what systemd says of itself."""
    assert Path(f"/proc/{witness.init(host_dir, env.veid)}/root/booted").read_text() == "booted\n"
    done = env.run(["systemctl", "is-system-running", "--wait"], capture_output=True, text=True, timeout=DEADLINE)
    return str(done.stdout).strip()


def stopped(env: "ve.Environment", host_dir: Path) -> Path:
    """The file that is there once systemd has stopped its units."""
    return host_dir / f"private/{env.veid}/upper/stopped"


def test_systemd_boots_serves_and_shuts_down(make: Make, debian: str, host_dir: Path) -> None:
    env = make(debian, hostname="deb")
    tell(host_dir, env.veid)
    env.start()
    state = booted(env, host_dir)
    assert state == "running", witness.shell(env, "systemctl list-units --failed; journalctl -b -p warning")

    pid = witness.init(host_dir, env.veid)
    assert Path(f"/proc/{pid}/comm").read_text() == "systemd\n"
    assert b"container=ve\0" in Path(f"/proc/{pid}/environ").read_bytes()
    assert witness.shell(env, "systemd-detect-virt --container") == "container-other\n"
    witness.shell(env, "systemctl is-active dbus systemd-journald systemd-logind multi-user.target")
    assert "/dev/console" not in witness.shell(env, "ls /dev/*")
    witness.shell(env, "echo kept >/root/kept")

    began = time.monotonic()
    assert env.stop(DEADLINE)
    assert time.monotonic() - began < DEADLINE / 2
    assert stopped(env, host_dir).read_text() == "stopped\n"
    assert not witness.runs(host_dir, env.veid)

    env.start()
    booted(env, host_dir)
    assert witness.shell(env, "cat /root/kept") == "kept\n"
    before = witness.shell(env, "journalctl --boot=-1 --output=cat")
    assert "Reached target shutdown.target" in before
    assert before.rstrip().endswith("Journal stopped")
    assert env.stop(DEADLINE)


@pytest.mark.any_kernel
def test_three_at_once_that_are_different_machines(make: Make, debian: str, host_dir: Path) -> None:
    machines = [make(debian) for _ in range(3)]
    threads = [threading.Thread(target=env.start) for env in machines]
    for env in machines:
        tell(host_dir, env.veid)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [booted(env, host_dir) for env in machines] == ["running"] * 3
    assert len({witness.shell(env, "cat /etc/machine-id") for env in machines}) == 3
    assert all(env.stop(DEADLINE) for env in machines)


@pytest.mark.any_kernel
def test_stop_before_systemd_listens(make: Make, debian: str) -> None:
    env = make(debian)
    for _ in range(3):
        env.start()
        assert env.stop(DEADLINE)


@pytest.mark.any_kernel
@pytest.mark.parametrize("command", ["poweroff", "halt", "reboot"])
def test_shut_down_from_inside(machine: "ve.Environment", host_dir: Path, command: str) -> None:
    machine.run(["systemctl", command], timeout=DEADLINE)
    witness.wait_stopped(machine)
    assert not witness.runs(host_dir, machine.veid)
    assert stopped(machine, host_dir).read_text() == "stopped\n"
    machine.start()
    booted(machine, host_dir)


@pytest.mark.any_kernel
def test_the_unit_that_starts_and_stops_a_hosts_ves(make: Make, debian: str, host_dir: Path) -> None:
    """contrib/ve.service, with this Debian as the host, and a ve that notes how it is called."""
    env = make(debian)
    tell(host_dir, env.veid)
    tell(host_dir, env.veid, "ve.service", (Path(__file__).parents[2] / "contrib/ve.service").read_text())
    command = host_dir / f"private/{env.veid}/upper/usr/local/bin/ve"
    command.parent.mkdir(parents=True)
    for path in command.parents[:3]:
        path.chmod(0o755)
    command.write_text('#!/bin/sh\necho "$@" >>/calls\n[ $1 = events ] && exec sleep infinity\nexit 43\n')
    command.chmod(0o755)
    env.start()
    booted(env, host_dir)
    begun = "start --onboot\nevents --act --follow --quiet --compat /run/ve/user_beancounters\n"
    assert witness.shell(env, "cat /calls; systemctl is-active ve") == f"{begun}active\n"
    witness.shell(env, "systemctl kill --kill-whom=main --signal=KILL ve")  # which stops no VE
    deadline = time.monotonic() + DEADLINE
    while witness.shell(env, "cat /calls") != f"{begun}{begun}":
        assert time.monotonic() < deadline, "it is not started again"
        select.select([], [], [], 0.1)
    assert env.stop(DEADLINE)
    calls = (host_dir / f"private/{env.veid}/upper/calls").read_text()
    assert calls == f"{begun}{begun}stop --all\n"


@pytest.mark.any_kernel
def test_a_kill_at_the_deadline_is_told_from_a_shutdown(machine: "ve.Environment", host_dir: Path) -> None:
    witness.shell(machine, "systemd-run -q --unit=stubborn -p KillMode=none -p ExecStop='sleep 1000' sleep 1000")
    assert not machine.stop(2.0)
    assert not witness.runs(host_dir, machine.veid)


@pytest.mark.any_kernel
def test_services_with_sandboxes_of_their_own(machine: "ve.Environment") -> None:
    def run(script: str, *properties: str) -> str:
        options = " ".join(f"-p {each}" for each in properties)
        return witness.shell(machine, f"systemd-run --quiet --wait --pipe {options} sh -c '{script}'")

    assert int(run("id -u", "DynamicUser=yes")) >= 61184  # systemd's range for them
    witness.shell(machine, "touch /tmp/mine")
    assert run("ls /tmp", "PrivateTmp=yes") == ""
    assert run("touch /etc/no 2>/dev/null || echo refused", "ProtectSystem=strict") == "refused\n"
    sandbox = ("ProtectControlGroups", "ProtectKernelTunables", "PrivateDevices", "PrivateNetwork", "NoNewPrivileges")
    properties = [f"{each}=yes" for each in sandbox]
    assert run("cat /proc/sys/kernel/ostype", "SystemCallFilter=@system-service", *properties) == "Linux\n"


@pytest.mark.any_kernel
def test_users_log_in(machine: "ve.Environment", host_dir: Path) -> None:
    witness.shell(machine, "useradd --create-home --shell /bin/bash kir && echo kir:secret | chpasswd")
    script = "id -un; pwd; echo $XDG_RUNTIME_DIR; sed -n s/^0:://p /proc/self/cgroup"
    done = commandline.output(host_dir, "exec", machine.veid, "--", "su", "-", "kir", "-c", script).splitlines()
    assert done[:3] == ["kir", "/home/kir", "/run/user/1000"]
    assert re.fullmatch(r"/user\.slice/user-1000\.slice/session-.*\.scope", done[3])
    with commandline.on_terminal(host_dir, "console", machine.veid) as terminal:
        terminal.expect("login: ")
        terminal.send("kir\n")
        terminal.expect("Password: ")
        terminal.send("secret\n")
        terminal.expect(r"\$ ")
        terminal.send("loginctl list-sessions --no-legend --no-pager; exit 7\n")
        terminal.expect(r"kir.*pts/")
        terminal.end()


@pytest.mark.any_kernel
def test_a_login_ends_with_its_caller(machine: "ve.Environment", host_dir: Path) -> None:
    witness.shell(machine, "useradd --create-home --shell /bin/sh kir")
    with pytest.raises(subprocess.TimeoutExpired) as error:
        machine.run(["su", "kir", "-c", "echo in; exec sleep 1000"], login=True, capture_output=True, timeout=5)
    assert error.value.output == b"in\n"
    assert machine.run(["pgrep", "-x", "su"], capture_output=True).returncode == 1


@pytest.mark.any_kernel
def test_programs_of_a_usual_system(machine: "ve.Environment") -> None:
    assert " 0% packet loss" in witness.shell(machine, "ping -c 1 127.0.0.1")
    assert " 0% packet loss" in witness.shell(machine, "setpriv --reuid 1000 --clear-groups ping -c 1 ::1")
    assert witness.shell(machine, "apt-get --version").startswith("apt ")
    assert "ii  systemd " in witness.shell(machine, "dpkg --list")
    assert witness.shell(machine, "dpkg --verify") == ""
    assert "Static hostname" in witness.shell(machine, "hostnamectl")


@pytest.mark.any_kernel
def test_what_exec_leaves_in_the_background(machine: "ve.Environment") -> None:
    pid = witness.shell(machine, "setsid sleep 1000 >/dev/null 2>&1 & echo $!").strip()
    assert witness.shell(machine, f"cat /proc/{pid}/comm") == "sleep\n"
    assert machine.stop(DEADLINE)  # systemd ends what it knows nothing of too


@pytest.mark.any_kernel
def test_logs_are_the_journal(machine: "ve.Environment") -> None:
    witness.shell(machine, "logger a word to the journal; journalctl --sync")
    shown = b"".join(machine.log_chunks())
    assert b"a word to the journal" in shown
    assert b"Startup finished" in shown
