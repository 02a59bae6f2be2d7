"""Commands and VEs from asyncio.  cgroup.procs and /proc say what runs; subprocess.run is what arun is held to."""

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ve
from tests.verbs import commandline, witness
from tests.verbs.test_library import FAMILY, SAME, directories, outcome  # noqa: F401  directories is a fixture
from ve import aio, errors, process

pytestmark = pytest.mark.any_kernel

PIPE = subprocess.PIPE


@pytest.fixture(scope="module")
def box(host: "ve.Host") -> Iterator["ve.Environment"]:
    """A VE that tests of commands use, and leave as it was; once its own scripts have ended."""
    env = host.create(7003, template="busybox", hostname="red", env={"COLOR": "red"})
    env.start()
    yield env
    env.stop(fast=True)
    env.destroy()


def of_commands(box: "ve.Environment") -> list[int]:
    """The host's pids of all that runs in the cgroups of commands, as the kernel lists them."""
    top = Path(box.cgroup.path, "exec")
    return [int(pid) for file in top.glob("**/cgroup.procs") for pid in file.read_text().split()]


def names(box: "ve.Environment") -> set[str]:
    found = set()
    for pid in of_commands(box):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            found.add(witness.status(pid)["Name"])
    return found


def ours() -> set[str]:
    """The processes of ours: our children, one for each command."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


# --- as subprocess ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("args", "options"), SAME, ids=lambda value: " ".join(map(str, value))[:40])
def test_arun_is_subprocess_run(box: "ve.Environment", args: list[str], options: dict[str, Any]) -> None:
    def arun(args: list[str], **options: Any) -> Any:
        return asyncio.run(box.arun(args, **options), debug=True)

    theirs = outcome(subprocess.run, args, {"env": {"PATH": "/usr/bin:/bin"}} | options)
    assert outcome(arun, args, options) == theirs


def test_what_arun_has_beside(box: "ve.Environment") -> None:
    async def act() -> None:
        done = await box.arun("echo $COLOR; id -u", shell=True, user="nobody", capture_output=True, text=True)
        assert (done.stdout, done.stopped_by) == ("red\n65534\n", None)
        assert (await box.arun(["pwd"], login=True, cwd="/usr", stdout=PIPE)).stdout == b"/usr\n"
        with pytest.raises(errors.InvalidValue):
            await box.arun(["true"], user="nobody-here")
        with pytest.raises(ValueError, match="has no meaning"):
            await box.arun(["true"], pass_fds=[1])  # type: ignore[call-arg]

    asyncio.run(act())


def test_what_stopped_it_and_what_it_used(box: "ve.Environment") -> None:
    async def act() -> None:
        done = await box.arun(["sh", "-c", "kill -TERM $$"])
        assert done.stopped_by == "SIGTERM" and done.usage and done.usage.max_memory > 0
        done = await box.arun(["sh", "-c", "while :; do :; done"], cpu_time=0.2)
        assert done.stopped_by == "cpu" and done.usage and done.usage.cpu >= 0.2
        with pytest.raises(ve.TimeoutExpired) as caught:
            await box.arun(["sh", "-c", "echo begun; exec sleep 100000"], stdout=PIPE, timeout=3)
        assert (caught.value.stopped_by, caught.value.stdout) == ("timeout", b"begun\n")
        assert caught.value.usage and caught.value.usage.max_memory > 0
        async with await box.apopen(["sleep", "100000"]) as process:
            process.kill()
            await process.wait()
            assert (process.stopped_by, bool(process.usage)) == ("SIGKILL", True)

    asyncio.run(act())


def test_a_large_input_and_output(box: "ve.Environment") -> None:
    data = os.urandom(3 << 20)
    done = asyncio.run(box.arun(["sh", "-c", "tee /dev/stderr"], input=data, capture_output=True))
    assert (done.stdout, done.stderr) == (data, data)


def test_who_reads_no_input(box: "ve.Environment") -> None:
    done = asyncio.run(box.arun(["true"], input=bytes(1 << 20), check=True))
    assert done.returncode == 0


def test_apopen_with_streams(box: "ve.Environment") -> None:
    async def act() -> None:
        script = "while read x; do echo $((x * 2)); done; exit 4"
        async with await box.apopen(["sh", "-c", script], stdin=PIPE, stdout=PIPE) as process:
            assert process.stdin and process.stdout and process.stderr is None
            for number in (1, 21):
                process.stdin.write(b"%d\n" % number)
                await process.stdin.drain()
                assert await process.stdout.readline() == b"%d\n" % (2 * number)
            assert process.returncode is None
            assert process.host_pid in of_commands(box)
            process.stdin.close()
            await process.stdin.wait_closed()
            assert [await process.wait() for _ in range(2)] == [4, 4]
        assert process.returncode == 4
        async with await box.apopen(["cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
            assert await process.communicate(b"word") == (b"word", b"")
        async with await box.apopen(["sleep", "100000"]) as process:
            process.terminate()
            assert await process.wait() == -signal.SIGTERM
        with pytest.raises(ValueError, match="of bytes"):
            await box.apopen(["true"], text=True)

    asyncio.run(act(), debug=True)


def test_a_terminal(box: "ve.Environment") -> None:
    async def act() -> None:
        async with await box.apopen(["sh", "-c", "read x; echo got $x"], pty=True) as process:
            assert process.terminal is not None
            os.write(process.terminal, b"word\n")
            assert await process.wait() == 0
            assert b"got word" in os.read(process.terminal, 4096)

    asyncio.run(act())


def test_who_waits_together(box: "ve.Environment") -> None:
    """Several wait for one command, and one that is cancelled ends nothing."""

    async def act() -> None:
        async with await box.apopen(["cat"], stdin=PIPE) as process:
            waiting = [asyncio.create_task(process.wait()) for _ in range(3)]
            await asyncio.sleep(0)
            waiting[0].cancel()
            assert len(of_commands(box)) == 1
            assert process.stdin
            process.stdin.close()
            assert await asyncio.gather(*waiting[1:]) == [0, 0]

    asyncio.run(act())


def test_what_goes_on_in_the_background_lives_on(env: "ve.Environment") -> None:
    script = "sleep 100000 >/dev/null 2>&1 & echo $!"
    done = asyncio.run(env.arun(["sh", "-c", script], capture_output=True, text=True))
    pid = done.stdout.strip()
    assert witness.shell(env, f"cat /proc/{pid}/comm; kill -9 {pid}") == "sleep\n"


def test_not_running(host: "ve.Host", veid: int) -> None:
    env = host.create(veid, template="busybox")
    with pytest.raises(errors.NotRunning, match="it is not running"):
        asyncio.run(env.arun(["true"]))


def test_a_ve_that_stops_meanwhile(host: "ve.Host", env: "ve.Environment") -> None:
    async def act() -> None:
        async with await env.apopen(["sleep", "100000"]) as process:
            await asyncio.to_thread(env.stop, fast=True)
            assert await process.wait() == -9

    asyncio.run(act())


def test_one_that_is_just_going_does_not_stop_the_loop(env: "ve.Environment", monkeypatch: pytest.MonkeyPatch) -> None:
    """Its init ends by what another task does meanwhile."""

    async def act() -> None:
        heard = asyncio.Event()

        def hear(popen: process.Popen) -> process.Failure:
            heard.set()
            return process.Failure("setns", errno.ESRCH, "No such process")

        monkeypatch.setattr(process.Popen, "_hear", hear)
        monkeypatch.setattr(process, "GOING", 600.0)
        entering = asyncio.create_task(env.arun(["true"]))
        await heard.wait()
        with env.init() as init:
            assert init
            signal.pidfd_send_signal(init[1], signal.SIGKILL)
        with pytest.raises(errors.NotRunning):
            await entering

    asyncio.run(act())


def test_where_its_end_cannot_be_watched(box: "ve.Environment", monkeypatch: pytest.MonkeyPatch) -> None:
    before = ours()

    def refused(popen: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def act() -> None:
        monkeypatch.setattr(aio, "AsyncPopen", refused)
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            await box.arun(["sleep", "100000"])

    asyncio.run(act())
    assert (ours(), names(box)) == (before, set())
    assert not [*Path(box.cgroup.path, "exec").glob("exec.[0-9]*")]


# --- the whole tree -----------------------------------------------------------------------------------------------


async def started_family(box: "ve.Environment") -> "asyncio.Task[Any]":
    """A task that runs one, once it is all there, and all of arun that goes before: it waits for its input."""
    work = box.arun(["sh", "-c", f"read word; {FAMILY}"], input=b"go\n", stdout=PIPE)
    task = asyncio.create_task(work)
    while "sleep" not in names(box):
        await asyncio.sleep(0)
    return task


def test_a_cancellation_ends_the_tree(box: "ve.Environment") -> None:
    async def act() -> None:
        task = await started_family(box)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert of_commands(box) == []

    asyncio.run(act())


def test_who_is_cancelled_again_hears_of_it_once_all_has_ended(box: "ve.Environment") -> None:
    async def act() -> None:
        task = await started_family(box)
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert task.cancelled() and of_commands(box) == []

    asyncio.run(act())


def test_its_terminal_is_closed_then(box: "ve.Environment") -> None:
    begun: list[ve.AsyncPopen] = []

    async def work() -> None:
        async with await box.apopen(["sleep", "100000"], pty=True) as process:
            begun.append(process)
            await process.wait()

    async def act() -> None:
        task = asyncio.create_task(work())
        while not begun:
            await asyncio.sleep(0)
        assert begun[0].terminal is not None
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert task.cancelled() and begun[0].terminal is None

    asyncio.run(act())


def test_an_exception_in_a_with_block_ends_the_tree(box: "ve.Environment") -> None:
    async def act() -> None:
        with pytest.raises(ZeroDivisionError):
            async with await box.apopen(["sh", "-c", FAMILY], stdout=PIPE) as process:
                assert process.stdout and len([await process.stdout.readline() for _ in range(2)]) == 2
                raise ZeroDivisionError
        assert (process.returncode, of_commands(box)) == (-9, [])

    asyncio.run(act())


def test_kill_ends_the_tree(box: "ve.Environment") -> None:
    async def act() -> None:
        async with await box.apopen(["sh", "-c", FAMILY], stdout=PIPE) as process:
            assert process.stdout and len([await process.stdout.readline() for _ in range(2)]) == 2
            process.kill()
            assert (await process.wait(), of_commands(box)) == (-9, [])

    asyncio.run(act())


def test_the_end_of_the_loop_ends_the_tree(box: "ve.Environment") -> None:
    async def act() -> None:
        await started_family(box)

    asyncio.run(act())
    assert of_commands(box) == []


def test_cancelled_and_timed_out_a_thousand_times(box: "ve.Environment") -> None:
    """At any moment of their lives: none leaves a process, a cgroup, a descriptor or a thread."""
    before, threads = ours(), threading.active_count()

    async def cancelled(number: int) -> str:
        task = asyncio.create_task(box.arun(["sh", "-c", FAMILY], capture_output=True))
        await asyncio.wait([task], timeout=number % 50 / 1000)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return "cancelled" if task.cancelled() else "ended"

    async def timed_out(number: int) -> str:
        try:
            await box.arun(["sh", "-c", FAMILY], capture_output=True, timeout=number % 50 / 1000)
        except subprocess.TimeoutExpired:
            return "timed out"
        return "ended"

    async def act() -> list[str]:
        found: list[str] = []
        for start in range(0, 1000, 20):
            numbers = range(start, start + 20)
            found += await asyncio.gather(*((cancelled, timed_out)[number % 2](number) for number in numbers))
            assert threading.active_count() == threads
        return found

    ends = asyncio.run(act())
    assert (ends.count("cancelled"), ends.count("timed out")) == (500, 500)
    assert of_commands(box) == [] and list(Path(box.cgroup.path, "exec").glob("exec.[0-9]*")) == []
    assert ours() == before
    inside = commandline.processes(Path(box.state.path), box.veid).values()
    assert "sleep" not in {witness.status(pid)["Name"] for pid in inside}


def test_fifty_at_once_and_no_thread(box: "ve.Environment") -> None:
    """And the loop goes on meanwhile."""

    async def act() -> None:
        threads = len(os.listdir("/proc/self/task"))
        async with contextlib.AsyncExitStack() as stack:
            starts = (box.apopen(["cat"], stdin=PIPE, stdout=PIPE) for _ in range(50))
            all_of_them = await asyncio.gather(*starts)
            for process in all_of_them:
                await stack.enter_async_context(process)
            assert sorted(of_commands(box)) == sorted(process.host_pid for process in all_of_them)
            said = await asyncio.gather(*(each.communicate(b"%d" % each.pid) for each in all_of_them))
            assert said == [(b"%d" % each.pid, None) for each in all_of_them]
            assert len(os.listdir("/proc/self/task")) == threads
        assert of_commands(box) == []

    asyncio.run(act())


# --- VEs that are thrown away -------------------------------------------------------------------------------------


def test_aephemeral(host: "ve.Host", host_dir: Path) -> None:
    async def one(number: int) -> str:
        async with host.aephemeral("busybox", hostname=f"box{number}") as env:
            veids.append(env.veid)
            done = await env.arun(["hostname"], capture_output=True, text=True, check=True)
        return str(done.stdout).strip()

    async def act() -> list[str]:
        return await asyncio.gather(*map(one, range(4)))

    veids: list[int] = []
    assert asyncio.run(act()) == ["box0", "box1", "box2", "box3"]
    assert [witness.left_of(host_dir, veid) for veid in veids] == [[]] * 4


def test_aephemeral_of_a_snapshot(host: "ve.Host") -> None:
    """Of one that has what it changes on disk."""

    async def act() -> None:
        async with host.aephemeral("busybox", on_disk=True) as env:
            await env.arun(["touch", "/mark"], check=True)
            snapshot = await asyncio.to_thread(env.checkpoint, "marked")
            async with host.aephemeral(snapshot, command=["sleep", "1000"]) as other:
                await other.arun(["test", "-e", "/mark"], check=True)

    asyncio.run(act())


def test_aephemeral_is_cancelled(host: "ve.Host", host_dir: Path) -> None:
    """While it begins, while it runs, and while it ends: it is gone when that is heard."""

    async def one(begun: asyncio.Event) -> None:
        async with host.aephemeral("busybox") as env:
            begun.set()
            await env.arun(["sleep", "100000"])

    async def act() -> None:
        for how in ("begins", "runs", "ends"):
            begun = asyncio.Event()
            task = asyncio.create_task(one(begun))
            await (asyncio.sleep(0) if how == "begins" else begun.wait())
            task.cancel()
            while how == "ends" and not task.done():
                task.cancel()
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert [env.veid for env in host.list() if env.ephemeral] == []

    asyncio.run(act())


def test_aephemeral_is_left_by_an_exception(host: "ve.Host") -> None:
    async def act() -> None:
        with pytest.raises(ZeroDivisionError):
            async with host.aephemeral("busybox"):
                raise ZeroDivisionError
        with pytest.raises(errors.TemplateNotFound):
            async with host.aephemeral("no-such"):
                pass
        assert [env.veid for env in host.list() if env.ephemeral] == []

    asyncio.run(act())
