"""As many VEs as a /24 has addresses, which was the announcement's own example."""

import contextlib
import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests.hostnet import HostNet
from ve import pool

NETWORK = ipaddress.ip_network("10.9.1.0/24")


@pytest.fixture
def full(hostnet: HostNet, host: "ve.Host") -> Iterator[list["ve.Environment"]]:
    """254 running VEs of a pool that has no more."""
    pool.add(pool.Pool("default", (NETWORK,)))
    with contextlib.ExitStack() as ends:
        envs = []
        for veid in range(20001, 20255):
            env = host.create(veid, template="busybox", addresses=["auto"])
            ends.callback(env.destroy)
            hostnet.call(env.start)
            ends.callback(hostnet.call, env.stop, fast=True)
            envs.append(env)
        yield envs


@pytest.mark.any_kernel
@pytest.mark.timeout(900)
def test_254_answer_at_once_and_there_is_no_255th(
    hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int, full: list["ve.Environment"]
) -> None:
    routes = json.loads(hostnet.run("ip", "-j", "route", "show", "root", str(NETWORK)).stdout)
    assert sorted(ipaddress.ip_address(each["dst"]) for each in routes) == list(NETWORK.hosts())
    assert len({each["dev"] for each in routes}) == 254
    pings = "".join(f"ping -c1 -W20 {address} >/dev/null || echo {address} &\n" for address in NETWORK.hosts())
    assert hostnet.run("sh", stdin=None, input=f"{pings}wait\n").stdout == ""
    host.create(veid, template="busybox", addresses=["auto"])
    refused = hostnet.ve(host_dir, "start", veid)
    assert refused.returncode == 51
    assert refused.stderr.startswith(
        f"ve: cannot lease an address of pool default for {veid}: none of 254 of IPv4 is free\n"
    )
    hostnet.call(full[7].stop, fast=True)
    assert hostnet.ve(host_dir, "start", veid).returncode == 0
    hostnet.output(host_dir, "stop", "--fast", veid)
    hostnet.call(full[7].start)
