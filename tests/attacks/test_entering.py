"""What enters a VE, or looks into it, against the VE's root: each attack is seen to work where nothing protects."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ve
from tests.attacks.conftest import Hostile
from tests.verbs import commandline, witness
from ve import errors, interpreter, process

TRIES = 200  # of an attack that has to come at the right moment; a protected victim is met at one of the first
ATTACKS = (
    *("mem", "mem-write", "environ", "maps", "auxv", "exe", "exe-name", "cwd", "root", "ns", "fd", "fds", "getfd"),
    *("kcmp", "readv", "seize"),
)


@contextlib.contextmanager
def background(env: "ve.Environment", *command: str, **options: object) -> Iterator[process.Popen]:
    """A command in a VE that says "ready", and is ended whole."""
    with env.popen(command, stdout=subprocess.PIPE, text=True, **options) as started:  # type: ignore[arg-type]
        try:
            assert started.stdout and started.stdout.readline() == "ready\n"
            yield started
        finally:
            started.kill()


# ---- CVE-2016-8649: whoever enters, seen and stopped on its way ------------------------------------------------------


def by_run(env: "ve.Environment", host_dir: Path) -> None:
    env.run(["true"], check=True)


def by_login(env: "ve.Environment", host_dir: Path) -> None:
    env.run(["true"], login=True, check=True)


def as_a_user(env: "ve.Environment", host_dir: Path) -> None:
    env.run(["true"], user=1000, check=True)


def by_pty(env: "ve.Environment", host_dir: Path) -> None:
    with env.popen(["true"], pty=True) as process:
        assert process.wait() == 0


def by_exec(env: "ve.Environment", host_dir: Path) -> None:
    commandline.output(host_dir, "exec", env.veid, "true")


@pytest.mark.parametrize("way", [by_run, by_login, as_a_user, by_pty, by_exec])
def test_who_enters_cannot_be_traced_or_read(
    box: "ve.Environment", host_dir: Path, way: Callable[["ve.Environment", Path], None]
) -> None:
    with background(box, "/entering", "catch", "ve" if way == by_exec else "python") as catcher:  # whose clone it is
        for _ in range(TRIES):
            if catcher.poll() is not None:
                break
            way(box, host_dir)
        said = caught(catcher)
    assert {word for *_, word in said} <= {"EACCES", "EPERM"}, said
    assert [what for who, what, _ in said if who == "root"] == list(ATTACKS)


@pytest.mark.any_kernel
def test_who_is_not_protected_can_be(box: "ve.Environment") -> None:
    with (
        background(box, "/entering", "sleep", "plain", user="1000:1000"),
        background(box, "/entering", "catch", "pl") as catcher,
    ):
        assert {tuple(line) for line in caught(catcher)} == {
            (who, a, "done") for who in ("root", "user") for a in ATTACKS
        }


def caught(catcher: "subprocess.Popen[str]") -> list[list[str]]:
    assert catcher.stdout
    return [line.split() for line in catcher.stdout.read().splitlines()]


@pytest.mark.any_kernel
def test_a_copy_is_seen_by_nobody(box: "ve.Environment", tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with background(box, "/entering", "catch", "python") as catcher:
        for _ in range(5):
            box.copy_in(str(tmp_path / "file"), "/root")
            box.copy_out("/root/file", str(tmp_path))
            box.set_password("root", "word")
        assert catcher.poll() is None


@pytest.mark.any_kernel
def test_a_secret_of_the_caller_is_in_no_process_that_enters(box: "ve.Environment", host_dir: Path) -> None:
    """Its environment and command line: all processes of ours that live while a command runs."""
    secret = os.urandom(8).hex()
    words = (
        "exec",
        "--env",
        f"ASKED={secret}",
        box.veid,
        "--",
        "sh",
        "-c",
        "unset ASKED; exec sh -c 'echo ready; cat'",
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with commandline.start(host_dir, *words, **pipes, env=dict(os.environ) | {"SECRET": secret}) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        below = {pid: of(pid, "cmdline") for pid in descendants(process.pid)}
        assert len([pid for pid, words in below.items() if words]) >= 2
        assert not [pid for pid, words in below.items() if secret in words + of(pid, "environ")]
        assert secret in Path(f"/proc/{process.pid}/environ").read_text()
        process.communicate(b"")


def of(pid: int, what: str) -> str:
    """Nothing of one that has ended: it has no memory to read from."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/{what}").read_text()
    return ""


