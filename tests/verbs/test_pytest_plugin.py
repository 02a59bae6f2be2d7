"""The pytest plugin: suites that use it, run by another pytest; what they leave is asked of the kernel and the disk.

VE_TEST_KILLS=50 kills as many of them at random moments, VE_TEST_SUITE=200 runs a suite of as many tests.
"""

import os
import random
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ve
from tests import lacking
from tests.hostnet import HostNet
from tests.verbs import commandline, witness

pytest_plugins = "pytester"
pytestmark = pytest.mark.any_kernel  # whose VEs are those of Host.ephemeral and Host.create

TESTING = Path(__file__).resolve().parent.parent.parent / "docs/testing.md"
KILLS = int(os.environ.get("VE_TEST_KILLS") or 4)
TESTS = int(os.environ.get("VE_TEST_SUITE") or 24)
SEED = int(os.environ.get("VE_TEST_SEED") or random.randrange(1 << 32))
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
ONE = "def test_it(ve):\n    ve.run(['true'], check=True)\n"
MANY = """
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_it(ve, ve_session, number):
    ve.run(["sh", "-c", "mkdir /new && touch /new/file"], check=True)
    ve_session.run(["sh", "-c", "echo $0 >> /seen", str(number)], check=True)
"""


PREPARED = """
import pathlib, pytest

@pytest.fixture(scope="session")
def ve_prepare():
    def prepare(env):
        with open({calls!r}, "a") as calls:
            calls.write("called\\n")
        env.run(["sh", "-c", "echo prepared > /state"], check=True)
    return prepare
"""


