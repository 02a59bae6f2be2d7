"""Run the tests on a stock Debian kernel: python -m tests.vm KERNEL [PYTEST ARGUMENT...]

virtme-ng boots the kernel on this machine's own file system (over 9p, read only) under QEMU's software emulation, with
an ext4 disk for what must be written; guest.sh does the rest inside.  The exit code is pytest's; 255 is a guest that
died, 124 one that was ended for taking too long.
"""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests import debian
from tests.vm import kernel

ROOT = Path(__file__).resolve().parent.parent.parent
GUEST = Path(__file__).with_name("guest.sh")
TESTS = ["tests/kernel", "tests/verbs", "tests/limits", "tests/attacks", "-m", "not any_kernel and not long"]
LIMIT = 65 * 60.0  # seconds
BOOT = 3 * 60.0  # seconds that the guest may take besides its tests


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in kernel.SUITES:
        print(f"usage: python -m tests.vm {'|'.join(kernel.SUITES)} [PYTEST ARGUMENT...]", file=sys.stderr)
        return 2
    version, *arguments = sys.argv[1:]
    if not any(argument.startswith("tests") for argument in arguments):
        arguments = TESTS + arguments
    image = kernel.obtain(version)
    if any("tests/verbs" in argument for argument in arguments):
        print("==> making the Debian template that is booted there, unless it is there already", flush=True)
        debian.archive()
    print(f"==> booting Debian's kernel {version} in software: half a minute to the first test", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ve-vm.", dir="/var/tmp") as place:
        disk = make_disk(Path(place))
        code = run(boot_command(image, disk, arguments))
    print(f"==> kernel {version}: exit code {code} after {time.monotonic() - began:.0f} s", flush=True)
    return code


def make_disk(place: Path) -> Path:
    """A sparse ext4 image: 9p, which the guest's root is on, can neither be idmapped nor be written to."""
    disk = place / "disk"
    with disk.open("wb") as file:
        file.truncate(16 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,root_owner=0:0", disk], check=True)
    return disk


def boot_command(image: Path, disk: Path, arguments: list[str]) -> list[str]:
    environment = {"VE_TESTS_MUST_RUN": os.environ.get("VE_TESTS_MUST_RUN", "1"), "PYTHON": sys.executable}
    inside = ["env", *(f"{key}={value}" for key, value in environment.items())]
    inside += ["timeout", "-k", "10", str(LIMIT), "bash", str(GUEST), str(ROOT), *arguments]
    # A second, caching export of the same root: without a cache each exec and import in the guest asks the host again.
    devices = f"-drive file={disk},if=virtio,format=raw,cache=unsafe"
    devices += " -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
    # What costs a software CPU most and tells nothing here: a fifth level of page tables, wide vectors, mitigations.
    devices += " -cpu max,la57=off,avx=off,avx2=off"
    vng = ["vng", "--disable-kvm", "--user", "root", "--cpus", "2", "--memory", "4G", "--name", "ve-test"]
    vng += ["--append", "mitigations=off"]
    vng += ["--rodir", str(ROOT)]  # a guest has its own /tmp and /var/tmp, where the project may be
    return [*vng, "--run", str(image), f"--qemu-opts={devices}", "--", shlex.join(inside)]


def run(command: list[str]) -> int:
    """Run it, its output going to ours as it comes; whatever happens, nothing of it outlives this call."""
    tools = Path(sys.executable).parent  # vng looks for its other half in PATH
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    vm = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that QEMU, its grandchild, can be killed as one of a group
    )
    assert vm.stdout is not None
    too_late = threading.Timer(LIMIT + BOOT, os.killpg, (vm.pid, signal.SIGKILL))
    too_late.start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        while chunk := os.read(vm.stdout.fileno(), 1 << 16):
            sys.stdout.buffer.write(chunk)
            sys.stdout.flush()
        code = vm.wait()
        return 124 if code == -signal.SIGKILL else code
    finally:
        too_late.cancel()
        if vm.poll() is None:
            os.killpg(vm.pid, signal.SIGKILL)
            vm.wait()


if __name__ == "__main__":
    sys.exit(main())
