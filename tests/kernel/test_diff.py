"""What an upper says, against real overlays: each change is made through the mount, and the list is written by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ve.diff import Change, changes

ROOT = Path(__file__).resolve().parents[2]

# In its own mount namespace: a template, one overlay on it, one change through the overlay, and the list.  Not on a
# tmpfs, which has no user.* attributes before Linux 6.6.
SCRIPT = r"""
import json, os, subprocess, sys
from ve.diff import changes
os.chdir(sys.argv[1])
subprocess.run(sys.argv[2], shell=True, check=True)
subprocess.run("mkdir upper work merged && mount -t overlay none -o "
    "lowerdir=template,upperdir=upper,workdir=work,index=on,redirect_dir=on,metacopy=%s merged" % sys.argv[4],
    shell=True, check=True)
subprocess.run(["sh", "-ec", sys.argv[3]], cwd="merged", check=True)
print(json.dumps([f"{c.kind} {c.path}" for c in changes(["upper"], "template")]))
"""

# The same, and after each operation the upper becomes a layer.
LAYERED = r"""
import json, os, subprocess, sys
from ve.diff import changes
os.chdir(sys.argv[1])
subprocess.run(sys.argv[2], shell=True, check=True)
os.mkdir("merged")
below = []
for number, operation in enumerate(sys.argv[3].split("; ")):
    upper, work = (f"{name}{number}" for name in ("upper", "work"))
    os.mkdir(upper)
    os.mkdir(work)
    lower = ":".join([*below, "template"])
    options = f"lowerdir={lower},upperdir={upper},workdir={work},index=on,redirect_dir=on"
    subprocess.run(["mount", "-t", "overlay", "none", "-o", options, "merged"], check=True)
    subprocess.run(["sh", "-ec", operation], cwd="merged", check=True)
    subprocess.run(["umount", "merged"], check=True)
    below.insert(0, upper)
