"""Files as paths, of a VE that runs, is stopped or is mounted: cat, stat and find in the VE are the witnesses."""

import contextlib
import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.verbs import commandline, witness
from ve import errors

pytestmark = pytest.mark.any_kernel

STATES = ("running", "stopped", "mounted")


@pytest.fixture(params=STATES)
def box(request: pytest.FixtureRequest, host: "ve.Host", veid: int) -> "ve.Environment":
    env = host.create(veid, template="busybox")
    if request.param == "running":
        env.start()
    if request.param == "mounted":
        env.mount()
    return env


def inside(env: "ve.Environment", script: str) -> str:
    """What a script says in the VE, which runs from now on."""
    if env.status is ve.Status.MOUNTED:
        env.umount()
    if env.status is ve.Status.STOPPED:
        env.start()
    return witness.shell(env, script)


# --- as pathlib ---------------------------------------------------------------------------------------------------


def test_what_is_written_is_there_and_belongs_to_its_root(box: "ve.Environment") -> None:
    home = box.path("/root")
    assert (home / "text").write_text("one\nzwölf\n", encoding="utf-8") == 10
    assert (home / "bytes").write_bytes(b"\0\xff") == 2
    with (home / "text").open("a", encoding="utf-8") as file:
        print("three", file=file)
    with home.joinpath("new").open("x") as file:
        file.write("first")
    with pytest.raises(FileExistsError):
        (home / "new").open("x")
    (home / "a/b/c").mkdir(mode=0o1750, parents=True)
    (home / "bytes").chmod(0o4711)
    assert (home / "text").read_text(encoding="utf-8") == "one\nzwölf\nthree\n"
    assert (home / "bytes").read_bytes() == b"\0\xff"
    shown = inside(box, "cd /root; cat text new; wc -c <bytes; stat -c '%n %u %g %a' text bytes a a/b a/b/c")
    assert shown.splitlines() == [
        *("one", "zwölf", "three", "first2"),
        *("text 0 0 644", "bytes 0 0 4711", "a 0 0 755", "a/b 0 0 755", "a/b/c 0 0 1750"),
    ]


def test_a_file_that_is_there_keeps_its_name_owner_and_mode(env: "ve.Environment") -> None:
    witness.shell(env, "echo a longer line >/srv/it; chown 12:34 /srv/it; chmod 640 /srv/it; ln /srv/it /srv/hard")
    env.path("/srv/it").write_text("short\n")
    assert witness.shell(env, "cat /srv/hard; stat -c '%u %g %a %h' /srv/it") == "short\n12 34 640 2\n"


def test_what_is_there(box: "ve.Environment") -> None:
    top = box.path("srv")
    for name in ("file", "ä", "two words", "new\nline", os.fsdecode(b"\xff")):
        (top / name).write_bytes(b"12345")
    (top / "dir").mkdir()
    for path in (top / "dir", top / "file"):
        assert (path.exists(), path.is_dir(), path.is_file()) == (True, path.name == "dir", path.name == "file")
    for path in (top / "no", top / "no/such", top / "file/below"):
        assert not (path.exists() or path.is_dir() or path.is_file() or path.is_symlink())
    names = {"file", "dir", "ä", "two words", "new\nline", os.fsdecode(b"\xff")}
    assert {path.name for path in top.iterdir()} == names
    assert (top / os.fsdecode(b"\xff")).read_bytes() == b"12345"
    about = (top / "file").stat()
    assert (about.st_size, about.st_uid, oct(about.st_mode)) == (5, 0, "0o100644")
    shown = inside(box, "cd /srv; stat -c %Y file; printf %s * | sha256sum; printf '%s\\n' * | wc -l").split()
    assert shown[0] == str(int(about.st_mtime))
    assert shown[1] == hashlib.sha256(b"".join(sorted(map(os.fsencode, names)))).hexdigest()
    (top / "file").unlink()
    (top / "dir").rmdir()
    assert inside(box, "ls -d /srv/file /srv/dir 2>&1 | grep -c 'No such file'; ls /srv | wc -l") == "2\n4\n"


