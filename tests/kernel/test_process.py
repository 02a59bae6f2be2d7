"""Popen, run and call: what a command inside a VE gets, says and is refused, as subprocess has it."""

import errno
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.kernel import standin
from ve import calling, process
from ve.errors import CannotExecute, Error, InvalidValue, NotRunning
from ve.process import Popen, Target

PIPE = subprocess.PIPE


def output(target: Target, *args: str | bytes, **popen_args: Any) -> str:
    done = process.run(args, target=target, check=True, stdout=PIPE, text=True, **popen_args)
    return str(done.stdout).rstrip("\n")


def sh(target: Target, script: str, **popen_args: Any) -> str:
    return output(target, "sh", "-c", script, **popen_args)


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_code(target: Target, code: int) -> None:
    assert process.run(["sh", "-c", f"exit {code}"], target=target).returncode == code


@pytest.mark.parametrize("number", ["TERM", "KILL", "SEGV", "INT", "PIPE", "HUP", "CHLD"])
def test_death_by_a_signal(target: Target, number: str) -> None:
    expected = 0 if number == "CHLD" else -signal.Signals[f"SIG{number}"]
    assert process.run(["sh", "-c", f"kill -{number} $$"], target=target).returncode == expected


def test_it_is_in_the_namespaces_of_init(target: Target) -> None:
    names = sorted(set(os.listdir(f"/proc/{target.pid}/ns")) - {"pid_for_children", "time_for_children"})
    inside = sh(target, "cd /proc/self/ns; for n in " + " ".join(names) + "; do readlink $n; done").split()
    assert inside == [os.readlink(f"/proc/{target.pid}/ns/{name}") for name in names]


