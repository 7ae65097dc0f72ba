"""Sharpening, median, local changes and blank boxes against scipy and a few lines of numpy."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from segkit.config import AugmentConfig
from segkit.training.augment import filters
from segkit.training.augment.blank import Boxes, fill_boxes, size_bounds
from segkit.training.augment.choices import Batch
from segkit.training.augment.filters import median, sharpen
from segkit.training.augment.local import add_gradient, bump, bump_profiles, local_gamma
from segkit.training.augment.steps import drop_channels

SHAPES = [(6, 7), (4, 6, 5), (1, 5, 4), (2, 2)]


def channels(shape, count=2):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1)) * 3 + 1


@pytest.mark.parametrize("shape", SHAPES)
def test_sharpening_subtracts_the_laplacian(shape):
    image, strength = channels(shape), torch.tensor([0.1, 0.9])
    result = image.clone()
    sharpen(result, strength)
    for before, after, factor in zip(image.numpy(), result.numpy(), strength.tolist(), strict=True):
        expected = before - factor * ndimage.laplace(before.astype(np.float64), mode="nearest")
        np.testing.assert_allclose(after, expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_the_median_is_scipys(shape, size):
    image = channels(shape)
    result = median(image, size)
    for before, after in zip(image.numpy(), result.numpy(), strict=True):
        np.testing.assert_array_equal(after, ndimage.median_filter(before, size=size))


def test_the_parts_of_a_median_make_no_difference(monkeypatch):
    image = channels((5, 4, 3))
    whole = median(image, 3)
    monkeypatch.setattr(filters, "WINDOW_VALUES", {"cpu": 1})
    assert torch.equal(median(image, 3), whole)


def numpy_bump(shape, centre, extent):
    """batchgeneratorsv2's kernel: differences of the distribution function, stretched to 0..1."""
    result = np.ones(())
    for size, c, s in zip(shape, centre, extent, strict=True):
        mass = np.diff(stats.norm.cdf(np.arange(-0.5, size + 0.5), loc=c, scale=s))
        result = result[..., None] * mass
    result = result - result.min()
    return result / result.max()


PLACES = [((-3.0, 2.5, 8.0), (5.0, 1.5, 3.0)), ((2.0, 2.0, 2.0), (40.0, 40.0, 40.0))]


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(("centre", "extent"), PLACES)
def test_gradients_and_local_gamma_by_their_formulas(ndim, centre, extent):
    shape = (7, 6, 5)[:ndim]
    image = channels(shape, 1)
    weights = numpy_bump(shape, centre[:ndim], extent[:ndim])
    places = (torch.tensor([values[:ndim]]) for values in (centre, extent))
    profiles = bump_profiles(*places, shape)
    np.testing.assert_allclose(bump(profiles)[0], weights, atol=2e-4)
    changed, values = image.clone(), image.numpy()
    add_gradient(changed, profiles, torch.tensor([-3.0]))
    np.testing.assert_allclose(changed, values - 3 * weights, atol=1e-3)
    for exponent in (0.01, 0.3, 4.0):
        changed = image.clone()
        local_gamma(changed, profiles, torch.tensor([exponent]))
        low, span = values.min(), values.max() - values.min()
        shares = (values - low) / span
        expected = (shares * (1 - weights) + shares**exponent * weights) * span + low
        np.testing.assert_allclose(changed, expected, atol=2e-3)


def test_several_channels_at_once_are_as_each_alone():
    image = channels((5, 6), 3)
    centre = torch.tensor([[0.0, 3.0], [9.0, 1.0], [2.0, -2.0]])
    extent, value = torch.full((3, 2), 2.5), torch.tensor([0.3, 2.0, 3.5])
    for transform in (add_gradient, local_gamma):
        together = image.clone()
        transform(together, bump_profiles(centre, extent, (5, 6)), value)
        for i in range(3):
            alone, row = image[i : i + 1].clone(), slice(i, i + 1)
            transform(alone, bump_profiles(centre[row], extent[row], (5, 6)), value[row])
            torch.testing.assert_close(together[row], alone)


def test_a_gaussian_far_outside_is_a_slope_and_finite():
    extent = torch.tensor([[1.0, 2.0]])
    weights = bump(bump_profiles(torch.tensor([[-20.0, 40.0]]), extent, (6, 6)))[0]
    assert weights.isfinite().all()
    assert weights.argmax() == 5  # the corner nearest to it
    assert (float(weights.min()), float(weights.max())) == (0, 1)
    beyond_all_numbers = bump(bump_profiles(torch.tensor([[-90.0, 0.0]]), extent, (6, 6)))
    assert torch.equal(beyond_all_numbers, torch.zeros(1, 6, 6))


def test_local_changes_of_a_constant_channel_and_of_a_single_voxel():
    profiles = bump_profiles(torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 2.0]]), (3, 3))
    constant = torch.full((1, 3, 3), 4.0)
    local_gamma(constant, profiles, torch.tensor([0.5]))
    torch.testing.assert_close(constant, torch.full((1, 3, 3), 4.0))
    single = bump_profiles(torch.zeros(1, 2), torch.ones(1, 2), (1, 1))
    assert torch.equal(bump(single), torch.zeros(1, 1, 1))


def test_boxes_are_filled_with_their_mean_one_after_the_other():
    image = torch.arange(24.0).reshape(2, 3, 4)
    boxes = Boxes(
        rows=torch.tensor([1, 1]),
        starts=torch.tensor([[0, 0], [1, 1]]),
        sizes=torch.tensor([[2, 2], [2, 3]]),
    )
    fill_boxes(image, boxes)
    expected = np.arange(24.0).reshape(2, 3, 4)
    expected[1, 0:2, 0:2] = expected[1, 0:2, 0:2].mean()
    expected[1, 1:3, 1:4] = expected[1, 1:3, 1:4].mean()
    np.testing.assert_allclose(image, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("length", "bounds"), [(1, (1, 1)), (5, (1, 1)), (9, (1, 2)), (30, (3, 9)), (128, (12, 41))]
)
def test_the_edges_of_boxes_are_nnunets(length, bounds):
    low, high = max(1, length // 10), length // 3
    assert size_bounds(length, AugmentConfig().blank_size) == bounds == (low, max(low, high - 1))


def test_dropped_channels_are_zero_and_the_others_as_they_were():
    image = torch.ones(300, 3, 2, 2)
    config = AugmentConfig(p_channel_dropout=0.5)
    batch = Batch(image=image, config=config, generator=torch.Generator().manual_seed(0))
    drop_channels(batch)
    kept = image.flatten(2)
    assert ((kept == 0).all(2) | (kept == 1).all(2)).all()
    assert (kept.sum((1, 2)) > 0).all()
    assert (kept == 0).any()
