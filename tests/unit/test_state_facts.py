"""The facts of a boot, and whether the process they name lives."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ve import facts as module
from ve.facts import Facts, boot_id, dump_facts, init_pidfd, namespace, parse_facts, process_start_time
from ve.state import State

WORDS = st.text(st.characters(codec=None), max_size=20)  # surrogates too: paths may hold them
ANY = st.builds(
    Facts,
    **{name: st.integers(0, 2**64) for name in ("pid", "start_time", "base", "maker_pid", "maker_start")},
    **dict.fromkeys(("boot_id", "template", "init"), WORDS),
    ephemeral=st.booleans(),
    extra=st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]*", fullmatch=True), WORDS),
)


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process


def of(process: "subprocess.Popen[bytes]") -> Facts:
    return Facts(process.pid, process_start_time(process.pid) or 0, boot_id(), 65536, "busybox:1", "/sbin/init")


def test_the_tables_hold_every_field() -> None:
    assert {*module._NUMBERS, *module._WORDS, "extra"} == {*Facts._fields}


@given(ANY)
def test_facts_come_back_as_they_were(facts: Facts) -> None:
    assert parse_facts(dump_facts(facts)) == facts


@given(ANY, st.data())
def test_half_a_file_is_none(facts: Facts, data: st.DataObject) -> None:
    whole = dump_facts(facts)
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert parse_facts(whole[:cut]) is None


@given(ANY)
def test_those_of_a_ve_before_versions_are_read(facts: Facts) -> None:
    _, *lines, total = dump_facts(facts).splitlines(keepends=True)
    old = b"".join(lines)
    assert parse_facts(old) == parse_facts(old + module._sum(old)) == facts
    assert parse_facts(old + total) is None
    assert parse_facts(old[:-1]) is None


@given(st.binary())
def test_rubbish_is_none(data: bytes) -> None:
    assert parse_facts(data) is None


def test_a_key_that_would_be_two_lines_is_refused() -> None:
    with pytest.raises(ValueError, match="no key"):
        dump_facts(Facts(1, 1, "", 0, "", "", extra={"a\nb": "c"}))


def test_facts_are_read_by_veid_until_removed(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    here, facts = State(tmp_path), of(sleeper)
    here.write_facts(101, facts)
    assert here.read_facts(101) == facts
    assert here.read_facts(102) is None
    assert os.listdir(here.run_dir) == ["101"]
    here.remove_facts(101)
    here.remove_facts(101)
    assert here.read_facts(101) is None


def test_facts_of_another_boot_are_none(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    here = State(tmp_path)
    here.write_facts(101, of(sleeper)._replace(boot_id="00000000-0000-4000-8000-000000000000"))
    assert here.read_facts(101) is None


def test_facts_of_a_copied_state_dir_are_the_original_s(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    original = State(tmp_path / "original")
    original.write_facts(101, of(sleeper)._replace(extra={"tag": original.tag}))
    shutil.copytree(original.path, tmp_path / "copy")
    assert State(tmp_path / "copy").read_facts(101) is None
    os.rename(original.path, tmp_path / "moved")
    assert State(tmp_path / "moved").read_facts(101) is not None


def test_broken_facts_are_none(tmp_path: Path, sleeper: "subprocess.Popen[bytes]") -> None:
    here = State(tmp_path)
    here.write_facts(101, of(sleeper))
    Path(here.facts(101)).write_bytes(b"pid=x\n")
    assert here.read_facts(101) is None


def test_a_pidfd_of_the_process_that_was_meant(sleeper: "subprocess.Popen[bytes]") -> None:
    pidfd = init_pidfd(of(sleeper))
    assert pidfd is not None
    assert f"Pid:\t{sleeper.pid}\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    assert not os.get_inheritable(pidfd)
    os.close(pidfd)


def test_a_pid_that_another_process_has_now(sleeper: "subprocess.Popen[bytes]") -> None:
    facts = of(sleeper)
    assert init_pidfd(facts._replace(start_time=facts.start_time - 1)) is None


def test_a_namespace_of_the_process_that_was_meant() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process, ExitStack() as held:
        facts, pidfd = of(process), os.pidfd_open(process.pid)
        held.callback(os.close, pidfd)
        fd = namespace(facts, pidfd, "uts", held)
        assert fd is not None and os.path.samestat(os.fstat(fd), os.stat(f"/proc/{process.pid}/ns/uts"))
        process.kill()
        process.wait()
        assert namespace(facts, pidfd, "uts", held) is None
        assert namespace(facts._replace(pid=os.getpid()), pidfd, "uts", held) is None  # as if it had that number now
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fd)


def test_a_zombie_is_dead() -> None:
    with subprocess.Popen(["true"]) as process:
        facts = of(process)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert "State:\tZ" in Path(f"/proc/{process.pid}/status").read_text()
        assert process_start_time(process.pid) == facts.start_time
        assert init_pidfd(facts) is None
    assert init_pidfd(facts) is None
    assert process_start_time(process.pid) is None


def test_a_command_with_parentheses_and_spaces(tmp_path: Path) -> None:
    named = tmp_path / "a) S 1 (b 2"
    named.symlink_to("/bin/cat")
    with subprocess.Popen([named], stdin=subprocess.PIPE) as process:
        assert process_start_time(process.pid) == _field_22(process.pid)


def _field_22(pid: int) -> int:
    text = Path(f"/proc/{pid}/stat").read_text()
    comm = Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    return int(text.removeprefix(f"{pid} ({comm}) ").split()[22 - 3])
