"""Command lines of real verbs and options with odd words, where there is no VE; and state dirs whose files are broken.

An exit code of the table, a sentence and perhaps a hint, each in a line: no traceback, and no bug to report.
"""

import contextlib
import io
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

import cli
import ve
from tests.fuzz.mutations import TEXT, bounded, mutated, words
from tests.fuzz.test_own_files import FACTS, ROWS, VEID
from ve import _app, archive, errors
from ve.distributions import BUILDERS
from ve.facts import dump_facts, process_start_time
from ve.networks import Networks
from ve.state import State

pytestmark = pytest.mark.any_kernel

# What never ends, or writes to a file that it is told, or asks a terminal.
WITHHELD = {"--watch", "-w", "--follow", "-f", "--compat", "--state-dir", "--help", "-h"}
SAMPLES = (
    *("101", "red", "busybox", "busybox:1", "101:/etc/passwd", "/none", "10.9.0.5/24", "auto", "512M:1G", "8080:80"),
    *("A=b", "net_admin:on", "numproc:freeze", "veid,name", "bridge:br0", "0.5", "@/none", "root:secret", "--", ""),
)


def verbs() -> dict[str, list[str]]:
    """Each, with its options."""
    groups: dict[str, Any] = {"": typer.main.get_command(cli.app)}
    found = {}
    for name, command in groups[""].commands.items():
        below = command.commands if name in _app.groups else {"": command}
        for second, each in below.items():
            options = [option for param in each.params for option in (*param.opts, *param.secondary_opts)]
            found[f"{name} {second}".strip()] = [o for o in options if o.startswith("-") and o not in WITHHELD]
    return found


VERBS = verbs()


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    verb = draw(st.sampled_from([*VERBS]))
    word = words(*SAMPLES).map(lambda text: text.replace("\0", "")).filter(lambda text: text not in WITHHELD)
    options = st.sampled_from(VERBS[verb] or ["--"])
    rest = draw(st.lists(word | options | st.sampled_from(SAMPLES), max_size=6))
    return [*draw(st.lists(st.sampled_from(["-q", "help", "--version"]), max_size=1)), *verb.split(), *rest]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state dir where what would reach beyond it does nothing."""

    def refuse(*_: object, **__: object) -> Any:
        raise errors.BadArchive("cannot do that here")

    monkeypatch.setenv("VE_NETWORK_DIR", str(tmp_path / "network"))
    monkeypatch.setenv("VE_ID_DIR", str(tmp_path / "id"))
    monkeypatch.delenv("VE_DEBUG", raising=False)
    monkeypatch.setattr(archive, "fill", refuse)
    monkeypatch.setattr(Networks, "add", refuse)
    for name in BUILDERS:
        monkeypatch.setitem(BUILDERS, name, refuse)
    for name in ("check", "selftest"):
        monkeypatch.setattr(ve.Host, name, refuse)
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@contextlib.contextmanager
def printed() -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    """What is written to stdout and stderr, which are as they are for everybody: one strict, the other not."""
    out, err = io.BytesIO(), io.BytesIO()
    with (
        io.TextIOWrapper(out, "utf-8", write_through=True) as stdout,
        io.TextIOWrapper(err, "utf-8", errors="backslashreplace", write_through=True) as stderr,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        yield out, err


def run(place: Path, *line: str) -> tuple[int, str]:
    with printed() as (_, err):
        code = cli.main(["--state-dir", str(place), *line])
        said = err.getvalue().decode()
    assert code in errors.EXIT_CODES, said
    assert "Traceback" not in said and "this is a bug" not in said, said
    if code and not said.startswith("Usage: ") and not {"plan", "doctor"} & {*line}:  # which find faults by their code
        assert re.fullmatch(r"(ve: [^\n]+\n(hint: [^\n]+\n)?)+", said), said
    return code, said


def test_any_line_is_done_or_refused_in_a_sentence(place: Path) -> None:
    @bounded(60)
    @given(lines())
    def tried(line: list[str]) -> None:
        run(place, *line)

    tried()
    assert not [*place.glob("conf/*"), *place.glob("private/*"), *place.glob("template/*/*")]


def test_any_words_at_all(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VE_STATE_DIR", str(place))

    @bounded(30)
    @given(st.lists(TEXT.map(lambda text: text.replace("\0", "")), max_size=4))
    def tried(line: list[str]) -> None:
        with printed():
            assert cli.main(line) in errors.EXIT_CODES

    tried()


LOOKS = (
    *("list", "list --json", "list -o veid,numproc,sent", f"status {VEID}", "status red", "ubc", "ps", "top", "events"),
    *(
        "doctor",
        "plan --check",
        "explain red mount",
        "template list",
        "network list",
        "network show web",
        "logs red",
    ),
)


@pytest.mark.parametrize("file", ["conf", "pool", "template", "ledger", "traffic", "facts"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_broken_file_is_told_by_whoever_looks(file: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a VE that seems to run, as cat does."""
    state = State(place)
    monkeypatch.setenv("VE_NETWORK_DIR", str(place / "network"))
    for name, row in ROWS.items():
        if name in ("conf", "pool", "template", "ledger", "traffic"):
            Path(row.path(state)).parent.mkdir(parents=True, exist_ok=True)
            Path(row.path(state)).write_bytes(row.samples[0])
    (place / "template/busybox").symlink_to("a")
    (place / "template/a/1").mkdir()
    (place / "name").mkdir()
    (place / "name/red").symlink_to(str(VEID))
    Path(state.make_dir(state.run_dir))
    cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    pid = cat.pid
    lives = dump_facts(FACTS._replace(pid=pid, start_time=process_start_time(pid) or 0))
    path = Path(ROWS[file].path(state))
    samples = (lives,) if file == "facts" else ROWS[file].samples

    @bounded(20)
    @given(mutated(samples), st.sampled_from(LOOKS))
    def tried(data: bytes, line: str) -> None:
        path.write_bytes(data)
        run(place, *line.split())

    with cat:
        tried()
