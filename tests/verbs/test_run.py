"""ve run: a command in a VE that is thrown away.  Nothing of it may stay, however it ends."""

import contextlib
import hashlib
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests.verbs import commandline, witness

PIPE = subprocess.PIPE
IMAGE = """
umoci init --layout layout; umoci new --image layout:latest; umoci unpack --image layout:latest bundle
mkdir -p bundle/rootfs/bin bundle/rootfs/etc bundle/rootfs/srv; cp /bin/busybox bundle/rootfs/bin/
for applet in sh cat echo id sleep; do ln -s busybox bundle/rootfs/bin/$applet; done
printf 'root:x:0:0::/:/bin/sh\\nweb:x:33:44::/srv:/bin/sh\\n' > bundle/rootfs/etc/passwd
umoci repack --image layout:latest bundle
umoci config --image layout:latest --config.user web --config.workingdir /srv --config.env A=b=c \
    --config.entrypoint /bin/sh --config.cmd -c --config.cmd 'echo $(id -u):$(id -g) $PWD $A; exit 7'
"""


@pytest.fixture(scope="module", autouse=True)
def directories(host: "ve.Host") -> None:
    """Those that the first VE of a state dir makes are there."""
    host.create(9000, template="busybox").destroy()


@pytest.fixture(autouse=True)
def nothing_left(host: "ve.Host", host_dir: Path) -> Iterator[None]:
    """No file, cgroup or lease more than before."""
    with witness.nothing_changes(host_dir):
        yield
        host.list()  # the next command takes away what a killed one left


