"""What there is in the place beside what was there before: asked of the kernel and the disk, not of who made it."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

_CGROUPS = "/sys/fs/cgroup"


@dataclass(frozen=True)
class Seen:
    """Each a set of words that tell one from another."""

    processes: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    interfaces: frozenset[str]
    rules: frozenset[str]  # of the firewall
    files: frozenset[str]

    def __sub__(self, other: "Seen") -> "Seen":
        return Seen(*(getattr(self, each.name) - getattr(other, each.name) for each in fields(self)))

    def shown(self) -> str:
        """All of it, in lines."""
        return "\n".join(f"  {each.name}: {word}" for each in fields(self) for word in sorted(getattr(self, each.name)))

    def counts(self) -> dict[str, int]:
        return {each.name: len(getattr(self, each.name)) for each in fields(self)}


def seen(directories: Sequence[Path]) -> Seen:
    """directories: where files are looked for."""
    interfaces = subprocess.check_output(["ip", "-o", "link"], text=True).splitlines()
    rules = subprocess.check_output(["nft", "-s", "list", "ruleset"], stderr=subprocess.DEVNULL, text=True).splitlines()
    return Seen(
        frozenset(_processes()),
        frozenset(_numbered(line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())),
        frozenset(path for path, _, _ in os.walk(_CGROUPS)),
        frozenset(line.split()[1].partition("@")[0] for line in interfaces),
        frozenset(_numbered(line.strip() for line in rules if line.strip(" \t}"))),
        frozenset(path for directory in directories for path in _files(directory)),
    )


def _numbered(words: Iterator[str]) -> Iterator[str]:
    """Two that are alike are two."""
    count: dict[str, int] = {}
    for word in words:
        count[word] = count.get(word, 0) + 1
        yield f"{word} {count[word]}"


def _processes() -> Iterator[str]:
    """By pid and start time; no zombies.  Who reads this is among them, each time."""
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                name, _, rest = (path / "stat").read_text().rpartition(")")
            except OSError:
                continue
            words = rest.split()
            if words[0] != "Z":
                yield f"{path.name} {words[19]} {name.partition('(')[2]}"


def _files(directory: Path) -> Iterator[str]:
    """Not what is mounted there: those are the mounts."""
    for path, names, files in os.walk(directory):
        names[:] = [name for name in names if not os.path.ismount(os.path.join(path, name))]
        yield from (os.path.join(path, name) for name in (*names, *files))
