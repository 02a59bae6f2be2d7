"""ve set --userpasswd and --ssh-key, end to end: the VE's own login accepts the password, OpenSSH reads the key."""

import subprocess
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline

pytestmark = pytest.mark.any_kernel

KEY_OPTIONS = ("-q", "-N", "", "-C", "me@here")


def login(host_dir: Path, veid: int, user: str, password: str) -> bool:
    """Does the VE's own login let this user in?"""
    with commandline.on_terminal(host_dir, "exec", veid, "--", "login", user) as terminal:
        terminal.expect("Password: ")
        terminal.send(f"{password}\n")
        if not terminal.expect(r"Login incorrect|bad salt|([#$]) ")[1]:  # bad salt: a hash that is none
            return False
        terminal.send("echo $((40 + 2)) $(id -un)\n")
        terminal.expect(f"42 {user}\r\n")
        terminal.send("exit\n")
        assert terminal.end() == 0
        return True


def test_running(env: "ve.Environment", host_dir: Path) -> None:
    assert not login(host_dir, env.veid, "root", "secret")
    done = commandline.run(host_dir, "set", env.veid, "--userpasswd", "root:secret")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"{env.veid}: the password of root is set\n"
    assert login(host_dir, env.veid, "root", "secret")
    assert not login(host_dir, env.veid, "root", "Secret")


def test_stopped(host: "ve.Host", host_dir: Path, veid: int) -> None:
    env = host.create(veid, template="busybox")
    commandline.output(host_dir, "set", veid, "--userpasswd", "root:secret")
    env.start()
    assert login(host_dir, veid, "root", "secret")


@pytest.mark.parametrize("password", ["a:b", "with spaces ", "päss", "$6$x", "x" * 200])
def test_strange_passwords_by_stdin(env: "ve.Environment", host_dir: Path, password: str) -> None:
    """Where ps does not show them."""
    assert commandline.output(host_dir, "set", env.veid, "--userpasswd", "root:-", input=f"{password}\n") == ""
    assert login(host_dir, env.veid, "root", password)


def test_asked_for_on_a_terminal(env: "ve.Environment", host_dir: Path) -> None:
    with commandline.on_terminal(host_dir, "set", env.veid, "--userpasswd", "root:-") as terminal:
        terminal.expect("Password of root: ")
        terminal.send("typed\n")
        assert terminal.end() == 0
        assert "typed" not in terminal.shown
    assert login(host_dir, env.veid, "root", "typed")


def test_another_user(env: "ve.Environment", host_dir: Path) -> None:
    script = "echo bob:x:1000:1000::/tmp:/bin/sh >> /etc/passwd; echo bob:x:1000: >> /etc/group"
    commandline.output(host_dir, "exec", env.veid, "sh", "-c", script)
    commandline.output(host_dir, "set", env.veid, "--userpasswd", "bob:secret")
    assert login(host_dir, env.veid, "bob", "secret")
    assert not login(host_dir, env.veid, "root", "secret")


@pytest.mark.parametrize(("given", "code"), [("nobody-here:x", 20), ("root:", 20), (":x", 20), ("ro ot\n:x", 20)])
def test_what_cannot_be_set(env: "ve.Environment", host_dir: Path, given: str, code: int) -> None:
    before = commandline.output(host_dir, "exec", env.veid, "cat", "/etc/passwd", "/etc/shadow")
    done = commandline.run(host_dir, "set", env.veid, "--userpasswd", given)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("ve: cannot set the password of ")
    assert commandline.output(host_dir, "exec", env.veid, "cat", "/etc/passwd", "/etc/shadow") == before


