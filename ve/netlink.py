"""netlink(7): what the kernel is asked to do, and what it tells of all things of a kind, of which nothing is kept.

pyroute2 has this too, for 200 ms at its import and an object for each attribute of a hundred thousand sockets.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator

# <linux/netlink.h>
NETFILTER = 12  # a protocol that the module socket has no name for
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400  # NLM_F_...
NESTED = 0x8000  # NLA_F_NESTED
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x4, 0x300
_NLM_F_DUMP_INTR = 0x10  # of an answer: what is dumped has changed since the part before
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLA_TYPE_MASK = 0x3FFF
_NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_NLATTR = struct.Struct("=HH")  # length, type
_ERROR = struct.Struct("=i")
_MOST = 1 << 15  # bytes, which the kernel dumps at a time (af_netlink.c, netlink_dump)
_LARGEST = 1 << 17  # bytes of one message: an interface may have 64 KiB of names alone
_TRIES = 32  # for a dump that nobody interrupts; where VEs come and go all the time, half of them are


def connect(protocol: int) -> socket.socket:
    """A socket to the kernel, in the network namespace of the calling thread; the caller closes it.

    Whoever has CAP_NET_ADMIN in that namespace may send to any socket there, a VE's root too.  A connected one takes
    from its peer only: port 0 is the kernel.
    """
    channel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        channel.connect((0, 0))
    except BaseException:
        channel.close()
        raise
    return channel


def join(channel: socket.socket, group: int) -> None:
    """Have it hear what the kernel tells this group from now on."""
    channel.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)


def heard(channel: socket.socket) -> tuple[int, memoryview]:
    """Type and body of the next thing that it tells; ENOBUFS if it has told more since than there is room for."""
    return _taken_apart(channel.recv(_LARGEST, socket.MSG_DONTWAIT))


def dump(channel: socket.socket, kind: int, request: bytes) -> Iterator[memoryview]:
    """The body of each message, to be read before the next is asked for; OSError is the kernel's refusal.

    It never waits: the kernel writes the first part while it takes the request, and each other while it hands out the
    one before.  What comes or goes between two parts may hide another; for whom that matters there is whole().
    """
    return (body for _, body in _messages(channel, kind, request) if body)


def whole(channel: socket.socket, kind: int, request: bytes) -> list[memoryview]:
    """The same, all of one moment: asked for again where it has changed meanwhile; InterruptedError if it always does.

    Of what the kernel numbers the changes of: links, addresses, neighbours, and all of nf_tables.
    """
    for _ in range(_TRIES):
        found = [(flags, memoryview(bytes(body))) for flags, body in _messages(channel, kind, request)]
        if not any(flags & _NLM_F_DUMP_INTR for flags, _ in found):
            return [body for _, body in found if body]
    raise InterruptedError(errno.EINTR, "what is asked for changes all the time")


def _messages(channel: socket.socket, kind: int, request: bytes) -> Iterator[tuple[int, memoryview]]:
    """Flags and body of each, and of what ends them, whose body is empty here."""
    channel.send(_NLMSGHDR.pack(_NLMSGHDR.size + len(request), kind, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0) + request)
    buffer = memoryview(bytearray(_MOST))
    while True:
        length, (port, _) = channel.recvfrom_into(buffer, 0, socket.MSG_TRUNC | socket.MSG_DONTWAIT)
        if port != 0:
            continue  # sent between bind and connect
        if length > _MOST:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        at = 0
        while at < length:
            size, what, flags, *_ = _NLMSGHDR.unpack_from(buffer, at)
            if not _NLMSGHDR.size <= size <= length - at:
                raise _broken()
            body = buffer[at + _NLMSGHDR.size : at + size]
            if what in (_NLMSG_ERROR, _NLMSG_DONE):
                _check(body)
                yield flags, body[:0]
                return
            yield flags, body
            at += _aligned(size)


def ask(channel: socket.socket, *messages: bytes) -> None:
    """Have the kernel do all of these, which ask for acknowledgements, in their order; OSError is its first refusal.

    It does not stop at one that it refuses.  It never waits: the kernel has answered when it has taken them.
    """
    if not messages:
        return
    channel.send(b"".join(messages))
    bodies = [channel.recv(_MOST, socket.MSG_DONTWAIT)[_NLMSGHDR.size :] for _ in messages]
    for body in bodies:
        _check(memoryview(body))


def request(kind: int, body: bytes, flags: int = 0) -> bytes:
    """One for ask() or transact()."""
    return _NLMSGHDR.pack(_NLMSGHDR.size + len(body), kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, 0, 0) + body


def get(channel: socket.socket, kind: int, body: bytes, flags: int = 0) -> memoryview:
    """The one message that the kernel answers a question with; OSError is its refusal."""
    channel.send(_NLMSGHDR.pack(_NLMSGHDR.size + len(body), kind, _NLM_F_REQUEST | flags, 0, 0) + body)
    what, answer = _taken_apart(channel.recv(_LARGEST, socket.MSG_DONTWAIT))
    if what == _NLMSG_ERROR:
        _check(answer)
    return answer


def transact(channel: socket.socket, *messages: bytes) -> None:
    """The same as ask of what the kernel does as a whole or not at all: then it answers what stands in the way only."""
    channel.send(b"".join(messages))
    refusal: OSError | None = None
    while True:
        try:
            _check(memoryview(channel.recv(_MOST, socket.MSG_DONTWAIT))[_NLMSGHDR.size :])
        except BlockingIOError:
            break
        except OSError as error:
            refusal = refusal or error
    if refusal:
        raise refusal


def attributes(body: memoryview, at: int = 0) -> Iterator[tuple[int, memoryview]]:
    """Type and value of each attribute from there on; OSError if they are none."""
    while at < len(body):
        size, kind = _attribute_at(body, at)
        yield kind & _NLA_TYPE_MASK, body[at + _NLATTR.size : at + size]
        at += _aligned(size)


def find(body: memoryview, kind: int, at: int) -> int:
    """Where the value of the first attribute of this kind begins, of those from there on; 0 if there is none."""
    while at < len(body):
        size, each = _attribute_at(body, at)
        if each & _NLA_TYPE_MASK == kind:
            return at + _NLATTR.size
        at += _aligned(size)
    return 0


def mac(text: str) -> bytes:
    """An Ethernet address, as the kernel has what people write with colons."""
    return bytes.fromhex(text.replace(":", ""))


def attribute(kind: int, value: bytes) -> bytes:
    size = _NLATTR.size + len(value)
    return _NLATTR.pack(size, kind) + value + bytes(_aligned(size) - size)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(NESTED | kind, b"".join(parts))


def _taken_apart(message: bytes) -> tuple[int, memoryview]:
    """Type and body of one message."""
    if len(message) < _NLMSGHDR.size:
        raise _broken()
    return _NLMSGHDR.unpack_from(message)[1], memoryview(message)[_NLMSGHDR.size :]


def _attribute_at(body: memoryview, at: int) -> tuple[int, int]:
    """Size and type of the attribute there; OSError if there is none."""
    size, kind = _NLATTR.unpack_from(body, at) if at + _NLATTR.size <= len(body) else (0, 0)
    if not _NLATTR.size <= size <= len(body) - at:
        raise _broken()
    return size, kind


def _broken() -> OSError:
    """Of a length that cannot be: who believed it would never come to the end."""
    return OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))


def _check(body: memoryview) -> None:
    """Both that end a dump begin with 0 or a negative errno."""
    (error,) = _ERROR.unpack_from(body) if len(body) >= _ERROR.size else (-errno.EBADMSG,)
    if error < 0:
        raise OSError(-error, os.strerror(-error))


def _aligned(size: int) -> int:
    return size + 3 & ~3