print(json.dumps([f"{c.kind} {c.path}" for c in changes(below, "template")]))
"""

TEMPLATE = """
mkdir -p template/etc/init.d template/var/log template/usr/bin template/empty
echo hello > template/etc/motd; echo root > template/etc/passwd; echo go > template/etc/init.d/rcS
echo one > template/var/log/one; echo two > template/var/log/two
ln -s busybox template/usr/bin/sh; echo bb > template/usr/bin/busybox; ln template/usr/bin/busybox template/usr/bin/ls
ln -s /etc template/link
"""

CASES = {
    "nothing": ("true", []),
    "added": ("echo x > etc/new; mkdir d; echo y > d/f", ["A /d", "A /d/f", "A /etc/new"]),
    "changed": ("echo more >> etc/motd", ["C /etc/motd"]),
    "deleted": ("rm etc/motd; rm -r var", ["D /etc/motd", "D /var"]),
    "made and deleted": ("echo x > etc/new; rm etc/new", []),
    "mode of a file": ("chmod 600 etc/motd", ["C /etc/motd"]),
    "mode of a directory": ("chmod 700 etc", ["C /etc"]),
    "mode of the root": ("chmod 700 .", ["C /"]),
    "owner": ("chown 5:6 etc/passwd", ["C /etc/passwd"]),
    "time": ("touch -d 2001-01-01 etc/passwd", ["C /etc/passwd"]),
    "xattr of a file": ("setfattr -n user.a -v b etc/passwd", ["C /etc/passwd"]),
    "xattr of a directory": ("setfattr -n user.a -v b var/log", ["C /var/log"]),
    "opened and not changed": ("exec 3<>etc/motd", []),
    "a file copied up beside": ("echo x > etc/init.d/new", ["A /etc/init.d/new"]),
    "link target": ("ln -sfn ls usr/bin/sh", ["C /usr/bin/sh"]),
    "one of two hard links": ("echo x >> usr/bin/ls", ["C /usr/bin/ls"]),  # the other is only in the index
    "file becomes directory": ("rm etc/motd; mkdir etc/motd; echo x > etc/motd/x", ["C /etc/motd", "A /etc/motd/x"]),
    "directory becomes file": ("rm -r var; echo x > var", ["C /var"]),
    "link becomes directory": ("rm link; mkdir link; echo x > link/motd", ["C /link", "A /link/motd"]),
    "opaque": (
        "rm -r var/log; mkdir var/log; echo x > var/log/three",
        ["D /var/log/one", "A /var/log/three", "D /var/log/two"],
    ),
    "below opaque": (
        "rm -r etc; mkdir -p etc/init.d; echo x > etc/new",
        ["D /etc/init.d/rcS", "D /etc/motd", "A /etc/new", "D /etc/passwd"],
    ),
    "file moved": ("mv etc/motd var/motd", ["D /etc/motd", "A /var/motd"]),
    "directory moved": (
        "mv etc conf; echo x > conf/new; echo y >> conf/motd; rm conf/init.d/rcS",
        ["A /conf", "D /conf/init.d/rcS", "C /conf/motd", "A /conf/new", "D /etc"],
    ),
    "directory moved deeper": (
        "mkdir -p a/b; mv var/log a/b/c; rm a/b/c/one",
        ["A /a", "A /a/b", "A /a/b/c", "D /a/b/c/one", "D /var/log"],
    ),
    "moved and moved below": ("mv etc conf; mv conf/init.d conf/rc; rm conf/rc/rcS",
        ["A /conf", "D /conf/init.d", "A /conf/rc", "D /conf/rc/rcS", "D /etc"]),
    "moved onto another": ("mv -T var/log empty; rm empty/one", ["C /empty", "D /empty/one", "D /var/log"]),
    "moved again, by a path": (
        "mv etc conf; mkdir a; mv conf a/b; rm a/b/motd; mv a/b/init.d rc; echo x > rc/x",
        ["A /a", "A /a/b", "D /a/b/init.d", "D /a/b/motd", "D /etc", "A /rc", "A /rc/x"],
    ),
    "removed and made anew": (
        "rm -r var; mkdir -p var/log; echo x > var/log/one; mv var/log var/lag; echo y > var/lag/two",
        ["A /var/lag", "A /var/lag/one", "A /var/lag/two", "D /var/log"],
    ),
    "a device": ("mknod etc/null c 1 3; mkfifo etc/fifo", ["A /etc/fifo", "A /etc/null"]),
    "names that are not UTF-8": (r'''touch "$(printf 'etc/\377\nx')"''', ["A /etc/\udcff\nx"]),
    "hostile links": ("ln -s / etc/out; ln -s loop loop; mkdir var/x; ln -s ../../../../.. var/x/up",
        ["A /etc/out", "A /loop", "A /var/x", "A /var/x/up"]),
}  # fmt: skip


# On a stock kernel: as ve mounts it, which is off, and what overlayfs writes down in ways of its own.
STOCK = {
    "changed", "deleted", "mode of a directory", "owner", "xattr of a file", "one of two hard links", "directory moved",
    "file becomes directory", "opaque", "below opaque", "moved and moved below", "moved onto another", "a device",
}  # fmt: skip


@pytest.mark.parametrize("metacopy", ["off", pytest.param("on", marks=pytest.mark.any_kernel)])
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in STOCK else pytest.mark.any_kernel) for case in CASES]
)
def test_changes_made_through_an_overlay(case: str, metacopy: str, state_dir: Path) -> None:
    operations, expected = CASES[case]
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", SCRIPT, state_dir, TEMPLATE, operations, metacopy],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


SEVERAL = [case for case, (operations, _) in CASES.items() if "; " in operations]


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in STOCK else pytest.mark.any_kernel) for case in SEVERAL]
)
def test_changes_made_in_several_layers(case: str, state_dir: Path) -> None:
    operations, expected = CASES[case]
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", LAYERED, state_dir, TEMPLATE, operations],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


@pytest.mark.any_kernel
def test_a_tree_deeper_than_descriptors_recursion_and_paths(tmp_path: Path) -> None:
    upper, template = tmp_path / "upper", tmp_path / "template"
    upper.mkdir()
    template.mkdir()
    fds = [os.open(upper, os.O_RDONLY)]
    for _ in range(2000):
        os.mkdir("dd", dir_fd=fds[-1])
        fds.append(os.open("dd", os.O_RDONLY, dir_fd=fds[-1]))
        if len(fds) > 2:
            os.close(fds.pop(0))
    for fd in fds:
        os.close(fd)
    try:
        found = changes([str(upper)], str(template))
    finally:
        subprocess.run(["rm", "-r", upper], check=True)  # pytest's own cleaning is recursive
    assert len(found) == 2000
    assert found[-1] == Change("A", "/dd" * 2000)
