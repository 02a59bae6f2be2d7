"""Sources that mean harm or are damaged: refused or harmless, nothing left, nothing outside touched.

Each way out of the tree is first shown to be one: an unpacker that does not look (naive) takes it.
"""

import gzip
import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.conftest import remove
from ve.errors import BadArchive
from ve.template import Templates

pytestmark = pytest.mark.any_kernel

FILE, LINK, HARD, DIR = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE
Member = tuple[str, bytes, str, bytes]  # name, type, link's target, content
SYSTEM: list[Member] = [("bin", DIR, "", b""), ("bin/sh", FILE, "", b"#!")]


@pytest.fixture
def templates(tmp_path: Path) -> Templates:
    return Templates(str(tmp_path / "state" / "template"), lambda ref: ())


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    path = tmp_path / "outside" / "victim"
    path.write_text("precious")
    return path


def make_tar(path: Path, members: Iterable[Member], **of_last: object) -> Path:
    """A tar written member by member; of_last are attributes of the last one, such as pax_headers or devmajor."""
    members = list(members)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for number, (name, kind, target, content) in enumerate(members, 1):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.mode = kind, target, len(content), 0o755
            if number == len(members):
                for key, value in of_last.items():
                    setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def unpack_naively(archive: Path, where: Path) -> None:
    where.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        vars(tar)["extraction_filter"] = lambda member, path: member  # newer Pythons would look
        for member in tar:
            try:
                tar.extract(member, where)
            except (OSError, KeyError):
                continue


def outside(victim: Path) -> list[tuple[str, str, int]]:
    return [(path.name, path.read_text(), path.stat().st_nlink) for path in sorted(victim.parent.iterdir())]


def ways_out(victim: Path) -> dict[str, list[Member]]:
    up = os.path.join(*[".."] * 12)  # enough of them from wherever it is unpacked
    there, directory = str(victim).lstrip("/"), str(victim.parent)
    return {
        "name with ..": [(f"{up}/{there}", FILE, "", b"overwritten")],
        "name with .. in the middle": [("bin/sub", DIR, "", b""), (f"bin/sub/{up}/{there}", FILE, "", b"overwritten")],
        "absolute name": [(str(victim), FILE, "", b"overwritten")],
        "link, then a file through it": [("l", LINK, directory, b""), ("l/victim", FILE, "", b"overwritten")],
        "relative link, then a file through it": [
            ("l", LINK, f"{up}/{directory}", b""),
            ("l/victim", FILE, "", b"overwritten"),
        ],
        "link through a link": [
            ("a", LINK, directory, b""),
            ("b", LINK, "a", b""),
            ("b/victim", FILE, "", b"overwritten"),
        ],
        "link, then a new directory in it": [("l", LINK, directory, b""), ("l/new", DIR, "", b"")],
        "hard link to the outside": [("h", HARD, str(victim), b"")],
        "hard link with ..": [("h", HARD, f"{up}/{there}", b"")],
        "hard link through a link": [("l", LINK, directory, b""), ("h", HARD, "l/victim", b"")],
    }


@pytest.mark.parametrize("way", ways_out(Path("/x/y")))
def test_a_way_out_of_the_tree_is_refused(templates: Templates, tmp_path: Path, victim: Path, way: str) -> None:
    archive = make_tar(tmp_path / "x.tar", SYSTEM + ways_out(victim)[way])
    before = outside(victim)
    with pytest.raises(BadArchive) as caught:
        templates.add("web", str(archive))
    assert outside(victim) == before
    assert os.listdir(templates.path) == []
    assert str(caught.value).isprintable() and "cannot add template web from" in str(caught.value)
    unpack_naively(archive, tmp_path / "naive")
    assert harmed(victim, before), "this archive is not hostile, so the test shows nothing"


def harmed(victim: Path, before: object) -> bool:
    """Something outside has changed, is new, or has a second name inside of what was unpacked."""
    try:
        return outside(victim) != before
    except IsADirectoryError:
        return True


@pytest.mark.parametrize(
    "second",
    [("l", FILE, "", b"overwritten"), ("l", DIR, "", b""), ("l", HARD, "bin/sh", b"")],
    ids=["file", "dir", "hard"],
)
def test_a_second_member_of_a_link_s_name_replaces_it_and_touches_nothing(
    templates: Templates, tmp_path: Path, victim: Path, second: Member
) -> None:
    """Archives that were appended to have such names, so they are no offence; but the link is not followed."""
    members: list[Member] = [*SYSTEM, ("l", LINK, str(victim), b""), second]
    template = templates.add("web", str(make_tar(tmp_path / "x.tar", members)))
    assert outside(victim) == [("victim", "precious", 1)]
    assert not os.path.islink(f"{template.path}/l")


