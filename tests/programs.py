"""Programs in C for inside a VE."""

import subprocess
from pathlib import Path

FLAGS = ("-static", "-O1", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE")


def compiled(program: Path, *sources: Path) -> Path:
    """The program of these sources, which runs in any root."""
    subprocess.run(["gcc", *FLAGS, "-o", program, *sources], check=True)
    return program
