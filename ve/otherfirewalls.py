"""Whether the host's own firewall lets VEs' packets pass: what drops, in the hook forward, whatever it does not know.

Each chain of that hook has its say, so what one accepts another may drop; ours cannot help.  Docker and ufw let a chain
of iptables(8) drop by its policy, firewalld by a last rule.  Nobody's tables are changed: who runs them adds a rule.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
from dataclasses import dataclass

from ve import netfilter
from ve._linux import visits
from ve.ruleset import VES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# <linux/netfilter_ipv4/ip_tables.h>, <linux/netfilter_ipv6/ip6_tables.h>, <linux/netfilter/x_tables.h>
_IPT_SO_GET_ENTRIES = 65
_IPT_GET_ENTRIES = struct.Struct("=32sI4x")  # name, size; the entries follow
_SIZES, _VERDICT = struct.Struct("=HH"), struct.Struct("=i")  # how far the target is, and the next entry
_FORWARD = 2  # NF_INET_FORWARD
_DROP = -1  # -NF_DROP - 1, of a target that is a verdict
_ACCEPT = -2
_LEGACY = (  # file, command, family, level; where in an entry its interfaces are, and how far its target is
    ("net/ip_tables_names", "iptables-legacy", socket.AF_INET, socket.IPPROTO_IP, 16, 88),
    ("net/ip6_tables_names", "ip6tables-legacy", socket.AF_INET6, socket.IPPROTO_IPV6, 64, 140),
)
_USERS = "DOCKER-USER"  # the chain that Docker leaves to the admin, and comes to first
_COMMANDS = {"ip": "iptables", "ip6": "ip6tables"}


@dataclass(frozen=True)
class Obstacle:
    """A chain that drops what comes from VEs and goes to them, and the command that lets it pass."""

    chain: str
    cure: str


def others_drop() -> list[Obstacle]:
    """In the calling thread's namespace; of nftables only where there is an nft."""
    return [*_nftables(), *_legacy()]


def _nftables() -> Iterator[Obstacle]:
    try:
        done = subprocess.run(
            ["nft", "-j", "-t", "list", "ruleset"], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except FileNotFoundError:
        return
    listed = json.loads(done.stdout)["nftables"] if done.stdout else []
    chains = [each["chain"] for each in listed if "chain" in each]
    rules = [each["rule"] for each in listed if "rule" in each]
    for chain in chains:
        if chain.get("hook") == "forward" and chain["family"] in ("ip", "ip6", "inet"):
            own = [rule for rule in rules if _is_of(rule, chain)]
            users = [rule for rule in rules if _is_of(rule, chain | {"name": _USERS})]
            if not _lets_pass(own + users) and (chain.get("policy") == "drop" or (own and _is_refusal(own[-1]))):
                yield _obstacle(chain, chains)


def _is_of(rule: dict[str, Any], chain: dict[str, Any]) -> bool:
    return (rule["family"], rule["table"], rule["chain"]) == (chain["family"], chain["table"], chain["name"])


def _lets_pass(rules: list[dict[str, Any]]) -> bool:
    """Was our advice followed?  nft shows no match of iptables' here, but for that of interfaces."""
    accepted = set()
    for rule in rules:
        matches = [part["match"] for part in rule["expr"] if "match" in part]
        ends = [part for part in rule["expr"] if "accept" in part]
        if len(matches) == 1 and ends and matches[0]["right"] == VES:
            accepted.add(matches[0]["left"].get("meta", {}).get("key"))
    return accepted >= {"iifname", "oifname"}


def _is_refusal(rule: dict[str, Any]) -> bool:
    """Does it refuse whatever comes as far as it?"""
    kinds = {kind for part in rule["expr"] for kind in part}
    return bool(kinds & {"drop", "reject"}) and kinds <= {"drop", "reject", "counter", "log"}


def _obstacle(chain: dict[str, Any], chains: list[dict[str, Any]]) -> Obstacle:
    family, table, name = chain["family"], chain["table"], chain["name"]
    where = f"{family} {table} {name}"
    if family in _COMMANDS and (table, name) == ("filter", "FORWARD"):
        users = any((each["family"], each["table"], each["name"]) == (family, table, _USERS) for each in chains)
        return Obstacle(where, _iptables(_COMMANDS[family], _USERS if users else name))
    rules = "; ".join(f'insert rule {where} {side} "{VES}" accept' for side in ("iifname", "oifname"))
    return Obstacle(where, f"nft '{rules}'")


def _iptables(command: str, chain: str) -> str:
    name = VES.replace("*", "+")
    return " && ".join(f"{command} -I {chain} {side} {name} -j ACCEPT" for side in ("-i", "-o"))


def _legacy() -> Iterator[Obstacle]:
    for file, command, family, level, interfaces, sizes in _LEGACY:
        try:
            with open(f"/proc/thread-self/{file}", "rb") as tables:
                names = tables.read().split()
        except (FileNotFoundError, PermissionError):
            continue  # this kernel has them not, or not in use; or we may not ask for them
        if b"filter" in names:
            with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
                policy, entries = _entries(asking.fileno(), level)
            if _verdict(entries, policy, sizes) == _DROP and not _accepts(entries, interfaces, sizes):
                yield Obstacle(f"{command} FORWARD", _iptables(command, "FORWARD"))


def _entries(asking: int, level: int) -> tuple[int, bytes]:
    """Those of all chains, and where among them the one is that ends FORWARD, which is its policy."""
    about = netfilter.info(asking, level, b"filter")
    underflows, size = about[7:12], about[13]
    question = _IPT_GET_ENTRIES.pack(b"filter", size) + bytes(size)
    entries = visits.getsockopt(asking, level, _IPT_SO_GET_ENTRIES, question)[_IPT_GET_ENTRIES.size :]
    return underflows[_FORWARD], entries


def _verdict(entries: bytes, at: int, sizes: int) -> int:
    target, _ = _SIZES.unpack_from(entries, at + sizes)
    return int(_VERDICT.unpack_from(entries, at + target + 32)[0])


def _accepts(entries: bytes, interfaces: int, sizes: int) -> bool:
    """Was our advice followed?  In whatever chain."""
    accepted, at, name = set(), 0, VES.rstrip("*").encode()
    while at < len(entries):
        target, following = _SIZES.unpack_from(entries, at + sizes)
        named = [entries[at + interfaces + 16 * side :].startswith(name) for side in (0, 1)]
        if following >= target + 36 and _verdict(entries, at, sizes) == _ACCEPT:
            accepted |= {side for side in (0, 1) if named[side]}
        at += following
    return accepted == {0, 1}
