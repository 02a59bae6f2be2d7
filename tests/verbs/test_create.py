"""ve create: what it makes, and that it makes nothing when it fails."""

import os
import re
import stat
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import errors, unionfs
from ve.state import State

NO_NAME = "it must be a letter or '_', then letters, digits, '.', '_' or '-'"
GIVEN = ["--name", "mars", "--hostname", "red.example", "--description", "the red one", "--onboot"]
GIVEN += ["--env", "LANG=C.UTF-8", "--mount", "/srv:/srv:ro", "--device", "/dev/fuse"]


@pytest.mark.any_kernel
def test_what_was_asked_for_is_in_its_conf_file(host_dir: Path, veid: int) -> None:
    done = commandline.run(host_dir, "create", veid, "--template", "busybox", *GIVEN)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"{veid} (mars) is created from busybox:1\n"
    assert tomllib.loads((host_dir / f"conf/{veid}.toml").read_text()) == {
        "version": 1,
        "template": "busybox:1",
        "name": "mars",
        "hostname": "red.example",
        "description": "the red one",
        "onboot": True,
        "env": {"LANG": "C.UTF-8"},
        "mounts": ["/srv:/srv:ro"],
        "devices": ["/dev/fuse"],
    }
    assert os.readlink(host_dir / "name/mars") == str(veid)


@pytest.mark.any_kernel
def test_it_is_stopped_and_empty(host: "ve.Host", host_dir: Path, make: Make) -> None:
    env = make()
    private = host_dir / "private" / str(env.veid)
    assert sorted(os.listdir(private)) == ["upper", "work"]
    assert os.listdir(private / "upper") == []
    assert os.listdir(host_dir / "root" / str(env.veid)) == []
    assert not commandline.cgroup(host_dir, env.veid).exists()
    of = os.stat(host.templates.get("busybox").path)
    upper = os.stat(private / "upper")
    assert (upper.st_uid, upper.st_gid, upper.st_mode) == (of.st_uid, of.st_gid, of.st_mode)


def test_its_files_are_for_root_alone(host_dir: Path, make: Make) -> None:
    """A setuid program that the VE's root made must be out of reach for the host's users."""
    env = make()
    for path in (f"private/{env.veid}", f"root/{env.veid}", f"conf/{env.veid}.toml", "private", "conf"):
        assert stat.S_IMODE(os.stat(host_dir / path).st_mode) & 0o077 == 0, path


def test_each_has_host_ids_of_its_own(host_dir: Path, make: Make) -> None:
    veids = [make().veid for _ in range(3)]
    held = [lease.name for veid in veids for lease in witness.leases(host_dir, veid)]
    assert len(held) == len(set(held)) == 3 and min(map(int, held)) >= 16
    assert [os.readlink(host_dir / f"lease/{veid}") for veid in veids] == held


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("veid", "code", "sentence"),
    [
        ("0", 20, "cannot use VEID 0: it is not in 1..2147483644"),
        ("-5", 20, "cannot create -5: a VEID is a number, 1 to 2147483644"),
        ("2147483645", 20, "cannot use VEID 2147483645: it is not in 1..2147483644"),
        ("99999999999999999999", 20, "cannot use VEID '99999999999999999999': it is not a number, 1 to 2147483644"),
        ("red", 20, "cannot use VEID 'red': it is not a number, 1 to 2147483644"),
        ("", 20, "cannot use VEID '': it is not a number, 1 to 2147483644"),
        ("1/../2", 20, "cannot use VEID '1/../2': it is not a number, 1 to 2147483644"),
    ],
)
def test_a_veid_that_cannot_be(host: "ve.Host", host_dir: Path, veid: str, code: int, sentence: str) -> None:
    with witness.nothing_changes(host_dir):
        witness.refused(host_dir, code, sentence, "create", veid, "--template", "busybox")


@pytest.mark.any_kernel
@pytest.mark.parametrize("name", ["", "123", "-1", "a/b", "../x", "/etc", ".", "..", "a b", "ä", "x" * 64])
def test_a_name_that_cannot_be(host: "ve.Host", host_dir: Path, veid: int, name: str) -> None:
    sentence = f"cannot use name {name!r}: {NO_NAME}"
    with witness.nothing_changes(host_dir):
        witness.refused(host_dir, 20, sentence, "create", veid, "--template", "busybox", f"--name={name}")
    assert witness.left_of(host_dir, veid) == []


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"hostname": "-red"}, "cannot use hostname '-red'"),
    ({"hostname": "a" * 65}, "cannot use hostname 'aaa"),
    ({"description": "two\nlines"}, "cannot use the description"),
    ({"env": {"A B": "x"}}, "cannot use environment variable 'A B'"),
    ({"mounts": ["relative:/x"]}, "cannot use mount 'relative:/x'"),
    ({"mounts": ["/x:/../y"]}, "cannot use mount '/x:/../y'"),
    ({"devices": ["/etc/passwd"]}, "cannot use device '/etc/passwd'"),
    ({"devices": ["/dev/../etc/passwd"]}, "cannot use device"),
]


