"""What `ve explain` says of a VE that does not run, which is all in tables; and that what it tells to do does it."""

import re
import shlex
from dataclasses import replace
from typing import Any

import pytest

from ve import answers, explain, rights
from ve._options import switches
from ve.errors import InvalidValue
from ve.model import Config, Mount


def subject(config: Config | None = None, **changes: Any) -> answers.Subject:
    config = config or Config(veid=101, template="busybox:1", **changes)
    return answers.Subject("web", config, config, boots=True, ephemeral=False, running=None)


def answer(of: answers.Subject, right: str) -> answers.Answer:
    [(kind, name)] = explain.named(right, of)
    return answers.KINDS[kind](name, of)


# ---- what a word means ----------------------------------------------------------------------------------------------

MEANS = {
    "net_admin": [("capability", "net_admin")],
    "CAP_NET_ADMIN": [("capability", "net_admin")],
    "mount": [("system call", "mount")],
    "mount(2)": [("system call", "mount")],
    "bpf": [("capability", "bpf"), ("system call", "bpf")],
    "CAP_BPF": [("capability", "bpf")],
    "bpf()": [("system call", "bpf")],
    "syscall:bpf": [("system call", "bpf")],
    "capability:bpf": [("capability", "bpf")],
    "syslog": [("capability", "syslog"), ("system call", "syslog")],
    "nesting": [("profile", "nesting")],
    "profile:nesting": [("profile", "nesting")],
    "/dev/null": [("device", "/dev/null")],
    "/dev/net/tun": [("device", "/dev/net/tun")],
    "/dev//net/../null": [("device", "/dev/null")],
    "/dev/pts/0": [("path", "/dev/pts/0")],
    "/dev": [("path", "/dev")],
    "//etc/": [("path", "/etc")],
    "/": [("path", "/")],
    "path:/dev/null": [("path", "/dev/null")],
}


@pytest.mark.parametrize("right", MEANS)
def test_a_word_is_told_by_its_spelling(right: str) -> None:
    assert explain.named(right, subject()) == MEANS[right]


@pytest.mark.parametrize("name", rights.CAPABILITIES)
def test_every_capability_is_known_in_each_spelling(name: str) -> None:
    for spelling in (name, name.upper(), f"cap_{name}", f"CAP_{name.upper()}", f"capability:{name}"):
        assert ("capability", name) in explain.named(spelling, subject())


@pytest.mark.parametrize("row", rights.REFUSALS, ids=lambda row: row.name)
def test_every_refused_system_call_is_known(row: rights.Refusal) -> None:
    for name in row.syscalls:
        [(kind, _)] = explain.named(f"syscall:{name}", subject())
        said = answer(subject(), f"syscall:{name}")
        assert (kind, said.held) == ("system call", row.argument is not None)
        assert row.error in said.why and row.why in said.why and row.name in said.setting


UNKNOWN = {
    "net_admn": "did you mean net_admin?",
    "CAP_NET_ADMN": "did you mean net_admin?",
    "mont": "did you mean mount?",
    "perf_event_opn": "did you mean perf_event_open?",
    "nestng": "did you mean nesting?",
    "capability:moun": "chown",
    "capability:net_admn": "did you mean net_admin?",
    "syscall:mont": "did you mean mount?",
    "syscall:xyzzy": "ENOSYS",
    "profile:nestng": "did you mean nesting?",
    "xyzzy": "begins with /",
    "": "begins with /",
    "etc/passwd": "begins with /",
    "path:etc": "did you mean /etc?",
    "device:fuse": "did you mean /dev/fuse?",
    "device:dev/fuse": "did you mean /dev/fuse?",
    "/dev/fues": "did you mean /dev/fuse?",
    "/dev/net/tum": "did you mean /dev/net/tun?",
    "/dev/nul": "did you mean /dev/null?",
    "/no\0": "",
}


@pytest.mark.parametrize("right", UNKNOWN)
def test_what_nobody_knows_is_refused_with_the_nearest(right: str) -> None:
    with pytest.raises(InvalidValue, match=r"^cannot explain .*: ") as refused:
        explain.named(right, subject())
    assert UNKNOWN[right] in refused.value.hint


# ---- what decides, and what to do -----------------------------------------------------------------------------------

