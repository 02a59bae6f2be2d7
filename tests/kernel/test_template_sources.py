"""Each kind of source, and what of its files survives; find, getfattr, getfacl, sha256sum, stat are the witnesses."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ve.errors import BadArchive, NotSupported
from ve.template import Templates

pytestmark = pytest.mark.any_kernel

LONG_NAME = "n" * 255
LONG_PATH = "/".join(["d" * 200] * 5) + "/file"
NOT_UTF8 = b"usr/\xff\xfe.bin"


def sh(script: str, cwd: Path | str | bytes | None = None) -> str:
    run = subprocess.run(["bash", "-ec", script], cwd=cwd, capture_output=True, errors="surrogateescape")
    assert run.returncode == 0, (script, run.stderr)
    return run.stdout


def run_add(store: str, source: str, before: str = "", env: dict[str, str] | None = None) -> None:
    """Add template web from a process of its own, which did something first."""
    add = "Templates(sys.argv[1], lambda ref: ()).add('web', sys.argv[2])"
    script = f"import sys; from ve.template import Templates\n{before}\n{add}"
    subprocess.run([sys.executable, "-c", script, store, source], check=True, env={**os.environ, **(env or {})})


@pytest.fixture
def templates(tmp_path: Path) -> Templates:
    return Templates(str(tmp_path / "state" / "template"), lambda ref: ())


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with one of each thing that gets lost easily."""
    top = tmp_path_factory.mktemp("source") / "rootfs"
    for name in ("bin", "sbin", "usr", "etc", "tmp", "dev", "proc", "sys", Path(LONG_PATH).parent):
        (top / name).mkdir(parents=True)
    sh(
        f"""
        cp /bin/busybox bin/busybox; cp bin/busybox bin/su; chmod 4755 bin/su; chmod 2755 bin/busybox; chmod 1777 tmp
        ln bin/su usr/su-too; ln -s ../bin/busybox sbin/init; ln -s /etc/nowhere etc/dangling
        echo x > etc/owned; chown 1234:5678 etc/owned; chown -h 12:34 etc/dangling; chmod 0 etc/owned
        setfattr -n user.note -v hello etc/owned; setfattr -n user.note -v dir usr
        echo x > bin/ping; setcap cap_net_raw+ep bin/ping
        echo x > etc/acl; setfacl -m u:4321:rw etc/acl; setfacl -d -m g:99:rx etc
        truncate -s 8M usr/sparse; echo end >> usr/sparse
        mkfifo tmp/fifo; echo x > "usr/{LONG_NAME}"; echo x > "{LONG_PATH}"; printf x > 'usr/new
line'
        touch -d '2001-02-03 04:05:06.789' etc/owned; chmod 0710 .
        mknod dev/null c 1 3; mkdir dev/pts; echo x > proc/left-out
        """,
        top,
    )
    Path(os.fsdecode(os.fsencode(top) + b"/" + NOT_UTF8)).write_bytes(b"x")
    return top


def manifest(tree: Path | str) -> list[str]:
    """All that a tree is, but for its API directories and the time of its root, which they change."""
    keep = r"-mindepth 1 ! -path './dev/*' ! -path './proc/*' ! -path './sys/*' ! -name dev ! -name proc ! -name sys"
    return [
        sh(
            f"find . {keep} -printf '%P|%y|%m|%U|%G|%s|%n|%l|' \\( ! -type d -printf '%T@|' -o -true \\) -printf '\\0'",
            tree,
        ),
        sh(f"find . {keep} -type f -print0 | sort -z | xargs -0 sha256sum -z", tree),
        sh("getfattr -h -R -d -m - -e hex . | grep -v '^$'", tree),
        sh("getfacl -R -n -p bin etc tmp usr", tree),
        sh("stat -c '%a %u %g' .", tree),
    ]


def in_order(texts: list[str]) -> list[list[str]]:
    """find and getfattr -R go by directory order, which a copy does not keep."""
    return [
        sorted(texts[0].split("\0")),
        *(sorted(text.split("# file: ")) for text in texts[1:]),
    ]


def assert_same(source: Path, tree: str) -> None:
    for one, two in zip(in_order(manifest(source)), in_order(manifest(tree)), strict=True):
        assert one == two
    blocks = int(sh("stat -c %b usr/sparse", tree))
    assert blocks * 512 < 1 << 20, "the hole was filled"
    assert sh("getcap bin/ping", tree) == "bin/ping cap_net_raw=ep\n"
    assert sh("stat -c %i bin/su usr/su-too | uniq | wc -l", tree) == "1\n"
    assert sh("find dev proc sys -printf '%p %y %m\n'", tree) == "dev d 755\nproc d 755\nsys d 755\n"


