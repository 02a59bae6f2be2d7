"""Every test leaves the machine and its own process as it found them, or fails; and what many tests need.

    host       a ve.Host for the whole session, with the template "busybox" built
    host_dir   its state dir
    state_dir  a fresh, empty state dir, on a file system that can be idmapped
    veid       a VEID that nobody uses; what the test makes of it on `host` is stopped and destroyed after it
    env        a running VE of the template busybox on `host`
    debian     the name of a Debian template on `host`: systemd is its init (slow: only for what needs systemd)
    containers the name of another, with Docker, Podman and file systems in user space (large)
    hostnet    a network namespace that plays the host, where VEs with addresses are started: see tests/hostnet.py
    bridged    the same, its eth0 being a port of a bridge br0

VE_TEST_DIR says where state dirs go, and beside them the leases of host ids (pytest's own temporary directory
otherwise); with CI=true or VE_TESTS_MUST_RUN=1 a skip is a failure, unless its reason is in ALLOWED_SKIPS.
"""

import contextlib
import itertools
import os
import re
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ve
from tests.debian import archive
from tests.debian import containers as debian_with_containers
from ve import errors, interpreter, netfilter, netlink

if TYPE_CHECKING:
    from tests.hostnet import HostNet

ALLOWED_SKIPS: frozenset[str] = frozenset()  # reasons, as regular expressions that match the whole of one
MUST_RUN = os.environ.get("CI") == "true" or os.environ.get("VE_TESTS_MUST_RUN") == "1"
_GET_TABLES = 10 << 8 | 1  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE
SETTLE = 30.0  # seconds in which the kernel must have undone what it undoes behind our back: a slow emulated CPU's

_tags: set[str] = set()  # names of our state dirs' cgroups; another session's may come and go beside us


# ---- the guard ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def leaves_no_trace() -> Iterator[None]:
    with guarded():
        yield


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """What happens meanwhile leaves nothing behind."""
    before, ours = _footprint(MACHINE), _footprint(PROCESS)
    yield
    if (namespaces := _namespaces()) != ours["namespaces"]:
        pytest.exit(f"a test moved the test process into other namespaces: {namespaces}", returncode=3)
    left = _differences(ours, _footprint(PROCESS)) + _differences(before, _settled(before))
    if left:
        pytest.fail("\n".join(["the test left traces:", *left]), pytrace=False)


def _footprint(table: dict[str, Callable[[], object]]) -> dict[str, object]:
    return {what: look() for what, look in table.items()}


def _settled(before: dict[str, object]) -> dict[str, object]:
    """The footprint of the machine once it is as before, or as it is after SETTLE seconds.

    The last reference to a namespace, and with it mounts, cgroups and interfaces, goes after the last process did; the
    kernel reports none of these ends, so it is asked again and again.
    """
    deadline = time.monotonic() + SETTLE
    while (after := _footprint(MACHINE)) != before and time.monotonic() < deadline:
        select.select([], [], [], 0.02)
    return after


def _differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    lines = []
    for what, was in before.items():
        now = after[what]
        if isinstance(was, set) and isinstance(now, set):
            lines += [f"{what}: new: {each}" for each in sorted(now - was, key=str)]
            lines += [f"{what}: gone: {each}" for each in sorted(was - now, key=str)]
        elif was != now:
            lines.append(f"{what}: was {was}, is {now}")
    return lines


def _namespaces() -> dict[str, str]:
    return {name: os.readlink(f"/proc/self/ns/{name}") for name in sorted(os.listdir("/proc/self/ns"))}


