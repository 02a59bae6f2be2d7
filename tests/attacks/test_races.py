"""ve cp, ve set and ve exec against a VE that exchanges a directory and a link to the host's, as fast as it can."""

import contextlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.conftest import Hostile
from tests.attacks.test_entering import background
from tests.verbs import witness
from ve import errors

ROUNDS = 25  # of each way; who joins strings is had within a few
TRIES = 100_000
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJfkNV4OS33ImTXvorZr72q4v5XhVEQKfvqsxOEJ/XaR tester@host"


def canary(tmp_path: Path) -> Path:
    """A directory of the host, of the shape that a home, a /etc and the directory of a copy have."""
    top = tmp_path / "canary"
    (top / ".ssh").mkdir(parents=True)
    for name in ("file", "passwd", "shadow", ".ssh/authorized_keys"):
        (top / name).write_text("root:x:0:0:the host's:/root:/bin/sh\n")
    return top


@pytest.mark.any_kernel
def test_copies_and_edits_stay_inside(hostile: Hostile, host_dir: Path, tmp_path: Path) -> None:
    top, out, given = canary(tmp_path), tmp_path / "out", tmp_path / "given"
    (given / ".ssh").mkdir(parents=True)
    (given / "file").write_text("given")
    before = witness.tree(top)
    env = hostile()
    witness.shell(
        env,
        "mkdir -p /swap/real/.ssh; cd /swap; for n in file passwd shadow; do echo root:x:0:0::/root:/bin/sh >real/$n;"
        f" done; ln -s {top} link; rm -rf /etc /root; ln -s /swap/real /etc; ln -s /swap/real /root",
    )
    ways: tuple[Callable[[], object], ...] = (
        lambda: env.copy_in(str(given / "file"), "/swap/real/file"),
        lambda: env.copy_in(str(given / ".ssh"), "/swap/real"),
        lambda: env.copy_in(str(given / "file"), "/swap/real/.ssh/"),
        lambda: env.copy_out("/swap/real/file", str(out)),
        lambda: env.copy_out("/swap/real", str(out)),
        lambda: env.copy_out("/swap/link/.", str(out)),
        lambda: env.copy_out("/swap", str(out), archive=True),
        lambda: (out / "read").write_text(env.path("/swap/real/file").read_text()),
        lambda: (out / "names").write_text("".join(map(str, env.path("/swap/real").iterdir()))),
        lambda: env.path("/swap/real/file").write_text("given"),
        lambda: env.path("/swap/real/new/below").mkdir(parents=True, exist_ok=True),
        lambda: env.path("/swap/real/passwd").chmod(0o666),
        lambda: env.path("/swap/real/shadow").unlink(),
        lambda: env.set_password("root", "word"),
        lambda: env.add_ssh_key(KEY),
        lambda: env.run(["cat", "file"], cwd="/swap/real", user="root", check=True),
    )
    with background(env, "/entering", "swap", "/swap/real", "/swap/link"):
        done = [sum(_tries(way, out, "the host's") for _ in range(ROUNDS)) for way in ways]
        assert _joins_strings(Path(f"/proc/{witness.init(host_dir, env.veid)}/root/swap/real/file"))
    assert witness.tree(top) == before
    assert sum(done) > ROUNDS, "hardly any went through, so this shows little"


def _tries(way: Callable[[], object], out: Path, secret: str) -> bool:
    """Did it work?  Whatever came out, it is not the host's."""
    out.mkdir()
    try:
        with contextlib.suppress(errors.Error, OSError, subprocess.SubprocessError):
            way()
            return True
        return False
    finally:
        texts = [path.read_text() for path in out.rglob("*") if path.is_file() and not path.is_symlink()]
        assert not any(secret in text for text in texts)
        shutil.rmtree(out)


def _joins_strings(path: Path) -> bool:
    """Does who opens such a path from outside ever find the host's file there?"""
    for _ in range(TRIES):
        with contextlib.suppress(OSError), open(path) as file:
            if "the host's" in file.read():
                return True
    return False
