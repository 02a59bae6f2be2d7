"""Run the tests on a stock Debian kernel: python -m tests.vm KERNEL [PYTEST ARGUMENT...]

Without a path among them, all that depends on the kernel: in two machines at the same time, as one takes hardly more
than one CPU, and what survives a reboot in a third.  The first one's output is shown as it comes, then the others'.
The exit code is pytest's; 255 is a guest that died, 124 one that was ended for taking too long.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests import debian
from tests.vm import guest, kernel

PARTS = (("tests/verbs",), ("tests/limits", "tests/kernel", "tests/attacks"))  # about as long
CHOSEN = ("-m", "not any_kernel and not long")
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "timeout=900"]


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in kernel.SUITES:
        print(f"usage: python -m tests.vm {'|'.join(kernel.SUITES)} [PYTEST ARGUMENT...]", file=sys.stderr)
        return 2
    version, *arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kernel.obtain(version)
    if any(argument.startswith("tests") for argument in arguments):
        return run(version, arguments)
    first, *others = ([*part, *CHOSEN, *arguments] for part in PARTS)
    commands = [[sys.executable, "-m", "tests.vm", version, *each] for each in others]
    commands.append([sys.executable, "-m", "pytest", "tests/vm", *arguments])
    with contextlib.ExitStack() as stack:
        beside = [stack.enter_context(running(command, version)) for command in commands]
        return max(run(version, first), *(each.wait() for each in beside))


@contextlib.contextmanager
def running(command: list[str], version: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A command whose output is shown once it has ended, or is ended as we end."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, env=os.environ | {"KERNEL": version})
        try:
            yield process
        finally:
            process.terminate()
            process.wait()
            output.seek(0)
            show(output.read())


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
