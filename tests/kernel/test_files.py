"""Copying in and out, passwords and ssh keys: in a stopped VE (a detached overlay) and a running one (a stand-in)."""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ve import errors, files
from ve.files import Place, add_ssh_key, copy_in, copy_out, set_password
from ve.unionfs import Overlay

BASE = 1 << 20  # the host id that is the stand-in's root
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJfkNV4OS33ImTXvorZr72q4v5XhVEQKfvqsxOEJ/XaR tester@host"
BOUND = 30.0  # seconds for 200 rounds of an attack: an emulated CPU does fewer

# Becomes a VE as far as its files go: root at argv[1], user, mount and PID namespaces; then runs argv[2:].
STAND_IN = """
import os, sys
from ve._linux.syscalls import *
unshare(CLONE_NEWNS)
mount(None, "/", None, MS_REC | MS_PRIVATE)
mount(sys.argv[1], sys.argv[1], None, MS_BIND)
os.chdir(sys.argv[1])
pivot_root(".", ".")
umount2(".", MNT_DETACH)
os.chdir("/")
unshare(CLONE_NEWUSER | CLONE_NEWPID)
print("unshared", flush=True)
sys.stdin.read(1)
os.setgroups([]); os.setresgid(0, 0, 0); os.setresuid(0, 0, 0)
pid = os.fork()
if pid == 0:
    unshare(CLONE_NEWNS)
    print("ready", flush=True)
    os.execv(sys.argv[2], sys.argv[2:])
os.waitpid(pid, 0)
"""


