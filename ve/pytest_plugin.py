"""The pytest plugin `ve`: running VEs for tests, gone with them; docs/testing.md is its manual.

    ve           a fresh one for the test
    ve_factory   as many as the test asks for: ve_factory("debian", memory="256M")
    ve_session   one for all tests, of this worker or of all
    ve_host      the Host that they are on, for fixtures of other scopes
    ve_options   to be overridden: what each is given
    ve_prepare   to be overridden: what is done once, in a VE that all others begin as

How they are made and ended is in ve/pytest_run.py, which nobody imports before a test asks for one.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from ve.environment import Environment
    from ve.host import Host
    from ve.pytest_run import Factory, Prepare, Run

_MARKER = """ve(template, command=..., ready=..., **options): what the VEs of a test are given, as by \
ve.Host.ephemeral(), and what they are waited for; the closest marker to the test comes first"""
_SESSIONS = ("worker", "shared")
_RUN = pytest.StashKey["Run"]()
_LEADER = pytest.StashKey[int]()  # the process that gives this one its tests, which may be itself
_USED = pytest.StashKey["list[list[Environment]]"]()  # by a test


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ve", "Virtual Environments (docs/testing.md)")
    add = group.addoption
    add("--ve-state-dir", metavar="DIR", help="where templates and VEs are; also ve_state_dir in the ini file")
    add("--ve-template", metavar="NAME", help="what VEs are made from if nobody says otherwise; also ve_template")
    add("--ve-keep-failed", action="store_true", help="let the VEs of a failed test stay, and say how to enter them")
    add(
        "--ve-session",
        choices=_SESSIONS,
        help="who has one ve_session: each worker, or all; also ve_session",
    )
    add("--ve-required", action="store_true", help="where no VE can run, fail tests that need one; also ve_required")
    parser.addini("ve_state_dir", "as --ve-state-dir", default="")
    parser.addini("ve_template", "as --ve-template", default="")
    parser.addini("ve_session", "as --ve-session", default=_SESSIONS[0])
    parser.addini("ve_required", "as --ve-required", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
    if (session := _said(config, "session")) not in _SESSIONS:
        raise pytest.UsageError(f"ve_session is {session!r}, and can be {' or '.join(_SESSIONS)}")
    config.stash[_LEADER] = os.getppid() if _is_worker(config) else os.getpid()  # now: later it may have been killed


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """When all fixtures are done, and before pytest-xdist hears that this worker is: then it waits for it no longer."""
    if _RUN in session.config.stash:
        session.config.stash[_RUN].close()


def pytest_unconfigure(config: pytest.Config) -> None:
    if _RUN in config.stash:
        from ve.interpreter import end_launcher

        end_launcher()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what is true of a failed test's VEs now: they end only with its teardown."""
    report = yield
    used = item.stash.get(_USED, [])
    if "ve_session" in _fixtures(item):  # itself, or for another fixture
        used = [*used, *item.session.stash.get(_USED, [])]
    if report.failed and report.when != "teardown":
        from ve import pytest_report

        for environment in (each for some in used for each in some):
            report.sections.append((pytest_report.title(environment), pytest_report.text(environment)))
            if item.config.getoption("--ve-keep-failed"):
                report.sections.append(("kept", _keep(item, environment)))
    return report


def _fixtures(item: pytest.Item) -> Sequence[str]:
    """All that the test has, those by request.getfixturevalue() too.

    Only its request knows them, which has no public name outside of fixtures; item.fixturenames has those of arguments.
    """
    names: Sequence[str] = getattr(getattr(item, "_request", None), "fixturenames", ())
    return names


# --- fixtures -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def ve_options() -> dict[str, Any]:
    """What each VE is given, as by ve.Host.ephemeral(); to be overridden by a fixture of this name and scope."""
    return {}


@pytest.fixture(scope="session")
def ve_prepare() -> Prepare | None:
    """A function that prepares a VE, once for all; to be overridden.  None: each begins as its template is."""
    return None


@pytest.fixture(scope="session")
def ve_host(pytestconfig: pytest.Config, ve_options: dict[str, Any]) -> Host:
    """The ve.Host that the VEs of tests are on."""
    run = _run(pytestconfig)
    _require(pytestconfig, run, run.template(ve_options))
    return run.host


@pytest.fixture
def ve_factory(
    request: pytest.FixtureRequest, ve_options: dict[str, Any], ve_prepare: Prepare | None
) -> Iterator[Factory]:
    """Makes running VEs with what the test's markers say and what it is called with; all end with the test."""
    with _told(request.node.nodeid):
        given = _checked(ve_options, "ve_options")
        marked = _marked(request.node)
    with _made(request, given, marked, ve_prepare) as factory:
        yield factory


@pytest.fixture
def ve(request: pytest.FixtureRequest, ve_factory: Factory) -> Environment:
    """A fresh running VE, which ends with the test."""
    with _told(request.node.nodeid):
        return ve_factory()


