"""The union where it meets others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ve import unionfs
from ve.errors import InUse


@pytest.fixture
def overlay(state_dir: Path) -> unionfs.Overlay:
    (state_dir / "lower").mkdir()
    unionfs.prepare(str(state_dir), str(state_dir / "lower"))
    return unionfs.Overlay(str(state_dir / "lower"), str(state_dir / "upper"), str(state_dir / "work"))


def test_an_overlay_that_is_just_going_is_waited_for(overlay: unionfs.Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [overlay.detached()]
    waits = []

    def let_go(seconds: float) -> None:
        waits.append(seconds)
        while held:
            os.close(held.pop())

    monkeypatch.setattr("ve.unionfs.time.sleep", let_go)
    os.close(overlay.detached())
    assert waits


def test_an_overlay_that_stays_is_named(overlay: unionfs.Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unionfs, "PATIENCE", 0.0)
    held = overlay.detached()
    try:
        with pytest.raises(InUse, match="another overlay still uses it"):
            overlay.detached()
    finally:
        os.close(held)


@pytest.mark.any_kernel
def test_an_upper_without_attributes_is_refused(state_dir: Path) -> None:
    """overlayfs would take it, and fail with EIO where it has to note something."""
    program = """
import os, sys
from ve import unionfs
os.chdir(sys.argv[1])
os.mkdir("lower")
unionfs.prepare(".", "lower")
print(unionfs.Overlay("lower", "upper", "work").detached())
"""
    mount = 'mount -t ramfs none "$0" && exec "$@"'
    line = ["unshare", "--mount", "sh", "-c", mount, str(state_dir), sys.executable, "-c", program, str(state_dir)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "its file system has no trusted.overlay.* attributes" in done.stderr
