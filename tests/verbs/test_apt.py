"""`ve network add default --cidr ... --nat` is all that a host needs for apt in a VE to reach a repository outside."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.debian import write_index
from tests.hostnet import HostNet, entering

pytestmark = [pytest.mark.any_kernel, pytest.mark.timeout(600)]  # on an emulated CPU apt and dpkg take minutes

CONTROL = """\
Package: ve-hello
Version: 1.0
Architecture: all
Maintainer: nobody <nobody@localhost>
Description: says hello
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Of one package, with a program in it."""
    tree, made = tmp_path / "hello", tmp_path / "repository"
    for path, text, mode in (
        ("DEBIAN/control", CONTROL, 0o644),
        ("usr/bin/ve-hello", "#!/bin/sh\necho hello\n", 0o755),
    ):
        (tree / path).parent.mkdir(parents=True, mode=0o755)
        (tree / path).write_text(text)
        (tree / path).chmod(mode)
    made.mkdir()
    build = ["dpkg-deb", "--root-owner-group", "--build"]
    subprocess.run([*build, tree, made / "ve-hello_1.0_all.deb"], stdout=subprocess.DEVNULL, check=True)
    write_index(made)
    return made


@contextlib.contextmanager
def serving(hostnet: HostNet, directory: Path) -> Iterator[list[str]]:
    """By HTTP, outside; what it says of those who came, once that is over."""
    server = ["-m", "http.server", "80", "--bind", "192.0.2.9", "--directory", str(directory)]
    words = [*entering(hostnet.other), sys.executable, "-u", *server]
    came: list[str] = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stderr and process.stdout.readline()
            yield came
        finally:
            process.terminate()
        came += process.stderr.read().splitlines()


def test_update_and_install(hostnet: HostNet, host_dir: Path, debian: str, veid: int, repository: Path) -> None:
    hostnet.outside("ip", "route", "del", "10.0.0.0/8")  # it knows the host alone
    hostnet.output(host_dir, "network", "add", "default", "--cidr", "10.9.0.0/24", "--nat")
    hostnet.output(host_dir, "create", veid, "--template", debian, "--ip", "auto", "--hostname", "deb")
    sources = host_dir / f"private/{veid}/upper/etc/apt/sources.list"
    sources.parent.mkdir(parents=True)
    for path in (sources.parent.parent, sources.parent):
        path.chmod(0o755)
    sources.write_text("deb [trusted=yes] http://192.0.2.9/ ./\n")
    hostnet.output(host_dir, "start", veid)
    with serving(hostnet, repository) as came:
        assert "http://192.0.2.9" in hostnet.output(host_dir, "exec", veid, "--", "apt-get", "update")
        hostnet.output(host_dir, "exec", veid, "--", "apt-get", "--yes", "install", "ve-hello")
    assert hostnet.output(host_dir, "exec", veid, "--", "ve-hello") == "hello\n"
    [address] = json.loads(hostnet.output(host_dir, "status", "--json", veid))["addresses"]
    assert address.startswith("10.9.0.")
    fetched = [line for line in came if " 200 " in line]
    assert {line.split()[0] for line in came} == {"192.0.2.1"}
    assert any("/ve-hello_1.0_all.deb" in line for line in fetched) and any("/Packages" in line for line in fetched)
    hostnet.output(host_dir, "stop", "--fast", veid)