def test_a_directory_that_replaces_a_link_keeps_its_files_inside(
    templates: Templates, tmp_path: Path, victim: Path
) -> None:
    members: list[Member] = [("l", LINK, str(victim.parent), b""), ("l", DIR, "", b""), ("l/victim", FILE, "", b"new")]
    template = templates.add("web", str(make_tar(tmp_path / "x.tar", SYSTEM + members)))
    assert outside(victim) == [("victim", "precious", 1)]
    assert Path(template.path, "l", "victim").read_text() == "new"


@pytest.mark.parametrize(
    ("member", "device", "why"),
    [
        (("usr/disk", tarfile.BLKTYPE, "", b""), (8, 0), "device node outside /dev: /usr/disk"),
        (("etc/passwd", tarfile.CHRTYPE, "", b""), (0, 0), "device node"),
        (("zero", tarfile.CHRTYPE, "", b""), (1, 5), "device node"),
    ],
)
def test_device_nodes_are_refused(
    templates: Templates, tmp_path: Path, member: Member, device: tuple[int, int], why: str
) -> None:
    archive = make_tar(tmp_path / "x.tar", [*SYSTEM, member], devmajor=device[0], devminor=device[1])
    with pytest.raises(BadArchive, match=why):
        templates.add("web", str(archive))
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", root], check=True)
    with pytest.raises(BadArchive, match=why):
        templates.add("web", str(root))
    assert os.listdir(templates.path) == []


def test_device_nodes_below_dev_are_left_out(templates: Templates, tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "x.tar", [*SYSTEM, ("dev/null", tarfile.CHRTYPE, "", b"")], devmajor=1, devminor=3)
    assert os.listdir(f"{templates.add('web', str(archive)).path}/dev") == []


def test_a_device_node_with_a_second_name_outside_dev_is_refused(templates: Templates, tmp_path: Path) -> None:
    subprocess.run("mkdir -p r/bin r/dev && mknod r/dev/sda b 8 0 && ln r/dev/sda r/bin/sda", shell=True, cwd=tmp_path)
    with pytest.raises(BadArchive, match="/bin/sda"):
        templates.add("web", str(tmp_path / "r"))


@pytest.mark.parametrize(
    "attribute", ["trusted.overlay.opaque", "trusted.overlay.redirect", "trusted.x", "user.overlay.opaque"]
)
@pytest.mark.parametrize("where", ["etc", "bin/sh", "."])
def test_attributes_that_overlayfs_obeys_are_refused(
    templates: Templates, tmp_path: Path, attribute: str, where: str
) -> None:
    member: Member = (where, FILE, "", b"") if where == "bin/sh" else (where, DIR, "", b"")
    archive = make_tar(tmp_path / "x.tar", [*SYSTEM, member], pax_headers={f"SCHILY.xattr.{attribute}": "y"})
    with pytest.raises(BadArchive, match=attribute):
        templates.add("web", str(archive))
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["bsdtar", "-x", "-p", "-f", archive, "-C", root], check=True)
    assert os.getxattr(root / where, attribute) == b"y", "this archive is not hostile"
    with pytest.raises(BadArchive, match=attribute):
        templates.add("web", str(root))
    assert os.listdir(templates.path) == []


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
def test_an_api_directory_that_is_a_link_is_refused_and_not_emptied(
    templates: Templates, tmp_path: Path, victim: Path, name: str
) -> None:
    members: list[Member] = [*SYSTEM, (name, LINK, str(victim.parent), b"")]
    with pytest.raises(BadArchive, match=f"its /{name} is not a directory"):
        templates.add("web", str(make_tar(tmp_path / "x.tar", members)))
    assert outside(victim) == [("victim", "precious", 1)]


def test_links_within_an_api_directory_are_not_followed(templates: Templates, tmp_path: Path, victim: Path) -> None:
    members: list[Member] = [*SYSTEM, ("proc", DIR, "", b""), ("proc/l", LINK, str(victim.parent), b"")]
    templates.add("web", str(make_tar(tmp_path / "x.tar", members)))
    assert outside(victim) == [("victim", "precious", 1)]


@pytest.mark.parametrize(
    ("target", "init"),
    [("/bin/sh", "/sbin/init"), ("../../../../bin/sh", "/sbin/init"), ("/victim-of-host", ""), ("init", "")],
)
def test_init_is_found_inside_the_tree_only(templates: Templates, tmp_path: Path, target: str, init: str) -> None:
    """A link's target is that of the VE: neither the host's file of the same name, nor a loop, is an init."""
    host = tmp_path / "victim-of-host"
    host.write_text("#!")
    host.chmod(0o755)
    target = str(host) if target == "/victim-of-host" else target
    members: list[Member] = [*SYSTEM, ("sbin", DIR, "", b""), ("sbin/init", LINK, target, b"")]
    assert templates.add("web", str(make_tar(tmp_path / "x.tar", members))).init == init


