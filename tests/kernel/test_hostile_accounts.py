"""The account files of a VE are the VE's: whatever is in them, an edit is right or refused, and so is a lookup."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ve import accounts, passwd
from ve.beneath import Root

pytestmark = pytest.mark.any_kernel

KEY = "ssh-ed25519 AAAA me"
# What libc takes apart here, what Python would besides, numbers that are none, and any other bytes.
PIECES = [b"root", b"bob", b":", b"\n", b"x", b"0", b"-1", b"4294967295", b"9" * 5000, "٣".encode(), b"/home", b","]
PIECES += [b"\0", b"\r", b"\x0b", b"\x1c", "\x85".encode(), "\u2028".encode(), b"\xff", b"bob:x:1:1::/home:/bin/sh\n"]
FILES = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=30).map(b"".join)
ANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BOB = b"bob:x:1:1::/home:/bin/sh\n"


@pytest.fixture
def top(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    (tmp_path / "etc").mkdir()
    (tmp_path / "home/.ssh").mkdir(parents=True)
    return tmp_path


def far_side(edit: Callable[[Root], object], top: Path) -> bool:
    """Whether an edit in a process of its own, as the far side is, is done; anything but an OSError fails the test."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = b""
        try:
            edit(Root(os.open(top, os.O_PATH)))
        except OSError:
            said = b"OSError"
        except BaseException as error:
            said = repr(error).encode()
        os.write(writing, said)
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    assert said in (b"", b"OSError")
    return not said


def others(data: bytes) -> list[bytes]:
    """The lines of everybody but bob."""
    return [line for line in data.removesuffix(b"\n").split(b"\n") if data and line.split(b":")[0] != b"bob"]


@ANY
@given(users=FILES, shadow=st.none() | FILES)
@example("mallory:x:1:1:a\u2028evil:x:0:0::/:/bin/sh:/:/bin/sh\n".encode() + BOB, None)
def test_a_password(top: Path, users: bytes, shadow: bytes | None) -> None:
    """Nobody's line but the user's changes, and no line of another is made."""
    (top / "etc/passwd").write_bytes(users)
    (top / "etc/shadow").unlink(missing_ok=True)
    if shadow is not None:
        (top / "etc/shadow").write_bytes(shadow)
    done = far_side(lambda root: accounts.set_password(root, "bob", "$6$hash", running=False), top)
    assert done or (top / "etc/passwd").read_bytes() == users
    assert others((top / "etc/passwd").read_bytes()) == others(users)
    if shadow is not None:
        assert others((top / "etc/shadow").read_bytes()) == others(shadow)
    changed = (top / ("etc/passwd" if shadow is None else "etc/shadow")).read_bytes()
    assert not done or [line for line in changed.split(b"\n") if line.startswith(b"bob:$6$hash:")]


@ANY
@given(users=FILES, keys=FILES)
@example(b"bob:x:one:1::/home:/bin/sh\n", b"")
@example(b"bob:x:-1:-1::/home:/bin/sh\n", b"")
@example(b"bob:x:1:1::/ho\0me:/bin/sh\n", b"")
@example(BOB, "ssh-ed25519 BBBB a\u2028b".encode())
def test_a_key(top: Path, users: bytes, keys: bytes) -> None:
    """Each line that was there is there still."""
    (top / "etc/passwd").write_bytes(users)
    (top / "home/.ssh/authorized_keys").write_bytes(keys)
    for path in ("home", "home/.ssh", "home/.ssh/authorized_keys"):
        os.chown(top / path, 1, 1)
    done = far_side(lambda root: accounts.add_ssh_key(root, "bob", KEY), top)
    now = (top / "home/.ssh/authorized_keys").read_bytes()
    assert now == keys or (done and now == keys.removesuffix(b"\n") + b"\n" * bool(keys) + KEY.encode() + b"\n")


@ANY
@given(users=FILES, groups=FILES, wanted=st.sampled_from([b"bob", b"0", b"root", b"4294967295", b"9" * 20, b""]))
@example(b"", b"", b"9" * 20)
def test_a_lookup(monkeypatch: pytest.MonkeyPatch, users: bytes, groups: bytes, wanted: bytes) -> None:
    """All that a command needs to become somebody can be given to the kernel."""
    monkeypatch.setattr(passwd, "read", {b"/etc/passwd": users, b"/etc/group": groups}.__getitem__)
    ids = [gid for _, gid, _ in passwd.groups()]
    with contextlib.suppress(passwd.Refused):
        name, uid, gid, home, shell = passwd.user_entry(wanted)
        ids += [uid, gid]
        assert not any(b"\0" in text or b"\n" in text for text in (name, home, shell))
    with contextlib.suppress(passwd.Refused):
        ids.append(passwd.group_id(wanted))
    assert all(0 <= number < 2**32 - 1 for number in ids)
