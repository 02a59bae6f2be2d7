"""A program of the host's that works in a directory which we have by a descriptor, and what it says."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack

from ve import descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from subprocess import CompletedProcess


def run(
    directory: int, *words: str, stdin: int = subprocess.DEVNULL, keep: tuple[int, ...] = ()
) -> CompletedProcess[str]:
    """Run it there, in English, until it ends; it has the descriptors in keep, too.  Bytes are as in os.fsdecode()."""
    with ExitStack() as held:
        return subprocess.run(
            words,
            cwd=f"/proc/self/fd/{descriptors.above_stdio(directory, held)}",
            stdin=descriptors.above_stdio(stdin, held),
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
            pass_fds=[descriptors.above_stdio(fd, held) for fd in keep],
            env=os.environ | {"LC_ALL": "C"},
        )


def said(done: CompletedProcess[str], name: str) -> str:
    """Why one of this name failed: the first thing that it says."""
    line = done.stderr.strip().partition("\n")[0].removeprefix(f"{name}: ")
    return line.encode(errors="surrogateescape").decode(errors="replace") or f"{name} ended with {done.returncode}"
