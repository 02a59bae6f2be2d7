"""Leases of host ids: what each VE gets, and what becomes of leases whose VE, state dir or maker is gone.

The links on disk are the witness, and for races a file that only one may make.
"""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ve import facts, ids, wholefile
from ve.errors import Error, Locked, NotSupported
from ve.ids import IDS
from ve.state import State

ROOT = Path(__file__).resolve().parents[2]
START = 1000  # where all begin to look that shall collide, among the lower half of the ranges
FIRST, NEXT = ids.ON_DISK[START], ids.ON_DISK[START + 1]  # N that are found there


@pytest.fixture(autouse=True)
def leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the leases are."""
    monkeypatch.setenv("VE_ID_DIR", str(tmp_path / "id"))
    return tmp_path / "id"


@pytest.fixture(autouse=True)
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What /etc/subuid and /etc/subgid say: nothing, whatever this machine has."""
    lists = {"/etc/subuid": b"", "/etc/subgid": b""}
    read = wholefile.read_small
    monkeypatch.setattr("ve.ids.read_small", lambda path: lists[path] if path in lists else read(path))
    return lists


@pytest.fixture(autouse=True)
def nobody_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With any of the ids: other VEs of this machine may, and tests/kernel asks the kernel."""
    monkeypatch.setattr("ve.ids._runs", lambda number: False)


@pytest.fixture
def here(tmp_path: Path) -> State:
    return State(tmp_path / "state")


@pytest.fixture
def collide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every VE begins to look at the same range."""
    monkeypatch.setattr("ve.ids.zlib.crc32", lambda data: START)


def create(state: State, veid: int) -> int:
    """A VE, as far as its lease goes; gives N of its range."""
    with state.lock(veid):
        base = ids.lease(state, veid)
        state.write_conf(veid, b"")
    assert base % IDS == 0
    return base // IDS


def start(state: State, veid: int) -> int:
    with state.lock(veid):
        return ids.lease(state, veid) // IDS


def links(directory: Path) -> dict[str, str]:
    return {path.name: os.readlink(path) for path in directory.iterdir() if path.is_symlink()}


# ---- one state dir --------------------------------------------------------------------------------------------------


def test_a_lease_and_its_ve_name_each_other(here: State, leases: Path) -> None:
    number = create(here, 101)
    assert links(leases) == {str(number): f"{here.path}/conf/101.toml"}
    assert os.readlink(f"{here.path}/lease/101") == str(number)


@pytest.mark.usefixtures("collide")
def test_ids_are_a_ves_own_stay_and_are_used_again(here: State, leases: Path) -> None:
    first, second = create(here, 101), create(here, 102)
    assert first != second
    assert (start(here, 101), start(here, 102)) == (first, second)
    ids.release(here, 101)
    assert list(links(leases)) == [str(second)] and os.listdir(f"{here.path}/lease") == ["102"]
    assert start(here, 102) == second  # though one before it is free now
    assert create(here, 103) == first


def test_where_they_are_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VE_ID_DIR")
    assert [ids._directory(ephemeral) for ephemeral in (False, True)] == ["/var/lib/ve/id", "/run/ve/id"]


