"""Whom a VE asks for names, and its own: what /etc/resolv.conf and /etc/hosts are to say, resolv.conf(5) and hosts(5).

nameservers and searchdomains are what was asked for; () or ("inherit",) is what the host has when the VE is started.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ve.addresses import Address, plain
from ve.errors import InvalidValue

INHERIT = "inherit"
MAXNS = 3  # resolv.conf(5): who asks looks at no more
OF_HOST = "/etc/resolv.conf"
OF_RESOLVED = "/run/systemd/resolve/resolv.conf"  # systemd-resolved(8): whom the stub asks in turn
_STUB = "127.0.0.53"
_DOMAIN = r"\.|(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?"
_NOTE = "# Written by ve when this VE was started.\n"
_NOBODY = "# The host has no nameserver but at its own loopback, which a VE cannot reach: ve set --nameserver.\n"


@dataclass(frozen=True)
class Resolver:
    """What a resolv.conf says, in its own words."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Resolver:
        found: dict[str, tuple[str, ...]] = {}
        nameservers = []
        for line in text.splitlines():
            key, *values = line.partition("#")[0].split() or [""]
            if key == "nameserver" and values:
                nameservers.append(values[0])
            elif key in ("search", "domain"):
                found["search"] = tuple(values)  # the last one counts
            elif key == "options":
                found["options"] = (*found.get("options", ()), *values)
        return cls(tuple(nameservers), **found)


def check(nameservers: Sequence[str], searchdomains: Sequence[str]) -> None:
    """InvalidValue for what cannot be asked for names, or is no domain; or for more than a resolver looks at."""
    for what, words in (("nameserver", nameservers), ("searchdomain", searchdomains)):
        if INHERIT in words and len(words) > 1:
            raise InvalidValue(f"cannot use {what} {INHERIT} beside {_other(words)}: it stands for what the host has")
    if len(nameservers) > MAXNS:
        raise InvalidValue(f"cannot use {len(nameservers)} nameservers: a resolver asks the first {MAXNS} only")
    for word in nameservers:
        if word != INHERIT and _has_no_meaning(plain(word, "nameserver")):
            raise InvalidValue(f"cannot use nameserver {word!r}: nobody can be asked there")
    for word in searchdomains:
        if not re.fullmatch(_DOMAIN, word):
            raise InvalidValue(f"cannot use searchdomain {word!r}: it is not a domain, such as example.org")


def resolv_conf(nameservers: Sequence[str], searchdomains: Sequence[str]) -> str:
    """The whole file.  What is inherited is asked of the host anew at each call."""
    host = of_host()
    own = nameservers if _is_asked(nameservers) else host.nameservers
    search = searchdomains if _is_asked(searchdomains) else host.search
    lines = [f"search {' '.join(search)}\n"] if search else []
    lines += [f"nameserver {each}\n" for each in own] or [_NOBODY]
    if not _is_asked(nameservers) and host.options:
        lines.append(f"options {' '.join(host.options)}\n")
    return _NOTE + "".join(lines)


def of_host() -> Resolver:
    """What the host's own file says, without what a VE could not reach; of systemd-resolved, whom that asks in turn."""
    own = Resolver.parse(_text(OF_HOST))
    if _STUB in own.nameservers and (behind := Resolver.parse(_text(OF_RESOLVED))).nameservers:
        own = Resolver(behind.nameservers, own.search, own.options)
    reachable = tuple(each for each in own.nameservers if not _is_local(each))
    return Resolver(reachable, own.search, tuple(each for each in own.options if each != "trust-ad"))


def hosts(addresses: Iterable[Address], names: Sequence[str]) -> list[str]:
    """Lines of a hosts file: each address with these names, the first being the canonical one, and its first label."""
    whole = " ".join(known_as(names))
    return [f"{address}\t{whole}" for address in addresses if whole]


def known_as(names: Sequence[str]) -> list[str]:
    """These names, and the first label of the first; never localhost, which is each VE's own."""

    def each() -> Iterator[str]:
        for name in names:
            yield name
            if name == names[0]:
                yield name.partition(".")[0]

    return [name for name in dict.fromkeys(each()) if name and name.lower().partition(".")[0] != "localhost"]


def _is_asked(words: Sequence[str]) -> bool:
    return tuple(words) not in ((), (INHERIT,))


def _other(words: Sequence[str]) -> str:
    return next((word for word in words if word != INHERIT), INHERIT)


def _has_no_meaning(address: Address) -> bool:
    return address.is_multicast or address.is_unspecified


def _is_local(text: str) -> bool:
    """Is this the host's own loopback, of one of its links (%eth0), or no address at all?"""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return True
    mapped = address.ipv4_mapped if address.version == 6 else None
    return address.is_loopback or address.is_unspecified or address.is_link_local or bool(mapped and mapped.is_loopback)


def _text(path: str) -> str:
    """Nothing if the host has none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
