"""What a command line may hold: arguments and options."""

import os
import re
import sys
from collections.abc import Callable, Iterable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperArgument, TyperCommand, TyperOption

from ve import errors, limits
from ve._completion import (
    complete_field,
    complete_right,
    complete_side,
    complete_snapshot,
    complete_template,
    complete_ve,
)
from ve._limit_options import AccountOnly, OnBarrier, OnFailure, Preset, UserBeancounters, limit
from ve._network_options import (
    AddAddresses,
    AddPublish,
    Addresses,
    Delay,
    DeviceLostOk,
    Gateways,
    Loss,
    Nameservers,
    Network,
    Publish,
    Rate,
    RemoveAddresses,
    RemovePublish,
    SearchDomains,
)
from ve._output import LIST
from ve.rights import PROFILES
from ve.veid import check_name


def spelled_out(words: list[str]) -> list[str]:
    """`ve help VERB` is `ve VERB --help`."""
    return [*words[1:], "--help"] if words[:1] == ["help"] else words


_EXACT = "Each beancounter of `ve ubc` is an option too: --numproc BARRIER:LIMIT, --physpages 96M:128M and so on."


class Verb(TyperCommand):
    """A verb, whose help has its arguments as the manual has them: VE and [CMD]..., not {VE} and CMD <list[str]>."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [re.sub("[{}]", "", piece) for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for title, kind in (("Arguments", TyperArgument), ("Options", TyperOption)):
            records = [param.get_help_record(ctx) for param in self.get_params(ctx) if isinstance(param, kind)]
            if rows := [(name.partition(" <")[0], text) for name, text in filter(None, records)]:
                with formatter.section(title):
                    formatter.write_dl(rows)
        if any(isinstance(param, TyperOption) and param.hidden for param in self.get_params(ctx)):
            formatter.write_paragraph()
            formatter.write_text(_EXACT)


class Wrapper(Verb):
    """A verb that ends in somebody's command line: our options end where that begins, as with ssh."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        valued = {opt for p in self.params if isinstance(p, TyperOption) and not p.is_flag for opt in p.opts}
        rest, ours, target = list(args), list[str](), list[str]()
        while rest and rest[0] != "--" and (rest[0].startswith("-") or not target):
            word = rest.pop(0)
            if not word.startswith("-"):
                target.append(word)
                continue
            ours.append(word)
            if word in valued:
                ours += rest[:1]
                del rest[:1]
        return super().parse_args(ctx, [*ours, "--", *target, *rest[rest[:1] == ["--"] :]])


def name(text: str | None) -> str | None:
    """A name, which on a command line is never empty: to the library that is no name."""
    return None if text is None else check_name(text)


def variables(pairs: list[str]) -> dict[str, str]:
    pairs = listed(pairs)
    for pair in pairs:
        if "=" not in pair:
            raise errors.InvalidValue(f"cannot use environment variable {pair!r}: it is not NAME=VALUE")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def switches(pairs: list[str]) -> dict[str, str]:
    """Of NAME:on and NAME:off, as vzctl spells it."""
    return {name: switch for name, _, switch in (pair.partition(":") for pair in listed(pairs))}


def reactions(pairs: list[str]) -> dict[str, str]:
    """Of RESOURCE:ACTION, an action for each."""
    found: dict[str, str] = {}
    for name, _, action in (pair.partition(":") for pair in listed(pairs)):
        if name in found:
            raise errors.InvalidValue(f"cannot use {name}:{action}: {name} has another action already")
        found[name] = action
    return found


def listed(values: list[str]) -> list[str]:
    """What a repeatable option was given; one "" stands for none, so that `set` can take the last one away."""
    return [] if values == [""] else values


def user_and_password(text: str) -> tuple[str, str]:
    """USER:PASSWORD; a password of - is asked for, or is the first line of stdin, so that ps does not show it."""
    user, colon, password = text.partition(":")
    if not colon:  # the whole may be the password: it is not shown
        raise errors.InvalidValue("cannot set a password: no colon is in USER:PASSWORD", "USER:- reads it from stdin")
    if password != "-":
        return user, password
    if not sys.stdin.isatty():
        return user, os.fsdecode(sys.stdin.buffer.readline()).removesuffix("\n")  # whatever the locale makes of it
    from getpass import getpass

    return user, getpass(f"Password of {user}: ")


