"""ve stop always returns, and what it stopped is gone: of VEs that do all they can to stay."""

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.hostnet import HostNet
from tests.programs import compiled
from tests.verbs import commandline, witness
from tests.verbs.test_action_scripts import put
from tests.verbs.test_stop import with_script
from ve import files

DEAF = "trap '' TERM INT HUP QUIT USR1 USR2 PWR RTMIN+3\n"
# What its init does, in the end; what somebody says on the FIFO /told then.
UNRULY = {
    "ignores every signal": ("sleep 1000 & echo deaf >/told; while :; do wait; done", "deaf\n"),
    "forks endlessly": ("/bin/crowd bomb 300 >/told & while :; do sleep 1000; done", "full\n"),
    "has 5000 processes": ("exec /bin/crowd 5000 >/told", "all\n"),
}


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of crowd.c."""
    return compiled(tmp_path_factory.mktemp("crowd") / "crowd", Path(__file__).with_name("crowd.c"))


def tells(host_dir: Path, env: "ve.Environment", init: str) -> None:
    """Give a VE an init that says on /told when it is as it is to be."""
    with_script(host_dir, env, "sbin/init", f"#!/bin/sh\n{init}\n")
    os.mkfifo(host_dir / f"private/{env.veid}/upper/told")


def told(host_dir: Path, veid: int) -> str:
    """The first who says something."""
    with open(f"/proc/{witness.init(host_dir, veid)}/root/told") as fifo:
        return fifo.readline()


def run_as(base: int) -> list[int]:
    """The processes of the host that have one of the ids of a VE, whatever cgroup or namespace they are in."""
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            text = path.read_text()
        except OSError:
            continue
        uid = int(re.findall(r"^Uid:\t(\d+)", text, re.MULTILINE)[0])
        if base <= uid < base + 65536 and not re.search(r"^State:\tZ", text, re.MULTILINE):
            found.append(int(path.parent.name))
    return found


def links(hostnet: HostNet) -> set[str]:
    return set(hostnet.run("ip", "-o", "link").stdout.split("\n"))


@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
@pytest.mark.parametrize("kind", UNRULY)
def test_it_returns_and_the_ve_is_gone(
    hostnet: HostNet, host: "ve.Host", host_dir: Path, veid: int, crowd: Path, kind: str, frozen: bool
) -> None:
    env = host.create(veid, template="busybox", addresses=["10.9.0.77"])
    init, word = UNRULY[kind]
    tells(host_dir, env, DEAF + init)
    env.copy_in(str(crowd), "/bin/crowd", archive=True)
    before, mounted = links(hostnet), witness.mounts()
    hostnet.output(host_dir, "start", veid)
    base = witness.base(witness.init(host_dir, veid))
    assert told(host_dir, veid) == word
    assert len(run_as(base)) >= {"has 5000 processes": 5000}.get(kind, 2)
    if frozen:
        hostnet.output(host_dir, "freeze", veid)
    done = hostnet.ve(host_dir, "stop", "--timeout", "0.5", veid)
    late = "is stopped by a kill, as its own shutdown took too long"
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{veid} {late}\n")
    assert run_as(base) == []
    assert not commandline.cgroup(host_dir, veid).exists() and not (host_dir / f"run/{veid}").exists()
    assert (links(hostnet), witness.mounts()) == (before, mounted)


def test_an_init_that_becomes_ready_late_is_asked_again(
    host_dir: Path, host: "ve.Host", veid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel drops what a PID 1 is sent that catches nothing yet."""
    env = host.create(veid, template="busybox")
    tells(host_dir, env, "read word </told; trap 'exit 0' USR2; while :; do sleep 0.1; done")
    env.start()
    fifo = Path(f"/proc/{witness.init(host_dir, veid)}/root/told")
    sent: list[int] = []
    send = signal.pidfd_send_signal

    def and_let_it_go_on(pidfd: int, number: int) -> None:
        send(pidfd, number)
        if not sent:
            fifo.write_text("go on\n")
        sent.append(number)

    monkeypatch.setattr(signal, "pidfd_send_signal", and_let_it_go_on)
    assert env.stop() is True
    assert len(sent) > 1 and set(sent) == {signal.SIGUSR2}