@pytest.fixture(scope="module")
def image(host: "ve.Host", tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A template without an init, from an OCI image with a command, environment, directory and user."""
    top = tmp_path_factory.mktemp("image")
    subprocess.run(["bash", "-ec", IMAGE], cwd=top, check=True, capture_output=True)
    template = host.templates.add("image", str(top / "layout"))
    yield template.ref
    host.templates.remove(template.ref)


def ephemeral_veids(host_dir: Path) -> list[int]:
    """Of the VEs that are thrown away; from their cgroups."""
    return [int(path.name) for path in commandline.cgroup(host_dir, 0).parent.glob("2?????????")]


# --- the command --------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
@pytest.mark.parametrize("code", [0, 7, 255])
def test_the_exit_code_is_the_command_s(host_dir: Path, code: int) -> None:
    done = commandline.run(host_dir, "run", "busybox", "--", "sh", "-c", f"echo out; echo err >&2; exit {code}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "out\n", "err\n")


@pytest.mark.any_kernel
def test_failures(host_dir: Path) -> None:
    for args, code, why in (
        (("busybox", "no-such"), 127, "cannot execute no-such in "),
        (("busybox", "/etc/passwd"), 126, "cannot execute /etc/passwd in "),
        (("no-such", "true"), 125, "no-such"),
        (("busybox", "sh", "-c", "kill -9 $$"), 137, ""),
    ):
        done = commandline.run(host_dir, "run", *args)
        assert (done.returncode, done.stdout) == (code, "")
        assert why in done.stderr


@pytest.mark.any_kernel
def test_a_bad_mount_fails_the_start_and_leaves_nothing(host_dir: Path) -> None:
    done = commandline.run(host_dir, "run", "busybox", "--mount", "/no/such:/mnt", "--", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("ve: cannot mount /no/such at /mnt in the VE: ")


@pytest.mark.any_kernel
def test_options(host_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    tmp_path.chmod(0o755)
    options = ("--hostname", "blue", "--env", "A=b", "--mount", f"{tmp_path}:/mnt:ro")
    script = "hostname; echo $A; cat /mnt/file; touch /mnt/x || echo read only; ls -l"
    shown = commandline.run(host_dir, "run", *options, "busybox", "--", "sh", "-c", script).stdout
    assert shown.splitlines()[:4] == ["blue", "b", "from the host", "read only"]
    assert commandline.output(host_dir, "run", "busybox", "ls", "-d", "/etc/") == "/etc/\n"


def test_what_it_changes_is_gone(host: "ve.Host", host_dir: Path) -> None:
    template = Path(host.templates.get("busybox").path)
    before = (template / "etc/passwd").read_bytes()
    script = "echo x > /etc/passwd; rm /etc/group; mkdir /new; dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null; ls /"
    assert {"new", "big"} <= set(commandline.output(host_dir, "run", "busybox", "--", "sh", "-c", script).split())
    assert (template / "etc/passwd").read_bytes() == before and (template / "etc/group").exists()
    assert not (template / "new").exists()
    assert "new" not in commandline.output(host_dir, "run", "busybox", "ls", "/").split()


@pytest.mark.any_kernel
def test_pipes(host_dir: Path) -> None:
    data = os.urandom(1 << 20) * 16
    done = commandline.run(host_dir, "run", "busybox", "cat", input=data, text=False)
    digests = [hashlib.sha256(each).digest() for each in (data, done.stdout)]  # type: ignore[arg-type]
    assert (done.returncode, digests[0]) == (0, digests[1])


@pytest.mark.any_kernel
def test_a_terminal(host_dir: Path) -> None:
    with commandline.on_terminal(host_dir, "run", "busybox", size=(33, 99)) as terminal:
        terminal.expect("# ")
        terminal.send("echo $((40 + 2)), $(stty size), $(tty)\n")
        terminal.expect(r"42, 33 99, /dev/pts/\d+\r\n")
        terminal.send("sh -c 'echo on; exec cat'\n")  # one job: Ctrl-C may come before cat does
        terminal.expect(r"\non\r\n")
        terminal.send("\x03")
        terminal.expect("# ")
        terminal.send("exit 9\n")
        assert terminal.end() == 9


# --- its init -----------------------------------------------------------------------------------------------------


def test_the_small_init_is_pid_1(host_dir: Path) -> None:
    shown = commandline.output(host_dir, "run", "busybox", "--", "sh", "-c", "readlink /proc/1/exe; cat /proc/1/comm")
    assert shown.splitlines() == ["/dev/init", "init"]


def test_orphans_are_reaped(host_dir: Path) -> None:
    """The orphan's pid is free again while the command runs: init has waited for it."""
    script = """
        orphan=$(sh -c 'sh -c "echo \\$\\$; read x" <&3 & ' 3<&0)
        while [ -e /proc/$orphan ]; do echo; read x; done
        grep -h '^State:.*zombie' /proc/[0-9]*/status; echo end $orphan
    """
    with commandline.start(host_dir, "run", "busybox", "--", "sh", "-c", script, stdin=PIPE, stdout=PIPE) as process:
        assert process.stdout and process.stdin
        shown = b""
        while not shown.startswith(b"end"):
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(b"\n")
                process.stdin.flush()
            shown = process.stdout.readline()
            assert b"zombie" not in shown
    assert process.returncode == 0


@pytest.mark.any_kernel
def test_background_processes_end_with_it(host_dir: Path) -> None:
    script = "sleep 100000 >/dev/null 2>&1 & setsid sleep 100000 >/dev/null 2>&1 & echo x; read x"
    with commandline.start(host_dir, "run", "busybox", "--", "sh", "-c", script, stdin=PIPE, stdout=PIPE) as process:
        assert process.stdout and process.stdin and process.stdout.readline() == b"x\n"
        with contextlib.ExitStack() as stack:
            pids = commandline.processes(host_dir, *ephemeral_veids(host_dir)).values()
            assert len(pids) >= 4  # init, the shell, two sleeps
            pidfds = [stack.enter_context(commandline.watched(pid)) for pid in pids]
            process.communicate(b"\n")
            assert all(commandline.has_ended(pidfd, 0) for pidfd in pidfds)  # it waited for them


# --- images -------------------------------------------------------------------------------------------------------


@pytest.mark.any_kernel
def test_an_image_s_own_command(host_dir: Path, image: str) -> None:
    done = commandline.run(host_dir, "run", "image")
    assert (done.returncode, done.stdout) == (7, "33:44 /srv b=c\n")
    done = commandline.run(host_dir, "run", "image", "--env", "A=d", "--", "sh", "-c", "echo $A $(id -u) $PWD")
    assert (done.returncode, done.stdout) == (0, "d 33 /srv\n")


@pytest.mark.any_kernel
def test_a_ve_of_an_image_runs_its_command_under_the_small_init(
    host: "ve.Host", host_dir: Path, tmp_path: Path, image: str, veid: int
) -> None:
    """A template whose command lives on: PID 1 is the small init, stop ends the command in order."""
    tree = tmp_path / "root"
    subprocess.run(["cp", "-a", host.templates.get("image").path, tree], check=True)
    script = "trap 'echo ends in order; exit 0' TERM; echo begins; while :; do sleep 100000 & wait $!; done"
    make = f"""
        umoci init --layout layout; umoci new --image layout:latest; umoci unpack --image layout:latest bundle
        cp -a {host.templates.get("image").path}/. bundle/rootfs/; umoci repack --image layout:latest bundle
        umoci config --image layout:latest --config.entrypoint /bin/sh --config.cmd -c \\
            --config.cmd {shlex.quote(script)}
    """
    subprocess.run(["bash", "-ec", make], cwd=tmp_path, check=True, capture_output=True)
    host.templates.add("service", str(tmp_path / "layout"))
    env = host.create(veid, template="service")
    try:
        env.start()
        init = commandline.processes(host_dir, veid)[1]
        assert os.stat(f"/proc/{init}/exe").st_ino == os.stat("/usr/bin/catatonit").st_ino
        with commandline.start(host_dir, "logs", "-f", veid, stdout=PIPE) as logs:
            assert logs.stdout and logs.stdout.readline() == b"begins\n"
            commandline.kill(logs)
        done = commandline.run(host_dir, "stop", "--timeout", 50, veid)
        assert (done.returncode, done.stderr) == (0, f"{veid} is stopped\n")  # and not by a kill
        assert commandline.output(host_dir, "logs", veid) == "begins\nends in order\n"
    finally:
        if env.pid is not None:
            env.stop(fast=True)
        env.destroy()
        host.templates.remove("service")


@pytest.mark.any_kernel
def test_a_ve_of_an_image_ends_with_its_command(host: "ve.Host", host_dir: Path, image: str, veid: int) -> None:
    host.create(veid, template="image")
    commandline.output(host_dir, "start", veid)
    witness.wait_empty(host_dir, veid)
    assert commandline.output(host_dir, "logs", veid) == "33:44 /srv b=c\n"
    assert commandline.output(host_dir, "list", "-H", "-o", "veid,status").split() == [str(veid), "stopped"]


# --- killed -------------------------------------------------------------------------------------------------------


def test_kill_of_ve_run(host_dir: Path) -> None:
    """The kernel ends all of the VE, at once; the next command removes what it left on the host."""
    script = "setsid sh -c 'exec sleep 100000' & echo x; wait"
    with commandline.start(host_dir, "run", "busybox", "--", "sh", "-c", script, stdout=PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"x\n"
        with contextlib.ExitStack() as stack:
            known = commandline.processes(host_dir, *ephemeral_veids(host_dir))
            pidfds = [stack.enter_context(commandline.watched(pid)) for pid in known.values()]
            commandline.kill(process)
            assert all(commandline.has_ended(pidfd) for pidfd in pidfds)


NATIVE_MOMENTS = [pytest.param(0.05 * n, marks=pytest.mark.any_kernel) for n in (1, 3, 4, 5, 6, 7)]


@pytest.mark.parametrize("after", [*NATIVE_MOMENTS, 0.4, 2.0])  # on a slow emulated CPU it has just begun
def test_kill_of_ve_run_while_it_begins(host: "ve.Host", host_dir: Path, after: float) -> None:
    """At any moment.  Who could still make something of it has our pipe as stderr."""
    with commandline.start(host_dir, "run", "busybox", "--", "sleep", 100000, stdout=PIPE, stderr=PIPE) as process:
        with commandline.watched(process.pid) as pidfd:
            commandline.has_ended(pidfd, after)
        commandline.kill(process)
        process.communicate()
    for veid in ephemeral_veids(host_dir):
        witness.wait_empty(host_dir, veid)
    commandline.output(host_dir, "list")
    assert ephemeral_veids(host_dir) == []


@pytest.mark.any_kernel
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_the_command_s(host_dir: Path, number: int) -> None:
    with commandline.start(
        host_dir, "run", "busybox", "--", "sh", "-c", "echo x; exec sleep 100000", stdout=PIPE
    ) as process:
        assert process.stdout and process.stdout.readline() == b"x\n"
        process.send_signal(number)
        assert process.wait() == 128 + number


@pytest.mark.any_kernel
def test_it_shows_in_list_while_it_runs(host_dir: Path) -> None:
    with commandline.start(
        host_dir, "run", "busybox", "--", "sh", "-c", "echo x; read x", stdin=PIPE, stdout=PIPE
    ) as process:
        assert process.stdout and process.stdin and process.stdout.readline() == b"x\n"
        [veid] = ephemeral_veids(host_dir)
        line = [
            each.split()
            for each in commandline.output(host_dir, "list", "-H", "-o", "veid,status,ephemeral").splitlines()
        ]
        assert [str(veid), "running", "yes"] in line
        process.communicate(b"\n")
    assert str(veid) not in commandline.output(host_dir, "list", "-H", "-o", "veid").split()


@pytest.mark.any_kernel
def test_eight_at_once(host_dir: Path) -> None:
    running = [
        commandline.start(host_dir, "run", "busybox", "--hostname", f"h{number}", "--", "hostname", stdout=PIPE)
        for number in range(8)
    ]
    assert [process.communicate()[0] for process in running] == [b"h%d\n" % number for number in range(8)]


@pytest.mark.any_kernel
def test_as_another_user_elsewhere(host_dir: Path, host: "ve.Host") -> None:
    done = commandline.run(
        host_dir, "run", "busybox", "--user", "nobody", "--cwd", "/tmp", "--", "sh", "-c", "id -un; pwd"
    )
    assert (done.returncode, done.stdout) == (0, "nobody\n/tmp\n")
