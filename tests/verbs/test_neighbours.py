"""Ansible and pytest-testinfra on VEs, the real ones; what they changed is looked at by exec."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ve
from tests.verbs import witness

pytestmark = pytest.mark.any_kernel

ROOT = Path(__file__).resolve().parent.parent.parent
Play = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def machine(host: "ve.Host") -> Iterator["ve.Environment"]:
    """A VE with a Python, the host's, as modules of Ansible need one."""
    mounts = ["/usr:/usr:ro", "/usr/lib:/lib:ro", "/usr/lib64:/lib64:ro"]
    env = host.create(7004, template="busybox", hostname="red", name="machine", mounts=mounts)
    env.start()
    try:
        with env.path("/etc/passwd").open("a") as file:
            print("anna:x:1000:1000:Anna:/srv/anna:/bin/sh", file=file)
        witness.shell(env, "mkdir /srv/anna; chown 1000:1000 /srv/anna")
        yield env
    finally:
        env.stop(fast=True)
        env.destroy()


# --- Ansible ------------------------------------------------------------------------------------------------------


@pytest.fixture
def play(host_dir: Path, tmp_path: Path) -> Play:
    """play("- raw: id", "machine") runs these tasks on a VE: ansible-playbook's output, and its code."""

    def run(tasks: str, key: object, **variables: str) -> "subprocess.CompletedProcess[str]":
        variables = {"ansible_connection": "ve.connection.ve", **variables}
        words = " ".join(f"{name}={value}" for name, value in variables.items())
        (tmp_path / "inventory").write_text(f"{key} {words}\n")
        indented = "".join(f"    {line}\n" for line in tasks.strip().splitlines())
        (tmp_path / "play.yml").write_text(f"- hosts: all\n  gather_facts: false\n  tasks:\n{indented}")
        env = os.environ | {
            "VE_STATE_DIR": str(host_dir),
            "ANSIBLE_HOME": str(tmp_path / "home"),
            "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
            "LC_ALL": "C.UTF-8",
        }
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventory", "play.yml"]
        return subprocess.run(command, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    return run


def went_well(done: "subprocess.CompletedProcess[str]") -> bool:
    return done.returncode == 0 and "failed=0" in done.stdout and "unreachable=0" in done.stdout


@pytest.mark.parametrize("key", [7004, "machine"])
def test_a_playbook(machine: "ve.Environment", play: Play, tmp_path: Path, key: object) -> None:
    (tmp_path / "given").write_text("it\n")
    done = play(
        """
- raw: hostname; id -u; exit 3
  register: said
  failed_when: said.rc != 3 or said.stdout_lines != ["red", "0"]
- ping:
- copy: {src: given, dest: /srv/copied, mode: "0640", owner: anna}
- copy: {content: "zwölf\\n", dest: "/srv/two words"}
- command: cat "/srv/two words"
  register: said
  failed_when: said.stdout != "zwölf"
- command: id -un
  become: true
  become_method: su
  become_exe: /bin/su
  become_user: anna
  register: said
  failed_when: said.stdout != "anna"
- fetch: {src: /srv/copied, dest: fetched/, flat: true}
- file: {path: /srv/dir, state: directory, mode: "0700"}
""",
        key,
    )
    assert went_well(done), done.stdout + done.stderr
    assert (tmp_path / "fetched/copied").read_text() == "it\n"
    shown = witness.shell(machine, "cd /srv; cat copied; stat -c '%U %a' copied dir; rm -rf copied dir two*")
    assert shown == "it\nanna 640\nroot 700\n"
    assert witness.shell(machine, "ls -A /root/.ansible/tmp") == ""


def test_as_another_user(machine: "ve.Environment", play: Play, tmp_path: Path) -> None:
    """Who may do what that user may, in what is copied too; and become root of it."""
    done = play(
        """
- command: id -un
  register: said
  failed_when: said.stdout != "anna"
- copy: {content: "hers", dest: /srv/anna/hers}
- command: id -un
  become: true
  become_method: su
  become_user: nobody
  register: said
  failed_when: said.rc == 0
- fetch: {src: /etc/shadow, dest: fetched/, flat: true}
  register: said
  failed_when: said is not failed
""",
        "machine",
        ansible_user="anna",
    )
    assert went_well(done), done.stdout + done.stderr
    assert not (tmp_path / "fetched/shadow").exists()
    assert witness.shell(machine, "cd /srv/anna; cat hers; stat -c ' %U' hers; rm hers") == "hers anna\n"


def test_without_a_python(env: "ve.Environment", play: Play) -> None:
    """raw is for those; and a loop of tasks ends no process too few."""
    done = play("- raw: echo {{ item }} >>/srv/it\n  loop: [a, b, c]", env.veid)
    assert went_well(done), done.stdout + done.stderr
    assert witness.shell(env, "cat /srv/it") == "a\nb\nc\n"
    assert "python" in play("- ping:", env.veid).stdout


def test_the_short_name(machine: "ve.Environment", play: Play) -> None:
    """With connection_plugins, as the documents say."""
    path = ROOT / "ansible_collections/ve/connection/plugins/connection"
    os.environ["ANSIBLE_CONNECTION_PLUGINS"] = str(path)
    try:
        done = play("- raw: hostname", machine.veid, ansible_connection="ve")
    finally:
        del os.environ["ANSIBLE_CONNECTION_PLUGINS"]
    assert went_well(done), done.stdout + done.stderr


@pytest.mark.parametrize("key", [4242, "no-such"])
def test_a_ve_that_is_not_there_is_unreachable(host: "ve.Host", play: Play, key: object) -> None:
    done = play("- raw: hostname", key)
    assert done.returncode == 4 and f"cannot find VE {key}: there is none (ve list shows all)" in done.stdout


def test_a_ve_that_does_not_run_is_unreachable(host: "ve.Host", veid: int, play: Play) -> None:
    host.create(veid, template="busybox")
    done = play("- raw: hostname", veid)
    assert (
        done.returncode == 4 and f"cannot run a command in {veid}: it is not running (ve start {veid})" in done.stdout
    )


def test_its_documents_are_found(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("ansible-doc")), "-t", "connection", "ve.connection.ve"]
    env = os.environ | {"ANSIBLE_HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert "VEID or name of the VE" in done.stdout


# --- pytest-testinfra ---------------------------------------------------------------------------------------------

TESTS = """
def test_it(host):
    assert host.backend.get_connection_type() == "ve"
    assert host.check_output("hostname") == "red"
    assert host.file("/etc/passwd").contains("^root:") and host.file("/etc/passwd").is_file
    assert host.file("/etc/passwd").user == "root" and not host.file("/no/such").exists
    assert host.user("anna").home == "/srv/anna"
    assert host.run("printf %s; exit 3", "two words").stdout == "two words"
    assert host.run("exit 3").rc == 3 and host.run("kill -9 $$").rc == 137
    assert host.run("echo wrong >&2").stderr == "wrong\\n"
    assert host.run("printf '\\\\303\\\\244'").stdout == "ä"


def test_who(host):
    assert host.user().name == "{who}"
"""


def pytest_on(host_dir: Path, tmp_path: Path, hosts: str, program: str) -> "subprocess.CompletedProcess[str]":
    (tmp_path / "test_given.py").write_text(program)
    command = [sys.executable, "-m", "pytest", "-q", "-rA", f"--hosts={hosts}", "--rootdir=.", "test_given.py"]
    env = os.environ | {"VE_STATE_DIR": str(host_dir)}
    return subprocess.run(command, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)


@pytest.mark.parametrize(("spec", "who"), [("7004", "root"), ("machine", "root"), ("anna@machine", "anna")])
def test_testinfra(machine: "ve.Environment", host_dir: Path, tmp_path: Path, spec: str, who: str) -> None:
    done = pytest_on(host_dir, tmp_path, f"ve://{spec}", TESTS.replace("{who}", who))
    assert done.returncode == 0 and f"PASSED test_given.py::test_who[ve://{spec.split('@')[-1]}]" in done.stdout, (
        done.stdout
    )


def test_testinfra_fails_where_it_should(machine: "ve.Environment", host_dir: Path, tmp_path: Path) -> None:
    program = 'def test_it(host):\n    assert host.file("/no/such").exists\n'
    done = pytest_on(host_dir, tmp_path, "ve://machine,ve://no-such", program)
    assert done.returncode == 1 and "2 failed" in done.stdout
    assert "ve.errors.NotFound: cannot find VE no-such: there is none" in done.stdout


def test_testinfra_without_pytest(machine: "ve.Environment", host_dir: Path) -> None:
    program = 'import testinfra, ve.testinfra; print(testinfra.get_host("ve://machine").check_output("hostname"))'
    env = os.environ | {"VE_STATE_DIR": str(host_dir)}
    assert subprocess.check_output([sys.executable, "-c", program], env=env, text=True) == "red\n"


def test_pytest_alone_does_without_testinfra(tmp_path: Path) -> None:
    program = "import sys\ndef test_it():\n    assert not {'testinfra', 've.testinfra'} & set(sys.modules)\n"
    (tmp_path / "test_given.py").write_text(program)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:pytest11.testinfra", "--rootdir=.", "test_given.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
