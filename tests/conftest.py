"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

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
