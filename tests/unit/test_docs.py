"""The documents leave nothing out and name nothing that is not there: what the code has as a table, they are held to.

tests/verbs/test_readme.py types the commands that they show.
"""

import inspect
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

import cli
import ve
from tests.manual import exit_codes, section
from ve import _output as out
from ve import config, distributions, errors, mounts, namespaces, rights, rootfs, shutdown
from ve.beancounter import RESOURCES
from ve.foreground import Foreground

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = {path.name: path.read_text() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}
README, MANUAL, LIBRARY = (DOCUMENTS[name] for name in ("README.md", "manual.md", "library.md"))
TYPES = {str: "string", bool: "boolean", list: "array of strings", dict: "table of strings"}


def verbs(group: Any, prefix: str = "ve") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from verbs(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


APP: Any = typer.main.get_command(cli.app)
VERBS = dict(verbs(APP))


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_its_place_with_all_its_options(verb: str) -> None:
    text = section(verb) + (section("Limits") + section("Beancounters") if "(#limits)" in section(verb) else "")
    text += " ".join(f"--{row.name}" for row in RESOURCES if f"`{row.name}`" in text)
    words = re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", text)
    options = [word for each in VERBS[verb].params for word in (*each.opts, *each.secondary_opts) if word[0] == "-"]
    assert set(words) >= set(options)


def test_options_that_the_manual_names_exist() -> None:
    ours = {word for command in (APP, *VERBS.values()) for each in command.params for word in each.opts}
    ours |= {word for command in VERBS.values() for each in command.params for word in each.secondary_opts}
    tables = re.findall(r"^\| (`-[^|]*)\|", MANUAL, re.MULTILINE)
    assert {word for cell in tables for word in re.findall(r"--[a-z-]+", cell)} <= ours | {"--help"}


def test_options_of_every_command() -> None:
    assert all(f"`{word}" in section("The command line") for each in APP.params for word in each.opts)


def test_verbs_that_are_headings_exist() -> None:
    headings = " ".join(re.findall(r"^#### (.*)", MANUAL, re.MULTILINE))
    assert set(re.findall(r"\bve (?:network |snapshot |template )?[a-z]+", headings)) == set(VERBS)


def test_the_changelog_names_each_verb() -> None:
    assert all(f"`{verb.split()[1]}`" in DOCUMENTS["CHANGELOG.md"] for verb in VERBS)


def test_exit_codes_are_verbatim() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", section("Exit codes"), re.MULTILINE)
    assert {int(code): text for code, text in rows} == errors.EXIT_CODES


def test_each_verb_has_its_exit_codes_and_each_code_its_verbs() -> None:
    own, common = exit_codes()
    assert own.keys() == {verb.removeprefix("ve ") for verb in VERBS}
    assert set.union(common, *own.values()) == errors.EXIT_CODES.keys()
    assert not any(common & codes for verb, codes in own.items() if verb != "list")


@pytest.mark.parametrize("verb", VERBS)
def test_synopses(verb: str) -> None:
    """Each shows the verb's arguments in their order, and every option that must be given."""
    lines = re.findall(rf"^    {verb}\b.*", section(verb), re.MULTILINE)
    words = [each.metavar for each in VERBS[verb].params if each.param_type_name == "argument"]
    needed = [each.opts[0] for each in VERBS[verb].params if each.param_type_name == "option" and each.required]
    wanted = ".*".join(map(re.escape, (word.strip("[]").removesuffix("...") for word in words)))
    assert lines and any(re.search(wanted, line) and all(word in line for word in needed) for line in lines)


def test_conf_keys_with_their_types() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section("The conf file"), re.MULTILINE))
    assert rows == {"version": "integer"} | {key: TYPES[kind] for key, (kind, _) in config.KEYS.items()}