@pytest.fixture(scope="session")
def ve_session(
    request: pytest.FixtureRequest, ve_options: dict[str, Any], ve_prepare: Prepare | None
) -> Iterator[Environment]:
    """A running VE for all tests of this worker, or with --ve-session=shared of all."""
    with _told("ve_session"):
        given = _checked(ve_options, "ve_options")
    with _made(request, given, {}, ve_prepare) as factory, _told("ve_session"):
        if _said(request.config, "session") == "shared":
            factory.made.append(_run(request.config).shared_session(factory.making))
        else:
            factory()
        yield factory.made[0]


@contextlib.contextmanager
def _made(
    request: pytest.FixtureRequest, given: dict[str, Any], marked: dict[str, Any], prepare: Prepare | None
) -> Iterator[Factory]:
    from ve.pytest_run import Factory, together

    run = _run(request.config)
    with _told(request.node.nodeid):
        _require(request.config, run, run.template(together(given, marked)))
    factory = Factory(run, given, marked, prepare)
    request.node.stash.setdefault(_USED, []).append(factory.made)
    try:
        yield factory
    finally:
        factory.close()


# --- what they need -------------------------------------------------------------------------------------------------


def _run(config: pytest.Config) -> Run:
    """What this process has, made when the first test asks for a VE."""
    if _RUN not in config.stash:
        from ve.pytest_run import BUILT, Run

        state_dir = _said(config, "state_dir") or os.environ.get("VE_STATE_DIR")
        state_dir = state_dir or os.path.join(tempfile.gettempdir(), "ve-pytest")
        if _is_worker(config):
            _end_with(config.stash[_LEADER])
        config.stash[_RUN] = Run(
            os.path.abspath(state_dir),
            _said(config, "template") or BUILT,
            leader=config.stash[_LEADER],
            keep=config.getoption("--ve-keep-failed"),
        )
    return config.stash[_RUN]


def _is_worker(config: pytest.Config) -> bool:
    """Of pytest-xdist, as its documents tell that."""
    return hasattr(config, "workerinput")


def _said(config: pytest.Config, name: str) -> Any:
    """On the command line, or else in the ini file."""
    return config.getoption(f"--ve-{name.replace('_', '-')}") or config.getini(f"ve_{name}")


def _require(config: pytest.Config, run: Run, template: str) -> None:
    """Skip the test where no VE can run, or fail it."""
    if why := run.refusal(template):
        if _said(config, "required"):
            pytest.fail(why, pytrace=False)
        pytest.skip(why)


def _marked(item: pytest.Item) -> dict[str, Any]:
    """What the markers of a test say, the closest one first."""
    found: dict[str, Any] = {}
    for marker in item.iter_markers("ve"):
        given = {**dict(zip(("template",), marker.args, strict=False)), **marker.kwargs}
        if len(marker.args) > 1:
            _refuse(f"it takes one argument without a name, the template, not {len(marker.args)}")
        found = _checked(given, "@pytest.mark.ve") | found
    return found


def _refuse(why: str) -> None:
    from ve.errors import InvalidValue

    raise InvalidValue(f"cannot use @pytest.mark.ve: {why}", "@pytest.mark.ve('debian', memory='256M')")


def _checked(given: dict[str, Any], where: str) -> dict[str, Any]:
    from ve.pytest_run import checked

    return checked(given, where)


@contextlib.contextmanager
def _told(test: str) -> Iterator[None]:
    """Say an error of ours in a few lines, with the test that it is of, instead of a traceback through the library."""
    from ve.errors import Error

    try:
        yield
    except Error as error:
        hint = [f"hint: {error.hint}"] if error.hint else []
        lines = dict.fromkeys([f"{test}: {error}", *hint, *getattr(error, "__notes__", ())])  # each once
        raise pytest.fail.Exception("\n".join(lines), pytrace=False) from None


def _keep(item: pytest.Item, environment: Environment) -> str:
    """How to enter and remove it; or why it is not kept."""
    from ve.errors import Error

    try:
        if not _run(item.config).keep(environment, item.nodeid):
            return f"VE {environment.veid} is not kept: it was given a command, and ends with pytest"
    except (Error, OSError) as error:  # the test has destroyed it, or somebody has it locked
        return f"VE {environment.veid} is not kept: {error}"
    ve = f"ve --state-dir {environment.state.path}"
    return f"{ve} enter {environment.veid}\n{ve} stop --fast {environment.veid}\n{ve} destroy {environment.veid}"


def _end_with(pid: int) -> None:
    """A worker of pytest-xdist notices late that the one that gives it tests was killed, and its VEs live for it."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGKILL)
    if os.getppid() != pid:  # it has ended, and the number may be another's
        os.kill(os.getpid(), signal.SIGKILL)

    def wait() -> None:
        select.select([pidfd], [], [])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="ve: end with pytest", daemon=True).start()