def descendants(pid: int) -> list[int]:
    children = [int(child) for child in of(pid, f"task/{pid}/children").split()]
    return children + [below for child in children for below in descendants(child)]


# ---- CVE-2019-5736: /proc/self/exe of who enters ---------------------------------------------------------------------

PRELOADED = r"""
__attribute__((constructor)) static void attack(void)
{
	char path[64], name[4096] = "", *argv[] = {"/bin/sh", "-c", ATTACK, path, 0};
	snprintf(path, sizeof path, "/proc/self/fd/%d", open("/proc/self/exe", O_RDONLY));
	readlink("/proc/self/exe", name, sizeof name - 1);
	printf("%s\n", name);
	fflush(stdout);
	if (fork() == 0)
		execve(argv[0], argv, argv + 4);
	_exit(0);
}
"""
# Once nobody runs it any more it may be written: before, that is ETXTBSY.
ATTACK = (
    "n=0; until (true >$0) 2>/dev/null || [ $n = 100 ]; do n=$((n + 1)); done; (echo >>$0; chmod 4777 $0) && echo done"
)


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("preloaded") / "attack.so"
    includes = [f"-include{name}.h" for name in ("errno", "fcntl", "stdio", "string", "unistd", "sys/stat")]
    flags = ["-w", "-D_GNU_SOURCE", f'-DATTACK="{ATTACK}"', "-shared", "-fPIC", "-xc", "-"]
    subprocess.run(["gcc", *includes, "-o", library, *flags], input=PRELOADED, text=True, check=True)
    return library


def test_the_interpreter_cannot_be_overwritten_from_inside(hostile: Hostile, preloaded: Path, tmp_path: Path) -> None:
    """A program of the VE that is "#!/proc/self/exe" makes it run our own interpreter, with its own libraries."""
    box = hostile()  # one of its own, as what it forks may outlive it
    python = os.path.realpath(sys.executable)
    before = witness.look(Path(python))
    listed = subprocess.check_output(["ldd", python], text=True)
    for library in {os.path.realpath(path) for path in re.findall(r"/\S+", listed)} | set(re.findall(r"/\S+", listed)):
        box.run(["mkdir", "-p", os.path.dirname(library)], check=True)
        box.copy_in(os.path.realpath(library), library)
    box.copy_in(str(preloaded), "/attack.so")
    box.run(["sh", "-c", "printf '#!/proc/self/exe\\n' >/hook; chmod 755 /hook"], check=True)
    done = box.run(["/hook"], env={"LD_PRELOAD": "/attack.so"}, capture_output=True, text=True)
    assert done.stdout.endswith(f"/{os.path.basename(python)}\n"), "it did not run our interpreter: this shows nothing"
    assert done.stderr.count("ermission denied") == 1 and done.stderr.count("not permitted") == 1
    assert witness.look(Path(python)) == before
    copy = tmp_path / "python"
    copy.write_bytes(Path(python).read_bytes())
    copy.chmod(0o755)
    assert subprocess.check_output([copy], env={"LD_PRELOAD": str(preloaded)}, text=True).endswith("\ndone\n")
    assert copy.read_bytes() == b"\n" and stat.S_IMODE(copy.stat().st_mode) == 0o4777


# ---- CVE-2024-21626, and all that a program has of who started it ----------------------------------------------------