@pytest.mark.parametrize("at", [*range(0, 70000, 7000), 8184, 16373, 16374])
def test_ids_are_ones_that_a_host_can_have(here: State, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Nor does one kind ever look at the other's, and nobody gets those of the probes."""
    monkeypatch.setattr("ve.ids.zlib.crc32", lambda data: at)
    found = [ids.lease(here, 101 + ephemeral, ephemeral=bool(ephemeral)) for ephemeral in (0, 1)]
    assert min(found) >= 1 << 20 and max(found) <= 2**31 - 3 * IDS and 1 << 30 not in found
    assert [base // IDS % 2 for base in found] == [0, 1]


def test_what_will_be_leased_is_known_before_and_changes_nothing(here: State, tmp_path: Path) -> None:
    here.make_dir(here.path)
    before = list(tmp_path.rglob("*"))
    wanted = ids.next_lease(here, 101)
    assert list(tmp_path.rglob("*")) == before
    assert create(here, 101) == wanted // IDS
    assert ids.next_lease(here, 101) == wanted


@pytest.mark.usefixtures("collide")
def test_a_ve_that_was_never_finished_holds_nothing_unless_it_is_in_the_making(here: State) -> None:
    with here.lock(101):
        number = ids.lease(here, 101) // IDS
        assert create(here, 102) != number
    assert create(here, 103) == number


@pytest.mark.usefixtures("collide")
def test_what_is_no_lease(here: State, leases: Path) -> None:
    """A link that names no VE is nobody's; a file is none of ours."""
    leases.mkdir()
    (leases / str(FIRST)).symlink_to("101")
    (leases / str(NEXT)).touch()
    assert create(here, 101) == FIRST
    assert create(here, 102) == NEXT + 2


@pytest.mark.usefixtures("collide")
@pytest.mark.parametrize(
    "text", ["/conf/1.toml", "/1.toml", "1.toml", "/a/conf/2147483645.toml", "/a/conf/0.toml", "x"]
)
@pytest.mark.parametrize("ephemeral", [False, True])
def test_odd_texts(here: State, leases: Path, text: str, ephemeral: bool) -> None:
    directory = leases / ("run" if ephemeral else "")
    directory.mkdir(parents=True)
    first = (ids.EPHEMERAL if ephemeral else ids.ON_DISK)[START]
    (directory / str(first)).symlink_to(text)
    assert ids.lease(here, 101, ephemeral=ephemeral) == first * IDS


@pytest.mark.usefixtures("collide")
@pytest.mark.parametrize("veid", [101, 2147483645])
def test_a_lease_that_its_ve_does_not_confirm(here: State, leases: Path, veid: int) -> None:
    """Its record says another; or no VE can have that number, whatever says so."""
    number = create(here, 101)
    (leases / str(NEXT)).symlink_to(f"{here.path}/conf/{veid}.toml")
    Path(here.path, "lease/2147483645").symlink_to(str(NEXT))
    assert create(here, 102) == NEXT
    assert start(here, 101) == number


@pytest.mark.usefixtures("collide")
def test_a_record_that_is_lost_is_written_anew(here: State) -> None:
    """Of a state dir that was restored from a backup without it."""
    number = create(here, 101)
    shutil.rmtree(f"{here.path}/lease")
    assert start(here, 101) == number
    assert os.readlink(f"{here.path}/lease/101") == str(number)


@pytest.mark.parametrize("content", ["x", "-5", "16384", "7", "99999999999", "1048576"])
def test_a_record_of_what_cannot_be(here: State, leases: Path, content: str) -> None:
    number = create(here, 101)
    (record := Path(here.path, "lease/101")).unlink()
    record.symlink_to(content)
    assert start(here, 101) in ids.ON_DISK
    ids.release(here, 101)
    assert set(links(leases)) <= {str(number)}
    assert not record.is_symlink()


# ---- what others have -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("collide")
@pytest.mark.parametrize("name", ["/etc/subuid", "/etc/subgid"])
def test_ids_that_others_have_are_left_alone(here: State, given: dict[str, bytes], name: str) -> None:
    last, first, then = NEXT * IDS - 1, NEXT * IDS, (NEXT + 2) * IDS
    others = [f"a:{last - IDS}:1", f"1000:{first}:{IDS}", "# c", f"#e:{then}:9", f"d:{then + 5}:0", "", "broken:line"]
    given[name] = "\n".join([*others, f"f:{then}:x"]).encode()
    assert [create(here, 101) * IDS, create(here, 102) * IDS] == [then, then + 2 * IDS]


def test_ids_that_others_were_given_since_are_left_at_the_next_start(
    here: State, leases: Path, given: dict[str, bytes]
) -> None:
    number = create(here, 101)
    given["/etc/subuid"] = f"ada:{number * IDS + 5}:1\n".encode()
    assert start(here, 101) != number
    assert list(links(leases)) == [os.readlink(f"{here.path}/lease/101")] != [str(number)]


@pytest.mark.parametrize("act", [ids.lease, ids.next_lease])
def test_no_ids_left(here: State, given: dict[str, bytes], act: Callable[[State, int], int]) -> None:
    given["/etc/subgid"] = b"all:0:4294967295\n"
    with pytest.raises(Error, match=r"^cannot find host ids for 101: all are taken$") as caught:
        act(here, 101)
    assert "/etc/subuid" in caught.value.hint


MAPS = {
    "all": ("0 0 4294967295", [range(4294967295)]),
    "few": ("0 100000 65536", [range(65536)]),
    "two lines that meet": ("0 0 1048577\n1048577 5000000 65535", [range(1048577), range(1048577, 1114112)]),
    "none": ("", []),
}


@pytest.mark.parametrize("name", MAPS)
def test_only_what_exists_as_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text, wanted = MAPS[name]
    maps = {"/proc/self/uid_map": text, "/proc/self/gid_map": "0 0 4294967295"}
    monkeypatch.setattr("ve.ids.read_small", lambda path: maps[path].encode())
    assert ids.existing() == wanted
    maps["/proc/self/uid_map"], maps["/proc/self/gid_map"] = maps["/proc/self/gid_map"], maps["/proc/self/uid_map"]
    assert ids.existing() == wanted


# ---- for VEs in it --------------------------------------------------------------------------------------------------


def test_further_ranges_are_the_ves_own_too(here: State, leases: Path) -> None:
    first = create(here, 101)
    wanted = ids.next_leases(here, 101, 3)
    with here.lock(101):
        assert ids.leases(here, 101, 3) == wanted == ids.leases(here, 101, 3)
    numbers = [base // IDS for base in wanted]
    assert numbers[0] == first and len(set(numbers)) == 4
    assert links(leases) == dict.fromkeys(map(str, numbers), f"{here.path}/conf/101.toml")
    assert create(here, 102) not in numbers
    assert start(here, 101) == first  # of another profile it needs no more, and the others are free again
    assert len(links(leases)) == 2
    ids.release(here, 101)
    assert list(links(leases).values()) == [f"{here.path}/conf/102.toml"]


@pytest.mark.usefixtures("collide")
def test_further_ranges_of_a_ve_that_is_gone_are_leased_again(here: State) -> None:
    with here.lock(101):
        before = ids.leases(here, 101, 3)  # and was killed before there was a conf file
    create(here, 102)
    with here.lock(103):
        here.write_conf(103, b"")
        assert not {*ids.leases(here, 103, 2)} & {ids.lease(here, 102)}
    assert {base // IDS for base in before} & {start(here, 102)}


def test_too_few_for_the_ves_in_it(here: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ve.ids.existing", lambda: [range(22 * IDS)])
    with pytest.raises(Error, match=r"^cannot find host ids for 101: it wants 5 ranges, and 3 are free$"):
        ids.leases(here, 101, 4)


def test_both_kinds_have_as_many_inside() -> None:
    """An inner ve finds those of a VE that is kept and of one that is thrown away, and the VE its own from 0 on."""
    own, *others = ids.inside(range(7 * IDS, 12 * IDS, IDS))
    assert own == (0, 7 * IDS, IDS)
    assert [host for _, host, _ in others] == [8 * IDS, 9 * IDS, 10 * IDS, 11 * IDS]
    firsts = [first // IDS for first, _, _ in others]
    assert [sum(first in kind for first in firsts) for kind in (ids.ON_DISK, ids.EPHEMERAL)] == [2, 2]


# ---- many state dirs ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("collide")
def test_two_state_dirs_that_begin_at_the_same_do_not_share(tmp_path: Path) -> None:
    numbers = {create(State(tmp_path / name), 101) for name in "abc"}
    assert len(numbers) == 3


def test_they_begin_elsewhere(tmp_path: Path) -> None:
    assert len({create(State(tmp_path / name), veid) for name in "abc" for veid in (101, 102, 103)}) == 9
    assert len({ids.next_lease(State(tmp_path / name), 7) for name in "abcdefgh"}) > 4


@pytest.mark.usefixtures("collide")
def test_a_moved_state_dir_keeps_its_ids(here: State, tmp_path: Path, leases: Path) -> None:
    number = create(here, 101)
    os.rename(here.path, tmp_path / "moved")
    moved = State(tmp_path / "moved")
    assert start(moved, 101) == number
    assert links(leases) == {str(number): f"{moved.path}/conf/101.toml"}
    assert create(here, 101) != number
    ids.release(moved, 101)
    assert str(number) not in links(leases)


@pytest.mark.usefixtures("collide")
def test_a_moved_ve_gives_its_ids_back_without_a_start(here: State, tmp_path: Path, leases: Path) -> None:
    create(here, 101)
    os.rename(here.path, tmp_path / "moved")
    ids.release(State(tmp_path / "moved"), 101)
    assert links(leases) == {}


@pytest.mark.usefixtures("collide")
@pytest.mark.parametrize("first", ["original", "copy"])
def test_of_a_copied_state_dir_the_original_keeps_its_ids(
    here: State, tmp_path: Path, leases: Path, first: str
) -> None:
    number = create(here, 101)
    shutil.copytree(here.path, tmp_path / "copy", symlinks=True)
    copy = State(tmp_path / "copy")
    order = [here, copy] if first == "original" else [copy, here]
    got = {state.path: start(state, 101) for state in order}
    assert got[here.path] == number != got[copy.path]
    assert {start(state, 101) for state in order} == set(got.values())
    assert len(links(leases)) == 2


@pytest.mark.usefixtures("collide")
def test_a_copy_gives_back_nothing_of_the_originals(here: State, tmp_path: Path, leases: Path) -> None:
    number = create(here, 101)
    shutil.copytree(here.path, tmp_path / "copy", symlinks=True)
    ids.release(State(tmp_path / "copy"), 101)
    assert links(leases) == {str(number): f"{here.path}/conf/101.toml"}
    assert start(here, 101) == number


@pytest.mark.usefixtures("collide")
def test_a_copy_takes_over_when_the_original_is_gone(here: State, tmp_path: Path) -> None:
    number = create(here, 101)
    shutil.copytree(here.path, tmp_path / "copy", symlinks=True)
    shutil.rmtree(here.path)
    assert create(State(tmp_path / "other"), 101) == number
    assert start(State(tmp_path / "copy"), 101) != number


@pytest.mark.usefixtures("collide")
def test_a_state_dir_by_another_path_is_the_same(here: State, tmp_path: Path, leases: Path) -> None:
    """It was moved, and a link left in its place."""
    number = create(here, 101)
    os.rename(here.path, tmp_path / "moved")
    Path(here.path).symlink_to(tmp_path / "moved")
    assert start(State(here.path), 101) == number
    assert links(leases) == {str(number): f"{tmp_path}/moved/conf/101.toml"}


@pytest.mark.usefixtures("collide")
def test_a_state_dir_that_cannot_be_read_now_keeps_its_ids(here: State, tmp_path: Path) -> None:
    number = create(here, 101)
    os.rename(here.path, tmp_path / "moved")
    Path(here.path).symlink_to(here.path)  # ELOOP, as one of many reasons
    assert create(State(tmp_path / "other"), 101) != number


# ---- ephemeral VEs --------------------------------------------------------------------------------------------------


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def begin(state: State, veid: int, maker: int, init: int, boot: str = "", **extra: str) -> int:
    """An ephemeral VE, as far as its lease goes."""
    state.write_conf(veid, b"", ephemeral=True)
    number = ids.lease(state, veid, ephemeral=True) // IDS
    begun = [facts.process_start_time(pid) or 0 for pid in (init, maker)]
    of_it = facts.Facts(
        init, begun[0], boot or facts.boot_id(), number * IDS, "t:1", "small", True, maker, begun[1], extra
    )
    state.write_facts(veid, of_it)
    return number


@pytest.mark.usefixtures("collide")
def test_an_ephemeral_ves_ids_are_free_when_maker_and_init_have_ended(
    here: State, tmp_path: Path, leases: Path, child: "subprocess.Popen[bytes]"
) -> None:
    other = State(tmp_path / "other")
    of_maker = begin(here, 101, maker=child.pid, init=4999999)
    of_init = begin(here, 102, maker=4999999, init=child.pid)
    of_neither = begin(here, 103, maker=4999999, init=4999999)
    assert links(leases / "run")[str(of_maker)] == f"{here.run_dir}/101.toml"
    assert begin(other, 1, child.pid, child.pid) == of_neither
    child.kill()
    child.wait()
    assert {begin(other, veid, os.getpid(), os.getpid()) for veid in (2, 3)} == {of_maker, of_init}


@pytest.mark.usefixtures("collide")
@pytest.mark.parametrize(
    ("elsewhere", "kept"), [({"boot": "of another boot"}, False), ({"home": "pid:[1] time:[1]"}, True)]
)
def test_facts_of_elsewhere(here: State, tmp_path: Path, elsewhere: dict[str, str], kept: bool) -> None:
    """Another boot has ended; another container's processes we cannot see."""
    number = begin(here, 101, 4999999, 4999999, **elsewhere)
    assert (ids.lease(State(tmp_path / "other"), 101, ephemeral=True) // IDS == number) is not kept


@pytest.mark.usefixtures("collide")
def test_an_ephemeral_ve_in_the_making_has_its_ids(here: State, tmp_path: Path) -> None:
    other = State(tmp_path / "other")
    with here.lock(101):
        base = ids.lease(here, 101, ephemeral=True)
        here.write_conf(101, b"", ephemeral=True)
        assert ids.lease(other, 101, ephemeral=True) != base
    assert ids.lease(other, 102, ephemeral=True) == base  # its maker was killed before there were facts


def test_release_is_for_both_kinds(here: State, leases: Path) -> None:
    ids.lease(here, 101)
    ids.lease(here, 102, ephemeral=True)
    assert len(links(leases)) == len(links(leases / "run")) == 1
    ids.release(here, 101)
    ids.release(here, 102)
    ids.release(here, 103)
    assert links(leases) == links(leases / "run") == {}
    assert os.listdir(f"{here.path}/lease") == os.listdir(f"{here.run_dir}/lease") == []


# ---- what can go wrong ----------------------------------------------------------------------------------------------


def test_leases_that_cannot_be_written(here: State, leases: Path) -> None:
    leases.touch()
    with pytest.raises(NotSupported, match=f"^cannot write the leases of host ids in {leases}: .*irectory") as caught:
        ids.lease(here, 101)
    assert "VE_ID_DIR" in caught.value.hint
    assert not Path(here.path, "lease").exists()


def test_leases_that_are_gone_are_made_anew(here: State, leases: Path) -> None:
    number = create(here, 101)
    shutil.rmtree(leases)
    assert start(here, 101) == number
    shutil.rmtree(leases)
    ids.release(here, 101)
    assert os.listdir(f"{here.path}/lease") == [] and not leases.exists()


def test_who_keeps_the_leases_locked_is_named(here: State, leases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create(here, 101)
    monkeypatch.setattr("ve.ids.PATIENCE", 0.0)
    with subprocess.Popen(["flock", leases / "lock", "sh", "-c", "echo; read x"], stdin=-1, stdout=-1) as holder:
        assert holder.stdout and holder.stdout.readline()
        with pytest.raises(Locked, match=r"^cannot lock the leases of host ids: process \d+ \(flock .*works on it$"):
            ids.lease(here, 102)
        assert ids.next_lease(here, 102)  # who only looks does not wait
        holder.communicate()


CHANGES = ("os.mkdir", "os.symlink", "os.remove", "os.rename", "os.link")


def killed_before_each_step(act: Callable[[], object], prepare: Callable[[], None]) -> Iterator[str]:
    """Run act in a child that is killed before the first, second, ... of its system calls that open or change a file.

    prepare() makes the ground anew for each; the names of those calls are given.
    """
    for count in itertools.count(1):
        prepare()
        reader, writer = os.pipe()
        with os.fdopen(reader) as told:
            pid = os.fork()
            if pid == 0:
                _die_before(count, act, writer)
            os.close(writer)
            _, status = os.waitpid(pid, 0)
            if status == 0:
                return
            assert status == signal.SIGKILL
            yield told.read()


def _die_before(count: int, act: Callable[[], object], tell: int) -> None:
    def hook(event: str, args: Any) -> None:
        nonlocal count
        count -= event in (*CHANGES, "open", "fcntl.flock")
        if count == 0:
            count = -1  # os.kill is an event too
            os.write(tell, event.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(hook)
        act()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


@pytest.mark.usefixtures("collide")
@pytest.mark.parametrize("ground", ["nothing", "a dead lease", "an own lease", "a moved state dir", "given away since"])
@pytest.mark.parametrize("act", [create, ids.release])
def test_killed_at_any_step_the_next_command_repairs_it(
    tmp_path: Path, leases: Path, given: dict[str, bytes], ground: str, act: Callable[[State, int], object]
) -> None:
    here, other = State(tmp_path / "here"), State(tmp_path / "other")

    def prepare() -> None:
        for path in (here.path, other.path, leases, tmp_path / "moved"):
            shutil.rmtree(path, ignore_errors=True)
        given["/etc/subuid"] = b""
        if ground == "a dead lease":
            create(State(tmp_path / "moved"), 7)
            shutil.rmtree(tmp_path / "moved")
        elif ground == "a moved state dir":
            create(State(tmp_path / "moved"), 101)
            os.rename(tmp_path / "moved", here.path)
        elif ground != "nothing":
            number = create(here, 101)
            given["/etc/subuid"] = f"ada:{number * IDS}:1".encode() if ground == "given away since" else b""

    killed = Counter[str]()
    for event in killed_before_each_step(lambda: act(here, 101), prepare):
        killed[event] += 1
        others = create(other, 101)
        number = start(here, 101)
        assert number != others
        assert links(leases)[str(number)] == f"{here.path}/conf/101.toml"
        ids.release(here, 101)
        assert links(leases) == {str(others): f"{other.path}/conf/101.toml"}
        assert not os.listdir(f"{here.path}/lease")
    assert set(CHANGES) & killed.keys() or (act is ids.release and ground in ("nothing", "a dead lease"))


CLAIM = """
import os, signal, sys, zlib
from ve import ids
from ve.state import State
here, held = State(sys.argv[1]), sys.argv[2]
zlib.crc32 = lambda data: 0
ids.ON_DISK = range(int(sys.argv[3]), int(sys.argv[3]) + 50, 2)
ids._given = lambda: []
print("ready", flush=True)
sys.stdin.read()  # until all are ready
for veid in range(1, 31):
    with here.lock(veid):
        base = ids.lease(here, veid)
        mark = os.path.join(held, str(base))
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))  # fails if another has it
        here.write_conf(veid, b"", ephemeral=True)  # plain, and not durable
        os.unlink(mark)
        if veid % 3:  # a VE that is no more, but has not given its lease back: the next one takes it over
            os.unlink(os.path.join(here.path, "lease", str(veid)))
        else:
            ids.release(here, veid)
print("done")
"""


def test_twenty_processes_never_share_a_range(tmp_path: Path, leases: Path) -> None:
    """Each its own state dir, all for the same 25 ranges; two of three leases are left for others to take over."""
    (held := tmp_path / "held").mkdir()
    lines = [[sys.executable, "-c", CLAIM, f"{tmp_path}/{name}", str(held), str(FIRST)] for name in range(20)]
    processes = [subprocess.Popen(line, cwd=ROOT, stdin=-1, stdout=-1, stderr=-1, text=True) for line in lines]
    for process in processes:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in processes:  # an end of file is what they wait for
        assert process.stdin
        process.stdin.close()
    ends = []
    for process in processes:
        assert process.stdout and process.stderr
        with process.stdout, process.stderr:
            ends.append((process.stdout.read(), process.stderr.read(), process.wait()))
    assert ends == [("done\n", "", 0)] * 20


# ---- what it costs --------------------------------------------------------------------------------------------------


def calls(act: Callable[[], object]) -> Counter[str]:
    """How often act makes each kind of system call."""
    made = Counter[str]()

    def profile(frame: object, event: str, arg: Any) -> None:
        pure = ("fspath", "_path_normpath")
        if event == "c_call" and arg.__module__ in ("posix", "fcntl", "_io") and arg.__name__ not in pure:
            made[arg.__name__] += 1

    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(None)
    return made


def test_two_thousand_leases_cost_no_more_than_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ve.ids.zlib.crc32", lambda data: START + 2000)  # behind all that are taken
    costs = []
    for count in (2, 2000):
        here, directory = State(tmp_path / str(count)), tmp_path / f"{count}.id"
        monkeypatch.setenv("VE_ID_DIR", str(directory))
        create(here, 1)  # and so there are all directories
        ids.release(here, 1)
        for number in ids.ON_DISK[START : START + count]:  # as create makes them, without its fsync
            Path(here.conf(number)).touch()
            os.symlink(str(number), f"{here.path}/lease/{number}")
            os.symlink(here.conf(number), directory / str(number))
        acts: list[Callable[[], object]] = [partial(act, here, 1) for act in (ids.next_lease, ids.lease)]
        acts += [partial(act, here, 1) for act in (ids.lease, ids.next_lease, ids.release)]
        costs.append([calls(act) for act in acts])
    assert costs[0] == costs[1]
    assert all(each["readlink"] and not each.keys() & {"listdir", "scandir"} for each in costs[0])
    assert all(sum(each.values()) < 50 for each in costs[0])
