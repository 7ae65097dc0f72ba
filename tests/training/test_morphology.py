"""Morphology by balls against the definition, and against scipy with the ball written out."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from segkit.training.augment.morphology import (
    OPERATORS,
    apply_near,
    close,
    dilate,
    erode,
    open_,
    surroundings,
)

RADII = (0.0, 0.9, 1.0, 1.4, 1.5, 2.0, 2.3, 3.7, 8.0)


def random_mask(shape, seed=0, share=0.1):
    return torch.from_numpy(np.random.default_rng(seed).random(shape) < share)


def dilated_by_definition(mask, radius):
    """Compare every voxel with every true one."""
    voxels = np.argwhere(np.ones_like(mask))
    true = np.argwhere(mask)
    if not len(true):
        return np.zeros_like(mask)
    squared = ((voxels[:, None] - true[None]) ** 2).sum(-1).min(1)
    return (squared <= radius**2).reshape(mask.shape)


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("shape", [(7, 9), (1, 12), (5, 6, 7), (1, 8, 9)])
def test_dilation_by_definition(shape, radius):
    for seed in range(3):
        mask = random_mask(shape, seed, share=0.06)
        expected = dilated_by_definition(mask.numpy(), radius)
        np.testing.assert_array_equal(dilate(mask, radius).numpy(), expected)


def ball(radius, ndim):
    reach = int(radius)
    grid = np.mgrid[(slice(-reach, reach + 1),) * ndim]
    return (grid**2).sum(0) <= radius**2


def by_scipy(operator, mask, radius):
    """Outside the array nothing is true for a dilation, and everything for an erosion."""
    element = ball(radius, mask.ndim)

    def dilated(array):
        return ndimage.binary_dilation(array, element)

    def eroded(array):
        return ndimage.binary_erosion(array, element, border_value=1)

    return {
        dilate: dilated,
        erode: eroded,
        close: lambda array: eroded(dilated(array)),
        open_: lambda array: dilated(eroded(array)),
    }[operator](mask)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("radius", [1.0, 1.7, 2.5, 4.0])
@pytest.mark.parametrize("shape", [(21, 24), (12, 14, 13)])
def test_every_operator_is_scipys_with_the_ball_written_out(operator, radius, shape):
    for seed, share in enumerate((0.02, 0.5, 0.97)):
        mask = random_mask(shape, seed, share)
        expected = by_scipy(operator, mask.numpy(), radius)
        np.testing.assert_array_equal(operator(mask, radius).numpy(), expected)
        np.testing.assert_array_equal(apply_near(operator, mask, radius).numpy(), expected)


@pytest.mark.parametrize("operator", OPERATORS)
def test_only_the_surroundings_are_looked_at_and_nothing_is_missed(operator):
    for corner in ((0, 0, 0), (12, 20, 9), (28, 25, 17)):
        mask = torch.zeros(32, 30, 22, dtype=torch.bool)
        z, y, x = corner
        mask[z : z + 5, y : y + 5, x : x + 5] = random_mask((5, 5, 5), share=0.6)[
            : 32 - z, : 30 - y, : 22 - x
        ]
        for radius in (1.0, 2.9):
            assert torch.equal(apply_near(operator, mask, radius), operator(mask, radius))


def test_nothing_and_everything_stay_so():
    nothing = torch.zeros(5, 6, 7, dtype=torch.bool)
    for operator in OPERATORS:
        assert not apply_near(operator, nothing, 2.0).any()
        assert apply_near(operator, ~nothing, 2.0).all()
        assert apply_near(operator, nothing, 2.0).data_ptr() != nothing.data_ptr()


def test_surroundings_end_at_the_border():
    mask = torch.zeros(9, 8, dtype=torch.bool)
    assert surroundings(mask, 2) is None
    mask[1, 4] = mask[3, 5] = True
    assert surroundings(mask, 0) == (slice(1, 4), slice(4, 6))
    assert surroundings(mask, 3) == (slice(0, 7), slice(1, 8))
