"""Files of a cgroup that this kernel does not have are named as such, not as one that nobody may write."""

import os
from collections.abc import Iterator

import pytest

from tests.conftest import cgroup_root
from ve import enforce
from ve.cgroups import Cgroup
from ve.errors import NotSupported


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A cgroup for which no controller is enabled."""
    path = cgroup_root() / f"ve-test-{os.getpid()}"
    inner = path / "inner"
    inner.mkdir(parents=True)
    yield Cgroup(str(inner))
    inner.rmdir()
    path.rmdir()


@pytest.mark.any_kernel
@pytest.mark.parametrize("name", ["io.max", "memory.max", "pids.max"])
def test_a_file_that_is_not_there(group: Cgroup, name: str) -> None:
    assert not os.path.exists(f"{group.path}/{name}")
    with pytest.raises(NotSupported, match=f"cannot set {name}: this kernel or cgroup does not have it"):
        enforce.apply(group, {name: 5})
