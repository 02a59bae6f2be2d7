"""How many ptys a devpts may have, as the kernel has taken it; mountinfo is the witness."""

import re
from pathlib import Path

import pytest

from tests.kernel import holder
from tests.kernel.holder import BASE
from ve import outfit, ptys

pytestmark = pytest.mark.any_kernel


def options(pid: int) -> str:
    """Of its devpts, those of the file system."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return next(line.split()[-1] for line in lines if line.split()[4] == "/dev/pts")


def test_the_limit_that_is_set_is_the_kernel_s() -> None:
    with holder.running("") as pid:
        for most in (5, 7, ptys.MOST - 1):
            ptys.limit(pid, BASE, outfit.devpts(most, BASE))
            assert re.search(rf",max={most}\b", options(pid))
        ptys.limit(pid, BASE, outfit.devpts(ptys.MOST, BASE))
        assert "max=" not in options(pid)


def test_one_that_the_kernel_makes_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with holder.running("") as pid:
        monkeypatch.setattr(ptys, "_reconfigure", lambda *_: None)
        with pytest.raises(OSError, match=r"the kernel has made [0-9]+ of 5"):
            ptys.limit(pid, BASE, outfit.devpts(5, BASE))