def _mounts() -> set[str]:
    """The mount table, without what comes and goes below other sessions' temporary directories."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line for line in lines if _is_ours(line.split()[4])}


def _is_ours(mount_point: str) -> bool:
    foreign = re.match(r"(/var)?/tmp/(pytest-of-[^/]*/pytest-\d+|ve-[^/]*|mmdebstrap\.[^/]*)", mount_point)
    return foreign is None or any(mount_point.startswith(str(place)) for place in _places)


def _interfaces() -> set[str]:
    return {line.partition(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]}


def _addresses() -> set[str]:
    """Of the real machine, as its routing table has them; not where one is from."""
    local = re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", Path("/proc/net/fib_trie").read_text())
    return {*local, *_columns("if_inet6", 0, 2, 5)}


def _routes() -> set[str]:
    return _columns("route", 0, 1, 2, 7) | _columns("ipv6_route", 0, 1, 4, 9)


def _columns(name: str, *which: int) -> set[str]:
    """Those of each line; nothing where this kernel has no IPv6."""
    path = Path("/proc/net", name)
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return {" ".join(line[each] for each in which) for line in lines}


def _tables() -> set[str]:
    """Those of nftables, by family and name; who only looks does not load nf_tables."""
    if not netfilter.has_nftables():
        return set()
    with netlink.connect(netlink.NETFILTER) as channel:
        messages = netlink.whole(channel, _GET_TABLES, bytes(4))
    named = [(body[0], dict(netlink.attributes(body, 4))[1]) for body in messages]
    return {f"{family} {bytes(name).rstrip(bytes(1)).decode()}" for family, name in named}


def _forwarding() -> dict[str, str]:
    names = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
    paths = {name: Path("/proc/sys/net", name) for name in names}
    return {name: path.read_text().strip() for name, path in paths.items() if path.exists()}


def _cgroups() -> set[str]:
    """What is below the cgroups of our state dirs; the tag's own directory may stay until its state dir goes."""
    found = set()
    for tag in _tags:
        top = cgroup_root() / tag
        found |= {str(Path(path) / name) for path, names, _ in os.walk(top) for name in names}
    return found


def _leases() -> set[str]:
    """The leases of our state dirs, where the tests keep them and where the host does."""
    places = [Path(os.environ["VE_ID_DIR"]), Path(os.environ["VE_ID_DIR"], "run"), Path("/var/lib/ve/id")]
    links = [link for place in (*places, Path("/run/ve/id")) for link in place.glob("[0-9]*")]
    found = set()
    for link in links:
        with contextlib.suppress(FileNotFoundError):  # given back meanwhile
            found.add(f"{link} -> {os.readlink(link)}")
    return {each for each in found if any(f" -> {place}/" in each for place in _places)}


