"""run, popen and ephemeral for asyncio: the same arguments, results and exceptions, and no thread for a command.

    done = await env.arun(["id", "-u"], capture_output=True, text=True, timeout=5)
    async with await env.apopen(["cat"], stdin=PIPE, stdout=PIPE) as process: ...
    async with host.aephemeral("busybox") as env: ...

The loop looks at the channel of a command on its way in (ve/enter.py), at its pipes, and at the pidfd of its middle.
Making that process is some milliseconds in which the loop waits; nothing else is waited for there.

A timeout, a cancellation, and a with block that is left by an exception, end the command's whole tree, and are raised
once it has ended: who is cancelled again meanwhile hears of it then.

A VE begins and ends in a thread of the loop's executor, as that takes tens of milliseconds and waits for locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import select
import subprocess
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar, cast

from ve import execgroup, process
from ve.facts import GOING, ended
from ve.outcome import CompletedProcess, TimeoutExpired, Usage
from ve.request import Arguments, Target

PATIENCE = 0.0  # seconds that a loop waits for what was killed, but by the loop

_T = TypeVar("_T")
_CHUNK = 1 << 16
_AGAIN = 0.01  # seconds
_OF_TEXT = ("text", "encoding", "errors", "universal_newlines")


class AsyncPopen:
    """A command inside, as ve.Popen, with asyncio's streams; Environment.apopen makes it.

    stdin is an asyncio.StreamWriter, stdout and stderr are StreamReaders, where they are PIPE.  pid, host_pid,
    inside_pid, returncode, stopped_by, why, usage, send_signal(), terminate() and kill() are those of ve.Popen;
    terminal is our side of the command's terminal with pty=True, which a with block closes in the end.
    """

    stdin: asyncio.StreamWriter | None = None
    stdout: asyncio.StreamReader | None = None
    stderr: asyncio.StreamReader | None = None

    def __init__(self, popen: _Unheard) -> None:
        self._popen = popen
        self._loop = asyncio.get_running_loop()
        self._transports: list[asyncio.BaseTransport] = []
        self._ended = self._loop.create_future()
        self._pidfd = os.pidfd_open(popen.pid)
        self._loop.add_reader(self._pidfd, self._end_seen)
        self.args = popen.args
        self.send_signal, self.terminate, self.kill = popen.send_signal, popen.terminate, popen.kill

    def __repr__(self) -> str:
        return f"<ve.AsyncPopen: returncode: {self.returncode} args: {self.args!r}>"

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def host_pid(self) -> int:
        return self._popen.host_pid

    @property
    def inside_pid(self) -> int:
        return self._popen.inside_pid

    @property
    def terminal(self) -> int | None:
        return self._popen.terminal

    @property
    def returncode(self) -> int | None:
        """None until wait() or communicate() have seen its end."""
        return self._popen.returncode

    @property
    def stopped_by(self) -> str | None:
        return self._popen.stopped_by

    @property
    def why(self) -> str:
        return self._popen.why

    @property
    def usage(self) -> Usage | None:
        return self._popen.usage

    async def wait(self) -> int:
        """Its returncode.  Who is cancelled here ends nothing."""
        await asyncio.shield(self._ended)
        if self._popen.returncode is None and self._popen._killed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(execgroup.PATIENCE):
                    await _empty(self._popen._cgroup.path)
        return cast(int, self._popen.poll())

    async def communicate(self, input: bytes | None = None) -> tuple[bytes | None, bytes | None]:
        """Send input, read until both ends, and wait; None for what is no pipe."""
        return await self._communicate(input, {})

    async def _communicate(self, input: bytes | None, got: dict[str, bytearray]) -> tuple[bytes | None, bytes | None]:
        """What comes is put into got as it does, for who cannot wait for all of it."""
        works = [_feed(self.stdin, input)] if self.stdin else []
        for name in ("stdout", "stderr"):
            if stream := getattr(self, name):
                works.append(_collect(stream, got.setdefault(name, bytearray())))
        await asyncio.gather(*works)
        await self.wait()
        out, err = (bytes(got[name]) if name in got else None for name in ("stdout", "stderr"))
        return out, err

    async def __aenter__(self) -> AsyncPopen:
        return self

    async def __aexit__(self, kind: object, value: object, traceback: object) -> None:
        try:
            if kind is None:
                self._close_pipes()
                await self.wait()
        finally:  # nothing happens here to one that has ended
            self.kill()
            self._close_pipes()
            try:
                await _to_the_end(self.wait())
            finally:  # who is cancelled again hears of it here
                self._popen._close_terminal()

    def _end_seen(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._ended.set_result(None)

    def _close_pipes(self) -> None:
        for transport in self._transports:
            transport.close()

    async def _start(self) -> None:
        """Until the program runs, or the reason why it does not."""
        assert self._popen._channel is not None
        while True:
            await _readable(self._popen._channel.fileno())
            heard = self._popen._hear()
            if isinstance(heard, process.Failure):
                raise self._popen._refusal(heard, await self._gone(heard))
            if heard:
                break
        if pipe := self._popen.stdin:
            # StreamWriter.wait_closed() asks the protocol, which only that of a reader can answer (bpo-38529)
            reader = asyncio.StreamReader()
            protocol = asyncio.StreamReaderProtocol(reader)
            transport, _ = await self._loop.connect_write_pipe(lambda: protocol, pipe)
            self._transports.append(transport)
            self.stdin = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        self.stdout = await self._reader(self._popen.stdout)
        self.stderr = await self._reader(self._popen.stderr)

    async def _gone(self, failure: process.Failure) -> bool:
        """Has the VE's init ended, or does it just now?  The loop goes on meanwhile."""
        pidfd = self._popen.target.pidfd
        if failure.may_be_going and not ended(pidfd):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOING):
                    await _readable(pidfd)
        return ended(pidfd)

    async def _reader(self, pipe: Any) -> asyncio.StreamReader | None:
        if not pipe:
            return None
        reader = asyncio.StreamReader()
        transport, _ = await self._loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        self._transports.append(transport)
        return reader

    async def _abandon(self) -> None:
        """After a failed start: leave no process, descriptor or cgroup."""
        if self._popen._channel:
            self._popen._channel.close()  # the middle ends the tree, and then itself
        self.kill()
        self._close_pipes()
        await asyncio.wait([self._ended], timeout=execgroup.PATIENCE)
        if not self._ended.done():
            self._end_seen()  # it hangs in the kernel: sweep() finds it later
        self._popen._abandon()


