"""`ve start --foreground`: a VE whose parent is this process, with a console."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from ve import ending, launch, outfit, process, shutdown, terminal
from ve.errors import Error, NotFound, NotRunning, Running
from ve.instance import Instance


class Foreground:
    """A VE that was just started for this process; made by Environment.start_foreground."""

    def __init__(self, instance: Instance, started: launch.Launch) -> None:
        self._instance = instance
        self._started = started
        self.console = started.terminal  # the master of its pty; ours, closed by wait()
        self._asked = False  # to halt, by the escape
        self._end = ""

    def __enter__(self) -> "Foreground":
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        """wait(); an exception kills the VE first, as nobody is there for its console any more."""
        if exc_type is not None:
            self._kill()
        self.wait()

    def attach(self) -> None:
        """Connect our stdin and stdout to its console until the VE ends; SIGTERM and the like ask it to halt.

        So does Ctrl-] three times in a row on a terminal, and kills it when that is typed again.
        """
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        with _fd(self._started.pidfd_of_setup()) as ended, _fd(terminal.slave(self.console)), _fd(null):
            terminal.connect(self.console, ended, self._halt, escape=self._escape)
            # Our stdout may be gone and the VE not: who writes to a console that nobody reads would wait for ever.
            terminal.connect(self.console, ended, self._halt, null, null)

    def wait(self) -> str:
        """Wait for its end: "halt", "reboot" (both from inside), or "killed"; closes the console.

        Called again it gives the same answer.
        """
        if not self._end:
            status = self._started.wait()
            self._end = _word(status)
            os.close(self.console)
            self._clear()
        return self._end

    def _clear(self) -> None:
        with contextlib.suppress(Running, NotFound), self._instance.locked():
            self._instance.refuse_running("clear")  # somebody may have started it again
            ending.leave(self._instance)

    def _escape(self) -> None:
        if self._asked:
            self._kill()
        else:
            self._asked = True
            self._halt(0)

    def _kill(self) -> None:
        with contextlib.suppress(NotRunning), self._instance.running("stop") as (facts, pidfd):
            if facts.pid == self._started.pid:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def _halt(self, _: int) -> None:
        """Beside what goes on here: an init that was just executed may not hear it at first."""
        threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        with contextlib.suppress(Error, OSError), self._instance.running("stop") as (facts, pidfd):
            filters = outfit.filters(self._instance.state, facts.extra.get("filter", ""))
            cgroup, env = f"{self._instance.cgroup.path}/exec", {"PATH": outfit.PATH}
            target = process.Target(pidfd, facts.pid, cgroup, env, self._instance.veid, filters)
            shutdown.ask_until_heard(facts.pid, pidfd, lambda command: process.run(command, target=target, timeout=10))


def _word(status: int) -> str:
    if os.WIFSIGNALED(status):  # reboot(2): the init of a PID namespace ends by one of two signals
        return {int(signal.SIGHUP): "reboot", int(signal.SIGINT): "halt"}.get(os.WTERMSIG(status), "killed")
    return "halt"


@contextlib.contextmanager
def _fd(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)