@pytest.mark.parametrize(
    "members", [[("readme", FILE, "", b"")], [("web/bin", DIR, "", b"")], [("bin", FILE, "", b"")]]
)
def test_what_is_not_a_root_file_system_is_refused(templates: Templates, tmp_path: Path, members: list[Member]) -> None:
    with pytest.raises(BadArchive, match="not a root file system"):
        templates.add("web", str(make_tar(tmp_path / "x.tar", members)))
    assert os.listdir(templates.path) == []


def test_a_name_that_writes_to_the_terminal_is_escaped(templates: Templates, tmp_path: Path) -> None:
    name = "bin/\x1b]0;owned\x07\n"
    archive = make_tar(tmp_path / "x.tar", [*SYSTEM, (name, tarfile.CHRTYPE, "", b"")])
    with pytest.raises(BadArchive) as caught:
        templates.add("web", str(archive))
    assert str(caught.value).isprintable()


def test_a_very_deep_tree_is_refused_and_removed(templates: Templates, tmp_path: Path) -> None:
    members: list[Member] = [*SYSTEM, ("/".join(["d"] * 1500), DIR, "", b"")]
    try:
        with pytest.raises(BadArchive, match="deep"):
            templates.add("web", str(make_tar(tmp_path / "x.tar", members)))
        assert os.listdir(templates.path) == []
    finally:
        remove(Path(templates.path))


# ---------------------------------------------------------------- damaged


@pytest.mark.parametrize("compressor", ["cat", "gzip", "xz", "zstd", "bzip2"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.98])
def test_a_truncated_archive_says_so(templates: Templates, tmp_path: Path, compressor: str, part: float) -> None:
    files: list[Member] = [(f"bin/{number}", FILE, "", os.urandom(20_000)) for number in range(20)]
    whole = make_tar(tmp_path / "x.tar", SYSTEM + files)
    command = [compressor] if compressor == "cat" else [compressor, "-c"]
    data = subprocess.run(command, input=whole.read_bytes(), capture_output=True, check=True).stdout
    (tmp_path / "cut").write_bytes(data[: int(len(data) * part)])
    with pytest.raises(BadArchive, match="it ends too early"):
        templates.add("web", str(tmp_path / "cut"))
    assert os.listdir(templates.path) == []


def test_a_tar_cut_between_two_members_says_so(templates: Templates, tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "x.tar", [*SYSTEM, ("bin/a", FILE, "", b"x" * 512), ("bin/b", FILE, "", b"y" * 512)])
    (tmp_path / "cut").write_bytes(whole.read_bytes()[: 2 * 512 + 512 + 1024])
    assert subprocess.run(["tar", "-tf", tmp_path / "cut"], capture_output=True).returncode == 0, "tar does not notice"
    with pytest.raises(BadArchive, match="it ends too early"):
        templates.add("web", str(tmp_path / "cut"))


def zipped(path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("bin/sh", "x")


NOT_TARS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello\n" * 1000),
    "zeros": lambda path: path.write_bytes(b"\0" * 10240),
    "zip": zipped,
    "mtree": lambda path: path.write_text(
        "#mtree\n./bin type=dir\n./bin/x type=file contents=/etc/passwd\n" + "#" * 9999
    ),
    "gzip of nothing": lambda path: path.write_bytes(gzip.compress(b"")),
    "gzip of text": lambda path: path.write_bytes(gzip.compress(b"hello\n" * 1000)),
    "fifo": os.mkfifo,
    "absent": lambda path: None,
}


@pytest.mark.parametrize("kind", NOT_TARS)
def test_what_is_no_archive_is_refused(templates: Templates, tmp_path: Path, kind: str) -> None:
    NOT_TARS[kind](tmp_path / "x")
    with pytest.raises(BadArchive) as caught:
        templates.add("web", str(tmp_path / "x"))
    assert str(caught.value).startswith(f"cannot add template web from {tmp_path}/x: ")
    assert os.listdir(templates.path) == []


def test_a_compressed_mtree_reads_no_file_of_the_host(templates: Templates, tmp_path: Path) -> None:
    """bsdtar takes more than tars; of these, mtree can name files to take contents from."""
    (tmp_path / "secret").write_text("secret")
    text = f"#mtree\n./bin type=dir mode=0755\n./bin/x type=file mode=0755 contents={tmp_path}/secret\n"
    (tmp_path / "x").write_bytes(gzip.compress(text.encode()))
    try:
        template = templates.add("web", str(tmp_path / "x"))
    except BadArchive:
        return
    assert Path(template.path, "bin", "x").read_text() == ""
