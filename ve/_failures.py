"""What is said of a failure, and what would have been typed for what hands know from elsewhere.

It is one line, "ve: cannot VERB OBJECT: why", then "hint: the cure", and an exit code of ve.errors.EXIT_CODES.
"""

import os
import re
import signal
from collections.abc import Sequence

import typer

from ve import errors
from ve.errors import printable

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
    ("ve", "commit checkpoint snapshot-create", "ve snapshot create VE NAME"),
    ("ve", "snapshots snapshot-list", "ve snapshot list VE"),
    ("ve", "restore rollback revert undo snapshot-switch", "ve snapshot restore VE NAME"),
    ("ve", "snapshot-delete", "ve snapshot delete VE NAME"),
    ("ve", "copy fork", "ve clone VE"),
    ("ve snapshot", "ls", "ve snapshot list VE"),
    ("ve snapshot", "rm remove", "ve snapshot delete VE NAME"),
    ("ve snapshot", "add take", "ve snapshot create VE NAME"),
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
    log = error.log.splitlines() if isinstance(error, errors.NotReady) else []
    told = (("ve", sentence), *(("log", line) for line in log), ("hint", hint))
    lines = [f"{prefix}: {printable(text)}" for prefix, text in told if text]
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
