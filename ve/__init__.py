"""Virtual Environments: isolated groups of processes with their own root, init, users and limits.

    host = ve.Host()
    host.templates.build("busybox")
    env = host.create(101, template="busybox", hostname="red")
    env.start()
    env.run(["hostname"], capture_output=True, text=True, check=True).stdout
    env.stop()
    env.destroy()
    with host.ephemeral("busybox") as env:
        env.run(["true"], check=True)

Every name below is imported when it is first used, so that importing this package costs next to nothing.
"""

import sys

TYPE_CHECKING = False  # as typing has it, whose import would be most of the cost of ours
if TYPE_CHECKING:
    from ve import errors
    from ve.aio import AsyncPopen
    from ve.beancounter import Beancounter
    from ve.check import Facility
    from ve.connection import Connection
    from ve.consistency import Problem
    from ve.diff import Change
    from ve.doctor import Trouble
    from ve.environment import Environment
    from ve.ephemeral import Ephemeral
    from ve.errors import Error
    from ve.events import Event
    from ve.explain import Explanation
    from ve.foreground import Foreground
    from ve.host import Host
    from ve.interpreter import end_launcher
    from ve.launch import Step
    from ve.load import Load
    from ve.model import Config, Mount, Status
    from ve.networks import Lease, Networks
    from ve.outcome import CalledProcessError, CompletedProcess, ExitCode, TimeoutExpired, Usage
    from ve.path import Path
    from ve.plan import Sum
    from ve.pool import Pool
    from ve.process import Popen
    from ve.ps import Process
    from ve.selftest import Verdict
    from ve.snapshot import Snapshot
    from ve.template import Template, Templates

__all__ = [
    "AsyncPopen",
    "Beancounter",
    "CalledProcessError",
    "Change",
    "CompletedProcess",
    "Config",
    "Connection",
    "Environment",
    "Ephemeral",
    "Error",
    "Event",
    "ExitCode",
    "Explanation",
    "Facility",
    "Foreground",
    "Host",
    "Lease",
    "Load",
    "Mount",
    "Networks",
    "Path",
    "Pool",
    "Popen",
    "Problem",
    "Process",
    "Snapshot",
    "Status",
    "Step",
    "Sum",
    "Template",
    "Templates",
    "TimeoutExpired",
    "Trouble",
    "Usage",
    "Verdict",
    "end_launcher",
    "errors",
]

_ROOMS = {
    "AsyncPopen": "aio",
    "Beancounter": "beancounter",
    "CalledProcessError": "outcome",
    "Change": "diff",
    "CompletedProcess": "outcome",
    "Config": "model",
    "Connection": "connection",
    "Environment": "environment",
    "Ephemeral": "ephemeral",
    "Error": "errors",
    "Event": "events",
    "ExitCode": "outcome",
    "Explanation": "explain",
    "Facility": "check",
    "Foreground": "foreground",
    "Host": "host",
    "Lease": "networks",
    "Load": "load",
    "Mount": "model",
    "Networks": "networks",
    "Path": "path",
    "Pool": "pool",
    "Popen": "process",
    "Problem": "consistency",
    "Process": "ps",
    "Snapshot": "snapshot",
    "Status": "model",
    "Step": "launch",
    "Sum": "plan",
    "Template": "template",
    "Templates": "template",
    "TimeoutExpired": "outcome",
    "Trouble": "doctor",
    "Usage": "outcome",
    "Verdict": "selftest",
    "end_launcher": "interpreter",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 've' has no attribute {name!r}")
    path = f"ve.{_ROOMS.get(name, name)}"
    __import__(path)  # not by importlib, which costs as much as one of our rooms
    room = sys.modules[path]
    value: object = getattr(room, name) if name in _ROOMS else room  # errors is a room itself
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