def test_a_directory_survives(templates: Templates, rootfs: Path) -> None:
    told: list[tuple[int, int, str]] = []
    template = templates.add("web", str(rootfs), lambda *what: told.append(what))
    assert_same(rootfs, template.path)
    assert (template.init, template.source, template.user, template.cwd) == ("/sbin/init", str(rootfs), "0:0", "/")
    assert told[-1][0] == told[-1][1] > 20 and told[-1][2] == "files"
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)


@pytest.mark.parametrize("compressor", ["", "gzip", "xz -0", "zstd -q", "bzip2"])
def test_a_tar_survives(templates: Templates, rootfs: Path, tmp_path: Path, compressor: str) -> None:
    flags = "--format=pax --xattrs --xattrs-include='*' --acls --numeric-owner --sparse"
    archive = tmp_path / "rootfs.anything"
    sh(f"tar -c {flags} -f - . | {compressor or 'cat'} > {archive}", rootfs)
    told: list[tuple[int, int, str]] = []
    template = templates.add("web", str(archive), lambda *what: told.append(what))
    assert_same(rootfs, template.path)
    size = archive.stat().st_size
    assert told[-1] == (size, size, "bytes")


def test_the_caller_s_umask_and_locale_do_not_matter(templates: Templates, rootfs: Path, tmp_path: Path) -> None:
    sh(f"tar -c --numeric-owner -f {tmp_path}/no-root.tar bin usr", rootfs)
    run_add(templates.path, f"{tmp_path}/no-root.tar", before="import os; os.umask(0o077)", env={"LC_ALL": "C"})
    template = templates.get("web")
    assert sh("stat -c %a . dev proc sys", template.path).split() == ["755"] * 4
    assert os.path.exists(os.fsencode(template.path) + b"/" + NOT_UTF8)


def test_a_socket_survives_in_a_directory(templates: Templates, tmp_path: Path) -> None:
    (tmp_path / "root" / "bin").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "root" / "s"))
    template = templates.add("web", str(tmp_path / "root"))
    assert sh("stat -c %F s", template.path) == "socket\n"
    assert template.init == ""


def test_one_file_system_only(templates: Templates, tmp_path: Path) -> None:
    """What is mounted in the source stays out; mounted by a child, in its own namespace."""
    for name in ("bin", "mnt"):
        (tmp_path / "root" / name).mkdir(parents=True)
    mount = (
        "from ve._linux import syscalls as s\n"
        "s.unshare(s.CLONE_NEWNS); s.mount(None, '/', None, s.MS_REC | s.MS_PRIVATE)\n"
        f"s.mount('none', '{tmp_path}/root/mnt', 'tmpfs'); open('{tmp_path}/root/mnt/secret', 'w').close()"
    )
    run_add(templates.path, f"{tmp_path}/root", before=mount)
    assert sh("find . -type f", templates.get("web").path) == ""
    assert os.path.isdir(f"{templates.get('web').path}/mnt")