@pytest.mark.any_kernel
@pytest.mark.parametrize(("options", "sentence"), WRONG)
def test_an_option_that_cannot_be(
    host: "ve.Host", host_dir: Path, veid: int, options: dict[str, Any], sentence: str
) -> None:
    with witness.nothing_changes(host_dir), pytest.raises(errors.InvalidValue) as caught:
        host.create(veid, template="busybox", **options)
    assert str(caught.value).startswith(sentence) and caught.value.exit_code == 20


@pytest.mark.any_kernel
def test_a_template_that_is_not_there(host: "ve.Host", host_dir: Path, veid: int) -> None:
    def create(template: str, code: int, sentence: str) -> str:
        with witness.nothing_changes(host_dir):
            return witness.refused(host_dir, code, sentence, "create", veid, "--template", template)

    assert create("bussybox", 91, "cannot find template bussybox: there is none") == "did you mean busybox?"
    assert create("busybox:7", 91, "cannot find template busybox:7: there is none") == "there is busybox:1"
    create("../busybox", 20, f"cannot use template '../busybox': {NO_NAME}")


@pytest.mark.any_kernel
def test_one_that_exists(host_dir: Path, make: Make) -> None:
    env = make(hostname="red")
    (host_dir / f"private/{env.veid}/upper/kept").write_text("kept")
    with witness.nothing_changes(host_dir):
        witness.refused(host_dir, 44, f"cannot create {env.veid}: it exists", "create", env.veid, "--template=busybox")


@pytest.mark.any_kernel
def test_a_name_that_another_has(host_dir: Path, make: Make, veid: int) -> None:
    env = make(name="mars")
    words = ("create", veid, "--template=busybox", "--name=mars")
    with witness.nothing_changes(host_dir):
        witness.refused(host_dir, 44, f"cannot use name mars: VE {env.veid} has it", *words)


@pytest.mark.any_kernel
def test_a_state_dir_that_cannot_be_written(host: "ve.Host", host_dir: Path, veid: int) -> None:
    with witness.nothing_changes(host_dir):
        witness.refused(
            host_dir,
            5,
            f"cannot write the state dir {host_dir}: Read-only file system",
            *("create", veid, "--template=busybox"),
            before=witness.read_only(host_dir),
        )


@pytest.mark.any_kernel
def test_as_somebody_else_than_root(host_dir: Path, veid: int) -> None:
    """As nobody, who may look at all, wherever this project lies."""
    nobody = (
        "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
    )
    sentence = f"cannot create {veid}: not root"
    with witness.nothing_changes(host_dir):
        words = ("create", veid, "--template=busybox")
        hint = witness.refused(host_dir, 12, sentence, *words, before=tuple(nobody.split()))
    assert "sudo" in hint


VERBS = """create 101 --template=x; start 101; stop 101; restart 101; destroy 101; set 101 --hostname=x; rename 101 x;
list; status 101; ps; mount 101; umount 101; diff 101; exec 101 true; run x; enter 101; console 101; logs 101;
cp a 101:/b; template list; template add x /; template build busybox; template remove x; check"""
AS_NOBODY = """
import os, sys
import ve._cli, ve.host, ve.template
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
for line in sys.argv[2].split(";"):
    print(line.split()[0], ve._cli.main(["--state-dir", sys.argv[1], *line.split()]), flush=True)
"""


@pytest.mark.any_kernel
def test_no_verb_works_for_somebody_else_than_root(state_dir: Path) -> None:
    process = witness.python(AS_NOBODY, state_dir, VERBS)
    out, err = process.communicate()
    commands = {"exec", "run", "enter", "console"}
    verbs = [line.split()[0] for line in VERBS.split(";")]
    assert out.splitlines() == [f"{verb} {125 if verb in commands else 12}" for verb in verbs]
    assert len([line for line in err.splitlines() if line.endswith(": not root")]) == len(verbs)
    assert os.listdir(state_dir) == []


