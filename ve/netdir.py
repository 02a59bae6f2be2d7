"""Where what is the host's, and so of all state dirs, is kept of networks: pools and claims, and facts of a boot."""

from __future__ import annotations

import contextlib
import os
from contextvars import ContextVar

from ve.state import DEFAULT_DIR, DEFAULT_RUN_DIR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_ELSEWHERE: ContextVar[str] = ContextVar("the directory of networks", default="")


@contextlib.contextmanager
def elsewhere(path: str) -> Iterator[None]:
    """Have them all in this directory, for what the calling thread does meanwhile: in a host of its own making."""
    token = _ELSEWHERE.set(path)
    try:
        yield
    finally:
        _ELSEWHERE.reset(token)


def directory() -> str:
    given = _ELSEWHERE.get() or os.environ.get("VE_NETWORK_DIR")
    return os.path.abspath(given) if given else os.path.join(DEFAULT_DIR, "network")


def run_directory() -> str:
    """Where facts of this boot about networks are."""
    given = _ELSEWHERE.get() or os.environ.get("VE_NETWORK_DIR")
    return os.path.join(os.path.abspath(given), "run") if given else os.path.join(DEFAULT_RUN_DIR, "network")


def guarded(owner: str) -> str:
    """What a port of a bridge may send as: a line of its name, its MAC and its addresses (ve/bridgeports.py)."""
    return os.path.join(run_directory(), "guarded", owner)
