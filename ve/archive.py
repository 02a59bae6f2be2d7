"""From what people have to a tree: a directory, a tar, an OCI image layout, an OCI or docker-save archive.

What an archive is, is told by its content: a tar is unpacked first, and when an image lies there, that is unpacked.
bsdtar does the unpacking since it refuses, without -P, each way out of the tree; skopeo and umoci read images.
"""

import os
import re
import stat
from dataclasses import dataclass, field

from ve import rootfs
from ve.errors import BadArchive
from ve.staging import Staging, reason, shown

# -S makes holes of zeros; file flags would make files that even root cannot remove; -P would allow ways out.
BSDTAR_EXTRACT = ("bsdtar", "-x", "-p", "--numeric-owner", "--xattrs", "--acls", "--no-fflags", "-S")
# --preserve=all would forgive a lost extended attribute.
CP = ("cp", "-dR", "--one-file-system", "--preserve=mode,ownership,timestamps,links,xattr", "--sparse=auto", "-T")

COMPRESSIONS = {"gzip": b"\x1f\x8b", "xz": b"\xfd7zXZ\0", "zstd": b"\x28\xb5\x2f\xfd", "bzip2": b"BZh"}
# bsdtar warns of a pax name that is not UTF-8, uses it as it is, which is right, and returns 1 when all is done.
_NAME_AS_IT_IS = re.compile(r"bsdtar: (Path|Link|U|G)name can't be converted from UTF-8 to current locale\.")
_ORDERLY_END = "bsdtar: Error exit delayed from previous errors."
_MANY = re.compile(r"more than one image|expected 1 item")  # skopeo's words, of a layout and of a docker-save archive
_BLOCK = 512
_TAG = "ve"  # of the one image in our copy of a layout
_ASKED = 'command {{len .Config.Entrypoint}} {{len .Config.Cmd}} env {{printf "%+q" .Config.Env}}'  # Go's text/template


@dataclass(frozen=True)
class Start:
    """What an image says of its own start; the defaults are those of a tree that says nothing."""

    command: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = "/"
    user: str = "0:0"  # uid:gid


def fill(staging: Staging, source: str) -> Start:
    """Make staging.tree from source; BadArchive says what is wrong with that."""
    try:
        mode = os.stat(source).st_mode
    except OSError as error:
        raise staging.bad(os.strerror(error.errno or 0).lower()) from error
    if stat.S_ISREG(mode):
        return _from_file(staging, source)
    if not stat.S_ISDIR(mode):
        raise staging.bad("it is neither a directory nor a file")
    if _is_layout(source):
        os.symlink(os.path.realpath(source), f"{staging.path}/layout")
        return _unpack_image(staging, "oci:layout")
    _copy(staging, os.path.realpath(source))
    return Start()


def _from_file(staging: Staging, source: str) -> Start:
    _untar(staging, source)
    if _is_layout(staging.tree):
        _check_layout(staging)
        os.rename(staging.tree, f"{staging.path}/layout")
        return _unpack_image(staging, "oci:layout")
    if _is_docker_save(staging.tree):
        # Again as a plain tar, which skopeo reads whatever the first one was compressed with.
        members = os.listdir(staging.tree)
        staging.run("bsdtar", "-c", "-f", f"{staging.path}/saved.tar", "-C", staging.tree, "--", *members)
        staging.run("rm", "-rf", "--", staging.tree)
        return _unpack_image(staging, "docker-archive:saved.tar")
    return Start()


def _copy(staging: Staging, source: str) -> None:
    if os.path.commonpath((source, os.path.realpath(staging.path))) == source:
        raise staging.bad("it holds the templates themselves")
    total = done = 0

    def heard(line: str) -> bool:
        nonlocal done
        if " -> " not in line:
            return False
        done += 1
        staging.report(min(done, total), total, "files")
        return True

    fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        total = sum(1 for _ in rootfs.walk(fd)) + 1
    except RecursionError as error:
        raise staging.bad("it is nested too deep") from error
    finally:
        os.close(fd)
    staging.run(*CP, "--verbose", "--", source, staging.tree, heard=heard)


def _untar(staging: Staging, source: str) -> None:
    os.mkdir(staging.tree)
    os.chmod(staging.tree, 0o755)  # for an archive that does not hold its own root
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        _check_ends(staging, fd, size)
        # bsdtar shares the offset of our descriptor: that is how far it has come.
        talk = staging.run(
            *BSDTAR_EXTRACT, "-C", staging.tree, "-f", "-",
            stdin=fd,
            tick=lambda: staging.report(os.lseek(fd, 0, os.SEEK_CUR), size, "bytes"),
            heard=lambda line: _NAME_AS_IT_IS.fullmatch(line) is not None,
            forgive=lambda talk, code: code == 1 and talk == [_ORDERLY_END],
        ).splitlines()  # fmt: skip
        staging.report(size, size, "bytes")
    finally:
        os.close(fd)
    if talk not in ([], [_ORDERLY_END]):  # such as a "/" that it removed from a name, with exit code 0
        raise staging.bad(reason(talk))


