"""A VE and a command in it have the limits of a machine's own init, whatever shell, job or service they come from."""

import os
import re
import subprocess
from pathlib import Path

import pytest

import ve
from tests import lacking
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make

# What stands before `ve`: soft limits that are too low or too high, hard ones, a nice value and an OOM score.
STRANGE: tuple[str, ...] = (
    "choom",
    "-n",
    "300",
    "--",
    "nice",
    "-n",
    "5",
    "prlimit",
    "--stack=unlimited:",
    "--core=unlimited:",
)
STRANGE += (
    "--fsize=1000000:",
    "--nproc=20:",
    "--sigpending=7:",
    "--msgqueue=5000:",
    "--nofile=64:600",
    "--as=4000000000:",
)
SHOW = "cat /proc/self/limits /proc/self/oom_score_adj; cut -d' ' -f19 /proc/self/stat"
MIB = 1 << 20


def privileged() -> bool:
    """May we raise a hard limit?"""
    bits = int(witness.status(os.getpid())["CapEff"], 16)
    return bool(bits >> 24 & 1)  # CAP_SYS_RESOURCE


def limits(text: str) -> dict[str, tuple[str, str]]:
    """Soft and hard by name, of what is in a /proc/PID/limits."""
    found = re.findall(r"^Max (.*?)  +(\S+) +(\S+)", text, re.MULTILINE)
    return {name: (soft, hard) for name, soft, hard in found}


def expected() -> dict[str, tuple[str, str]]:
    half = str(min(int(Path(f"/proc/sys/kernel/{name}").read_text()) for name in ("threads-max", "pid_max")) // 2)
    free = ("unlimited", "unlimited")
    return {
        "cpu time": free, "file size": free, "data size": free, "stack size": (str(8 * MIB), "unlimited"),
        "core file size": ("0", "unlimited"), "resident set": free, "processes": (half, half),
        "open files": ("1024", "524288") if privileged() else ("600", "600"),
        "locked memory": (str(8 * MIB), str(8 * MIB)), "address space": free, "file locks": free,
        "pending signals": (half, half), "msgqueue size": ("819200", "819200"), "nice priority": ("0", "0"),
        "realtime priority": ("0", "0"), "realtime timeout": free,
    }  # fmt: skip


def run_strangely(host_dir: Path, *words: commandline.Word) -> str:
    line = [*STRANGE, *commandline.words(host_dir, *words)]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


def test_of_init(host_dir: Path, make: Make) -> None:
    env = make()
    run_strangely(host_dir, "start", env.veid)
    init = Path(f"/proc/{witness.init(host_dir, env.veid)}")
    assert limits((init / "limits").read_text()) == expected()
    assert (init / "oom_score_adj").read_text() == "0\n"
    assert (init / "stat").read_text().rpartition(")")[2].split()[16] == "0"  # its nice value


def test_of_the_whole_ve(host_dir: Path, make: Make) -> None:
    """The kernel holds a user namespace to the limits of its maker, all its users together."""
    env = make()
    run_strangely(host_dir, "start", env.veid)
    script = "for i in $(seq 50); do sleep 100000 & done; jobs | wc -l; kill $(jobs -p)"
    done = env.run(["sh", "-c", script], user="nobody", capture_output=True, text=True, timeout=commandline.PATIENCE)
    assert done.stdout == "50\n"


@pytest.mark.parametrize("words", [("exec", "VE"), ("exec", "VE", "--user", "nobody"), ("run", "busybox", "--")])
def test_of_a_command(host_dir: Path, env: "ve.Environment", words: tuple[str, ...]) -> None:
    line = [str(env.veid) if word == "VE" else word for word in words]
    shown = run_strangely(host_dir, *line, "sh", "-c", SHOW)
    assert limits(shown) == expected()
    assert shown.splitlines()[-2:] == ["0", "0"]


@pytest.mark.parametrize(("name", "rlimit"), [("numsiginfo", "sigpending"), ("nofile", "nofile")])
def test_what_is_asked_for_and_cannot_be_had_is_refused(host_dir: Path, make: Make, name: str, rlimit: str) -> None:
    """Not taken and shown, while the kernel has less."""
    env = make(**{name: "500"})
    line = [*lacking.without_capability("sys_resource"), "prlimit", f"--{rlimit}=400:400"]
    with witness.nothing_changes(host_dir):
        why = f"RLIMIT_{rlimit.upper()} 500 is more than the process that starts it may have"
        sentence = f"cannot start {env.veid}: limits: cannot limit the VE: {why}"
        hint = witness.refused(host_dir, 5, sentence, "start", env.veid, before=tuple(line))
    assert hint == "run it with CAP_SYS_RESOURCE"


def test_the_caller_keeps_its_own(host: "ve.Host", make: Make) -> None:
    before = Path("/proc/self/limits").read_text()
    env = make()
    env.start()
    assert env.run(["true"]).returncode == 0
    assert Path("/proc/self/limits").read_text() == before
