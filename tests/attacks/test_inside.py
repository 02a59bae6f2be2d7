"""Attacks from inside a VE of the default profile: by its root, by a user through a setuid program, and by root of
namespaces that were made inside.  Each is first seen to work, or to get as far as it can without harm, where nothing
confines it.  table.py has what can be told by an answer; below are those that a witness must tell.
"""

import contextlib
import ctypes
import fcntl
import os
import re
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import ve
from tests import conftest
from tests.attacks import table
from tests.programs import compiled
from tests.verbs import commandline, witness

HERE = Path(__file__).parent
WHO = ("root", "setuid", "nested")
VICTIMS = ("host", "VE")
OTHER_USER: dict[str, Any] = {"user": 54321, "group": 54321, "extra_groups": []}  # of the host
MARK = "VE_ATTACK_MARK"  # a variable of the host's
OUTSIDE = """
set -e
mount -t tmpfs room "$1"; mkdir "$1/proc"; mount -t proc proc "$1/proc"
mount --bind /dev/null "$1/proc/keys"; mount --bind "$1/proc/sys" "$1/proc/sys"; mount -o remount,bind,ro "$1/proc/sys"
mount --bind "$2" "$2"; mount -o remount,bind,nosuid,nodev "$2"; mount --bind "$3" "$3"; mount -o remount,bind,ro "$3"
exec 5<"$2"; shift 3; "$@"
"""


# ---- the scene -------------------------------------------------------------------------------------------------------


@dataclass
class Victim:
    """Somebody outside of the VE, and what it says of itself."""

    process: Any
    facts: dict[str, str]

    def report(self) -> dict[str, str]:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return facts_of(self.process.stdout.readline())


@dataclass
class Scene:
    program: Path
    env: "ve.Environment"
    victims: dict[str, Victim]
    facts: dict[str, str]  # as in the VE
    outer: dict[str, str]  # those that differ outside
    answers: dict[str, dict[str, str]] = field(default_factory=dict)
    reports: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)


def facts_of(line: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in line.split())


