"""The peers as contenders, from Debian's packages, as their users set them up: the files are in bench/peers/.

All have the root file system that VEs have as their template: as the lower layer of an overlay where the peer can
(LXC, podman), else as a copy of its own; and user, pid, uts, ipc, net, cgroup and mount namespaces.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from bench import measure, place
from bench.measure import Once, Way

CONFIGURATIONS = Path(__file__).resolve().parent / "peers"
_CAP_SYS_RESOURCE = 24
_EVERY_NAMESPACE = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--user", "--time")
BASE = 65536000  # of the host ids that the peers' containers have, as bench/peers/ says too


class Podman:
    """podman with a store of its own below a work directory, made when it is first asked for, and empty."""

    def __init__(self, work: Path, programs: Path) -> None:
        self._store, self._programs = work / "podman", programs

    @cached_property
    def command(self) -> list[str]:
        """How it is called."""
        self._store.mkdir()
        wrapped = self._programs / "crun"
        wrapped.write_text(f'#!/bin/sh\nexec {" ".join(_runtime("crun", self._programs))} "$@"\n')
        wrapped.chmod(0o755)
        path = self._store / "containers.conf"
        path.write_text(_filled("containers.conf", CRUN=str(wrapped)))
        os.environ["CONTAINERS_CONF"] = str(path)
        stores = ["--root", str(self._store / "root"), "--runroot", str(self._store / "run")]
        return ["podman", *stores, "--storage-driver", "overlay"]

    def import_tree(self, tree: str, name: str) -> None:
        """Make an image of it."""
        with subprocess.Popen(["tar", "-C", tree, "-c", "."], stdout=subprocess.PIPE) as tar:
            null = subprocess.DEVNULL
            command = [*self.command, "import", "-", name]
            subprocess.run(command, stdin=tar.stdout, stdout=null, stderr=null, check=True)


class Peers:
    """What they need below a work directory, made when it is first asked for."""

    def __init__(self, work: Path, programs: Path, init: str, idle: str) -> None:
        self._work, self._programs = work, programs
        self._podman = Podman(work, programs)
        self._trees = {"init": init, "idle": idle}

    def root(self, which: str) -> str:
        """A copy of the template whose init ends at once ("init") or stays ("idle"), open to all."""
        path = self._work / f"root-{which}"
        if not path.exists():
            subprocess.run(["cp", "-a", self._trees[which], path], check=True)
        return str(path)

    # --- crun and runc

    def bundle(self, name: str, which: str) -> str:
        """An OCI bundle in a new directory."""
        path = self._work / f"bundle-{name}"
        path.mkdir()
        (path / "config.json").write_text(_filled("oci.json", ROOTFS=self.root(which)))
        return str(path)

    def oci_run(self, runtime: str) -> Way:
        @contextlib.contextmanager
        def ready() -> Iterator[Once]:
            command = [*_runtime(runtime, self._programs), "run", "--bundle", self.bundle(runtime, "init"), "true"]
            yield lambda: measure.run(command)
            shutil.rmtree(self._work / f"bundle-{runtime}")

        return Way(f"{runtime} run", ready)

    def oci_exec(self, runtime: str) -> Way:
        """Into one that runs."""

        @contextlib.contextmanager
        def ready() -> Iterator[Once]:
            bundle = self.bundle(runtime, "idle")
            measure.run([*_runtime(runtime, self._programs), "run", "--detach", "--bundle", bundle, "idle"])
            yield lambda: measure.run([runtime, "exec", "idle", "true"])
            measure.run([runtime, "delete", "--force", "idle"])
            shutil.rmtree(bundle)

        return Way(f"{runtime} exec", ready)

    # --- LXC

    def lxc(self, name: str, which: str, address: str = "", among: str = "lxc") -> list[str]:
        """Make a container in the directory `among`; the options that name it to each of LXC's commands."""
        path = self._work / among / name
        for part in ("upper", "work", "rootfs"):
            (path / part).mkdir(parents=True, exist_ok=True)
        for each in (path, *path.iterdir()):
            os.chown(each, BASE, BASE)
        more = _filled("lxc-veth.conf", BRIDGE=place.BRIDGE, ADDRESS=address) if address else ""
        more = more or _filled("lxc-empty.conf")
        words = {"NAME": name, "INIT": "/sbin/init", "ROOTFS": self.root(which), "UPPER": str(path / "upper")}
        (path / "config").write_text(_filled("lxc.conf", **words) + more)
        return ["--lxcpath", str(path.parent), "--name", name]

    def lxc_life(self, address: str = "") -> Way:
        @contextlib.contextmanager
        def ready() -> Iterator[Once]:
            name = "routed" if address else "plain"
            options = self.lxc(f"life-{name}", "init", address)
            yield lambda: measure.run(["lxc-start", "--foreground", *options])

        return Way("lxc-start -F", ready)

    def lxc_start(self, address: str) -> Way:
        """Until it runs; what stops it again is not counted."""

        @contextlib.contextmanager
        def ready() -> Iterator[Once]:
            options = self.lxc("start", "idle", address)

            def once() -> float:
                took = measure.run(["lxc-start", "--daemon", *options])
                measure.run(["lxc-stop", "--kill", *options])
                return took

            yield once

        return Way("lxc-start -d", ready)

    def lxc_attach(self) -> Way:
        @contextlib.contextmanager
        def ready() -> Iterator[Once]:
            options = self.lxc("attach", "idle")
            measure.run(["lxc-start", "--daemon", *options])
            yield lambda: measure.run(["lxc-attach", *options, "--", "true"])
            measure.run(["lxc-stop", "--kill", *options])

        return Way("lxc-attach", ready)

    # --- podman

    @cached_property
    def podman(self) -> list[str]:
        """How it is called, where images of the template are."""
        for which in ("init", "idle"):
            self._podman.import_tree(self.root(which), which)
        return self._podman.command

    def podman_run(self) -> Way:
        @contextlib.contextmanager
        def ready() -> Iterator[Once]:
            command = [*self.podman, "run", "--rm", "--network", "none", *_MAPPED, "localhost/init", "/sbin/init"]
            yield lambda: measure.run(command)

        return Way("podman run --rm", ready)

    def podman_start(self, name: str) -> float:
        """One more that stays."""
        options = ["--detach", "--name", name, "--network", "none", *_MAPPED]
        return measure.run([*self.podman, "run", *options, "localhost/idle", "/sbin/init"])

    # --- those without a cgroup, an overlay or a state

    def plain(self, name: str) -> Way:
        """unshare, bubblewrap or systemd-nspawn."""
        commands = {
            "unshare": ("unshare", *_EVERY_NAMESPACE, "--fork", "--map-root-user", "--mount-proc", "--root={}"),
            "bubblewrap": (
                *("bwrap", "--unshare-all", "--uid", "0", "--gid", "0", "--hostname", "bench", "--bind", "{}", "/"),
                *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/run"),
            ),
            "systemd-nspawn": (
                *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network"),
                *(f"--private-users={BASE}:65536", "--volatile=overlay", "--directory={}"),
            ),
        }

        @contextlib.contextmanager
        def ready() -> Iterator[Once]:
            root = self.root("init")
            command = [word.format(root) for word in commands[name]] + ["/sbin/init"]
            yield lambda: measure.run(command)

        return Way(name, ready)


_MAPPED: Sequence[str] = ("--uidmap", f"0:{BASE}:65536", "--gidmap", f"0:{BASE}:65536")


def _filled(name: str, **words: str) -> str:
    text = (CONFIGURATIONS / name).read_text()
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def _runtime(name: str, programs: Path) -> list[str]:
    """crun ends where it may not raise RLIMIT_MEMLOCK: see bench/programs/memlock.c."""
    if name != "crun" or _may_raise_limits():
        return [name]
    return ["env", f"LD_PRELOAD={programs / 'memlock.so'}", name]


def _may_raise_limits() -> bool:
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) >> _CAP_SYS_RESOURCE & 1)
