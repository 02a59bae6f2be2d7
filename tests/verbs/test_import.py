"""Importing ve is cheap, and a program that uses it is typed: fresh interpreters and mypy are the witnesses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.verbs.conftest import Make

pytestmark = pytest.mark.any_kernel

ROOT = Path(__file__).resolve().parent.parent.parent
DEAR = {"typer", "rich", "click", "pyroute2", "cgroupspy", "json", "asyncio", "email", "urllib", "logging"}
SAMPLE = '''
"""Every call of the library, with the types that it promises."""

import subprocess
from collections.abc import Iterator

import ve

host: ve.Host = ve.Host("/var/lib/ve")
template: ve.Template = host.templates.build("busybox")
templates: list[ve.Template] = host.templates.list()
env: ve.Environment = host.create(
    101, template=template.ref, name="web", env={"A": "b"}, mounts=["/srv:/srv:ro", ve.Mount("/a", "/b")], devices=()
)
again: ve.Environment = host.get("web")
all_of_them: list[ve.Environment] = host.list()
processes: list[ve.Process] = host.ps()
facilities: list[ve.Facility] = host.check()
steps: list[ve.Step] = env.plan()
settings: ve.Config = env.config
running: bool = env.status is ve.Status.RUNNING
pid: int | None = env.pid
env.start()
kind: type[ve.Error] = ve.errors.NotRunning
done: "subprocess.CompletedProcess[str]" = env.run(["id"], capture_output=True, text=True, check=True, timeout=5)
with env.popen(["cat"], stdin=subprocess.PIPE, user="nobody", cwd="/tmp", env={"A": "b"}) as process:
    popen: ve.Popen = process
    code: int | None = process.poll()
exit_code: int = env.call(["true"])


async def from_a_loop() -> None:
    done = await env.arun(["id"], capture_output=True, text=True, check=True, timeout=5, user="nobody")
    by: str | None = done.stopped_by
    async with await env.apopen(["cat"], stdin=subprocess.PIPE) as process:
        started: ve.AsyncPopen = process
        code: int = await process.wait()
    async with host.aephemeral("busybox", hostname="red") as thrown_away:
        ephemeral: ve.Ephemeral = thrown_away


changes: list[ve.Change] = env.diff()
log: Iterator[bytes] = env.log_chunks(follow=True)
path: str = env.mount()
env.copy_in("a", "/b")
env.copy_out("/b", "a", archive=True)
text: str = (env.path("/etc") / ve.Path(env, "hosts")).read_text()
env.set_password("root", "secret")
env.add_ssh_key("ssh-ed25519 AAAA")
waiting: list[str] = env.set(hostname="blue", save=True)
foreground: ve.Foreground = env.start_foreground()
foreground.attach()
end: str = foreground.wait()
orderly: bool = env.stop(timeout=10)
env.destroy()
try:
    with host.ephemeral("busybox", command=["sleep", "1"]) as thrown_away:
        ephemeral: ve.Ephemeral = thrown_away
except ve.Error as error:
    hint: str = error.hint
'''
WRONG = {
    'host.create("101", template="busybox")': "arg-type",
    'host.create(101)': "call-arg",
    'host.create(101, template="busybox", memori=1)': "call-arg",
    "env.stop(timeout='soon')": "arg-type",
    "env.pid + 1": "operator",
    "env.no_such_verb()": "attr-defined",
}  # fmt: skip


# What command lines must not import, as each module of this costs a cold `ve` some tenths of a millisecond: a package
# stands for all that is in it.
NEVER = {"typer", "rich", "click", "textual", "pyroute2", "asyncio", "email", "urllib", "logging", "argparse", "shlex"}
NO_NETWORK = {
    *("ipaddress", "ve.addresses", "ve.bridgeports", "ve.claims", "ve.firewall", "ve.granting", "ve.interfaces"),
    *("ve.leases", "ve.leasing", "ve.nftables", "ve.pool", "ve.poolhosts", "ve.publishing", "ve.ruleset", "ve.venet"),
}
NO_START = {"tempfile", "prctl", "ve.ids", "ve.init", "ve.launch", "ve.making", "ve.order", "ve.setup"}
LOOKS = NO_NETWORK | NO_START | {"subprocess", "ve.ending", "ve.process", "ve.show"}
LINES = {
    "start {}": NO_NETWORK | {"secrets", "hashlib", "tempfile", "ve.archive", "ve.check", "ve.making", "ve.process"},
    "exec {} true": NO_NETWORK | NO_START | {"tomllib", "ve.config", "ve.ending", "ve.ledger", "ve.limits", "ve.model"},
    "list": LOOKS | {"socket", "ctypes", "ve.ledger", "ve.account"},
    "ubc": LOOKS,
    "stop {}": NO_NETWORK | NO_START | {"tomllib", "subprocess", "ve.config", "ve.model", "ve.process", "ve.quota"},
    "run busybox -- true": NO_NETWORK - {"ve.claims"} | {"secrets", "hashlib", "tempfile", "ve.archive", "ve.check"},
}
COMMAND = """
import sys
from ve import _main
code = _main.main(sys.argv[1:])
with open("/dev/stderr", "w") as stderr:
    print(code, *sys.modules, file=stderr)