def compile_program(directory: Path) -> Path:
    return compiled(directory / "attack", *(path for path in sorted(HERE.glob("*.c")) if path.stem != "entering"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(tmp_path_factory.mktemp("attack"))


@pytest.fixture(scope="module")
def scene(host: "ve.Host", host_dir: Path, program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    place = tmp_path_factory.mktemp("scene")
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, "host")
        facts, outer = files(place)
        facts |= device(place, stack) | cgroups(stack) | old_hierarchy() | namespaced_child(stack)
        mounts = [f"{outer['share']}:/share", f"{outer['frozen']}:/frozen:ro"]
        env = running(host, program, stack, 7001, mounts=mounts)
        other = running(host, program, stack, 7002)
        victims = {"host": host_victim(program, stack), "VE": ve_victim(host_dir, other, stack)}
        outer["own"] = facts["empty"]
        facts["other"] = "/".join(commandline.cgroup(host_dir, other.veid).parts[-2:])
        yield Scene(program, env, victims, facts, outer)


def running(host: "ve.Host", program: Path, stack: contextlib.ExitStack, veid: int, **options: Any) -> "ve.Environment":
    """A VE with the program in it, once plain and once setuid."""
    env = host.create(veid, template="busybox", **options)
    stack.callback(conftest._end, host, veid)
    env.copy_in(str(program), "/attack", archive=True)
    env.start()
    witness.shell(env, "chown 0:0 /attack && cp /attack /bin/attack && chmod 4755 /bin/attack")
    return env


def files(place: Path) -> tuple[dict[str, str], dict[str, str]]:
    for name in ("share", "frozen", "room"):
        (place / name).mkdir()
    (place / "marker").write_text("the host's")
    inside = {"share": "/share", "frozen": "/frozen", "proc": "/proc", "own": "/sys/fs/cgroup", "room": "/dev/shm"}
    outside = {name: str(place / name) for name in ("share", "frozen", "room")} | {"proc": f"{place}/room/proc"}
    return inside | {"marker": str(place / "marker"), "handle": handle(place / "marker"), "variable": MARK}, outside


def handle(path: Path) -> str:
    """What name_to_handle_at(2) gives: type and bytes."""
    libc = ctypes.CDLL(None, use_errno=True)
    given = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 8 + 128)
    assert libc.name_to_handle_at(-100, os.fsencode(path), given, ctypes.byref(ctypes.c_int()), 0) == 0
    size, kind = struct.unpack_from("=Ii", given)
    return f"{kind} {given.raw[8 : 8 + size].hex()}"


def device(place: Path, stack: contextlib.ExitStack) -> dict[str, str]:
    """A block device of ours, with a file system."""
    image = place / "image"
    image.touch()
    os.truncate(image, 8 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    path = subprocess.check_output(["losetup", "--find", "--show", image], text=True).strip()
    stack.callback(subprocess.run, ["losetup", "--detach", path], check=True)
    number = os.stat(path).st_rdev
    return {"device": path, "loop": f"{os.major(number)} {os.minor(number)}"}


def cgroups(stack: contextlib.ExitStack) -> dict[str, str]:
    """Two of the host's, for what is done outside: one to move a process into, and one without any."""
    made = {}
    for name in ("scratch", "empty"):
        cgroup = conftest.cgroup_root() / f"ve-attack-{os.getpid()}-{name}"
        cgroup.mkdir()
        stack.callback(cgroup.rmdir)
        made[name] = str(cgroup)
    return made


def old_hierarchy() -> dict[str, str]:
    """One of cgroup v1 that this host has beside v2, or one that nobody has.  Made outside, the latter stays without a
    cgroup in it, and so goes with its mount."""
    found = re.search(r" - cgroup \S+ \S*?([a-z_]+=?[a-z_]*)$", Path("/proc/self/mountinfo").read_text(), re.MULTILINE)
    return {"v1": found[1] if found else "none,name=attack"}


def namespaced_child(stack: contextlib.ExitStack) -> dict[str, str]:
    """A process of the host in a user and a pid namespace below the host's."""
    line = ["unshare", "--user", "--pid", "--fork", "cat"]
    parent = stack.enter_context(subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    assert parent.stdin and parent.stdout
    stack.callback(parent.stdin.close)
    parent.stdin.write("is it there?\n")
    parent.stdin.flush()
    parent.stdout.readline()
    return {"child": Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().strip()}


def host_victim(program: Path, stack: contextlib.ExitStack) -> Victim:
    """In IPC and uts namespaces of its own, which the host's root may enter: nothing of it stays whatever happens."""
    mark = f"host-victim-{os.getpid()}"
    line: list[str | Path] = ["unshare", "--ipc", "--uts", program, "victim", mark]
    process = stack.enter_context(subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    assert process.stdin and process.stdout
    stack.callback(process.stdin.close)
    facts = facts_of(process.stdout.readline())
    return Victim(process, facts | {"pid": str(process.pid), "mark": mark, "tty": facts["terminal"].split("/")[-1]})


def ve_victim(host_dir: Path, env: "ve.Environment", stack: contextlib.ExitStack) -> Victim:
    mark = f"ve-victim-{os.getpid()}"
    process: Any = env.popen(["/attack", "victim", mark], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.stdout.close)
    stack.callback(process.stdin.close)
    facts = facts_of(process.stdout.readline())
    pids = commandline.processes(host_dir, env.veid).values()
    [pid] = [pid for pid in pids if mark in Path(f"/proc/{pid}/cmdline").read_text()]
    return Victim(process, facts | {"pid": str(pid), "mark": mark, "tty": facts["terminal"].split("/")[-1]})


# ---- what the program answers ----------------------------------------------------------------------------------------


def inside(scene: Scene, who: str) -> Callable[[str], str]:
    """Runs the program in the VE; takes what it reads, gives what it prints."""
    line = ["/bin/attack" if who == "setuid" else "/attack", *(["-n"] if who == "nested" else []), "-"]
    user = "1000" if who == "setuid" else None

    def run(lines: str) -> str:
        done = scene.env.run(line, input=lines, user=user, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return str(done.stdout)

    return run


def outside(scene: Scene, *before: str) -> Callable[[str], str]:
    """Runs it for the host's root, in some namespaces."""
    environment = os.environ | {"ATTACK_ROOM": scene.outer["room"]}

    def run(lines: str) -> str:
        return subprocess.check_output([*before, scene.program, "-"], input=lines, text=True, env=environment)

    return run


def alone(scene: Scene) -> tuple[str, ...]:
    """The command that gives it namespaces where it cannot harm, and masks as a VE has."""
    namespaces = ("--mount", "--pid", "--fork", "--mount-proc", "--ipc", "--uts", "--net")
    return (
        "unshare",
        *namespaces,
        "sh",
        "-c",
        OUTSIDE,
        "sh",
        *(scene.outer[key] for key in ("room", "share", "frozen")),
    )


def ask(run: Callable[[str], str], rows: dict[str, str]) -> dict[str, str]:
    labels = dict(enumerate(rows))
    printed = run("".join(f"{number} {rows[label]}\n" for number, label in labels.items()))
    return {labels[int(number)]: answer for number, answer in re.findall(r"^(\d+) (.*)$", printed, re.MULTILINE)}


def across(facts: dict[str, str], victims: dict[str, Victim], where: str) -> dict[str, str]:
    """What the rows of ACROSS are told, for each of these victims."""
    return {
        f"{row.name}, of {name}": getattr(row, where).format_map(facts | victim.facts)
        for name, victim in victims.items()
        for row in table.ACROSS
    }


@pytest.fixture(scope="module")
def asked(scene: Scene) -> Scene:
    """All rows, asked inside by everyone and then outside; before, between and after it the victims are asked too."""

    def reports(when: str) -> None:
        scene.reports[when] = {name: victim.report() for name, victim in scene.victims.items()}

    reports("before")
    facts = scene.facts | {"procs": "/sys/fs/cgroup/cgroup.procs"}
    rows = across(facts, scene.victims, "words")
    rows |= {row.name: row.words.format_map(facts) for row in table.ALONE}
    for who in WHO:
        scene.answers[who] = ask(inside(scene, who), rows)
    reports("inside")
    victim = scene.victims["host"]
    facts |= scene.outer | {"procs": f"{scene.facts['scratch']}/cgroup.procs"}
    beside = outside(scene, "nsenter", f"--target={victim.process.pid}", "--ipc", "--uts")
    scene.answers["outside"] = ask(beside, across(facts, {"host": victim}, "elsewhere"))
    rows = {row.name: row.elsewhere.format_map(facts) for row in table.ALONE}
    scene.answers["outside"] |= ask(outside(scene, *alone(scene)), rows)
    reports("outside")
    return scene


def can(capability: str) -> bool:
    """May root of this machine have it?"""
    return subprocess.run(["capsh", f"--has-b=cap_{capability}"], capture_output=True).returncode == 0


ROWS = [*table.ACROSS, *table.ALONE]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_it_works_where_nothing_confines(asked: Scene, row: table.Attack) -> None:
    label = f"{row.name}, of host" if row in table.ACROSS else row.name
    answer = asked.answers["outside"][label].split()[-1]
    lacking = row.capability and not can(row.capability)
    assert answer in ((row.inside | {"EACCES"}) if lacking else (row.outside | row.lacks))


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_it_is_refused_inside(asked: Scene, row: table.Attack, who: str) -> None:
    answers, expected = asked.answers[who], row.nested if who == "nested" else row.inside
    outer = asked.answers["outside"]
    for victim in VICTIMS if row in table.ACROSS else ("",):
        label = f"{row.name}, of {victim}" if victim else row.name
        there = outer[f"{row.name}, of host" if victim else row.name].split()[-1]
        assert answers[label] in (expected | row.lacks if there in row.lacks else expected), label


@pytest.mark.parametrize("victim", VICTIMS)
def test_nobody_else_was_touched(asked: Scene, victim: str) -> None:
    assert asked.reports["inside"][victim] == asked.reports["before"][victim]


def test_the_victim_tells_whether_it_was(asked: Scene) -> None:
    before, after = (asked.reports[when]["host"] for when in ("before", "outside"))
    same = {"sigios"} - set(before) | {"domain"} | ({"cpus"} if before["cpus"] == "1" else set())
    assert {key for key in before if before[key] == after[key]} == same


# ---- with what was given: a descriptor that was passed, and a terminal -----------------------------------------------


def given(scene: Scene, fd: int, name: str, *words: object) -> tuple[str, str]:
    """What the program answers with fd as its standard input: in the VE, and outside."""
    line = [name, *map(str, words)]
    done = scene.env.run(["/attack", *line], stdin=fd, capture_output=True, text=True)
    there = subprocess.run([scene.program, *line], stdin=fd, capture_output=True, text=True)
    return done.stdout.strip(), there.stdout.strip()


UNKNOWN = ("ENOTTY", "EINVAL")  # of an ioctl that a kernel has not yet


@pytest.mark.parametrize(
    ("name", "refused", "lacks"),
    [
        ("given-pidfd-getfd", "EPERM", ()),
        ("given-pidfd-setns", "EPERM", ()),
        ("given-pidfd-signal", "EINVAL", ()),
        ("given-pidfd-namespace", "EACCES", UNKNOWN),
    ],
)
def test_a_pidfd_that_was_passed(scene: Scene, name: str, refused: str, lacks: tuple[str, ...]) -> None:
    victim = scene.victims["host"]
    with commandline.watched(victim.process.pid) as pidfd:
        before = victim.report()
        answer = scene.env.run(["/attack", name], stdin=pidfd, capture_output=True, text=True).stdout.strip()
        assert victim.report() == before
        there = subprocess.run([scene.program, name], stdin=pidfd, capture_output=True, text=True).stdout.strip()
        assert (answer, there) == (refused, "WORKED") or (answer == there and there in lacks)


def test_the_peer_of_a_socket_that_was_passed(scene: Scene) -> None:
    """From 6.5 a socket tells by a pidfd who made it: us."""
    ours, theirs = socket.socketpair()
    with ours, theirs, signals_counted() as got:
        answer = scene.env.run(["/attack", "given-peer"], stdin=theirs, capture_output=True, text=True).stdout.strip()
        assert not got
        there = subprocess.run([str(scene.program), "given-peer"], stdin=theirs.fileno(), stdout=subprocess.PIPE).stdout
        assert (answer, got) == (("EINVAL", [signal.SIGUSR2]) if there == b"WORKED\n" else ("ENOPROTOOPT", []))


@pytest.mark.parametrize("kind", ["mnt", "net", "uts", "ipc", "cgroup"])
def test_a_namespace_that_was_passed(scene: Scene, kind: str) -> None:
    fd = os.open(f"/proc/self/ns/{kind}", os.O_RDONLY)
    try:
        assert given(scene, fd, "given-namespace") == ("EPERM", "WORKED")
    finally:
        os.close(fd)


@contextlib.contextmanager
def signals_counted() -> Iterator[list[int]]:
    """Signals that we get meanwhile."""
    got: list[int] = []
    numbers = (signal.SIGIO, signal.SIGUSR2)
    before = {number: signal.signal(number, lambda number, _: got.append(number)) for number in numbers}
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_another_owner_of_a_socket_that_was_passed(scene: Scene) -> None:
    """SIGIO goes to who may be named as its owner: in the VE, nobody outside."""
    ours, theirs = socket.socketpair()
    with ours, theirs, signals_counted() as got:
        assert given(scene, theirs.fileno(), "given-setown", os.getpid())[0] == "ESRCH"
        theirs2 = theirs.dup()
        with theirs2:
            fcntl.fcntl(theirs2, fcntl.F_SETFL, os.O_ASYNC)
            ours.send(b"x")
        assert signal.SIGIO in got, "it was made our own outside, and tells"


def test_another_signal_than_sigio_for_the_owner_of_a_socket_that_was_passed(scene: Scene) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, signals_counted() as got:
        fcntl.fcntl(theirs, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(theirs, fcntl.F_SETFL, os.O_ASYNC)
        ours.send(b"x")
        assert got == [signal.SIGIO]
        scene.env.run(["/attack", "given-setsig"], stdin=theirs, capture_output=True)
        ours.send(b"x")
        assert got == [signal.SIGIO, signal.SIGIO]


def test_a_claim_to_be_root_of_the_host(scene: Scene, host_dir: Path) -> None:
    """SCM_CREDENTIALS (unix(7)): who receives them sees the ids that the host knows the sender by."""
    ours, theirs = socket.socketpair()
    base = witness.base(witness.init(host_dir, scene.env.veid))
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        assert given(scene, theirs.fileno(), "claim", os.getpid(), 0) == ("ESRCH", "WORKED")
        assert struct.unpack("3i", ours.recvmsg(1, 64)[1][0][2]) == (os.getpid(), 0, 0)
        answer = scene.env.run(["/attack", "claim", "1", "0"], stdin=theirs, capture_output=True, text=True).stdout
        pid, uid, gid = struct.unpack("3i", ours.recvmsg(1, 64)[1][0][2])
        assert (answer, uid, gid) == ("WORKED\n", base, base)
        assert pid == witness.init(host_dir, scene.env.veid)


@pytest.mark.parametrize("streams", [{}, {"stdout": subprocess.PIPE}], ids=["a terminal", "a pipe"])
def test_nothing_is_typed_on_the_terminal_of_who_enters(scene: Scene, host_dir: Path, streams: dict[str, Any]) -> None:
    """TIOCSTI (CVE-2016-2779, CVE-2017-5226): a shell of the host would execute it."""
    for name in ("given-tiocsti", "given-tiocsctty"):
        words = ("exec", scene.env.veid, "/attack", name)
        with commandline.on_terminal(host_dir, *words, **streams) as terminal:
            assert terminal.end() in (0, 1)
            assert not typed(terminal)


def test_it_is_typed_where_nothing_is_between(scene: Scene) -> None:
    master, slave = os.openpty()
    terminal = commandline.Terminal(master, slave)
    try:
        line: list[str | Path] = [scene.program, "given-tiocsti"]
        take = lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0)  # noqa: E731
        subprocess.run(line, stdin=slave, stdout=subprocess.DEVNULL, start_new_session=True, preexec_fn=take)
        assert typed(terminal) == 1
    finally:
        os.close(master)
        os.close(slave)


def typed(terminal: commandline.Terminal) -> int:
    """How much a reader of this terminal would get."""
    fcntl.fcntl(terminal.slave, fcntl.F_SETFL, os.O_NONBLOCK)
    modes = termios.tcgetattr(terminal.slave)
    modes[3] &= ~termios.ICANON
    termios.tcsetattr(terminal.slave, termios.TCSANOW, modes)
    return int(struct.unpack("i", fcntl.ioctl(terminal.slave, termios.FIONREAD, b"\0" * 4))[0])


# ---- what works inside, and stays inside -----------------------------------------------------------------------------


def looks_while_it_waits(scene: Scene, look: Callable[[], object], line: list[str]) -> tuple[object, str]:
    """What a witness sees while the program waits for it, in the VE; and its answer."""
    process: Any = scene.env.popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with contextlib.closing(process.stdin):
        answer = process.stdout.readline().strip()
        seen = look() if answer == "READY" else None
    answer = process.stdout.read().strip() or answer
    process.stdout.close()
    process.wait()
    return seen, answer


def test_a_mount_over_what_is_given_is_seen_by_nobody_else(scene: Scene) -> None:
    def kinds() -> set[str]:
        return {line.source for line in witness.mounts()} | {line.source for line in witness.mounts(1)}

    seen, answer = looks_while_it_waits(scene, kinds, ["/attack", "propagate", "/share"])
    assert answer == "WORKED" and isinstance(seen, set) and "attack" not in seen


@pytest.mark.parametrize("who", WHO)
def test_nothing_of_proc_but_processes_is_written(scene: Scene, who: str) -> None:
    assert ask(inside(scene, who), {"proc": "write-anywhere /proc"}) == {"proc": "NONE"}
    assert ask(outside(scene, *alone(scene)), {"proc": "write-anywhere /proc/irq"})["proc"].endswith("WORKED")


@pytest.mark.parametrize("file", ["keys", "timer_list"])
def test_it_does_not_see_who_opens_dev_null(scene: Scene, file: str) -> None:
    def look() -> None:
        os.close(os.open("/dev/null", os.O_RDONLY))

    assert looks_while_it_waits(scene, look, ["/attack", "watch", f"/proc/{file}"])[1] == "EAGAIN"


def test_a_watch_shows_opens(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line: list[str | Path] = [scene.program, "watch", tmp_path / "file"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == "READY\n"
        (tmp_path / "file").read_bytes()
        assert process.communicate("\n")[0] == "WORKED\n"


def test_inotify_instances_of_one_ve_are_not_the_host_s(scene: Scene) -> None:
    def one_for_the_host() -> str:
        return subprocess.check_output([scene.program, "inotify"], input="\n", text=True).split()[-1]

    scene.program.parent.chmod(0o755)
    options: dict[str, Any] = {"args": ["./attack", "inotify"], "cwd": scene.program.parent, "text": True, **OTHER_USER}
    with subprocess.Popen(stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options) as first:
        assert first.stdin and first.stdout and first.stdout.readline() == "READY\n"
        assert subprocess.run(input="\n", capture_output=True, **options).stdout == "EMFILE\n"
        first.communicate("\n")
    assert looks_while_it_waits(scene, one_for_the_host, ["/attack", "inotify"]) == ("WORKED", "WORKED")


def number(path: str) -> int:
    return int(Path(path).read_text())


def test_a_fork_bomb_leaves_pids_to_the_host(scene: Scene, host_dir: Path) -> None:
    """That root inside cannot raise it is a row of the table; to go there would take half of this machine's pids."""
    limits = Path(f"/proc/{witness.init(host_dir, scene.env.veid)}/limits").read_text()
    [most] = re.findall(r"^Max processes +\d+ +(\d+)", limits, re.MULTILINE)
    assert int(most) <= number("/proc/sys/kernel/pid_max") / 2


def test_requests_of_asynchronous_io_are_not_the_host_s(scene: Scene) -> None:
    """fs.aio-max-nr is one for all: a few are enough to see where they count."""
    before = number("/proc/sys/fs/aio-nr")
    seen, answer = looks_while_it_waits(scene, lambda: number("/proc/sys/fs/aio-nr"), ["/attack", "aio", "8"])
    assert answer == "ENOSYS" or seen == before


@pytest.mark.parametrize(
    "name",
    [
        "orphan",
        pytest.param("sibling", marks=pytest.mark.xfail(reason="clone(CLONE_PARENT) makes it a child of our middle")),
    ],
)
def test_orphans_go_to_its_init(host: "ve.Host", host_dir: Path, program: Path, name: str) -> None:
    with contextlib.ExitStack() as stack:
        env = running(host, program, stack, 7004)
        done = env.run(["/attack", name], capture_output=True, text=True)
        pid = commandline.processes(host_dir, env.veid)[int(done.stdout.split()[0])]
        assert int(witness.status(pid)["PPid"]) == witness.init(host_dir, env.veid)


def test_a_name_of_its_own(scene: Scene) -> None:
    apart = ["unshare", "--uts", "sh", "-c", "hostname stolen; sh -c hostname"]
    assert subprocess.check_output(apart, text=True) == "stolen\n"
    before = os.uname(), {name: victim.report()["domain"] for name, victim in scene.victims.items()}
    set_both = "hostname stolen; unshare -u hostname stolen; hostname"
    assert witness.shell(scene.env, set_both) == "stolen\n"
    assert (os.uname(), {name: victim.report()["domain"] for name, victim in scene.victims.items()}) == before


def test_a_binary_format_of_its_own(scene: Scene, tmp_path: Path) -> None:
    """Since 6.7 a user namespace may have binfmt_misc for itself; before, nobody inside may mount it."""
    register = r"mkdir -p /b && mount -t binfmt_misc b /b && echo ':attack:M::VEVEVE::/bin/busybox:' >/b/register"
    done = scene.env.run(["sh", "-c", register], capture_output=True, text=True)
    file = tmp_path / "file"
    file.write_text("VEVEVE\n")
    file.chmod(0o755)
    with pytest.raises(OSError, match="Exec format"):
        subprocess.run([file])
    if done.returncode:
        assert "permi" in done.stderr  # not permitted, or permission denied
    else:
        assert witness.shell(scene.env, "cp /b/attack /tmp/shown && umount /b && cat /tmp/shown")


def test_a_setuid_program_in_the_private_area(scene: Scene, host_dir: Path, tmp_path: Path) -> None:
    """Its root is user 0 on disk.  The working directory spares us the way to the state dir, which may be closed."""
    made = host_dir / f"private/{scene.env.veid}/upper/bin/attack"
    assert (made.stat().st_mode & 0o7777, made.stat().st_uid) == (0o4755, 0)
    with pytest.raises(PermissionError):
        subprocess.run([made.relative_to(host_dir), "capset", "0"], cwd=host_dir, **OTHER_USER)
    copy = scene.program.with_name("setuid")
    copy.write_bytes(made.read_bytes())
    copy.chmod(0o4755)
    scene.program.parent.chmod(0o755)
    try:
        assert subprocess.run(["./setuid", "capset", "0"], cwd=copy.parent, **OTHER_USER).returncode == 0
    finally:
        copy.unlink()


def test_the_small_init_of_the_host_is_not_written(scene: Scene, host_dir: Path) -> None:
    """CVE-2019-5736: by /proc/1/exe the root of a VE without an init of its own reaches a program of the host."""
    given = ("--mount", f"{scene.program.parent}:/given:ro", "busybox", "--")
    assert commandline.output(host_dir, "run", *given, "readlink", "/proc/1/exe") == "/dev/init\n"
    assert commandline.run(host_dir, "run", *given, "/given/attack", "exe", "1").stdout == "EACCES\n"
    init = subprocess.Popen(["catatonit", "--", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with init:
        assert init.stdin and init.stdout
        init.stdin.write(b"\n")
        init.stdin.flush()
        init.stdout.readline()
        assert subprocess.check_output([scene.program, "exe", str(init.pid)]) == b"WORKED\n"


def test_reboot_ends_the_ve_and_no_more(host: "ve.Host", host_dir: Path, program: Path) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    apart: list[str | Path] = [
        "unshare",
        "--pid",
        "--fork",
        "--mount-proc",
        "sh",
        "-c",
        '"$0" reboot; exit 77',
        program,
    ]
    assert subprocess.run(apart, capture_output=True).returncode not in (0, 1, 77)
    with contextlib.ExitStack() as stack:
        env = running(host, program, stack, 7003)
        user = env.run(["/attack", "reboot"], user="1000", capture_output=True, text=True)
        nested = env.run(["/attack", "-n", "reboot"], capture_output=True, text=True)
        assert (user.stdout, env.status) == ("EPERM\n", ve.Status.RUNNING) and nested.returncode
        env.run(["/attack", "reboot"], capture_output=True)
        witness.wait_stopped(env)
    assert Path("/proc/sys/kernel/random/boot_id").read_text() == boot
