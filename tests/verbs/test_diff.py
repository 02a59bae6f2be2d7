"""ve diff: what a VE added, changed and deleted, against what is on disk."""

import json
import stat
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make

CHANGES = "rm /etc/shells; echo x >>/etc/hosts; mkdir /srv/new; echo new >/srv/new/file; chmod 700 /media; rm -r /home"
SHOWN = {"D /etc/shells", "C /etc/hosts", "A /srv/new", "A /srv/new/file", "C /media", "D /home"}


def diff(host_dir: Path, veid: int) -> set[str]:
    lines = commandline.output(host_dir, "diff", veid).splitlines()
    assert lines == sorted(lines, key=lambda line: line.split()[1])
    return {" ".join(line.split()) for line in lines}


def test_removed_changed_and_added(host: "ve.Host", host_dir: Path, make: Make) -> None:
    env = make()
    assert diff(host_dir, env.veid) == set()
    env.start()
    witness.shell(env, "until test -e /var/log/messages; do :; done")
    booted = diff(host_dir, env.veid)
    assert all(line.startswith(("A /var/log/", "C /")) for line in booted)
    witness.shell(env, CHANGES)
    assert diff(host_dir, env.veid) - booted == SHOWN
    upper, lower = host_dir / f"private/{env.veid}/upper", Path(host.templates.get("busybox").path)
    assert stat.S_ISCHR((upper / "etc/shells").lstat().st_mode) and (lower / "etc/shells").is_file()
    assert (upper / "etc/hosts").read_text() != (lower / "etc/hosts").read_text()
    assert (upper / "srv/new/file").exists() and not (lower / "srv/new").exists()
    env.stop(fast=True)
    assert diff(host_dir, env.veid) >= SHOWN
    env.start()
    assert diff(host_dir, env.veid) >= SHOWN


@pytest.mark.any_kernel
def test_what_was_put_back_is_no_change(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    witness.shell(env, "chmod 700 /media && chmod 755 /media; mv /opt /opt2 && mv /opt2 /opt; touch /x && rm /x")
    assert not {line.split()[1] for line in diff(host_dir, env.veid)} & {"/media", "/x", "/opt2"}


@pytest.mark.any_kernel
def test_json(host_dir: Path, make: Make) -> None:
    env = make()
    (host_dir / f"private/{env.veid}/upper/new").write_text("x")
    assert json.loads(commandline.output(host_dir, "diff", "--json", env.veid)) == [{"kind": "A", "path": "/new"}]


@pytest.mark.any_kernel
def test_a_name_that_would_move_the_cursor(host_dir: Path, make: Make) -> None:
    env = make()
    (host_dir / f"private/{env.veid}/upper/\x1b[2J\nA  etc").write_text("x")
    assert commandline.output(host_dir, "diff", env.veid) == "A  /\\x1b[2J\\nA  etc\n"
