"""Fixtures shared by all tests."""

import signal
from pathlib import Path

import pytest

from segkit import runtime
from segkit.runtime import log

SHARED_DATA = Path(__file__).parents[1] / ".." / "shared" / "data"


@pytest.fixture
def shared_data():
    """Return the folder of a real dataset beside the checkout; skip where it is missing."""

    def find(name):
        folder = SHARED_DATA / name
        if not folder.is_dir():
            pytest.skip(f"real dataset {name} is not beside this checkout")
        return folder.resolve()

    return find


@pytest.fixture(autouse=True)
def _machine_of_its_own(monkeypatch):
    """What other programs do must not decide a test, and looking for it takes time."""
    monkeypatch.setattr(runtime, "idle_cpus", runtime.cpu_count)


@pytest.fixture(autouse=True)
def _process_as_before():
    """Put back what a command run in this process changes: logging, and who hears SIGTERM."""
    handlers, propagate, level = list(log.handlers), log.propagate, log.level
    handler = signal.getsignal(signal.SIGTERM)
    yield
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)
    signal.signal(signal.SIGTERM, handler)