def test_beancounters() -> None:
    text = section("Beancounters").replace("`", "")
    assert re.findall(r"^\| (\w+) \| (pages|bytes|items) \| ([\w ]+) \| (.*) \|$", text, re.MULTILINE) == [
        (row.name, row.unit, row.grade, row.held or "-") for row in RESOURCES
    ]
    others = [(row.name, row.barrier or "-", row.limit or "-", row.failcnt or "-") for row in RESOURCES]
    assert re.findall(r"^\| (\w+) \| (.*) \| (.*) \| (.*) \|$", text.partition("What the kernel does")[2], re.M)[
        1:
    ] == [row for row in others if row[1:] != ("-", "-", "-")]


def test_halt_words() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", section("Inits"), re.MULTILINE)
    assert len(rows) == len(shutdown.HALT)
    for (end, halt), (name, word) in zip(shutdown.HALT, rows, strict=True):
        wanted = f"`{' '.join(halt)}`" if isinstance(halt, tuple) else signal_name(halt)
        assert (name, word.partition(",")[0]) == (end, wanted)


def signal_name(number: int) -> str:
    if number > signal.SIGRTMIN:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    return signal.Signals(number).name


def test_namespaces() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section("What a VE is made of"), re.MULTILINE)
    assert rows == [(name, text) for name, _, _, text in namespaces.NAMESPACES]


def test_mounts_and_devices() -> None:
    text = section("What a VE is made of")
    points = [row[1] for row in (*mounts.PROTECTED, *mounts.OWN, mounts.RUN)]
    assert all(f"`/{path}`" in text for path in (*points, *mounts.READ_ONLY, *mounts.MASKED))
    assert all(f"`{name}`" in text for name, _, _ in mounts.DEVICES)
    assert f"it may make itself**: {namespaces.MOST} of" in text


def test_rights() -> None:
    text = section("Rights")
    assert {name.lower() for name in re.findall(r"CAP_([A-Z_]+)", text)} == set(rights.ANNOUNCED)
    rows = re.findall(r"^\| ([\w ]+) \| ([^|]*) \| ([A-Z]+) \| ([^|]*) \|$", text, re.MULTILINE)
    assert [(name, tuple(re.findall("`(.*?)`", calls)), error, why) for name, calls, error, why in rows] == [
        (row.name, row.syscalls, row.error, row.why) for row in rights.REFUSALS
    ]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|$", text, re.MULTILINE)
    assert rows[: len(rights.PROFILES)] == [(row.name, row.text) for row in rights.PROFILES]
    assert rows[len(rights.PROFILES) :] == [(row.name, row.loses) for row in rights.PROFILES if row.loses]


def test_where_an_init_may_be_and_what_can_be_built() -> None:
    text = section("ve template add") + section("ve template build")
    assert all(f"`{path}`" in text for path in (*rootfs.INITS, *distributions.BUILDERS, distributions.DEBIAN_SUITE))


def test_columns() -> None:
    assert all(name in section("ve list") for name in out.LIST)


def test_environment_variables() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "ve").rglob("*.py"))
    ours = set(re.findall(r"\bVE_[A-Z_]+\b", sources)) - {"VE_ROOT"}
    assert ours == set(re.findall(r"^\| `(VE_\w+)` ", section("Environment variables"), re.MULTILINE))
    assert "`VE_ROOT`" in section("Action scripts")


def test_troubleshooting_quotes_what_is_said() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "ve").rglob("*.py"))
    quoted = re.findall(r"^\| ([^|]*)\|", section("Troubleshooting"), re.MULTILINE)
    for text in [text for cell in quoted for text in re.findall("`([^`]*)`", cell) if "`start`" not in cell]:
        parts = re.split(r"\.\.\.|\bN\b|\(CMD\)|/sbin/init|Operation not permitted", text)
        assert [part for part in parts if part.strip() not in sources] == [], text


def test_the_contents_are_complete() -> None:
    contents = MANUAL.partition("\n## ")[0]
    assert [each for each in re.findall(r"^## (.*)", MANUAL, re.MULTILINE) if f"[{each}](#" not in contents] == []