POISON = """
import ctypes, os, resource, signal, sys
libc = ctypes.CDLL(None)
os.chdir(sys.argv[1])
os.umask(0)
for number in range(20, 900, 7):
    os.dup2(os.open("/etc", os.O_RDONLY | os.O_DIRECTORY), number)  # which exec hands on
os.setgroups([4, 24, 1007])
os.nice(5)
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
libc.syscall(251, 1, 0, 3 << 13)
libc.personality(0x0040000)
libc.prctl(29, 1000000)
libc.prctl(41, 1, 0, 0, 0)
libc.prctl(28, 4)
open("/proc/self/oom_score_adj", "w").write("500")
open("/proc/self/coredump_filter", "w").write("0x7f")
for limit in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE):
    resource.setrlimit(limit, (1000, resource.getrlimit(limit)[1]))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGRTMIN + 3})
for number in (signal.SIGUSR2, signal.SIGPIPE, signal.SIGRTMIN + 5, signal.SIGTTOU):
    signal.signal(number, signal.SIG_IGN)
os.environ["SECRET"] = "x"
os.execv(sys.argv[2], sys.argv[2:])
"""
LIBRARY = "import sys, ve; ve.Host(sys.argv[1]).get(int(sys.argv[2])).run(['/entering', 'facts'])"
POISONED = (
    *("cwd", "umask", "groups", "nice", "policy", "cpus", "ioprio", "personality", "slack", "thp", "securebits"),
    *("SigBlk:", "SigIgn:", "env-SECRET=x", "/proc/self/oom_score_adj", "/proc/self/coredump_filter"),
    *("rlimit-4", "rlimit-7", "fd-20"),
)


def facts(text: str) -> dict[str, str]:
    return dict(line.replace("\t", " ").partition(" ")[::2] for line in text.splitlines())


def by_poisoned(tmp_path: Path, *command: object) -> dict[str, str]:
    poisoned = [sys.executable, "-c", POISON, str(tmp_path), *map(str, command)]
    done = subprocess.run(poisoned, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=witness.ROOT)
    assert done.returncode == 0, done.stderr
    return facts(done.stdout)


def ways(env: "ve.Environment", host_dir: Path) -> dict[str, list[object]]:
    return {
        "exec": [*commandline.words(host_dir, "exec", env.veid, "/entering", "facts")],
        "library": [sys.executable, "-c", "import os; os.chdir('/')\n" + LIBRARY, host_dir, env.veid],
    }


def test_a_command_has_nothing_of_who_called(
    box: "ve.Environment", host_dir: Path, entering: Path, tmp_path: Path
) -> None:
    clean = facts(subprocess.check_output([entering, "facts"], stdin=subprocess.DEVNULL, text=True))
    dirty = by_poisoned(tmp_path, entering, "facts")
    assert {name for name in clean | dirty if clean.get(name) != dirty.get(name)} >= set(POISONED)
    expected = facts(str(box.run(["/entering", "facts"], capture_output=True, text=True).stdout))
    for way, command in ways(box, host_dir).items():
        found = by_poisoned(tmp_path, *command)
        assert {name for name in found if name.startswith("fd-")} == set(), way
        assert without_terminal(found) == without_terminal(expected), way
    assert expected["cwd"] == "/" and expected["cpus"] == str(os.cpu_count()) and "env-SECRET=x" not in expected


def without_terminal(found: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in found.items() if not name.startswith("env-TERM=")}


@pytest.mark.any_kernel
def test_an_init_has_nothing_of_who_started_it(
    host: "ve.Host", host_dir: Path, hostile: Hostile, entering: Path, tmp_path: Path
) -> None:
    """Of a VE that a program started with all of that, as of one that this one did."""
    seen = []
    for poisoned in (False, True):
        env = hostile("idle")
        env.stop(fast=True)
        if poisoned:
            by_poisoned(tmp_path, *commandline.words(host_dir, "start", env.veid))
        else:
            env.start()
        seen.append(of_process(witness.init(host_dir, env.veid)))
    assert seen[0] == seen[1]
    plain = subprocess.Popen([sys.executable, "-c", POISON, tmp_path, entering, "sleep", "x"], stdout=subprocess.PIPE)
    with plain:
        assert plain.stdout and plain.stdout.readline() == b"ready\n"
        dirty = of_process(plain.pid)
        plain.kill()
    assert {name for name in dirty if dirty[name] != seen[0][name]} == set(dirty)


