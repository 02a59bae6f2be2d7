"""The network of a VE, as another program's netlink sees it from outside: so far a loopback of its own."""

from pathlib import Path

from pyroute2 import NetNS

import ve
from tests.verbs import witness


def test_it_has_a_loopback_and_nothing_else(host_dir: Path, env: "ve.Environment") -> None:
    with NetNS(f"/proc/{witness.init(host_dir, env.veid)}/ns/net", flags=0) as network:
        links = [(link.get("ifname"), link["flags"] & 1, link.get("state")) for link in network.get_links()]
        addresses = sorted((each.get("address"), each["prefixlen"]) for each in network.get_addr())
        routes = [route.get("oif") for route in network.get_routes(table=254)]
    assert links == [("lo", 1, "up")]
    assert addresses == [("127.0.0.1", 8), ("::1", 128)]
    assert routes == []