def _fds() -> set[tuple[int, str]]:
    _wait_for_removals()
    found = set()
    launcher = interpreter._launcher
    for name in set(os.listdir("/proc/self/fd")) - ({str(launcher.channel.fileno())} if launcher else set()):
        try:
            found.add((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except FileNotFoundError:  # the one that listdir itself had
            continue
    return found


def _wait_for_removals() -> None:
    """An interface is gone at once; what the kernel does behind that, a thread of rtnetlink.remove waits for."""
    deadline = time.monotonic() + SETTLE
    while (unknown := _unknown_threads()) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not unknown, f"threads that Python does not know of, and that do not end: {unknown}"


def _unknown_threads() -> dict[str, str]:
    """Their names, by number."""
    tasks = set(os.listdir("/proc/self/task"))
    found = {}
    for number in tasks - {str(thread.native_id) for thread in threading.enumerate()}:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found[number] = Path("/proc/self/task", number, "comm").read_text().strip()
    return found


def _children() -> set[str]:
    """Pids of our children, of any of our threads; a zombie is still in this list.  Not the launcher: it stays."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that thread has ended meanwhile
            found.update((task / "children").read_text().split())
    launcher = interpreter._launcher
    return found - ({str(launcher.process.pid)} if launcher else set())


def _signal_handlers() -> set[str]:
    ours = set(signal.Signals) - {signal.SIGALRM}  # pytest-timeout's, which takes it away when a test fails
    return {f"{number.name}: {signal.getsignal(number)}" for number in ours}


def _umask() -> str:
    return next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Umask"))


def _environment() -> set[str]:
    return {f"{key}={value}" for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}


PROCESS: dict[str, Callable[[], object]] = {
    "namespaces": _namespaces,
    "current directory": os.getcwd,
    "umask": _umask,
    "environment": _environment,
    "signal handlers": _signal_handlers,
    "file descriptors": _fds,
    "children": _children,
}
MACHINE: dict[str, Callable[[], object]] = {
    "mounts": _mounts,
    "interfaces": _interfaces,
    "addresses": _addresses,
    "routes": _routes,
    "tables of nftables": _tables,
    "forwarding": _forwarding,
    "cgroups": _cgroups,
    "leases of host ids": _leases,
}


# ---- places ---------------------------------------------------------------------------------------------------------

_places: list[Path] = []


def cgroup_root() -> Path:
    """What the cgroups of state dirs are in: where cgroup2 is mounted, or a unit there where systemd runs."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line:
            root = Path(line.split()[4])
            return root / "system.slice/ve-host.service" if Path("/run/systemd/system").is_dir() else root
    raise LookupError("no cgroup2 in /proc/self/mountinfo")


@pytest.fixture(scope="session")
def _test_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where state dirs go."""
    given = os.environ.get("VE_TEST_DIR")
    place = Path(tempfile.mkdtemp(dir=given)) if given else tmp_path_factory.mktemp("state")
    _places.append(place)
    yield place
    if given:
        remove(place)


@pytest.fixture(scope="session", autouse=True)
def _id_dir(_test_dir: Path) -> Iterator[None]:
    """Host ids are leased beside our state dirs, not where the host's own VEs have theirs."""
    before = os.environ.get("VE_ID_DIR")
    os.environ["VE_ID_DIR"] = str(_test_dir / "id")
    yield
    os.environ.pop("VE_ID_DIR")
    if before is not None:
        os.environ["VE_ID_DIR"] = before


def remove(path: Path) -> None:
    """Remove a tree, however deep: shutil's and pytest's own removal fail by RecursionError at some hundred levels."""
    subprocess.run(["rm", "-rf", "--one-file-system", path], check=True)


def _new_state_dir(parent: Path) -> Path:
    """A new directory, whose cgroups the guard watches from now on."""
    path = Path(tempfile.mkdtemp(dir=parent))
    path.chmod(0o755)  # the VE's root must be able to pass through
    about = path.stat()
    _tags.add(f"ve-{about.st_dev:x}-{about.st_ino:x}")
    return path


def _forget_state_dir(path: Path) -> None:
    about = path.stat()
    tag = cgroup_root() / f"ve-{about.st_dev:x}-{about.st_ino:x}"
    if tag.exists():
        tag.rmdir()  # fails if there is something in it, as it should
    remove(path)


@pytest.fixture
def state_dir(_test_dir: Path) -> Iterator[Path]:
    path = _new_state_dir(_test_dir)
    yield path
    _forget_state_dir(path)


# ---- VEs ------------------------------------------------------------------------------------------------------------

_veids = itertools.count(101)
_hosts: "list[HostNet]" = []


@pytest.fixture(scope="session")
def host_dir(_test_dir: Path) -> Iterator[Path]:
    path = _new_state_dir(_test_dir)
    yield path
    _forget_state_dir(path)


@pytest.fixture(scope="session")
def host(host_dir: Path) -> "ve.Host":
    host = ve.Host(host_dir)
    host.templates.build("busybox")
    return host


@pytest.fixture
def veid(host: "ve.Host", host_dir: Path) -> Iterator[int]:
    veid = next(_veids)
    yield veid
    _end(host, veid)
    left = [str(path) for name in ("private", "root") if (path := host_dir / name / str(veid)).exists()]
    assert not left, f"destroy left {left}"


def _end(host: "ve.Host", veid: int) -> None:
    """Stop and destroy the VE, whatever the test has left of it: on the host of the test, if it has one of its own."""
    if _hosts:
        _hosts[-1].call(_end_here, host, veid)
    else:
        _end_here(host, veid)


def _end_here(host: "ve.Host", veid: int) -> None:
    try:
        env = host.get(veid)
    except errors.NotFound:
        return
    if env.status in (ve.Status.RUNNING, ve.Status.FROZEN):
        env.stop(fast=True)
    if env.status == ve.Status.MOUNTED:
        env.umount()
    env.destroy()


@pytest.fixture
def env(host: "ve.Host", veid: int) -> "ve.Environment":
    env = host.create(veid, template="busybox", hostname="red")
    env.start()
    return env


@pytest.fixture(scope="session")
def debian(host: "ve.Host") -> str:
    return host.templates.add("debian", str(archive())).ref


@pytest.fixture(scope="session")
def containers(host: "ve.Host") -> str:
    return host.templates.add("containers", str(debian_with_containers())).ref


@pytest.fixture
def hostnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[HostNet]":
    from tests import hostnet  # which needs this module

    monkeypatch.setenv("VE_NETWORK_DIR", os.fspath(tmp_path / "network"))
    with hostnet.made() as network:
        _hosts.append(network)
        yield network
        _hosts.remove(network)


@pytest.fixture
def bridged(hostnet: "HostNet") -> "HostNet":
    """eth0 is a port of br0, which has the host's address."""
    for line in (
        "ip link add br0 type bridge",
        "ip address flush dev eth0",
        "ip link set eth0 master br0",
        "ip link set br0 up",
        "ip address add 192.0.2.1/24 dev br0",
        "ip address add 2001:db8::1/64 dev br0 nodad",
    ):
        hostnet.run(*line.split())
    return hostnet


# ---- no silent skips ------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not (MUST_RUN and report.skipped) or hasattr(report, "wasxfail"):
        return
    reason = (
        report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)
    )
    if not any(re.fullmatch(allowed, reason) for allowed in ALLOWED_SKIPS):
        report.outcome = "failed"
        report.longrepr = f"this must not be skipped here, and was: {reason}"
