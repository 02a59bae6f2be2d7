"""What VEs hold is what ss, ipcs, nft, /proc and the numbers that a victim was told to hold say; none can stop us."""

import contextlib
import errno
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel import holder
from tests.kernel.holder import BASE
from ve import errand, netlink, ptys, sample, sockets
from ve._linux import syscalls

PAGE = os.sysconf("SC_PAGE_SIZE")
EVERY_NAME = {
    *("lockedpages", "shmpages", "numfile", "numflock", "numpty", "numsiginfo", "numiptent"),
    *("numtcpsock", "numothersock", "tcpsndbuf", "tcprcvbuf", "othersockbuf", "dgramrcvbuf"),
}

SOCKETS = """
tcp = [socket.socket() for _ in range(3)]
for each in tcp[:2]: each.bind(("127.0.0.1", 0)); each.listen()
tcp[2].connect(tcp[0].getsockname())
accepted, _ = tcp[0].accept()
six = socket.socket(socket.AF_INET6); six.bind(("::1", 0)); six.listen()
udp = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(3)]
for each in udp: each.bind(("127.0.0.1", 0))
unix = [*socket.socketpair(), *socket.socketpair(type=socket.SOCK_DGRAM)]
"""  # 5 of TCP, 7 others
FULL = """
tcp[2].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 100000)
tcp[2].setblocking(False)
try:
    while True: tcp[2].send(bytes(5000))
except BlockingIOError: pass
udp[0].sendto(bytes(1000), udp[1].getsockname())
six_udp = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(2)]
six_udp[0].bind(("::1", 0))
six_udp[1].sendto(bytes(3000), six_udp[0].getsockname())
unix[0].send(bytes(7000)); unix[2].send(bytes(900))
route = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
route.send(b"\\x14\\0\\0\\0\\x12\\0\\x01\\x03" + bytes(12))  # RTM_GETLINK, a dump that nobody reads
packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0xDD86)  # ETH_P_IPV6: with TCP's probes it would grow
six_udp[1].sendto(bytes(3000), six_udp[0].getsockname())
"""


def looked_at(pid: int, *others: int) -> dict[str, int]:
    [found] = sample.many([sample.Subject(pid, BASE, (pid, *others))])
    return found


def settled(pid: int, used: int = 0) -> None:
    """Until the sockets of who looked are freed, which is some time after they were closed."""
    wait_until(lambda: f"sockets: used {used}\n" in Path(f"/proc/{pid}/net/sockstat").read_text())


def inside(pid: int, namespace: str, *command: str, feed: str | None = None) -> str:
    """What a tool of the host's says in a namespace (n, i) of the process."""
    entered = ["nsenter", "-t", str(pid), f"-{namespace}", *command]
    return subprocess.run(entered, input=feed, stdout=subprocess.PIPE, text=True, check=True).stdout


def wait_until(what: Callable[[], bool]) -> None:
    """For what the kernel tells nobody of."""
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)


# ---- sockets --------------------------------------------------------------------------------------------------------


@pytest.mark.bears_out(numtcpsock="accounting only", numothersock="accounting only")
def test_sockets_are_as_many_as_it_made() -> None:
    with holder.running(SOCKETS) as pid:
        found = looked_at(pid)
    assert (found["numtcpsock"], found["numothersock"]) == (5, 7)


NESTED = """
if os.fork() == 0:
    ctypes.CDLL(None).unshare(0x40000000)  # CLONE_NEWNET
    udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind(("0.0.0.0", 0))
    signal.pause()
"""


def test_sockets_of_a_network_namespace_in_the_ves_are_not_counted() -> None:
    with holder.running(NESTED) as pid:
        (child,) = children(pid)
        wait_until(lambda: "sockets: used 1\n" in Path(f"/proc/{child}/net/sockstat").read_text())
        assert os.readlink(f"/proc/{child}/ns/net") != os.readlink(f"/proc/{pid}/ns/net")
        assert looked_at(pid, child)["numothersock"] == 0


def test_a_ve_without_sockets_holds_none() -> None:
    with holder.running("") as pid:
        found = looked_at(pid)
    assert EVERY_NAME - {"numfile"} == {name for name, number in found.items() if number == 0}


