"""import ve, from a program with threads: commands as subprocess has them, many VEs at once, VEs that are thrown away.

What a caller's death does is tried on another program, which we kill.
"""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import ve
from tests import conftest
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make
from ve import ending, errors, files, ids, process, show

pytestmark = pytest.mark.any_kernel  # seen on 6.1 and 6.12; what is ours in it is the same on every kernel

PIPE = subprocess.PIPE
FAMILY = "setsid sh -c 'echo $$; exec sleep 100000' & echo $$; wait"


@pytest.fixture(scope="module", autouse=True)
def directories(host: "ve.Host") -> None:
    """Those that the first VE of a state dir makes are there."""
    host.create(9000, template="busybox", name="first").destroy()


@pytest.fixture(scope="module")
def box(host: "ve.Host") -> Iterator["ve.Environment"]:
    """A VE that tests of commands use, and leave as it was."""
    env = host.create(7002, template="busybox", hostname="red", env={"COLOR": "red"})
    env.start()
    yield env
    env.stop(fast=True)
    env.destroy()


# --- as subprocess ------------------------------------------------------------------------------------------------

SAME: list[tuple[list[str], dict[str, Any]]] = [
    (["true"], {}),
    (["sh", "-c", "exit 3"], {}),
    (["sh", "-c", "kill -9 $$"], {}),
    (["sh", "-c", "echo out; echo err >&2"], {"capture_output": True}),
    (["sh", "-c", "echo out; echo err >&2"], {"capture_output": True, "text": True}),
    (["sh", "-c", "echo out; echo err >&2"], {"stdout": PIPE, "stderr": subprocess.STDOUT}),
    (["printf", r"\344"], {"capture_output": True, "encoding": "latin-1"}),
    (["printf", r"\377"], {"capture_output": True, "text": True, "errors": "replace"}),
    (["printf", r"\377"], {"capture_output": True, "encoding": "utf-8"}),
    (["cat"], {"input": b"bytes\0\xff", "stdout": PIPE}),
    (["cat"], {"input": "ä\n", "stdout": PIPE, "encoding": "utf-8"}),
    (["cat"], {"input": "text", "stdout": PIPE}),
    (["cat"], {"input": "", "stdin": PIPE}),
    (["cat"], {"stdin": subprocess.DEVNULL, "capture_output": True}),
    (["sh", "-c", "echo x; exit 3"], {"check": True, "capture_output": True}),
    (["sh", "-c", "kill -15 $$"], {"check": True}),
    (["sleep", "100000"], {"timeout": 0.2}),
    (["sh", "-c", "echo x; exec sleep 100000"], {"timeout": 3, "capture_output": True, "text": True}),
    (["no-such-command"], {}),
    (["/no/such"], {"check": True}),
    (["/etc/passwd"], {}),
    (["true"], {"cwd": "/no/such"}),
    (["pwd"], {"cwd": "/usr", "capture_output": True}),
    (["env"], {"env": {"A": "b"}, "capture_output": True}),
    (["true"], {"capture_output": True, "stdout": PIPE}),
    (["true"], {"no_such_argument": 1}),
    (["echo", "a\0b"], {}),
    ([], {}),
]


def outcome(run: Callable[..., Any], args: list[str], options: dict[str, Any]) -> object:
    """What a caller sees of it: the result, or the exception with all that it carries."""
    try:
        done = run(args, **options)
        return _known(type(done)), done.args, done.returncode, done.stdout, done.stderr
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        code = getattr(error, "returncode", None)
        return _known(type(error)), error.cmd, code, error.stdout, error.stderr
    except OSError as error:
        return type(error), error.errno, error.filename, str(error)
    except Exception as error:
        return type(error)


def _known(kind: type) -> type:
    """Of what subprocess has: ours carry more than that."""
    return next(each for each in kind.__mro__ if each.__module__ == "subprocess")


@pytest.mark.any_kernel
@pytest.mark.parametrize(("args", "options"), SAME, ids=lambda value: " ".join(map(str, value))[:40])
def test_run_is_subprocess_run(box: "ve.Environment", args: list[str], options: dict[str, Any]) -> None:
    theirs = outcome(subprocess.run, args, {"env": {"PATH": "/usr/bin:/bin"}} | options)
    assert outcome(box.run, args, options) == theirs


