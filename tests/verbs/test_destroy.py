"""ve destroy: all of a VE goes, and nothing else."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make


def test_nothing_of_it_is_left(host: "ve.Host", host_dir: Path, make: Make) -> None:
    other = make(name="venus")
    before = witness.everything(host_dir)
    env = make(name="mars")
    action = host_dir / f"conf/{env.veid}.start"
    action.write_text("#!/bin/sh\n")
    env.start()
    witness.shell(env, "mkdir -p /a/b && echo x >/a/b/c && mkfifo /a/f && chmod 000 /a/b && chown -R 1000:1000 /a")
    env.stop(fast=True)
    done = commandline.run(host_dir, "destroy", "mars")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"{env.veid} (mars) is destroyed\n"
    retired = action.with_suffix(".start.destroyed")  # not to be run for another VE of this number
    assert retired.read_text() == "#!/bin/sh\n"
    retired.unlink()
    assert witness.left_of(host_dir, env.veid) == []
    assert witness.everything(host_dir) == before
    other.start()


@pytest.mark.any_kernel
def test_one_that_runs(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    sentence = f"cannot destroy {env.veid}: it is running"
    with witness.nothing_changes(host_dir, but=f"private/{env.veid}/upper.*"):
        assert witness.refused(host_dir, 32, sentence, "destroy", env.veid) == f"ve stop {env.veid}"
    assert witness.runs(host_dir, env.veid)


@pytest.mark.any_kernel
def test_one_that_is_mounted(host_dir: Path, make: Make) -> None:
    env = make()
    point = env.mount()
    sentence = f"cannot destroy {env.veid}: it is mounted"
    assert witness.refused(host_dir, 41, sentence, "destroy", env.veid) == f"ve umount {env.veid}"
    assert os.path.exists(f"{point}/etc/inittab")
    assert any(line.point == point for line in witness.mounts())
    env.umount()


@pytest.mark.any_kernel
def test_what_a_link_in_it_leads_to_stays(host_dir: Path, make: Make, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    env = make()
    upper = host_dir / f"private/{env.veid}/upper"
    (upper / "link").symlink_to(tmp_path)
    (upper / "loop").symlink_to("loop")
    env.destroy()
    assert (tmp_path / "kept").read_text() == "kept"
    assert witness.left_of(host_dir, env.veid) == []


BOUND = """
import subprocess, sys
import ve
from ve.errors import Error
state, veid, kept = sys.argv[1:]
subprocess.run(["mount", "--bind", kept, f"{state}/private/{veid}/upper"], check=True)
try:
    ve.Host(state).get(int(veid)).destroy()
    print("destroyed")
except Error as error:
    print(error)
"""


def test_it_crosses_no_mount(host_dir: Path, make: Make, tmp_path: Path) -> None:
    """Something that an administrator has mounted in its private area."""
    env = make()
    (tmp_path / "kept").write_text("kept")
    done = witness.python(BOUND, host_dir, env.veid, tmp_path, before=("unshare", "--mount"))
    out, err = done.communicate()
    where = f"{host_dir}/private/{env.veid}/upper"
    assert out == f"cannot destroy {env.veid}: something is mounted at {where}\n", (out, err)
    assert (tmp_path / "kept").read_text() == "kept"
    env.destroy()
    assert witness.left_of(host_dir, env.veid) == []


LATE = """
import subprocess, sys
import ve
from ve import removal
from ve.errors import Error
state, veid, kept = sys.argv[1:]
checked = removal.remove
def late(path, cannot):
    if path.endswith(f"/private/{veid}"):
        subprocess.run(["mount", "--bind", kept, f"{path}/upper"], check=True)
    checked(path, cannot)
removal.remove = late
try:
    ve.Host(state).get(int(veid)).destroy()
    print("destroyed")
except Error as error:
    print(error)
"""


def test_a_mount_that_comes_late_is_not_gone_through(host_dir: Path, make: Make, tmp_path: Path) -> None:
    """Of the same file system, when destroy has looked whether anything is mounted there."""
    env = make()
    kept = host_dir / "kept"
    kept.mkdir()
    (kept / "file").write_text("kept")
    done = witness.python(LATE, host_dir, env.veid, kept, before=("unshare", "--mount"))
    out, err = done.communicate()
    where = f"{host_dir}/private/{env.veid}/upper"
    assert out == f"cannot destroy {env.veid}: something is mounted at {where}\n", (out, err)
    assert (kept / "file").read_text() == "kept"
    env.destroy()
    assert witness.left_of(host_dir, env.veid) == []
    shutil.rmtree(kept)


def test_what_is_immutable(host_dir: Path, make: Make) -> None:
    env = make()
    upper = host_dir / f"private/{env.veid}/upper"
    (upper / "log").mkdir()
    for name, flag in (("log/one", "+i"), ("log/two", "+a"), ("log", "+i")):
        (upper / name).exists() or (upper / name).write_text("x")
        subprocess.run(["chattr", flag, upper / name], check=True)
    env.destroy()
    assert witness.left_of(host_dir, env.veid) == []


DEEP = """
import os, sys
os.chdir(sys.argv[1])
for _ in range(10000):
    os.mkdir("d")
    os.chdir("d")
os.mkdir(b"\\xff\\xfe \\n")
"""


@pytest.mark.any_kernel
def test_ten_thousand_levels(host_dir: Path, make: Make) -> None:
    env = make()
    with witness.python(DEEP, host_dir / f"private/{env.veid}/upper") as process:
        process.communicate()
    assert process.returncode == 0
    env.destroy()
    assert witness.left_of(host_dir, env.veid) == []


@pytest.mark.any_kernel
def test_one_that_was_killed_half_way_is_destroyed_by_the_next(host_dir: Path, make: Make) -> None:
    env = make(name="mars")
    script = """
import os, signal, sys, ve
from ve.state import State
State.remove_conf = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
ve.Host(sys.argv[1]).get("mars").destroy()
"""
    with witness.python(script, host_dir) as process:
        process.communicate()
    assert process.returncode == -9
    assert commandline.output(host_dir, "list", "-H", "-o", "veid,name,status") == f"{env.veid}  mars  stopped\n"
    assert commandline.run(host_dir, "destroy", "mars").returncode == 0
    assert witness.left_of(host_dir, env.veid) == []


@pytest.mark.any_kernel
def test_very_deep_and_strange_names(host_dir: Path, make: Make) -> None:
    env = make()
    env.start()
    script = "cd /; i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done; echo x >'-rf *'"
    witness.shell(env, script)
    witness.shell(env, r"cd /; printf x >'a\b'; printf x >\"$(printf 'n\nl')\"; mkdir -- '-x' '..a'")
    env.stop(fast=True)
    env.destroy()
    assert witness.left_of(host_dir, env.veid) == []
