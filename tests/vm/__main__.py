"""Run the tests on a stock Debian kernel: python -m tests.vm KERNEL [PYTEST ARGUMENT...]

Without a path among them, the limits, and each mechanism of the kernel's by itself, as far as they depend on it: make
test runs what is native at the same time, and has not the hour that the verbs and the attacks take besides, on an
emulated CPU.  Those and what survives a reboot are make test-long's.  The exit code is pytest's; 255 is a guest that
died, 124 one that was ended for taking too long.
"""

import signal
import sys
import tempfile
import time
from pathlib import Path

from tests import debian
from tests.vm import guest, kernel

CHOSEN = ("tests/limits", "tests/kernel", "-m", "not any_kernel and not long")
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "timeout=900"]


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in kernel.SUITES:
        print(f"usage: python -m tests.vm {'|'.join(kernel.SUITES)} [PYTEST ARGUMENT...]", file=sys.stderr)
        return 2
    version, *arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kernel.obtain(version)
    named = any(argument.startswith("tests") for argument in arguments)
    return run(version, arguments if named else [*CHOSEN, *arguments])


def run(version: str, arguments: list[str]) -> int:
    """These tests in a machine of their own."""
    if any("tests/verbs" in argument for argument in arguments):
        print("==> making the Debian template that is booted there, unless it is there already", flush=True)
        debian.archive()
    print(f"==> booting Debian's kernel {version} in software: half a minute to the first test", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ve-vm.", dir="/var/tmp") as place:
        disk = guest.make_disk(Path(place))
        code = guest.boot(kernel.obtain(version), disk, [*PYTEST, *arguments], show)
    print(f"==> kernel {version}: exit code {code} after {time.monotonic() - began:.0f} s", flush=True)
    return code


def show(chunk: bytes) -> None:
    sys.stdout.buffer.write(chunk)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
