"""ve as a contender: a state dir of its own, warm processes that use the library, and the command."""

import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import ve
from bench import measure, place
from bench.measure import Once, Way

COMMAND = os.path.join(os.path.dirname(sys.executable), "ve")
BUSYBOX, INIT, IDLE = (
    "busybox",
    "true",
    "idle",
)  # templates: as it is, with an init that ends at once, with one that stays
PREPARED = "prepared"  # a snapshot
ADDRESS = "10.9.{}.{}"


class Lines:
    """A process that does what each line says, and answers by how long it took; ended with the block."""

    def __init__(self, command: list[str], scale: float = 1) -> None:
        self.command, self.scale = command, scale

    def __enter__(self) -> "Lines":
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=place.ROOT
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def do(self, line: str) -> float:
        """Milliseconds."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{' '.join(self.command)}: {line}: it ended with {self._process.wait()}")
        return float(answer) * self.scale


def address(number: int) -> str:
    return ADDRESS.format(number // 250, number % 250 + 1)


class Ours:
    """The state dir below a work directory, with its templates, each made when it is first asked for."""

    def __init__(self, work: Path, programs: Path) -> None:
        self.path = str(work / "ve")
        self.host = ve.Host(self.path)
        self._work, self._programs = work, programs

    @cached_property
    def busybox(self) -> str:
        """The tree of that template."""
        return self.host.templates.build(BUSYBOX).path

    @cached_property
    def init(self) -> str:
        return self._with_init(INIT, "true")

    @cached_property
    def idle(self) -> str:
        return self._with_init(IDLE, "pause")

    def _with_init(self, name: str, program: str) -> str:
        tree = self._work / f"tree-{name}"
        subprocess.run(["cp", "-a", self.busybox, tree], check=True)
        (tree / "sbin/init").unlink()
        subprocess.run(["cp", self._programs / program, tree / "sbin/init"], check=True)
        return self.host.templates.add(name, tree).path

    def worker(self, mib: int = 0, threads: int = 0) -> Lines:
        return Lines([sys.executable, "-m", "bench.worker", self.path, str(mib), str(threads)])

    def command(self, *words: str | int) -> list[str]:
        return [COMMAND, "--state-dir", self.path, *map(str, words)]

    @contextlib.contextmanager
    def created(self, veid: int, template: str, *addresses: str) -> Iterator[ve.Environment]:
        env = self.host.create(veid, template=template, addresses=addresses)
        try:
            yield env
        finally:
            stopped(env)
            env.destroy()

    def selftest(self, veid: int, of: str) -> str:
        """What that says of a VE like those that are measured, in a line."""
        self.idle  # noqa: B018
        with self.created(veid, IDLE, of) as env:
            env.start()
            found = Counter(str(verdict.status) for verdict in env.selftest())
        return ", ".join(f"{count} {status}" for status, count in found.items())

    # --- ways

    def lives(self, name: str, *addresses: str, mib: int = 0, threads: int = 0) -> Way:
        """An ephemeral VE after another, from one process."""

        @contextlib.contextmanager
        def ready() -> Iterator[Once]:
            self.init  # noqa: B018 - made before anything is timed
            with self.worker(mib, threads) as worker:
                yield lambda: worker.do(" ".join(["life", INIT, *addresses]))

        return Way(name, ready)

    def forks(self, name: str, veid: int) -> Way:
        """The same of one that was prepared, by a busybox more in it."""

        @contextlib.contextmanager
        def ready() -> Iterator[Once]:
            self.init  # noqa: B018
            with self.created(veid, INIT) as env, self.worker() as worker:
                env.copy_in(self.busybox, "/srv/prepared")
                env.checkpoint(PREPARED)
                yield lambda: worker.do(f"fork_life {veid} {PREPARED}")

        return Way(name, ready)

    def runs(self, veid: int) -> Way:
        """A command in a running VE, again and again, from one process."""

        @contextlib.contextmanager
        def ready() -> Iterator[Once]:
            self.idle  # noqa: B018
            with self.created(veid, IDLE) as env, self.worker() as worker:
                env.start()
                yield lambda: worker.do(f"run {veid} true")

        return Way('env.run(["true"])', ready)

    def cold(self, veid: int, *words: str) -> Way:
        """The command, with the running VE of this VEID."""

        @contextlib.contextmanager
        def ready() -> Iterator[Once]:
            self.idle  # noqa: B018
            with self.created(veid, IDLE) as env:
                env.start()
                yield lambda: measure.run(self.command(*words))

        return Way(f"ve {' '.join(words)}", ready)

    def foreground(self, veid: int, of: str) -> Way:
        """The whole life of one that is there already, and whose init ends at once."""

        @contextlib.contextmanager
        def ready() -> Iterator[Once]:
            self.init  # noqa: B018
            with self.created(veid, INIT, of):
                yield lambda: measure.run(self.command("start", "--foreground", veid))

        return Way(f"ve start --foreground {veid}", ready)

    def start(self, veid: int, of: str) -> Way:
        """Until its init runs; what stops it again is not counted."""

        @contextlib.contextmanager
        def ready() -> Iterator[Once]:
            self.idle  # noqa: B018
            with self.created(veid, IDLE, of) as env:

                def once() -> float:
                    took = measure.run(self.command("start", veid))
                    stopped(env)
                    return took

                yield once

        return Way(f"ve start {veid}", ready)

    def throw_away(self) -> Way:
        @contextlib.contextmanager
        def ready() -> Iterator[Once]:
            self.busybox  # noqa: B018
            yield lambda: measure.run(self.command("run", BUSYBOX, "--", "true"))

        return Way(f"ve run {BUSYBOX} -- true", ready)


def stopped(env: ve.Environment) -> None:
    with contextlib.suppress(ve.errors.NotRunning):
        env.stop(fast=True)
