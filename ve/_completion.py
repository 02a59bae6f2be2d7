"""How a shell completes a command line: nothing when it cannot be known, as a completion has nowhere to complain."""

import os
import shlex
from collections.abc import Callable, Iterable

import typer
from typer import completion

import ve
from ve._output import LIST
from ve.addresses import DEFAULT_POOL
from ve.rights import CAPABILITIES, PROFILES, REFUSALS

# readline cuts words at colons, and then takes only what follows the last one; typer's own script knows nothing of it.
BASH = r"""_ve_completion() {
    local IFS=$'\n' line=${COMP_LINE:0:COMP_POINT}
    local word=${line##*[[:space:]=]}
    COMPREPLY=($(_VE_COMPLETE=complete_bash _VE_LINE=$line "$1"))
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%:*}:"}")
    fi
    if [[ ${COMPREPLY[*]} == *: ]]; then  # of ve cp: a path follows
        compopt -o nospace
    fi
}
complete -o default -F _ve_completion ve"""


def script(shell: str) -> str:
    """What a shell is to read at its start."""
    if shell == "bash":
        return BASH
    return completion.get_completion_script(prog_name="ve", complete_var="_VE_COMPLETE", shell=shell)


def answer(app: typer.Typer) -> None:
    """Print what may follow, as the script asks for it in the environment, and exit."""
    completion.completion_init()
    line = os.environ.get("_VE_LINE")
    if line is not None:
        os.environ |= {"COMP_WORDS": line, "COMP_CWORD": str(_words(line + "x") - 1)}
    try:
        app(prog_name="ve")
    except (KeyError, ValueError):  # no shell asks like that
        raise SystemExit(1) from None


def _words(line: str) -> int:
    """How many there are; a quotation may be open still."""
    for quote in ("", "'", '"'):
        try:
            return len(shlex.split(line + quote))
        except ValueError:
            continue
    return len(line.split())


def words(ctx: typer.Context, read: Callable[["ve.Host"], Iterable[str]]) -> list[str]:
    try:
        return [word for word in read(ve.Host(ctx.find_root().params.get("state_dir"))) if word]
    except Exception:
        return []


def complete_ve(ctx: typer.Context) -> list[str]:
    return words(ctx, lambda host: (word for env in host.list() for word in (str(env.veid), env.name)))


def complete_right(incomplete: str) -> list[str]:
    """What most want to know: paths and system calls that are let through are too many."""
    names = [*CAPABILITIES, *(row.name for row in PROFILES), *(call for row in REFUSALS for call in row.syscalls)]
    devices = [path for row in PROFILES for path in row.devices]
    return [word for word in dict.fromkeys((*names, *devices)) if word.startswith(incomplete)]


def complete_side(ctx: typer.Context) -> list[str]:
    return [f"{word}:" for word in complete_ve(ctx)]


def complete_field(incomplete: str) -> list[str]:
    """The field after the last comma."""
    before, comma, _ = incomplete.rpartition(",")
    return [before + comma + field for field in LIST if field not in before.split(",")]


def complete_template(ctx: typer.Context, incomplete: str) -> list[str]:
    kind = "ref" if ":" in incomplete else "name"  # a name is its newest version: mostly that is wanted
    return words(ctx, lambda host: sorted({getattr(template, kind) for template in host.templates.list()}))


def complete_snapshot(ctx: typer.Context) -> list[str]:
    """Those of the VE that was typed before."""
    return words(ctx, lambda host: (each.name for each in host.get(str(ctx.params.get("key"))).snapshots()))


def complete_pool(ctx: typer.Context) -> list[str]:
    return words(ctx, lambda host: (pool.name for pool in host.networks.list()))


def complete_address(ctx: typer.Context, incomplete: str) -> list[str]:
    """Those that are given out; of others nobody knows which is meant."""
    offered = ["auto", "auto:sticky", *(f"auto:{name}" for name in complete_pool(ctx) if name != DEFAULT_POOL)]
    if incomplete.removesuffix(":") in offered[2:]:
        return [f"{incomplete.removesuffix(':')}:sticky"]
    return [word for word in offered if word.startswith(incomplete)]
