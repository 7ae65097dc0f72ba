"""What was meant by a name that does not exist."""

import pytest

from segkit.errors import closest, nearest


@pytest.mark.parametrize(
    ("name", "found"), [("lables", "labels"), ("FILE_ENDING", "file_ending"), ("colour", None)]
)
def test_the_closest_name_is_found_whatever_its_capitals(name, found):
    assert closest(name, ["labels", "file_ending"]) == found


def test_without_a_close_name_all_are_listed():
    assert nearest("lable", ["labels", "dataset"]) == "did you mean 'labels'?"
    assert nearest("colour", ["labels", "dataset"]) == "valid names: dataset, labels"
