"""What everything else stands on, tried alone: namespaces by clone3, and an overlay of idmapped layers in them."""

import os
import traceback
from collections.abc import Callable
from pathlib import Path

import prctl
import pytest

from ve._linux import syscalls

BASE = 10 * 65536


def in_child(work: Callable[[], None], flags: int = 0) -> None:
    """Run work in a child that clone3 made with flags; fail here if it raises there."""
    pid = syscalls.clone3(flags, 17)
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def user_namespace() -> int:
    """A descriptor of a new user namespace, whose ids 0..65535 are BASE.. outside; nobody is in it."""
    ready, made = os.pipe()
    done, finish = os.pipe()
    pid = syscalls.clone3(syscalls.CLONE_NEWUSER, 17)
    if pid == 0:
        os.close(finish)
        os.read(done, 1)
        os._exit(0)
    for kind in ("uid", "gid"):
        Path(f"/proc/{pid}/{kind}_map").write_text(f"0 {BASE} 65536")
    fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    for end in (ready, made, done, finish):
        os.close(end)
    os.waitpid(pid, 0)
    return fd


def attach_idmapped(path: Path, userns: int) -> None:
    clone = syscalls.open_tree(syscalls.AT_FDCWD, str(path), syscalls.OPEN_TREE_CLONE)
    syscalls.mount_setattr(clone, syscalls.MOUNT_ATTR_IDMAP, userns_fd=userns)
    syscalls.move_mount(clone, syscalls.AT_FDCWD, str(path))
    os.close(clone)


@pytest.mark.container
def test_init_is_alone_in_new_namespaces() -> None:
    def look() -> None:
        assert os.getpid() == 1
        devices = Path("/proc/self/net/dev").read_text().splitlines()[2:]
        assert [line.partition(":")[0].strip() for line in devices] == ["lo"]

    in_child(look, syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWUTS)


@pytest.mark.container
def test_what_a_mapped_root_writes_is_on_disk_with_unshifted_owners(state_dir: Path) -> None:
    for name in ("lower", "private", "private/upper", "private/work", "root"):
        (state_dir / name).mkdir()
    (state_dir / "lower/file").write_text("from the template")
    userns = user_namespace()

    def write_as_mapped_root() -> None:
        os.chdir(state_dir)
        prctl.set_securebits(prctl.SECBIT_NO_SETUID_FIXUP)
        os.setresgid(BASE, BASE, BASE)
        os.setresuid(BASE, BASE, BASE)
        syscalls.mount("overlay", "root", "overlay", 0, "lowerdir=lower,upperdir=private/upper,workdir=private/work")
        assert not os.statvfs("root").f_flag & os.ST_RDONLY
        Path("root/file").write_text("changed inside")

    def mount_and_write() -> None:
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
        attach_idmapped(state_dir / "lower", userns)
        attach_idmapped(state_dir / "private", userns)
        in_child(write_as_mapped_root)

    in_child(mount_and_write, syscalls.CLONE_NEWNS)
    os.close(userns)
    changed = state_dir / "private/upper/file"
    assert (changed.read_text(), changed.stat().st_uid) == ("changed inside", 0)
    assert (state_dir / "lower/file").read_text() == "from the template"
