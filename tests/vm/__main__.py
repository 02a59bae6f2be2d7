"""Run the tests on a stock Debian kernel: python -m tests.vm KERNEL [--podman] [PYTEST ARGUMENT...]

Without a path among them, the limits; with --podman in a privileged container there, and without a path each
mechanism of the kernel's by itself, as far as it depends on the kernel, and of the verbs what is marked for that.
make test runs what is native at the same time, and has not the hours that all verbs and attacks take on an emulated
CPU: those, what is in a container here and outside there, and what survives a reboot are make test-long's.  The exit
code is pytest's; 255 is a guest that died, 124 one that was ended for taking too long.
"""

import signal
import sys
import tempfile
import time
from pathlib import Path

from tests import debian
from tests.vm import guest, kernel, podman

CHOSEN = ("tests/limits", "-m", "not any_kernel and not long")
MARK = "container"
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "timeout=900"]


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in kernel.SUITES:
        print(f"usage: python -m tests.vm {'|'.join(kernel.SUITES)} [--podman] [PYTEST ARGUMENT...]", file=sys.stderr)
        return 2
    version, *arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kernel.obtain(version)
    contained = "--podman" in arguments
    arguments = [argument for argument in arguments if argument != "--podman"]
    named = any(argument.startswith("tests") for argument in arguments)
    chosen = () if named else marked() if contained else CHOSEN
    return run(version, [*chosen, *arguments], contained)


def marked() -> list[str]:
    """The files alone that have such tests: a guest takes minutes to look through all."""
    files = [path for path in guest.ROOT.glob("tests/*/test_*.py") if f"@pytest.mark.{MARK}\n" in path.read_text()]
    return ["tests/kernel", *sorted(str(path.relative_to(guest.ROOT)) for path in files), "-m", MARK]


def run(version: str, arguments: list[str], contained: bool) -> int:
    """These tests in a machine of their own, or in a container there."""
    if any("tests/verbs" in argument for argument in arguments):
        print("==> making the Debian template that is booted there, unless it is there already", flush=True)
        debian.archive()
    print(f"==> booting Debian's kernel {version} in software: half a minute to the first test", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ve-vm.", dir="/var/tmp") as place:
        disk = guest.make_disk(Path(place))
        command = [*PYTEST, *arguments]
        command = podman.inside(command) if contained else command
        code = guest.boot(kernel.obtain(version), disk, command, show)
    where = f"kernel {version}, in podman" if contained else f"kernel {version}"
    print(f"==> {where}: exit code {code} after {time.monotonic() - began:.0f} s", flush=True)
    return code


def show(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