def test_the_state_dir_cannot_be_copied_into_itself(templates: Templates, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    with pytest.raises(BadArchive, match="holds the templates themselves"):
        templates.add("web", str(tmp_path))
    assert templates.list() == []


def test_a_missing_program_names_its_package(
    templates: Templates, rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sh(f"tar -c -f {tmp_path}/x.tar bin", rootfs)
    (tmp_path / "path").mkdir()
    for name in ("setpriv", "unshare", "rm"):
        os.symlink(f"/usr/bin/{name}", tmp_path / "path" / name)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    with pytest.raises(NotSupported) as caught:
        templates.add("web", f"{tmp_path}/x.tar")
    assert "bsdtar" in str(caught.value) and caught.value.hint == "apt-get install libarchive-tools"
    assert os.listdir(templates.path) == []


# ---------------------------------------------------------------- images


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same image as layout/, oci.tar, docker.tar and docker.tar.zst; its second layer removes a file."""
    top = tmp_path_factory.mktemp("image")
    sh(
        """
        umoci init --layout layout; umoci new --image layout:latest; umoci unpack --image layout:latest one
        mkdir -p one/rootfs/bin one/rootfs/etc one/rootfs/srv; cp /bin/busybox one/rootfs/bin/
        ln one/rootfs/bin/busybox one/rootfs/bin/sh
        setcap cap_net_raw+ep one/rootfs/bin/busybox; echo x > one/rootfs/removed; echo x > one/rootfs/etc/changed
        printf 'root:x:0:0::/:/bin/sh\nweb:x:33:44::/srv:/bin/sh\n' > one/rootfs/etc/passwd; chown 33:44 one/rootfs/srv
        umoci repack --image layout:latest one; umoci unpack --image layout:latest two
        rm two/rootfs/removed; echo changed > two/rootfs/etc/changed; umoci repack --image layout:latest two
        umoci config --image layout:latest --config.user web --config.workingdir /srv --config.env A=b=c \
            --config.entrypoint /bin/sh --config.cmd -c --config.cmd 'echo hi'
        umoci gc --layout layout
        skopeo copy --insecure-policy oci:layout:latest oci-archive:oci.tar:x
        skopeo copy --insecure-policy oci:layout:latest docker-archive:docker.tar:web:1
        zstd -q -k docker.tar
        """,
        top,
    )
    return top


@pytest.mark.parametrize("source", ["layout", "oci.tar", "docker.tar", "docker.tar.zst"])
def test_an_image_survives_with_what_it_says_of_its_start(templates: Templates, image: Path, source: str) -> None:
    template = templates.add("web", str(image / source))
    assert (template.command, template.cwd, template.user) == (("/bin/sh", "-c", "echo hi"), "/srv", "33:44")
    assert template.env["A"] == "b=c" and "PATH" in template.env and "TERM" not in template.env
    assert template.init == ""
    assert sh("find . -mindepth 1 -maxdepth 1 -printf '%f ' | tr ' ' '\\n' | sort | xargs", template.path).split() == [
        "bin", "dev", "etc", "proc", "srv", "sys"
    ]  # fmt: skip
    assert sh("cat etc/changed; stat -c %u:%g srv; stat -c %h bin/sh; getcap bin/busybox", template.path).split() == [
        "changed", "33:44", "2", "bin/busybox", "cap_net_raw=ep"
    ]  # fmt: skip
    assert sh(f"cmp bin/busybox /bin/busybox; chroot {template.path} /bin/sh -c 'echo runs'", template.path) == "runs\n"


def test_an_image_without_a_command_has_none(templates: Templates, image: Path, tmp_path: Path) -> None:
    sh(
        f"cp -a {image}/layout .; umoci config --image layout:latest --clear config.cmd --clear config.entrypoint",
        tmp_path,
    )
    assert templates.add("web", str(tmp_path / "layout")).command == ()


def test_a_layout_with_two_images_is_refused(templates: Templates, image: Path, tmp_path: Path) -> None:
    sh(
        f"cp -a {image}/layout .; umoci tag --image layout:latest other\n"
        "umoci config --image layout:other --config.cmd x\n"
        "skopeo copy --insecure-policy --additional-tag b:1 oci:layout:latest docker-archive:docker.tar:a:1; mkdir d\n"
        "tar -xf docker.tar -C d; sed -i 's/^\\[\\(.*\\)\\]$/[\\1,\\1]/' d/manifest.json; tar -cf two.tar -C d .",
        tmp_path,
    )
    for source in ("layout", "two.tar"):
        with pytest.raises(BadArchive, match="no image, or more than one"):
            templates.add("web", str(tmp_path / source))
    assert os.listdir(templates.path) == []


def test_a_damaged_blob_is_refused(templates: Templates, image: Path, tmp_path: Path) -> None:
    shutil.copytree(image / "layout", tmp_path / "layout")
    largest = max((tmp_path / "layout" / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(b"\0" * 4096 + largest.read_bytes()[4096:])
    with pytest.raises(BadArchive):
        templates.add("web", str(tmp_path / "layout"))
    assert os.listdir(templates.path) == []


def test_an_archive_of_a_layout_cannot_point_at_files_of_the_host(
    templates: Templates, image: Path, tmp_path: Path
) -> None:
    shutil.copytree(image / "layout", tmp_path / "layout")
    largest = max((tmp_path / "layout" / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    shutil.move(largest, tmp_path / "host-file")
    largest.symlink_to(tmp_path / "host-file")
    sh(
        "skopeo copy --insecure-policy oci:layout:latest oci:copy:x && test -s copy/index.json", tmp_path
    )  # so it is hostile
    sh("tar -c -f ../layout.tar .", tmp_path / "layout")
    with pytest.raises(BadArchive, match="neither a file nor a directory"):
        templates.add("web", str(tmp_path / "layout.tar"))
    assert os.listdir(templates.path) == []


# ---------------------------------------------------------------- builds


def test_the_busybox_tree_runs(templates: Templates) -> None:
    template = templates.build("busybox")
    assert (template.ref, template.init) == ("busybox:1", "/sbin/init")
    assert sh(f"chroot {template.path} /bin/sh -c 'ls /sbin/init; id -un; . /etc/os-release; echo $ID'") == (
        "/sbin/init\nroot\nbusybox\n"
    )
    assert sh("stat -c '%a %u:%g' etc/shadow root tmp var/tmp", template.path).splitlines() == [
        "640 0:0", "700 0:0", "1777 0:0", "1777 0:0"
    ]  # fmt: skip
    assert sh("find . -xtype l ! -path ./etc/mtab ! -path './var/*'", template.path) == "", "links to nothing"
    assert "root:!" in sh("cat etc/shadow", template.path)


def test_a_dynamic_busybox_is_refused(templates: Templates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy("/bin/true", tmp_path / "busybox")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(NotSupported) as caught:
        templates.build("busybox")
    assert "not static" in str(caught.value) and caught.value.hint == "apt-get install busybox-static"
    assert os.listdir(templates.path) == []
