"""A state dir on a file system that nobody can make layers of, as the root of a container: it gets another.

Everything happens in a shell with a mount namespace of its own, where an overlay is mounted on $DIR; df says what is
there, programs in the VEs whether they run.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline

OVERLAY = (
    "mkdir lower upper work; mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none $DIR; chmod 711 $DIR; "
)
NO_LOOP = "mount --bind /etc/hostname /dev/loop-control; "
TMPFS = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 3)  # it has idmapped mounts from there on
SAID = "the state directory {} is now on {}"


@pytest.fixture
def place(state_dir: Path) -> Path:
    (state_dir / "here").mkdir(0o711)
    return state_dir / "here"


def shell(place: Path, script: str, before: str = "") -> "subprocess.CompletedProcess[str]":
    """Run it beside $DIR, which is on an overlay, with ve for a command line on that."""
    line = shlex.join(map(str, commandline.words(place)))
    text = f'set -e; ve() {{ {line} "$@"; }}; {before}{OVERLAY}cd $DIR/..; {script}'
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", text],
        cwd=place.parent,
        env=os.environ | {"DIR": str(place)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=6 * commandline.PATIENCE,  # for as many commands
        check=False,
    )


def says(place: Path, script: str, before: str = "") -> tuple[list[str], str]:
    done = shell(place, script, before)
    assert done.returncode == 0, (script, done.stderr, done.stdout)
    return done.stdout.splitlines(), done.stderr


def test_it_is_on_an_ext4_of_its_own(place: Path) -> None:
    out, err = says(
        place,
        "ve template build busybox; df --output=fstype $DIR | tail -1; ve create 7 --template busybox; ve start 7;"
        "ve exec 7 sh -c 'echo kept >/root/f; id -u'; ve stop --fast 7;"
        "ve destroy 7; ve run busybox -- stat -c %u /etc/passwd; stat -c %a $DIR",
    )
    assert out[-4:] == ["ext4", "0", "0", "711"]
    assert err.count("the state directory") == 1 and SAID.format(place, f"an ext4 in {place}/area.img") in err


@pytest.mark.container
def test_what_was_in_it_comes_along(host: "ve.Host", place: Path) -> None:
    """Templates that an image of a container brings."""
    out, err = says(
        place, f"cp -a {host.templates.path} $DIR/; ve run busybox -- id -u; ve template list; df --output=fstype $DIR"
    )
    assert out[0] == "0" and out[-1] == "ext4" and any(line.startswith("busybox:1 ") for line in out)
    assert err.count("the state directory") == 1


def test_it_is_found_again(place: Path) -> None:
    """As after a restart of the container, which has the files and not the mounts."""
    out, _ = says(
        place,
        "ve template build busybox; ve create 7 --template busybox; umount $DIR; ls -A $DIR;"
        "ve list -H -o veid; df --output=fstype $DIR | tail -1; ve start 7; ve exec 7 id -u; ve stop --fast 7;"
        "ve destroy 7",
    )
    assert out[-4:] == ["area.img", "7", "ext4", "0"]


@pytest.mark.parametrize(
    "act", ["chmod 666 $DIR/area.img", "chown 7 $DIR", "mv $DIR/area.img other; ln -s ../other $DIR/area.img"]
)
def test_what_is_not_of_root_alone_is_not_mounted(place: Path, act: str) -> None:
    """Or who may write there would have the kernel mount what he likes."""
    out, err = says(
        place,
        f"ve template build busybox; umount $DIR; {act}; ve list || echo ended with $?; df --output=fstype $DIR",
    )
    assert out[-3:] == ["ended with 20", "Type", "overlay"]
    assert f"cannot use state dir {place}: {place}" in err and "is not root's alone, and is to be mounted" in err


def test_a_half_made_one_is_made_anew(place: Path) -> None:
    out, _ = says(
        place,
        "mkdir -p $DIR/.area-new/content; echo x >$DIR/.area-new/area.img;"
        "ve template build busybox; ve run busybox -- id -u; umount $DIR; ls -A $DIR",
    )
    assert out[-2:] == ["0", "area.img"]


def test_two_at_once_are_on_the_same(place: Path) -> None:
    out, err = says(
        place,
        "ve template build busybox & ve template build busybox; wait; ls $DIR/template/busybox;"
        'grep -c " $DIR ext4 " /proc/self/mounts',
    )
    assert out == ["1", "1.toml", "2", "2.toml", "1"]
    assert err.count("the state directory") == 1


def test_without_loop_devices_it_is_in_memory(place: Path) -> None:
    done = shell(
        place, "ve template build busybox; ve run busybox -- id -u; df --output=fstype $DIR | tail -1", NO_LOOP
    )
    if TMPFS:
        assert done.stdout.splitlines()[-2:] == ["0", "tmpfs"], done
        assert SAID.format(place, "a tmpfs: in memory") in done.stderr
    else:
        assert done.returncode == 125 and "its file system has no idmapped mounts" in done.stderr
        assert "the state directory" not in done.stderr


def test_check_says_so_before_and_after(place: Path) -> None:
    row = "grep -A1 'fit state' | tr -s ' \\n' ' '"
    out, err = says(place, f"ve check | {row}; echo; ls -A $DIR; ve template build busybox; ve check | {row}")
    assert out[0].startswith("no fit state directory: nobody can map the ids of overlay; the first template or VE")
    assert out[1].startswith("no fit state directory: it is on an ext4")
    assert err.count("VEs can start here") == 2


def test_a_slip_of_the_pen_makes_none(place: Path) -> None:
    typo = shlex.join(map(str, commandline.words(place / "typo", "run", "busybox", "true")))
    out, err = says(place, f"{typo} && exit 1; ls -A $DIR")
    assert out == [] and "there is no such directory" in err and "the state directory" not in err


def test_a_disk_is_taken_as_it_is(state_dir: Path) -> None:
    done = commandline.run(state_dir, "template", "build", "busybox")
    assert done.returncode == 0 and "the state directory" not in done.stderr
    assert not [path for path in state_dir.iterdir() if path.name.startswith((".area", "area"))]
    assert not os.path.ismount(state_dir)


def test_a_program_hears_of_it_by_its_logger(place: Path) -> None:
    program = (
        "import logging, logging.handlers, queue, sys, ve; heard = queue.SimpleQueue();"
        "logging.getLogger('ve').addHandler(logging.handlers.QueueHandler(heard));"
        "ve.Host(sys.argv[1]).templates.build('busybox'); print(heard.qsize(), heard.get().getMessage())"
    )
    out, err = says(place, f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} $DIR")
    assert out[-1].startswith(f"1 the state directory {place} is now on an ext4") and err == ""