def test_the_packages_to_install_are_those_of_make_setup() -> None:
    packages = re.search(r"^PACKAGES := ((?:.*\\\n)*.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shown = " ".join(re.findall(r"^apt-get install (.*)", section("Installing"), re.MULTILINE))
    assert packages and set(packages[1].replace("\\", "").split()) == {"python3", *shown.split()}


def test_states() -> None:
    assert re.findall(r"^\| `(\w+)` ", section("States"), re.MULTILINE) == list(ve.Status)


# ---- the library ----------------------------------------------------------------------------------------------------

CLASSES = (ve.Host, ve.Environment, ve.Ephemeral, ve.Templates, ve.Networks, Foreground, ve.Popen)
RECORDS = (
    ve.Beancounter,
    ve.Event,
    ve.Load,
    ve.Problem,
    ve.Sum,
    ve.Explanation,
    ve.Verdict,
    ve.Process,
    ve.Facility,
    ve.Change,
    ve.Step,
    ve.Template,
    ve.Pool,
    ve.Lease,
)
PROPERTIES = ("veid", "name", "status", "pid", "config", "template", "ephemeral", "log_path")


@pytest.mark.parametrize("of", CLASSES, ids=lambda of: of.__name__)
def test_public_methods(of: type) -> None:
    own = [name for name in vars(of) if not name.startswith("_")]
    of_subprocess = ("poll", "wait") if of is ve.Popen else ()
    assert [name for name in own if not re.search(rf"`{name}\b", LIBRARY) and name not in of_subprocess] == []


@pytest.mark.parametrize("of", RECORDS, ids=lambda of: of.__name__)
def test_records(of: Any) -> None:
    names = getattr(of, "_fields", None) or [each.name for each in fields(of)]
    assert [name for name in names if f"`{name}`" not in LIBRARY] == []


def test_properties() -> None:
    assert all(re.search(rf"^\|.*`{name}`", LIBRARY, re.MULTILINE) for name in PROPERTIES)
    assert all(hasattr(ve.Environment, name) for name in PROPERTIES if name != "veid")


TABLES = (ve.Host, ve.Templates, ve.Networks, ve.Environment, ve.Snapshot)


@pytest.mark.parametrize("of", TABLES, ids=lambda of: of.__name__)
def test_arguments(of: type) -> None:
    """Where a table shows a signature, each argument of it exists, and none of the method's is left out."""
    table = LIBRARY.partition(f"\n## {of.__name__}\n")[2].partition("\n## ")[0]
    shown = re.findall(r"`(\w+)\(([^`]*)\)`", "\n".join(re.findall(r"^\| (`\w+\(.*?) \|", table, re.MULTILINE)))
    assert shown
    for name, text in shown:
        arguments = [word.partition("=")[0] for word in text.split(", ") if word not in ("", "*", "...")]
        known = [word for word in inspect.signature(getattr(of, name)).parameters if word != "self"]
        assert "..." in text or arguments == known, name


def test_the_tree_of_exceptions() -> None:
    tree = LIBRARY[LIBRARY.index("## Exceptions") : LIBRARY.index("## Examples")]
    shown = set(re.findall(r"[├└]── (\w+)", tree)) | {"Error"}
    assert shown == {
        name for name, each in vars(errors).items() if inspect.isclass(each) and each.__module__ == "ve.errors"
    }


@pytest.mark.parametrize("name", ["README.md", "library.md"])
def test_programs_are_typed(name: str, tmp_path: Path) -> None:
    """mypy --strict passes on a program that uses the library."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", DOCUMENTS[name], re.MULTILINE | re.DOTALL))
    program = tmp_path / "program.py"
    program.write_text(code)
    command = [sys.executable, "-m", "mypy", "--strict", str(program)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


# ---- all documents --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_lines_are_not_too_long(name: str) -> None:
    table = "|" if name == "speed.md" else "\0"  # made by make bench, whose numbers are as long as they come out
    assert [line for line in DOCUMENTS[name].splitlines() if len(line) > 120 and not line.startswith(table)] == []


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]*)\)", path.read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        text = (path.parent / file).read_text() if file else path.read_text()
        headings = [
            re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in re.findall(r"^#+ (.*)", text, re.M)
        ]
        assert not anchor or anchor in headings, target


def test_the_readme_has_the_test_command() -> None:
    assert "make test" in README and "make demo" in README
