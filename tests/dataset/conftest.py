"""The tiny data set as fixtures."""

import json

import pytest
from tiny_dataset import CONTENT, write_dataset, write_itk


@pytest.fixture
def itk_file():
    return write_itk


@pytest.fixture
def content():
    return json.loads(json.dumps(CONTENT))


@pytest.fixture
def dataset(tmp_path):
    """Return a folder with three good cases, a, b and c, of shape (4, 5, 6)."""
    return write_dataset(tmp_path / "Dataset007_Toy")
