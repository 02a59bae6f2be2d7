"""What the kernel tells, with names in it that somebody in a VE chose, or cut and changed as no kernel has it.

A name changes nothing but itself; what is broken is refused as the docstring of its reader says, and has an end.
"""

import io
import os
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.mutations import bounded, mutated
from ve import facts, ids, lock, mountinfo, netlink, oom, passwd, procfs, resolver, sample

NAMES = mutated([b"name", b"a) S 1 (b", b"x\nUid:\t0\t0", b"- tmpfs tmpfs rw", b"a\r\x0b\x0c\x1c\x85b"]).map(
    lambda data: data.replace(b"\0", b"")[:200]
)


def escaped(name: bytes, what: bytes) -> bytes:
    """As the kernel's mangle_path() and string_escape_str() write it."""
    return b"".join(b"\\%03o" % byte if byte in what else bytes([byte]) for byte in name)


@bounded(300)
@given(NAMES, NAMES, NAMES)
def test_a_mount(root: bytes, point: bytes, source: bytes) -> None:
    words = [escaped(name, b" \t\n\\") for name in (root, point, source)]
    line = mountinfo.Line(b"36 35 98:0 /%s /%s ro,noatime master:1 - fuse.x %s rw,a=b\n" % tuple(words))
    assert (line.number, line.device, line.kind) == (36, "98:0", "fuse.x")
    assert line.options == {"ro", "noatime"}
    assert (line.root, line.point) == (os.fsdecode(b"/" + root), os.fsdecode(b"/" + point))
    assert line.source == os.fsdecode(source)


@bounded(200)
@given(NAMES)
def test_a_process(name: bytes) -> None:
    status = b"Name:\t%s\nUmask:\t0022\nUid:\t5\t5\t5\t5\nVmLck:\t7 kB\n" % name.replace(b"\\", b"\\\\").replace(
        b"\n", b"\\n"
    )
    stat = b"7 (%s) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 2580480 1\n" % name
    given = {"status": status, "stat": stat, "cmdline": name.replace(b"\n", b"\0")}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(procfs, "open", lambda path, mode: io.BytesIO(given[path.rpartition("/")[2]]), raising=False)
        for module in (facts, lock):
            patched.setattr(module, "read_small", lambda path: given[path.rpartition("/")[2]])
        fields = procfs.status(7)
        assert [*fields][:4] == ["Name", "Umask", "Uid", "VmLck"] and fields["Uid"] == "5\t5\t5\t5"
        assert facts.process_start_time(7) == 4242
        called = lock._command(7)
        assert (called.isprintable() or not called) and len(called) <= 60
    assert sample._number(status, b"VmLck") == 7


@bounded(200)
@given(mutated([b"7 (a) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 2580480 1\n", b""]))
def test_what_is_left_of_a_process_that_ends(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(facts, "read_small", lambda path: data)
        assert isinstance(facts.process_start_time(7), int | None)


KILL = (
    b"3,7,2500000,-;Memory cgroup out of memory: Killed process 42 (eat) total-vm:70000kB, anon-rss:65024kB,"
    b" file-rss:512kB, shmem-rss:0kB, UID:1048576 pgtables:168kB oom_score_adj:0\n SUBSYSTEM=memory\n"
)


@bounded(300)
@given(mutated([KILL]))
def test_a_record_of_the_kernel_log(data: bytes) -> None:
    assert isinstance(oom.parse(data[:8192], 0.0), oom.Kill | None)


@bounded(200)
@given(mutated([b"red:100000:65536\n# a\n1000:165536:65536\n"]))
def test_subordinate_ids(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ids, "read_small", lambda path: data)
        assert all(found.start >= 0 and found for found in ids._given())


PASSWD = b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n"
GROUP = b"root:x:0:\nweb:x:1000:root,web\nempty:x:7:\n"


@bounded(300)
@given(mutated([PASSWD, GROUP]), st.sampled_from([b"root", b"web", b"0", b"1000", b"", b"nobody", b"9" * 5000]))
def test_the_users_of_a_ve(data: bytes, wanted: bytes) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(passwd, "read", lambda path: data)
        for look in (passwd.user_entry, passwd.group_id, lambda _: passwd.groups()):
            try:
                found: Any = look(wanted)
            except passwd.Refused:
                continue
            if isinstance(found, tuple):
                assert 0 <= found[1] < 2**32 - 1 and 0 <= found[2] < 2**32 - 1


@bounded(200)
@given(mutated([b"# a\nnameserver 10.9.0.1\nnameserver fe80::1%eth0\nsearch example.org a.b\noptions ndots:2 edns0\n"]))
def test_the_resolv_conf_of_the_host(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(resolver, "_text", lambda path: data.decode(errors="replace"))
        text = resolver.resolv_conf([], [])
    assert all(
        line.split(" ")[0] in ("nameserver", "search", "options") or line[0] == "#" for line in text.split("\n") if line
    )


ATTRIBUTES = netlink.attribute(3, b"eth0\0") + netlink.nested(
    18, netlink.attribute(1, b"vlan\0"), netlink.attribute(2, b"")
)


@bounded(300)
@given(mutated([ATTRIBUTES]), st.integers(0, 20))
def test_attributes_of_netlink(data: bytes, kind: int) -> None:
    body = memoryview(data)
    try:
        assert sum(len(value) for _, value in netlink.attributes(body)) <= len(data)
        at = netlink.find(body, kind, 0)
        assert 0 <= at <= len(data)
    except OSError:
        pass


HEADER = struct.Struct("=IHHII")
MESSAGES = b"".join(
    HEADER.pack(HEADER.size + len(body), kind, 2, 0, 0) + body
    for kind, body in ((16, b"\0" * 16 + ATTRIBUTES), (16, b"\0" * 16), (3, b"\0" * 4), (2, b"\xff" * 4))
)


class Channel:
    """A socket to a kernel that says this."""

    def __init__(self, data: bytes) -> None:
        self.answers = [data]

    def send(self, data: bytes) -> None:
        pass

    def recvfrom_into(self, buffer: memoryview, *_: int) -> tuple[int, tuple[int, int]]:
        data = self.recv()
        buffer[: len(data)] = data
        return len(data), (0, 0)

    def recv(self, *_: int) -> bytes:
        if not self.answers:
            raise BlockingIOError
        return self.answers.pop()[: 1 << 15]


@bounded(300)
@given(mutated([MESSAGES, MESSAGES[36:]]))
def test_messages_of_netlink(data: bytes) -> None:
    channel: Any = Channel(data)
    for ask in (
        lambda: [*netlink.dump(channel, 16, b"")],
        lambda: netlink.get(channel, 16, b""),
        lambda: netlink.transact(channel),
    ):
        channel.answers = [data]
        try:
            ask()
        except OSError:
            continue