def _check_ends(staging: Staging, fd: int, size: int) -> None:
    """A tar begins with a header, and ends with two blocks of zeros: bsdtar takes much else, and a cut at any block."""
    head = os.pread(fd, _BLOCK, 0)
    if any(head.startswith(magic) for magic in COMPRESSIONS.values()):
        return
    if size and len(head) < _BLOCK:
        raise staging.bad("it ends too early")
    if not size or not _is_tar_header(head):
        raise staging.bad("it is not a tar archive", hint=f"plain, or compressed with {', '.join(COMPRESSIONS)}")
    if os.pread(fd, 2 * _BLOCK, max(0, size - 2 * _BLOCK)).strip(b"\0"):
        raise staging.bad("it ends too early")


def _is_tar_header(block: bytes) -> bool:
    """Whether the checksum at 148..155 (octal) is that of the block with spaces there."""
    field_ = block[148:156].strip(b" \0")
    if not field_ or not set(field_) <= set(b"01234567"):
        return False
    return int(field_, 8) == sum(block) - sum(block[148:156]) + 8 * ord(" ")


def _is_layout(path: str) -> bool:
    return all(_is_file(f"{path}/{name}") for name in ("oci-layout", "index.json"))


def _is_docker_save(path: str) -> bool:
    system = (f"{path}/{name}" for name in rootfs.SYSTEM_DIRECTORIES)
    return _is_file(f"{path}/manifest.json") and not any(map(os.path.lexists, system))


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _check_layout(staging: Staging) -> None:
    """An unpacked layout is read by path: a link in it would lead skopeo to files of the host."""
    fd = os.open(staging.tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _, _, path, status in rootfs.walk(fd):
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                raise staging.bad(f"{shown(path)} in this image is neither a file nor a directory")
    except RecursionError as error:
        raise staging.bad("it is nested too deep") from error
    finally:
        os.close(fd)


def _unpack_image(staging: Staging, image: str) -> Start:
    """The image, named as skopeo names it from within staging.path, becomes the tree."""
    tools = {"TMPDIR": staging.path}
    staging.report(0, 2, "steps")
    try:
        staging.run("skopeo", "copy", "--insecure-policy", image, f"oci:image:{_TAG}", cwd=staging.path, env=tools)
    except BadArchive as error:
        if not _MANY.search(str(error)):
            raise
        raise staging.bad(
            "it holds no image, or more than one", hint="skopeo copy takes out one: see skopeo-copy(1)"
        ) from error
    staging.report(1, 2, "steps")
    staging.run("umoci", "unpack", "--image", f"image:{_TAG}", "bundle", cwd=staging.path, env=tools)
    staging.report(2, 2, "steps")
    if os.path.lexists(staging.tree):
        os.rmdir(staging.tree)
    os.rename(f"{staging.path}/bundle/rootfs", staging.tree)
    return _start(staging)


def _start(staging: Staging) -> Start:
    """What umoci made of the image's configuration (users resolved in its passwd), less the defaults it added."""
    import json

    with open(f"{staging.path}/bundle/config.json", encoding="utf-8") as file:
        process = json.load(file)["process"]
    has_command, has_term = _asked(staging)
    command = tuple(process["args"]) if has_command else ()
    env = dict(variable.split("=", 1) for variable in process.get("env", ()) if "=" in variable)
    if not has_term:
        env.pop("TERM", None)  # umoci's own; a terminal says what it is
    if any("\0" in text for text in (*command, *env, *env.values(), process["cwd"])):
        raise staging.bad("its configuration has a NUL in it")
    user = process["user"]
    return Start(command, env, process["cwd"], f"{user['uid']}:{user['gid']}")


def _asked(staging: Staging) -> tuple[bool, bool]:
    """Does the image's own configuration have a command, and TERM?

    In skopeo's words, as umoci reads it in the same way: to Go, keys of another case are these too.
    """
    talk = staging.run("skopeo", "inspect", "--config", "--format", _ASKED, f"oci:image:{_TAG}", cwd=staging.path)
    for line in talk.splitlines():
        if found := re.fullmatch(r"command (\d+) (\d+) env (\[.*\])", line):
            return found[1] != "0" or found[2] != "0", re.search(r'[\[ ]"TERM=', found[3]) is not None
    raise staging.bad("its configuration cannot be read")