def test_links(env: "ve.Environment") -> None:
    witness.shell(env, "cd /srv; echo it >it; ln -s it link; ln -s /srv/new dangling; ln -s loop loop")
    top = env.path("/srv")
    assert (top / "link").is_symlink() and (top / "link").is_file() and not (top / "it").is_symlink()
    assert ((top / "link").readlink(), (top / "link").read_text()) == ("it", "it\n")
    assert stat.S_ISLNK((top / "link").lstat().st_mode)
    assert not (top / "dangling").exists() and (top / "dangling").is_symlink()
    (top / "dangling").write_text("made\n")
    with pytest.raises(FileExistsError):
        (top / "dangling").open("xb")
    (top / "link").unlink()
    assert not (top / "loop").exists()
    with pytest.raises(OSError, match="symbolic links"):
        (top / "loop").read_bytes()
    assert witness.shell(env, "cat /srv/new /srv/it; ls /srv") == "made\nit\ndangling\nit\nloop\nnew\n"


def test_errors_are_pathlibs(env: "ve.Environment") -> None:
    etc = env.path("/etc")
    refused: list[tuple[type[OSError], Callable[[], Any]]] = [
        (FileNotFoundError, lambda: (etc / "no").read_text()),
        (FileNotFoundError, lambda: (etc / "no/such").write_text("x")),
        (FileNotFoundError, lambda: (etc / "no").unlink()),
        (FileNotFoundError, lambda: (etc / "no/such").mkdir()),
        (FileExistsError, lambda: etc.mkdir()),
        (NotADirectoryError, lambda: (etc / "passwd").mkdir(exist_ok=True)),
        (NotADirectoryError, lambda: (etc / "passwd/x").mkdir(parents=True)),
        (NotADirectoryError, lambda: (etc / "passwd").iterdir()),
        (IsADirectoryError, lambda: etc.read_bytes()),
        (IsADirectoryError, lambda: etc.write_bytes(b"")),
        (IsADirectoryError, lambda: etc.unlink()),
        (OSError, lambda: etc.rmdir()),
        (OSError, lambda: env.path("/").unlink()),
    ]
    for kind, act in refused:
        with pytest.raises(kind) as error:
            act()
        assert f"{env.veid}:/" in str(error.value)
    for wrong in ("r+", "rw", "", "rbt", "U", "rbb"):
        with pytest.raises(ValueError, match="invalid mode"):
            etc.open(wrong)
    with pytest.raises(ValueError, match="null byte"):
        (etc / "a\0b").exists()
    with pytest.raises(LookupError):
        (etc / "passwd").open(encoding="no-such")
    with pytest.raises(TypeError):
        (etc / "passwd").write_text(b"bytes")  # type: ignore[arg-type]
    (etc / "no").unlink(missing_ok=True)
    for there in (etc, env.path("/"), etc / ".."):
        there.mkdir(exist_ok=True)
        with pytest.raises(FileExistsError):
            there.mkdir()
    (etc / "new/../newer").mkdir(parents=True)
    assert (etc / "new").is_dir() and (etc / "newer").is_dir()
    assert "root" in (etc / "passwd").read_text()


def test_what_is_no_path_or_mode(env: "ve.Environment", tmp_path: Path) -> None:
    etc = env.path("/etc")
    wrong: list[Any] = [None, 5, b"c"]
    for segment in wrong:
        for act in (env.path, etc.joinpath, etc.__truediv__):
            with pytest.raises(TypeError, match=type(segment).__name__):
                act(segment)
    for mode, kind in (("x", TypeError), (None, TypeError), (2**40, OverflowError), (-(2**40), OverflowError)):
        for change in ((etc / "new").mkdir, (etc / "passwd").chmod):
            with pytest.raises(kind):
                change(mode)  # type: ignore[arg-type]
    assert not (etc / "new").exists()
    (etc / "passwd").chmod((etc / "passwd").stat().st_mode | 0o100)
    assert stat.S_IMODE((etc / "passwd").stat().st_mode) & 0o100
    (tmp_path / "source").write_text("said\n")
    (etc / "copy").put(os.fsencode(tmp_path / "source"))
    (etc / "copy").get(os.fsencode(tmp_path / "target"))
    assert (tmp_path / "target").read_text() == "said\n"


