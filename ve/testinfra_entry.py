"""What pytest loads of us in each run: pytest-testinfra, where that is loaded, learns of ve:// (ve/testinfra.py)."""

import sys


def pytest_configure() -> None:
    """After all plugins are loaded; who does without testinfra pays nothing."""
    if backend := sys.modules.get("testinfra.backend"):
        backend.BACKENDS.setdefault("ve", "ve.testinfra.Backend")
