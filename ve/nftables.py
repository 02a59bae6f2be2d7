"""nf_tables(7), as far as VEs' networks have it: our tables loaded by nft(8), and their elements changed by netlink.

Elements are what changes while VEs come and go; nft takes 10 ms to start, the kernel 0.1 for what it is asked directly.
Bytes of keys and data are the kernel's: what is joined by . in nft is padded to 4 bytes each.
"""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
from dataclasses import dataclass

from ve import netlink
from ve.errors import Error, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

TABLE = "ve"
FAMILIES = {"inet": 1, "bridge": 7}  # <linux/netfilter.h>
# <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>
_NFNL_SUBSYS_NFTABLES, _NFNL_MSG_BATCH_BEGIN, _NFNL_MSG_BATCH_END = 10, 16, 17
_GETTABLE, _GETRULE, _NEWSETELEM, _GETSETELEM, _DELSETELEM = 1, 7, 12, 13, 14  # NFT_MSG_...
_NFTA_TABLE_NAME, _NFTA_TABLE_USERDATA, _NFTA_RULE_TABLE = 1, 6, 1
_NFTA_SET_ELEM_LIST_TABLE, _NFTA_SET_ELEM_LIST_SET, _NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3
_NFTA_LIST_ELEM, _NFTA_DATA_VALUE = 1, 1
_NFTA_SET_ELEM_KEY, _NFTA_SET_ELEM_DATA, _NFTA_SET_ELEM_EXPR = 1, 2, 7
_NFTA_EXPR_DATA, _NFTA_COUNTER_BYTES, _NFTA_COUNTER_PACKETS = 2, 1, 2
_NFGENMSG = struct.Struct(">BBH")  # family, version, resource
_COMMENT = 0  # NFTNL_UDATA_TABLE_COMMENT of libnftnl, whose value nft ends with a 0


@dataclass(frozen=True)
class Element:
    """One of a set, or of a map, which has data; packets and bytes where the set counts."""

    key: bytes
    data: bytes = b""
    packets: int = 0
    bytes: int = 0


# --- keys and data ------------------------------------------------------------------------------------------------


def joined(*parts: bytes) -> bytes:
    """What nft writes with a . between."""
    return b"".join(part + bytes(-len(part) % 4) for part in parts)


def interface(name: str) -> bytes:
    return name.encode().ljust(16, b"\0")


def service(port: int) -> bytes:
    return port.to_bytes(2, "big")


# --- what there is ------------------------------------------------------------------------------------------------


def state(family: str) -> tuple[str, int]:
    """Our table's comment and the number of its rules, in the calling thread's namespace; ("", 0) if there is none."""
    with netlink.connect(netlink.NETFILTER) as channel:
        try:
            about = dict(netlink.attributes(_get(channel, _GETTABLE, family, _text(_NFTA_TABLE_NAME, TABLE)), 4))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.EINVAL):  # EINVAL: no nf_tables as yet
                return "", 0
            raise
        rules = netlink.whole(channel, _kind(_GETRULE), _head(family) + _text(_NFTA_RULE_TABLE, TABLE))
        return _comment(bytes(about.get(_NFTA_TABLE_USERDATA, b""))), len(rules)


def is_whole(family: str, comment: str, rules: int) -> bool:
    """Is our table of this family there, with this comment and so many rules?  In the calling thread's namespace."""
    return state(family) == (comment, rules)


def _comment(data: bytes) -> str:
    """Of what nft keeps with a table: type, length and value of each."""
    while len(data) >= 2:
        kind, size = data[0], data[1]
        if kind == _COMMENT:
            return data[2 : 2 + size].rstrip(b"\0").decode(errors="replace")
        data = data[2 + size :]
    return ""


def elements(family: str, name: str) -> Iterator[Element]:
    """All of a set or map of ours; none if it is not there."""
    with netlink.connect(netlink.NETFILTER) as channel:
        try:
            for message in netlink.whole(channel, _kind(_GETSETELEM), _head(family) + _set(name)):
                yield from _listed(message)
        except FileNotFoundError:
            return


def find(family: str, name: str, key: bytes) -> Element | None:
    """The one with this key, if there is one, or the table at all."""
    with netlink.connect(netlink.NETFILTER) as channel:
        try:
            message = _get(channel, _GETSETELEM, family, _set(name) + _elements([Element(key)]))
        except FileNotFoundError:
            return None
        return next(_listed(message))


