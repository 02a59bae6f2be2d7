"""What the command line shows: tables and JSON on stdout, sentences on stderr.  Only texts: cli.py prints them.

Of failures see ve/_failures.py.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager, suppress
from operator import attrgetter

from ve import errors
from ve.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any, TypeAlias

    import ve

    Fields: TypeAlias = dict[
        str, Callable[[Any], Any]
    ]  # a column's name, which is the JSON key too, and how to get its value


def fields(*names: str) -> Fields:
    return {name: attrgetter(name) for name in names}


def setting(name: str, unless: type[errors.Error] = errors.Error) -> Callable[[Any], Any]:
    """None where that is why it cannot be told."""

    def get(env: ve.Environment) -> Any:
        with suppress(unless):  # it is broken or just gone, which is no reason to hide the others
            return attrgetter(name)(env)
        return None

    return get


LIST = fields("veid", "name", "status", "pid", "ephemeral") | {
    "addresses": setting("addresses", errors.BrokenConfig),  # NotFound: it is no more, and not shown
    "publish": setting("network.ports"),
    "sent": setting("traffic.sent"),
    "received": setting("traffic.received"),
    "template": setting("config.template"),
    "hostname": setting("hostname"),
    "onboot": setting("config.onboot"),
    "description": setting("config.description"),
}
LIST_DEFAULT = "veid,name,status,pid,template,hostname,addresses"
PS = fields("veid", "pid", "host_pid", "uid", "command")
PLAN = fields("process", "name", "text")
EXPLAIN = fields("right", "kind", "held", "when", "why", "setting", "cure")
DIFF = fields("kind", "path")
CHECK = fields("name", "present", "required", "needed_by", "lost", "cure", "why")
DOCTOR = fields("veid", "text", "cure", "mended")
SELFTEST = fields("name", "status", "promise", "means", "why")
ATTACHED = "is running; this is its console: Ctrl-] three times halts it, three times more kills it"
LOG_ALONE = "this is what its init wrote; a journal can be read while it runs"
ENDS = {"halt": "has halted", "reboot": "reboots", "killed": "was killed"}
SNAPSHOTS = fields("name") | {"created": setting("created")} | fields("users")
TEMPLATES = fields("ref", "created", "init", "source")


def choose_fields(names: str, more: Callable[[], Fields]) -> Fields:
    """The fields of `list -o`: of LIST and, where that has not all, of more; InvalidValue names one that is none."""
    known = LIST if {*names.split(",")} <= {*LIST} else LIST | more()
    for name in names.split(","):
        if name not in known:
            hint = f"the fields are {', '.join(LIST)}, and beancounters such as numproc, numproc.m, .b, .l and .f"
            raise errors.InvalidValue(f"cannot list {name!r}: no such field", hint)
    return {name: known[name] for name in names.split(",")}


def label(env: ve.Environment) -> str:
    return f"{env.veid} ({env.name})" if env.name else str(env.veid)


def broken(env: ve.Environment, of: str = "config") -> errors.BrokenConfig | None:
    """What is wrong with its conf file, or with what is kept of its traffic."""
    with suppress(errors.NotFound):  # just destroyed
        try:
            getattr(env, of)
        except errors.BrokenConfig as error:
            return error
    return None


def cell(value: Any, name: str = "") -> str:
    """A value as a line has it; capabilities as --capability takes them."""
    if value is None or value in ("", (), [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        to = ":" if name == "capabilities" else "="
        value = [f"{key}{to}{item if isinstance(item, str) else cell(item, key)}" for key, item in value.items()]
    return printable(",".join(map(str, value)) if isinstance(value, list | tuple) else str(value))


def render(table: Fields, items: Iterable[Any], as_json: bool = False, header: bool = True) -> str:
    """Items as aligned columns, a line for each; or as a JSON array of objects with the table's names.

    One that is no more by the time it is looked at is none of them: others may be destroyed while all are shown.
    """
    rows = []
    for item in items:
        with suppress(errors.NotFound):
            rows.append({name: get(item) for name, get in table.items()})
    return dump_json(rows) if as_json else columns(list(table) if header else [], rows)


def columns(header: list[str], rows: list[dict[str, Any]]) -> str:
    lines = [[name.upper().replace("_", "") for name in header]] if header else []
    return aligned([*lines, *([cell(value) for value in row.values()] for row in rows)])


def aligned(lines: list[list[str]]) -> str:
    """Each column as wide as its widest text."""
    padded = "  ".join(f"{{:{max(map(len, column))}}}" for column in zip(*lines, strict=True))
    return "".join(padded.format(*line).rstrip() + "\n" for line in lines)


def version() -> str:
    from importlib import metadata

    return metadata.version("ve")


def dump_json(value: Any) -> str:
    import json

    return json.dumps(value, indent=2, default=str) + "\n"


def checked(facilities: Sequence[ve.Facility]) -> str:
    """A line for each that is there; of what is missing also the loss, and the cure once for those that share it."""
    import textwrap

    lines = []
    for each, after in zip(facilities, [*facilities[1:], None], strict=True):
        needed = f"needed by {', '.join(each.needed_by)}; " if each.needed_by else ""
        missing = f"no   {each.name}: {each.why} ({needed}lost without it: {each.lost})"
        lines.append(f"yes  {each.name}" if each.present else missing)
        if not each.present and (after is None or after.present or after.cure != each.cure):
            lines.append(f"     cure: {each.cure}")
    return "".join(f"{textwrap.fill(line, 80, subsequent_indent=' ' * 11)}\n" for line in lines)


def can_start(facilities: Iterable[ve.Facility]) -> str:
    missing = [each for each in facilities if not each.present]
    if not missing:
        return "VEs can start here, and nothing is missing"
    if required := [each.name for each in missing if each.required]:
        first = f"; begin with {required[0]}, which others may need" if len(required) > 1 else ""
        return f"no VE can start here without {', '.join(required)}{first}"
    return f"VEs can start here; missing: {', '.join(each.name for each in missing)}"


def troubles(found: Iterable[ve.Trouble]) -> str:
    """A line for each, with the VEID; and what to do about it."""
    import textwrap

    lines = []
    for each in found:
        where = f"{each.veid}: " if each.veid is not None else ""
        lines.append(f"{'mended' if each.mended else 'trouble':8} {where}{each.text}")
        if each.cure:
            lines.append(f"{'':8} cure: {each.cure}")
    return "".join(f"{textwrap.fill(printable(line), 100, subsequent_indent=' ' * 9)}\n" for line in lines)


def examined(verdicts: Iterable[ve.Verdict]) -> str:
    """What became of each promise, what keeps it, and why it does not hold."""
    import textwrap

    lines = []
    for each in verdicts:
        lines.append(f"{each.status:9} {each.name}: {each.promise} ({each.means})")
        if each.why:
            lines.append(f"{'':9} why: {each.why}")
    return "".join(f"{textwrap.fill(printable(line), 100, subsequent_indent=' ' * 12)}\n" for line in lines)


def judged(verdicts: Sequence[ve.Verdict]) -> str:
    by_status = {status: [each.name for each in verdicts if each.status == status] for status in ("broken", "given up")}
    if broken := by_status["broken"]:
        return f"broken: {', '.join(broken)}"
    if given_up := by_status["given up"]:
        return f"every promise holds but those given up: {', '.join(given_up)}"
    return "every promise holds"


def explained(answers: Iterable[ve.Explanation]) -> str:
    """Of each a line or two, and the cure in one, as it is to be typed."""
    import textwrap

    lines = []
    for each in answers:
        text = printable(f"{cell(each.held):3}  {each.kind} {each.right}: {each.why} [{each.setting}]")
        lines.append(textwrap.fill(text, 80, subsequent_indent=" " * 5, break_on_hyphens=False))
        lines.append(f"     to change that: {printable(each.cure)}" if each.cure else "")
    return "".join(f"{line}\n" for line in lines if line)


def as_facts(facts: dict[str, Any]) -> str:
    return "".join(f"{name}: {cell(value, name)}\n" for name, value in facts.items())


@contextmanager
def progress(text: str) -> Iterator[Callable[[int, int, str], None] | None]:
    """A function to call with (done, total, unit) that moves a bar on stderr; None when nobody watches one there."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(text, total=None)
        yield lambda done, total, unit: bars.update(
            bar, completed=done, total=total or None, description=f"{text} {unit}"
        )


