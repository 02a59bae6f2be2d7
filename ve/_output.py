"""What the command line shows: tables and JSON on stdout, sentences on stderr.  Only texts: cli.py prints them.

A failure is one line, "ve: cannot VERB OBJECT: why", then "hint: the cure", and an exit code of ve.errors.EXIT_CODES.
"""

import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import attrgetter
from typing import Any

import typer

import ve
from ve import errors
from ve.errors import printable

Fields = dict[str, Callable[[Any], Any]]  # a column's name, which is the JSON key too, and how to get its value


def fields(*names: str) -> Fields:
    return {name: attrgetter(name) for name in names}


def setting(name: str) -> Callable[[Any], Any]:
    def get(env: "ve.Environment") -> Any:
        with suppress(errors.Error):  # its conf file is broken or just gone, which is no reason to hide the other VEs
            return attrgetter(name)(env)
        return None

    return get


LIST = fields("veid", "name", "status", "pid", "ephemeral") | {
    "addresses": lambda env: env.addresses,
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
TEMPLATES = fields("ref", "created", "init", "source")


def choose_fields(names: str, more: Fields) -> Fields:
    """The fields of `list -o`, of LIST and these; InvalidValue names the one that is none."""
    known = LIST | more
    for name in names.split(","):
        if name not in known:
            hint = f"the fields are {', '.join(LIST)}, and beancounters such as numproc, numproc.m, .b, .l and .f"
            raise errors.InvalidValue(f"cannot list {name!r}: no such field", hint)
    return {name: known[name] for name in names.split(",")}


def label(env: "ve.Environment") -> str:
    return f"{env.veid} ({env.name})" if env.name else str(env.veid)


def broken(env: "ve.Environment", of: str = "config") -> errors.BrokenConfig | None:
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
    """Items as aligned columns, a line for each; or as a JSON array of objects with the table's names."""
    rows = [{name: get(item) for name, get in table.items()} for item in items]
    return dump_json(rows) if as_json else columns(list(table) if header else [], rows)


def columns(header: list[str], rows: list[dict[str, Any]]) -> str:
    lines = [[name.upper().replace("_", "") for name in header]] if header else []
    lines += [[cell(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines)
    return "".join("  ".join(line).rstrip() + "\n" for line in padded)


def version() -> str:
    from importlib import metadata

    return metadata.version("ve")


def dump_json(value: Any) -> str:
    import json

    return json.dumps(value, indent=2, default=str) + "\n"


def checked(facilities: Sequence["ve.Facility"]) -> str:
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


def can_start(facilities: Iterable["ve.Facility"]) -> str:
    missing = [each for each in facilities if not each.present]
    if not missing:
        return "VEs can start here, and nothing is missing"
    if required := [each.name for each in missing if each.required]:
        first = f"; begin with {required[0]}, which others may need" if len(required) > 1 else ""
        return f"no VE can start here without {', '.join(required)}{first}"
    return f"VEs can start here; missing: {', '.join(each.name for each in missing)}"


def troubles(found: Iterable["ve.Trouble"]) -> str:
    """A line for each, with the VEID; and what to do about it."""
    import textwrap

    lines = []
    for each in found:
        where = f"{each.veid}: " if each.veid is not None else ""
        lines.append(f"{'mended' if each.mended else 'trouble':8} {where}{each.text}")
        if each.cure:
            lines.append(f"{'':8} cure: {each.cure}")
    return "".join(f"{textwrap.fill(printable(line), 100, subsequent_indent=' ' * 9)}\n" for line in lines)


def examined(verdicts: Iterable["ve.Verdict"]) -> str:
    """What became of each promise, what keeps it, and why it does not hold."""
    import textwrap

    lines = []
    for each in verdicts:
        lines.append(f"{each.status:9} {each.name}: {each.promise} ({each.means})")
        if each.why:
            lines.append(f"{'':9} why: {each.why}")
    return "".join(f"{textwrap.fill(printable(line), 100, subsequent_indent=' ' * 12)}\n" for line in lines)


def judged(verdicts: Sequence["ve.Verdict"]) -> str:
    by_status = {status: [each.name for each in verdicts if each.status == status] for status in ("broken", "given up")}
    if broken := by_status["broken"]:
        return f"broken: {', '.join(broken)}"
    if given_up := by_status["given up"]:
        return f"every promise holds but those given up: {', '.join(given_up)}"
    return "every promise holds"


def explained(answers: Iterable["ve.Explanation"]) -> str:
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


# --- Failures ---------------------------------------------------------------------------------------------------------

# What hands know from elsewhere of what a VE is given: the words, and what does it here.
SETTINGS_ELSEWHERE = (
    ("-v --volume --bind", "--mount SRC:DST[:ro]"),
    ("--cap-add", "--capability NAME:on"),
    ("--cap-drop", "--capability NAME:off"),
    ("--privileged", "--profile NAME gives more: docker, fuse, nesting, sysctl, tun; `ve help create`"),
    ("--security-opt --features", "--profile NAME"),
    ("--devices --devnodes", "--device /dev/X"),
    ("-m --ram --memory-limit", "--memory SIZE"),
    ("--memory-swap --swappiness", "--swap SIZE, which is beside --memory"),
    ("--cpulimit --cpu-quota", "--cpus N, in CPUs or with %"),
    ("--cpuunits --cpu-shares -c", "--cpu-weight 1..10000"),
    ("--cpumask --cpuset-cpus", "--cpuset LIST"),
    ("--pids-limit --tasks-max", "--processes N"),
    ("--diskspace --storage-opt", "--disk SIZE"),
    ("--diskinodes", "--inodes N"),
    ("--iolimit --device-write-bps", "--io-read SIZE/s and --io-write SIZE/s"),
    ("--iopslimit", "--iops N"),
    ("--ioprio --blkio-weight", "--io-weight 1..10000"),
    ("--ulimit", "--nofile N; the other limits of a process are a machine's own"),
    ("--ipadd --ip-address --ip6", "--ip ADDRESS"),
    ("-p --port", "--publish HOSTPORT:PORT[/udp]"),
    ("--net --netif_add --netif_del --netdev_add --netdev_del", "--network KIND"),
    ("--mac-address", "none: an interface has the address that its host gives it"),
    ("--add-host --link", "ve network add NAME --cidr CIDR --pool-hosts lets its VEs find each other by name"),
    ("-P --publish-all", "--publish HOSTPORT:PORT, for each port"),
    ("--dns", "--nameserver ADDRESS"),
)
READERS = ("list", "status", "ubc", "explain", "ps", "check", "selftest")
# What hands know from elsewhere: where it is typed ("": anywhere), the words (*: any argument), and what does it here.
FAMILIAR: tuple[tuple[str, str, str], ...] = (
    ("ve", "ls", "ve list"),
    ("ve", "rm delete remove", "ve destroy VE"),
    ("ve", "kill", "ve stop --fast VE"),
    ("ve", "pause suspend", "ve freeze VE"),
    ("ve", "unpause resume", "ve thaw VE"),
    ("ve", "attach shell ssh login", "ve enter VE"),
    ("ve", "inspect info show", "ve status VE"),
    ("ve", "diagnose checkconfig", "ve check"),
    ("ve", "why can may getcap capsh", "ve explain VE RIGHT"),
    ("ve", "stats usage limits beancounters vzubc", "ve ubc"),
    ("ve", "exec2", "ve exec VE CMD"),
    ("ve", "images templates", "ve template list"),
    ("ve", "pull import", "ve template add NAME SOURCE"),
    ("ve", "build", "ve template build KIND"),
    ("ve", "version -v -V", "ve --version"),
    ("ve", "--install-completion --show-completion", "ve --show-completion bash, zsh or fish prints what to install"),
    ("ve", "port ports", "ve status VE has its ports"),
    ("ve network", "ls", "ve network list"),
    ("ve network", "set update edit", "a pool stays as it was made: ve network remove NAME, then add"),
    ("ve network", "connect", "ve set VE --ip-add auto:POOL"),
    ("ve network", "disconnect", "ve set VE --ip-del ADDRESS"),
    ("ve network", "rm delete prune", "ve network remove NAME"),
    ("ve network", "create", "ve network add NAME --cidr CIDR"),
    ("ve network", "inspect info", "ve network show NAME"),
    ("ve network add", "--subnet --range", "--cidr CIDR"),
    ("ve template", "ls", "ve template list"),
    ("ve template", "rm delete", "ve template remove TEMPLATE"),
    ("ve create", "-t --ostemplate --image", "--template NAME[:VERSION]"),
    ("ve destroy", "-f --force", "ve stop --fast VE, then ve destroy VE"),
    ("ve list", "-q", "ve list -H -o veid"),
    ("ve list", "*", "ve status VE"),
    ("ve logs", "-n --tail", "ve logs VE | tail -n N"),
    ("ve ps", "-a -e --all", "ve ps shows all without it"),
    ("ve run", "--rm", "ve run leaves nothing without it"),
    ("ve run", "-d --detach --name", "ve create and ve start make a VE that stays"),
    ("ve set", "--name", "ve rename VE NAME"),
    ("ve set", "--ipadd", "--ip-add ADDRESS"),
    ("ve set", "--ipdel", "--ip-del ADDRESS"),
    ("ve start", "-a --all", "ve start --onboot"),
    ("ve stop", "-f --force -9", "ve stop --fast VE"),
    ("ve template build", "-t --tag", "--name NAME"),
    *((f"ve {verb}", words, ours) for verb in ("create", "set", "run") for words, ours in SETTINGS_ELSEWHERE),
    *((f"ve {verb}", "--format -j", "--json") for verb in READERS),
    ("", "--state-dir", "it stands before the verb: ve --state-dir DIR VERB"),
    ("", "--quiet -q", "it stands before the verb: ve -q VERB"),
    ("", "-i -t --interactive --tty", "there is a terminal without it, when yours is one"),
    ("", "-w --workdir", "--cwd DIR"),
    ("", "yes no", "--onboot or --no-onboot, with nothing behind it"),
)

Failure = tuple[int, str, str]  # the exit code, the sentence and the hint; no sentence for what needs no words
LACKING = "`ve check` tells what this host lacks"
BUG = "this is a bug: please report it, with what VE_DEBUG=1 in the environment shows"


Called = tuple[str, str, str]  # a VE's VEID, its label, and what the user typed for it


def explain(
    error: BaseException, cannot: str, words: Sequence[str], called: Called | None = None
) -> tuple[int, list[str]]:
    """A failure's exit code and lines for stderr; cannot is how a sentence of ours begins, words the command line."""
    code, sentence, hint = _failure(error, cannot, words)
    if called:
        sentence, hint = _renamed(sentence, hint, called)
    lines = [f"{prefix}: {printable(text)}" for prefix, text in (("ve", sentence), ("hint", hint)) if text]
    if os.environ.get("VE_DEBUG"):
        import traceback

        lines = [*"".join(traceback.format_exception(error)).splitlines(), *lines]
    return code, lines


def _renamed(sentence: str, hint: str, called: Called) -> tuple[str, str]:
    """The VE by its label in what could not be done, as in what was; and in the cure as the user has just typed it."""
    veid, label, typed = called
    head, colon, why = sentence.partition(": ")
    head = re.sub(rf"(?<!\S){veid}(?=:/)", typed, head)  # VE:PATH, as cp has it
    head = re.sub(rf"(?<!\S){veid}(?!\S| \()", label, head, count=1)
    return head + colon + why, re.sub(rf"(?<!\S){veid}(?![^\s:;,])", typed, hint)


def _failure(error: BaseException, cannot: str, words: Sequence[str]) -> Failure:
    if isinstance(error, errors.Error):
        return error.exit_code, str(error), error.hint
    if isinstance(error, typer.TyperException):
        return _usage(error, cannot, words)
    if isinstance(error, BrokenPipeError):
        return 141, "", ""  # 128 + SIGPIPE, as a program without Python's handler would end
    if isinstance(error, KeyboardInterrupt):
        return 128 + int(error.args[0] if error.args else signal.SIGINT), "", ""
    if isinstance(error, OSError):
        parts = [getattr(error, "syscall", None), error.strerror or str(error), error.filename]
        code = 46 if error.errno in errors.FULL else 3
        hint = LACKING if error.errno in errors.NOT_THERE else ""
        return code, ": ".join([cannot, *(str(part) for part in parts if part)]), hint
    if isinstance(error, MemoryError):
        return 3, f"{cannot}: not enough memory", ""
    return 1, f"{cannot}: unexpected {type(error).__name__}: {error}", BUG


def _usage(error: typer.TyperException, cannot: str, words: Sequence[str]) -> Failure:
    option = getattr(error, "option_name", "")
    if re.fullmatch("-[0-9]", option):  # `ve start -5`: an option to the parser, a VEID to its user
        word = next(word for word in words if word.startswith(option))
        return 20, f"{cannot} {word}: a VEID is a number, 1 to 2147483644", ""
    ctx = getattr(error, "ctx", None)
    where = ctx.command_path if ctx else "ve"
    text = " ".join(error.format_message().replace("Value error, ", "").rstrip(".").split())
    why, *near = re.split(r" \(Possible options: |\. Did you mean ", text, maxsplit=1)
    argument = re.search(r"['(]([^' ()]+)[^'()]*['?)]$", why)
    hint = _ours(where, option or (argument[1] if argument else ""))
    hint = hint or (f"did you mean {near[0].rstrip(')?')}?" if near else f"see {where} --help")
    return 2, f"cannot run {where}: {why[:1].lower()}{why[1:]}", hint


def _ours(where: str, word: str) -> str:
    """What does here what this word does elsewhere; empty if nobody says so."""
    any_word = "" if word.startswith("-") else "*"
    found = (ours for at, words, ours in FAMILIAR if at in ("", where) and {word, any_word} & {*words.split()})
    return next(found, "")


def changes(asked: Iterable[str], waiting: Iterable[str], saved: bool) -> Iterator[str]:
    """What became of each thing that was set; and what waits beside, be it a preset's or, as in "names: WHY", why."""
    for name in asked:
        said = ("wait for a restart", "are set") if name.endswith("s") else ("waits for a restart", "is set")
        yield f"{name} {said[name not in waiting]}"
    for name, _, why in (each.partition(": ") for each in sorted({*waiting} - {*asked})):
        late = "waits for a restart" if saved else "is left out: it needs --save, and a restart"
        yield f"{name} wait for a restart: {why}" if why else f"{name} {late}"


def event_line(event: "ve.Event", as_json: bool) -> str:
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