@pytest.mark.any_kernel
def test_popen_with_pipes(box: "ve.Environment") -> None:
    with box.popen(
        ["sh", "-c", "while read x; do echo $((x * 2)); done; exit 4"], stdin=PIPE, stdout=PIPE, text=True
    ) as p:
        assert isinstance(p, subprocess.Popen) and p.stdin and p.stdout
        for number in (1, 21):
            p.stdin.write(f"{number}\n")
            p.stdin.flush()
            assert p.stdout.readline() == f"{2 * number}\n"
        assert p.poll() is None
        p.stdin.close()
        assert p.wait(timeout=60) == 4
    assert p.poll() == p.returncode == 4


@pytest.mark.any_kernel
def test_popen_to_a_file(box: "ve.Environment", tmp_path: Path) -> None:
    with open(tmp_path / "file", "w+b") as file:
        assert box.popen(["hostname"], stdout=file).wait() == 0
    assert (tmp_path / "file").read_text() == "red\n"


@pytest.mark.any_kernel
def test_terminate_and_communicate_with_timeout(box: "ve.Environment") -> None:
    with box.popen(["sh", "-c", "cat; exec sleep 100000"], stdin=PIPE, stdout=PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(b"kept", timeout=0.5)
        process.terminate()
        assert process.communicate()[0] == b"kept"
        assert process.returncode == -signal.SIGTERM


def members(box: "ve.Environment", process: "ve.Popen", stack: contextlib.ExitStack, count: int = 2) -> list[int]:
    """Pidfds of the processes whose pids a command prints."""
    assert process.stdout
    inside = [int(process.stdout.readline()) for _ in range(count)]
    known = commandline.processes(Path(box.state.path), box.veid)
    return [stack.enter_context(commandline.watched(known[pid])) for pid in inside]


@pytest.mark.any_kernel
def test_an_exception_in_a_with_block_ends_the_tree(box: "ve.Environment") -> None:
    with contextlib.ExitStack() as stack:
        with pytest.raises(ZeroDivisionError), box.popen(["sh", "-c", FAMILY], stdout=PIPE) as process:
            pidfds = members(box, process, stack)
            raise ZeroDivisionError
        assert all(commandline.has_ended(pidfd, 0) for pidfd in pidfds)


@pytest.mark.any_kernel
def test_kill_ends_the_tree(box: "ve.Environment") -> None:
    with contextlib.ExitStack() as stack, box.popen(["sh", "-c", FAMILY], stdout=PIPE) as process:
        pidfds = members(box, process, stack)
        process.kill()
        assert process.wait() == -9
        assert all(commandline.has_ended(pidfd, 0) for pidfd in pidfds)


def test_a_timeout_ends_what_left_its_session(box: "ve.Environment", host_dir: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        box.run(["sh", "-c", FAMILY], stdout=PIPE, timeout=3)
    family = {int(pid) for pid in (caught.value.stdout or b"").split()}
    assert len(family) == 2 and not family & set(commandline.processes(host_dir, box.veid))


@pytest.mark.any_kernel
def test_user_cwd_and_env_are_the_ve_s(box: "ve.Environment") -> None:
    def say(script: str, **options: Any) -> str:
        return str(box.run(["sh", "-c", script], capture_output=True, text=True, check=True, **options).stdout)

    assert say("id -u; id -g; pwd; echo $COLOR $HOME; umask").split() == ["0", "0", "/", "red", "/root", "0022"]
    assert say("id -u; id -g", user="nobody", group="users").split() == ["65534", "100"]
    assert say("echo $COLOR$A", env={"A": "b", "PATH": "/bin:/usr/bin"}) == "b\n"
    with pytest.raises(ve.Error, match="no such user"):
        box.run(["true"], user="nobody-here")


@pytest.mark.any_kernel
def test_pty(box: "ve.Environment") -> None:
    with box.popen(["sh", "-c", "tty; read x; echo got $x"], pty=True) as process:
        assert process.terminal is not None
        os.write(process.terminal, b"word\n")
        shown = b""
        while b"got word" not in shown:
            shown += os.read(process.terminal, 4096)
        assert shown.startswith(b"/dev/pts/") or b"/dev/pts/" in shown
        assert process.wait() == 0


@pytest.mark.any_kernel
def test_not_running(host: "ve.Host", veid: int) -> None:
    env = host.create(veid, template="busybox")
    with pytest.raises(ve.Error, match=f"cannot run a command in {veid}: it is not running") as caught:
        env.run(["true"])
    assert caught.value.hint == f"ve start {veid}"


@pytest.mark.any_kernel
def test_one_that_ends_when_a_verb_begins(host_dir: Path, make: Make, tmp_path: Path) -> None:
    """Its init was there when it was looked for."""
    env = make()
    env.start()
    (tmp_path / "point").mkdir()
    with env.init() as init:
        assert init
        signal.pidfd_send_signal(init[1], signal.SIGKILL)
        assert commandline.has_ended(init[1])
        place = files.Place(env.veid, pidfd=init[1])
        verbs: list[Callable[[], object]] = [
            lambda: files.copy_out(place, "/etc/passwd", str(tmp_path)),
            lambda: files.copy_in(place, "/etc/passwd", "/"),
            lambda: files.set_password(place, "root", "secret"),
            lambda: show.running(init[1], str(tmp_path / "point")),
        ]
        for verb in verbs:
            with pytest.raises(errors.NotRunning):
                verb()


@pytest.mark.any_kernel
def test_a_command_that_joins_one_that_is_just_going(box: "ve.Environment", monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel lets nobody in any more, and its init has not ended yet; it never does where but the way in failed."""
    failure = process.Failure("setns", errno.ESRCH, "No such process")
    monkeypatch.setattr(process.Popen, "_hear", lambda popen: failure)
    monkeypatch.setattr(process, "ended", lambda pidfd, timeout=0.0: timeout > 0)
    with pytest.raises(errors.NotRunning):
        box.run(["true"])
    monkeypatch.setattr(process, "ended", lambda pidfd, timeout=0.0: False)
    with pytest.raises(errors.Error, match="setns: No such process") as caught:
        box.run(["true"])
    assert type(caught.value) is errors.Error


# --- threads ------------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_run_from_eight_threads(box: "ve.Environment") -> None:
    def work(number: int) -> list[str]:
        script = f"echo {number}; read x; echo $x; exit {number}"
        done = [
            box.run(["sh", "-c", script], input=f"{number}.{turn}\n", capture_output=True, text=True)
            for turn in range(5)
        ]
        assert {each.returncode for each in done} == {number}
        return [each.stdout for each in done]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert results == [[f"{number}\n{number}.{turn}\n" for turn in range(5)] for number in range(8)]


@pytest.mark.any_kernel
def test_popen_in_one_thread_and_wait_in_another(box: "ve.Environment") -> None:
    """PR_SET_PDEATHSIG would fire at the end of the first thread."""
    made: list[ve.Popen] = []
    thread = threading.Thread(target=lambda: made.append(box.popen(["cat"], stdin=PIPE, stdout=PIPE)))
    thread.start()
    thread.join()
    with made[0] as process:
        assert process.communicate(b"x") == (b"x", None)
        assert process.returncode == 0


@pytest.mark.any_kernel
def test_twenty_ves_by_four_threads(host: "ve.Host", host_dir: Path) -> None:
    """Their whole lives at once; each has a root, a hostname and an id range of its own."""
    seen: dict[int, tuple[str, int]] = {}
    together = threading.Barrier(4)

    def work(first: int) -> None:
        envs = [
            host.create(veid, template="busybox", hostname=f"h{veid}", name=f"n{veid}")
            for veid in range(first, first + 5)
        ]
        for env in envs:
            env.start()
        together.wait()  # all twenty run
        for env in envs:
            env.run(["sh", "-c", "hostname > /root/me"], check=True)
            done = env.run(["sh", "-c", "cat /root/me; ls /proc | grep -c '^[0-9]'"], capture_output=True, text=True)
            assert int(done.stdout.split()[1]) < 12
            seen[env.veid] = (done.stdout.split()[0], witness.base(witness.init(host_dir, env.veid)))
        together.wait()
        for env in envs:
            assert env.stop()
            env.destroy()

    with witness.nothing_changes(host_dir), ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8000, 8020, 5)))
    assert {veid: hostname for veid, (hostname, _) in seen.items()} == {veid: f"h{veid}" for veid in range(8000, 8020)}
    assert len({base for _, base in seen.values()}) == 20


@pytest.mark.any_kernel
def test_twenty_thrown_away_at_once(host: "ve.Host", host_dir: Path) -> None:
    def work(number: int) -> str:
        with host.ephemeral("busybox", hostname=f"h{number}") as env:
            return str(env.run(["hostname"], capture_output=True, text=True, check=True).stdout)

    with witness.nothing_changes(host_dir), ThreadPoolExecutor(20) as pool:
        assert list(pool.map(work, range(20))) == [f"h{number}\n" for number in range(20)]


@pytest.mark.any_kernel
def test_one_of_many_threads_gets_the_veid(host: "ve.Host", veid: int) -> None:
    def work(_: int) -> bool:
        try:
            host.create(veid, template="busybox")
        except ve.Error as error:
            assert "it exists" in str(error)
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(work, range(8))) == [False] * 7 + [True]


@pytest.mark.any_kernel
def test_one_of_many_threads_starts_it(make: Make) -> None:
    env = make()

    def work(_: int) -> bool:
        try:
            env.start()
        except ve.Error as error:
            assert "it is running" in str(error)
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(work, range(8))) == [False] * 7 + [True]


def test_the_caller_stays_as_it_was(host: "ve.Host", make: Make, tmp_path: Path) -> None:
    """In the midst of it, too: another thread looks while VEs begin, run and end."""
    (tmp_path / "file").write_text("x")
    looks = {name: look for name, look in conftest.PROCESS.items() if name not in ("file descriptors", "children")}
    before = {name: look() for name, look in looks.items()}
    done = threading.Event()
    changed: list[str] = []

    def watch() -> None:
        while not done.is_set():
            changed.extend(name for name, look in looks.items() if look() != before[name])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        env = make()
        env.start()
        env.run(["true"], check=True, user="nobody", cwd="/tmp", umask=0o77, env={"A": "b"})
        env.copy_in(str(tmp_path / "file"), "/tmp/")
        env.set_password("root", "secret")
        env.mount()
        env.umount()
        env.stop()
        with host.ephemeral("busybox") as thrown_away:
            thrown_away.run(["true"], check=True)
    finally:
        done.set()
        watcher.join()
    assert changed == []


@pytest.mark.any_kernel
def test_a_program_with_a_strange_environment(host_dir: Path, make: Make, tmp_path: Path) -> None:
    """umask 777, another directory, no PATH, signals blocked and ignored, no standard descriptors: nothing gets in.

    Signals 32 and 33 are libc's own, so that Python cannot ignore them: but who starts Python may have."""
    env = make()
    script = f"""
import os, signal, sys
from ve._linux import syscalls
syscalls.rt_sigaction(32, signal.SIG_IGN); syscalls.rt_sigaction(33, signal.SIG_IGN)
assert "SigIgn:\t0000000181001000" in open("/proc/self/status").read()
os.chdir({str(tmp_path)!r}); os.umask(0o777)
os.environ.clear(); os.environ.update(PYTHONPATH="/no/such", VE_ID_DIR={os.environ["VE_ID_DIR"]!r})
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
import ve
env = ve.Host({str(host_dir)!r}).get({env.veid})
env.start()
shown = env.run(["sh", "-c", "umask; pwd; grep Sig[BI] /proc/self/status; touch /root/x; stat -c %a /root/x"],
    capture_output=True, text=True, check=True).stdout
os.write(1, shown.encode())
os.closerange(0, 3)
env.stop(fast=True); env.start()
assert env.run(["true"]).returncode == 0
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0022", "/", "SigBlk:", "0" * 16, "SigIgn:", "0" * 16, "644"]
    init = witness.status(witness.init(host_dir, env.veid))
    assert (init["Umask"], init["SigIgn"]) == ("0022", "0" * 16)
    assert init["SigBlk"] in ("0" * 16, "0000000020014a07")  # which busybox's init blocks itself, but while it waits


# --- thrown away --------------------------------------------------------------------------------------------------


def test_ephemeral(host: "ve.Host", host_dir: Path) -> None:
    with witness.nothing_changes(host_dir):
        with host.ephemeral("busybox", hostname="blue", env={"A": "b"}) as env:
            init = witness.init(host_dir, env.veid)
            with commandline.watched(init) as pidfd:
                done = env.run(["sh", "-c", "hostname; echo $A; echo x > /new"], capture_output=True, text=True)
                assert done.stdout == "blue\nb\n"
                assert env.ephemeral and env.pid == init and env.veid in [each.veid for each in host.list()]
                env_gone = pidfd
                assert not commandline.has_ended(env_gone, 0)
                watched = os.dup(pidfd)
        assert commandline.has_ended(watched, 0)
        os.close(watched)
        with pytest.raises(ve.Error, match="there is none"):
            host.get(env.veid)


def test_ephemeral_ends_on_an_exception(host: "ve.Host", host_dir: Path) -> None:
    with witness.nothing_changes(host_dir), pytest.raises(ZeroDivisionError), host.ephemeral("busybox"):
        raise ZeroDivisionError


def test_ephemeral_with_a_command(host: "ve.Host", host_dir: Path) -> None:
    """Under the small init; wait() tells how it ended."""
    with host.ephemeral("busybox", command=["sh", "-c", "exit 7"]) as env:
        assert env.wait() == 7
    with host.ephemeral("busybox", command=["sleep", "100000"]) as env:
        known = commandline.processes(host_dir, env.veid)
        assert os.stat(f"/proc/{known[1]}/exe").st_ino == os.stat("/usr/bin/catatonit").st_ino


@pytest.mark.any_kernel
def test_what_is_not_for_an_ephemeral_ve(host: "ve.Host") -> None:
    with host.ephemeral("busybox") as env:
        for call in (env.start, env.diff):
            with pytest.raises(ve.Error, match="ephemeral"):
                list(call() or ())


def test_it_does_not_end_with_the_thread_that_made_it(host: "ve.Host") -> None:
    made: list[Any] = []

    def work() -> None:
        context = host.ephemeral("busybox")
        made.extend((context, context.__enter__()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    context, env = made
    try:
        assert env.run(["echo", "x"], capture_output=True).stdout == b"x\n"
    finally:
        context.__exit__(None, None, None)


OWNER = """
import os, sys, ve
with ve.Host(sys.argv[1]).ephemeral("busybox") as env:
    process = env.popen(["sleep", "100000"])
    {then}
    print(env.veid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    "then",
    [
        "",
        "import subprocess; subprocess.Popen(['sleep', '1000'], close_fds=False)",
        "os.fork() or (os.setsid(), os.closerange(0, 3), __import__('select').select([], [], []))",
    ],
    ids=["alone", "with a child", "with a fork of it"],
)
def test_it_ends_with_the_process_that_made_it(host: "ve.Host", host_dir: Path, then: str) -> None:
    """By kill -9, also when a child lives on that has all its descriptors; the kernel takes the VE along."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(witness.nothing_changes(host_dir))
        stack.callback(host.list)  # the next command, which removes what it left on the host
        owner = stack.enter_context(witness.python(OWNER.replace("{then}", then), host_dir))
        assert owner.stdin and owner.stdout
        veid = int(owner.stdout.readline())
        known = commandline.processes(host_dir, veid)
        pidfds = [stack.enter_context(commandline.watched(pid)) for pid in known.values()]
        assert len(pidfds) >= 2
        children = Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split()
        bystanders = []
        for child in filter(is_bystander, map(int, children)):
            bystanders.append(stack.enter_context(commandline.watched(child)))
            stack.callback(signal.pidfd_send_signal, bystanders[-1], signal.SIGKILL)
        assert len(bystanders) == (then != "")
        owner.kill()
        assert all(commandline.has_ended(pidfd) for pidfd in pidfds)
        assert not any(commandline.has_ended(pidfd, 0) for pidfd in bystanders)
        witness.wait_empty(host_dir, veid)


@pytest.mark.parametrize(
    "end",
    ["os._exit(0)", "os.abort()", "os.kill(os.getpid(), 15)", "os.execvp('true', ['true'])"],
    ids=["exit", "abort", "SIGTERM", "exec of a program that ends"],
)
def test_it_ends_however_that_process_ends(host: "ve.Host", host_dir: Path, end: str) -> None:
    """Without its with block: nothing of ours is asked any more."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(witness.nothing_changes(host_dir))
        stack.callback(host.list)
        owner = stack.enter_context(witness.python(OWNER.replace("{then}", "") + f"    {end}\n", host_dir))
        assert owner.stdin and owner.stdout
        veid = int(owner.stdout.readline())
        known = commandline.processes(host_dir, veid)
        pidfds = [stack.enter_context(commandline.watched(pid)) for pid in known.values()]
        assert len(pidfds) >= 2
        owner.stdin.close()
        assert all(commandline.has_ended(pidfd) for pidfd in pidfds)
        witness.wait_empty(host_dir, veid)
        owner.wait()


def is_bystander(pid: int) -> bool:
    """Of the children of the owner, one that is none of ours: not begun by the library."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return words[0] == b"sleep" or b"-I" not in words


def test_a_command_ends_with_the_process_that_runs_it(box: "ve.Environment", host_dir: Path) -> None:
    """And only that; its whole tree."""
    script = f"import sys, ve; ve.Host(sys.argv[1]).get({box.veid}).run(['sh', '-c', sys.argv[2]])"
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(box.popen(["cat"], stdin=PIPE))
        caller = stack.enter_context(witness.python(script, host_dir, FAMILY))
        assert caller.stdout
        inside = [int(caller.stdout.readline()) for _ in range(2)]
        known = commandline.processes(host_dir, box.veid)
        pidfds = [stack.enter_context(commandline.watched(known[pid])) for pid in inside]
        caller.kill()
        assert all(commandline.has_ended(pidfd) for pidfd in pidfds)
        assert other.poll() is None
        other.communicate()
    box.run(["true"])  # the next command, which removes the cgroup of that one


def test_a_ve_runs_on_after_kill_of_what_started_it(host_dir: Path, make: Make) -> None:
    env = make()
    with witness.python(
        f"{witness.START}; print('started', flush=True); sys.stdin.read()", host_dir, env.veid
    ) as starter:
        assert starter.stdout and starter.stdout.readline() == "started\n"
        starter.kill()
        starter.wait()
        assert env.run(["echo", "x"], capture_output=True).stdout == b"x\n"
        parent = witness.status(witness.init(host_dir, env.veid))["PPid"]
        assert parent != str(starter.pid)


@pytest.mark.any_kernel
def test_one_that_has_ended_is_its_maker_s(host: "ve.Host", host_dir: Path) -> None:
    """Until the block ends, whoever lists VEs meanwhile."""
    with witness.nothing_changes(host_dir), host.ephemeral("busybox", command=["sh", "-c", "exit 7"]) as env:
        assert env.wait() == 7
        host.forget_dead()
        assert commandline.run(host_dir, "list").returncode == 0
        assert env.config.veid == env.veid and env.status == "stopped"
        with pytest.raises(ve.Error, match=f"cannot start {env.veid}: it is ephemeral"):
            host.get(env.veid).start()


@pytest.mark.any_kernel
def test_a_restart_of_an_ephemeral_one_is_refused_first(host: "ve.Host") -> None:
    with host.ephemeral("busybox") as env:
        with pytest.raises(ve.Error, match=f"cannot restart {env.veid}: it is ephemeral"):
            host.get(env.veid).restart()
        assert env.status == "running"


def test_a_restart_lets_nobody_in_between(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make()
    env.start()
    stop = ending.stop

    def stop_and_try(env: "ve.Environment", timeout: float, fast: bool) -> bool:
        gone = stop(env, 0, True)
        with pytest.raises(ve.Error, match="another thread of this process works on it"), env.state.lock(env.veid, 0):
            pass
        return gone

    monkeypatch.setattr(ending, "stop", stop_and_try)
    env.restart()
    assert env.status == "running"


@pytest.mark.any_kernel
def test_a_plan_changes_nothing(make: Make, host_dir: Path) -> None:
    env = make()
    ids.release(env.state, env.veid)
    with witness.nothing_changes(host_dir):
        [step] = [step for step in env.plan() if step.name == "mapped_root"]
    env.start()
    assert step.text.endswith(f": {witness.base(witness.init(host_dir, env.veid))}")


def test_a_place_is_never_an_overlay_that_is_not_locked(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it runs is asked once, and held: one that ends just then is not a stopped one."""
    env = make()
    env.start()
    asked = env.init

    def end_after() -> Any:
        with asked() as init:
            copy = (init[0], os.dup(init[1])) if init else None
        ve.Environment(env.state, env.veid).stop(fast=True)
        monkeypatch.undo()
        return contextlib.nullcontext(copy)

    monkeypatch.setattr(env, "init", end_after)
    with env.place() as place:
        assert place.rootfd == -1 and place.pidfd >= 0
        os.close(place.pidfd)


@pytest.mark.any_kernel
@pytest.mark.parametrize(("command", "why"), [
    ("sleep inf", "it is one string, not its words"), (5, "it is not a list"), ([5], "cannot use command 5"),
    (["a\0b"], "no word has a NUL"),
])  # fmt: skip
def test_a_command_that_is_none(host: "ve.Host", host_dir: Path, command: Any, why: str) -> None:
    with witness.nothing_changes(host_dir), pytest.raises(ve.errors.InvalidValue, match=why):
        host.ephemeral("busybox", command=command).__enter__()


@pytest.mark.any_kernel
def test_a_veid_that_is_a_text(host: "ve.Host", host_dir: Path) -> None:
    with witness.nothing_changes(host_dir), pytest.raises(ve.errors.InvalidValue, match="cannot use VEID '122'"):
        host.create("122", template="busybox")  # type: ignore[arg-type]