def text_or_file(text: str) -> str:
    """The text, or what is in the file that it names: any bytes, as those on a command line may be."""
    return Path(text[1:]).read_text(errors="surrogateescape") if text.startswith("@") else text


Side = tuple[str, str] | None


def copy_sides(source: str, target: str) -> tuple[Side, Side]:
    """For each of the two, VE and path if it is VE:PATH, else None; as with scp, a slash before the colon is no VE."""
    cannot = f"cannot copy {source} to {target}"
    first, second = (re.fullmatch("([^/:]+):(.*)", path, re.DOTALL) for path in (source, target))
    if first and second:
        hint = f"ve cp {source} FILE, then ve cp FILE {target}"
        raise errors.InvalidValue(f"{cannot}: one of them must be a path of the host", hint)
    if not first and not second:
        hint = "a path in a VE is VE:PATH; ve cp copies between the host and a VE"
        raise errors.InvalidValue(f"{cannot}: one of them must be VE:PATH", hint)
    for side in filter(None, (first, second)):
        if not side[2]:
            raise errors.InvalidValue(f"{cannot}: no path follows {side[0]}", f"{side[0]}/ is its root directory")
    return first and (first[1], first[2]), second and (second[1], second[2])


# --- Arguments and options --------------------------------------------------------------------------------------------

Text = str | None
Texts = list[str] | None

VE = Annotated[str, typer.Argument(metavar="VE", help="VEID or name.", autocompletion=complete_ve)]
OneVE = Annotated[Text, typer.Argument(metavar="VE", help="Of this VE only.", autocompletion=complete_ve)]
VEs = Annotated[list[str], typer.Argument(metavar="VE", help="VEIDs or names.", autocompletion=complete_ve)]
ExaminedVE = Annotated[
    Text, typer.Argument(metavar="VE", help="This running VE, not one made for it.", autocompletion=complete_ve)
]
SomeVEs = Annotated[
    Texts, typer.Argument(metavar="VE", help="VEIDs or names.", show_default=False, autocompletion=complete_ve)
]
Veid = Annotated[str, typer.Argument(metavar="VEID", help="A free number, 1 to 2147483644.")]
NewName = Annotated[str, typer.Argument(metavar="NAME", help="The new name.", callback=name)]
NewVeid = Annotated[Text, typer.Argument(metavar="VEID", help="A free number; without it the next.")]
NewSnapshot = Annotated[Text, typer.Argument(metavar="NAME", help="Its name; without it s1, s2 and so on.")]
Snapshot = Annotated[
    str, typer.Argument(metavar="NAME", help="One of ve snapshot list.", autocompletion=complete_snapshot)
]
Rights = Annotated[
    list[str],
    typer.Argument(
        metavar="RIGHT",
        help="Such as net_admin, mount, /dev/fuse, /proc/kcore, nesting.",
        autocompletion=complete_right,
    ),
]
Cmd = Annotated[Texts, typer.Argument(metavar="CMD", help="A program and its arguments.", show_default=False)]
Source = Annotated[str, typer.Argument(metavar="SRC", help="PATH or VE:PATH.", autocompletion=complete_side)]
Target = Annotated[str, typer.Argument(metavar="DST", help="VE:PATH or PATH.", autocompletion=complete_side)]
Ref = Annotated[str, typer.Argument(metavar="TEMPLATE", help="NAME or NAME:VERSION.", autocompletion=complete_template)]
Rootfs = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A directory, a tar, an OCI layout or a docker save archive.")
]
NewTemplate = Annotated[str, typer.Argument(metavar="NAME", help="One that exists gets another version.")]
Kind = Annotated[
    str, typer.Argument(metavar="KIND", help="busybox or debian.", autocompletion=lambda: ["busybox", "debian"])
]