def _listed(message: memoryview) -> Iterator[Element]:
    for kind, value in netlink.attributes(message, _NFGENMSG.size):
        if kind == _NFTA_SET_ELEM_LIST_ELEMENTS:
            yield from (_element(each) for _, each in netlink.attributes(value))


def _element(value: memoryview) -> Element:
    parts = dict(netlink.attributes(value))
    key, data = (_value(parts[kind]) if kind in parts else b"" for kind in (_NFTA_SET_ELEM_KEY, _NFTA_SET_ELEM_DATA))
    if _NFTA_SET_ELEM_EXPR not in parts:
        return Element(key, data)
    counter = dict(netlink.attributes(dict(netlink.attributes(parts[_NFTA_SET_ELEM_EXPR]))[_NFTA_EXPR_DATA]))
    packets, size = (int.from_bytes(counter[kind], "big") for kind in (_NFTA_COUNTER_PACKETS, _NFTA_COUNTER_BYTES))
    return Element(key, data, packets, size)


def _value(nested: memoryview) -> bytes:
    return bytes(dict(netlink.attributes(nested))[_NFTA_DATA_VALUE])


# --- what changes -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """An element to be made, where it must not be there yet, or to be there; or to be removed."""

    family: str
    name: str
    element: Element
    kind: int
    flags: int

    @property
    def message(self) -> bytes:
        body = _head(self.family) + _set(self.name) + _elements([self.element])
        return netlink.request(self.kind, body, self.flags)


def new(family: str, name: str, key: bytes, data: bytes = b"") -> Change:
    """EEXIST if there is one with this key."""
    return Change(family, name, Element(key, data), _kind(_NEWSETELEM), netlink.CREATE | netlink.EXCL)


def there(family: str, name: str, key: bytes) -> Change:
    """Of a set: to be there from now on, if it was not."""
    return Change(family, name, Element(key), _kind(_NEWSETELEM), netlink.CREATE)


def gone(family: str, name: str, key: bytes) -> Change:
    """ENOENT if there is none."""
    return Change(family, name, Element(key), _kind(_DELSETELEM), 0)


def change(*changes: Change) -> None:
    """Make all of these at once, or none; OSError is the kernel's refusal, ENOENT that our table is not there."""
    if not changes:
        return
    begin, end = (
        netlink.request(kind, _NFGENMSG.pack(0, 0, _NFNL_SUBSYS_NFTABLES))
        for kind in (_NFNL_MSG_BATCH_BEGIN, _NFNL_MSG_BATCH_END)
    )
    with netlink.connect(netlink.NETFILTER) as channel:
        netlink.transact(channel, begin, *(each.message for each in changes), end)


def load(commands: str) -> None:
    """Have nft do these, all at once or none; NotSupported without nft, else Error with what it says."""
    try:
        done = subprocess.run(["nft", "-f", "-"], input=commands, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NotSupported("cannot load the rules of VEs' networks: no nft here", "apt-get install nftables") from error
    if done.returncode:
        said = next((line.strip() for line in done.stderr.splitlines() if line), f"nft ended with {done.returncode}")
        raise Error(f"cannot load the rules of VEs' networks: {said}", "use a kernel with CONFIG_NF_TABLES_INET")


# --- messages -----------------------------------------------------------------------------------------------------


def _get(channel: socket.socket, kind: int, family: str, about: bytes) -> memoryview:
    return netlink.get(channel, _kind(kind), _head(family) + about)


def _kind(message: int) -> int:
    return _NFNL_SUBSYS_NFTABLES << 8 | message


def _head(family: str) -> bytes:
    return _NFGENMSG.pack(FAMILIES[family], 0, 0)


def _text(kind: int, text: str) -> bytes:
    return netlink.attribute(kind, text.encode() + b"\0")


def _set(name: str) -> bytes:
    return _text(_NFTA_SET_ELEM_LIST_TABLE, TABLE) + _text(_NFTA_SET_ELEM_LIST_SET, name)


def _elements(those: list[Element]) -> bytes:
    return netlink.nested(
        _NFTA_SET_ELEM_LIST_ELEMENTS, *(netlink.nested(_NFTA_LIST_ELEM, *_parts(each)) for each in those)
    )


def _parts(element: Element) -> Iterator[bytes]:
    for kind, value in ((_NFTA_SET_ELEM_KEY, element.key), (_NFTA_SET_ELEM_DATA, element.data)):
        if value:
            yield netlink.nested(kind, netlink.attribute(_NFTA_DATA_VALUE, value))