def skmem(pid: int, *options: str) -> list[dict[str, int]]:
    told = inside(pid, "n", "ss", "-a", "-m", *options)
    return [
        {key: int(value) for key, value in re.findall("([a-z]+)([0-9]+)", each)}
        for each in re.findall(r"skmem:\((.*?)\)", told)
    ]


@pytest.mark.bears_out(
    tcpsndbuf="accounting only",
    tcprcvbuf="accounting only",
    othersockbuf="accounting only",
    dgramrcvbuf="accounting only",
)
def test_buffers_hold_what_ss_says() -> None:
    options = (["-t"], ["-u"], ["-x"], ["-0"], ["-f", "netlink", "( src = rtnl:* )"])
    with holder.running(SOCKETS + FULL) as pid:
        while True:  # until all has arrived that will
            before = [skmem(pid, *each) for each in options]
            found = looked_at(pid)
            if before == (tables := [skmem(pid, *each) for each in options]):
                break
    tcp, udp, unix, packet, routes = tables
    route = max(routes, key=lambda each: each["r"])  # the other is the kernel's, and has the request
    assert found["tcpsndbuf"] == sum(each["w"] for each in tcp) > 100000
    assert found["tcprcvbuf"] == sum(each["r"] for each in tcp) > 10000
    others = [*udp, *packet, route]
    assert all(any(each["r"] for each in kind) for kind in (udp, packet, [route]))
    assert found["dgramrcvbuf"] == sum(each["r"] for each in others)
    assert found["othersockbuf"] == sum(each["t"] for each in others + unix) > 7900


def test_of_many_sockets_the_last_counts_too() -> None:
    many = "pairs = [socket.socketpair() for _ in range(450)]\nfor each, _ in pairs: each.send(b'x')"
    with holder.running(many) as pid:
        found = looked_at(pid)
        told = skmem(pid, "-x")
    assert len(told) == found["numothersock"] == 900
    assert found["othersockbuf"] == sum(each["t"] for each in told) > 450 * 500


def test_raw_sockets_are_counted_in_full_or_not_at_all() -> None:
    raw = """
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 17)
udp = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
udp[0].bind(("127.0.0.1", 0)); udp[1].sendto(bytes(1000), udp[0].getsockname())
"""
    with holder.running(raw) as pid:
        found = looked_at(pid)
        told = skmem(pid, "-u"), skmem(pid, "-w")
    if told[1]:
        assert found["dgramrcvbuf"] == sum(each["r"] for kind in told for each in kind) > told[0][0]["r"]
    else:  # a kernel without CONFIG_INET_RAW_DIAG
        assert EVERY_NAME - found.keys() == {"othersockbuf", "dgramrcvbuf"}
    assert found["numothersock"] == 3


def test_nobody_but_the_kernel_answers() -> None:
    """Or a VE's root could answer without end: port numbers are easy to guess."""
    with netlink.connect(sockets.NETLINK_SOCK_DIAG) as ours, contextlib.ExitStack() as stack:
        theirs = stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, sockets.NETLINK_SOCK_DIAG))
        with pytest.raises(ConnectionRefusedError):
            theirs.sendto(bytes(100), ours.getsockname())


def test_an_answer_that_came_before_we_could_refuse_it_is_dropped() -> None:
    done = (20).to_bytes(4, "little") + b"\x03\0" + bytes(14)  # NLMSG_DONE
    with contextlib.ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, sockets.NETLINK_SOCK_DIAG))
            for _ in range(2)
        )
        ours.bind((0, 0))
        theirs.sendto(done, ours.getsockname())
        ours.connect((0, 0))
        for each in socket.socketpair():
            stack.enter_context(each)
        kind = sockets._UNIX
        assert len(list(netlink.dump(ours, kind.message, kind.request))) >= 2


# ---- processes ------------------------------------------------------------------------------------------------------

MEMORY = """
locked = mmap.mmap(-1, 64 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
libc = ctypes.CDLL(None)
libc.mlock(ctypes.byref(ctypes.c_char.from_buffer(locked)), ctypes.c_size_t(64 * mmap.PAGESIZE))
"""


