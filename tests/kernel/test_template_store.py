"""The store when things happen at once, die half way, or meet a full disk."""

import fcntl
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ve.errors import BadArchive, InUse, TemplateNotFound
from ve.template import Template, Templates

pytestmark = pytest.mark.any_kernel

MIB = 1 << 20


@pytest.fixture
def templates(tmp_path: Path) -> Templates:
    return Templates(str(tmp_path / "state" / "template"), lambda ref: ())


@pytest.fixture
def small(tmp_path: Path) -> str:
    (tmp_path / "small" / "bin").mkdir(parents=True)
    (tmp_path / "small" / "bin" / "sh").write_text("#!")
    return str(tmp_path / "small")


@pytest.fixture
def large(tmp_path: Path) -> str:
    """A tar of 64 MiB that does not compress: unpacking it takes a while, and more than a small disk."""
    (tmp_path / "large" / "bin").mkdir(parents=True)
    (tmp_path / "large" / "bin" / "data").write_bytes(os.urandom(64 * MIB))
    subprocess.run(["tar", "-cf", tmp_path / "large.tar", "-C", tmp_path / "large", "."], check=True)
    return str(tmp_path / "large.tar")


def processes_in(path: str) -> list[str]:
    """Command lines that name path, asked of /proc."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            line = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if path in line and int(pid) != os.getpid():
            found.append(line)
    return found


def test_twenty_adds_at_once_get_twenty_versions(templates: Templates, small: str) -> None:
    """From ten processes and ten threads, beginning with a store that does not exist."""
    add = (
        "import sys; from ve.template import Templates; Templates(sys.argv[1], lambda ref: ()).add('web', sys.argv[2])"
    )
    command = [sys.executable, "-c", add, templates.path, small]
    processes = [subprocess.Popen(command) for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        versions = list(pool.map(lambda _: templates.add("web", small).version, range(10)))
    assert [process.wait() for process in processes] == [0] * 10
    assert len(set(versions)) == 10
    assert sorted(os.listdir(f"{templates.path}/web")) == sorted(
        [str(version) for version in range(1, 21)] + [f"{version}.toml" for version in range(1, 21)]
    )
    assert os.listdir(templates.path) == ["web"]


def test_a_version_number_is_not_used_again_while_a_newer_one_exists(templates: Templates, small: str) -> None:
    for _ in range(3):
        templates.add("web", small)
    templates.remove("web:2")
    assert templates.add("web", small).ref == "web:4"
    assert [template.version for template in templates.list()] == [1, 3, 4]
    assert sorted(os.listdir(f"{templates.path}/web")) == ["1", "1.toml", "3", "3.toml", "4", "4.toml"]


def test_the_store_is_for_root_alone(templates: Templates, small: str) -> None:
    template = templates.add("web", small)
    for path in (templates.path, os.path.dirname(template.path)):
        assert os.stat(path).st_mode & 0o777 == 0o700


def test_a_version_does_not_change_with_its_source(templates: Templates, small: str) -> None:
    template = templates.add("web", small)
    Path(small, "bin", "sh").write_text("changed")
    assert Path(template.path, "bin", "sh").read_text() == "#!"


def test_killed_half_way_leaves_nothing_to_see_and_nothing_for_long(
    templates: Templates, large: str, small: str
) -> None:
    script = (
        "import os, signal, sys; from ve.template import Templates\n"
        "def progress(done, total, unit): print(done, flush=True); signal.pause()\n"
        "Templates(sys.argv[1], lambda ref: ()).add('web', sys.argv[2], progress)"
    )
    with subprocess.Popen([sys.executable, "-c", script, templates.path, large], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        process.kill()
    (left,) = os.listdir(templates.path)
    assert left.startswith(".new-")
    wait_for_lock(f"{templates.path}/{left}")
    assert templates.list() == []
    assert processes_in(templates.path) == []
    assert templates.add("web", small).ref == "web:1"
    assert os.listdir(templates.path) == ["web"]


def wait_for_lock(path: str) -> None:
    """Until nobody works there: the programs that a dead process started hold its lock until they are dead too."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


def test_a_living_add_is_not_swept_by_another(templates: Templates, large: str, small: str) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def progress(done: int, total: int, unit: str) -> None:
        begun.set()
        go_on.wait()

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(templates.add, "web", large, progress)
        begun.wait()
        assert templates.add("web", small).ref == "web:1"
        go_on.set()
        assert slow.result().ref == "web:2"
    assert os.path.getsize(f"{templates.path}/web/2/bin/data") == 64 * MIB


class Stop(BaseException):
    """As KeyboardInterrupt, but pytest does not take it for its own."""