def make_root(root: Path, owner: int) -> None:
    for name in ("bin", "etc", "root", "home/bob", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n")
    (root / "etc/shadow").write_text("root:*:19000:0:99999:7:::\nbob:!:19000:0:99999:7:::\n")
    (root / "etc/shadow").chmod(0o640)
    for path in (root, *root.rglob("*")):
        os.chown(path, owner, owner, follow_symlinks=False)
    os.chown(root / "home/bob", owner + 1000, owner + 1000)
    root.chmod(0o755)


class Ve:
    """A place, and where its files can be looked at from outside: path, with its root's id on disk."""

    def __init__(self, place: Place, path: Path, owner: int) -> None:
        self.place = place
        self.path = path
        self.owner = owner


@pytest.fixture
def stopped(state_dir: Path) -> Iterator[Ve]:
    make_root(state_dir / "lower", 0)
    for name in ("upper", "work"):
        (state_dir / name).mkdir(mode=0o755)
    root = Overlay(str(state_dir / "lower"), str(state_dir / "upper"), str(state_dir / "work")).detached()
    yield Ve(Place(101, rootfd=root), Path(f"/proc/{os.getpid()}/fd/{root}"), 0)
    os.close(root)


def start(root: Path, *command: str) -> tuple["subprocess.Popen[str]", int]:
    """The stand-in's outer process, and its init's pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", STAND_IN, str(root), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(files.__file__).parent.parent)},
    )
    assert process.stdin and process.stdout
    assert process.stdout.readline() == "unshared\n"
    for kind in ("uid", "gid"):
        Path(f"/proc/{process.pid}/{kind}_map").write_text(f"0 {BASE} 65536\n")
    process.stdin.write("x")
    process.stdin.close()
    assert process.stdout.readline() == "ready\n"
    return process, int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


@pytest.fixture
def boot(state_dir: Path) -> Iterator[Callable[..., Ve]]:
    """Starts a stand-in whose init runs a shell script."""
    started = []

    def boot(script: str = "exec /bin/busybox sleep 100000") -> Ve:
        process, init = start(state_dir / "root", "/bin/busybox", "sh", "-c", script)
        pidfd = os.pidfd_open(init)
        started.append((process, init, pidfd))
        return Ve(Place(101, pidfd=pidfd), state_dir / "root", BASE)

    make_root(state_dir / "root", BASE)
    yield boot
    for process, init, pidfd in started:
        os.kill(init, 9)  # our own child's child, held by its pidfd
        process.wait()
        assert process.stdout
        process.stdout.close()
        os.close(pidfd)


@pytest.fixture
def running(boot: Callable[..., Ve]) -> Ve:
    return boot()


@pytest.fixture(params=["stopped", "running"])
def each(request: pytest.FixtureRequest) -> Ve:
    result: Ve = request.getfixturevalue(request.param)
    return result


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with what trees have: a file, a directory, links, setuid bits, an empty directory, odd names."""
    top = tmp_path / "source"
    (top / "sub/empty").mkdir(parents=True)
    (top / "file").write_text("content\n")
    (top / "file").chmod(0o640)
    (top / "tool").write_text("#!/bin/sh\n")
    (top / "tool").chmod(0o4755)
    (top / "link").symlink_to("/etc/passwd")
    os.link(top / "file", top / "sub/same")
    (top / os.fsdecode(b"odd \xff\nname")).write_text("odd")
    (top / "sub").chmod(0o500)
    os.mkfifo(top / "fifo")
    os.chown(top / "file", 12, 34)
    os.utime(top / "sub", ns=(10**18, 10**18))
    return top


def listing(top: Path) -> dict[str, tuple[str, int, str]]:
    """Each path's kind, permissions, and content or link."""
    found = {}
    for path in sorted(top.rglob("*")):
        about = path.lstat()
        text = os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else ""
        found[str(path.relative_to(top))] = (stat.filemode(about.st_mode)[0], stat.S_IMODE(about.st_mode), text)
    return found


def leftovers(top: Path) -> list[Path]:
    """What of ours is there; os.walk, unlike rglob, bears that it is being removed."""
    found = (Path(directory, name) for directory, *names in os.walk(top) for name in [*names[0], *names[1]])
    return [path for path in found if ".ve-cp-" in path.name or path.name.startswith(".shadow")]


# ---- copying --------------------------------------------------------------------------------------------------------


def test_a_tree_goes_in_and_comes_out(each: Ve, source: Path, tmp_path: Path) -> None:
    copy_in(each.place, str(source), "/root/new")
    inside = each.path / "root/new"
    assert listing(inside) == listing(source)
    assert {path.lstat().st_uid for path in inside.rglob("*")} == {each.owner}

    copy_out(each.place, "/root/new", str(tmp_path / "back"))
    expected = listing(source)
    expected["tool"] = ("-", 0o755, "#!/bin/sh\n")
    assert listing(tmp_path / "back") == expected
    assert {path.lstat().st_uid for path in (tmp_path / "back").rglob("*")} == {os.geteuid()}
    assert not leftovers(each.path) and not leftovers(tmp_path)


def test_an_archive_keeps_everything(each: Ve, source: Path, tmp_path: Path) -> None:
    os.setxattr(source / "file", "user.note", b"\xff\0")
    subprocess.run(["setfacl", "-m", "u:5:r", source / "tool"], check=True)
    copy_in(each.place, str(source), "/root/new", archive=True)
    copy_out(each.place, "/root/new", str(tmp_path / "back"), archive=True)
    back = tmp_path / "back"
    assert listing(back) == listing(source)
    for name in ("file", "sub", "link", "tool"):
        ours, its = (source / name).lstat(), (back / name).lstat()
        assert (its.st_uid, its.st_gid, its.st_mtime_ns) == (ours.st_uid, ours.st_gid, ours.st_mtime_ns), name
    assert (back / "sub/same").samefile(back / "file")
    assert os.getxattr(back / "file", "user.note") == b"\xff\0"
    acl = subprocess.run(["getfacl", "-nc", back / "tool"], check=True, capture_output=True, text=True).stdout
    assert "user:5:r--" in acl


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("target", "suffix", "arrives"),
    [
        ("/root", "", "root/source/file"),
        ("/root/", "/", "root/source/file"),
        ("root", "/.", "root/file"),
        ("/root/fresh", "", "root/fresh/file"),
        ("/root/fresh", "/.", "root/fresh/file"),
        ("/root/fresh/", "/", "root/fresh/file"),
        ("/root/file", "/file", "root/file"),
        ("/root", "/file", "root/file"),
        ("/etc/../root", "/file", "root/file"),
        ("/../../root/f", "/file", "root/f"),
    ],
)
def test_where_it_arrives_is_as_with_cp(stopped: Ve, source: Path, target: str, suffix: str, arrives: str) -> None:
    copy_in(stopped.place, f"{source}{suffix}", target)
    assert (stopped.path / arrives).read_text() == "content\n"


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("source", "target", "why"),
    [
        ("/etc/hostname", "/no/such", "/no: No such file or directory"),
        ("/etc/hostname", "/no/", "No such file or directory"),
        ("/etc/hostname", "/etc/passwd/", "Not a directory"),
        ("/etc/apt", "/etc/passwd", "it is not a directory there"),
        ("/no/such", "/etc", "/no: No such file or directory"),
        ("/dev/null", "/etc", "it is a device or a socket"),
    ],
)
def test_what_cannot_be_copied_is_said(each: Ve, source: str, target: str, why: str) -> None:
    before = listing(each.path / "etc")
    with pytest.raises(errors.FileError) as error:
        copy_in(each.place, source, target)
    assert str(error.value).startswith(f"cannot copy {source}") and str(error.value).endswith(why)
    assert isinstance(error.value, errors.NotFound) == ("No such file" in why)
    assert listing(each.path / "etc") == before