def test_the_other_users_and_modes_stay(env: "ve.Environment", host_dir: Path) -> None:
    look = ("exec", env.veid, "sh", "-c", "grep -v ^root: /etc/shadow; stat -c '%a %u %g' /etc/shadow /etc/passwd")
    before = commandline.output(host_dir, *look)
    commandline.output(host_dir, "set", env.veid, "--userpasswd", "root:secret")
    assert commandline.output(host_dir, *look) == before
    line = commandline.output(host_dir, "exec", env.veid, "grep", "^root:", "/etc/shadow")
    assert line.startswith("root:$6$") and "secret" not in line


def test_an_ssh_key(env: "ve.Environment", host_dir: Path, tmp_path: Path) -> None:
    """Given as a file and as text, twice: it is there once; ssh-keygen knows it again."""
    subprocess.run(["ssh-keygen", *KEY_OPTIONS, "-t", "ed25519", "-f", tmp_path / "key"], check=True)
    subprocess.run(["ssh-keygen", *KEY_OPTIONS, "-t", "rsa", "-b", "2048", "-f", tmp_path / "other"], check=True)
    commandline.output(host_dir, "set", env.veid, "--ssh-key", f"@{tmp_path}/key.pub")
    commandline.output(host_dir, "set", env.veid, "--ssh-key", (tmp_path / "key.pub").read_text())
    commandline.output(host_dir, "set", env.veid, "--ssh-key", f"@{tmp_path}/other.pub")
    place = "/root/.ssh/authorized_keys"
    (tmp_path / "seen").write_text(commandline.output(host_dir, "exec", env.veid, "cat", place))
    fingerprints = [fingerprint(tmp_path / name) for name in ("seen", "key.pub", "other.pub")]
    assert fingerprints[0].split() == (fingerprints[1] + fingerprints[2]).split()
    modes = commandline.output(host_dir, "exec", env.veid, "stat", "-c", "%a %u %g", "/root/.ssh", place)
    assert modes.splitlines() == ["700 0 0", "600 0 0"]  # or sshd does not take it (StrictModes)


def fingerprint(file: Path) -> str:
    return subprocess.check_output(["ssh-keygen", "-l", "-f", file], text=True)


def test_an_ssh_key_of_a_stopped_ve(host: "ve.Host", host_dir: Path, veid: int, tmp_path: Path) -> None:
    env = host.create(veid, template="busybox")
    subprocess.run(["ssh-keygen", *KEY_OPTIONS, "-t", "ed25519", "-f", tmp_path / "key"], check=True)
    commandline.output(host_dir, "set", veid, "--ssh-key", f"@{tmp_path}/key.pub")
    env.start()
    seen = commandline.output(host_dir, "exec", veid, "cat", "/root/.ssh/authorized_keys")
    assert seen == (tmp_path / "key.pub").read_text()


@pytest.mark.parametrize("key", ["", "ssh-ed25519", "ssh-ed25519 AAAA", "command=x\nssh-ed25519 AAAA"])
def test_what_is_no_key(env: "ve.Environment", host_dir: Path, key: str) -> None:
    done = commandline.run(host_dir, "set", env.veid, "--ssh-key", key)
    assert (done.returncode, done.stdout) == (20, "")
    assert done.stderr.startswith("ve: cannot add an ssh key") and "hint: " in done.stderr
    assert commandline.run(host_dir, "exec", env.veid, "ls", "/root/.ssh").returncode != 0


def test_a_private_key_is_refused_and_not_shown(env: "ve.Environment", host_dir: Path, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", *KEY_OPTIONS, "-t", "ed25519", "-f", tmp_path / "key"], check=True)
    done = commandline.run(host_dir, "set", env.veid, "--ssh-key", f"@{tmp_path}/key")
    assert done.returncode == 20
    assert (tmp_path / "key").read_text().splitlines()[1] not in done.stderr


def test_a_file_that_is_not_there(env: "ve.Environment", host_dir: Path) -> None:
    done = commandline.run(host_dir, "set", env.veid, "--ssh-key", "@/no/such.pub")
    assert done.returncode == 3
    assert done.stderr == f"ve: cannot set {env.veid}: No such file or directory: /no/such.pub\n"