class _Unheard(process.Popen):
    """One that is on its way in when it is made; who waits does it in the loop."""

    _patience = PATIENCE

    def _begin(self, timeout: float | None) -> None:
        """AsyncPopen._start does."""


async def begin(
    args: Arguments, *, target: Target, pty: bool = False, enter_timeout: float | None = None, **options: Any
) -> AsyncPopen:
    """popen; ValueError for text, as asyncio has it."""
    if any(options.get(name) for name in _OF_TEXT) or options.get("bufsize"):
        raise ValueError("the streams of asyncio are of bytes, without text, encoding, errors, or bufsize")
    popen = _Unheard(args, target=target, pty=pty, **options | {"bufsize": 0})
    try:
        begun = AsyncPopen(popen)
    except BaseException:
        await _to_the_end(_abandon_unwatched(popen))
        raise
    try:
        async with asyncio.timeout(enter_timeout) as limit:
            await begun._start()
    except BaseException as error:
        await _to_the_end(begun._abandon())
        if isinstance(error, TimeoutError) and limit.expired():
            raise subprocess.TimeoutExpired(args, cast(float, enter_timeout)) from None
        raise
    return begun


async def _abandon_unwatched(popen: _Unheard) -> None:
    """Leave nothing of one whose end there was no descriptor for: the loop asks for it every now and then."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + execgroup.PATIENCE
    popen._abandon()
    while (popen.returncode is None or popen._cgroup.exists()) and loop.time() < deadline:
        await asyncio.sleep(_AGAIN)
        popen._abandon()


async def run(
    args: Arguments,
    *,
    target: Target,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    enter_timeout: float | None = None,
    **options: Any,
) -> CompletedProcess:
    """run; a timeout, cancellation or exception ends the command's whole tree before it is raised."""
    options |= process.piped(input, capture_output, **options)
    text = _Text(**{name: options.pop(name, None) for name in _OF_TEXT})
    data = text.encoded(input)
    got: dict[str, bytearray] = {}
    begun: AsyncPopen | None = None
    options |= {"bufsize": 0}
    try:
        async with asyncio.timeout(timeout) as limit:
            async with await begin(args, target=target, enter_timeout=enter_timeout, **options) as begun:
                out, err = await begun._communicate(data, got)
    except TimeoutError:
        if not limit.expired():
            raise
        out, err = (bytes(got[name]) if got.get(name) else None for name in ("stdout", "stderr"))
        used = begun.usage if begun else None
        raise TimeoutExpired(args, cast(float, timeout), out, err, used) from None
    return process.completed(begun._popen, text.decoded(out), text.decoded(err), check)


@contextlib.asynccontextmanager
async def ephemeral(made: contextlib.AbstractContextManager[_T]) -> AsyncIterator[_T]:
    """What Host.ephemeral gives; who is cancelled while it begins hears of it once it has ended."""
    with contextlib.ExitStack() as ended:
        beginning = asyncio.get_running_loop().run_in_executor(None, ended.enter_context, made)
        try:
            environment = await _to_the_end(beginning)
            yield environment
        finally:
            await _to_the_end(asyncio.to_thread(ended.close))


class _Text:
    """What text, encoding and errors ask for, as subprocess understands them."""

    def __init__(self, text: Any, encoding: str | None, errors: str | None, universal_newlines: Any) -> None:
        self.given = (encoding, errors) if text or encoding or errors or universal_newlines else None

    def encoded(self, input: Any) -> Any:
        if self.given is None or input is None:
            return input
        like = io.TextIOWrapper(io.BytesIO(), *self.given)
        return input.encode(like.encoding, like.errors)

    def decoded(self, data: bytes | None) -> Any:
        if self.given is None or data is None:
            return data
        return io.TextIOWrapper(io.BytesIO(data), *self.given).read()


async def _feed(stream: asyncio.StreamWriter, data: Any) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it wants no more of it
        if data is not None:
            stream.write(memoryview(data))  # TypeError for text
            await stream.drain()
    stream.close()


async def _collect(stream: asyncio.StreamReader, into: bytearray) -> None:
    while data := await stream.read(_CHUNK):
        into += data


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


async def _empty(cgroup: str) -> None:
    """Until no process is left in it; each change of cgroup.events is a POLLPRI, which loops cannot wait for."""
    try:
        fd = os.open(f"{cgroup}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with open(fd, "rb"), select.epoll() as changes:
        changes.register(fd, select.EPOLLPRI)
        with contextlib.suppress(OSError):  # it has been removed meanwhile
            while b"populated 1" in os.pread(fd, 4096, 0):
                await _readable(changes.fileno())


async def _to_the_end(work: Coroutine[Any, Any, _T] | asyncio.Future[_T]) -> _T:
    """Wait for it whatever happens; if we are cancelled meanwhile, that is raised then."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None and not task.cancelled() and task.exception() is None:
        raise cancelled
    return task.result()
