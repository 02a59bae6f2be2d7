"""The guard of tests/conftest.py, guarded: what a careless test leaves behind is seen, and told apart."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

CARELESS = """
import os, signal, subprocess
import pytest
from tests import conftest
from ve._linux import syscalls

def test_careful():
    pass

def test_directory():
    os.chdir("/usr")

def test_umask():
    os.umask(0o777)

def test_environment():
    os.environ["LEFT"] = "behind"

def test_handler():
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)

def test_descriptor():
    os.dup(0)

def test_zombie():
    if os.fork() == 0:
        os._exit(0)

def test_skipped():
    pytest.skip("no reason")

@pytest.mark.xfail(reason="is known")
def test_known():
    assert False

def test_network_table():
    leave("nft add table inet left")

def test_network_address():
    leave("ip address add 10.9.9.9/32 dev lo")

def test_network_route():
    leave("ip link set lo up")
    leave("ip route add 10.9.9.0/24 dev lo")

def test_network_forwarding():
    leave("sysctl -qw net.ipv4.ip_forward=1")

def leave(command):
    conftest.SETTLE = 0  # nothing of that goes by itself
    subprocess.run(command.split(), check=True)

def test_unshare():
    syscalls.unshare(syscalls.CLONE_NEWUSER)

def test_never_run():
    pass
"""
TRACES = {
    "test_directory": "current directory",
    "test_umask": "umask",
    "test_environment": "environment",
    "test_handler": "signal handlers",
    "test_descriptor": "file descriptors",
    "test_zombie": "children",
}


NETWORK = {
    "test_network_table": "tables of nftables",
    "test_network_address": "addresses",
    "test_network_route": "routes",
    "test_network_forwarding": "forwarding",
}


def run(directory: Path, which: str, *before: str) -> subprocess.CompletedProcess[str]:
    """A session of careless tests, in CI, under our guard."""
    careless = directory / "test_careless.py"
    careless.write_text(CARELESS)
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "--rootdir", str(directory), "-rA", "-k", which]
    return subprocess.run(
        [*before, sys.executable, "-m", "pytest", "-c", "/dev/null", *options, str(careless)],
        cwd=ROOT,
        env=os.environ | {"CI": "true"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    return run(tmp_path_factory.mktemp("careless"), "not unshare and not network")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """Of those that would change the real machine's network."""
    return run(tmp_path_factory.mktemp("careless"), "network", "unshare", "--map-root-user", "--net")


def outcomes(session: subprocess.CompletedProcess[str], test: str) -> set[str]:
    return set(re.findall(rf"^([A-Z]+) \S*::{test}\b", session.stdout, re.MULTILINE))


@pytest.mark.parametrize("test", TRACES)
def test_a_trace_is_an_error_of_the_test_that_left_it(session: subprocess.CompletedProcess[str], test: str) -> None:
    assert "ERROR" in outcomes(session, test)
    assert traces(session, test)[0].startswith(TRACES[test])


@pytest.mark.parametrize("test", NETWORK)
def test_so_is_one_in_the_network_of_the_machine(elsewhere: subprocess.CompletedProcess[str], test: str) -> None:
    assert "ERROR" in outcomes(elsewhere, test)
    assert any(line.startswith(NETWORK[test]) for line in traces(elsewhere, test))


def traces(session: subprocess.CompletedProcess[str], test: str) -> list[str]:
    _, _, report = session.stdout.partition(f"ERROR at teardown of {test}")
    _, _, reason = report.partition("the test left traces:")
    return reason.splitlines()[1:]


def test_a_careful_test_passes(session: subprocess.CompletedProcess[str]) -> None:
    assert outcomes(session, "test_careful") == {"PASSED"}


def test_in_ci_a_skip_is_a_failure_and_a_known_failure_is_not(session: subprocess.CompletedProcess[str]) -> None:
    assert outcomes(session, "test_skipped") == {"FAILED"}
    assert outcomes(session, "test_known") == {"XFAIL"}


def test_a_test_process_in_other_namespaces_ends_the_session(tmp_path: Path) -> None:
    session = run(tmp_path, "unshare or never_run")
    assert session.returncode == 3
    assert "moved the test process into other namespaces" in session.stdout
    assert "1 passed" in session.stdout
