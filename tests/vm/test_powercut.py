"""A power cut at any point: verbs run on a stock kernel, on a disk whose writes are logged, and are cut off afterwards.

What a cut leaves is looked at on this machine's kernel: see powercut.py and replay.py.  KERNEL=6.1, 6.12 or 7 chooses
what is booted.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm import guest, kernel, writelog
from tests.vm.powercut import SPARE
from tests.vm.replay import CASES

pytestmark = pytest.mark.timeout(3600)

# As small as each can be made, and how.
KINDS = {
    "ext4": (128 << 20, ["mkfs.ext4", "-q", "-F", "-b", "4096", "{image}", "{kib}k"]),
    "xfs": (320 << 20, ["mkfs.xfs", "-q", "-d", "size={kib}k", "{image}"]),
    "btrfs": (128 << 20, ["mkfs.btrfs", "-q", "-b", "{kib}k", "{image}"]),
}


def make(kind: str, place: Path) -> Path:
    """A disk with this file system on it, and behind it room for marks."""
    image, (size, command) = place / f"{kind}.img", KINDS[kind]
    with image.open("wb") as file:
        file.truncate(size + SPARE)
    subprocess.run([word.format(image=image, kib=size >> 10) for word in command], check=True, capture_output=True)
    subprocess.run(["cp", "--sparse=always", image, place / f"{kind}.base"], check=True)
    return image


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with the disks as they were, KIND.base, and all that was written to them since, KIND.log."""
    place = tmp_path_factory.mktemp("powercut")
    options = [option for kind in KINDS for option in writelog.options(make(kind, place), place / f"{kind}.log")]
    disk, said = guest.make_disk(place), list[bytes]()
    try:
        image = kernel.obtain(os.environ.get("KERNEL", "6.1"))
        command = [sys.executable, "-m", "tests.vm.powercut", *KINDS]
        code = guest.boot(image, disk, command, said.append, tuple(options))
        assert code == 0, b"".join(said).decode(errors="replace")[-4000:]
        yield place
    finally:
        for path in place.iterdir():
            path.unlink()


@pytest.mark.parametrize("kind", KINDS)
def test_each_file_is_old_or_new_and_what_returned_is_there(logs: Path, kind: str) -> None:
    apart = ["unshare", "--mount", "--net", "--propagation", "private"]
    command = [sys.executable, "-m", "tests.vm.replay", kind, f"{logs}/{kind}.base", f"{logs}/{kind}.log"]
    done = subprocess.run([*apart, *command], cwd=guest.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    print(next(line for line in done.stdout.splitlines() if line.startswith(CASES)))