def test_its_stop_script_finds_a_frozen_one_thawed(host: "ve.Host", host_dir: Path, veid: int) -> None:
    """Or it could execute nothing in it."""
    env = host.create(veid, template="busybox")
    script = put(host_dir, veid, "stop", f"exec {commandline.VE} --state-dir {host_dir} exec {veid} true")
    env.start()
    env.freeze()
    try:
        done = commandline.run(host_dir, "stop", "--fast", veid)
    finally:
        script.unlink()
    assert (done.returncode, done.stderr) == (0, f"{veid} is stopped\n")
    assert not witness.runs(host_dir, veid)


# ---- what not even SIGKILL ends --------------------------------------------------------------------------------------


@pytest.fixture
def dead_server(
    host: "ve.Host", host_dir: Path, veid: int, tmp_path: Path
) -> Iterator[Callable[..., "tuple[ve.Environment, subprocess.Popen[str]]"]]:
    """dead_server({"bin/a": program}): a VE at whose /mnt is a file system of a server outside, which answers no read.

    call is who starts it, at is another place for that, and options are what it is to have.

    The server says "asked" when somebody waits for one.
    """
    servers: list[subprocess.Popen[str]] = []

    def begin(
        programs: dict[str, Path] | None = None,
        call: Callable[[Callable[[], None]], None] = lambda start: start(),
        at: str = "/mnt",
        **options: Any,
    ) -> "tuple[ve.Environment, subprocess.Popen[str]]":
        env = host.create(veid, template="busybox", profiles=["fuse"], **options)
        fuse = compiled(tmp_path / "fuse", Path(__file__).with_name("fuse.c"))
        for path, program in {"bin/fuse": fuse, **(programs or {})}.items():
            inside = host_dir / f"private/{veid}/upper/{path}"  # not where a link leads
            inside.parent.mkdir(exist_ok=True)
            shutil.copy(program, inside)
        call(env.start)
        words = ["nsenter", f"--target={witness.init(host_dir, veid)}", "--mount", "/bin/fuse", at, "mute"]
        servers.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        assert servers[0].stdout and servers[0].stdout.readline() == "mounted\n"
        return env, servers[0]

    yield begin
    for server in servers:
        server.kill()
        server.communicate()
    witness.wait_empty(host_dir, veid)


def test_who_hangs_in_the_kernel_is_named(
    host_dir: Path, dead_server: Callable[..., "tuple[ve.Environment, subprocess.Popen[str]]"]
) -> None:
    env, server = dead_server()
    witness.shell(env, "cat /mnt/hello >/dev/null 2>&1 &")
    assert server.stdout and server.stdout.readline() == "asked\n"
    [pid] = [pid for pid in commandline.processes(host_dir, env.veid).values() if witness.status(pid)["Name"] == "cat"]
    with commandline.watched(witness.init(host_dir, env.veid)) as init:
        done = commandline.run(host_dir, "stop", "--fast", env.veid)
        assert done.returncode == 33
        named = re.match(rf"ve: cannot stop {env.veid}: (\d+) processes outlive SIGKILL: (.*)\n", done.stderr)
        assert named and str(pid) in named[2].split()
        server.kill()
        server.wait()
        assert commandline.has_ended(init)  # the last of them, and later than its cgroup is empty
    env.start()
    env.stop(fast=True)
    assert not commandline.cgroup(host_dir, env.veid).exists()


@pytest.mark.parametrize("where", ["before it is executed", "in what it executes"])
def test_a_halt_command_that_hangs_in_the_kernel(
    host_dir: Path,
    crowd: Path,
    where: str,
    dead_server: Callable[..., "tuple[ve.Environment, subprocess.Popen[str]]"],
) -> None:
    """sysvinit is asked by a command, "init 0", which is a program of the VE's: here one that nobody answers for."""
    env, server = dead_server({"sbin/init": crowd})
    script = "#!/bin/sh\nread word </mnt/hello\n"
    put_there = "mount --bind /mnt/hello /sbin/init"
    if where.startswith("in "):
        put_there = f"rm /sbin/init; printf '{script}' >/sbin/init; chmod 755 /sbin/init"
    witness.shell(env, put_there)
    assert os.readlink(f"/proc/{witness.init(host_dir, env.veid)}/exe").removesuffix(" (deleted)") == "/sbin/init"
    done = commandline.run(host_dir, "stop", "--timeout", "0.5", env.veid)
    assert (done.returncode, "outlive SIGKILL" in done.stderr) == (33, True)
    assert server.stdout and server.stdout.readline() == "asked\n"


