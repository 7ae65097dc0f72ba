"""Orientation codes of geometries."""

import itertools

import numpy as np
import pytest

from segkit.types import Geometry


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product([1, -1], repeat=3)))
def test_orientation_names_the_direction_of_every_axis(order, signs):
    letters = [("R", "L"), ("A", "P"), ("I", "S")]
    matrix = np.zeros((3, 3))
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        matrix[world, axis] = sign
    geometry = Geometry(spacing_mm=(1, 1, 1), direction=tuple(matrix.ravel()))
    expected = "".join(letters[w][int(s > 0)] for w, s in zip(order, signs, strict=True))
    assert geometry.orientation() == expected


def test_oblique_axes_take_their_nearest_direction():
    angle = np.radians(30)
    matrix = [np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0, 0, 0, 1]
    assert Geometry(spacing_mm=(1, 1, 1), direction=tuple(matrix)).orientation() == "LPS"
