"""ve enter: a login shell of the VE's root, on a terminal and through pipes."""

import os
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline


def test_a_login_shell_on_a_terminal(env: "ve.Environment", host_dir: Path) -> None:
    with commandline.on_terminal(host_dir, "enter", env.veid, size=(30, 90)) as terminal:
        terminal.expect("# ")
        terminal.send("echo $((40 + 2)), $(hostname), $(id -u), $PWD, $HOME, $(stty size), $(tty)\n")
        terminal.expect(r"42, red, 0, /root, /root, 30 90, /dev/pts/\d+\r\n")
        terminal.send("exit 5\n")
        assert terminal.end() == 5
    with commandline.on_terminal(host_dir, "enter", env.veid) as terminal:
        before = terminal.modes()
        terminal.expect("# ")
        terminal.send("\x04")
        assert terminal.end() == 0
        assert terminal.modes() == before


@pytest.mark.any_kernel
def test_it_is_a_login_shell(env: "ve.Environment", host_dir: Path) -> None:
    """It reads the profile, which no other shell does."""
    commandline.output(host_dir, "exec", env.veid, "sh", "-c", "echo 'export SEEN=profile' >> /etc/profile")
    assert commandline.output(host_dir, "enter", env.veid, input="echo $SEEN\n") == "profile\n"


def test_ctrl_c_and_ctrl_z_are_the_shell_s_business(env: "ve.Environment", host_dir: Path) -> None:
    """It has job control: what runs in it is interrupted or stopped, and the shell goes on."""
    with commandline.on_terminal(host_dir, "enter", env.veid) as terminal:
        terminal.expect("# ")
        terminal.send("echo on; cat\n")
        terminal.expect(r"\non\r\n")  # from here on it is the terminal that echoes, not the shell
        terminal.send("typed\n")
        terminal.expect("typed\r\ntyped\r\n")
        terminal.send("\x03")
        terminal.expect("# ")
        terminal.send("echo code $?; cat\n")
        terminal.expect("code 130\r\n")
        terminal.send("again\n")
        terminal.expect("again\r\nagain\r\n")
        terminal.send("\x1a")
        terminal.expect("Stopped")
        terminal.send("exit 6\n")
        terminal.expect("stopped jobs")
        terminal.send("exit 6\n")
        assert terminal.end() == 6


@pytest.mark.any_kernel
def test_a_script_from_a_pipe(env: "ve.Environment", host_dir: Path) -> None:
    done = commandline.run(host_dir, "enter", env.veid, input="hostname; id -u; cd /etc\npwd; exit 9\n")
    assert (done.returncode, done.stdout) == (9, "red\n0\n/etc\n")


@pytest.mark.any_kernel
def test_nothing_of_our_environment_but_the_kind_of_terminal(env: "ve.Environment", host_dir: Path) -> None:
    given = {**os.environ, "TERM": "vt220", "SECRET": "of the host"}
    with commandline.on_terminal(host_dir, "enter", env.veid, env=given) as terminal:
        terminal.expect("# ")
        terminal.send('echo "<$TERM,$SECRET,$container>"; exit\n')
        terminal.expect("<vt220,,ve>\r\n")
        assert terminal.end() == 0


@pytest.mark.any_kernel
def test_a_stopped_ve_and_none(host: "ve.Host", host_dir: Path, veid: int) -> None:
    host.create(veid, template="busybox")
    for key, why in ((veid, "it is not running"), (4242, "there is none")):
        done = commandline.run(host_dir, "enter", key)
        assert (done.returncode, done.stdout) == (125, "")
        assert done.stderr.startswith("ve: cannot ") and why in done.stderr


@pytest.mark.any_kernel
def test_a_ve_that_ends_closes_the_shell(env: "ve.Environment", host_dir: Path) -> None:
    with commandline.on_terminal(host_dir, "enter", env.veid) as terminal:
        before = terminal.modes()
        terminal.expect("# ")
        assert commandline.run(host_dir, "stop", "--fast", env.veid).returncode == 0
        assert terminal.end() == 128 + 9
        assert terminal.modes() == before


def test_kill_of_ve_enter_ends_the_shell_and_all_in_it(env: "ve.Environment", host_dir: Path) -> None:
    with commandline.on_terminal(host_dir, "enter", env.veid) as terminal:
        terminal.expect("# ")
        terminal.send("setsid sh -c 'echo pid $$; exec sleep 100000' & echo pid $$\n")
        shell, other = (int(terminal.expect(r"pid (\d+)\r\n")[1]) for _ in range(2))
        known = commandline.processes(host_dir, env.veid)
        with commandline.watched(known[shell]) as one, commandline.watched(known[other]) as two:
            commandline.kill(terminal.process)
            assert commandline.has_ended(one)
            # the shell may have ended by itself, its terminal being gone, before anybody saw that we were killed
            commandline.output(host_dir, "exec", env.veid, "true")
            assert commandline.has_ended(two)


@pytest.mark.any_kernel
def test_the_shell_that_passwd_names(env: "ve.Environment", host_dir: Path) -> None:
    script = """
        printf '#!/bin/sh\\necho mine; exit 8\\n' > /bin/mine
        chmod 755 /bin/mine
        sed -i '1s,/bin/sh,/bin/mine,' /etc/passwd
    """
    commandline.output(host_dir, "exec", env.veid, "sh", "-c", script)
    done = commandline.run(host_dir, "enter", env.veid)
    assert (done.returncode, done.stdout) == (8, "mine\n")