FULL = """
import itertools, os, subprocess, sys
import ve
from ve.errors import DiskFull

def everything():
    return sorted((path, sorted(dirs), sorted(files)) for path, dirs, files in os.walk(disk) if "/template" not in path)

def fill(kind):  # gives what makes room again, an inode or a page at a time
    if kind == "inodes":
        names = []
        try:
            for number in itertools.count():
                os.mkdir(f"{disk}/filler/{number}")
                names.append(f"{disk}/filler/{number}")
        except OSError:
            return lambda: os.rmdir(names.pop())
    with open(f"{disk}/filler/file", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)) == 4096:
                pass
        except OSError:
            return lambda: os.truncate(f"{disk}/filler/file", os.path.getsize(f"{disk}/filler/file") - 4096)

disk, kind = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=800", "none", disk], check=True)
host = ve.Host(disk)
host.templates.build("busybox")
host.create(101, template="busybox", name="old")
os.mkdir(f"{disk}/filler")
make_room, failed = fill(kind), 0
while True:
    before = everything()
    try:
        host.create(102, template="busybox", name="new", description="x" * 5000)
        break
    except DiskFull as error:
        assert error.exit_code == 46, error
        sentence = str(error)
    assert everything() == before, (before, everything())
    failed += 1
    make_room()
assert [env.name for env in host.list()] == ["old", "new"]
print(failed, sentence)
"""


@pytest.mark.any_kernel
@pytest.mark.parametrize(("kind", "least"), [("inodes", 5), ("pages", 2)])
def test_a_disk_that_fills_up_at_each_of_its_writes(tmp_path: Path, kind: str, least: int) -> None:
    """With one more inode, or page, free at each try, until it succeeds."""
    process = witness.python(FULL, tmp_path, kind, before=("unshare", "--mount"))
    out, err = process.communicate()
    assert process.returncode == 0, err
    failed, _, sentence = out.partition(" ")
    assert int(failed) >= least
    assert re.fullmatch("cannot (write|create) [^ ].*: [Nn]o space left on .*\n", sentence)


@pytest.mark.any_kernel
def test_it_is_locked_all_the_while(host: "ve.Host", veid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a second create of the same VEID would clear the first one's files away."""
    holders = []

    def prepare(private: str, template: str) -> None:
        with pytest.raises(errors.Locked) as caught, ThreadPoolExecutor(1) as another:
            another.submit(lambda: State(host.state.path).lock(veid, 0).__enter__()).result()
        holders.append(caught.value.holder)
        real(private, template)

    real = unionfs.prepare
    monkeypatch.setattr(unionfs, "prepare", prepare)
    host.create(veid, template="busybox")
    assert holders == [os.getpid()]


@pytest.mark.any_kernel
def test_of_many_at_once_exactly_one_wins(host: "ve.Host", host_dir: Path, veid: int) -> None:
    script = (
        "import sys, ve; ve.Host(sys.argv[1]).create(int(sys.argv[2]), template='busybox', description=sys.argv[3])"
    )
    processes = [witness.python(script, host_dir, veid, number) for number in range(6)]
    ends = [process.communicate()[1].strip().rpartition("\n")[2] for process in processes]
    won = [number for number, process in enumerate(processes) if process.returncode == 0]
    assert len(won) == 1
    assert set(ends) == {"", f"ve.errors.Exists: cannot create {veid}: it exists"}
    assert tomllib.loads((host_dir / f"conf/{veid}.toml").read_text())["description"] == str(won[0])
    assert (host_dir / f"private/{veid}/upper").is_dir()


@pytest.mark.any_kernel
@pytest.mark.parametrize("at", ["ids.lease", "State.claim_name", "State.write_conf"])
def test_a_create_that_was_killed_is_cleared_away_by_the_next(
    host_dir: Path, veid: int, at: str, host: "ve.Host"
) -> None:
    script = f"""
import os, signal, sys, ve
from ve import ids
from ve.state import State
{at} = lambda *args, **options: os.kill(os.getpid(), signal.SIGKILL)
ve.Host(sys.argv[1]).create(int(sys.argv[2]), template="busybox", name="mars")
"""
    with witness.python(script, host_dir, veid) as process:
        process.communicate()
    assert process.returncode == -9
    assert (host_dir / f"private/{veid}/upper").exists()
    assert commandline.output(host_dir, "list", "-H", "-o", "veid").split() == []
    (host_dir / f"private/{veid}/upper/old").write_text("of the dead")
    env = host.create(veid, template="busybox", name="mars")
    assert os.listdir(host_dir / f"private/{veid}/upper") == []
    assert os.readlink(host_dir / "name/mars") == str(veid)
    env.destroy()
    assert witness.left_of(host_dir, veid) == []
