"""How the command line fails: one line, a hint, the exit code of the table, and never a traceback.  And completion."""

import contextlib
import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

import cli
import ve
from ve import _app, _examples, _failures, _session, errors

VE = str(Path(sys.executable).with_name("ve"))


class Broken:
    """A library of which nothing works: everything that is asked of it raises."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __call__(self, state_dir: str | None) -> "Broken":
        return self

    def __getattr__(self, name: str) -> Any:
        raise self._error


@pytest.fixture(autouse=True)
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("VE_DEBUG", raising=False)


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(ve), "Host", Broken(error))


# One command line for each verb, of the fewest words.
VERBS = {
    "create": "create 101 --template busybox",
    "set": "set 101 --hostname h",
    "rename": "rename 101 red",
    "run": "run busybox",
    "exec": "exec 101 ls",
    "list": "list",
    "ps": "ps",
    "ubc": "ubc",
    "top": "top",
    "plan": "plan --check",
    "events": "events",
    "check": "check",
    "doctor": "doctor",
    "selftest": "selftest",
    "cp": "cp a 101:b",
    "explain": "explain 101 mount",
    "clone": "clone 101",
    "reset": "reset 101",
    "snapshot create": "snapshot create 101",
    "snapshot list": "snapshot list 101",
    "snapshot restore": "snapshot restore 101 s1",
    "snapshot delete": "snapshot delete 101 s1",
    "network list": "network list",
    "network add": "network add web --cidr 10.9.0.0/24",
    "network show": "network show web",
    "network remove": "network remove web",
    "template list": "template list",
    "template add": "template add a b.tar",
    "template build": "template build busybox",
    "template remove": "template remove busybox",
    **{name: f"{name} 101" for name in ("start", "stop", "restart", "destroy", "status", "logs", "diff")},
    **{name: f"{name} 101" for name in ("enter", "console", "mount", "umount", "freeze", "thaw")},
}


def test_every_verb_has_an_example_and_is_tried_here() -> None:
    assert set(VERBS) == set(_examples.EXAMPLES)
    names = {command.name for command in cli.app.registered_commands}
    names |= {f"{name} {each.name}" for name, group in _app.groups.items() for each in group.registered_commands}
    assert names == set(VERBS)


@pytest.mark.parametrize("name", VERBS)
def test_help_shows_the_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*name.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"    {line}\n" in shown for line in _examples.EXAMPLES[name])


@pytest.mark.parametrize("name", VERBS)
def test_a_bug_is_told_in_a_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(TypeError("no\x1b[2J\nway"), monkeypatch)
    assert cli.main(VERBS[name].split()) == (125 if name in _session.RUNS_A_COMMAND else 1)
    out, err = capsys.readouterr()
    sentence, hint = err.splitlines()
    verb = " ".join(reversed(name.split()))
    assert sentence.startswith(f"ve: cannot {_session.PHRASES.get(verb, verb)}")
    assert sentence.endswith(r": unexpected TypeError: no\x1b[2J\nway")
    assert hint.startswith("hint: this is a bug")
    assert out == ""


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(TypeError("no"), monkeypatch)
    monkeypatch.setenv("VE_DEBUG", "1")
    assert cli.main(["list"]) == 1
    assert "Traceback (most recent call last):\n" in capsys.readouterr().err


# What cannot be done, where it is not the verb and the VEID.
SENTENCES = {
    "check": "check this host",
    "console": "log in to 101",
    "cp": "copy files of 101",
    "diff": "compare 101",
    "doctor": "examine VEs",
    "events": "watch VEs",
    "exec": "run a command in 101",
    "explain": "explain the rights of 101",
    "list": "list VEs",
    "logs": "show the log of 101",
    "ps": "look at VEs",
    "run": "run busybox",
    "selftest": "examine this host",
    "status": "look at 101",
    "network add": "add pool web",
    "network list": "list pools",
    "network show": "look at pool web",
    "network remove": "remove pool web",
    "snapshot create": "checkpoint 101",
    "snapshot list": "list the snapshots of 101",
    "snapshot restore": "restore 101",
    "snapshot delete": "delete a snapshot of 101",
    "template add": "add template a",
    "template build": "build template busybox",
    "template list": "list templates",
    "template remove": "remove template busybox",
    "plan": "plan this host",
    "top": "watch VEs",
    "ubc": "read the beancounters of VEs",
    "umount": "unmount 101",
}


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_needs_root(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    fail_with(AssertionError("asked without root"), monkeypatch)
    assert cli.main(VERBS[name].split()) == (125 if name in _session.RUNS_A_COMMAND else 12)
    sentence, hint = capsys.readouterr().err.splitlines()
    assert sentence == f"ve: cannot {SENTENCES.get(name, f'{name} 101')}: not root"
    assert "sudo" in hint


FAILURES = [
    (
        errors.NotFound("cannot find VE 101: there is none", "ve list"),
        43,
        "cannot find VE 101: there is none",
        "ve list",
    ),
    (errors.BrokenConfig("cannot read 1.toml: line 3"), 14, "cannot read 1.toml: line 3", None),
    (PermissionError(errno.EACCES, "Permission denied", "/a"), 3, "cannot stop 101: Permission denied: /a", None),
    (OSError(errno.ENOSPC, "No space left on device", "/b"), 46, "cannot stop 101: No space left on device: /b", None),
    (OSError(errno.ENOSYS, "Not there"), 3, "cannot stop 101: Not there", "`ve check` tells what this host lacks"),
    (OSError("odd"), 3, "cannot stop 101: odd", None),
    (MemoryError(), 3, "cannot stop 101: not enough memory", ""),
    (KeyError("x"), 1, "cannot stop 101: unexpected KeyError: 'x'", "this is a bug"),
]


@pytest.mark.parametrize(("error", "code", "sentence", "hint"), FAILURES)
def test_failures_of_the_library(
    error: Exception,
    code: int,
    sentence: str,
    hint: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fail_with(error, monkeypatch)
    assert cli.main(["stop", "101"]) == code
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"ve: {sentence}"
    assert [line.startswith(f"hint: {hint}") for line in lines[1:]] == ([True] if hint else [])


def test_a_failing_system_call_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error = PermissionError(errno.EPERM, "Operation not permitted", "/a")
    vars(error)["syscall"] = "mount"
    fail_with(error, monkeypatch)
    assert cli.main(["mount", "101"]) == 3
    assert capsys.readouterr().err == "ve: cannot mount 101: mount: Operation not permitted: /a\n"


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141)])
@pytest.mark.parametrize("line", ["list", "exec 101 ls"])
def test_some_ends_need_no_words(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(error, monkeypatch)
    assert cli.main(line.split()) == code
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("code", [126, 127])
def test_a_command_that_cannot_be_executed_keeps_its_code(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    error = errors.Error("cannot execute ls")
    error.exit_code = code
    fail_with(error, monkeypatch)
    assert cli.main(["exec", "101", "ls"]) == code


USAGE = {
    "foo": (2, "cannot run ve: no such command 'foo'", "see ve --help"),
    "creat 1": (2, "cannot run ve: no such command 'creat'", "did you mean 'create', 'reset'?"),
    "--foo": (2, "cannot run ve: no such option: --foo", "see ve --help"),
    "start": (20, "cannot start: no VE is named", "ve start VE, or ve start --onboot"),
    "start --onboot 1": (20, "cannot start 1: --onboot stands in place of names", "ve start 1 without it"),
    "create 101": (2, "cannot run ve create: missing option '--template'", "see ve create --help"),
    "create 1 --templte b": (2, "cannot run ve create: no such option: --templte", "did you mean --template?"),
    "list 101": (2, "cannot run ve list: got unexpected extra argument(s) (101)", "ve status VE"),
    "exec --bar 101 ls": (125, "cannot run ve exec: no such option: --bar", "see ve exec --help"),
    "template add x": (2, "cannot run ve template add: missing argument 'SOURCE'", "see ve template add --help"),
    "stop --timeout x 1": (2, "cannot run ve stop: invalid value for '--timeout' / '-t': ", "see ve stop --help"),
    "--show-completion tcsh": (2, "cannot run ve: invalid value for '--show-completion': 'tcsh' is not one of", "see"),
    "create -5": (20, "cannot create -5: a VEID is a number, 1 to 2147483644", None),
    "start -15": (20, "cannot start -15: a VEID is a number, 1 to 2147483644", None),
    "exec -5 ls": (125, "cannot run a command in -5: a VEID is a number, 1 to 2147483644", None),
    "create x --template b": (20, "cannot use VEID 'x': it is not a number, 1 to 2147483644", "a name besides"),
    "create 99999999999 --template b": (20, "cannot use VEID '99999999999': ", None),
    "start 99999999999": (20, "cannot use VEID '99999999999': ", None),
    "exec 101": (125, "cannot run a command in 101: none was given", "ve enter 101 opens a shell"),
    "set 101": (20, "cannot set 101: no option says what", "see ve set --help"),
    "set 101 --userpasswd secret": (20, "cannot set a password: no colon is in USER:PASSWORD", "USER:- reads it"),
    "create 1 --template b --env A": (20, "cannot use environment variable 'A': it is not NAME=VALUE", None),
    "list -o veid,foo": (20, "cannot list 'foo': no such field", "the fields are veid, name, "),
    "cp a b": (20, "cannot copy a to b: one of them must be VE:PATH", "a path in a VE is VE:PATH"),
    "cp 1:a 2:b": (20, "cannot copy 1:a to 2:b: one of them must be a path of the host", "ve cp 1:a FILE, then ve cp"),
    "cp a 2:": (20, "cannot copy a to 2:: no path follows 2:", "2:/ is its root directory"),
    "start --foreground 1 2": (20, "cannot start 1 2: --foreground and --dry-run take one VE", None),
}


@pytest.mark.parametrize("line", USAGE)
def test_bad_words(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    env = SimpleNamespace(veid=101, name="")
    monkeypatch.setitem(vars(ve), "Host", lambda state_dir: SimpleNamespace(get=lambda key: env, create=None))
    code, sentence, hint = USAGE[line]
    assert cli.main(line.split()) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith(f"ve: {sentence}")
    assert [line.startswith(f"hint: {hint}") for line in lines[1:]] == ([True] if hint else [])


KNOWN_ELSEWHERE = {
    "ls": "ve list",
    "rm 101": "ve destroy VE",
    "template ls": "ve template list",
    "commit 101": "ve snapshot create VE NAME",
    "restore 101 s1": "ve snapshot restore VE NAME",
    "copy 101 102": "ve clone VE",
    "snapshot rm 101 s1": "ve snapshot delete VE NAME",
    "template rm busybox": "ve template remove TEMPLATE",
    "list --state-dir /x": "it stands before the verb: ve --state-dir DIR VERB",
    "exec -it 101 sh": "there is a terminal without it, when yours is one",
    "run --rm busybox": "ve run leaves nothing without it",
    "list --quiet": "it stands before the verb: ve -q VERB",
    "run -v /a:/b busybox": "--mount SRC:DST[:ro]",
    "check -v": "see ve check --help",
    "set 101 --ipadd 10.9.0.5": "--ip-add ADDRESS",
    "set 101 --ipdel all": "--ip-del ADDRESS",
    "network connect web 101": "ve set VE --ip-add auto:POOL",
    "run --cap-add net_admin busybox": "--capability NAME:on",
    "set 101 --features nfs:on": "--profile NAME",
    "set 101 --ram 1G --save": "--memory SIZE",
    "create 101 --pids-limit 5": "--processes N",
    "create 101 -p 80:80": "--publish HOSTPORT:PORT[/udp]",
    "create 101 --ipadd 10.9.0.5": "--ip ADDRESS",
    "network rm web": "ve network remove NAME",
    "network add web --subnet 10.9.0.0/24": "--cidr CIDR",
    "explain --format json 101 mount": "--json",
    "destroy --force 101": "ve stop --fast VE, then ve destroy VE",
    "set 101 --onboot no": "--onboot or --no-onboot, with nothing behind it",
    "logs -n 20 101": "ve logs VE | tail -n N",
    "create 101 -t busybox": "--template NAME[:VERSION]",
}


@pytest.mark.parametrize("line", KNOWN_ELSEWHERE)
def test_what_hands_know_from_elsewhere(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) in (2, 125)
    assert capsys.readouterr().err.splitlines()[1:] == [f"hint: {KNOWN_ELSEWHERE[line]}"]


def test_what_is_familiar_exists_here_in_other_words() -> None:
    """Each place is a verb or a group; what a hint begins with is one; and no word of ours is in the table."""
    places = {"ve": set(VERBS) | set(_app.groups)}
    places |= {
        f"ve {group}": {name.partition(" ")[2] for name in VERBS if name.startswith(f"{group} ")}
        for group in _app.groups
    }
    places |= {f"ve {name}": set() for name in VERBS} | {"": set()}
    for where, words, ours in _failures.FAMILIAR:
        assert not places[where] & {*words.split()}
        if ours.startswith("ve -") or not ours.startswith("ve "):
            continue
        assert any(ours.startswith(f"ve {name}") for name in VERBS), ours


@pytest.mark.parametrize("name", ["", *VERBS])
def test_help_may_be_asked_for_in_three_ways(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for words in (["help", *name.split()], [*name.split(), "-h"], [*name.split(), "--help"]):
        assert cli.main(words) == 0
        shown.append(capsys.readouterr())
    assert shown[0] == shown[1] == shown[2]
    assert shown[0].out.startswith(f"Usage: {f've {name}'.strip()} ")
    assert not re.search(r"<str>|<list|[{}]", shown[0].out)


@pytest.mark.parametrize("name", VERBS)
def test_every_option_and_argument_is_described(name: str) -> None:
    command: Any = typer.main.get_command(cli.app)
    for word in name.split():
        command = command.commands[word]
    assert [each.name for each in command.params if not each.help] == []


@pytest.mark.parametrize("words", [[], *([name] for name in _app.groups)])
def test_no_verb_shows_the_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: ve ")


def test_of_several_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failures = {2: errors.Running("cannot start 2: it is running"), 3: errors.NotFound("cannot find VE 3")}

    def start(veid: int) -> None:
        if veid in failures:
            raise failures[veid]

    def get(veid: int) -> Any:
        return SimpleNamespace(veid=veid, name="", start=lambda: start(veid))

    monkeypatch.setitem(vars(ve), "Host", lambda state_dir: SimpleNamespace(get=get))
    assert cli.main(["start", "1", "2", "3", "4"]) == errors.Running.exit_code
    said = [line.partition(";")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == ["1 is running", "ve: cannot start 2: it is running", "ve: cannot find VE 3", "4 is running"]


NAMED = {  # what the library says: what is said of the VE that was asked for as "red"
    errors.Running("cannot start 101: it is running", "ve restart 101"): (
        "ve: cannot start 101 (red): it is running\nhint: ve restart red\n"
    ),
    errors.Error("cannot use /d/101 in 101: 101 is no path", "umount /d/101"): (
        "ve: cannot use /d/101 in 101 (red): 101 is no path\nhint: umount /d/101\n"
    ),
    errors.FileError("cannot copy 101:/a to /101:/a: 101: it is gone"): (
        "ve: cannot copy red:/a to /101:/a: 101: it is gone\n"
    ),
    PermissionError(errno.EACCES, "Permission denied"): "ve: cannot start 101 (red): Permission denied\n",
}


@pytest.mark.parametrize("error", NAMED, ids=str)
def test_a_ve_is_called_by_both_its_names(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start() -> None:
        raise error

    env = SimpleNamespace(veid=101, name="red", start=start)
    monkeypatch.setitem(vars(ve), "Host", lambda state_dir: SimpleNamespace(get=lambda key: env))
    assert cli.main(["start", "red"]) != 0
    assert capsys.readouterr().err == NAMED[error]


ASKED: dict[str, Any] = {"asked_once": contextlib.nullcontext}


class WithBrokenConf:
    veid, name, status = 5, "", "stopped"
    asked_once = ASKED["asked_once"]

    @property
    def config(self) -> Any:
        raise errors.BrokenConfig("cannot read conf/5.toml: line 1")


def test_what_a_list_shows_is_asked_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is a file to be read, and traffic a question to the kernel."""
    asked = []

    class Counting:
        veid, name, status = 5, "", "stopped"
        asked_once = ASKED["asked_once"]

        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            return SimpleNamespace(template="b:1", onboot=True, sent=1, received=2)

    monkeypatch.setitem(vars(ve), "Host", lambda state_dir: SimpleNamespace(list=lambda: [Counting()]))
    assert cli.main(["list", "-H", "-o", "veid,template,onboot,sent,received"]) == 0
    assert capsys.readouterr() == ("5  b:1  yes  1  2\n", "")
    assert sorted(asked) == ["config", "traffic"]