@pytest.mark.any_kernel
def test_a_missing_source_inside_is_named(each: Ve, tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match=r"^cannot copy 101:/x: No such file or directory$"):
        copy_out(each.place, "/x", str(tmp_path))


@pytest.mark.any_kernel
def test_directories_join_and_files_replace(each: Ve, source: Path) -> None:
    copy_in(each.place, str(source), "/root")
    (each.path / "root/source/mine").write_text("stays")
    (each.path / "root/source/file").write_text("old")
    (each.path / "root/source/sub").chmod(0o711)
    copy_in(each.place, str(source), "/root")
    assert (each.path / "root/source/mine").read_text() == "stays"
    assert (each.path / "root/source/file").read_text() == "content\n"
    assert stat.S_IMODE((each.path / "root/source/sub").stat().st_mode) == 0o711
    with pytest.raises(errors.FileError, match="source: a directory cannot replace what is no directory"):
        (each.path / "tmp/source").write_text("a file")
        copy_in(each.place, str(source), "/tmp")
    assert (each.path / "tmp/source").read_text() == "a file"


def test_a_big_sparse_file_stays_sparse_and_out_of_memory(each: Ve, tmp_path: Path) -> None:
    with open(tmp_path / "big", "wb") as file:
        file.write(b"begin")
        file.seek(1 << 40)
        file.write(b"end")
        file.truncate((1 << 40) + (1 << 20))
    copy_in(each.place, str(tmp_path / "big"), "/root/big")
    copy_out(each.place, "/root/big", str(tmp_path / "back"))
    back = tmp_path / "back"
    assert back.stat().st_size == (1 << 40) + (1 << 20) and back.stat().st_blocks < 1000
    with open(back, "rb") as file:
        assert file.read(6) == b"begin\0"
        file.seek(1 << 40)
        assert file.read(4) == b"end\0"


