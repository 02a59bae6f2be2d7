"""Names and places: who gets what, in one process and among many."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ve.errors import Exists, InvalidValue, NotFound, NotSupported
from ve.state import State

ROOT = Path(__file__).resolve().parents[2]
CLAIM = """
import sys
from ve.errors import Exists
from ve.state import State
here, veid = State(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.read()  # until all are ready
with here.lock(veid):
    try:
        here.claim_name("web", veid)
        print("won")
    except Exists as error:
        print(error)
    here.write_conf(veid, b"")
"""


@pytest.fixture
def here(tmp_path: Path) -> State:
    return State(tmp_path / "state")


def test_the_default_dir_and_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VE_STATE_DIR", raising=False)
    assert (State().path, State().run_dir, State().tag) == ("/var/lib/ve", "/run/ve", "ve")
    assert State("/var/lib/../lib/ve/").run_dir == "/run/ve"  # the same VEs, so the same locks
    monkeypatch.setenv("VE_STATE_DIR", str(tmp_path / "a"))
    assert State().path == str(tmp_path / "a")
    assert State().run_dir == str(tmp_path / "a/run")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    about = Path(State().make_dir(State().path)).stat()
    assert State(tmp_path / "link").tag == State().tag == f"ve-{about.st_dev:x}-{about.st_ino:x}"
    assert State(tmp_path / "b").tag != State().tag


def test_places(here: State) -> None:
    path = here.path
    assert here.log(101) == f"{path}/private/101/log"
    assert here.conf(101) == f"{path}/conf/101.toml"
    assert here.conf(101, ephemeral=True) == f"{path}/run/101.toml"
    assert (here.action(101, "mount"), here.action(None, "mount")) == (
        f"{path}/conf/101.mount",
        f"{path}/conf/ve.mount",
    )


def test_directories_are_closed_to_others(here: State) -> None:
    here.make_dir(here.private(101))
    modes = {path: Path(path).stat().st_mode & 0o777 for path in (here.path, f"{here.path}/private", here.private(101))}
    assert list(modes.values()) == [0o711, 0o700, 0o700]
    assert not Path(here.run_dir).exists()  # nothing is made before it is needed


def test_looking_makes_nothing(here: State) -> None:
    assert here.veids() == []
    assert here.read_facts(101) is None
    with pytest.raises(NotFound):
        here.resolve(101)
    assert not Path(here.path).exists()


def test_an_unwritable_state_dir(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    here = State(tmp_path / "file")
    with pytest.raises(NotSupported, match=f"^cannot write the state dir {here.path}: .*irectory") as caught:
        here.make_dir(here.private(101))
    assert "VE_STATE_DIR" in caught.value.hint
    with pytest.raises(NotSupported), here.lock(101):
        pass


def test_veids_are_of_both_kinds_and_of_confs_only(here: State) -> None:
    here.write_conf(7, b"")
    here.write_conf(101, b"", ephemeral=True)
    for name in ("x.toml", "12.toml~", "12.mount", ".9.toml.77"):
        (Path(here.path) / "conf" / name).touch()
    assert here.veids() == [7, 101]
    assert here.conf_of(101) == here.conf(101, ephemeral=True)
    assert here.conf_of(12) is None


def test_a_new_conf_never_replaces_one(here: State) -> None:
    here.write_conf(7, b"one", new=True)
    for ephemeral in (False, True):
        with pytest.raises(Exists, match=r"^cannot create 7: it exists$"):
            here.write_conf(7, b"two", new=True, ephemeral=ephemeral)
    assert Path(here.conf(7)).read_bytes() == b"one"
    here.write_conf(7, b"two")
    assert Path(here.conf(7)).read_bytes() == b"two"


def test_removing_a_conf_takes_what_a_killed_writer_left(here: State) -> None:
    here.write_conf(7, b"")
    here.write_conf(70, b"")
    for left in ("conf/.7.toml.55", "conf/.70.toml.55"):
        (Path(here.path) / left).touch()
    here.remove_conf(7)
    assert sorted(os.listdir(f"{here.path}/conf")) == [".70.toml.55", "70.toml"]


def test_resolve(here: State) -> None:
    here.write_conf(101, b"")
    here.claim_name("web", 101)
    assert here.resolve(101) == here.resolve("101") == here.resolve("web") == 101
    with pytest.raises(NotFound, match=r"^cannot find VE wbe: there is none$") as caught:
        here.resolve("wbe")
    assert caught.value.hint == "did you mean web?"
    os.symlink("102", f"{here.path}/name/lost")  # of a VE that is no more
    with pytest.raises(NotFound) as caught:
        here.resolve("lost")
    assert caught.value.hint == "ve list shows all"
    with pytest.raises(NotFound) as caught:
        here.resolve(9999999)
    assert caught.value.hint == "ve list shows all"
    for key in ("", "../x", "-1", "0", "2147483645", "a/b", "a\n", True, 101.0, None):
        with pytest.raises(InvalidValue):
            here.resolve(key)  # type: ignore[arg-type]


def test_a_name_of_a_ve_that_is_gone_is_not_found(here: State) -> None:
    here.write_conf(101, b"")
    here.claim_name("web", 101)
    here.remove_conf(101)
    with pytest.raises(NotFound):
        here.resolve("web")


def test_a_name_is_one_ves(here: State) -> None:
    here.write_conf(101, b"")
    here.claim_name("web", 101)
    here.claim_name("web", 101)
    with pytest.raises(Exists, match=r"^cannot use name web: VE 101 has it$"):
        here.claim_name("web", 102)
    here.release_name("web", 102)
    assert here.names(101) == ["web"]
    here.release_name("web", 101)
    here.claim_name("web", 102)
    assert (here.names(101), here.names(102)) == ([], ["web"])


def test_a_name_is_taken_over_from_a_ve_that_is_gone(here: State) -> None:
    here.claim_name("web", 101)  # and its maker was killed before it wrote a conf
    here.claim_name("web", 102)
    assert here.names(102) == ["web"]


def test_a_name_is_not_taken_over_from_a_ve_in_the_making(here: State) -> None:
    with here.lock(101):
        here.claim_name("web", 101)
        with pytest.raises(Exists, match="VE 101 has it"):
            here.claim_name("web", 102)


def test_a_name_that_is_no_link_stays(here: State) -> None:
    (Path(here.make_dir(f"{here.path}/name")) / "web").write_text("mine")
    with pytest.raises(Exists):
        here.claim_name("web", 102)


def test_twenty_processes_and_one_name(here: State) -> None:
    """Exactly one has it; all others are told who."""
    arguments = [[sys.executable, "-c", CLAIM, here.path, str(veid)] for veid in range(101, 121)]
    processes = [
        subprocess.Popen(each, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for each in arguments
    ]
    for process in processes:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in processes:  # an end of file is what they wait for
        assert process.stdin
        process.stdin.close()
    said = []
    for process in processes:
        assert process.stdout
        said.append(process.stdout.read().splitlines())
        process.stdout.close()
        assert process.wait() == 0
    winner = 101 + [lines[0] for lines in said].index("won")
    assert [lines[0] for lines in said].count("won") == 1
    assert {lines[0] for lines in said} == {"won", f"cannot use name web: VE {winner} has it"}


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_state_dir_that_is_no_path(path: str) -> None:
    """Above all, an empty one is not /var/lib/ve."""
    with pytest.raises(InvalidValue, match="cannot use state dir"):
        State(path)


def test_which_files_are_ves(here: State) -> None:
    (directory := Path(here.make_dir(f"{here.path}/conf"))).joinpath("101.toml").touch()
    for name in ("0.toml", "007.toml", "2147483645.toml", "99999999999.toml", "१.toml", "1.toml.old", "-1.toml"):
        (directory / name).touch()
    assert here.veids() == [101]