def test_a_path_is_none_of_the_hosts(env: "ve.Environment") -> None:
    path = env.path("/etc") / "../etc/passwd"
    assert (str(path), path.name, path.parent.name, path.suffix) == ("/etc/../etc/passwd", "passwd", "etc", "")
    assert path == env.path("etc", "..", "etc/passwd") != env.path("/etc/passwd")
    assert len({path, env.path("/etc/../etc/passwd")}) == 1
    with pytest.raises(TypeError):
        os.stat(path)  # type: ignore[arg-type]
    assert path.with_name("hosts") / "/srv" == env.path("/srv")


def test_a_ve_that_is_gone(host: "ve.Host", veid: int) -> None:
    env = host.create(veid, template="busybox")
    path = env.path("/etc/passwd")
    env.destroy()
    with pytest.raises(errors.NotFound):
        path.read_text()


# --- streams, and trees -------------------------------------------------------------------------------------------


def test_a_large_file_is_a_stream(box: "ve.Environment", tmp_path: Path) -> None:
    """One that is larger than what a pipe holds, both ways; and one of which only the beginning is read."""
    data = os.urandom(3 << 20)
    with box.path("/root/it").open("wb") as file:
        for start in range(0, len(data), 100_000):
            file.write(data[start : start + 100_000])
    with box.path("/root/it").open("rb") as file:
        assert file.read(7) == data[:7]
        assert file.read() == data[7:]
        assert not file.seekable()
    with box.path("/root/it").open("rb") as file:
        file.read(1)
    box.path("/root/it").get(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data


def test_a_file_without_end_can_be_left(env: "ve.Environment") -> None:
    """Of 4 TiB, nothing of which is on the disk."""
    witness.shell(env, "truncate -s 4096G /srv/it")
    with env.path("/srv/it").open("rb") as file:
        assert file.read(1 << 20) == bytes(1 << 20)


def test_trees(box: "ve.Environment", tmp_path: Path) -> None:
    (tmp_path / "tree/a").mkdir(parents=True)
    (tmp_path / "tree/a/file").write_text("it\n")
    (tmp_path / "tree/link").symlink_to("a/file")
    box.path("/srv/new").put(tmp_path / "tree")
    box.path("/srv/new/a").get(tmp_path / "back")
    assert [(path.name, path.read_text()) for path in (tmp_path / "back").iterdir()] == [("file", "it\n")]
    assert inside(box, "cat /srv/new/link") == "it\n"


def test_a_disk_that_is_full(env: "ve.Environment") -> None:
    witness.shell(env, "mount -t tmpfs -o size=64k none /mnt")
    with pytest.raises(OSError) as full, env.path("/mnt/it").open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as full:
        env.path("/mnt/small").write_bytes(b"x" * 100)
    assert full.value.errno == errno.ENOSPC


def test_a_ve_that_stops_ends_the_stream(env: "ve.Environment") -> None:
    """And keeps nothing of its root in use: it starts again."""
    env.path("/srv/it").write_bytes(bytes(1 << 20))
    with env.path("/srv/it").open("rb") as file:
        file.read(1)
        env.stop(fast=True)
        with pytest.raises(OSError, match="the VE has stopped"):
            while file.read(1 << 16):
                pass
        env.start()
    with pytest.raises(OSError, match="the VE has stopped"), env.path("/srv/it").open("wb") as file:
        env.stop(fast=True)
        while True:
            file.write(bytes(1 << 16))


def test_a_stopped_ve_stays_locked_while_it_is_read(host: "ve.Host", host_dir: Path, veid: int) -> None:
    env = host.create(veid, template="busybox")
    with env.path("/etc/passwd").open("rb") as file, pytest.raises(errors.Locked), env.state.lock(veid, 0):
        pass
    assert file.closed
    with env.state.lock(veid, 0):
        pass


def test_from_many_threads(env: "ve.Environment") -> None:
    def work(number: int) -> None:
        path = env.path("/srv", str(number))
        path.write_text(str(number))
        read.append(path.read_text())

    read: list[str] = []
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read) == [str(number) for number in range(8)]


