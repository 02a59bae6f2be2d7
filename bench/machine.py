"""The machine that was measured on, in words that belong beside every number."""

import os
import platform
import re
import subprocess
from pathlib import Path

PACKAGES = ("crun", "runc", "lxc", "podman", "util-linux", "bubblewrap", "systemd-container")


def described(work: Path) -> dict[str, str]:
    """What it is, as lines of two words each."""
    names = re.findall(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.M)
    total = int(re.findall(r"^MemTotal: +(\d+)", Path("/proc/meminfo").read_text(), re.M)[0])
    controllers = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
    return {
        "CPUs": f"{len(names) or os.cpu_count()} x {names[0] if names else platform.machine()}",
        "memory": f"{total / (1 << 20):.0f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "file system of the state dirs": _output("findmnt", "-n", "-o", "FSTYPE", "-T", str(work)),
        "cgroup2 controllers": ", ".join(controllers) or "none",
        **{package: _version(package) for package in PACKAGES},
    }


def load() -> str:
    """How many others wanted a CPU in the last minute."""
    return Path("/proc/loadavg").read_text().split()[0]


def _version(package: str) -> str:
    try:
        return _output("dpkg-query", "--show", "--showformat=${Version}", package)
    except subprocess.CalledProcessError:
        return "not from a Debian package"


def _output(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return done.stdout.strip()
