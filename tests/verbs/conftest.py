"""VEs for one test, as many as it wants."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ve
from tests import conftest
from tests.programs import compiled
from tests.verbs import witness

_veids = itertools.count(3001)
Make = Callable[..., "ve.Environment"]


@pytest.fixture
def make(host: "ve.Host", host_dir: Path) -> Iterator[Make]:
    """make(name="red") creates a VE of the template busybox; after the test it is gone, and nothing of it is left."""
    made = []

    def create(template: str = "busybox", **options: Any) -> "ve.Environment":
        made.append(next(_veids))
        return host.create(made[-1], template=template, **options)

    yield create
    for veid in made:
        conftest._end(host, veid)
        assert witness.left_of(host_dir, veid) == []


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of probe.c."""
    return compiled(tmp_path_factory.mktemp("probe") / "probe", Path(__file__).with_name("probe.c"))


@pytest.fixture
def spare(host: "ve.Host", host_dir: Path) -> Iterator[str]:
    """A template that a test may break; ask for it before make."""
    template = host.templates.add("spare", host.templates.get("busybox").path)
    yield template.ref
    shutil.rmtree(Path(host.templates.path, template.name), ignore_errors=True)  # a test may have removed it