def test_an_interrupt_ends_the_program_and_removes_all(templates: Templates, large: str) -> None:
    def progress(done: int, total: int, unit: str) -> None:
        raise Stop

    with pytest.raises(Stop):
        templates.add("web", large, progress)
    assert os.listdir(templates.path) == []
    assert processes_in(templates.path) == []


@pytest.mark.parametrize("crash", ["tree without metadata", "half a staging directory", "an empty name"])
def test_what_a_crash_may_leave_is_swept_by_the_next_add(templates: Templates, small: str, crash: str) -> None:
    templates.add("web", small)
    Path(templates.path, "web" if crash == "tree without metadata" else ".new-dead", "2", "etc").mkdir(parents=True)
    Path(templates.path, "gone").mkdir()
    assert [template.ref for template in templates.list()] == ["web:1"]
    with pytest.raises(TemplateNotFound):
        templates.get("gone")
    templates.add("other", small)
    assert sorted(os.listdir(templates.path)) == ["other", "web"]
    assert sorted(os.listdir(f"{templates.path}/web")) == ["1", "1.toml"]


def test_a_failed_add_changes_nothing_that_was_there(templates: Templates, small: str, tmp_path: Path) -> None:
    before = templates.add("web", small)
    (tmp_path / "x").write_text("no archive")
    for name in ("web", "other"):
        with pytest.raises(BadArchive):
            templates.add(name, str(tmp_path / "x"))
    assert templates.list() == [before]
    assert os.listdir(templates.path) == ["web"]


def test_a_create_and_a_remove_cannot_cross(templates: Templates, small: str) -> None:
    """A remove while somebody holds is refused; a hold while a remove decides waits, and then finds nothing."""
    template = templates.add("web", small)
    remove = "import sys; from ve.template import Templates; Templates(sys.argv[1], lambda ref: ()).remove('web:1')"
    with templates.hold("web"):
        run = subprocess.run([sys.executable, "-c", remove, templates.path], capture_output=True, text=True)
        assert run.returncode == 1 and "InUse: cannot remove template web:1" in run.stderr
    asked, decide = threading.Event(), threading.Event()

    def users(ref: str) -> list[int]:
        asked.set()
        decide.wait()
        return []

    def hold(known: Template) -> str:
        with templates.hold(known.ref) as held:
            return held.ref

    with ThreadPoolExecutor(2) as pool:
        removing = pool.submit(Templates(templates.path, users).remove, "web")
        asked.wait()
        holding = pool.submit(hold, template)
        decide.set()
        removing.result()
        with pytest.raises(TemplateNotFound):
            holding.result()
    assert os.listdir(templates.path) == []


def test_a_version_in_use_is_not_removed(templates: Templates, small: str) -> None:
    template = templates.add("web", small)
    with pytest.raises(InUse, match="VEs 101, 102 use it"):
        Templates(templates.path, lambda ref: [102, 101]).remove("web:1")
    assert os.path.exists(f"{template.path}/bin/sh")


ON_A_SMALL_DISK = """
import json, os, sys
from ve._linux import syscalls as s
from ve.errors import Error
from ve.template import Templates
options, disk, verb, *arguments = sys.argv[1:]
s.unshare(s.CLONE_NEWNS); s.mount(None, "/", None, s.MS_REC | s.MS_PRIVATE)
s.mount("none", disk, "tmpfs", 0, options)
templates = Templates(disk + "/template", lambda ref: ())
try:
    getattr(templates, verb)(*arguments)
except Error as error:
    left = [name for _, names, files in os.walk(disk) for name in names + files]
    space = os.statvfs(disk)
    print(json.dumps([error.exit_code, str(error), left, space.f_blocks - space.f_bfree]))
"""


@pytest.mark.parametrize("options", ["size=1m", "nr_inodes=3"])  # inodes: full already when the staging is to be made
@pytest.mark.parametrize("kind", ["tar", "directory", "image", "busybox"])
def test_a_full_disk_is_said_and_left_as_it_was(large: str, tmp_path: Path, kind: str, options: str) -> None:
    (tmp_path / "disk").mkdir()
    if kind == "image":
        script = """
            umoci init --layout layout; umoci new --image layout:x; umoci unpack --image layout:x bundle
            cp -a large/. bundle/rootfs; umoci repack --image layout:x bundle"""
        subprocess.run(["bash", "-ec", script], cwd=tmp_path, check=True, capture_output=True)
    arguments = {
        "tar": ["add", "web", large],
        "directory": ["add", "web", str(tmp_path / "large")],
        "image": ["add", "web", str(tmp_path / "layout")],
        "busybox": ["build", "busybox"],
    }[kind]
    command = [sys.executable, "-c", ON_A_SMALL_DISK, options, str(tmp_path / "disk"), *arguments]
    code, message, left, blocks = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    assert (code, left) == (46, ["template"]), message
    assert "no space left" in message and blocks <= 2
    assert os.listdir(tmp_path / "disk") == []
