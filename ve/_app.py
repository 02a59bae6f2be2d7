"""What the verbs of cli.py are hung on, and how one of them is run."""

import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from ve import _completion as completion
from ve import _options as opt
from ve import _output as out
from ve import caller
from ve._examples import examples
from ve._session import Session, stand_on_firm_ground

PLAIN: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False}

app = typer.Typer(
    **PLAIN,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="ve help VERB has options and examples of each.",
)
groups: dict[str, typer.Typer] = {}  # of verbs of two words, by the first


class Context(typer.Context):
    """What typer gives each verb."""

    obj: Session


def verb(name: str, cls: type[opt.Verb] = opt.Verb) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function a verb; its docstring is the help."""
    first, _, second = name.partition(" ")
    return (groups[first] if second else app).command(second or first, cls=cls, epilog=examples(name))


def group(name: str, text: str) -> None:
    """Let verbs begin with this word; text is its help."""
    groups[name] = typer.Typer(**PLAIN, invoke_without_command=True)
    app.add_typer(groups[name], name=name)

    @groups[name].callback(help=text)
    def chosen(ctx: Context) -> None:
        choose(ctx, f" {name}")


def choose(ctx: Context, suffix: str = "") -> None:
    """Note the verb for the error sentences; without one, show the help and fail."""
    if not ctx.invoked_subcommand:
        print(ctx.get_help(), file=sys.stderr)
        raise typer.Exit(2)
    ctx.obj.verb = ctx.invoked_subcommand + suffix


@app.callback()
def globals_(
    ctx: Context,
    state_dir: opt.StateDir = None,
    quiet: opt.Quiet = False,
    show_completion: opt.ShowCompletion = None,
    version: opt.Version = False,
) -> None:
    """Virtual Environments: isolated groups of processes with their own root, init and users."""
    if version or show_completion:
        print(f"ve {out.version()}" if version else completion.script(show_completion or ""), flush=True)
        raise typer.Exit
    ctx.obj.state_dir, ctx.obj.quiet = state_dir, quiet
    choose(ctx)


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    stand_on_firm_ground()
    caller.is_the_command = argv is None
    if os.environ.get("_VE_COMPLETE"):
        completion.answer(app)
    here = Session(opt.spelled_out(sys.argv[1:] if argv is None else argv))
    return here.run(lambda: _parsed(here))


def _parsed(here: Session) -> int | None:
    """What the verb of this line returns, or the parser itself, of help and the like."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("ve", list(here.words), obj=here) as ctx:
            code: int | None = command.invoke(ctx)
            return code
    except typer.Exit as done:
        return done.exit_code