def of_process(pid: int) -> dict[str, object]:
    """What the kernel shows of it to everybody."""
    status = witness.status(pid)
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return {
        "descriptors": {path for path in links(pid) if not path.startswith(("pipe:", "socket:", "/dev/null"))}
        & {"/etc"},
        "umask": status["Umask"],
        "groups": status["Groups"],
        "ignored": int(status["SigIgn"], 16) >> (signal.SIGUSR2 - 1) & 1,
        "blocked": int(status["SigBlk"], 16) >> (signal.SIGUSR1 - 1) & 1,
        "cpus": status["Cpus_allowed"],
        "oom": Path(f"/proc/{pid}/oom_score_adj").read_text(),
        "dump": Path(f"/proc/{pid}/coredump_filter").read_text(),
        "policy": os.sched_getscheduler(pid),
        "nice": os.getpriority(os.PRIO_PROCESS, pid),
        "personality": Path(f"/proc/{pid}/personality").read_text(),
        "slack": Path(f"/proc/{pid}/timerslack_ns").read_text(),
        "limits": next(line for line in limits if line.startswith("Max open files")),
        "secret": "SECRET" in Path(f"/proc/{pid}/environ").read_text(),
    }


def links(pid: int) -> set[str]:
    return {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}


@pytest.mark.any_kernel
def test_no_path_of_the_host_is_to_be_read_inside(box: "ve.Environment", host_dir: Path) -> None:
    shown = witness.shell(
        box, "cat /proc/self/mountinfo /proc/self/cgroup /proc/1/environ /proc/1/cmdline /proc/mounts"
    )
    tag = commandline.cgroup(host_dir, box.veid).parent.name
    assert str(host_dir) not in shown and tag not in shown and str(witness.ROOT) not in shown
    assert str(host_dir) in Path("/proc/self/environ").read_text() + str(host_dir)


# ---- pipes -----------------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_a_pipe_is_not_to_be_read_by_who_may_write(box: "ve.Environment") -> None:
    """Others of the host may write to the same one, as to the stderr of a job."""
    reading, writing = os.pipe()
    try:
        script = "echo mine >/dev/stdout; true </proc/self/fd/1 && echo opened >&2; chmod 777 /proc/self/fd/1"
        done = box.run(["sh", "-c", script], stdout=writing, stderr=subprocess.PIPE, text=True)
        assert os.read(reading, 100) == b"mine\n"
        assert "ermission denied" in done.stderr and "opened" not in done.stderr and done.returncode
        assert os.fstat(writing).st_uid == os.geteuid()
        os.write(writing, b"the host's")
        assert os.read(os.open(f"/proc/self/fd/{writing}", os.O_RDONLY | os.O_CLOEXEC), 100) == b"the host's"
    finally:
        os.close(reading)
        os.close(writing)
        for fd in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):
                if stat.S_ISFIFO(os.fstat(fd).st_mode) and os.fstat(fd).st_gid != os.getegid() and fd > 2:
                    os.close(fd)


# ---- terminals -------------------------------------------------------------------------------------------------------

HOSTILE_PTMX = {
    "a FIFO": "mount -t tmpfs t /dev/pts && mkfifo -m 666 /dev/pts/ptmx",
    "another device": "mount -t tmpfs t /dev/pts && touch /dev/pts/ptmx && mount --bind /dev/zero /dev/pts/ptmx",
    "a socket's name": "mount -t tmpfs t /dev/pts && ln -s /dev/log /dev/pts/ptmx",
    "a file": "mount -t tmpfs t /dev/pts && echo evil >/dev/pts/ptmx",
    "nothing": "umount /dev/pts",
    "a slave": "mount -t devpts -o newinstance,ptmxmode=666 d /dev/pts && mount --bind /dev/tty /dev/pts/ptmx",
}


@pytest.mark.any_kernel
@pytest.mark.parametrize("kind", HOSTILE_PTMX)
def test_no_terminal_but_a_terminal_is_handed_out(hostile: Hostile, kind: str) -> None:
    env = hostile()
    with env.popen(["tty"], pty=True) as process:
        assert process.terminal is not None and os.fstat(process.terminal).st_rdev == os.makedev(5, 2)
    witness.shell(env, HOSTILE_PTMX[kind])
    with pytest.raises(errors.Error, match="ptmx"):
        env.popen(["tty"], pty=True)
    assert witness.shell(env, "echo inside") == "inside\n"