def test_nothing_of_ours_is_in_the_namespaces_but_the_command(target: Target) -> None:
    with Popen(["sh", "-c", "ps -o pid,args; read x"], target=target, stdin=PIPE, stdout=PIPE) as command:
        assert command.stdout and command.stdin
        inside = os.readlink(f"/proc/{target.pid}/ns/pid")
        ours = [
            entry.name
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and _link(entry / "ns/pid") == inside and _is_python(entry)
        ]
        assert ours == []
        assert os.readlink(f"/proc/{command.pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
        assert os.readlink(f"/proc/{command.host_pid}/ns/pid") == inside
        assert (
            f"NSpid:\t{command.host_pid}\t{command.inside_pid}" in Path(f"/proc/{command.host_pid}/status").read_text()
        )
        command.communicate(b"\n")


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _is_python(entry: Path) -> bool:
    return "python" in _link(entry / "exe")


def test_only_standard_descriptors(target: Target) -> None:
    leak = os.open("/", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        # the shell expands the pattern in its own process, with the directory itself as the one descriptor more
        assert sh(target, "echo /proc/self/fd/*") == "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3"
        assert sh(target, "for f in /proc/$$/fd/*; do readlink $f; done; true").count("\n") <= 2
    finally:
        os.close(leak)


def test_signals_are_at_their_default(target: Target) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        lines = output(target, "grep", "Sig[BI]", "/proc/self/status").split()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert lines == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


def test_it_leads_a_session(target: Target) -> None:
    fields = sh(target, "cat /proc/$$/stat").split()
    assert fields[0] == fields[4] == fields[5]  # pid, process group, session
    assert fields[6] == "0"  # no controlling terminal


def test_capabilities_are_those_of_init(target: Target) -> None:
    theirs = [line for line in Path(f"/proc/{target.pid}/status").read_text().splitlines() if "CapBnd" in line]
    assert output(target, "grep", "CapBnd", "/proc/self/status") == theirs[0]
    assert output(target, "grep", "CapEff", "/proc/self/status", user="bob").split()[1] == "0" * 16


@pytest.mark.parametrize(
    ("user", "group", "expected"),
    [
        (None, None, "uid=0(root) gid=0(root)"),
        ("root", None, "uid=0(root) gid=0(root) groups=0(root),10(wheel)"),
        ("bob", None, "uid=1000(bob) gid=1001(bob) groups=1001(bob),10(wheel),29(audio)"),
        (1000, None, "uid=1000(bob) gid=1001(bob) groups=1001(bob),10(wheel),29(audio)"),
        ("bob:audio", None, "uid=1000(bob) gid=29(audio) groups=29(audio),10(wheel)"),
        ("bob", "tty", "uid=1000(bob) gid=5(tty) groups=5(tty),10(wheel),29(audio)"),
        ("4321", None, "uid=4321 gid=0(root)"),
        ("4321:77", None, "uid=4321 gid=77"),
        (None, 29, "uid=0(root) gid=29(audio)"),
    ],
)
def test_user(target: Target, user: Any, group: Any, expected: str) -> None:
    wanted, got = expected.split(), output(target, "id", user=user, group=group).split()
    assert got[:2] == wanted[:2]
    numbers = [set(each[2].removeprefix("groups=").split(",")) if len(each) > 2 else set() for each in (wanted, got)]
    assert numbers[0] - numbers[1] == set()


def test_extra_groups(target: Target) -> None:
    assert output(target, "id", "-G", user="bob", extra_groups=["audio", 77]).split() == ["1001", "29", "77"]


def test_a_user_has_its_own_environment(target: Target) -> None:
    lines = output(target, "env", user="bob").splitlines()
    assert {"HOME=/home/bob", "USER=bob", "LOGNAME=bob", "SHELL=/bin/sh", "container=ve"} <= set(lines)


@pytest.mark.any_kernel
def test_env_is_exactly_what_is_given(target: Target) -> None:
    assert output(target, "env", env={"A": "b", b"B": b"\xff"}, errors="surrogateescape") == "A=b\nB=\udcff"
    assert output(target, "env", env={"A": "b"}, user="bob") == "A=b"
    assert set(output(target, "env").splitlines()) == {f"{key}={value}" for key, value in standin.ENV.items()}


@pytest.mark.any_kernel
def test_add_env_is_beside_the_rest(target: Target) -> None:
    lines = output(target, "env", user="bob", add_env={"USER": "other", "X": "1"}).splitlines()
    assert {"HOME=/home/bob", "USER=other", "X=1", "container=ve"} <= set(lines)


@pytest.mark.any_kernel
def test_cwd_and_umask(target: Target) -> None:
    assert output(target, "pwd") == "/"
    assert output(target, "pwd", cwd="/tmp") == "/tmp"
    assert sh(target, "umask") == "0022"
    assert sh(target, "umask", umask=0o77) == "0077"


@pytest.mark.any_kernel
@pytest.mark.parametrize(("user", "group"), [("nobody-here", None), ("bob", "no-such"), (None, "no-such")])
def test_unknown_user_or_group(target: Target, user: Any, group: Any) -> None:
    with pytest.raises(InvalidValue, match=r"cannot enter 101 as .*: no such (user|group)"):
        process.run(["true"], target=target, user=user, group=group)


def test_a_user_beyond_the_map_is_an_error(target: Target) -> None:
    with pytest.raises(Error, match="identity: Invalid argument"):
        process.run(["true"], target=target, user="lost")


@pytest.mark.any_kernel
def test_hostile_passwd(target: Target) -> None:
    """A FIFO that nobody writes to must not stop us."""
    root = f"/proc/{target.pid}/root"
    os.rename(f"{root}/etc/passwd", f"{root}/etc/passwd.kept")
    os.mkfifo(f"{root}/etc/passwd")
    try:
        with pytest.raises(InvalidValue):
            process.run(["true"], target=target, user="bob")
    finally:
        os.rename(f"{root}/etc/passwd.kept", f"{root}/etc/passwd")


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("args", "popen_args"),
    [
        (["no-such-command"], {}),
        (["/no/such"], {}),
        (["/etc/passwd"], {}),
        (["/etc"], {}),
        (["true"], {"cwd": "/no/such"}),
        (["true"], {"cwd": "/etc/passwd"}),
        (["/tmp/script"], {}),
        (["true", "x" * 200000], {}),
        ([""], {}),
    ],
)
def test_failures_are_those_of_subprocess(
    target: Target, args: list[str], popen_args: dict[str, Any], tmp_path: Path
) -> None:
    sh(target, "echo 'exit 3' > /tmp/script; chmod 755 /tmp/script")
    theirs_args = list(args)
    if args[0] == "/tmp/script":  # ours is the VE's /tmp
        theirs_args[0] = str(tmp_path / "script")
        Path(theirs_args[0]).write_text("exit 3\n")
        Path(theirs_args[0]).chmod(0o755)
    with pytest.raises(OSError) as theirs:
        subprocess.run(theirs_args, check=False, **popen_args)
    with pytest.raises(OSError) as ours:
        process.run(args, target=target, **popen_args)
    assert type(ours.value) is type(theirs.value)
    assert ours.value.errno == theirs.value.errno
    if args == theirs_args:
        assert ours.value.filename == theirs.value.filename


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    "argument", [{"preexec_fn": print}, {"close_fds": False}, {"pass_fds": (5,)}, {"process_group": 0}]
)
def test_meaningless_arguments_are_refused_by_name(target: Target, argument: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(argument))):
        Popen(["true"], target=target, **argument)
    with pytest.raises(TypeError, match="unexpected"):
        Popen(["true"], target=target, nonsense=1)  # type: ignore[call-arg]


@pytest.mark.any_kernel
@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_no_directory_of_ours_goes_inside(target: Target, tmp_path: Path, name: str) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    given: dict[str, Any] = {name: fd}
    try:
        with pytest.raises(ValueError, match=f"{name} is a directory"):
            process.run(["true"], target=target, **given)
    finally:
        os.close(fd)


@pytest.mark.any_kernel
def test_nor_one_that_we_only_hand_on(target: Target, tmp_path: Path) -> None:
    program = (
        "import os\n"
        "from ve.process import Target, run\n"
        f"t = Target(pidfd=os.pidfd_open({target.pid}), pid={target.pid}, cgroup={target.cgroup!r},"
        f" env={dict(target.env)!r}, veid=101, filters=())\n"
        f"os.dup2(os.open({str(tmp_path)!r}, os.O_RDONLY), 0)\n"
        "try: run(['true'], target=t)\n"
        "except ValueError as error: print(error)"
    )
    said = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert said.startswith("stdin is a directory")


@pytest.mark.any_kernel
def test_nul_in_an_argument(target: Target) -> None:
    with pytest.raises(ValueError, match="null"):
        process.run(["echo", "a\0b"], target=target)
    with pytest.raises(ValueError, match="variable"):
        process.run(["echo"], target=target, env={"A=B": ""})


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    "options",
    [
        {"cwd": "a\0b"}, {"executable": "a\0b"}, {"umask": 2**40}, {"umask": -(2**40)}, {"umask": "022"},
        {"extra_groups": range(1, (1 << 16) + 2)},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_as_subprocess_has_it(target: Target, options: dict[str, Any]) -> None:
    refused = (ValueError, OverflowError, TypeError)
    with pytest.raises(refused) as theirs:
        subprocess.run(["true"], check=False, **{**options, "extra_groups": [*options.get("extra_groups", ())]})
    with pytest.raises(refused) as ours:
        process.run(["true"], target=target, **options)
    assert type(ours.value) is type(theirs.value)


@pytest.mark.any_kernel
def test_shell_and_executable(target: Target) -> None:
    done = process.run("echo $((1 + 2)) $0", target=target, shell=True, stdout=PIPE)
    assert done.stdout == b"3 /bin/sh\n"
    assert output(target, "echo", "x", executable="/bin/busybox") == "x"


@pytest.mark.any_kernel
def test_strange_arguments_arrive(target: Target) -> None:
    given = [b"", b" ", b"\xff\xfe", b"a\nb", "ä".encode(), b"-n", b'"$x"']
    done = process.run(["sh", "-c", 'for a; do printf "%s\\1" "$a"; done', "sh", *given], target=target, stdout=PIPE)
    assert done.stdout.split(b"\1")[:-1] == given


@pytest.mark.any_kernel
def test_large_arguments_and_environment(target: Target) -> None:
    arguments = ["x" * 100000] * 8
    env = {f"V{number}": "y" * 100000 for number in range(7)}
    script = 'printf %s "$*" | wc -c; env | wc -c'
    first, second = sh(target, script, env=env).split(), output(target, "sh", "-c", script, "sh", *arguments, env=env)
    assert int(first[1]) >= 700000
    assert int(second.split()[0]) == 8 * 100000 + 7


@pytest.mark.any_kernel
def test_text_input_and_output(target: Target) -> None:
    done = process.run(["tr", "a-z", "A-Z"], target=target, input="häh\n", capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (0, "HäH\n", "")
    done = process.run("echo o; echo e >&2", shell=True, target=target, stdout=PIPE, stderr=subprocess.STDOUT)
    assert done.stdout == b"o\ne\n"


@pytest.mark.any_kernel
def test_stdin_ends(target: Target) -> None:
    assert process.run(["cat"], target=target, stdin=subprocess.DEVNULL, stdout=PIPE).stdout == b""
    with Popen(["cat"], target=target, stdin=PIPE, stdout=PIPE) as command:
        assert command.communicate(b"x") == (b"x", None)


@pytest.mark.any_kernel
def test_64_mib_both_ways(target: Target) -> None:
    data = os.urandom(1 << 20) * 64
    done = process.run(["cat"], target=target, input=data, stdout=PIPE)
    assert done.stdout == data


@pytest.mark.any_kernel
def test_check(target: Target) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        process.run(["sh", "-c", "echo x; exit 3"], target=target, check=True, capture_output=True)
    assert (caught.value.returncode, caught.value.stdout, caught.value.stderr) == (3, b"x\n", b"")
    assert caught.value.cmd == ["sh", "-c", "echo x; exit 3"]


def test_closed_standard_descriptors_of_the_caller(target: Target) -> None:
    """They are /dev/null inside, and none of our own descriptors takes their place."""
    program = (
        "import os, sys; [os.close(n) for n in (0, 1)]\n"
        "from ve.process import Target, run\n"
        f"t = Target(pidfd=os.pidfd_open({target.pid}), pid={target.pid}, cgroup={target.cgroup!r}, filters=(),"
        f" env={dict(target.env)!r}, veid=101)\n"
        "script = 'for n in 0 1; do x=$(readlink /proc/$$/fd/$n); echo $x >&2; done'\n"
        "sys.exit(run(['sh', '-c', script], target=t).returncode)"
    )
    done = subprocess.run([sys.executable, "-c", program], stderr=PIPE, text=True, check=True)
    assert [line for line in done.stderr.splitlines() if "null" in line] == ["/dev/null"] * 2, done.stderr


def test_a_ve_that_has_ended(tmp_path: Path) -> None:
    with standin.running(tmp_path / "root", "-dead") as target:
        os.kill(target.pid, signal.SIGKILL)
        _wait_ended(target.pidfd)
        with pytest.raises(NotRunning, match="cannot enter 101: it is not running"):
            process.run(["true"], target=target)


def test_a_ve_that_ends_takes_the_command_along(tmp_path: Path) -> None:
    with (
        standin.running(tmp_path / "root", "-ending") as target,
        Popen(["sleep", "1000"], target=target) as command,
    ):
        os.kill(target.pid, signal.SIGKILL)
        assert command.wait(timeout=60) == -9


def _wait_ended(pidfd: int) -> None:
    assert select.select([pidfd], [], [], 60)[0]


@pytest.mark.any_kernel
def test_from_eight_threads(target: Target) -> None:
    results: list[str] = []

    def work(number: int) -> None:
        results.extend(sh(target, f"echo {number}.{i}; exit 0") for i in range(6))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted(f"{number}.{i}" for number in range(8) for i in range(6))


@pytest.mark.any_kernel
def test_call(target: Target, capfd: pytest.CaptureFixture[str]) -> None:
    assert calling.call(["sh", "-c", "echo out; echo err >&2; exit 4"], target=target) == 4
    assert capfd.readouterr() == ("out\n", "err\n")
    assert calling.call(["sh", "-c", "kill -TERM $$"], target=target) == 128 + signal.SIGTERM


@pytest.mark.any_kernel
@pytest.mark.parametrize(
    ("program", "code"), [("no-such", 127), ("/no/such", 127), ("/etc/passwd", 126), ("/etc", 126)]
)
def test_call_without_a_program(target: Target, program: str, code: int) -> None:
    with pytest.raises(CannotExecute, match=f"cannot execute {program} in 101: ") as caught:
        calling.call([program], target=target)
    assert caught.value.exit_code == code
    with pytest.raises(InvalidValue, match="cannot work in /no/such of 101"):
        calling.call(["true"], target=target, cwd="/no/such")


def test_send_signal(target: Target) -> None:
    script = "trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.01; done"
    with Popen(["sh", "-c", script], target=target, stdout=PIPE) as command:
        assert command.stdout
        assert command.stdout.readline() == b"ready\n"
        command.send_signal(signal.SIGUSR1)
        assert command.communicate()[0] == b"got\n"
        assert command.returncode == 5
        command.send_signal(signal.SIGUSR1)  # nothing: it has ended
    with pytest.raises(OSError, match="Invalid argument") as caught:
        command.send_signal(1000)
    assert caught.value.errno == errno.EINVAL


def test_terminate(target: Target) -> None:
    with Popen(["sleep", "1000"], target=target) as command:
        os.kill(command.pid, signal.SIGTERM)  # what we have on the host does not mind
        assert command.poll() is None
        command.terminate()
        assert command.wait() == -signal.SIGTERM
