"""The verbs that run commands in a VE."""

from __future__ import annotations

import contextlib

from ve.errors import NotFound
from ve.instance import Instance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, Unpack

    from ve.aio import AsyncPopen
    from ve.facts import Facts
    from ve.outcome import CompletedProcess, ExitCode
    from ve.process import Popen
    from ve.request import Arguments, Run, Streams, Target


class Commands(Instance):
    """What runs in a VE; its other verbs are in ve/environment.py."""

    def run(
        self,
        args: Arguments,
        *,
        input: Any = None,
        capture_output: bool = False,
        timeout: float | None = None,
        check: bool = False,
        login: bool = False,
        **options: Unpack[Streams],
    ) -> CompletedProcess:
        """subprocess.run for a command inside: its arguments, its CompletedProcess, its exceptions.

        These have stopped_by, which is what ended the command (None: itself), and usage, what it used: see
        ve/outcome.py.  cpu_time bounds what it uses of the CPUs, with all that it starts.
        env, cwd and user mean the VE's; timeout, exception or this process's death end the command's whole tree.
        login gives that up for commands that log in (su -, login) where systemd is the init: see ve/execgroup.py.
        """
        from ve import process

        with self._target(login) as target:
            return process.run(
                args,
                target=target,
                input=input,
                capture_output=capture_output,
                timeout=timeout,
                check=check,
                **options,
            )

    def popen(self, args: Arguments, *, login: bool = False, pty: bool = False, **options: Unpack[Streams]) -> Popen:
        """subprocess.Popen for a command inside, and pty=True for one with a terminal of the VE's."""
        from ve import process

        with self._target(login) as target:
            return process.Popen(args, target=target, pty=pty, **options)

    async def arun(self, args: Arguments, *, login: bool = False, **options: Unpack[Run]) -> CompletedProcess:
        """run() for asyncio, which ends the command's whole tree when it is cancelled: see ve/aio.py."""
        await self._going_on()
        from ve import aio

        with self._target(login, aio.PATIENCE) as target:
            return await aio.run(args, target=target, **options)

    async def apopen(
        self, args: Arguments, *, login: bool = False, pty: bool = False, **options: Unpack[Streams]
    ) -> AsyncPopen:
        """popen() for asyncio, with asyncio's streams, of bytes: see ve/aio.py."""
        await self._going_on()
        from ve import aio

        with self._target(login, aio.PATIENCE) as target:
            return await aio.begin(args, target=target, pty=pty, **options)

    def call(
        self,
        args: Sequence[str],
        *,
        user: str | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> ExitCode:
        """Run a command with our own stdin, stdout, stderr, terminal and signals, as ssh does; its code, 0..255.

        env is added to what commands find there anyway.
        """
        from ve import calling

        with self._target(login=True) as target:
            return calling.call(args, target=target, user=user, cwd=cwd, env=env)

    def enter(self) -> ExitCode:
        """A login shell of its root, the one that its passwd names, on our terminal; the shell's code."""
        return self.call(["/bin/sh", "-c", 'cd 2>/dev/null; exec "${SHELL:-/bin/sh}" -l'], user="0")

    def console(self) -> ExitCode:
        """A login on a new pty of the VE."""
        return self.call(["login"])

    async def _going_on(self) -> None:
        """Wait in a thread for the end of a checkpoint, so that the loop does not."""
        if self.cgroup.frozen():
            import asyncio

            await asyncio.to_thread(self.refuse_frozen, "run a command in")

    @contextlib.contextmanager
    def _target(self, login: bool = False, patience: float | None = None) -> Iterator[Target]:
        """Where a command enters; patience: seconds for each tree that a dead caller has left to be gone."""
        from ve import execgroup, outfit, process

        with self.running("run a command in") as (facts, pidfd):
            self.refuse_frozen("run a command in")
            path = self.cgroup.path
            outside, inside = (f"{path}/{name}" for name in ("exec", "init"))
            for cgroup in (outside, inside):
                process.sweep(cgroup, execgroup.PATIENCE if patience is None else patience)
            filters = outfit.filters(self.state, facts.extra.get("filter", ""))
            cgroup = inside if login else outside
            given = outfit.rlimits(facts), outfit.memory(facts)
            yield process.Target(pidfd, facts.pid, cgroup, self._variables(facts), self.veid, filters, *given)

    def _variables(self, facts: Facts) -> dict[str, str]:
        """What a command finds in its environment: what its start noted, as the conf file may say another by now."""
        import json

        from ve import outfit

        with contextlib.suppress(KeyError, ValueError):
            return dict(json.loads(facts.extra["env"]))
        try:
            return outfit.environment(self.config, self.template)
        except NotFound:  # somebody has removed its template, yet it runs
            return outfit.environment(self.config, None)
