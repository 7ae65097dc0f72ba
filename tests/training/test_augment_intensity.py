"""Every intensity transform against a few lines of numpy or scipy."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from segkit.training.augment.intensity import (
    add_noise,
    gamma,
    gamma_inverted,
    scale_brightness,
    scale_contrast,
)
from segkit.training.augment.separable import (
    apply_along_axis,
    blur_matrices,
    low_resolution_matrices,
)

FACTORS = torch.tensor([[0.8, 1.3], [1.0, 0.7]])


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(params=[(5, 7), (4, 6, 5)])
def image(request):
    return torch.randn(2, 2, *request.param, generator=torch.Generator().manual_seed(1)) * 3 + 1


def per_channel(image, oracle):
    """Apply a numpy function of (channel, factor) to each channel."""
    result = np.empty_like(image.numpy())
    for b, c in np.ndindex(*image.shape[:2]):
        result[b, c] = oracle(image[b, c].numpy().astype(np.float64), float(FACTORS[b, c]))
    return result


def test_noise_has_one_deviation_for_all_channels(image):
    noise = torch.randn(image.shape)
    result = add_noise(image, torch.tensor([0.1, 0.5]), noise)
    np.testing.assert_allclose(result[0], image[0] + 0.1 * noise[0], rtol=1e-6)
    np.testing.assert_allclose(result[1], image[1] + 0.5 * noise[1], rtol=1e-6)


def test_brightness_multiplies(image):
    expected = per_channel(image, lambda x, factor: x * factor)
    np.testing.assert_allclose(scale_brightness(image, FACTORS), expected, rtol=1e-6)


def test_contrast_stretches_about_the_mean_within_the_range(image):
    expected = per_channel(
        image, lambda x, f: np.clip((x - x.mean()) * f + x.mean(), x.min(), x.max())
    )
    np.testing.assert_allclose(scale_contrast(image, FACTORS), expected, rtol=1e-4, atol=1e-5)


def numpy_gamma(x, exponent):
    bent = ((x - x.min()) / (x.max() - x.min())) ** exponent * (x.max() - x.min()) + x.min()
    return (bent - bent.mean()) / bent.std() * x.std() + x.mean()


def test_gamma_bends_and_restores_the_statistics(image):
    expected = per_channel(image, numpy_gamma)
    np.testing.assert_allclose(gamma(image, FACTORS), expected, rtol=1e-4, atol=1e-4)


def test_inverted_gamma_is_gamma_of_the_negative(image):
    expected = per_channel(image, lambda x, exponent: -numpy_gamma(-x, exponent))
    np.testing.assert_allclose(gamma_inverted(image, FACTORS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transform", [scale_contrast, gamma, gamma_inverted])
def test_a_constant_channel_stays(transform):
    constant = torch.full((2, 2, 3, 3), 4.0)
    np.testing.assert_allclose(transform(constant, FACTORS), constant, rtol=1e-6)


def test_transforms_leave_their_input(image):
    before = image.clone()
    for transform in (scale_brightness, scale_contrast, gamma, gamma_inverted):
        transform(image, FACTORS)
    assert torch.equal(image, before)


@pytest.mark.parametrize(("sigma", "radius"), [(0.5, 1), (0.6, 2), (0.9, 2), (1.0, 3), (2.0, 6)])
def test_blur_is_a_gaussian_with_reflecting_ends(sigma, radius):
    line = np.random.default_rng(0).normal(size=9)
    expected = ndimage.gaussian_filter1d(line, sigma, mode="mirror", radius=radius)
    matrix = blur_matrices(torch.tensor([sigma]), 9)[0]
    np.testing.assert_allclose(matrix.numpy() @ line, expected, atol=1e-6)


def test_blur_of_several_widths_at_once():
    together = blur_matrices(torch.tensor([0.5, 1.0]), 8)
    for matrix, sigma in zip(together, (0.5, 1.0), strict=True):
        alone = blur_matrices(torch.tensor([sigma]), 8)[0]
        torch.testing.assert_close(matrix, alone)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_blur_of_axes_shorter_than_the_kernel(size):
    matrix = blur_matrices(torch.tensor([1.0]), size)[0]
    torch.testing.assert_close(matrix.sum(1), torch.ones(size))
    assert (matrix >= 0).all()


def test_low_resolution_by_hand():
    # 4 voxels to 2: the nearest-exact samples are voxels 1 and 3; linear interpolation back.
    matrix = low_resolution_matrices(torch.tensor([0.5]), 4)[0].numpy()
    expected = [[0, 1, 0, 0], [0, 0.75, 0, 0.25], [0, 0.25, 0, 0.75], [0, 0, 0, 1]]
    np.testing.assert_allclose(matrix, expected, atol=1e-6)


def test_low_resolution_equals_interpolating_the_volume():
    volume = torch.randn(1, 1, 7, 10, 9)
    coarse = torch.nn.functional.interpolate(volume, size=(4, 6, 6), mode="nearest-exact")
    expected = torch.nn.functional.interpolate(coarse, size=(7, 10, 9), mode="trilinear")[0]
    result = volume[0]
    for axis in range(3):
        matrices = low_resolution_matrices(torch.tensor([0.62]), volume.shape[axis + 2])
        result = apply_along_axis(result, matrices, axis)
    torch.testing.assert_close(result, expected)


def test_low_resolution_at_full_size_changes_nothing():
    assert torch.equal(low_resolution_matrices(torch.tensor([1.0]), 5)[0], torch.eye(5))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_apply_along_axis_is_a_tensor_product(axis):
    channels, matrices = torch.randn(2, 3, 4, 5), torch.randn(2, (3, 4, 5)[axis], (3, 4, 5)[axis])
    pattern = ("pij,pjyx->piyx", "pij,pzjx->pzix", "pij,pzyj->pzyi")[axis]
    expected = torch.einsum(pattern, matrices, channels)
    torch.testing.assert_close(apply_along_axis(channels, matrices, axis), expected)
