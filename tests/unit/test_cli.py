"""The command line: what it asks of the library, what it shows, how it fails.  A fake library notes the calls.

Each call is held against the signature of the real method, so that the fake cannot drift from the library.
"""

import contextlib
import inspect
import io
import json
import os
import shlex
import sys
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import cli
import ve

REAL = {name: getattr(ve, name) for name in ("Host", "Environment", "Networks", "Snapshot", "Templates")}


class Fake:
    """An object of the library: it has these attributes; any other that the real class has is a call to be noted."""

    def __init__(self, real: str, world: "World", **attributes: Any) -> None:
        self._real, self._world = real, world
        vars(self).update(attributes)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        real = getattr(REAL[self._real], name)

        def call(*args: Any, **kwargs: Any) -> Any:
            inspect.signature(real).bind(self, *args, **kwargs)
            self._world.calls.append((name, args, kwargs))
            answer = self._world.answers.get(f"{self._real}.{name}", self._world.answers.get(name))
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return call


OVERLAY = {
    "name": "overlay",
    "present": True,
    "required": True,
    "needed_by": ["a", "b"],
    "lost": "all",
    "cure": "a kernel",
    "why": "",
}


WEB = ve.Pool("web", (ip_network("10.9.0.0/29"), ip_network("fd00:9::/126")), nat=True)
LEASES = [
    ve.Lease(ip_address("10.9.0.1"), 101, "/d", "venetx", "both"),
    ve.Lease(ip_address("fd00:9::2"), None, None, "venety", "lease"),
]


class World:
    """The library as cli.py sees it; answers: what a method returns or raises."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.state_dirs: list[str | None] = []
        config = SimpleNamespace(template="busybox:1", description="", onboot=False)
        about: dict[str, Any] = {
            "veid": 101,
            "name": "",
            "status": "running",
            "pid": 7,
            "ephemeral": False,
            "addresses": [],
            "asked_once": contextlib.nullcontext,
        }
        self.env = Fake("Environment", self, **about, hostname="red", config=config)
        template = SimpleNamespace(name="busybox", ref="busybox:1", created="2000-08-21", init="/sbin/init", source="")
        snapshots = [
            Fake("Snapshot", self, name="now", created="2000-08-21", users=[102, 103]),
            Fake("Snapshot", self, name="old", created="2000-08-20", users=[]),
        ]
        self.answers: dict[str, Any] = {
            "get": self.env,
            "clone": self.env,
            "checkpoint": snapshots[0],
            "snapshot": snapshots[0],
            "snapshots": snapshots,
            "create": self.env,
            "list": [self.env],
            "add": template,
            "Networks.add": ["net.ipv4.ip_forward: 0 -> 1"],
            "build": template,
            "stop": True,
            "set": [],
            "call": 0,
            "run": 0,
            "enter": 0,
            "console": 0,
            "mount": "/var/lib/ve/root/101",
            "log_chunks": [b"one\n", b"two\xff\n"],
            "diff": [SimpleNamespace(kind="A", path="/etc/a\x1bb"), SimpleNamespace(kind="D", path="/bin/c")],
            "plan": [SimpleNamespace(process="launch", name="cgroup", text="make it")],
            "describe": {"veid": 101, "pid": None, "mounts": ["/a:/b"], "env": {"A": "1"}, "onboot": False},
            "explain": [
                SimpleNamespace(
                    right="mount", kind="system call", held=True, when="now", why="it is", setting="every VE", cure=""
                ),
                SimpleNamespace(
                    right="bpf", kind="capability", held=False, when="now", why="no\x1b", setting="x", cure="ve set 1"
                ),
            ],
            "ps": [
                SimpleNamespace(veid=101, pid=1, host_pid=7, uid=0, command="init\n"),
                SimpleNamespace(veid=102, pid=1, host_pid=9, uid=0, command="init"),
            ],
            "events": [
                ve.Event(967000000.5, 101, "numproc", "failure", 3, "was refused", "log"),
                ve.Event(967000001.0, 101, "oomguarpages", "oom", 42, "killed \x1b[2J"),
                ve.Event(967000002.0, 102, "", "error", 0, "cannot read it"),
            ],
            "check": [SimpleNamespace(**OVERLAY)],
        }
        self.templates = Fake("Templates", self)
        vars(self.templates)["list"] = lambda: [template]
        self.networks = Fake("Networks", self)
        vars(self.networks).update(list=lambda: [WEB], get=lambda name: WEB, leases=lambda name="": LEASES)

    def host(self, state_dir: str | None) -> Fake:
        self.state_dirs.append(state_dir)
        return Fake("Host", self, templates=self.templates, networks=self.networks)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setitem(vars(ve), "Host", made.host)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("VE_DEBUG", raising=False)
    monkeypatch.delenv("VE_STATE_DIR", raising=False)
    return made


CALLS: list[tuple[str, list[tuple[str, tuple[Any, ...], dict[str, Any]]]]] = [
    ("create 101 --template busybox", [("create", (101,), {"template": "busybox", "name": ""})]),
    (
        "create --template b:2 7 --name red --hostname h --description 'a b' --onboot -e A=1 --env B== --env C= "
        "--mount /a:/b:ro --mount /c:/d --device /dev/null",
        [
            (
                "create",
                (7,),
                {
                    "template": "b:2",
                    "name": "red",
                    "hostname": "h",
                    "description": "a b",
                    "onboot": True,
                    "env": {"A": "1", "B": "=", "C": ""},
                    "mounts": ["/a:/b:ro", "/c:/d"],
                    "devices": ["/dev/null"],
                },
            )
        ],
    ),
    ("start 101 red", [("get", (101,), {}), ("start", (), {}), ("get", ("red",), {}), ("start", (), {})]),
    (
        "start --wait 101 red",  # all are started before anybody waits
        [
            *(("get", (101,), {}), ("start", (), {}), ("get", ("red",), {}), ("start", (), {})),
            *(("get", (101,), {}), ("wait_ready", (), {"timeout": 60.0})),
            *(("get", ("red",), {}), ("wait_ready", (), {"timeout": 60.0})),
        ],
    ),
    (
        "start --ready tcp:80 --ready log:a -t 2.5 101",
        [
            *(("get", (101,), {}), ("start", (), {})),
            *(("get", (101,), {}), ("wait_ready", ("tcp:80", "log:a"), {"timeout": 2.5})),
        ],
    ),
    ("start --dry-run 101", [("get", (101,), {}), ("plan", (), {})]),
    ("start --onboot", [("list", (), {})]),
    ("stop --all", [("list", (), {}), ("get", (101,), {}), ("stop", (60.0,), {"fast": False})]),
    ("freeze 101", [("get", (101,), {}), ("freeze", (), {})]),
    ("thaw 101", [("get", (101,), {}), ("thaw", (), {})]),
    ("stop 101", [("get", (101,), {}), ("stop", (60.0,), {"fast": False})]),
    ("stop --fast --timeout 2.5 101", [("get", (101,), {}), ("stop", (2.5,), {"fast": True})]),
    ("restart 101 --timeout 1", [("get", (101,), {}), ("restart", (), {"timeout": 1.0})]),
    ("restart --fast 101", [("get", (101,), {}), ("restart", (), {"timeout": 0})]),
    ("stop -t 5 101", [("get", (101,), {}), ("stop", (5.0,), {"fast": False})]),
    ("destroy 101", [("get", (101,), {}), ("destroy", (), {})]),
    ("set 101 --hostname h --save", [("get", (101,), {}), ("set", (), {"hostname": "h", "save": True})]),
    (
        "set red --no-onboot --env A=1 --description ''",
        [("get", ("red",), {}), ("set", (), {"onboot": False, "env": {"A": "1"}, "description": "", "save": False})],
    ),
    (
        "set 101 --mount '' --device '' --env '' --profile '' --capability net_admin:on --save",
        [
            ("get", (101,), {}),
            (
                "set",
                (),
                {
                    "env": {},
                    "mounts": [],
                    "devices": [],
                    "profiles": [],
                    "capabilities": {"net_admin": "on"},
                    "save": True,
                },
            ),
        ],
    ),
    ("set 101 --userpasswd root:a:b", [("get", (101,), {}), ("set_password", ("root", "a:b"), {})]),
    ("set 101 --ssh-key 'ssh-ed25519 A'", [("get", (101,), {}), ("add_ssh_key", ("ssh-ed25519 A",), {})]),
    ("rename 101 red", [("get", (101,), {}), ("rename", ("red",), {})]),
    ("run busybox", [("run", ("busybox", ()), {"user": None, "cwd": None})]),
    ("run busybox -- ls -l", [("run", ("busybox", ["ls", "-l"]), {"user": None, "cwd": None})]),
    ("run busybox --user a:b --cwd /c id", [("run", ("busybox", ["id"]), {"user": "a:b", "cwd": "/c"})]),
    (
        "run --mount /a:/b busybox --env A=1 --hostname h ls --env B=2",
        [
            (
                "run",
                ("busybox", ["ls", "--env", "B=2"]),
                {"mounts": ["/a:/b"], "env": {"A": "1"}, "hostname": "h", "user": None, "cwd": None},
            )
        ],
    ),
    ("enter 101", [("get", (101,), {}), ("enter", (), {})]),
    ("console 101", [("get", (101,), {}), ("console", (), {})]),
    ("logs -f 101", [("get", (101,), {}), ("log_chunks", (True,), {})]),
    ("status 101", [("get", (101,), {}), ("describe", (), {})]),
    ("explain red mount bpf", [("get", ("red",), {}), ("explain", ("mount",), {}), ("explain", ("bpf",), {})]),
    ("ps 101", [("get", (101,), {}), ("ps", (), {})]),
    ("events", [("events", (None,), {"follow": False, "act": False, "compat": None})]),
    (
        "events red -f --act -q",
        [("get", ("red",), {}), ("events", (101,), {"follow": True, "act": True, "compat": None})],
    ),
    ("events --compat /f", [("events", (None,), {"follow": False, "act": False, "compat": "/f"})]),
    (
        "set 101 --on-barrier memory:raise:20% --on-barrier numproc:run:/a:b --on-failure '' --save",
        [
            ("get", (101,), {}),
            (
                "set",
                (),
                {"on_barrier": {"memory": "raise:20%", "numproc": "run:/a:b"}, "on_failure": {}, "save": True},
            ),
        ],
    ),
    ("mount 101", [("get", (101,), {}), ("mount", (), {})]),
    ("umount 101", [("get", (101,), {}), ("umount", (), {})]),
    ("cp ./a:b 101:/c", [("get", (101,), {}), ("copy_in", ("./a:b", "/c"), {"archive": False})]),
    ("cp -a a red:/b", [("get", ("red",), {}), ("copy_in", ("a", "/b"), {"archive": True})]),
    ("cp -a red:/etc .", [("get", ("red",), {}), ("copy_out", ("/etc", "."), {"archive": True})]),
    ("diff 101", [("get", (101,), {}), ("diff", (), {})]),
    ("snapshot create 101", [("get", (101,), {}), ("checkpoint", ("",), {})]),
    ("snapshot create red now", [("get", ("red",), {}), ("checkpoint", ("now",), {})]),
    ("snapshot list 101", [("get", (101,), {}), ("snapshots", (), {})]),
    ("snapshot restore 101 now", [("get", (101,), {}), ("restore", ("now",), {})]),
    ("clone 101", [("get", (101,), {}), ("clone", (None,), {})]),
    ("clone red 102 --name r --memory 1G", [("get", ("red",), {}), ("clone", (102,), {"name": "r", "memory": "1G"})]),
    ("reset 101 red", [("get", (101,), {}), ("reset", (), {}), ("get", ("red",), {}), ("reset", (), {})]),
    (
        "network add web --cidr 10.9.0.0/24 --cidr fd00:9::/64 --nat --pool-hosts",
        [("add", ("web", ["10.9.0.0/24", "fd00:9::/64"]), {"nat": True, "hosts": True})],
    ),
    ("network add web --cidr 10.9.0.0/24", [("add", ("web", ["10.9.0.0/24"]), {"nat": False, "hosts": False})]),
    ("network remove web", [("remove", ("web",), {})]),
    ("template add alpine x.tar", [("add", ("alpine", "x.tar"), {"progress": None})]),
    (
        "template build debian --suite sid --include a,b --name d",
        [("build", ("debian",), {"name": "d", "suite": "sid", "include": ("a", "b"), "progress": None})],
    ),
    ("template remove debian:1", [("remove", ("debian:1",), {})]),
]


@pytest.mark.parametrize(("line", "calls"), CALLS, ids=[line for line, _ in CALLS])
def test_a_verb_is_a_call(line: str, calls: list[Any], world: World) -> None:
    assert cli.main(shlex.split(line)) == 0
    assert world.calls == calls


EXEC = {
    "exec 101 ls -l": (["ls", "-l"], None, None, None),
    "exec 101 -- ls -l": (["ls", "-l"], None, None, None),
    "exec -- 101 ls -l": (["ls", "-l"], None, None, None),
    "exec 101 ls -- -l --help": (["ls", "--", "-l", "--help"], None, None, None),
    "exec 101 --user nobody:x ls --user root": (["ls", "--user", "root"], "nobody:x", None, None),
    "exec --cwd=/tmp -e A=1 101 -eB=2 -- sh -c 'exit 3'": (
        ["sh", "-c", "exit 3"],
        None,
        "/tmp",
        {"A": "1", "B": "2"},
    ),
    "exec 101 ''": ([""], None, None, None),
    "exec -u nobody 101 id -u": (["id", "-u"], "nobody", None, None),
}


@pytest.mark.parametrize("line", EXEC)
def test_options_of_exec_end_where_the_command_begins(line: str, world: World) -> None:
    world.answers["call"] = 37
    assert cli.main(shlex.split(line)) == 37
    command, user, cwd, env = EXEC[line]
    assert world.calls == [("get", (101,), {}), ("call", (command,), {"user": user, "cwd": cwd, "env": env})]


def test_a_command_that_the_kernel_killed(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("call", "enter", "console", "run"):
        world.answers[name] = ve.ExitCode.of(137, "physpages", "physpages 64M was used up")
    for line, who in {"exec 101 ls": "101", "enter 101": "101", "console 101": "101", "run busybox": "busybox"}.items():
        assert cli.main(line.split()) == 137
        assert capsys.readouterr().err == f"ve: {who}: killed by the kernel: physpages 64M was used up\n"
        assert cli.main(["-q", *line.split()]) == 137
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("line", ["--state-dir /d list", "list"])
def test_the_state_dir_comes_from_the_option_or_the_environment(
    line: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VE_STATE_DIR", "/e")
    assert cli.main(line.split()) == 0
    assert world.state_dirs == ["/d" if "/d" in line else "/e"]


def test_a_password_may_come_by_stdin(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"se \xff cret\n"), "utf-8"))  # strict, as of a login
    assert cli.main(["set", "101", "--userpasswd", "root:-"]) == 0
    assert world.calls[1] == ("set_password", ("root", "se \udcff cret"), {})


def test_an_ssh_key_may_be_in_a_file(world: World, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("ssh-ed25519 A\n")
    assert cli.main(["set", "101", "--ssh-key", f"@{tmp_path}/key"]) == 0
    assert world.calls[1] == ("add_ssh_key", ("ssh-ed25519 A\n",), {})
    (tmp_path / "key").write_bytes(b"\xff\0")  # for the library to refuse
    assert cli.main(["set", "101", "--ssh-key", f"@{tmp_path}/key"]) == 0
    assert world.calls[3] == ("add_ssh_key", ("\udcff\0",), {})


def test_only_what_has_started_is_waited_for(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.answers["start"] = ve.errors.Running("cannot start 101: it is running")
    assert cli.main(["start", "--wait", "101"]) == 32
    assert [name for name, _, _ in world.calls] == ["get", "start"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("start --ready tcp:x 101", "cannot wait for 'tcp:x': it is no port, 1 to 65535"),
        ("start --timeout 5 101", "cannot start: --timeout is how long to wait"),
        ("start --wait --foreground 101", "cannot start 101: --foreground and --dry-run do not wait"),
        ("start --ready boot --dry-run 101", "cannot start 101: --foreground and --dry-run do not wait"),
    ],
)
def test_a_start_that_cannot_wait_so_does_nothing(
    world: World, capsys: pytest.CaptureFixture[str], line: str, why: str
) -> None:
    assert cli.main(line.split()) == 20
    assert capsys.readouterr().err.startswith(f"ve: {why}\n")
    assert world.calls == []


def test_the_log_of_what_is_not_ready_is_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    error = ve.errors.NotReady("cannot wait for 101: so", "do", ("tcp:80",), "one\n\x1b[2Jtwo")
    world.answers["wait_ready"] = error
    assert cli.main(["start", "--wait", "101"]) == 133
    told = capsys.readouterr().err.splitlines()[1:]
    assert told == ["ve: cannot wait for 101: so", "log: one", "log: \\x1b[2Jtwo", "hint: do"]


def test_a_reboot_in_the_foreground_starts_again(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    ends = iter(["reboot", "halt"])
    running = SimpleNamespace(attach=lambda: None, wait=lambda: next(ends))
    world.answers["start_foreground"] = contextlib.nullcontext(running)
    assert cli.main(["start", "--foreground", "101"]) == 0
    assert [name for name, _, _ in world.calls] == ["get", "start_foreground", "start_foreground"]
    here, reboots, again, halted = capsys.readouterr().err.splitlines()
    assert (reboots, halted) == ("101 reboots", "101 has halted")
    assert here == again and here.startswith("101 is running; ") and "Ctrl-]" in here


# ---- what is shown --------------------------------------------------------------------------------------------------

SHOWN = {
    "list": (
        "VEID  NAME  STATUS   PID  TEMPLATE   HOSTNAME  ADDRESSES\n101   -     running  7    busybox:1  red       -\n"
    ),
    "list -a -H -o veid,status": "101  running\n",
    "list -o onboot,ephemeral": "ONBOOT  EPHEMERAL\nno      no\n",
    "status 101": "veid: 101\npid: -\nmounts: /a:/b\nenv: A=1\nonboot: no\n",
    "explain 101 x": (
        "yes  system call mount: it is [every VE]\nno   capability bpf: no\\x1b [x]\n     to change that: ve set 1\n"
    ),
    "ps": "VEID  PID  HOSTPID  UID  COMMAND\n101   1    7        0    init\\n\n102   1    9        0    init\n",
    "ps 101": "VEID  PID  HOSTPID  UID  COMMAND\n101   1    7        0    init\\n\n",
    "events": (
        "2000-08-23T03:06:40.500Z 101 numproc failure: was refused\n"
        "2000-08-23T03:06:41.000Z 101 oomguarpages oom: killed \\x1b[2J\n"
        "2000-08-23T03:06:42.000Z 102 error: cannot read it\n"
    ),
    "events -q": (
        "2000-08-23T03:06:40.500Z 101 numproc failure: was refused\n"
        "2000-08-23T03:06:42.000Z 102 error: cannot read it\n"
    ),
    "diff 101": "A  /etc/a\\x1bb\nD  /bin/c\n",
    "mount 101": "/var/lib/ve/root/101\n",
    "start --dry-run 101": "PROCESS  NAME    TEXT\nlaunch   cgroup  make it\n",
    "network list": (
        "NAME  NETWORKS                  NAT  HOSTS  TAKEN          SIZE\n"
        "web   10.9.0.0/29,fd00:9::/126  yes  no     IPv4=1,IPv6=1  IPv4=6,IPv6=3\n"
    ),
    "network show web": (
        "name: web\nnetworks: 10.9.0.0/29,fd00:9::/126\nnat: yes\nhosts: no\ntaken: IPv4=1,IPv6=1\n"
        "size: IPv4=6,IPv6=3\n"
        "ADDRESS    VEID  STATEDIR  INTERFACE  KIND\n"
        "10.9.0.1   101   /d        venetx     both\n"
        "fd00:9::2  -     -         venety     lease\n"
    ),
    "snapshot list 101": "NAME  CREATED     USERS\nnow   2000-08-21  102,103\nold   2000-08-20  -\n",
    "template list": "REF        CREATED     INIT        SOURCE\nbusybox:1  2000-08-21  /sbin/init  -\n",
}


@pytest.mark.parametrize("line", SHOWN)
def test_stdout_is_data(line: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == 0
    assert capsys.readouterr() == (SHOWN[line], "")


def test_nothing_to_show_is_no_line(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.answers |= {"diff": [], "list": []}
    assert cli.main(["diff", "101"]) == cli.main(["list", "-H"]) == 0
    assert capsys.readouterr().out == ""


def test_pools_are_listed_by_one_look_at_the_leases(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    looked: list[str] = []
    other = ve.Pool("b", (ip_network("10.8.0.0/29"),))

    def look() -> list[ve.Lease]:
        looked.append("all")
        return LEASES

    vars(world.networks).update(list=lambda: [other, WEB], leases=look)
    assert cli.main(["network", "list", "--json"]) == 0
    assert [each["taken"] for each in json.loads(capsys.readouterr().out)] == [{"IPv4": 0}, {"IPv4": 1, "IPv6": 1}]
    assert looked == ["all"]


SHOWN_POOL = {
    "name": "web",
    "networks": ["10.9.0.0/29", "fd00:9::/126"],
    "nat": True,
    "hosts": False,
    "taken": {"IPv4": 1, "IPv6": 1},
    "size": {"IPv4": 6, "IPv6": 3},
}
JSON: dict[str, Any] = {
    "list --json": [
        {
            "veid": 101,
            "name": "",
            "status": "running",
            "pid": 7,
            "template": "busybox:1",
            "hostname": "red",
            "addresses": [],
        }
    ],
    "list --json -o veid": [{"veid": 101}],
    "status --json 101": {"veid": 101, "pid": None, "mounts": ["/a:/b"], "env": {"A": "1"}, "onboot": False},
    "explain --json 101 x": [
        {
            "right": "mount",
            "kind": "system call",
            "held": True,
            "when": "now",
            "why": "it is",
            "setting": "every VE",
            "cure": "",
        },
        {
            "right": "bpf",
            "kind": "capability",
            "held": False,
            "when": "now",
            "why": "no\x1b",
            "setting": "x",
            "cure": "ve set 1",
        },
    ],
    "ps --json 101": [{"veid": 101, "pid": 1, "host_pid": 7, "uid": 0, "command": "init\n"}],
    "diff --json 101": [{"kind": "A", "path": "/etc/a\x1bb"}, {"kind": "D", "path": "/bin/c"}],
    "snapshot list --json 101": [
        {"name": "now", "created": "2000-08-21", "users": [102, 103]},
        {"name": "old", "created": "2000-08-20", "users": []},
    ],
    "template list --json": [{"ref": "busybox:1", "created": "2000-08-21", "init": "/sbin/init", "source": ""}],
    "check --json": [OVERLAY],
    "network list --json": [SHOWN_POOL],
    "network show --json web": SHOWN_POOL
    | {
        "leases": [
            {"address": "10.9.0.1", "veid": 101, "state_dir": "/d", "interface": "venetx", "kind": "both"},
            {"address": "fd00:9::2", "veid": None, "state_dir": None, "interface": "venety", "kind": "lease"},
        ]
    },
}


@pytest.mark.parametrize("line", JSON)
def test_json(line: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == 0
    assert json.loads(capsys.readouterr().out) == JSON[line]


def test_logs_are_bytes(world: World, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.main(["logs", "101"]) == 0
    assert capfdbinary.readouterr().out == b"one\ntwo\xff\n"


SAID = {
    "snapshot create 101": "101: snapshot now is created\n",
    "snapshot restore 101 now": "101 is as it was at now\n",
    "snapshot delete 101 now": "101: snapshot now is deleted\n",
    "clone 101": "101 is created from 101\n",
    "reset 101": "101 is as it was created\n",
    "create 101 --template busybox": "101 is created from busybox:1\n",
    "start 101": "101 is running; a reboot from inside will end it\n",
    "stop 101": "101 is stopped\n",
    "destroy 101": "101 is destroyed\n",
    "rename 101 red": "101 is named red\n",
    "set 101 --hostname h --env A=1 --save": "101: hostname is set\n101: env waits for a restart\n",
    "template build busybox": "template busybox:1 is built\n",
    "network add web --cidr 10.9.0.0/24 --nat": "net.ipv4.ip_forward: 0 -> 1\npool web is added\n",
    "network remove web": "pool web is removed\n",
}


@pytest.mark.parametrize("line", SAID)
def test_stderr_is_talk(line: str, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.answers["set"] = ["env"]
    assert cli.main(line.split()) == 0
    assert capsys.readouterr() == ("", SAID[line])
    assert cli.main(["-q", *line.split()]) == 0
    assert capsys.readouterr() == ("", "")


def test_explain_says_of_what_time_it_speaks(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    vars(world.answers["explain"][0]).update(when="next start")
    assert cli.main(["explain", "101", "mount"]) == 0
    assert capsys.readouterr().err == "101 does not run: this is what its next start gives\n"


def test_stop_says_when_it_was_a_kill(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.answers["stop"] = False
    assert cli.main(["stop", "101"]) == cli.main(["stop", "--fast", "101"]) == 0
    late, fast = capsys.readouterr().err.splitlines()
    assert "by a kill" in late
    assert fast == "101 is stopped"


CHECKED = [  # present, required, what is shown, what is said, the exit code
    (True, True, "yes  overlay\n", "VEs can start here, and nothing is missing\n", 0),
    (
        False,
        False,
        "no   overlay: no device (needed by a, b; lost without it: all)\n     cure: a kernel\n",
        "VEs can start here; missing: overlay\n",
        0,
    ),
    (
        False,
        True,
        "no   overlay: no device (needed by a, b; lost without it: all)\n     cure: a kernel\n",
        "no VE can start here without overlay\n",
        5,
    ),
]


@pytest.mark.parametrize(("present", "required", "shown", "said", "code"), CHECKED)
def test_check(
    present: bool, required: bool, shown: str, said: str, code: int, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    vars(world.answers["check"][0]).update(present=present, required=required, why="" if present else "no device")
    assert cli.main(["check"]) == code
    assert capsys.readouterr() == (shown, said)


def test_check_says_what_to_mend_first(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.answers["check"] = [world.answers["check"][0]] * 2
    vars(world.answers["check"][0]).update(present=False, required=True, why="no device")
    assert cli.main(["check"]) == 5
    said = "no VE can start here without overlay, overlay; begin with overlay, which others may need\n"
    assert capsys.readouterr().err == said


def test_check_names_a_cure_once_and_fits_a_terminal(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    cure = "boot with " + " ".join(f"option{number}=on" for number in range(12))
    lost = {"present": False, "required": False, "needed_by": [], "lost": "x", "cure": cure, "why": "not there"}
    missing = [SimpleNamespace(name=name, **lost) for name in "ab"]
    world.answers["check"] += missing
    assert cli.main(["-q", "check"]) == 0
    out, err = capsys.readouterr()
    assert (out.count("cure: "), err) == (1, "")
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(("verb", "named"), [("create", True), ("set", True), ("run", True), ("start", False)])
def test_help_says_that_there_are_exact_limits(verb: str, named: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    assert ("--numproc BARRIER:LIMIT" in " ".join(capsys.readouterr().out.split())) is named
