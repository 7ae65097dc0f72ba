"""Counting classes, structures and their combinations, against a voxel-by-voxel count."""

from collections import Counter

import numpy as np
import pytest

from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.planning.counts import count_classes, count_combinations


def structures(count):
    classes = tuple(LabelClass(name=f"s{i}", value=i + 1) for i in range(count))
    return LabelSchema(classes=classes, overlapping=True)


def brute_force(channels, schema):
    names = [one.name for one in schema.classes]
    voxels = channels.reshape(len(channels), -1).T
    present = ("+".join(n for n, v in zip(names, voxel, strict=True) if v == 1) for voxel in voxels)
    return Counter(name for name in present if name)


@pytest.mark.parametrize("count", [1, 2, 8, 9, 70])
def test_combinations_are_those_of_every_voxel(count):
    rng = np.random.default_rng(count)
    schema = structures(count)
    channels = rng.choice([-1, 0, 1, 2], p=[0.2, 0.5, 0.2, 0.1], size=(count, 3, 5, 7))
    channels[:, 0] = channels[:, 0, :1]  # with long runs
    found = count_combinations(channels.astype(np.int16), schema)
    assert found == brute_force(channels, schema)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert sum(found.values()) == (channels == 1).any(axis=0).sum()


def test_no_structure_anywhere():
    channels = np.full((3, 2, 2, 2), 2, dtype=np.int16)
    assert count_combinations(channels, structures(3)) == {}


def test_structures_are_counted_where_they_are_known():
    channels = np.zeros((2, 1, 2, 4), dtype=np.int16)
    channels[0, 0, 0] = 1, 1, 2, 0
    channels[1] = 2  # nobody looked for the second
    valid = np.ones((1, 2, 4), dtype=bool)
    valid[0, 1, 3] = False
    assert count_classes(channels, valid, structures(2)) == ((2, 0), (6, 0))


def test_classes_are_known_on_the_same_voxels():
    schema = LabelSchema(
        classes=(LabelClass(name="a", value=5), LabelClass(name="b", value=7)), ignore_values=(9,)
    )
    indices = np.array([[[[0, 1, 1, 3, 3, 2]]]], dtype=np.int16)
    valid = np.array([[[False, True, True, True, False, True]]])
    assert count_classes(indices, valid, schema) == ((2, 1), (3, 3))