@pytest.mark.any_kernel
def test_a_deep_tree_is_no_trouble(stopped: Ve, tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    for name in ["deep"] + 2000 * ["d"]:
        os.mkdir(name, dir_fd=directory)
        below = os.open(name, os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    try:
        copy_in(stopped.place, str(tmp_path / "deep"), "/root")
        copy_out(stopped.place, "/root/deep", str(tmp_path / "back"))
        found = subprocess.run(["find", tmp_path / "back", "-name", "d"], capture_output=True, check=True).stdout
        assert found.count(b"\n") == 2000
    finally:  # pytest's own removal gives up on such depths
        subprocess.run(["rm", "-rf", tmp_path / "deep", tmp_path / "back", stopped.path / "root/deep"], check=True)


def test_a_full_disk_leaves_what_was_there(state_dir: Path, tmp_path: Path) -> None:
    disk, image = state_dir / "disk", state_dir / "image"
    disk.mkdir()
    with open(image, "wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    (tmp_path / "big").write_bytes(os.urandom(16 << 20))
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    try:
        (disk / "big").write_text("before")
        root = os.open(disk, os.O_PATH)
        with pytest.raises(errors.DiskFull, match="No space left"):
            copy_in(Place(101, rootfd=root), str(tmp_path / "big"), "/")
        os.close(root)
        assert (disk / "big").read_text() == "before"
        assert sorted(os.listdir(disk)) == ["big", "lost+found"]
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.any_kernel
def test_what_a_killed_copy_left_goes_with_the_next(each: Ve, source: Path) -> None:
    stale = each.path / "root/.ve-cp-0123456789abcdef"
    stale.mkdir()
    (stale / "file").write_text("half")
    os.chown(stale, each.owner, each.owner)
    copy_in(each.place, str(source), "/root")
    assert not leftovers(each.path)


def test_the_api_file_systems_of_a_whole_root_stay(running: Ve, tmp_path: Path) -> None:
    (running.path / "proc").mkdir()
    (running.path / "proc/kcore").write_text("no")
    copy_out(running.place, "/", str(tmp_path / "back"))
    assert (tmp_path / "back/etc/passwd").exists() and not (tmp_path / "back/proc").exists()


# ---- attacks --------------------------------------------------------------------------------------------------------


def test_links_to_host_paths_lead_nowhere(each: Ve, source: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("the host's")
    (each.path / "root/link").symlink_to(canary)
    (each.path / "root/up").symlink_to("../../../../../../../.." + str(canary))
    (each.path / "root/file-link").symlink_to(canary / "file")
    for path in ("root/link/", "root/link/file", "root/up/", f"..{canary}/file", "root/file-link/."):
        with pytest.raises(errors.FileError):
            copy_out(each.place, path, str(tmp_path / "stolen"))
    for target in ("root/link/", "root/link/x", "root/up/x", str(canary)):
        with pytest.raises(errors.FileError):
            copy_in(each.place, str(source / "file"), target)
    copy_out(each.place, "/root/link", str(tmp_path / "stolen"))
    assert (tmp_path / "stolen").is_symlink()
    assert listing(canary) == {"file": ("-", 0o644, "the host's")}


def test_links_copied_out_before_are_not_followed(stopped: Ve, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (stopped.path / "root/d").symlink_to(canary)
    copy_out(stopped.place, "/root/.", str(tmp_path / "out"))
    (stopped.path / "root/d").unlink()
    (stopped.path / "root/d").mkdir()
    (stopped.path / "root/d/evil").write_text("evil")
    with pytest.raises(errors.FileError, match="d: a directory cannot replace"):
        copy_out(stopped.place, "/root/.", str(tmp_path / "out"))
    assert not os.listdir(canary)


def test_devices_never_come_out(stopped: Ve, tmp_path: Path) -> None:
    os.mknod(stopped.path / "root/disk", stat.S_IFBLK | 0o666, os.makedev(7, 0))
    copy_out(stopped.place, "/root", str(tmp_path), archive=True)
    assert not (tmp_path / "root/disk").exists()
    with pytest.raises(errors.FileError, match="it is a device or a socket"):
        copy_out(stopped.place, "/root/disk", str(tmp_path / "disk"), archive=True)


@pytest.mark.any_kernel
def test_a_process_that_swaps_directory_and_link_gets_nothing(
    boot: Callable[..., Ve], source: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("the host's")
    before = listing(canary)
    link = "../" * 12 + str(canary)
    ve = boot(
        f"cd /tmp; /bin/busybox mkdir real; echo own > real/file; while :; do /bin/busybox mv -T real x;"
        f" /bin/busybox ln -s {link} real; /bin/busybox rm real; /bin/busybox mv -T x real; done 2>&-"
    )
    out, file = tmp_path / "out", str(source / "file")
    copies: tuple[Callable[[], None], ...] = (
        lambda: copy_in(ve.place, file, "/tmp/real/file"),
        lambda: copy_in(ve.place, file, "/tmp/real/"),
        lambda: copy_out(ve.place, "/tmp/real/file", str(out / "file")),
        lambda: copy_out(ve.place, "/tmp", str(out)),
    )
    until = time.monotonic() + BOUND
    for number in range(200):
        if time.monotonic() > until:
            break
        out.mkdir()
        with contextlib.suppress(errors.Error):
            copies[number % 4]()
        assert "the host's" not in str(listing(out))
        assert listing(canary) == before
        shutil.rmtree(out)


def test_nothing_inside_is_imported(running: Ve, source: Path) -> None:
    """The VE offers modules wherever our interpreter looks for them."""
    for directory in {path for path in sys.path if path.startswith("/")} | {"/usr/lib/python3.11"}:
        place = running.path / directory.lstrip("/")
        if not place.is_dir():
            place.mkdir(parents=True)
        for name in ("pwd", "grp", "encodings", "traceback", "shutil", "linecache", "stat", "locale"):
            (place / f"{name}.py").write_text("open('/tmp/imported', 'w')")
    copy_in(running.place, str(source), "/root")
    set_password(running.place, "root", "secret")
    with pytest.raises(errors.InvalidValue):
        set_password(running.place, "nobody-there", "secret")
    assert not (running.path / "tmp/imported").exists()


def test_a_copy_ends_with_its_caller(running: Ve, tmp_path: Path) -> None:
    """SIGKILL in the middle of a copy leaves nothing in the VE."""
    (tmp_path / "big").write_bytes(bytes(256 << 20))
    program = "import sys; from ve.files import *; copy_in(Place(101, int(sys.argv[1])), sys.argv[2], '/root/f')"
    caller = subprocess.Popen(
        [sys.executable, "-c", program, str(running.place.pidfd), tmp_path / "big"], pass_fds=[running.place.pidfd]
    )
    while not leftovers(running.path):
        os.sched_yield()
    caller.kill()
    caller.wait()
    deadline = time.monotonic() + 60
    while leftovers(running.path) and time.monotonic() < deadline:
        os.sched_yield()
    assert not leftovers(running.path) and not (running.path / "root/f").exists()


@pytest.mark.any_kernel
def test_from_threads(stopped: Ve, source: Path) -> None:
    threads = [
        threading.Thread(target=copy_in, args=(stopped.place, str(source), f"/root/{number}")) for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(listing(stopped.path / f"root/{number}") == listing(source) for number in range(4))


# ---- passwords ------------------------------------------------------------------------------------------------------


def hash_of(path: Path, user: str) -> str:
    return next(line.split(":")[1] for line in path.read_text().splitlines() if line.startswith(f"{user}:"))


def verifies(hashed: str, password: str) -> bool:
    """By openssl, which has a sha512-crypt of its own."""
    maker = ["openssl", "passwd", "-6", "-salt", hashed.split("$")[2], "-stdin"]
    return subprocess.run(maker, input=password, capture_output=True, text=True, check=True).stdout.strip() == hashed


@pytest.mark.any_kernel
def test_a_password_is_set(each: Ve) -> None:
    before = (each.path / "etc/shadow").stat()
    os.setxattr(each.path / "etc/shadow", "user.note", b"kept")
    set_password(each.place, "bob", "s3cret: word")
    shadow = each.path / "etc/shadow"
    assert verifies(hash_of(shadow, "bob"), "s3cret: word")
    assert hash_of(shadow, "root") == "*"
    after = shadow.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert os.getxattr(shadow, "user.note") == b"kept"
    assert not leftovers(each.path)


@pytest.mark.any_kernel
def test_without_a_shadow_file_the_password_is_in_passwd(each: Ve) -> None:
    (each.path / "etc/shadow").unlink()
    set_password(each.place, "root", "word")
    assert verifies(hash_of(each.path / "etc/passwd", "root"), "word")
    assert not (each.path / "etc/shadow").exists()


@pytest.mark.any_kernel
def test_a_user_that_shadow_lacks_gets_a_line(each: Ve) -> None:
    (each.path / "etc/passwd").write_text("root::0:0:root:/root:/bin/sh\n")
    (each.path / "etc/shadow").write_text("bob:!:19000:0:99999:7:::\n")
    set_password(each.place, "root", "word")
    assert hash_of(each.path / "etc/passwd", "root") == "x"
    assert verifies(hash_of(each.path / "etc/shadow", "root"), "word")


def test_a_shadow_file_that_is_a_link_is_followed_inside(each: Ve) -> None:
    host_shadow = Path("/etc/shadow").read_bytes()
    (each.path / "etc/shadow").rename(each.path / "root/shadow")
    (each.path / "etc/shadow").symlink_to("/root/shadow")
    set_password(each.place, "bob", "word")
    assert (each.path / "etc/shadow").is_symlink()
    assert verifies(hash_of(each.path / "root/shadow", "bob"), "word")
    assert Path("/etc/shadow").read_bytes() == host_shadow


@pytest.mark.any_kernel
def test_an_unknown_user_is_refused(each: Ve) -> None:
    with pytest.raises(errors.InvalidValue, match=r"^cannot set the password of eve in 101: no such user$"):
        set_password(each.place, "eve", "word")


@pytest.mark.any_kernel
def test_a_shadow_file_that_is_none_is_refused(each: Ve) -> None:
    (each.path / "etc/shadow").unlink()
    os.mkfifo(each.path / "etc/shadow")
    with pytest.raises(errors.FileError, match="shadow: it is not a regular file"):
        set_password(each.place, "bob", "word")


# ---- ssh keys -------------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
@pytest.mark.parametrize(("user", "home", "uid"), [("root", "root", 0), ("bob", "home/bob", 1000)])
def test_a_key_is_added_once(each: Ve, user: str, home: str, uid: int) -> None:
    add_ssh_key(each.place, KEY, user)
    add_ssh_key(each.place, KEY.rsplit(" ", 1)[0] + " other comment\n", user)
    ssh = each.path / home / ".ssh"
    keys = ssh / "authorized_keys"
    assert keys.read_text() == KEY + "\n"
    assert [(path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) for path in (ssh, keys)] == [
        (each.owner + uid, 0o700),
        (each.owner + uid, 0o600),
    ]


@pytest.mark.any_kernel
def test_keys_that_were_there_stay(each: Ve) -> None:
    ssh = each.path / "root/.ssh"
    ssh.mkdir(mode=0o750)
    (ssh / "authorized_keys").write_text("# mine\nno-pty ssh-rsa AAAA old")
    for path in (ssh, ssh / "authorized_keys"):
        os.chown(path, each.owner, each.owner)
    add_ssh_key(each.place, KEY)
    assert (ssh / "authorized_keys").read_text() == f"# mine\nno-pty ssh-rsa AAAA old\n{KEY}\n"
    assert stat.S_IMODE(ssh.stat().st_mode) == 0o750


def test_hostile_links_for_keys_are_refused(each: Ve) -> None:
    shadow = (each.path / "etc/shadow").read_bytes()
    home = each.path / "home/bob"
    (home / ".ssh").symlink_to("/etc")
    with pytest.raises(errors.FileError):
        add_ssh_key(each.place, KEY, "bob")
    (home / ".ssh").unlink()
    (home / ".ssh").mkdir(mode=0o700)
    os.chown(home / ".ssh", each.owner + 1000, each.owner + 1000)
    for make in (os.symlink, os.link):
        make(each.path / "etc/shadow" if make is os.link else "/etc/shadow", home / ".ssh/authorized_keys")
        with pytest.raises(errors.FileError):
            add_ssh_key(each.place, KEY, "bob")
        (home / ".ssh/authorized_keys").unlink()
    assert (each.path / "etc/shadow").read_bytes() == shadow
    assert not (each.path / "etc/authorized_keys").exists()