@pytest.fixture
def suite(pytester: pytest.Pytester, host: "ve.Host", host_dir: Path) -> Iterator[pytest.Pytester]:
    """A place for a suite, which uses the state dir of our session; after the test it is as it was before."""
    pytester.makeini(f"[pytest]\nve_state_dir = {host_dir}\n")
    for name in ("layer", "run/pytest"):
        (host_dir / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    host.create(9100, template="busybox").destroy()  # makes the directories that the first VE of a state dir makes
    with witness.nothing_changes(host_dir):
        yield pytester


@pytest.fixture
def calls(suite: pytest.Pytester) -> Path:
    """Where the suite's ve_prepare notes that it is called."""
    path = suite.path / "calls"
    suite.makeconftest(PREPARED.format(calls=str(path)))
    return path


def outcomes(result: pytest.RunResult) -> dict[str, int]:
    return result.parseoutcomes()


def veids(host_dir: Path) -> list[int]:
    return sorted(int(line) for line in commandline.output(host_dir, "list", "-H", "-o", "veid").split())


# --- one of its own -------------------------------------------------------------------------------------------------


def test_each_test_has_a_fresh_one(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest

        @pytest.mark.parametrize("number", (1, 2))
        def test_it(ve, number):
            assert ve.run(["id", "-u"], capture_output=True, text=True).stdout == "0\\n"
            ve.run(["mkdir", "/mark"], check=True)  # fails if there is one already
    """)
    assert outcomes(suite.runpytest_subprocess()) == {"passed": 2}


def test_many_for_one_test(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        def test_it(ve, ve_factory):
            one, two = ve_factory(hostname="one"), ve_factory(hostname="two", command=["sleep", "1000"])
            names = [each.run(["hostname"], capture_output=True, text=True).stdout.strip() for each in (one, two)]
            assert names == ["one", "two"] and len({ve.veid, one.veid, two.veid}) == 3
    """)
    assert outcomes(suite.runpytest_subprocess()) == {"passed": 1}


def test_the_closest_marker_comes_first(suite: pytest.Pytester) -> None:
    suite.makeconftest("""
        import pytest

        @pytest.fixture(scope="session")
        def ve_options():
            return {"hostname": "conftest", "env": {"WHO": "conftest"}}
    """)
    suite.makepyfile("""
        import pytest

        def seen(ve):
            return ve.run(["sh", "-c", "hostname; echo $WHO"], capture_output=True, text=True).stdout.split()

        def test_conftest(ve, ve_session):
            assert seen(ve) == seen(ve_session) == ["conftest", "conftest"]

        @pytest.mark.ve(hostname="class")
        class TestClass:
            def test_class(self, ve):
                assert seen(ve) == ["class", "conftest"]

            @pytest.mark.ve("busybox:1", env={"WHO": "test"}, command=["sleep", "1000"])
            def test_test(self, ve, ve_factory):
                assert seen(ve) == ["class", "test"]
                assert "sleep" in ve.run(["ps"], capture_output=True, text=True).stdout
                other = ve_factory(command=None, hostname=None, env={})
                assert "sleep" not in other.run(["ps"], capture_output=True, text=True).stdout
                assert seen(other) == [f"ve{other.veid}"]
    """)
    assert outcomes(suite.runpytest_subprocess("--strict-markers")) == {"passed": 3}


def test_a_fixture_of_another_scope(suite: pytest.Pytester, host_dir: Path) -> None:
    suite.makepyfile("""
        import pytest

        @pytest.fixture(scope="module")
        def box(ve_host):
            with ve_host.ephemeral("busybox") as env:
                yield env

        def test_one(box):
            box.run(["mkdir", "/mark"], check=True)

        def test_two(box):
            box.run(["rmdir", "/mark"], check=True)
    """)
    assert outcomes(suite.runpytest_subprocess()) == {"passed": 2}


def test_the_template_is_built_where_it_is_missing(pytester: pytest.Pytester, state_dir: Path) -> None:
    """By one of those that need it at once."""
    pytester.makepyfile(MANY.format(count=4))
    assert outcomes(pytester.runpytest_subprocess("--ve-state-dir", state_dir, "-n2")) == {"passed": 4}
    assert [path.name for path in (state_dir / "template/busybox").glob("*.toml")] == ["1.toml"]
    assert veids(state_dir) == []


def test_a_state_dir_that_others_could_write_to(pytester: pytest.Pytester, state_dir: Path) -> None:
    """As whoever comes first could make it, in a temporary directory."""
    pytester.makepyfile(ONE)
    state_dir.chmod(0o777)
    result = pytester.runpytest_subprocess("--ve-state-dir", state_dir)
    assert outcomes(result) == {"errors": 1}
    result.stdout.fnmatch_lines([f"*cannot use state dir {state_dir}: *nobody else can write to", "hint: *"])
    assert list(state_dir.iterdir()) == []


def test_what_the_document_shows(suite: pytest.Pytester) -> None:
    """Its test files pass, with its conftest.py."""
    tests, conftest, marker, prepare = re.findall(r"^```python\n(.*?)^```$", TESTING.read_text(), re.M | re.S)
    suite.makeconftest(conftest + prepare)
    suite.makepyfile(
        test_machines=tests,
        test_marker=marker,
        test_server="""
        def test_it(server, ve):
            assert ve.config.hostname == "box"
            assert ve.run(["cat", "/data/rows"], capture_output=True).stdout == b"one\\n"
            assert "httpd" in server.run(["ps"], capture_output=True, text=True).stdout
    """,
    )
    assert outcomes(suite.runpytest_subprocess("--strict-markers")) == {"passed": 5}


def test_the_document_has_each_option(pytester: pytest.Pytester) -> None:
    helped = pytester.runpytest_subprocess("--help", "--fixtures", "--markers").stdout.str()
    ours = {*re.findall(r"--ve-[a-z-]+", helped), *re.findall(r"^\s*(ve_[a-z_]+)", helped, re.M)}
    assert len(ours) >= 9 and {each for each in ours if f"`{each}" not in TESTING.read_text()} == set()


# --- prepared, and ready --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["-n0", "-n3"])
@pytest.mark.parametrize("session", ["worker", "shared"])
def test_one_is_prepared_for_all(suite: pytest.Pytester, calls: Path, workers: str, session: str) -> None:
    suite.makepyfile("""
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def test_it(ve, ve_factory, ve_session, number):
            for env in (ve, ve_factory(hostname="other"), ve_session):
                assert env.run(["cat", "/state"], capture_output=True).stdout == b"prepared\\n"
            ve.run(["sh", "-c", "rm /state && mkdir /mark"], check=True)
    """)
    assert outcomes(suite.runpytest_subprocess(workers, f"--ve-session={session}")) == {"passed": 6}
    assert calls.read_text() == "called\n"


def test_each_template_is_prepared(suite: pytest.Pytester, host: "ve.Host", calls: Path) -> None:
    """And what a marker says is of the VE that is made on it."""
    suite.makepyfile("""
        import pytest

        def test_one(ve):
            assert ve.run(["hostname"], capture_output=True).stdout != b"red\\n"

        @pytest.mark.ve("busybox:1", hostname="red")
        def test_other(ve, ve_factory):
            for env in (ve, ve_factory(command=["sleep", "1000"])):
                assert env.run(["hostname"], capture_output=True).stdout == b"red\\n"
                assert env.run(["test", "-e", "/state"]).returncode == 0
    """)
    assert outcomes(suite.runpytest_subprocess()) == {"passed": 2}
    assert calls.read_text() == "called\n" * 2


def test_each_conftest_has_its_own(suite: pytest.Pytester) -> None:
    """Without packages both are a module conftest, and below them is one function, given other values."""
    (suite.path / "common.py").write_text("def prepare(name, env):\n    env.run(['mkdir', f'/{name}'], check=True)\n")
    for name in ("a", "b", "c"):
        of_common = f"functools.partial(common.prepare, {name!r})"
        prepare = f"lambda env: env.run(['mkdir', '/{name}'], check=True)" if name == "a" else of_common
        conftest = "import common, functools, pytest\n@pytest.fixture(scope='session')\ndef ve_prepare():\n    return "
        (suite.path / name).mkdir()
        (suite.path / name / "conftest.py").write_text(conftest + prepare)
        seen = f"def test_it(ve):\n    assert [each for each in 'abc' if ve.path('/', each).is_dir()] == [{name!r}]\n"
        (suite.path / name / f"test_{name}.py").write_text(seen)
    (suite.path / "b/conftest.py").write_text((suite.path / "a/conftest.py").read_text().replace("/a", "/b"))
    assert outcomes(suite.runpytest_subprocess("-o", "pythonpath=.")) == {"passed": 3}


def test_who_prepares_fails(suite: pytest.Pytester) -> None:
    """Once, with what its VE said; whoever needs it is told."""
    suite.makeconftest("""
        import pytest

        @pytest.fixture(scope="session")
        def ve_prepare():
            def prepare(env):
                print("it is called")
                env.run(["sh", "-c", "echo before the end > /proc/1/fd/1; exit 3"], check=True)
            return prepare
    """)
    suite.makepyfile(ONE + "def test_two(ve_session):\n    pass\ndef test_three():\n    pass\n")
    result = suite.runpytest_subprocess()
    assert outcomes(result) == {"errors": 2, "passed": 1}
    assert result.outlines.count("it is called") == 1
    result.stdout.fnmatch_lines(
        ["*CalledProcessError*exit status 3*", "*as it was then: running, *", "*before the end"]
    )


@pytest.mark.usefixtures("remove_kept")
def test_a_kept_one_that_was_prepared(suite: pytest.Pytester, host_dir: Path, calls: Path) -> None:
    """It keeps what it was made on, too."""
    suite.makepyfile("def test_it(ve):\n    assert False\n")
    assert outcomes(suite.runpytest_subprocess("--ve-keep-failed")) == {"failed": 1}
    [veid] = veids(host_dir)
    assert commandline.output(host_dir, "exec", veid, "cat", "/state") == "prepared\n"
    commandline.output(host_dir, "restart", veid)
    assert commandline.output(host_dir, "exec", veid, "cat", "/state") == "prepared\n"
    commandline.output(host_dir, "stop", "--fast", veid)
    commandline.output(host_dir, "destroy", veid)


def test_it_is_waited_for(suite: pytest.Pytester) -> None:
    """Ready is what all of these say; what never comes is an error with the log."""
    suite.makepyfile("""
        import pytest

        @pytest.mark.ve(command=["sh", "-c", "touch /there; echo is up; sleep 1000"])
        @pytest.mark.ve(ready=["file:/there", "log:is up"])
        def test_ready(ve):
            assert ve.run(["test", "-e", "/there"]).returncode == 0

        @pytest.mark.ve(ready="file:/never", ready_timeout=0.1, command=["sh", "-c", "echo why not; sleep 1000"])
        def test_never(ve):
            pass

        @pytest.mark.ve(ready="port:80")
        def test_nonsense(ve):
            pass
    """)
    result = suite.runpytest_subprocess()
    assert outcomes(result) == {"passed": 1, "errors": 2}
    result.stdout.fnmatch_lines_random(
        ["*::test_never: cannot wait for *file:/never*", "*::test_nonsense: *there is no condition 'port'", "hint: *"]
    )
    result.stdout.fnmatch_lines(["log:", "why not"])


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_failure_shows_state_and_log(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest

        @pytest.mark.ve(command=["sh", "-c", "echo what it said; exec sleep 1000"])
        def test_it(ve, ve_session):
            ve_session.run(["sh", "-c", "echo and this one > /proc/1/fd/1"], check=True)
            assert False

        def test_well(ve):
            ve.run(["sh", "-c", "echo not shown > /proc/1/fd/1"], check=True)
    """)
    result = suite.runpytest_subprocess()
    assert outcomes(result) == {"failed": 1, "passed": 1}
    result.stdout.fnmatch_lines_random(
        ["* VE 2?????????*", "running, template busybox:1, in *", "process *, user 0: sleep 1000"]
    )
    lines = result.outlines
    assert lines.index("what it said") == lines.index("log:") + 1
    assert "and this one" in lines and "not shown" not in lines


def test_a_fixture_of_the_session_may_have_that_of_the_session(suite: pytest.Pytester) -> None:
    """And what is said of a failure is of each test that has such a fixture, and of no other."""
    suite.makepyfile("""
        import pytest

        @pytest.fixture(scope="session")
        def box(ve_session):
            ve_session.run(["sh", "-c", "mkdir /mark; echo what it said > /proc/1/fd/1"], check=True)
            return ve_session

        def test_other():
            assert False

        def test_one(box):
            box.run(["rmdir", "/mark"], check=True)

        def test_two(box):
            box.run(["rmdir", "/mark"], check=True)
    """)
    result = suite.runpytest_subprocess()
    assert outcomes(result) == {"failed": 2, "passed": 1}
    assert result.outlines.count("what it said") == 1


@pytest.mark.usefixtures("remove_kept")
def test_that_of_the_session_may_be_asked_for_by_name(suite: pytest.Pytester, host_dir: Path) -> None:
    """It is told of and kept as if it were an argument, for the test that asked and for no other."""
    suite.makepyfile("""
        def test_it(request):
            request.getfixturevalue("ve_session").run(["touch", "/evidence"], check=True)
            assert False

        def test_other(request):
            assert False
    """)
    result = suite.runpytest_subprocess("--ve-keep-failed")
    assert outcomes(result) == {"failed": 2}
    [veid] = veids(host_dir)
    assert sum(f" VE {veid} " in line for line in result.outlines) == 1
    assert [line for line in result.outlines if line.startswith("ve ") and " enter " in line] == [
        f"ve --state-dir {host_dir} enter {veid}"
    ]
    assert Path(f"/proc/{witness.init(host_dir, veid)}/root/evidence").exists()


def test_one_that_ended_meanwhile(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        def test_it(ve):
            ve.run(["sh", "-c", "echo last words > /proc/1/fd/1"], check=True)
            ve.stop(fast=True)
            assert False
    """)
    result = suite.runpytest_subprocess()
    result.stdout.fnmatch_lines(["stopped, template busybox:1, in *", "log:", "last words"])


def test_a_journal_that_does_not_end(suite: pytest.Pytester) -> None:
    """Keeps no report: the log is there, and what came of it in time."""
    suite.makepyfile("""
        def test_it(ve):
            script = "echo in the log > /proc/1/fd/1; echo 'echo in the journal; sleep 1000' > /bin/journalctl"
            ve.run(["sh", "-c", f"{script}; sed -i '1i #!/bin/sh' /bin/journalctl; chmod 755 /bin/journalctl"])
            assert False
    """)
    result = suite.runpytest_subprocess(timeout=100)
    assert outcomes(result) == {"failed": 1}
    result.stdout.fnmatch_lines(["log:", "in the log", "in the journal"])


@pytest.mark.parametrize(
    ("marker", "why", "hint"),
    [
        ("memori='1G'", "cannot use @pytest.mark.ve: there is no option memori", "did you mean memory?"),
        ("'busybox', 'debian'", "cannot use @pytest.mark.ve: it takes one argument *", "*"),
        ("'no-such'", "cannot find template no-such: *", "*template list*"),
        ("'Bad Name'", "cannot *Bad Name*", ""),
        ("hostname='not a name'", "cannot use hostname 'not a name'*", ""),
        ("command='sleep inf'", "cannot use command 'sleep inf': it is one string, not its words", "['sh', '-c', *"),
        ("ready=5", "cannot use @pytest.mark.ve: ready is 5, and neither a condition nor *", ""),
        ("ready=[5]", "cannot wait for 5: it is neither a condition nor *", ""),
        ("ready='boot', ready_timeout='5'", "cannot wait for *: '5' is no number of seconds", ""),
        ("env=5", "cannot use env 5: it is not a mapping, such as a dict", ""),
    ],
)
def test_a_marker_that_cannot_be_meant(suite: pytest.Pytester, marker: str, why: str, hint: str) -> None:
    suite.makepyfile(f"import pytest\n@pytest.mark.ve({marker})\n{ONE}\ndef test_well(ve):\n    pass\n")
    result = suite.runpytest_subprocess()
    assert outcomes(result) == {"errors": 1, "passed": 1}
    said = f"test_a_marker_that_cannot_be_meant.py::test_it: {why}"
    result.stdout.fnmatch_lines([said, *([f"hint: {hint}"] if hint else [])], consecutive=True)
    assert "Traceback" not in result.stdout.str() and "During handling" not in result.stdout.str()


def test_a_factory_that_is_asked_for_what_cannot_be(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test_it(ve_factory):\n    ve_factory()\n    ve_factory(memori='1G')\n")
    result = suite.runpytest_subprocess()
    assert outcomes(result) == {"failed": 1}
    result.stdout.fnmatch_lines(["*InvalidValue: cannot use ve_factory(): there is no option memori", "*did you mean*"])


# --- where there can be none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_no_ve_can_run(suite: pytest.Pytester, workers: str) -> None:
    """One reason for all, whoever says it."""
    suite.makepyfile(MANY.format(count=6) + "\ndef test_other():\n    pass\n")
    result = suite.run(*lacking.without("overlayfs"), *PYTEST, workers, "-rs")
    assert outcomes(result) == {"skipped": 6, "passed": 1}
    [line] = [line for line in result.outlines if line.startswith("SKIPPED")]
    assert line.startswith("SKIPPED [6] ") and "no VE can run here: " in line and "overlayfs" in line


def test_one_that_is_required(suite: pytest.Pytester) -> None:
    suite.makepyfile(ONE)
    for arguments in (["--ve-required"], ["-o", "ve_required=true"]):
        result = suite.run(*lacking.without("overlayfs"), *PYTEST, *arguments)
        assert outcomes(result) == {"errors": 1}
        result.stdout.fnmatch_lines(["no VE can run here: *overlayfs*"])


def test_a_template_that_cannot_run(suite: pytest.Pytester, host: "ve.Host", tmp_path: Path) -> None:
    """Is no reason to skip: others can."""
    (tmp_path / "tree/sbin").mkdir(parents=True)
    proc = Path(host.templates.add("broken", str(tmp_path / "tree")).path, "proc")
    proc.rmdir()
    proc.touch()  # no place to mount one at
    suite.makepyfile(f"import pytest\n@pytest.mark.ve('broken')\n{ONE}\ndef test_other(ve):\n    pass\n")
    try:
        result = suite.runpytest_subprocess()
        assert outcomes(result) == {"errors": 1, "passed": 1}
        result.stdout.fnmatch_lines(["*::test_it: cannot start 2?????????: *"])
    finally:
        host.templates.remove("broken")


def test_who_is_not_root(pytester: pytest.Pytester, tmp_path: Path) -> None:
    pytester.makepyfile(ONE)
    nobody = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    result = pytester.run(*nobody, *PYTEST, "-rs", f"--ve-state-dir={tmp_path}/state")
    assert outcomes(result) == {"skipped": 1}
    result.stdout.fnmatch_lines(["SKIPPED*no VE can run here: *not root*"])


# --- workers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "count"), [(2, 8), (8, TESTS)])
@pytest.mark.parametrize("session", ["worker", "shared"])
def test_workers(suite: pytest.Pytester, workers: int, count: int, session: str) -> None:
    """Each has a session's VE of its own, or all one."""
    suite.makeconftest("""
        import pytest

        @pytest.fixture(autouse=True)
        def tell(ve_session, tmp_path_factory, worker_id):
            (tmp_path_factory.getbasetemp().parent / f"{ve_session.veid}-{worker_id}").touch()
    """)
    suite.makepyfile(MANY.format(count=count))
    result = suite.runpytest_subprocess(f"-n{workers}", f"--ve-session={session}")
    assert outcomes(result) == {"passed": count}
    pairs = {tuple(path.name.split("-")) for path in suite.path.rglob("2?????????-gw?")}
    assert len({worker for _, worker in pairs}) == workers
    assert len({veid for veid, _ in pairs}) == (workers if session == "worker" else 1)


def test_it_stays_until_the_last_worker_ends(suite: pytest.Pytester) -> None:
    """The one that made it has no more tests, while another still uses it."""
    suite.makeconftest("""
        import pytest, select

        @pytest.fixture
        def place(tmp_path_factory):
            return tmp_path_factory.getbasetemp().parent  # of all workers

        def wait_for(holds):
            while not holds():
                select.select([], [], [], 0.02)
    """)
    suite.makepyfile("""
        import os
        from conftest import wait_for

        def test_maker(ve_session, place):
            assert ve_session.run(["mkdir", "/made"]).returncode == 0
            (place / "made").touch()
            wait_for((place / "taken").exists)

        def test_user(request, place, pytestconfig):
            runs = os.path.join(pytestconfig.getini("ve_state_dir"), "run/pytest")
            wait_for((place / "made").exists)
            ve_session = request.getfixturevalue("ve_session")
            (place / "taken").touch()
            wait_for(lambda: not any(os.path.exists(f"{runs}/{name}/session") for name in os.listdir(runs)))
            assert ve_session.run(["ls", "/made"]).returncode == 0
    """)
    assert outcomes(suite.runpytest_subprocess("-n2", "--ve-session=shared")) == {"passed": 2}


def test_nothing_of_a_network_is_left(suite: pytest.Pytester, hostnet: HostNet, tmp_path: Path) -> None:
    """Of VEs with addresses nor what the kernel has counted for them, by the names of their interfaces."""
    suite.makepyfile("""
        import pytest

        @pytest.mark.parametrize("number", (1, 2, 3, 4))
        def test_it(ve_factory, number):
            address = f"10.9.0.{number}"
            assert ve_factory(addresses=[address]).addresses == [address]
    """)
    ini = suite.path / "tox.ini"
    hostnet.run(*PYTEST, "-n2", "--rootdir", suite.path, "-c", ini, suite.path, timeout=300)
    assert "venet" not in hostnet.run("ip", "-o", "link").stdout
    assert not re.search(r'"venet\w+"', hostnet.run("nft", "list", "ruleset").stdout)
    assert not list(tmp_path.glob("network/run/counted/*"))


# --- kept -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def remove_kept(suite: pytest.Pytester, host: "ve.Host") -> Iterator[None]:
    """What a test of those that are kept leaves if it fails."""
    yield
    for env in host.list():
        if env.status != ve.Status.STOPPED:
            env.stop(fast=True)
        env.destroy()


@pytest.mark.usefixtures("remove_kept")
def test_those_of_a_failed_test_are_kept(suite: pytest.Pytester, host_dir: Path) -> None:
    """The report says how to enter it, and how to be rid of it."""
    suite.makepyfile(ONE + "def test_bad(ve):\n    ve.run(['touch', '/evidence'], check=True)\n    assert False\n")
    result = suite.runpytest_subprocess("--ve-keep-failed", "-n1")
    assert outcomes(result) == {"passed": 1, "failed": 1}
    [veid] = veids(host_dir)
    assert Path(f"/proc/{witness.init(host_dir, veid)}/root/evidence").exists()
    lines = [line.split() for line in result.outlines if line.startswith(f"ve --state-dir {host_dir} ")]
    assert [line[3] for line in lines] == ["enter", "stop", "destroy"]
    assert commandline.run(host_dir, *lines[0][3:], input="ls /evidence\n").stdout == "/evidence\n"
    assert outcomes(suite.runpytest_subprocess("-k", "not bad"))["passed"] == 1
    assert veids(host_dir) == [veid]  # a later run lets it alone
    for line in lines[1:]:
        commandline.output(host_dir, *line[3:])


def test_of_one_with_a_command_that_is_said(suite: pytest.Pytester, host_dir: Path) -> None:
    suite.makepyfile("def test_it(ve_factory):\n    ve_factory(command=['sleep', '1000'])\n    assert False\n")
    result = suite.runpytest_subprocess("--ve-keep-failed")
    result.stdout.fnmatch_lines(["VE 2????????? is not kept: it was given a command, and ends with pytest"])


def test_one_that_the_test_has_destroyed_is_not_kept(suite: pytest.Pytester, host_dir: Path) -> None:
    suite.makepyfile("def test_it(ve):\n    ve.stop(fast=True)\n    ve.destroy()\n    assert False\n")
    result = suite.runpytest_subprocess("--ve-keep-failed")
    assert outcomes(result) == {"failed": 1}
    result.stdout.fnmatch_lines(["VE 1????????? is not kept: *"])
    assert veids(host_dir) == []


# --- kill -9 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(KILLS))
def test_it_is_killed(suite: pytest.Pytester, host_dir: Path, number: int) -> None:
    """At a random moment: all that runs ends with it, and the next run leaves nothing of the rest."""
    chance = random.Random(f"{SEED} {number}")
    ways = [["-n0"], ["-n2"], ["-n2", "--ve-session=shared"], ["-n0", "--ve-keep-failed"], ["-n2", "--ve-keep-failed"]]
    way = ways[number % len(ways)]
    suite.makepyfile(MANY.format(count=1000))
    if chance.random() < 0.5:
        suite.makeconftest(PREPARED.format(calls=str(suite.path / "calls")))
    seen = suite.path / "seen"
    with seen.open("wb") as file, subprocess.Popen([*PYTEST, *way], stdout=file, start_new_session=True) as process:
        pidfd = os.pidfd_open(process.pid)
        assert not select.select([pidfd], [], [], chance.uniform(0, 8))[0], seen.read_text()
        process.kill()
        os.close(pidfd)
    print(f"VE_TEST_SEED={SEED}", way, seen.read_text()[-200:])
    wait_for_session(process.pid)
    suite.makepyfile(ONE)
    assert outcomes(suite.runpytest_subprocess()) == {"passed": 1}
    assert veids(host_dir) == []


WAITS = """
import pathlib, time

def test_it(ve):
    place = pathlib.Path({place!r})
    (place / "begun").touch()
    try:
        time.sleep(1000)
    finally:
        (place / "interrupted").touch()
"""


def kill_in_a_test(suite: pytest.Pytester, *arguments: str) -> None:
    """Kill pytest while a test waits, and wait until nothing of it runs."""
    suite.makepyfile(WAITS.format(place=str(suite.path)))
    with subprocess.Popen([*PYTEST, *arguments], stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while not (suite.path / "begun").exists():
            assert process.poll() is None
            select.select([], [], [], 0.02)
        process.kill()
    wait_for_session(process.pid)


def test_a_worker_ends_with_pytest(suite: pytest.Pytester, host_dir: Path) -> None:
    """At once, and not when pytest-xdist interrupts its test, some seconds later."""
    kill_in_a_test(suite, "-n1")
    assert veids(host_dir) == []
    assert not (suite.path / "interrupted").exists()


def test_a_worker_without_a_ve_has_nothing_of_ours(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import threading\ndef test_it():\n    print(threading.enumerate())\n")
    result = pytester.runpytest_subprocess("-n1", "-rP")
    assert outcomes(result) == {"passed": 1}
    result.stdout.fnmatch_lines(["*MainThread*"])
    assert "end with pytest" not in result.stdout.str()


KILLED_AS_IT_MAKES_ONE = """
import os, ve.state

def write_conf(self, veid, data, *, ephemeral=False, new=False):
    if not ephemeral:
        path = self.conf(veid)
        open(f"{os.path.dirname(path)}/.{os.path.basename(path)}.1", "w").close()
        os.kill(os.getpid(), 9)
    return write(self, veid, data, ephemeral=ephemeral, new=new)

if os.environ.get("KILLED"):
    write, ve.state.State.write_conf = ve.state.State.write_conf, write_conf
"""


@pytest.mark.parametrize("prepared", [False, True])
def test_one_that_is_half_made_is_removed_by_the_next_run(
    suite: pytest.Pytester, host_dir: Path, monkeypatch: pytest.MonkeyPatch, prepared: bool
) -> None:
    """Its conf file would come last, so nothing on disk says yet whose it is."""
    prepare = PREPARED.format(calls=str(suite.path / "calls")) if prepared else ""
    suite.makeconftest(KILLED_AS_IT_MAKES_ONE + prepare)
    suite.makepyfile(ONE)
    monkeypatch.setenv("KILLED", "1")
    assert suite.runpytest_subprocess("--ve-keep-failed").ret == -9
    assert len(os.listdir(host_dir / "private")) == 1 + prepared
    monkeypatch.delenv("KILLED")
    assert outcomes(suite.runpytest_subprocess()) == {"passed": 1}


@pytest.mark.usefixtures("remove_kept")
def test_what_would_have_been_kept_is_ended_by_the_next_run(suite: pytest.Pytester, host_dir: Path) -> None:
    kill_in_a_test(suite, "--ve-keep-failed")
    assert len(veids(host_dir)) == 1
    suite.makepyfile(ONE)
    assert outcomes(suite.runpytest_subprocess()) == {"passed": 1}
    assert veids(host_dir) == []


def wait_for_session(number: int) -> None:
    """Until no process is in it."""
    while pids := [pid for pid in filter(str.isdecimal, os.listdir("/proc")) if session_of(int(pid)) == number]:
        select.select([], [], [], 0.02)
        print("still there:", pids)


def session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1