SETTINGS: list[tuple[dict[str, Any], str, bool, str]] = [
    ({}, "net_admin", False, "the announcement takes it"),
    ({}, "net_raw", True, "every VE has it"),
    ({"profiles": ("tun",)}, "net_admin", True, "profile tun"),
    ({"profiles": ("tun",), "capabilities": {"net_admin": "off"}}, "net_admin", False, "--capability net_admin:off"),
    ({"capabilities": {"net_admin": "on"}}, "net_admin", True, "--capability net_admin:on"),
    ({}, "/dev/fuse", False, "no --device"),
    ({"profiles": ("fuse",)}, "/dev/fuse", True, "profile fuse"),
    ({"devices": ("/dev/fuse",)}, "/dev/fuse", True, "--device /dev/fuse"),
    ({}, "/dev/console", False, "ve start --foreground"),
    ({}, "/dev/ptmx", True, "every VE"),
    ({}, "/etc/passwd", True, "every VE"),
    ({}, "/proc/kcore", False, "every profile but nesting and docker"),
    ({}, "/sys/firmware/acpi", False, "every profile but nesting and docker"),
    ({}, "/sys/class", False, "every VE"),
    ({}, "/sys/fs/cgroup/x", True, "every VE"),
    ({}, "/proc/cpuinfo", False, "every VE"),
    ({}, "/proc/self/oom_score_adj", True, "every VE"),
    ({"profiles": ("announcement",)}, "/proc/self/oom_score_adj", False, "profile announcement"),
    ({}, "/proc/sys/kernel/shmall", False, "every profile but nesting and docker"),
    ({"profiles": ("sysctl",)}, "/proc/sys/kernel/shmall", True, "profile sysctl"),
    ({"profiles": ("sysctl",)}, "/proc/sys/kernel/core_pattern", False, "every profile but"),
    ({"profiles": ("sysctl",)}, "/proc/sys/net/ipv4/ip_forward", False, "the announcement takes it"),
    ({"profiles": ("nesting",)}, "/proc/sys/net/ipv4/ip_forward", True, "profile nesting"),
    ({"profiles": ("nesting",)}, "/proc/sys/kernel/shmall", True, "profile nesting"),
    ({"profiles": ("nesting",)}, "/proc/sys/kernel/core_pattern", False, "the kernel"),
    ({"profiles": ("nesting",)}, "/var/lib/ve/template", True, "profile nesting"),
    ({"profiles": ("docker", "fuse")}, "docker", True, "--profile docker --profile fuse"),
    ({}, "default", True, "no --profile"),
    ({}, "settimeofday", False, "the kernel"),
    ({"capabilities": {"sys_boot": "off"}}, "reboot", False, "--capability sys_boot:off"),
    ({"mounts": (Mount("/srv", "/srv/./x", True),)}, "/srv/x/y", False, "--mount /srv:/srv/./x:ro"),
    ({"mounts": (Mount("/srv", "/srv/x"),)}, "/srv/x", True, "--mount /srv:/srv/x"),
    ({"mounts": (Mount("/srv", "/srv/x", True),)}, "/srv/xy", True, "every VE"),
]


@pytest.mark.parametrize(("given", "right", "held", "setting"), SETTINGS)
def test_the_setting_that_decides(given: dict[str, Any], right: str, held: bool, setting: str) -> None:
    said = answer(subject(**given), right)
    assert said.held == held and setting in said.setting


def applied(cure: str, config: Config) -> Config:
    """The config once `ve set` was told what a cure says."""
    match = re.fullmatch(r"ve set web (.*) --save", cure)
    assert match, cure
    words = shlex.split(match[1])
    options: dict[str, list[str]] = {}
    for option, value in zip(words[::2], words[1::2], strict=True):
        options.setdefault(option, []).append(value)
    names = {"--capability": "capabilities", "--device": "devices", "--profile": "profiles", "--mount": "mounts"}
    values: dict[str, Any] = {names[option]: tuple(filter(None, value)) for option, value in options.items()}
    if "capabilities" in values:
        values["capabilities"] = switches(list(values["capabilities"]))
    if "mounts" in values:
        values["mounts"] = tuple(map(Mount.parse, values["mounts"]))
    return replace(config, **values)


CURED = [(given, right) for given, right, *_ in SETTINGS] + [
    ({}, "chown(2)"),
    ({}, "capability:sys_nice"),
    ({}, "announcement"),
    ({"profiles": ("nesting", "fuse")}, "announcement"),
    ({"profiles": ("fuse", "tun"), "devices": ("/dev/null", "/dev/loop-control")}, "tun"),
    ({"profiles": ("fuse", "tun"), "devices": ("/dev/null", "/dev/loop-control")}, "/dev/loop-control"),
    ({"mounts": (Mount("/a b", "/srv"), Mount("/c", "/d"))}, "/srv"),
]
NOT_CURED = {"/dev/console", "/dev/ptmx", "/etc/passwd", "settimeofday", "default", "chown(2)"}


@pytest.mark.parametrize(("given", "right"), CURED)
def test_the_cure_does_what_it_says_and_keeps_the_rest(given: dict[str, Any], right: str) -> None:
    before = subject(**given)
    said = answer(before, right)
    if right in NOT_CURED:
        assert said.cure == ""
    if said.cure:
        after = applied(said.cure, before.config)
        assert answer(subject(after), right).held != said.held
        assert set(before.config.capabilities) <= set(after.capabilities)
        assert set(before.config.devices) - {right} <= set(after.devices)
        assert [each.source for each in after.mounts] == [each.source for each in before.config.mounts]


def test_a_capability_that_only_the_host_could_use_has_no_cure() -> None:
    said = answer(subject(), "sys_module")
    assert not said.held and said.cure == "" and "on the host" in said.why
    assert (
        "on the host" in answer(subject(), "mknod(2)").why
        and "on the host" in answer(subject(), "capability:mknod").why
    )


def test_of_one_that_is_thrown_away_the_cure_is_for_the_next() -> None:
    of = replace(subject(), ephemeral=True)
    assert answer(of, "net_admin").cure == "ve run ... --capability net_admin:on"


def test_profiles_say_what_they_lose() -> None:
    for row in rights.PROFILES:
        said = answer(subject(profiles=(row.name,)), f"profile:{row.name}")
        assert said.held and row.text in said.why and row.loses in said.why
    assert "shmpages" in answer(subject(profiles=("nesting",)), "/proc/sys/kernel/shmall").why
    assert "EACCES for AF_VSOCK" in answer(subject(), "socket").why
    assert "fresh proc" in answer(subject(), "mount").why
    assert "fresh proc" not in answer(subject(profiles=("nesting",)), "mount").why
    assert "strict" in answer(subject(profiles=("strict",)), "unshare").why
