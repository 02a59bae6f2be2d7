"""Completion in a real bash: what a press of TAB offers for VEIDs, names, templates and verbs."""

import fcntl
import os
import shlex
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline

pytestmark = pytest.mark.any_kernel

# What bash does when TAB is pressed: COMP_WORDS and COMP_CWORD, then the function that `complete -F` names.
PRESS_TAB = """
eval "$(ve --show-completion bash)" || exit 1
compopt() { :; }  # it works in a press of TAB only
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
function=$(complete -p ve | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" ve "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def web(host: "ve.Host", veid: int) -> "ve.Environment":
    """A VE with a name."""
    return host.create(veid, template="busybox", name="web-server")


def in_shell(host_dir: Path) -> dict[str, str]:
    """Its environment."""
    return {**os.environ, "PATH": f"{commandline.VE.parent}:{os.environ['PATH']}", "VE_STATE_DIR": str(host_dir)}


def offered(host_dir: Path, line: str, **environment: str) -> list[str]:
    """What TAB at the end of a line offers."""
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    given = in_shell(host_dir)
    done = subprocess.run(
        ["bash", "--norc", "-c", PRESS_TAB, "bash", *words],
        env=given | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return [word.strip() for word in done.stdout.splitlines() if word.strip()]


@pytest.mark.parametrize("verb", ["start", "exec", "destroy", "status", "rename", "set", "start 4242"])
def test_veids_and_names(host_dir: Path, web: "ve.Environment", verb: str) -> None:
    expected = [str(web.veid), "web-server"]
    assert [word for word in offered(host_dir, f"ve {verb} ") if word in expected] == expected


@pytest.mark.parametrize("line", ["ve cp ", "ve cp motd "])
def test_a_side_of_cp(host_dir: Path, web: "ve.Environment", line: str) -> None:
    assert {f"{web.veid}:", "web-server:"} <= set(offered(host_dir, line))
    assert offered(host_dir, f"{line}web-server:/et") == []


def test_only_what_begins_so(host_dir: Path, web: "ve.Environment") -> None:
    assert offered(host_dir, "ve start web") == ["web-server"]
    assert offered(host_dir, f"ve start {web.veid}") == [str(web.veid)]
    assert offered(host_dir, "ve start no-such") == []


def test_of_the_state_dir_on_the_line(host_dir: Path, web: "ve.Environment", tmp_path: Path) -> None:
    elsewhere = {"VE_STATE_DIR": str(tmp_path)}
    assert offered(host_dir, "ve start web", **elsewhere) == []
    assert offered(host_dir, f"ve --state-dir {host_dir} start web", **elsewhere) == ["web-server"]


def test_fields(host_dir: Path) -> None:
    assert {"veid", "status", "addresses"} <= set(offered(host_dir, "ve list -o "))
    assert offered(host_dir, "ve list -H -o veid,st") == ["veid,status"]
    assert offered(host_dir, "ve list -o veid,ve") == []


def test_pools(host_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VE_NETWORK_DIR", str(tmp_path))
    (tmp_path / "web.toml").write_text('version = 1\nnetworks = ["10.9.0.0/24"]\n')
    assert offered(host_dir, "ve network show ") == ["web"]
    assert offered(host_dir, "ve create 900 --ip a") == ["auto", "auto:sticky", "auto:web"]
    assert [word.rpartition(":")[2] for word in offered(host_dir, "ve create 900 --ip auto:web:")] == ["sticky"]


@pytest.mark.parametrize("line", ["ve run ", "ve create 900 --template ", "ve template remove "])
def test_templates(host_dir: Path, web: "ve.Environment", line: str) -> None:
    assert "busybox" in offered(host_dir, line)
    assert offered(host_dir, f"{line}busy") == ["busybox"]


def test_verbs_and_options(host_dir: Path, web: "ve.Environment") -> None:
    assert {"create", "start", "exec", "template"} <= set(offered(host_dir, "ve "))
    assert offered(host_dir, "ve des") == ["destroy"]
    assert offered(host_dir, "ve template b") == ["build"]
    assert {"--user", "--cwd", "--env"} <= set(offered(host_dir, "ve exec --"))
    assert {"busybox", "debian"} <= set(offered(host_dir, "ve template build "))


def test_rights(host_dir: Path, web: "ve.Environment") -> None:
    assert {"net_admin", "keyctl", "/dev/fuse", "nesting"} <= set(offered(host_dir, "ve explain web-server "))
    assert offered(host_dir, "ve explain web-server net_adm") == ["net_admin"]
    assert offered(host_dir, "ve explain web-server net_admin /dev/net/t") == ["/dev/net/tun"]


def test_nothing_where_nothing_can_be_known(host_dir: Path, tmp_path: Path, web: "ve.Environment") -> None:
    """A completion has nowhere to complain."""
    (tmp_path / "file").write_text("no directory")
    assert offered(host_dir, "ve start ", VE_STATE_DIR=str(tmp_path / "file")) == []
    assert offered(host_dir, "ve start ", VE_STATE_DIR="/no/such") == []


def test_it_makes_nothing(tmp_path: Path, host_dir: Path) -> None:
    assert offered(host_dir, "ve start ", VE_STATE_DIR=str(tmp_path / "none")) == []
    assert list(tmp_path.iterdir()) == []


# What a line becomes by a press of TAB, in a bash on a terminal: readline takes what follows a colon for a word.
BECOMES = {
    "ve template remove busybox:": "ve template remove busybox:1 X",
    "ve create 900 --template=busybox:": "ve create 900 --template=busybox:1 X",
    "ve create 900 --template=busy": "ve create 900 --template=busybox X",
    "ve cp web-s": "ve cp web-server:X",
    "ve set web-server --description 'a b' --userp": "ve set web-server --description a b --userpasswd X",
    "ve list -o veid,stat": "ve list -o veid,status X",
    "ve umo": "ve umount X",
}


@pytest.fixture
def bash(host_dir: Path) -> Iterator[commandline.Terminal]:
    """A terminal with a shell that knows how to complete."""
    master, slave = os.openpty()
    terminal = commandline.Terminal(master, slave)
    terminal.resize(24, 200)
    terminal.process = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        env=in_shell(host_dir) | {"TERM": "dumb", "PS1": "$ ", "INPUTRC": "/dev/null"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    with terminal.process:
        terminal.send('eval "$(ve --show-completion bash)"; echo ready | tr a-z A-Z\n')
        try:
            terminal.expect("READY")
            yield terminal
        finally:
            terminal.process.kill()
            os.close(master)
            os.close(slave)


@pytest.mark.parametrize("line", BECOMES)
def test_a_press_of_tab(bash: commandline.Terminal, web: "ve.Environment", line: str) -> None:
    bash.send(f"{line}\tX\x01echo '<'\x05'>' | tr '<>' '[]'\n")  # ^A and ^E: to the begin and the end of the line
    assert bash.expect(r"\[(.*)\]\r")[1] == BECOMES[line]