def test_locked_pages_are_those_of_its_mappings() -> None:
    with holder.running(MEMORY) as pid:
        found = looked_at(pid)
        locked = re.findall(r"^Locked: +(\d+) kB", Path(f"/proc/{pid}/smaps").read_text(), re.MULTILINE)
    assert found["lockedpages"] == sum(map(int, locked)) * 1024 // PAGE == 64


SEVERAL = """
files = [os.open("/dev/pts", os.O_RDONLY) for _ in range(100)]
child = os.fork()
if child == 0:
    os.closerange(3, 50)
    signal.pause()
"""


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.bears_out(numfile="accounting only")
def test_files_are_the_descriptors_of_all_its_processes() -> None:
    with holder.running(SEVERAL) as pid:
        (child,) = children(pid)
        listed = [f"/proc/{each}/fd" for each in (pid, child)]
        wait_until(lambda: len(os.listdir(listed[1])) < 100)
        found = looked_at(pid, child)
        told = sum(len(subprocess.check_output(["ls", each], text=True).split()) for each in listed)
    assert found["numfile"] == told > 150


SHARED = """
files = [os.open("/dev/pts", os.O_RDONLY) for _ in range(100)]
CLONE_FILES, number = 0x400, {"x86_64": 56, "aarch64": 220}[os.uname().machine]
if ctypes.CDLL(None).syscall(number, CLONE_FILES | signal.SIGCHLD, 0, 0, 0, 0) == 0: signal.pause()
"""


def test_a_table_that_two_processes_share_counts_for_each() -> None:
    with holder.running(SHARED) as pid:
        (child,) = children(pid)
        alone, both = looked_at(pid)["numfile"], looked_at(pid, child)["numfile"]
        told = len(subprocess.check_output(["ls", f"/proc/{pid}/fd"], text=True).split())
    assert both == 2 * alone == 2 * told > 200


def test_a_table_of_descriptors_is_listed_where_the_kernel_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before 6.2: then /proc/PID/fd has size 0."""
    with holder.running("files = [os.open('/dev/pts', os.O_RDONLY) for _ in range(100)]") as pid:
        told = len(subprocess.check_output(["ls", f"/proc/{pid}/fd"], text=True).split())
        monkeypatch.setattr("ve.sample.os.stat", lambda *_, **__: os.stat_result([0] * 10))
        assert looked_at(pid)["numfile"] == told > 100
        monkeypatch.setattr("ve.sample._SLOTS_MOST", 64)
        assert looked_at(pid)["numfile"] == 128  # as many as have room


def test_processes_that_have_gone_or_are_zombies_hold_nothing() -> None:
    with holder.running("if os.fork() == 0: os._exit(0)") as pid:
        (zombie,) = children(pid)
        wait_until(lambda: "State:\tZ" in Path(f"/proc/{zombie}/status").read_text())
        alone, nobody = looked_at(pid), int(Path("/proc/sys/kernel/pid_max").read_text()) + 1
        settled(pid)
        assert looked_at(pid, zombie, nobody) == alone


HEADLESS = """
import _thread
child = os.fork()
if child == 0:
    files = [os.open("/dev/pts", os.O_RDONLY) for _ in range(100)]
    locked = mmap.mmap(-1, 64 * mmap.PAGESIZE)
    libc = ctypes.CDLL(None)
    libc.mlock(ctypes.byref(ctypes.c_char.from_buffer(locked)), ctypes.c_size_t(64 * mmap.PAGESIZE))
    _thread.start_new_thread(signal.pause, ())
    libc.syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # exit(2), of this thread only
"""


def test_a_process_whose_main_thread_has_ended_holds_what_it_held() -> None:
    with holder.running(HEADLESS) as pid:
        (child,) = children(pid)
        wait_until(lambda: "State:\tZ" in Path(f"/proc/{child}/status").read_text())
        (thread,) = {each.name for each in Path(f"/proc/{child}/task").iterdir()} - {str(child)}
        listed = [f"/proc/{pid}/fd", f"/proc/{child}/task/{thread}/fd"]
        found = looked_at(pid, child)
        told = sum(len(subprocess.check_output(["ls", each], text=True).split()) for each in listed)
    assert found["numfile"] == told > 100
    assert found["lockedpages"] == 64


def test_a_process_cannot_name_itself_into_its_numbers() -> None:
    with holder.running("libc = ctypes.CDLL(None); libc.prctl(15, b'\\nVmLck:\\t99 kB\\r')") as pid:
        assert "VmLck" in Path(f"/proc/{pid}/status").read_text().splitlines()[0]
        assert looked_at(pid)["lockedpages"] == 0


def test_too_much_text_about_processes_is_not_read_to_its_end() -> None:
    """Each of the groups is in /proc/PID/status: with all that there are, 20 ms a process."""
    with holder.running("os.setgroups(range(65536))\nfor _ in range(5): os.fork() or signal.pause()") as pid:
        every = (pid, *children(pid))
        found = looked_at(*every)
        told = sum(len(subprocess.check_output(["ls", f"/proc/{each}/fd"], text=True).split()) for each in every)
    assert EVERY_NAME - found.keys() == {"lockedpages"}
    assert found["numfile"] == told > 0


# ---- what namespaces and tables hold --------------------------------------------------------------------------------

SHARED_MEMORY = """
libc = ctypes.CDLL(None)
for pages in (60, 40): assert libc.shmget(0, ctypes.c_size_t(pages * mmap.PAGESIZE), 0o1600) >= 0
"""


def test_shared_memory_is_what_ipcs_says() -> None:
    with holder.running(SHARED_MEMORY) as pid:
        found = looked_at(pid)
        told = re.search(r"pages allocated +(\d+)", inside(pid, "i", "ipcs", "-m", "-u"))
    assert told
    assert found["shmpages"] == int(told[1]) == 100


LOCKS = """
files = [os.open(f"/tmp/{name}", os.O_CREAT | os.O_RDWR) for name in "abc"]
fcntl.flock(files[0], fcntl.LOCK_EX)
fcntl.lockf(files[1], fcntl.LOCK_SH)
fcntl.fcntl(files[2], 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))  # F_OFD_SETLK
if os.fork() == 0:
    again = os.open("/tmp/a", os.O_RDWR)
    fcntl.flock(again, fcntl.LOCK_EX)  # for ever
"""


@pytest.mark.bears_out(numflock="accounting only")
def test_locks_are_those_of_its_processes_but_for_who_waits_and_ofd() -> None:
    with holder.running(LOCKS) as pid, open("/proc/self/exe", "rb") as ours:
        import fcntl

        fcntl.flock(ours, fcntl.LOCK_SH)
        (child,) = children(pid)
        waits = rf"-> FLOCK .* {child} "
        wait_until(lambda: bool(re.search(waits, Path("/proc/locks").read_text())))
        assert looked_at(pid, child)["numflock"] == 2
        held = subprocess.check_output(["lslocks", "-n", "-p", str(pid), "-o", "TYPE,M"], text=True)
    assert len(held.splitlines()) == 2


def test_with_too_many_locks_on_the_host_nobodys_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with holder.running(LOCKS) as pid:
        monkeypatch.setattr("ve.sample._LOCKS_MOST", 10)
        assert EVERY_NAME - looked_at(pid).keys() == {"numflock"}


SIGNALS = """
signal.pthread_sigmask(signal.SIG_BLOCK, [40])
for _ in range(7): os.kill(os.getpid(), 40)
child = os.fork()
if child == 0:
    os.setresuid(1000, 1000, 1000)
    for _ in range(11): os.kill(os.getpid(), 40)
    signal.pause()
"""


def test_queued_signals_are_those_of_all_its_users() -> None:
    with holder.running(SIGNALS) as pid:
        (child,) = children(pid)

        def queued(each: int) -> int:
            return int(re.findall(r"SigQ:\t(\d+)", Path(f"/proc/{each}/status").read_text())[0])

        wait_until(lambda: queued(child) == 11)
        assert queued(pid) == 7
        assert looked_at(pid)["numsiginfo"] == 18


PTYS = "ptys = [os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY) for _ in range(3)]\n"


def test_ptys_are_the_entries_of_its_devpts() -> None:
    with holder.running(PTYS) as pid:
        assert looked_at(pid)["numpty"] == 3
        assert sorted(os.listdir(f"/proc/{pid}/root/dev/pts")) == ["0", "1", "2", "ptmx"]


def test_ptys_are_looked_for_where_the_kernel_counts_more_than_we_have() -> None:
    with holder.running(PTYS):
        counted = int(Path("/proc/sys/kernel/pty/nr").read_text())
        assert counted >= 3 + sum(name.isdigit() for name in os.listdir("/dev/pts"))
        assert ptys.any_elsewhere()


def test_where_all_ptys_are_ours_nobody_is_asked_for_his(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ve.sample.ptys.any_elsewhere", lambda: False)
    with holder.running("s.umount2('/dev/pts', 2)") as pid:
        assert looked_at(pid)["numpty"] == 0


def test_ptys_of_a_second_devpts_count_too() -> None:
    second = """
os.mkdir("/tmp/pts"); s.mount("devpts", "/tmp/pts", "devpts", 0, "newinstance,ptmxmode=0666")
more = [os.open("/tmp/pts/ptmx", os.O_RDWR | os.O_NOCTTY) for _ in range(2)]
os.mkdir("/tmp/bound"); s.mount("/tmp/pts", "/tmp/bound", None, s.MS_BIND)
"""
    with holder.running(PTYS + second) as pid:
        assert looked_at(pid)["numpty"] == 5


def test_a_pty_of_a_foreign_devpts_is_not_its_own() -> None:
    """As the console that it may have been given."""
    console = """
os.mkdir("/tmp/pts"); s.mount("devpts", "/tmp/pts", "devpts", 0, "newinstance,ptmxmode=0666")
more = [os.open("/tmp/pts/ptmx", os.O_RDWR | os.O_NOCTTY) for _ in range(2)]
os.close(os.open("/dev/console", os.O_CREAT | os.O_WRONLY)); s.mount("/tmp/pts/1", "/dev/console", None, s.MS_BIND)
s.umount2("/tmp/pts", 2)
"""
    with holder.running(PTYS + console) as pid:
        assert looked_at(pid)["numpty"] == 3


@pytest.mark.parametrize("hide", ("s.umount2('/dev/pts', 2)", "s.mount('tmpfs', '/dev/pts', 'tmpfs')"))
def test_ptys_that_are_hidden_are_not_said_to_be_none(hide: str) -> None:
    with holder.running(PTYS + hide) as pid:
        assert EVERY_NAME - looked_at(pid).keys() == {"numpty"}


RULES = """
add table inet t
add chain inet t in { type filter hook input priority 0; }
add chain inet t other
add set inet t s { type ipv4_addr; }
add element inet t s { 10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4 }
add rule inet t in ip saddr @s accept
add rule inet t in tcp dport { 80, 443 } jump other
add table ip6 u
add chain ip6 u c
add rule ip6 u c accept
add rule ip6 u c accept
"""


@pytest.mark.bears_out(numiptent="accounting only")
def test_nftables_entries_are_as_many_as_nft_lists() -> None:
    with holder.running("") as pid, holder.running("", BASE + 65536) as other:
        inside(pid, "n", "nft", "-f", "-", feed=RULES)
        found = looked_at(pid)
        listed = json.loads(inside(pid, "n", "nft", "-j", "list", "ruleset"))["nftables"]
        [none] = sample.many([sample.Subject(other, BASE + 65536, [other])])
        assert none["numiptent"] == 0
    kinds = [next(iter(each)) for each in listed]
    elements = sum(len(each["set"]["elem"]) for each in listed if "set" in each)
    assert (kinds.count("rule"), kinds.count("chain"), elements) == (4, 3, 4)
    assert found["numiptent"] == 4 + 3 + elements + 2  # those of { 80, 443 } are of a set without a name


def test_elements_are_counted_where_sets_do_not_say_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ve.netfilter._NFTA_SET_COUNT", -1)
    with holder.running("") as pid:
        many = ", ".join(f"10.0.{number // 256}.{number % 256}" for number in range(5000))
        inside(pid, "n", "nft", "-f", "-", feed=RULES + f"add element inet t s {{ {many} }}")
        assert looked_at(pid)["numiptent"] == 4 + 3 + 5000 + 2


def test_legacy_iptables_are_counted_as_their_own_tool_does() -> None:
    with holder.running("") as pid:
        before = looked_at(pid)["numiptent"]
        for command in ("iptables-legacy", "ip6tables-legacy"):
            with contextlib.suppress(subprocess.CalledProcessError):  # a kernel without: then there are none
                for port in ("1", "2", "3"):
                    inside(pid, "n", command, "-A", "INPUT", "-p", "tcp", "--dport", port, "-j", "ACCEPT")
        found = looked_at(pid)["numiptent"]
        saved = "".join(inside(pid, "n", f"{name}-legacy-save") for name in ("iptables", "ip6tables"))
    assert before == 0
    tables = saved.count("*filter")
    assert found == saved.count("-A ") + saved.count("\n:") + tables  # and an entry that ends each table
    assert found == tables * 7


# ---- who is looked at, and who looks --------------------------------------------------------------------------------


def test_each_of_many_has_its_own() -> None:
    other = BASE + 65536
    with holder.running(PTYS + SHARED_MEMORY) as first, holder.running(SOCKETS, other) as second:
        gone = subprocess.Popen(["true"])
        gone.wait()
        subjects = [(first, BASE, [first]), (gone.pid, BASE, []), (second, other, [second]), (second, BASE, [second])]
        results = sample.many([sample.Subject(*each) for each in subjects])
        settled(first)
        settled(second, 12)
        alone = [sample.many([sample.Subject(*each)])[0] for each in subjects]
    assert results == alone
    assert [each.get("shmpages") for each in results] == [100, None, 0, None]
    assert [each.get("numtcpsock") for each in results] == [0, None, 5, None]
    assert results[1] == results[3] == {}  # the latter is another VE's pid by now


def test_a_zombie_init_holds_nothing() -> None:
    with holder.running(SOCKETS) as pid:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: "State:\tZ" in Path(f"/proc/{pid}/status").read_text())
        assert looked_at(pid) == {}


def test_nothing_of_the_caller_changes() -> None:
    def own() -> object:
        thread = Path("/proc/thread-self")
        places = [os.readlink(thread / name) for name in ("cwd", "root", "ns/ipc", "ns/net", "ns/mnt", "ns/user")]
        status = re.sub(r"(?m)^(Vm|Rss|Hugetlb|SigQ|Threads|.*ctxt).*\n", "", (thread / "status").read_text())
        return places, status, threading.active_count()

    with holder.running(SOCKETS + PTYS) as pid:
        before = own()
        assert looked_at(pid).keys() == EVERY_NAME
        assert own() == before


def test_its_thread_goes_back_to_where_it_was() -> None:
    """Or the last VE's namespaces, and its addresses, would be there for as long as the kernel takes to end it."""

    def place() -> object:
        return os.readlink("/proc/thread-self/ns/net"), os.readlink("/proc/thread-self/ns/ipc"), os.getresuid()

    with holder.running("") as pid:
        after = errand.in_a_thread(lambda: (sample._tour([sample.Subject(pid, BASE, [pid])]), place()))
    assert after[1] == place()


def test_where_it_may_not_enter_it_tells_what_is_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of the namespaces where it is instead."""
    inside_only = {"shmpages", "tcpsndbuf", "tcprcvbuf", "othersockbuf", "dgramrcvbuf", "numiptent"}
    with holder.running(SOCKETS) as pid:
        own = {os.readlink(f"/proc/self/{name}") for name, _ in sample._NAMESPACES}
        setns = syscalls.setns

        def only_home(fd: int, kind: int) -> None:
            if os.readlink(f"/proc/self/fd/{fd}") not in own:
                raise syscalls.SyscallError(errno.EPERM, "setns")
            setns(fd, kind)

        monkeypatch.setattr("ve.sample.syscalls.setns", only_home)
        assert EVERY_NAME - looked_at(pid).keys() == inside_only


# ---- a file system that never answers -------------------------------------------------------------------------------

SILENT = """
fuse = os.open("/dev/fuse", os.O_RDWR)
s.mount("silent", {path!r}, "fuse", 0, f"fd={{fuse}},rootmode=40000,user_id=0,group_id=0,allow_other")
"""
# One that answers until its server is stopped: each directory has dev, or pts, and nothing may be remembered.  An
# overlay above it asks it with the rights of its mounter, and so for everybody: fuse alone refuses who is of the host.
STOPPED = (
    """
for name in "fuse", "empty", "merged": os.mkdir(f"/tmp/{name}")
"""
    + SILENT.format(path="/tmp/fuse")
    + """
def attributes(node): return struct.pack("6Q10I", node, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
def answer(operation, node, argument):
    if operation == 26: return struct.pack("4I2HI2HI7I", 7, 31, 0, 0, 0, 0, 4096, 0, 0, 0, *[0] * 7)  # INIT
    if operation == 1: return struct.pack("4Q2I", node + 1, 0, 0, 0, 0, 0) + attributes(node + 1)  # LOOKUP
    if operation == 3: return struct.pack("Q2I", 0, 0, 0) + attributes(node)  # GETATTR
    if operation == 17: return struct.pack("5Q10I", 0, 0, 0, 0, 0, 4096, 255, 4096, *[0] * 7)  # STATFS
    if operation == 27: return bytes(16)  # OPENDIR
server = os.fork()
while server == 0:
    request = os.read(fuse, 1 << 17)
    _, operation, number, node = struct.unpack_from("2I2Q", request)
    names = {1: b"dev\\0", 2: b"pts\\0"}
    answered = answer(operation, node, request[40:])
    if operation == 1 and names.get(node) != request[40:]: answered, error = b"", -2
    else: answered, error = (answered, 0) if answered is not None else (b"", -38)
    if operation not in (2, 42, 36):  # FORGET, INTERRUPT
        os.write(fuse, struct.pack("IiQ", 16 + len(answered), error, number) + answered)
s.mount("overlay", "/tmp/merged", "overlay", 0, "lowerdir=/tmp/fuse:/tmp/empty")
s.mount("devpts", "/tmp/merged/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666")
os.chroot("/tmp/merged")
pty = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
os.kill(server, signal.SIGSTOP)
"""
)


def test_a_kind_that_sock_diag_lacks_is_asked_for_once() -> None:
    """Or the kernel would look for a module each time."""
    kind, asked = sockets.Kind(("UNIX",), 20, bytes((254, 0)) + bytes(22), 16, 5), set[sockets.Kind]()
    with sockets.Meter(asked) as meter:
        with pytest.raises(OSError, match="Invalid argument"):
            meter._sum(kind, {"UNIX": 1})
        assert asked == {kind}
        with pytest.raises(FileNotFoundError, match="sock_diag has no UNIX"):
            meter._sum(kind, {"UNIX": 1})


def names_told(pid: int) -> set[str]:
    """By another process, so that one that hangs only fails."""
    look = f"from ve import sample; print(*sample.many([sample.Subject({pid}, {BASE}, [{pid}])])[0])"
    done = subprocess.run([sys.executable, "-c", look], stdout=subprocess.PIPE, text=True, check=True, timeout=100)
    return set(done.stdout.split())


@pytest.mark.parametrize("path", ("/dev/pts", "/dev"))
def test_a_file_system_of_its_own_is_not_asked(path: str) -> None:
    with holder.running(PTYS + SILENT.format(path=path)) as pid:
        assert EVERY_NAME - names_told(pid) == {"numpty"}


def test_a_file_system_that_never_answers_stops_nobody() -> None:
    """Not even where a path was replaced after mountinfo named it: a name is looked up that nobody looked up before."""
    with holder.running(STOPPED) as pid:
        witness = subprocess.Popen(["ls", f"/proc/{pid}/root/never"])
        try:
            wait_until(lambda: "request_wait_answer" in Path(f"/proc/{witness.pid}/wchan").read_text())
        finally:
            witness.kill()  # at once: who comes second waits for the first, and cannot be killed
            witness.wait()
        assert EVERY_NAME - names_told(pid) == {"numpty"}
        look = f"import os; from ve import ptys; ptys._handle(os.open('/proc/{pid}/root', os.O_PATH), {BASE}, 'seen')"
        done = subprocess.run([sys.executable, "-c", look], stderr=subprocess.PIPE, text=True, timeout=100)
        # Of the VE's root, as who it is walked, 6.1 first says that it may not search there.
        assert re.search(r"\[Errno 11\] the way there is not in the kernel's memory|\[Errno 13\]", done.stderr)