def test_a_set_that_hangs_in_the_kernel_comes_back(
    hostnet: HostNet,
    host_dir: Path,
    dead_server: Callable[..., "tuple[ve.Environment, subprocess.Popen[str]]"],
) -> None:
    """Where its root has put a file system at /etc that never answers; and the VE's lock is free again."""
    env, server = dead_server(call=hostnet.call, at="/etc", addresses=["10.9.0.77"])
    done = hostnet.ve(host_dir, "set", "--ip-del", "all", env.veid)
    waits = "names wait for a restart: /etc: it does not answer"
    said, hint = done.stderr.split("hint: ")
    assert (done.returncode, said) == (0, f"{env.veid}: addresses are set\n{env.veid}: {waits}\n")
    assert "/sys/fs/fuse/connections/N/abort" in hint
    assert server.stdout and server.stdout.readline() == "asked\n"
    assert env.addresses == []
    hostnet.output(host_dir, "stop", "--fast", env.veid)
    assert not witness.runs(host_dir, env.veid)


# What its root has put there that never answers, what somebody does with it, and what they hear.
UNANSWERED: dict[str, tuple[str, str, Callable[["ve.Environment", Path], None], str]] = {
    "a password": (
        "/etc",
        "",
        lambda env, _: env.set_password("root", "secret"),
        "cannot set the password of root in {veid}: etc: it does not answer",
    ),
    "a password, by the file": (
        "/mnt",
        "mount --bind /mnt/hello /etc/passwd",
        lambda env, _: env.set_password("root", "secret"),
        "cannot set the password of root in {veid}: etc/passwd: it does not answer",
    ),
    "a key": (
        "/root",
        "",
        lambda env, _: env.add_ssh_key("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJfkNV4OS33ImTXvorZr72q4v5XhVEQKfvqsxOEJ"),
        "cannot add an ssh key for root in {veid}: /root: it does not answer",
    ),
    "a file that comes out": (
        "/mnt",
        "",
        lambda env, here: env.copy_out("/mnt/hello", str(here / "out")),
        "cannot copy {veid}:/mnt/hello: /mnt: it does not answer",
    ),
    "a tree that comes out": (
        "/mnt",
        "mkdir -p /srv/a/b; echo x >/srv/a/b/c; mount --bind /mnt/hello /srv/a/b/c",
        lambda env, here: env.copy_out("/srv", str(here / "out")),
        "cannot copy {veid}:/srv: a/b/c: it does not answer",
    ),
    "what goes in": (
        "/mnt",
        "",
        lambda env, here: env.copy_in(str(here), "/mnt"),
        "cannot copy {here} to {veid}:/mnt: it does not answer",
    ),
}


@pytest.mark.parametrize("what", UNANSWERED)
def test_what_hangs_in_the_files_of_a_ve_is_named(
    host_dir: Path,
    tmp_path: Path,
    what: str,
    dead_server: Callable[..., "tuple[ve.Environment, subprocess.Popen[str]]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing waits for it, nothing is half done, and the VE can be used."""
    at, script, act, why = UNANSWERED[what]
    env, server = dead_server(at=at)
    witness.shell(env, script)
    monkeypatch.setattr(files, "_PATIENCE", 1.0)
    here = tmp_path / "here"
    here.mkdir()
    with pytest.raises(ve.errors.FileError) as refused:
        act(env, here)
    assert str(refused.value) == why.format(veid=env.veid, here=here)
    assert "/sys/fs/fuse/connections/N/abort" in refused.value.hint
    assert server.stdout and server.stdout.readline() == "asked\n"
    assert list(here.iterdir()) == []
    assert commandline.output(host_dir, "exec", env.veid, "--", "echo", "on") == "on\n"
    hanging = [each for each in threading.enumerate() if each.name == "ve-reaper"]
    commandline.output(host_dir, "stop", "--fast", env.veid)
    server.kill()
    for each in hanging:  # what hung has ended, and done no more
        each.join()
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("what", ["read_bytes", "iterdir"])
def test_a_path_that_hangs_is_named(
    host_dir: Path,
    what: str,
    dead_server: Callable[..., "tuple[ve.Environment, subprocess.Popen[str]]"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env, server = dead_server()
    monkeypatch.setattr(files, "_PATIENCE", 1.0)
    path = env.path("/mnt/hello" if what == "read_bytes" else "/mnt")
    with pytest.raises(TimeoutError, match=f"it does not answer: '{env.veid}:{path}'"):
        getattr(path, what)()
    assert server.stdout and server.stdout.readline() == "asked\n"
    hanging = [each for each in threading.enumerate() if each.name == "ve-reaper"]
    commandline.output(host_dir, "stop", "--fast", env.veid)
    server.kill()
    for each in hanging:
        each.join()
