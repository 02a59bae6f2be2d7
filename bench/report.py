"""The results as people read them: `python -m bench.report RESULTS.json` writes docs/speed.md and docs/speed.svg anew.

The page's words are in bench/page.md; the plot is matplotlib's, which only this needs.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import profile
from bench.place import ROOT
from bench.rows import ROWS, Row

Results = dict[str, Any]  # as bench/__main__.py writes them
PAGE, PLOT = ROOT / "docs" / "speed.md", ROOT / "docs" / "speed.svg"


@dataclass(frozen=True)
class Line:
    """One line of the table: ours, the peer that it is held to, and others."""

    row: Row
    name: str
    found: Mapping[str, Sequence[float]]

    @property
    def ours(self) -> Sequence[float]:
        return next(iter(self.found.values()))

    @property
    def ratio(self) -> float | None:
        """To the first peer; None if there is none, or others on the machine have drowned what was measured."""
        peers = list(self.found.values())[1:]
        if self.is_absolute or not peers:
            return None
        ours, theirs = statistics.median(self.ours), statistics.median(peers[0])
        return ours / theirs if ours > 0 and theirs > 0 else None

    @property
    def asked(self) -> str:
        if self.row.asked is None or (self.row.unit == "KiB" and "all told" not in self.name):
            return ""
        return f"{self.row.asked:g}" + (" ms" if self.is_absolute else "")

    @property
    def is_absolute(self) -> bool:
        return self.row.name == "import"

    @property
    def reached(self) -> str:
        """Whether what was asked for is there."""
        value = statistics.median(self.ours) if self.is_absolute else self.ratio
        if not self.asked or value is None or self.row.asked is None:
            return ""
        return "yes" if value <= self.row.asked else "no"


def lines(results: Results) -> Iterator[Line]:
    for row in ROWS:
        for name, found in results["rows"].get(row.name, {}).items():
            yield Line(row, name, found)


def table(results: Results) -> str:
    """In Markdown: medians, and in brackets the least and the 90th of a hundred."""
    text = ["| row | ours | the others | ratio | asked | reached |", "|---|---:|---|---:|---:|---|"]
    for line in lines(results):
        (ours, values), *others = line.found.items()
        ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
        cells = [
            f"{line.row.name} {line.name}".strip(),
            f"{ours} {spread(values)}",
            "",
            ratio,
            line.asked,
            line.reached,
        ]
        first, *rest = [f"{name} {spread(values)}" for name, values in others] or [""]
        text.append(_joined([*cells[:2], first, *cells[3:]]))
        text += [_joined(["", "", each, "", "", ""]) for each in rest]
    return "\n".join(text)


def _joined(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float]) -> str:
    """The median, with the least and the 90th of a hundred where there are several."""
    middle = short(statistics.median(values))
    if len(values) < 3:
        return f"**{middle}**"
    return f"**{middle}** ({short(min(values))}, {short(ninetieth(values))})"


def ninetieth(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=10, method="inclusive")[-1]


def short(value: float) -> str:
    """Three digits that count."""
    return f"{value:.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2}f}"


def page(results: Results) -> str:
    """docs/speed.md."""
    words = {
        "MACHINE": "\n".join(f"- {name}: {value}" for name, value in results["machine"].items()),
        "ROWS": "\n".join(f"| `{row.name}` | {row.what} | {row.unit} |" for row in ROWS),
        "TABLE": table(results),
        "SELFTEST": results["selftest"],
        **{name.upper(): profile.table(found) for name, found in results["profile"].items()},
        "ROUNDS": str(results["rounds"]),
        "FEW": str(results["few"]),
        "MANY": str(results["many"]),
        "LOAD": " to ".join(results["load"]),
    }
    text = (Path(__file__).parent / "page.md").read_text()
    for name, value in words.items():
        text = text.replace(f"@{name}@", value)
    return text


def plot(results: Results, path: Path) -> None:
    """How each row stands to what was asked, and beside it the life of a throw-away container by each contender."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "ve", "font.size": 9}
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    judged = [line for line in lines(results) if line.reached]
    shares = [_share(line) for line in judged]
    colours = ["tab:green" if line.reached == "yes" else "tab:red" for line in judged]
    left.barh([f"{line.row.name} {line.name}" for line in judged], shares, color=colours)
    left.axvline(1, color="black", linewidth=0.8)
    left.set(title="what it takes, as a share of what was asked for", xscale="log")
    contenders = results["rows"].get("cli-run", {}).get("spaced", {})
    medians = {name: statistics.median(values) for name, values in contenders.items()}
    right.barh(list(medians), list(medians.values()), color=["tab:blue", *["tab:grey"] * (len(medians) - 1)])
    right.set(title="the life of a throw-away container: ms, spaced")
    for axes in (left, right):
        axes.invert_yaxis()
    figure.savefig(path, metadata={"Date": None})


def _share(line: Line) -> float:
    value = statistics.median(line.ours) if line.is_absolute else line.ratio
    assert value is not None and line.row.asked is not None
    return value / line.row.asked


def write(results: Results) -> None:
    PAGE.write_text(page(results))
    plot(results, PLOT)


if __name__ == "__main__":
    write(json.loads(Path(sys.argv[1]).read_text()))