def changes(asked: Iterable[str], waiting: Iterable[str], saved: bool) -> Iterator[str]:
    """What became of each thing that was set; and what waits beside, be it a preset's or, as in "names: WHY", why."""
    for name in asked:
        said = ("wait for a restart", "are set") if name.endswith("s") else ("waits for a restart", "is set")
        yield f"{name} {said[name not in waiting]}"
    for name, _, why in (each.partition(": ") for each in sorted({*waiting} - {*asked})):
        late = "waits for a restart" if saved else "is left out: it needs --save, and a restart"
        yield f"{name} wait for a restart: {why}" if why else f"{name} {late}"


def event_line(event: ve.Event, as_json: bool) -> str:
    """An event in a line, its time being UTC."""
    import json  # only who shows events pays for these
    from dataclasses import asdict
    from datetime import UTC, datetime

    when = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if as_json:
        return json.dumps(asdict(event) | {"time": when})
    return " ".join(filter(None, (when, str(event.veid), event.resource, f"{event.kind}:", printable(event.text))))


def size(value: float) -> str:
    """Bytes in three digits and a suffix."""
    for suffix in ("", "K", "M", "G"):
        if value < 1000:
            return f"{value:.3g}{suffix}"
        value /= 1024
    return f"{value:.3g}T"