Template = Annotated[
    str, typer.Option(metavar="NAME[:VERSION]", help="What to make it from.", autocompletion=complete_template)
]
Name = Annotated[Text, typer.Option(metavar="NAME", help="A name that works wherever the VEID does.", callback=name)]
Area = Annotated[
    Literal["loop"] | None,
    typer.Option(metavar="loop", help="Keep what it changes in a file system of its own, of the size --disk."),
]
Hostname = Annotated[Text, typer.Option(metavar="NAME", help="What hostname says inside, if not its name.")]
Description = Annotated[Text, typer.Option(metavar="TEXT", help="One line for people.")]
Onboot = Annotated[bool | None, typer.Option("--onboot/--no-onboot", help="Start it when the host boots, or not.")]
Env = Annotated[Texts, typer.Option("--env", "-e", metavar="K=V", help="An environment variable; repeatable.")]
Mounts = Annotated[
    Texts, typer.Option("--mount", metavar="SRC:DST[:ro]", help="Show SRC of the host at DST inside; repeatable.")
]
Devices = Annotated[
    Texts, typer.Option("--device", metavar="/dev/X", help="A device of the host that it may use; repeatable.")
]
Profiles = Annotated[
    Texts,
    typer.Option(
        "--profile",
        metavar="NAME",
        help=f"What its root may do; repeatable: {', '.join(row.name for row in PROFILES)}.",
        autocompletion=lambda: [(row.name, row.text) for row in PROFILES],
    ),
]
Capabilities = Annotated[
    Texts,
    typer.Option("--capability", metavar="NAME:on|off", help="One capability more or less; repeatable."),
]

# What may be asked of any VE: its name in the library, the option, and what makes the library's value of what is typed.
SETTINGS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "hostname": (Hostname, str),
    "description": (Description, str),
    "onboot": (Onboot, bool),
    "env": (Env, variables),
    "mounts": (Mounts, listed),
    "devices": (Devices, listed),
    "profiles": (Profiles, listed),
    "capabilities": (Capabilities, switches),
    "network": (Network, str),
    "device_lost_ok": (DeviceLostOk, bool),
    "addresses": (Addresses, listed),
    "gateways": (Gateways, listed),
    "publish": (Publish, listed),
    "rate": (Rate, str),
    "delay": (Delay, str),
    "loss": (Loss, str),
    "add_addresses": (AddAddresses, listed),
    "remove_addresses": (RemoveAddresses, listed),
    "add_publish": (AddPublish, listed),
    "remove_publish": (RemovePublish, listed),
    "nameservers": (Nameservers, listed),
    "searchdomains": (SearchDomains, listed),
    "preset": (Preset, str),
    **{name: (limit(name), str) for name in limits.NAMES},
    "on_barrier": (OnBarrier, reactions),
    "on_failure": (OnFailure, reactions),
    "account_only": (AccountOnly, bool),
    "user_beancounters": (UserBeancounters, bool),
}


ONLY_SET = {f"{how}_{name}": name for name in ("addresses", "publish") for how in ("add", "remove")}  # what they set


def set_by(asked: Iterable[str]) -> list[str]:
    """What these options set."""
    return list(dict.fromkeys(ONLY_SET.get(name, name) for name in asked))


def with_settings(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a verb these options in place of its parameter asked, which gets what was given of them."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        def verb(**typed: Any) -> Any:
            values = {name: typed.pop(name) for name in names}
            asked = {name: SETTINGS[name][1](value) for name, value in values.items() if value is not None}
            return function(asked=asked, **typed)

        options = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=SETTINGS[name][0]) for name in names
        ]
        own = {name: each.replace(kind=Parameter.KEYWORD_ONLY) for name, each in signature(function).parameters.items()}
        parameters = [each for name in own for each in (options if name == "asked" else [own[name]])]
        vars(verb)["__signature__"] = Signature(parameters)
        verb.__annotations__ = {each.name: each.annotation for each in parameters}
        verb.__doc__ = function.__doc__
        return verb

    return add


Password = Annotated[
    Text, typer.Option(metavar="USER:PASSWORD", help="Set a user's password; USER:- reads it from stdin.")
]
SshKey = Annotated[Text, typer.Option(metavar="KEY|@FILE", help="Let this public key log in as root.")]
Save = Annotated[bool, typer.Option("--save", help="Keep it in the conf file, for the next starts too.")]

