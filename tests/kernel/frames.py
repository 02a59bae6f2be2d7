"""Frames as a VE's root could forge them: bytes for an AF_PACKET socket, checksums included."""

import ipaddress
import struct

MULTICAST = "33:33:00:00:00:01"
EVERYONE = "ff:ff:ff:ff:ff:ff"
UDP, ICMP, ICMP6, FRAGMENT, OPTIONS = 17, 1, 58, 44, 60
IP, ARP, IP6 = 0x0800, 0x0806, 0x86DD


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ether(to: str, by: str, kind: int, payload: bytes) -> bytes:
    return mac(to) + mac(by) + struct.pack(">H", kind) + payload


def tagged(frame: bytes, vlan: int = 5) -> bytes:
    """The same in an 802.1Q VLAN."""
    return frame[:12] + struct.pack(">HH", 0x8100, vlan) + frame[12:]


def arp(operation: int, by: str, sender: str, target: str, to: str = EVERYONE, inner: str = "") -> bytes:
    """inner: the hardware address that it tells of, when that is not its own."""
    addresses = mac(inner or by) + _packed(sender) + mac("00:00:00:00:00:00") + _packed(target)
    return ether(to, by, ARP, struct.pack(">HHBBH", 1, IP, 6, 4, operation) + addresses)


def packet(source: str, target: str, protocol: int, body: bytes) -> bytes:
    """IPv4 or IPv6, by its addresses; what is in it gets its checksum."""
    ends = _packed(source) + _packed(target)
    if len(ends) == 8:
        filled = (
            body if protocol == ICMP else _with_sum(body, protocol, ends + struct.pack(">BBH", 0, protocol, len(body)))
        )
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0) + ends
        return head[:10] + struct.pack(">H", _sum(head)) + head[12:] + filled
    pseudo = ends + struct.pack(">IHBB", len(body), 0, 0, protocol)
    filled = body if protocol == FRAGMENT else _with_sum(body, protocol, pseudo)
    return struct.pack(">IHBB", 6 << 28, len(filled), protocol, 255) + ends + filled


def udp(source: int, target: int, payload: bytes) -> bytes:
    return struct.pack(">HHHH", source, target, 8 + len(payload), 0) + payload


def icmp(kind: int, code: int = 0, rest: bytes = bytes(4)) -> bytes:
    message = struct.pack(">BBH", kind, code, 0) + rest
    return message[:2] + struct.pack(">H", _sum(message)) + message[4:]


def icmp6(kind: int, rest: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, 0) + rest


def neighbour(kind: int, target: str) -> bytes:
    """A solicitation (135) or advertisement (136)."""
    return icmp6(kind, struct.pack(">I", 0x20000000 if kind == 136 else 0) + _packed(target))


def fragmented(source: str, target: str, protocol: int, body: bytes, *, hidden: bool) -> list[bytes]:
    """An IPv6 packet in two; hidden: the first part has but an empty header of options."""
    ends = _packed(source) + _packed(target)
    whole = _with_sum(body, protocol, ends + struct.pack(">IHBB", len(body), 0, 0, protocol))
    following, chain = protocol, whole
    if hidden:
        following, chain = OPTIONS, struct.pack(">BBHI", protocol, 0, 0x0104, 0) + whole
    parts = ((1, chain[:8]), (8, chain[8:]))  # more to come; 8 bytes on
    heads = [struct.pack(">BBHI", following, 0, place, 7) for place, _ in parts]
    return [packet(source, target, FRAGMENT, head + part) for head, (_, part) in zip(heads, parts, strict=True)]


def _with_sum(body: bytes, protocol: int, pseudo: bytes) -> bytes:
    at = {UDP: 6, ICMP6: 2}[protocol]
    return body[:at] + struct.pack(">H", _sum(pseudo + body) or 0xFFFF) + body[at + 2 :]


def _sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed
