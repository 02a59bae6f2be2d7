"""A stock kernel, booted on this machine's own file system, with a disk for what must be written.

virtme-ng boots the kernel (over 9p, read only) under QEMU's software emulation; guest.sh does the rest inside.
"""

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = Path(__file__).with_name("guest.sh")
HOST = "/run/host"  # where the guest has this machine's root, for reading
LIMIT = 65 * 60.0  # seconds
BOOT = 3 * 60.0  # seconds that the guest may take besides its command


def make_disk(place: Path) -> Path:
    """A sparse ext4 image: 9p, which the guest's root is on, can neither be idmapped nor be written to."""
    disk = place / "disk"
    with disk.open("wb") as file:
        file.truncate(16 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,root_owner=0:0", disk], check=True)
    return disk


def boot(
    image: Path, disk: Path, command: list[str], heard: Callable[[bytes], object], devices: tuple[str, ...] = ()
) -> int:
    """Run a command as root in the project's directory there; heard gets its output as it comes.

    devices: further options of QEMU's, whose disks come after the guest's own, /dev/vda.

    Our VE_TEST_* variables are there, too, but for VE_TEST_DIR, which is on the disk: that keeps it for the next boot.
    The exit code is the command's; 255 is a guest that died, 124 one that was ended for taking too long.  Whatever
    happens, nothing of the guest outlives this call.
    """
    for part in ("ve", "tests", "cli.py"):  # the guest can keep nothing that it compiles
        subprocess.run([sys.executable, "-m", "compileall", "-q", ROOT / part], check=True)
    tools = Path(sys.executable).parent  # vng looks for its other half in PATH
    vm = subprocess.Popen(
        _line(image, disk, command, devices),
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that QEMU, its grandchild, can be killed as one of a group
    )
    assert vm.stdout is not None
    too_late = threading.Timer(LIMIT + BOOT, os.killpg, (vm.pid, signal.SIGKILL))
    too_late.start()
    try:
        with vm.stdout:
            while chunk := os.read(vm.stdout.fileno(), 1 << 16):
                heard(chunk)
        code = vm.wait()
        return 124 if code == -signal.SIGKILL else code
    finally:
        too_late.cancel()
        if vm.poll() is None:
            os.killpg(vm.pid, signal.SIGKILL)
            vm.wait()
        too_late.join()


def _line(image: Path, disk: Path, command: list[str], more: tuple[str, ...]) -> list[str]:
    asked = [f"{name}={value}" for name, value in os.environ.items() if name.startswith("VE_TEST_")]
    inside = ["env", *asked, f"VE_TESTS_MUST_RUN={os.environ.get('VE_TESTS_MUST_RUN', '1')}"]
    inside += ["timeout", "-k", "10", str(LIMIT), "bash", str(SCRIPT), str(ROOT), *command]
    # A second, caching export of the same root: without a cache each exec and import in the guest asks the host again.
    devices = f"-drive file={disk},if=virtio,format=raw,cache=unsafe"
    devices += " -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
    # What costs a software CPU most and tells nothing here: a fifth level of page tables, wide vectors, mitigations.
    devices += " -cpu max,la57=off,avx=off,avx2=off"
    devices = " ".join([devices, *more])
    vng = ["vng", "--disable-kvm", "--user", "root", "--cpus", "2", "--memory", "4G", "--name", "ve-test"]
    vng += ["--append", "mitigations=off"]
    vng += ["--rodir", str(ROOT)]  # a guest has its own /tmp and /var/tmp, where the project may be
    return [*vng, "--run", str(image), f"--qemu-opts={devices}", "--", shlex.join(inside)]