# ---- accounts --------------------------------------------------------------------------------------------------------

HOSTILE_PASSWD = {
    "a FIFO": "mkfifo /etc/passwd",
    "a device": "ln -s /dev/zero /etc/passwd",
    "a gigabyte": "truncate -s 1G /etc/passwd",
    "a directory": "mkdir /etc/passwd",
    "its own environment": "ln -s /proc/self/environ /etc/passwd",
    "its own memory": "ln -s /proc/self/mem /etc/passwd",
    "its own descriptor": "ln -s /proc/self/fd/0 /etc/passwd",
    "our interpreter": "ln -s /proc/self/exe /etc/passwd",
    "itself": "ln -s passwd /etc/passwd",
}


@pytest.mark.any_kernel
def test_accounts_that_are_no_accounts(hostile: Hostile) -> None:
    env = hostile()
    for how in HOSTILE_PASSWD.values():
        witness.shell(env, f"rm -rf /etc/passwd; {how}")
        with pytest.raises(errors.InvalidValue, match="no such user"):
            env.run(["id"], user="bob")
        assert env.run(["/entering", "euid"], user=77, capture_output=True, text=True).stdout == "77\n"
        with pytest.raises(errors.Error):
            env.set_password("root", "word")


# ---- mounts ----------------------------------------------------------------------------------------------------------

UNDER = {
    "/proc": "mount -t tmpfs t /proc",
    "/dev": "mount -t tmpfs t /dev && mkdir /dev/pts",
    "/": "mkdir /n && mount -t tmpfs t /n && cp -a /bin /lib /etc /n && mkdir /n/proc && mount --move /n /",
}


@pytest.mark.any_kernel
@pytest.mark.parametrize("place", UNDER)
def test_what_is_mounted_over_leads_nowhere(hostile: Hostile, host_dir: Path, tmp_path: Path, place: str) -> None:
    """Whatever happens, it happens inside: a file of the host is never seen there."""
    env = hostile()
    (tmp_path / "secret").write_text("the host's")
    env.run(["sh", "-c", UNDER[place]])
    for words in (["cat", f"{tmp_path}/secret"], ["cat", f"/proc/1/root{tmp_path}/secret"], ["ls", str(host_dir)]):
        with contextlib.suppress(OSError):
            done = env.run(words, capture_output=True, text=True)
            assert done.returncode and done.stdout == ""
    with contextlib.suppress(errors.Error):
        env.copy_in(str(tmp_path / "secret"), "/")
    assert env.stop(fast=True) is False


def test_its_own_root_cannot_be_taken_away(box: "ve.Environment") -> None:
    for words in ("umount /", "umount -l /", "umount -l /proc", "umount -l /dev", "umount -l /sys"):
        witness.says_no(box, words)


# ---- an init that means harm -----------------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_an_init_with_an_odd_name(hostile: Hostile, host_dir: Path) -> None:
    env = hostile("name")
    assert b"\r" in Path(f"/proc/{witness.init(host_dir, env.veid)}/comm").read_bytes()
    fields = env.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout
    bounds = re.findall(r"^CapBnd:\t(\w+)$", str(fields), re.MULTILINE)
    assert bounds == [witness.status(witness.init(host_dir, env.veid))["CapBnd"]] and int(bounds[0], 16)
    assert commandline.output(host_dir, "exec", env.veid, "echo", "in") == "in\n"
    assert commandline.output(host_dir, "ps", env.veid).isascii()


@pytest.mark.any_kernel
def test_an_init_that_stops_whoever_enters(hostile: Hostile, host_dir: Path) -> None:
    """It is told to halt by a command, which never ends: the deadline is the answer."""
    env = hostile("stop")
    assert os.readlink(f"/proc/{witness.init(host_dir, env.veid)}/exe").endswith("/init")
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        while True:  # on a busy machine one may be through before it is seen
            env.run(["true"], timeout=1)
    assert caught.value.timeout == 1
    commandline.output(host_dir, "stop", "--timeout", "1", env.veid)
    assert not witness.runs(host_dir, env.veid)