User = Annotated[
    Text, typer.Option("--user", "-u", metavar="USER[:GROUP]", help="Run as this user, by the VE's passwd.")
]
Cwd = Annotated[Text, typer.Option(metavar="DIR", help="Run in this directory of the VE.")]
Timeout = Annotated[
    float, typer.Option("--timeout", "-t", metavar="SECONDS", min=0, help="How long its own shutdown may take.")
]
Fast = Annotated[bool, typer.Option("--fast", help="Kill it at once.")]
AllOnboot = Annotated[bool, typer.Option("--onboot", help="Every stopped VE that was given --onboot.")]
AllRunning = Annotated[bool, typer.Option("--all", help="Every VE that runs.")]
Foreground = Annotated[bool, typer.Option("--foreground", help="Be its console, and start it again on a reboot.")]
Wait = Annotated[bool, typer.Option("--wait", help="Return once it is ready: once systemd, its init, has booted.")]
Ready = Annotated[
    Texts,
    typer.Option("--ready", metavar="CONDITION", help="When it is ready instead; with several, all must be so."),
]
ReadyTimeout = Annotated[
    float | None,
    typer.Option("--timeout", "-t", metavar="SECONDS", min=0, help="How long to wait; 60 otherwise."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the steps and do nothing.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with new text as it comes.")]

OnlyNear = Annotated[
    bool, typer.Option("--quiet", "-q", help="Only what is near its barrier, has been, or was refused.")
]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Show it again every two seconds.")]
Split = Annotated[int | None, typer.Option(metavar="N", help="Print limits that divide this host in N, as a preset.")]
CheckPlan = Annotated[
    bool, typer.Option("--check", help="Is each VE's configuration consistent, and is this host oversold?")
]
Fix = Annotated[bool, typer.Option("--fix", help="Mend what can be mended without losing a VE's data.")]
Compat = Annotated[Text, typer.Option(metavar="FILE", help="Write OpenVZ's /proc/user_beancounters to FILE.")]
Reset = Annotated[bool, typer.Option("--reset", help="Count from now on.")]
Act = Annotated[bool, typer.Option("--act", help="Do what --on-barrier and --on-failure say.")]
Coming = Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones as they come.")]
OnlyChosen = Annotated[bool, typer.Option("--quiet", "-q", help="Only those that have an action, and what it did.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Columns = Annotated[
    str, typer.Option("-o", metavar="FIELD,...", help=f"Some of {', '.join(LIST)}.", autocompletion=complete_field)
]
All = Annotated[bool, typer.Option("--all", "-a", help="As without it; for hands that know vzlist.")]
NoHeader = Annotated[bool, typer.Option("-H", help="Print no header.")]
Archive = Annotated[bool, typer.Option("--archive", "-a", help="Keep owners, times, xattrs and hard links.")]
TemplateName = Annotated[Text, typer.Option("--name", metavar="NAME", help="Its name, when not that of its kind.")]
Suite = Annotated[Text, typer.Option(metavar="SUITE", help="A suite of Debian, such as trixie.")]
Packages = Annotated[str, typer.Option(metavar="PKG,...", help="Packages of Debian to add.")]

StateDir = Annotated[
    Text, typer.Option(metavar="DIR", envvar="VE_STATE_DIR", show_envvar=True, help="Instead of /var/lib/ve.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
ShowCompletion = Annotated[
    Literal["bash", "zsh", "fish"] | None,
    typer.Option(metavar="SHELL", help="Print what makes bash, zsh or fish complete."),
]
Version = Annotated[bool, typer.Option("--version", help="Print the version.")]


def awaited(wait: bool, ready: list[str] | None, timeout: float | None) -> list[str] | None:
    """The conditions of `ve start`, none being its own; None if it does not wait.  InvalidValue."""
    if not wait and not ready:
        if timeout is not None:
            raise errors.InvalidValue("cannot start: --timeout is how long to wait", "--wait, or --ready CONDITION")
        return None
    from ve import ready as conditions  # only who waits needs it

    conditions.parse(ready or ())
    return ready or []