# --- a VE that is hostile -----------------------------------------------------------------------------------------


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host that nothing may be read from or written to."""
    top = tmp_path / "canary"
    top.mkdir(mode=0o755)
    (top / "file").write_text("the host's\n")
    before = witness.tree(top)
    yield top
    assert witness.tree(top) == before


@pytest.mark.parametrize(
    "way", ["{}", "../../../../../../..{}", "/proc/self/root{}", "/proc/1/root{}", "/proc/self/cwd{}"]
)
def test_no_link_leads_to_the_host(box: "ve.Environment", canary: Path, way: str, tmp_path: Path) -> None:
    """As the file itself, as a directory on the way, and as what a path says without any link."""
    (tmp_path / "link").symlink_to(way.format(canary))
    (tmp_path / "evil").symlink_to(way.format(canary / "file"))
    box.path("/root/").put(tmp_path / "link")
    box.path("/root/").put(tmp_path / "evil")
    for path in (box.path("/root/evil"), box.path("/root/link/file"), box.path(way.format(canary)) / "file"):
        new = (path.parent / "new").mkdir
        for act in (path.read_bytes, path.iterdir, path.rmdir, partial(path.write_text, "a VE's"), new):
            with contextlib.suppress(OSError):
                act()
        with contextlib.suppress(OSError):
            path.chmod(0o777)
        assert not path.is_file() or path.read_text() == "a VE's"  # where the VE itself has such a path
    with contextlib.suppress(OSError):
        box.path("/root/link/file").unlink()


def test_no_fifo_device_or_socket_is_opened(env: "ve.Environment") -> None:
    """A FIFO that nobody has open would keep us, and a watchdog that is opened restarts the host."""
    witness.shell(env, "mkfifo /srv/fifo")
    for path in ("/srv/fifo", "/dev/null", "/dev/tty", "/dev/ptmx", "/dev/zero"):
        at = env.path(path)
        for act in (at.read_bytes, partial(at.write_bytes, b"x"), partial(at.open, "ab")):
            with pytest.raises(OSError, match="it is a FIFO, a device or a socket"):
                act()
        assert env.path(path).exists() and not env.path(path).is_file()


def test_a_device_in_the_root_of_a_stopped_ve(host: "ve.Host", host_dir: Path, veid: int) -> None:
    """As a template, or who had the private area, may have left one: strace sees that it is never opened."""
    env = host.create(veid, template="busybox")
    os.mknod(host_dir / f"private/{veid}/upper/disk", stat.S_IFBLK | 0o666, os.makedev(7, 200))
    for act in (env.path("/disk").read_bytes, lambda: env.path("/disk").write_bytes(b"")):
        with pytest.raises(OSError, match="it is a FIFO, a device or a socket"):
            act()
    assert stat.S_ISBLK(env.path("/disk").stat().st_mode)
    env.path("/disk").unlink()


def test_who_looks_is_none_of_its_processes(env: "ve.Environment", host_dir: Path) -> None:
    ours = children()
    with env.path("/etc/passwd").open("rb") as file:
        file.read(1)
        [far_side] = children() - ours
        assert far_side not in commandline.processes(host_dir, env.veid).values()
        assert len(witness.status(far_side)["NSpid"].split()) == 1
    assert children() == ours


def children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        found.update(map(int, (task / "children").read_text().split()))
    return found
