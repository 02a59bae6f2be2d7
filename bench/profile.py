"""Where the time goes: of each operation of a warm library the CPU time, page faults and waits, and of each command its
imports.

`python -m bench.profile STATE_DIR OPERATION WORD...` is the process that is looked at; `made` starts it.
"""

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import ve
from bench.ground import Ground
from bench.ours import IDLE, INIT, stopped
from bench.worker import OPERATIONS

TIMES, WARM = 30, 5
_IMPORT = re.compile(r"^import time: +(\d+) \|", re.MULTILINE)
_PROGRAM = "import sys; sys.argv = {!r}; from ve._main import main; sys.exit(main())"
Found = dict[str, dict[str, float]]  # by operation, step or command, and column


def made(ground: Ground, veid: int, address: str) -> dict[str, Found]:
    """The tables of the page, by their names in it."""
    ours = ground.ours
    ours.init  # noqa: B018 - made before anything is looked at
    ours.idle  # noqa: B018
    operations, steps = dict[str, dict[str, float]](), dict[str, Found]()
    with ours.created(veid, IDLE) as env:
        env.start()
        for name, *words in (("life", INIT), ("life", INIT, address), ("run", str(veid), "true")):
            title = f"{name}{'-routed' if address in words else ''}"
            command = [sys.executable, "-m", "bench.profile", ours.path, name, *words]
            said = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            operations[title], steps[title] = said["operation"], said["steps"]
        commands = {"python -c pass": _command([sys.executable, "-c", "pass"])}
        for line in (["exec", str(veid), "true"], ["run", "busybox", "--", "true"], ["list"], ["ubc"]):
            commands[" ".join(["ve", *line])] = _command(ours.command(*line), line)
    with ours.created(veid, IDLE, address) as env:
        commands[f"ve start {veid}, with an address"] = _command(
            ours.command("start", veid), ["start", str(veid)], lambda: stopped(env)
        )
    both = {f"{name}: {step}": row for name, rows in steps.items() for step, row in rows.items()}
    return {"operations": operations, "steps": both, "commands": commands}


def _command(
    words: list[str], line: list[str] | None = None, undo: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """Medians of one that is run from cold."""
    rows = []
    for _ in range(TIMES // 3):
        begun = time.perf_counter()
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, _, used = os.wait4(process.pid, 0)
        row = {"wall": _ms(time.perf_counter() - begun), "user": _ms(used.ru_utime), "system": _ms(used.ru_stime)}
        process.returncode = 0
        undo()
        rows.append(row | {"faults": used.ru_minflt, "imports": _imports(words, line, undo)})
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def _imports(words: list[str], line: list[str] | None, undo: Callable[[], None]) -> float:
    """Milliseconds that all modules take, site and the interpreter's own with them."""
    program = "pass" if line is None else _PROGRAM.format(["ve", *words[1:]])
    command = [sys.executable, "-X", "importtime", "-c", program]
    said = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True).stderr
    undo()
    return sum(map(int, _IMPORT.findall(said))) / 1000


def table(found: Found) -> str:
    """In Markdown."""
    names = list(next(iter(found.values())))
    lines = [["", *names], ["---", *(["---:"] * len(names))]]
    lines += [[f"`{title}`", *(_text(name, row[name]) for name in names)] for title, row in found.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(name: str, value: float) -> str:
    return f"{value:.0f}" if name == "faults" else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


# --- the process that is looked at ---------------------------------------------------------------------------------


def main(state_dir: str, name: str, *words: str) -> None:
    steps = defaultdict[str, list[float]](list)
    _watch(steps)
    host, rows = ve.Host(state_dir), []
    for turn in range(WARM + TIMES):
        if turn == WARM:
            steps.clear()
        before = _used()
        begun = time.perf_counter()
        OPERATIONS[name](host, *words)
        wall = _ms(time.perf_counter() - begun)
        spent = {key: after - before[key] for key, after in _used().items()}
        rows.append({"wall": wall, **spent})
    medians = {key: statistics.median(row[key] for row in rows[WARM:]) for key in rows[0]}
    named = {step: {"wall": sum(times) / TIMES} for step, times in steps.items()}
    print(json.dumps({"operation": medians, "steps": dict(_largest(named))}))


def _largest(steps: Found) -> Iterator[tuple[str, dict[str, float]]]:
    """In their order, those that take more than a twentieth of all."""
    whole = sum(row["wall"] for row in steps.values())
    return ((name, row) for name, row in steps.items() if row["wall"] > whole / 20)


def _used() -> dict[str, float]:
    """CPU time of this process, and of those that it has waited for, in milliseconds; and their page faults."""
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = {"caller": own.ru_utime + own.ru_stime, "far user": others.ru_utime, "far system": others.ru_stime}
    return {**{name: _ms(value) for name, value in cpu.items()}, "faults": others.ru_minflt}


def _watch(steps: dict[str, list[float]]) -> None:
    """Note how long each step of a launch takes here, its waits for the far side with it, and the end of a VE."""
    from ve import ephemeral, launch, leading, process

    def take(self: launch.Launch, step: Callable[..., None]) -> None:
        _timed(steps, step.__name__, untimed, self, step)

    untimed, launch.Launch._take = launch.Launch._take, take  # type: ignore[method-assign]
    for owner, name in (
        (ephemeral.Ephemeral, "wait"),
        (ephemeral.Ephemeral, "end"),
        (leading, "disconnect"),
        (process.Popen, "_spawn"),
        (process.Popen, "_begin"),
        (process.Popen, "wait"),
    ):
        setattr(owner, name, _noting(steps, name.strip("_"), getattr(owner, name)))


def _noting(steps: dict[str, list[float]], name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given, **options: _timed(steps, name, call, *given, **options)


def _timed(steps: dict[str, list[float]], name: str, call: Callable[..., Any], *given: Any, **options: Any) -> Any:
    begun = time.perf_counter()
    try:
        return call(*given, **options)
    finally:
        steps[name].append(_ms(time.perf_counter() - begun))


def _ms(seconds: float) -> float:
    return seconds * 1000


if __name__ == "__main__":
    main(*sys.argv[1:])
