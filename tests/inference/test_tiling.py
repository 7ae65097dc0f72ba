"""Tile positions, blending weights and padding against golden numbers and brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from segkit.inference.tiling import (
    blending_weights,
    importance,
    make_tiles,
    symmetric_padding,
    tile_starts,
)


@pytest.mark.parametrize(
    ("size", "patch", "step", "expected"),
    [
        (110, 64, 0.5, (0, 23, 46)),
        (64, 64, 0.5, (0,)),
        (65, 64, 0.5, (0, 1)),
        (128, 64, 1.0, (0, 64)),
        (129, 64, 1.0, (0, 32, 65)),
        (5, 1, 0.5, (0, 1, 2, 3, 4)),
        (7, 4, 0.1, (0, 1, 2, 3)),
    ],
)
def test_tile_starts(size, patch, step, expected):
    assert tile_starts(size, patch, step) == expected


@given(
    patch=st.integers(1, 40),
    excess=st.integers(0, 200),
    step=st.floats(0.05, 1.0),
)
def test_tiles_cover_every_voxel_and_never_step_too_far(patch, excess, step):
    size = patch + excess
    starts = tile_starts(size, patch, step)
    gaps = np.diff(starts)
    assert starts[0] == 0
    assert starts[-1] == size - patch
    assert (gaps >= 1).all()
    assert (gaps <= min(patch, max(1, patch * step) + 1)).all()


def test_importance_is_the_filtered_impulse():
    for patch in (1, 2, 5, 8, 33, 64):
        impulse = np.zeros(patch)
        impulse[patch // 2] = 1
        expected = gaussian_filter(impulse, patch / 8, mode="constant")
        np.testing.assert_allclose(importance(patch), expected / expected.max(), rtol=1e-12)


@given(patch=st.integers(1, 40), excess=st.integers(0, 100), step=st.floats(0.1, 1.0))
def test_weights_over_a_voxel_add_up_to_one(patch, excess, step):
    size = patch + excess
    starts = tile_starts(size, patch, step)
    total = np.zeros(size)
    for start, weights in zip(starts, blending_weights(size, patch, starts), strict=True):
        assert weights.dtype == np.float32
        assert (weights > 0).all()
        total[start : start + patch] += weights
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_tile_weights_are_the_gaussian_over_the_sum_of_gaussians():
    shape, patch = (11, 6, 8), (8, 4, 8)
    impulse = np.zeros(patch)
    impulse[tuple(edge // 2 for edge in patch)] = 1
    gaussian = gaussian_filter(impulse, [edge / 8 for edge in patch], mode="constant")
    tiles = make_tiles(shape, patch, 0.5)
    total = np.zeros(shape)
    for tile in tiles:
        total[tile.slices] += gaussian
    assert len(tiles) == 2 * 2 * 1
    for tile in tiles:
        weight = np.einsum("i,j,k->ijk", *tile.weights)
        np.testing.assert_allclose(weight, gaussian / total[tile.slices], rtol=1e-5)


def test_the_last_axis_varies_fastest():
    corners = [tuple(s.start for s in tile.slices) for tile in make_tiles((4, 2, 6), (2, 2, 4), 1)]
    assert corners == [(0, 0, 0), (0, 0, 2), (2, 0, 0), (2, 0, 2)]


def test_symmetric_padding_puts_the_odd_voxel_at_the_end():
    assert symmetric_padding((5, 8, 9), (8, 8, 4)) == ((1, 2), (0, 0), (0, 0))
