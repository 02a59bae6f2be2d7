"""ve console: a login of the VE's own on a new terminal of it."""

from pathlib import Path

import pytest

import ve
from tests.verbs import commandline


def test_a_login(env: "ve.Environment", host_dir: Path) -> None:
    env.set_password("root", "a b:c")
    with commandline.on_terminal(host_dir, "console", env.veid, size=(30, 90)) as terminal:
        before = terminal.modes()
        terminal.expect("red login: ")
        terminal.send("root\n")
        terminal.expect("Password: ")
        terminal.send("a b:c\n")
        terminal.expect("# ")
        terminal.send("echo user $(id -un), $(tty), $(stty size), $PWD\n")
        terminal.expect(r"user root, /dev/pts/\d+, 30 90, /root\r\n")
        terminal.send("exit\n")
        assert terminal.end() == 0
        assert terminal.modes() == before


@pytest.mark.any_kernel
def test_a_wrong_password(env: "ve.Environment", host_dir: Path) -> None:
    env.set_password("root", "right")
    with commandline.on_terminal(host_dir, "console", env.veid) as terminal:
        terminal.expect("login: ")
        terminal.send("root\n")
        terminal.expect("Password: ")
        terminal.send("wrong\n")
        terminal.expect("Login incorrect")
        terminal.expect("login: ")


@pytest.mark.any_kernel
def test_nobody_may_log_in_before_a_password_is_set(env: "ve.Environment", host_dir: Path) -> None:
    with commandline.on_terminal(host_dir, "console", env.veid) as terminal:
        terminal.expect("login: ")
        terminal.send("root\n")
        terminal.expect("Password: ")
        terminal.send("\n")
        terminal.expect("bad salt|Login incorrect")  # crypt(3) may not like the hash that is none


@pytest.mark.any_kernel
def test_two_at_once_are_two_terminals(env: "ve.Environment", host_dir: Path) -> None:
    with (
        commandline.on_terminal(host_dir, "console", env.veid) as one,
        commandline.on_terminal(host_dir, "console", env.veid) as two,
    ):
        one.expect("login: ")
        two.expect("login: ")
        assert commandline.output(host_dir, "exec", env.veid, "ls", "/dev/pts").split() == ["0", "1", "ptmx"]
        one.send("\x03")
        assert one.end() != 0
        two.send("x\n")
        two.expect("Password: ")


@pytest.mark.any_kernel
def test_a_stopped_ve(host: "ve.Host", host_dir: Path, veid: int) -> None:
    host.create(veid, template="busybox")
    done = commandline.run(host_dir, "console", veid)
    assert (done.returncode, done.stdout) == (125, "")
    assert "it is not running" in done.stderr


def test_systemd_s_login(host: "ve.Host", host_dir: Path, debian: str, veid: int) -> None:
    """Debian's own login, PAM and logind included."""
    env = host.create(veid, template=debian, hostname="deb")
    env.set_password("root", "secret")
    env.start()
    with commandline.on_terminal(host_dir, "console", veid) as terminal:
        terminal.expect("deb login: ")
        terminal.send("root\n")
        terminal.expect("Password: ")
        terminal.send("secret\n")
        terminal.expect("# ")
        terminal.send("echo $((40 + 2)) $(id -un)\n")
        terminal.expect("42 root\r\n")
        terminal.send("exit\n")
        assert terminal.end() == 0