def test_a_broken_conf_file_hides_no_other_ve(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = SimpleNamespace(**ASKED, veid=6, name="", status="stopped", config=SimpleNamespace(template="b:1"))
    host = SimpleNamespace(list=lambda: [WithBrokenConf(), good])
    monkeypatch.setitem(vars(ve), "Host", lambda state_dir: host)
    assert cli.main(["list", "-H", "-o", "veid,status,template"]) == 14
    assert capsys.readouterr() == ("5  stopped  -\n6  stopped  b:1\n", "ve: cannot read conf/5.toml: line 1\n")


# ---- completion -----------------------------------------------------------------------------------------------------


def complete(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    words = line.split(" ")
    monkeypatch.setenv("_VE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert not end.value.code
    out, err = capsys.readouterr()
    assert err == ""
    return out.split()


COMPLETIONS = {
    "ve sta": ["start", "status"],
    "ve start ": ["101", "red", "202"],
    "ve start 101 r": ["red"],
    "ve exec re": ["red"],
    "ve run ": ["alpine", "busybox"],
    "ve create 7 --template b": ["busybox"],
    "ve template remove busybox:": ["busybox:1", "busybox:2"],
    "ve template build d": ["debian"],
    "ve list --js": ["--json"],
    "ve list -o veid,p": ["veid,pid", "veid,publish"],
    "ve cp re": ["red:"],
    "ve network show ": ["default", "web"],
    "ve network remove w": ["web"],
    "ve create 7 --ip ": ["auto", "auto:sticky", "auto:web"],
    "ve set 7 --ip-add auto:web": ["auto:web:sticky"],
}


@pytest.mark.parametrize("line", COMPLETIONS)
def test_completion(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    envs = [SimpleNamespace(veid=101, name="red"), SimpleNamespace(veid=202, name="")]
    refs = ("busybox:1", "busybox:2", "alpine:1")
    templates = [SimpleNamespace(name=ref.partition(":")[0], ref=ref) for ref in refs]
    pools = SimpleNamespace(list=lambda: [SimpleNamespace(name=name) for name in ("default", "web")])
    host = SimpleNamespace(list=lambda: envs, templates=SimpleNamespace(list=lambda: templates), networks=pools)
    monkeypatch.setitem(vars(ve), "Host", lambda state_dir: host)
    assert complete(line, monkeypatch, capsys) == COMPLETIONS[line]


@pytest.mark.parametrize("line", ["ve start ", "ve run ", "ve create 7 --template "])
def test_completion_never_complains(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(PermissionError(errno.EACCES, "Permission denied"), monkeypatch)
    assert complete(line, monkeypatch, capsys) == []


ASKED_ODDLY = [{}, {"COMP_WORDS": "ve"}, {"COMP_WORDS": "ve", "COMP_CWORD": "x"}, {"_VE_LINE": 've cp "a\udcff '}]


@pytest.mark.parametrize("asked", ASKED_ODDLY, ids=str)
@pytest.mark.parametrize("what", ["complete_bash", "complete_zsh", "foo"])
def test_nor_when_no_shell_asks(what: str, asked: dict[str, str]) -> None:
    done = subprocess.run([VE], env={**os.environ, **asked, "_VE_COMPLETE": what}, stderr=subprocess.PIPE, text=True)
    assert "Traceback" not in done.stderr


def test_nothing_is_no_question(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_VE_COMPLETE", "")
    assert cli.main(["--version"]) == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_get_a_script(shell: str) -> None:
    shown = subprocess.run([VE, "--show-completion", shell], capture_output=True, text=True, check=True)
    assert f"_VE_COMPLETE=complete_{shell}" in shown.stdout


# ---- the real program -----------------------------------------------------------------------------------------------


def buffered() -> dict[str, str]:
    """Our environment, as everybody has it: some images set this, and then nothing is held that cannot be written."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def run_ve(*words: str, stdout: int) -> tuple[int, str]:
    done = subprocess.run([VE, *words], stdout=stdout, stderr=subprocess.PIPE, text=True, env=buffered())
    return done.returncode, done.stderr


def test_the_version() -> None:
    assert subprocess.check_output([VE, "--version"], text=True).startswith("ve 0.")


def test_nobody_reads() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert run_ve("--help", stdout=writer) == (141, "")
    finally:
        os.close(writer)


def test_a_full_disk() -> None:
    with Path("/dev/full").open("w") as full:
        code, talk = run_ve("--version", stdout=full.fileno())
    assert (code, talk) == (46, "ve: cannot run ve: No space left on device\n")


@pytest.mark.parametrize("full", ["stdout", "stderr"])
def test_a_full_disk_for_who_has_done_it(full: str) -> None:
    """Nothing is to be written to stdout, and what stderr cannot take is only talk."""
    program = """if True:
        import sys
        from ve import _session
        here = _session.Session([])
        sys.exit(here.run(lambda: here.say("it is done")))
    """
    with Path("/dev/full").open("w") as file:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, check=False, env=buffered(), **{full: file})  # type: ignore[call-overload]
    assert done.returncode == 0


def test_a_failure_that_nobody_can_be_told_of() -> None:
    with Path("/dev/full").open("w") as file:
        done = subprocess.run([VE, "no-such-verb"], check=False, stderr=file, env=buffered())
    assert done.returncode == 2


def test_a_closed_stdout() -> None:
    done = subprocess.run(["/bin/sh", "-c", '"$0" --version >&-', VE], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_starts_without_what_it_does_not_need() -> None:
    program = "import sys, ve._cli; print(*sys.modules)"
    loaded = set(subprocess.check_output([sys.executable, "-c", program], text=True).split())
    assert not loaded & {"rich", "pyroute2", "ve.host", "json", "importlib.metadata"}