"""


def modules_after(program: str) -> set[str]:
    """What a fresh interpreter has imported after a program, but not before it."""
    script = f"import sys; before = set(sys.modules)\n{program}\nprint(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def mypy(directory: Path, program: str) -> "subprocess.CompletedProcess[str]":
    (directory / "program.py").write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(directory / "cache")]
    return subprocess.run(
        [*command, "--python-executable", sys.executable, "program.py"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


def test_import_brings_in_nothing_but_itself() -> None:
    assert modules_after("import ve") == {"ve"}


def test_the_host_brings_in_nothing_dear(tmp_path: Path) -> None:
    """Neither does making one, nor asking it for what there is."""
    names = modules_after(f"import ve; host = ve.Host({str(tmp_path)!r}); host.list(); host.templates.list()")
    assert "ve.host" in names
    assert {name.partition(".")[0] for name in names} & DEAR - {"cgroupspy"} == set()
    assert "ve.check" not in names and "ve.probes" not in names


@pytest.mark.parametrize("name", ["Error", "Status", "Config", "Mount"])
def test_a_name_brings_in_its_own_room(name: str) -> None:
    names = {each for each in modules_after(f"import ve; ve.{name}") if each.startswith("ve.")}
    checks = {"ve.rights", "ve.amounts", "ve.beancounter", "ve.limits", "ve.triggers"}  # what a Config is checked by
    checks |= {"ve.addresses", "ve.ports", "ve.rates", "ve.resolver", "ve.shapes", "ve.veid"}
    assert names <= {"ve.errors", "ve.model"} | checks


def test_the_names_are_all_there() -> None:
    script = "import ve, json; print(json.dumps([[n, getattr(ve, n).__name__] for n in ve.__all__])); print(dir(ve))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    pairs, listed = done.stdout.splitlines()
    assert all(name == its_own.removeprefix("ve.") for name, its_own in json.loads(pairs))
    assert all(repr(name) in listed for name, _ in json.loads(pairs))
    done = subprocess.run([sys.executable, "-c", "import ve; ve.no_such"], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "AttributeError: module 've' has no attribute 'no_such'"


def test_what_the_far_sides_import() -> None:
    """Each import is paid at each start and each command."""
    for room in ("enter", "init", "inside"):
        names = {name.partition(".")[0] for name in modules_after(f"import ve.{room}")}
        assert names & (DEAR | {"dataclasses", "typing", "pathlib", "tomllib", "threading"}) == set(), room


def test_what_the_hot_verbs_do_not_import(make: Make, host_dir: Path) -> None:
    """In this order, so that each has a VE to work on."""
    env = make()
    env.start()  # the first start compiles the filter of system calls
    env.stop(fast=True)
    for line, without in LINES.items():
        command = [sys.executable, "-c", COMMAND, "--state-dir", str(host_dir), *line.format(env.veid).split()]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        code, *names = done.stderr.splitlines()[-1].split()
        unwanted = {name for name in names if {name, name.partition(".")[0]} & (NEVER | without)}
        assert (code, unwanted) == ("0", set()), line


def test_no_warning_and_no_assertion_is_needed() -> None:
    for options in (["-W", "error"], ["-O"], ["-OO"], ["-X", "dev", "-W", "error"]):
        done = subprocess.run(
            [sys.executable, *options, "-c", "import ve; ve.Host('/no/such').templates; ve.Popen; ve.Foreground"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_a_program_that_uses_it_is_typed(tmp_path: Path) -> None:
    done = mypy(tmp_path, SAMPLE)
    assert done.returncode == 0, done.stdout


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    """So the types are more than Any."""
    begin = "import ve\nhost = ve.Host()\nenv = host.get(101)\n"
    done = mypy(tmp_path, begin + "\n".join(WRONG) + "\n")
    found = {
        int(line.split(":")[1]) - 4: line.rpartition("[")[2].rstrip("]")
        for line in done.stdout.splitlines()
        if "error:" in line
    }
    assert found == dict(enumerate(WRONG.values())), done.stdout


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "ve" / "py.typed").exists()


def test_the_errors_come_with_the_package() -> None:
    program = "import sys, ve; print('ve.errors' in sys.modules, ve.errors.NotFound.exit_code, 'errors' in dir(ve))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False 43 True\n", "")
