"""How long one look at the beancounters of many VEs takes: the call of the library, and `ve ubc` from a cold start.

    python bench/ubc.py [NUMBER]

So many VEs of busybox (200) are started in a state dir below VE_BENCH_DIR or /var/tmp, looked at, and removed again
with it.  It needs what a start needs: root, and cgroup2.
"""

import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import ve

CALLS, COLD_CALLS = 15, 5


def main(number: int) -> None:
    print(f"# {machine()}")
    with running(number) as host:
        command = [os.path.join(os.path.dirname(sys.executable), "ve"), "--state-dir", host.state.path, "ubc"]
        report("Host.beancounters(), the first time", [timed(host.beancounters)])
        spent = time.process_time()
        report("Host.beancounters()", [timed(host.beancounters) for _ in range(CALLS)])
        print(f"CPU time of that: {(time.process_time() - spent) * 1000 / CALLS:.0f} ms")
        report("ve ubc, from a cold start", [timed(lambda: silent(command)) for _ in range(COLD_CALLS)])
        report(
            "of that, what any verb takes", [timed(lambda: silent([*command[:3], "list"])) for _ in range(COLD_CALLS)]
        )


def machine() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    kernel, python = platform.release(), platform.python_version()
    return f"{len(names)} x {names[0] if names else platform.machine()}, Linux {kernel}, Python {python}"


@contextlib.contextmanager
def running(number: int) -> Iterator["ve.Host"]:
    """A host with so many VEs that run, until the end of the block."""
    with contextlib.ExitStack() as undo:
        directory = os.environ.get("VE_BENCH_DIR", "/var/tmp")
        place = undo.enter_context(tempfile.TemporaryDirectory(prefix="ve-bench.", dir=directory))
        os.chmod(place, 0o755)
        host = ve.Host(place)
        host.templates.build("busybox")
        for veid in range(1, number + 1):
            env = host.create(veid, template="busybox")
            undo.callback(env.destroy)
            env.start()
            undo.callback(env.stop, fast=True)
        print(f"# {number} VEs run")
        yield host


def silent(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def timed(call: Callable[[], object]) -> float:
    """In milliseconds, which others on the machine make more: hence the least of several, too."""
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000


def report(what: str, times: list[float]) -> None:
    spread = f", {min(times):.0f} to {max(times):.0f} in {len(times)} times" if len(times) > 1 else ""
    print(f"{what}: {statistics.median(times):.0f} ms{spread}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
