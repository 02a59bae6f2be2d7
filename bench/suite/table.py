"""What was found, as a table of Markdown: a column for each contender."""

from collections.abc import Callable, Mapping

from bench.suite.left import Seen
from bench.suite.run import Killed, Whole

Found = Mapping[str, tuple[Whole, Killed]]  # by the name of a contender


def of(found: Found) -> str:
    lines = [f"| | {' | '.join(found)} |", f"|---|{'---:|' * len(found)}"]
    rows: dict[str, Callable[[Whole, Killed], str]] = {
        "wall time, s": lambda whole, _: f"{whole.wall:.1f}",
        "CPU time, s": lambda whole, _: f"{whole.cpu:.1f}",
        "tests that passed": lambda whole, _: str(whole.passed),
        "tests that failed": lambda whole, _: str(whole.failed),
        "left": lambda whole, _: told(whole.left),
        "killed after as many tests": lambda _, killed: str(killed.done),
        "then left": lambda _, killed: told(killed.left),
        "and once that is cleaned": lambda _, killed: told(killed.cleaned),
    }
    for what, cell in rows.items():
        lines.append(f"| {what} | {' | '.join(cell(*each) for each in found.values())} |")
    return "\n".join(lines)


def told(seen: Seen) -> str:
    return ", ".join(f"{count} {what}" for what, count in seen.counts().items() if count) or "nothing"
