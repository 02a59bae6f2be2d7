"""The house, held: who may import whom, where each third party lives, how big a room may grow."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

# Lowest level first; each line is one mechanism.  A module may import what is on the levels below its own, and what
# stands left of it on its own line: a mechanism may have several rooms, and never knows another of its level.
LEVELS = (
    (
        "ve._linux ve._linux.syscalls ve._linux.visits ve._linux.quotas ve._linux.loops ve._linux.subvolumes",
        "ve._linux.libcrypt",
        "ve._linux.ioctls",
    ),
    (
        "ve.errors ve.veid ve.wholefile ve.tomlfile ve.rights ve.amounts ve.beancounter ve.limits ve.triggers "
        "ve.addresses ve.shapes ve.resolver ve.ports ve.rates ve.model",
        "ve.mountinfo",
        "ve.procfs",
        "ve.beneath",
        "ve.caller",
        "ve.descriptors ve.program",
        "ve.polling",
    ),
    (
        "ve.namespaces",
        "ve.hostunit ve.cgrouproot ve.cgroups ve.enforce ve.blockdevice ve.load ve.watch",
        "ve.btrfs ve.quota",
        "ve.looparea",
        "ve.oom",
        "ve.compat",
        "ve.removal",
        "ve.unionfs ve.diff",
        "ve.mounts",
        "ve.ownfiles",
        "ve.loopback",
        "ve.farside ve.privileges ve.launcher ve.interpreter",
        "ve.seccomp",
        "ve.devices",
        "ve.confinement",
        "ve.rlimits",
        "ve.errand ve.netns ve.linknames ve.netlink ve.rtnetlink ve.venet ve.leases ve.forwarding ve.wire "
        "ve.interfaces ve.bandwidth ve.nftables ve.parting ve.ruleset ve.spoofing ve.netfilter ve.otherfirewalls "
        "ve.sockets ve.ptys ve.sharedmemory ve.sample",
        "ve.terminal",
        "ve.passwd",
        "ve.patience",
        "ve.log",
        "ve.config",
        "ve.consistency ve.hardware ve.plan",
        "ve.presets",
        "ve.facts ve.lock ve.state ve.ids ve.netdir ve.pool ve.claims ve.poolhosts",
        "ve.tree ve.accounts",
        "ve.staging ve.rootfs ve.archive ve.distributions ve.template",
    ),
    (
        "ve.engine ve.facilities ve.ground ve.substitute ve.probes ve.check ve.statedir",
        "ve.firewall ve.publishing ve.bridgeports",
    ),
    (
        "ve.steps ve.actions ve.outfit ve.insidefile ve.protections ve.nested ve.names ve.init ve.setup ve.order "
        "ve.addressed ve.leading ve.leasing ve.granting ve.network ve.attachment ve.launch",
        "ve.usage ve.command ve.enter ve.trials ve.execgroup ve.request ve.outcome ve.process ve.calling ve.aio",
        "ve.stall ve.insidepath ve.inside ve.files ve.path",
        "ve.stopped",
        "ve.show",
        "ve.ps",
        "ve.shutdown",
    ),
    (
        "ve.journal ve.ledger ve.traffic ve.layers ve.ending ve.instance ve.describe ve.options ve.settings ve.places "
        "ve.answers ve.explain ve.victim ve.selftest ve.account ve.react ve.events ve.foreground ve.doctor ve.networks "
        "ve.connection ve.commands ve.contents ve.ready ve.making ve.snapshot ve.environment ve.ephemeral ve.host",
    ),
    ("ve", "ve.pytest_shared ve.pytest_report ve.pytest_run ve.pytest_plugin", "ve.testinfra ve.testinfra_entry"),
    (
        "ve._examples ve._output ve._failures ve._session ve._ubc ve._verbs ve._completion ve._limit_options "
        "ve._network_options ve._options ve._app ve._top ve._plan ve._template ve._network ve._snapshot cli ve._main",
    ),
)
# name -> (level, line, place on the line)
PLACES = {
    name: (level, line, place)
    for level, lines in enumerate(LEVELS)
    for line, names in enumerate(lines)
    for place, name in enumerate(names.split())
}
HOMES = {
    "ctypes": {"ve._linux.syscalls", "ve._linux.visits", "ve._linux.libcrypt"},
    "cgroupspy": {"ve.beancounter", "ve.cgroups"},
    "prctl": {"ve.privileges"},
    "pyseccomp": {"ve.seccomp"},
    "pyroute2": {"ve.rtnetlink"},
    "tomli_w": {"ve.config", "ve.pool", "ve.template"},
    "typer": {"ve._app", "ve._limit_options", "ve._network_options", "ve._completion", "ve._options", "ve._failures"},
    "rich": {"ve._output", "ve._top"},
    "textual": {"ve._top"},
    "pytest": {"ve.pytest_plugin"},
    "testinfra": {"ve.testinfra"},
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (*sorted((ROOT / "ve").rglob("*.py")), ROOT / "cli.py")
    if not path.is_symlink()  # ve/_cli.py is cli.py once more
}
MODULE_LINES, FUNCTION_LINES = 400, 40
UNWANTED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}


def imports(path: Path) -> Iterator[str]:
    """Every name that is imported in path, at its top or in a function; not what only a type checker reads."""
    tree = ast.parse(path.read_text())
    unread = {inner for node in ast.walk(tree) if _is_type_checking(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if node in unread:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: absolute imports only"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)


def _is_type_checking(node: ast.AST) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Constant) and test.value is False
    )


def may_import(name: str, target: str) -> bool:
    level, line, place = PLACES[name]
    target_level, target_line, target_place = PLACES[target]
    return target_level < level or (target_level == level and target_line == line and target_place < place)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_place_and_imports_only_downwards(name: str) -> None:
    assert name in PLACES, f"{name} has no place in the house: give it one in LEVELS"
    upwards = [target for target in imports(MODULES[name]) if target in PLACES and not may_import(name, target)]
    assert not upwards, f"{name} must not import {upwards}"


def test_every_place_is_taken() -> None:
    assert set(PLACES) == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_third_parties_stay_in_their_rooms(name: str) -> None:
    for target in imports(MODULES[name]):
        top = target.partition(".")[0]
        if top not in ("ve", *sys.stdlib_module_names) or top in HOMES:
            assert name in HOMES.get(top, set()), f"{name} must not import {target}"


@pytest.mark.parametrize("name", MODULES)
def test_rooms_are_small_and_named_for_what_they_do(name: str) -> None:
    assert name.rpartition(".")[2] not in UNWANTED_NAMES
    text = MODULES[name].read_text()
    lines = len(text.splitlines())
    assert lines <= MODULE_LINES, f"{name} has {lines} lines: it is two rooms"
    functions = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    long = {f"{each.name}: {size(each)}" for each in functions if size(each) > FUNCTION_LINES}
    assert not long, f"{name} has functions of more than {FUNCTION_LINES} lines: {long}"


def size(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from def to the end, less the docstring: words are welcome."""
    docstring = function.body[0] if ast.get_docstring(function) else None
    words = docstring.end_lineno - docstring.lineno + 1 if docstring and docstring.end_lineno else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - words


def test_only_the_command_line_prints_or_exits() -> None:
    level_of_the_command_line = len(LEVELS) - 1
    for name, path in MODULES.items():
        if name in PLACES and PLACES[name][0] < level_of_the_command_line:
            calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            spoken = {ast.unparse(call) for call in calls} & {"print", "exit", "sys.exit", "input"}
            assert not spoken, f"{name} calls {spoken}"


def test_importing_ve_brings_in_no_third_party() -> None:
    program = "import sys, ve; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & (set(HOMES) - {"ctypes"})


def test_no_file_knows_this_machine() -> None:
    """Neither where the project lies here, nor where this machine gets its packages from."""
    tracked = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    own = {str(ROOT), sys.prefix, *package_hosts()}
    for name in filter(None, tracked.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            text = path.read_text(errors="replace")
            assert not (found := [each for each in own if each in text]), f"{name} has {found}"


def package_hosts() -> set[str]:
    """The names of the hosts in apt's configuration."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)"], capture_output=True, text=True, check=True
    )
    return {address.partition("://")[2].partition("/")[0].partition(":")[0] for address in done.stdout.split()} - {""}
