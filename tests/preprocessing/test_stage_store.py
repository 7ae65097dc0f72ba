"""Predictions of a previous stage on disk."""

import numpy as np
import pytest

from segkit.errors import UserError
from segkit.preprocessing.stage_store import StageStore


@pytest.mark.parametrize(("highest", "dtype"), [(2, np.int8), (127, np.int8), (200, np.int16)])
def test_round_trip_in_the_smallest_type(tmp_path, highest, dtype):
    store = StageStore(tmp_path / "new" / "folder")
    labels = np.array([[[[0, 1], [highest, 0]]]], dtype=np.int16)
    store.save("a", labels, made_from="x")
    found = store.labels("a")
    assert (found.dtype, isinstance(found, np.memmap)) == (dtype, True)
    np.testing.assert_array_equal(found, labels)


def test_stale_and_incomplete_ones_are_told(tmp_path):
    store, labels = StageStore(tmp_path), np.zeros((1, 2, 2, 2), np.int16)
    assert not store.is_made_from("a", "x")
    store.save("a", labels, made_from="x")
    assert store.is_made_from("a", "x")
    assert not store.is_made_from("a", "y")
    assert not store.is_made_from("b", "x")
    store.save("a", labels, made_from="y")
    assert store.is_made_from("a", "y")
    (tmp_path / "a.npy").unlink()
    assert not store.is_made_from("a", "y")
    with pytest.raises(UserError, match="cannot read the array"):
        store.labels("a")


def test_cases_that_are_gone_leave_nothing(tmp_path):
    store, labels = StageStore(tmp_path), np.zeros((1, 2, 2, 2), np.int16)
    for case in ("a", "b"):
        store.save(case, labels, made_from="x")
    store.keep_only(["b", "c"])
    assert {path.name for path in tmp_path.iterdir()} == {"b.npy", "b.json"}
