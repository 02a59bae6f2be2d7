"""What may be typed of what a VE may use: the words for most people, and every beancounter by its name."""

from typing import Annotated, Any

import typer

from ve import presets
from ve.beancounter import BY_NAME

Text = str | None
Texts = list[str] | None

_ACTIONS = "log, freeze, raise:20% or run:/PROGRAM; repeatable"
_SIZE, _RATE, _COUNT = "SIZE", "SIZE/s", "N"
_LIMITS = {
    "memory": (_SIZE, "Memory that it may use, page cache included, such as 512M."),
    "swap": (_SIZE, "Swap space beside that; 0 for none."),
    "processes": (_COUNT, "Processes and threads."),
    "cpus": (_COUNT, "CPU time, in CPUs: 0.5 is half of one."),
    "cpu_weight": ("1..10000", "Share of CPU time among VEs that want it; 100 is usual."),
    "cpuset": ("LIST", "The CPUs that it runs on, such as 0-1,4."),
    "io_weight": ("1..10000", "Share of disk time among VEs that want it; 100 is usual."),
    "io_read": (_RATE, "What it may read from the disk that holds it, such as 10M/s."),
    "io_write": (_RATE, "What it may write to that."),
    "iops": (_COUNT, "Reads a second and writes a second."),
    "disk": (_SIZE, "Disk space for what it changes."),
    "inodes": (_COUNT, "Files for what it changes."),
    "nofile": (_COUNT, "Descriptors that one process may have open."),
    "oom": ("process|ve", "What ends when its memory is used up: its worst process, or all of it."),
}


def limit(name: str) -> Any:
    option = f"--{name.replace('_', '-')}"
    if name in _LIMITS:
        metavar, help = _LIMITS[name]
        return Annotated[Text, typer.Option(option, metavar=metavar, help=help)]
    return Annotated[Text, typer.Option(option, metavar="BARRIER:LIMIT", help=f"In {BY_NAME[name].unit}.", hidden=True)]


Preset = Annotated[
    Text,
    typer.Option(
        "--config",
        metavar="NAME|./FILE",
        help=f"Limits of a preset, where no option gives another: {', '.join(presets.NAMES)}, or a file of yours.",
        autocompletion=lambda: list(presets.NAMES),
    ),
]
AccountOnly = Annotated[
    bool | None,
    typer.Option(
        "--account-only/--no-account-only", help="Take limits that nothing here enforces, and count who is above."
    ),
]

UserBeancounters = Annotated[
    bool | None,
    typer.Option(
        "--user-beancounters/--no-user-beancounters", help="Show it its own beancounters in /run/user_beancounters."
    ),
]

OnBarrier = Annotated[
    Texts, typer.Option("--on-barrier", metavar="RESOURCE:ACTION", help=f"Do it when that is over; {_ACTIONS}.")
]
OnFailure = Annotated[
    Texts, typer.Option("--on-failure", metavar="RESOURCE:ACTION", help="Do it when more of that is refused.")
]
