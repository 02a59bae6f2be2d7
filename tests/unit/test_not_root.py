"""The library without root: one error that says so, before anything is done, and check() that works."""

import subprocess
import sys
from pathlib import Path

import pytest

# As nobody, who may look at all, wherever this project lies.
NOBODY = (
    "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
)
ASK = "import sys, ve; from ve import errors; host = ve.Host(sys.argv[1]); print(repr({}))"

CALLS = {
    "host.create(101, template='a')": "cannot create 101",
    "host.get(101)": "cannot look for VE 101",
    "host.list()": "cannot list VEs",
    "host.ps()": "cannot list VEs",
    "host.forget_dead()": "cannot list VEs",
    "host.run('a', ['true'])": "cannot run a",
    "host.ephemeral('a').__enter__()": "cannot run a",
    "host.templates.list()": "cannot list templates",
    "host.templates.get('a')": "cannot look for template a",
    "host.templates.hold('a').__enter__()": "cannot look for template a",
    "host.templates.add('a', '/etc')": "cannot add template a from /etc",
    "host.templates.build('busybox')": "cannot build template busybox",
    "host.templates.remove('a')": "cannot remove template a",
}


def as_nobody(call: str, state_dir: Path) -> "subprocess.CompletedProcess[str]":
    command = [*NOBODY.split(), sys.executable, "-c", ASK.format(call), str(state_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("call", CALLS)
def test_who_is_not_root_is_told_so(call: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    last = as_nobody(call, tmp_path / "state").stderr.splitlines()[-1]
    assert last == f"ve.errors.NotRoot: {CALLS[call]}: not root"
    assert list(tmp_path.iterdir()) == []


def test_check_says_it_too(tmp_path: Path) -> None:
    done = as_nobody("[each.present for each in host.check() if each.name == 'root']", tmp_path)
    assert (done.stdout, done.stderr) == ("[False]\n", "")
