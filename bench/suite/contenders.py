"""Whom the suite is run with: what is there before a suite begins, how pytest is called, and what cleans up after."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import ve
from bench import floor
from bench.peers import Podman
from bench.suite import database

_PLUGIN = "PYTEST_PLUGINS"  # by -p they would come before ve's, which would override them instead
POOL = "10.9.0.0/16"
_PATIENCE = 60.0  # seconds for podman to listen


class Contender(Protocol):
    name: str
    words: Sequence[str]  # for pytest
    env: Mapping[str, str]

    def ready(self) -> None:
        """Make what a suite finds: what its users have done before."""

    def clean(self) -> None:
        """Take away what a suite has left that was killed, with what there is for that; a tidy one has left nothing."""

    def close(self) -> None:
        """End what ready() has begun, which may have failed."""


class OfVe:
    """A state dir with the template, and a pool of addresses."""

    name = "ve"

    def __init__(self, work: Path, archive: Path) -> None:
        self.host, self._archive = ve.Host(str(work / "ve")), archive
        self.words: Sequence[str] = ("--ve-required", f"--ve-state-dir={self.host.state.path}")
        self.env: Mapping[str, str] = {_PLUGIN: "bench.suite.of_ve"}

    def ready(self) -> None:
        self.host.templates.add(database.NAME, self._archive)
        self.host.networks.add("suite", [POOL])

    def clean(self) -> None:
        """As the next run does."""
        from ve.pytest_run import Run

        run = Run(self.host.state.path, database.NAME, leader=os.getpid(), keep=False)
        run.host.forget_dead()
        run.close()

    def close(self) -> None:
        pass


class OfTestcontainers:
    """podman's API, with an image of the same root file system in which the database is prepared."""

    name = "testcontainers"

    def __init__(self, work: Path, archive: Path) -> None:
        """archive: of that root file system."""
        self._work, self._archive = work, archive
        self._podman = Podman(work, floor.build(work / "programs"))
        self._socket, self._log = work / "podman.sock", work / "podman.log"
        self._service: subprocess.Popen[bytes] | None = None
        self.words: Sequence[str] = ("-p", "no:ve")
        # Its own cleaner, ryuk, is an image of a registry's.
        self.env: Mapping[str, str] = {
            _PLUGIN: "bench.suite.of_testcontainers",
            "DOCKER_HOST": f"unix://{self._socket}",
            "TESTCONTAINERS_RYUK_DISABLED": "true",
            "TESTCONTAINERS_CONNECTION_MODE": "docker_host",  # or it asks podman, where this machine is a container
        }

    def ready(self) -> None:
        self._podman.import_tree(str(tree_of(self._work, self._archive)), "plain")
        server = " ".join(database.SERVER).replace("--foreground ", "")
        script = f"{server}\n{database.PREPARE}\n{server.replace(' start', ' stop')}"
        self._do("run", "--name", "prepared", "--network", "none", "localhost/plain", "sh", "-ec", script)
        words = ", ".join(f'"{word}"' for word in database.SERVER)
        self._do("commit", "--change", f"CMD [{words}]", "prepared", f"localhost/{database.NAME}")
        self._do("rm", "prepared")
        with self._log.open("wb") as log:
            command = [*self._podman.command, "system", "service", "--time", "0", f"unix://{self._socket}"]
            self._service = subprocess.Popen(command, stderr=log)
        self._await(self._service)

    def clean(self) -> None:
        self._do("rm", "--all", "--force", "--time", "0")

    def close(self) -> None:
        if self._service:
            self._service.terminate()
            self._service.wait()

    def _do(self, *words: str) -> None:
        done = subprocess.run([*self._podman.command, *words], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"podman {words[0]} ended with {done.returncode}: {done.stderr}")

    def _await(self, service: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(str(self._socket))
                    return
            except OSError as error:
                if service.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"podman does not listen: {self._log.read_text()}") from error
                time.sleep(0.05)


MAKERS: Mapping[str, Callable[[Path, Path], Contender]] = {  # of a work directory and the archive
    each.name: each for each in (OfVe, OfTestcontainers)
}


def tree_of(work: Path, archive: Path) -> Path:
    """The archive as a directory, for an image."""
    tree = work / "tree"
    tree.mkdir(mode=0o755)
    subprocess.run(["tar", "--zstd", "--xattrs", "--acls", "-C", tree, "-xf", archive], check=True)
    return tree
