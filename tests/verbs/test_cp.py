"""ve cp: files and trees between the host and a VE, running or stopped.  stat, sha256sum and find are the witnesses."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline

pytestmark = pytest.mark.any_kernel


@pytest.fixture(params=["running", "stopped", "mounted"])
def box(request: pytest.FixtureRequest, host: "ve.Host", veid: int) -> "ve.Environment":
    env = host.create(veid, template="busybox")
    if request.param == "running":
        env.start()
    if request.param == "mounted":
        env.mount()
    return env


def inside(host: "ve.Host", env: "ve.Environment", script: str) -> str:
    """What a script says in the VE, which runs from now on."""
    if env.status is ve.Status.MOUNTED:
        env.umount()
    if env.status is ve.Status.STOPPED:
        env.start()
    return commandline.output(Path(host.state.path), "exec", env.veid, "sh", "-c", script)


def test_a_file_in_and_out(host: "ve.Host", host_dir: Path, box: "ve.Environment", tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "data").write_bytes(data)
    (tmp_path / "data").chmod(0o640)
    os.chown(tmp_path / "data", 1234, 1234)
    done = commandline.run(host_dir, "cp", tmp_path / "data", f"{box.veid}:/srv/")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    commandline.output(host_dir, "cp", f"{box.veid}:/srv/data", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    about = (tmp_path / "back").stat()
    assert (about.st_uid, about.st_gid, about.st_mode & 0o7777) == (0, 0, 0o640)
    shown = inside(host, box, "sha256sum /srv/data; stat -c '%u %g %a' /srv/data").split()
    assert shown == [hashlib.sha256(data).hexdigest(), "/srv/data", "0", "0", "640"]


def test_a_tree(host: "ve.Host", host_dir: Path, box: "ve.Environment", tmp_path: Path) -> None:
    script = """
        mkdir -p tree/a/b tree/empty; echo one > tree/a/one; echo 'two words' > 'tree/a/b/two words'
        ln tree/a/one tree/hard
        ln -s a/one tree/link; ln -s /etc/passwd tree/absolute; ln -s nowhere tree/dangling; chmod 711 tree/a
        printf x > "tree/$(printf 'new\\nline')"; printf x > "tree/$(printf '\\377')"; truncate -s 64M tree/sparse
    """
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True)
    commandline.output(host_dir, "cp", tmp_path / "tree", f"{box.veid}:/root")
    commandline.output(host_dir, "cp", f"{box.veid}:/root/tree", tmp_path / "back")
    assert manifest(tmp_path / "back") == manifest(tmp_path / "tree")
    commandline.output(host_dir, "cp", f"{box.veid}:/root/tree/.", tmp_path / "back")  # into itself, once more
    assert manifest(tmp_path / "back") == manifest(tmp_path / "tree")
    shown = inside(
        host,
        box,
        "cd /root/tree; cat a/one 'a/b/two words'; readlink link; readlink absolute; stat -c %a a; ls -A empty",
    )
    assert shown.splitlines() == ["one", "two words", "a/one", "/etc/passwd", "711"]


def manifest(top: Path) -> str:
    """Kinds, modes, sizes, links and contents of a tree."""
    script = "find . -printf '%P|%y|%m|%l\\0' | sort -z; find . -type f -print0 | sort -z | xargs -0 sha256sum -z"
    return subprocess.check_output(["sh", "-c", script], cwd=top, text=True, errors="surrogateescape")


def test_as_cp_decides(host_dir: Path, env: "ve.Environment", tmp_path: Path) -> None:
    """Into a directory that is there, or under the new name; a name, a relative path of the host, a colon in a name."""
    (tmp_path / "motd").write_text("hello\n")
    (tmp_path / "a:b").write_text("colon\n")
    for source, target, path in (
        ("motd", ":/tmp", "/tmp/motd"),
        ("./motd", ":/tmp/other", "/tmp/other"),
        ("./a:b", ":/tmp/", "/tmp/a:b"),
        ("motd", ":root", "/root/motd"),  # a path of a VE begins at its root
    ):
        words = commandline.words(host_dir, "cp", source, f"{env.veid}{target}")
        subprocess.run(words, cwd=tmp_path, check=True)
        expected = (tmp_path / source).read_text()
        assert commandline.output(host_dir, "exec", env.veid, "cat", path) == expected


def test_by_name(host_dir: Path, host: "ve.Host", veid: int, tmp_path: Path) -> None:
    host.create(veid, template="busybox", name="web")
    commandline.output(host_dir, "cp", "web:/etc/passwd", tmp_path)
    assert (tmp_path / "passwd").read_text().startswith("root:")


def test_archive_keeps_owners(host_dir: Path, env: "ve.Environment", tmp_path: Path) -> None:
    script = "echo x > /root/file; chown 12:34 /root/file; chmod 4755 /root/file; touch -d @1000000000 /root/file"
    commandline.output(host_dir, "exec", env.veid, "sh", "-c", script)
    commandline.output(host_dir, "cp", "-a", f"{env.veid}:/root/file", tmp_path / "kept")
    commandline.output(host_dir, "cp", f"{env.veid}:/root/file", tmp_path / "ours")
    about = [(tmp_path / name).stat() for name in ("kept", "ours")]
    assert [(a.st_uid, a.st_gid, oct(a.st_mode & 0o7777)) for a in about] == [(12, 34, "0o4755"), (0, 0, "0o755")]
    assert about[0].st_mtime == 1000000000 != about[1].st_mtime


@pytest.mark.parametrize("link", ["/etc/hostname", "../../../../../../etc/hostname", "/proc/1/root/etc/hostname"])
def test_a_link_in_the_ve_never_leads_to_the_host(
    host: "ve.Host", host_dir: Path, box: "ve.Environment", tmp_path: Path, link: str
) -> None:
    """Neither to read nor to write: as directory on the way, and as the file itself."""
    ours = Path("/etc/hostname").read_text()
    (tmp_path / "evil").symlink_to(link)
    (tmp_path / "way").symlink_to(os.path.dirname(link))
    (tmp_path / "new").write_text("written by a VE\n")
    commandline.output(host_dir, "cp", tmp_path / "evil", f"{box.veid}:/root/")
    commandline.output(host_dir, "cp", tmp_path / "way", f"{box.veid}:/root/")
    for path in ("/root/evil", "/root/way/hostname"):
        commandline.run(host_dir, "cp", f"{box.veid}:{path}", tmp_path / "got")
        got = tmp_path / "got"
        assert got.is_symlink() or not got.exists() or got.read_text() != ours
        got.unlink(missing_ok=True)
        commandline.run(host_dir, "cp", tmp_path / "new", f"{box.veid}:{path}")
        assert Path("/etc/hostname").read_text() == ours


@pytest.mark.parametrize(
    ("source", "target", "code", "why"),
    [
        ("/no/such", "{}:/tmp", 3, "No such file or directory"),
        ("{}:/no/such", "{tmp}", 3, "No such file or directory"),
        ("/etc/hostname", "{}:/no/such/dir/file", 3, "No such file or directory"),
        ("{}:/etc/passwd", "/no/such/dir/file", 3, "No such file or directory"),
        ("/etc/hostname", "{}:/etc/passwd/file", 3, "Not a directory"),
        ("/etc/hostname", "4242:/tmp", 43, "there is none"),
        ("/etc/hostname", "/tmp/x", 20, "one of them must be VE:PATH"),
        ("{}:/a", "{}:/b", 20, "one of them must be a path of the host"),
        ("/etc", "{}:/etc/passwd", 3, "directory"),
        ("/etc/hostname", "{}:", 20, "no path follows"),
    ],
)  # fmt: skip
def test_what_cannot_be_copied(
    host_dir: Path, env: "ve.Environment", tmp_path: Path, source: str, target: str, code: int, why: str
) -> None:
    words = [word.replace("{tmp}", str(tmp_path)).replace("{}", str(env.veid)) for word in (source, target)]
    done = commandline.run(host_dir, "cp", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("ve: cannot ") and why in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_archive_into_a_ve_keeps_owners_too(host_dir: Path, env: "ve.Environment", tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.chown(tmp_path / "file", 12, 34)
    commandline.output(host_dir, "cp", "-a", tmp_path / "file", f"{env.veid}:/root/file")
    assert commandline.output(host_dir, "exec", env.veid, "stat", "-c", "%u:%g", "/root/file").strip() == "12:34"


def test_a_special_file_does_not_keep_us(host_dir: Path, env: "ve.Environment", tmp_path: Path) -> None:
    """A FIFO is copied as one, not read; a device of the VE does not come out."""
    commandline.output(
        host_dir, "exec", env.veid, "sh", "-c", "mkdir /root/d; mkfifo /root/d/fifo; echo x > /root/d/file"
    )
    commandline.output(host_dir, "cp", f"{env.veid}:/root/d", tmp_path / "d")
    assert (tmp_path / "d" / "file").read_text() == "x\n"
    commandline.run(host_dir, "cp", f"{env.veid}:/dev/null", tmp_path / "null")
    assert not (tmp_path / "null").exists() or (tmp_path / "null").is_file()


@pytest.mark.parametrize("make", ["mknod -m 666 {} c 1 3", "mkfifo {}"])
def test_a_special_file_of_the_host_is_never_replaced(
    host_dir: Path, env: "ve.Environment", tmp_path: Path, make: str
) -> None:
    """Who types `ve cp VE:FILE /dev/null` as root keeps /dev/null."""
    subprocess.run(make.format(tmp_path / "special").split(), check=True)
    (tmp_path / "way").symlink_to("special")
    before = (tmp_path / "special").stat()
    for target in (tmp_path / "special", tmp_path / "way"):
        done = commandline.run(host_dir, "cp", f"{env.veid}:/etc/passwd", target)
        assert (done.returncode, done.stdout) == (3, "") and "special: what is there is a device" in done.stderr
    after = (tmp_path / "special").stat()
    assert (after.st_mode, after.st_ino, after.st_rdev) == (before.st_mode, before.st_ino, before.st_rdev)


def test_what_the_template_has_stays(host: "ve.Host", host_dir: Path, box: "ve.Environment", tmp_path: Path) -> None:
    """What is copied over goes to the private area."""
    template = Path(host.templates.get("busybox").path) / "etc/passwd"
    before = template.read_bytes()
    (tmp_path / "passwd").write_bytes(before + b"new:x:77:77::/:/bin/sh\n")
    commandline.output(host_dir, "cp", tmp_path / "passwd", f"{box.veid}:/etc/passwd")
    assert template.read_bytes() == before
    assert inside(host, box, "id -u new") == "77\n"
    assert b"new:x:77" in (host_dir / "private" / str(box.veid) / "upper/etc/passwd").read_bytes()