@pytest.mark.any_kernel
def test_an_init_that_stops_whoever_enters_does_not_stop_a_loop(hostile: Hostile) -> None:
    env = hostile("stop")

    async def act() -> None:
        with pytest.raises(subprocess.TimeoutExpired):
            while True:
                await env.arun(["true"], timeout=1)
        with pytest.raises(subprocess.TimeoutExpired):
            while True:
                async with await env.apopen(["true"], enter_timeout=1):
                    pass
        tasks: list[asyncio.Task[object]] = []
        while not (stopped := [task for task in tasks if not task.done()]):  # as above, some may be through
            tasks = [asyncio.create_task(env.arun(["true"])) for _ in range(3)]
            await asyncio.wait(tasks, timeout=1)
        for task in stopped:
            task.cancel()
        assert all(
            isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*stopped, return_exceptions=True)
        )

    asyncio.run(act())
    assert list(Path(env.cgroup.path, "exec").glob("exec.*")) == []


@pytest.mark.any_kernel
def test_an_init_in_a_namespace_without_ids(hostile: Hostile, host_dir: Path) -> None:
    env = hostile("unmapped")
    assert Path(f"/proc/{witness.init(host_dir, env.veid)}/uid_map").read_text() == ""
    with pytest.raises(errors.Error, match="cannot enter"):
        env.run(["true"])
    assert env.stop(fast=True) is False


@pytest.mark.any_kernel
def test_cgroups_that_a_ve_calls_like_ours(hostile: Hostile) -> None:
    env = hostile()
    names = ["exec.²", "exec.", "exec.1.1.1", f"exec.{'9' * 200}.1.1", "exec.1", "exec.\x1b[31m"]
    for name in names:
        env.run(["mkdir", f"/sys/fs/cgroup/{name}"], check=True)
    sleeper = "echo $$ >/sys/fs/cgroup/exec.1.1.1/cgroup.procs && echo ready && exec sleep 100000"
    with background(env, "sh", "-c", sleeper, login=True):
        for login in (False, True):
            assert env.run(["echo", "in"], login=login, capture_output=True, text=True).stdout == "in\n"
        assert "populated 1" in witness.shell(env, "cat /sys/fs/cgroup/exec.1.1.1/cgroup.events")


