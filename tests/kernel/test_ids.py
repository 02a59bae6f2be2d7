"""Leases of host ids where the kernel decides: in a user namespace, beside processes that have them, read only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ve import ids
from ve.ids import IDS
from ve.state import State

ROOT = Path(__file__).resolve().parents[2]
LEASE = """
import sys
from ve import ids
from ve.errors import Error
from ve.state import State
sys.stdin.readline()  # until the maps are written
print(ids.existing())
for ephemeral in (False, True):
    try:
        print(ids.lease(State(sys.argv[1]), 101, ephemeral=ephemeral))
    except Error as error:
        print(error.exit_code, error)
"""


@pytest.fixture(autouse=True)
def leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VE_ID_DIR", str(tmp_path / "id"))
    return tmp_path / "id"


def in_user_namespace(uid_map: str, gid_map: str, state: Path) -> list[str]:
    """What LEASE prints in a user namespace with these maps."""
    line = ["unshare", "--user", sys.executable, "-c", LEASE, str(state)]
    with subprocess.Popen(line, cwd=ROOT, stdin=-1, stdout=-1, stderr=subprocess.STDOUT, text=True) as process:
        while os.readlink(f"/proc/{process.pid}/ns/user") == os.readlink("/proc/self/ns/user"):
            assert process.poll() is None  # unshare(1) execs within this very process: only a moment
        Path(f"/proc/{process.pid}/uid_map").write_text(uid_map)
        Path(f"/proc/{process.pid}/gid_map").write_text(gid_map)
        said, _ = process.communicate("go\n")
    return said.splitlines()


def test_in_a_user_namespace_only_ids_that_are_there(tmp_path: Path) -> None:
    """Users and groups both, and 65536 as one: the kernel maps no range that lies in two lines."""
    both = f"0 0 {IDS}\n{20001 * IDS} 70000 {IDS}\n"
    users = f"{both}{21 * IDS} {3000 * IDS} {2 * IDS}\n{23 * IDS + 1} {3100 * IDS} {3 * IDS}\n"
    users += f"{30 * IDS} {3200 * IDS} 5\n{30 * IDS + 5} {3300 * IDS} {IDS - 5}\n"
    groups = f"{both}{22 * IDS} {3001 * IDS} {2 * IDS}\n{30 * IDS} {3200 * IDS} {IDS}\n"
    ranges, on_disk, ephemeral = in_user_namespace(users, groups, tmp_path / "state")
    wanted = [range(IDS), range(22 * IDS, 23 * IDS), range(23 * IDS + 1, 24 * IDS)]
    wanted += [range(30 * IDS, 30 * IDS + 5), range(30 * IDS + 5, 31 * IDS), range(20001 * IDS, 20002 * IDS)]
    assert ranges == str(wanted)
    assert (on_disk, ephemeral) == (str(22 * IDS), str(20001 * IDS))


def test_in_a_user_namespace_without_ids_to_give(tmp_path: Path) -> None:
    said = in_user_namespace("0 0 65536", "0 0 65536", tmp_path / "state")
    wanted = "5 cannot find host ids: this user namespace has not got 65536 of them from {} on"
    assert said == ["[range(0, 65536)]", wanted.format(16 * IDS), wanted.format(17 * IDS)]


def test_ids_that_a_process_has_are_not_given(tmp_path: Path, leases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A VE that runs has lost its lease when its state dir was moved."""
    monkeypatch.setattr("ve.ids.zlib.crc32", lambda data: os.getpid())  # where no other session looks just now
    number = ids.lease(State(tmp_path / "gone"), 101) // IDS
    for link in ("of a VE that is gone", ""):
        with subprocess.Popen(["sleep", "1000"], user=number * IDS, group=number * IDS) as process:
            assert ids.lease(State(tmp_path / "state"), 102) // IDS != number, link
            ids.release(State(tmp_path / "state"), 102)
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
            assert ids.next_lease(State(tmp_path / "state"), 102) // IDS == number
        (leases / str(number)).unlink(missing_ok=True)
    assert ids.lease(State(tmp_path / "state"), 102) // IDS == number


READ_ONLY = """
import sys
from ve import ids
from ve.errors import Error
from ve.state import State
here = State(sys.argv[1])
for act in (ids.next_lease, ids.lease, ids.release):
    try:
        print(act(here, 101))
    except Error as error:
        print(error.exit_code, error, "|", error.hint)
"""


def test_on_a_read_only_disk(tmp_path: Path, leases: Path) -> None:
    base = ids.lease(State(tmp_path / "state"), 101)
    script = 'mount --bind "$VE_ID_DIR" "$VE_ID_DIR" && mount -o remount,bind,ro "$VE_ID_DIR" && exec "$@"'
    line = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", READ_ONLY, str(tmp_path / "state")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    first, *others = done.stdout.splitlines()
    assert first == str(base)
    says = (
        f"5 cannot write the leases of host ids in {leases}: Read-only file system | run as root, or set VE_ID_DIR to"
    )
    assert [line.startswith(says) for line in others] == [True, True]
    assert os.readlink(leases / str(base // IDS)) == f"{tmp_path}/state/conf/101.toml"
