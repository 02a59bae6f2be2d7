"""How `ve plan` shows a preset, what is wrong with configurations, and what is sold of this host."""

import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import ve
from ve._output import dump_json, label, size
from ve.consistency import Problem
from ve.plan import WHY, Sum

Problems = Iterable[tuple["ve.Environment", Problem]]


def divided(host: "ve.Host", parts: int, as_json: bool) -> tuple[str, int]:
    """What is to be printed of a part of this host, and the exit code."""
    words = host.split(parts)
    return (dump_json(words) if as_json else _preset(words, parts)), 0


def reviewed(host: "ve.Host", as_json: bool, broken: Callable[[Exception], object]) -> tuple[str, int]:
    """The same of what VEs have of it: 1 if there is an error, or something is oversold.

    broken: is told why what a VE holds is not in the sums.
    """
    problems, sums = host.review(broken)
    text = dump_json(_as_json(problems, sums)) if as_json else _lines(problems, sums)
    return text, int(any(each.severity == "error" for _, each in problems) or not all(each.ok for each in sums))


def _preset(words: Mapping[str, str], parts: int) -> str:
    """A file for --config, each line with the reason for its number."""
    lines = [
        f"# One of {parts} equal parts of this host: ve create VEID --template NAME --config ./FILE",
        "",
        "[limits]",
    ]
    for name, text in words.items():
        lines += [*textwrap.wrap(f"# {WHY[name]}", 118, subsequent_indent="# "), f'{name} = "{text}"']
    return "".join(f"{line}\n" for line in lines)


def _as_json(problems: Problems, sums: Iterable[Sum]) -> dict[str, Any]:
    return {
        "problems": [{"veid": env.veid, **asdict(problem)} for env, problem in problems],
        "sums": [{**asdict(each), "ratio": each.ratio} for each in sums],
    }


def _lines(problems: Problems, sums: Iterable[Sum]) -> str:
    """A line or two for each problem, and for each sum; why it matters where it is not well."""
    lines = []
    for env, problem in problems:
        lines.append(f"{problem.severity:8} {label(env)}: {problem.resource}: {problem.rule} ({problem.reason})")
        lines.append(f"{'':8} cure: ve set {env.veid} --save {problem.cure}")
    for each in sums:
        what = f"{each.kind} {each.what}: {_amount(each, each.total)} of {_amount(each, each.of)}"
        lines.append(f"{'ok' if each.ok else 'oversold':8} {what}, {each.ratio:.0%}")
        if each.unlimited:
            lines.append(f"{'':8} unlimited: {', '.join(map(str, each.unlimited))}")
        if not each.ok:
            lines.append(f"{'':8} {each.why}")
    return "".join(f"{textwrap.fill(line, 100, subsequent_indent=' ' * 9)}\n" for line in lines)


def _amount(of: Sum, value: float) -> str:
    return size(value) if of.unit == "bytes" else f"{value:g}"