# ---- looking from outside --------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_ps_reads_no_endless_command_line(box: "ve.Environment", host_dir: Path) -> None:
    """64 GiB, which take no memory."""
    with box.popen(["/entering", "long", str(64 << 10)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline() == "self long done\n"
            with open(f"/proc/{process.host_pid}/cmdline", "rb") as file:
                file.seek(1 << 30)
                assert file.read(1) == b"\0"
            shown = commandline.output(host_dir, "ps", box.veid)
            assert re.search(rf" {process.host_pid} +0 +huge", shown) and len(shown) < 1 << 18
        finally:
            process.kill()


ODD = "\x1b]0;owned\x07\x1b[2J\r\u202e"


@pytest.mark.any_kernel
def test_names_that_write_to_a_terminal(hostile: Hostile, host_dir: Path) -> None:
    env = hostile()
    witness.shell(env, f"cp /bin/busybox '/{ODD}'; hostname '{ODD[2:9]}'; echo '{ODD}' >'/etc/{ODD}'")
    with background(env, "sh", "-c", 'echo ready; exec -a "$0" sleep 100000 || read x', ODD, stdin=subprocess.PIPE):
        for words in (("ps", env.veid), ("diff", env.veid), ("status", env.veid), ("list",)):
            shown = commandline.output(host_dir, *words)
            assert all(line.isprintable() for line in shown.splitlines()), words
    done = commandline.run(host_dir, "exec", env.veid, f"/nothing{ODD}")
    assert all(line.isprintable() for line in done.stderr.splitlines())


# ---- ve mount --------------------------------------------------------------------------------------------------------


def codec(env: "ve.Environment", says: str) -> None:
    """Offer it a codec where our interpreter has its own, and sources that are written in it where ours are."""
    import encodings

    import ve._linux.syscalls
    import ve.show

    [directory] = encodings.__path__
    for module in (ve.show, ve._linux.syscalls):
        assert module.__file__
        env.run(["mkdir", "-p", os.path.dirname(module.__file__), directory], check=True)
        env.run(["tee", module.__file__], input=b"# coding: evil\n" * 400, stdout=subprocess.DEVNULL, check=True)
    env.run(["tee", f"{directory}/evil.py"], input=says.encode(), stdout=subprocess.DEVNULL, check=True)
    env.run(["sh", "-c", "echo nothing >/said; chmod 666 /said"], check=True)


SAYS = "import posix\nposix.write(posix.open('/said', 1), b'I am %d' % posix.getuid())\n"
NAIVE = """
import os, sys, signal
from ve._linux import syscalls
syscalls.setns(int(sys.argv[1]), syscalls.CLONE_NEWNS)
syscalls.open_tree(-1, "/nowhere", 0)
"""


@pytest.mark.any_kernel
def test_nothing_of_a_ve_is_imported_by_what_shows_it(hostile: Hostile, host_dir: Path) -> None:
    """An exception, such as that of Ctrl-C, makes Python look for its source: its root is the VE's."""
    env = hostile()
    codec(env, SAYS)
    with commandline.watched(witness.init(host_dir, env.veid)) as pidfd:
        for number in (signal.SIGINT, 0):
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with near, far:
                interrupted = interpreter.command("ve.show", pidfd, far.fileno())
                interrupted[-1] = interrupted[-1].replace("main(", f"import os; {interrupt(number)}; main(")
                subprocess.run(interrupted, pass_fds=[pidfd, far.fileno()], stderr=subprocess.DEVNULL, check=False)
                assert witness.shell(env, "cat /said") == "nothing\n"
                assert near.recv(1000, socket.MSG_DONTWAIT), "it did not come so far"
        naive = [sys.executable, "-c", NAIVE, str(pidfd)]
        subprocess.run(naive, pass_fds=[pidfd], stderr=subprocess.DEVNULL, check=False, cwd=witness.ROOT)
    assert witness.shell(env, "cat /said").startswith("I am 0")


def interrupt(number: int) -> str:
    """Python that has the signal come, or another error, while its root is already the VE's."""
    act = f"os.kill(os.getpid(), {int(number)})" if number else "int('x')"
    return f"from ve._linux import syscalls; syscalls.open_tree = lambda *_: {act}"


@pytest.mark.any_kernel
def test_another_ve_cannot_keep_it_mounted(hostile: Hostile, host: "ve.Host", host_dir: Path) -> None:
    env, victim = hostile(), hostile()
    victim.stop(fast=True)
    point = victim.mount()
    with background(env, "sh", "-c", f"mkdir -p {point} && cd {point} && echo ready && exec sleep 100000") as process:
        assert os.readlink(f"/proc/{process.host_pid}/cwd") == point
        with subprocess.Popen(["sleep", "100000"], cwd=point) as ours, pytest.raises(errors.InUse, match=f"{ours.pid}"):
            try:
                victim.umount()
            finally:
                ours.kill()
        victim.umount()


@pytest.mark.any_kernel
def test_a_setuid_program_is_none_for_the_host(hostile: Hostile, entering: Path, host_dir: Path) -> None:
    env = hostile()
    witness.shell(env, "chmod 4755 /entering")
    upper = host_dir / f"private/{env.veid}/upper/entering"
    assert stat.S_IMODE(upper.stat().st_mode) == 0o4755 and upper.stat().st_uid == 0
    with pytest.raises(PermissionError):
        subprocess.run([upper, "euid"], user=65534, extra_groups=[], check=False)
    assert by_descriptor(upper) == "0\n", "it is no setuid program, so the test shows nothing"
    for running in (True, False):
        if not running:
            env.stop(fast=True)
        point = Path(env.mount())
        assert by_descriptor(point / "entering") == "65534\n"
        env.umount()


def by_descriptor(program: Path) -> str:
    """What it prints as a user of the host who has it open."""
    fd = os.open(program, os.O_PATH | os.O_CLOEXEC)
    try:
        words = [f"/proc/self/fd/{fd}", "euid"]
        return subprocess.check_output(words, pass_fds=[fd], user=65534, extra_groups=[], text=True)
    finally:
        os.close(fd)
