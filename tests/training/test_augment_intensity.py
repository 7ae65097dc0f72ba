"""Every intensity transform against a few lines of numpy or scipy."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from segkit.training.augment import intensity
from segkit.training.augment.intensity import (
    add_noise,
    gamma,
    gamma_inverted,
    scale_brightness,
    scale_contrast,
)
from segkit.training.augment.separable import (
    Bands,
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


def changed(transform, image, factors=FACTORS):
    """Apply a transform to the channels of a copy."""
    result = image.clone()
    transform(result.flatten(0, 1).flatten(1), factors.flatten())
    return result


def per_channel(image, oracle):
    """Apply a numpy function of (channel, factor) to each channel."""
    result = np.empty_like(image.numpy())
    for b, c in np.ndindex(*image.shape[:2]):
        result[b, c] = oracle(image[b, c].numpy().astype(np.float64), float(FACTORS[b, c]))
    return result


def test_noise_is_normal_with_the_deviation_of_its_row():
    rows, generator = torch.ones(2, 40_000), torch.Generator().manual_seed(0)
    add_noise(rows, torch.tensor([0.1, 0.5]), generator)
    np.testing.assert_allclose(rows.mean(1), [1, 1], atol=0.01)
    np.testing.assert_allclose(rows.std(1), [0.1, 0.5], rtol=0.02)
    share = ((rows - 1).abs() < torch.tensor([[0.1], [0.5]])).float().mean(1)
    np.testing.assert_allclose(share, 0.6827, atol=0.01)


def test_brightness_multiplies(image):
    expected = per_channel(image, lambda x, factor: x * factor)
    np.testing.assert_allclose(changed(scale_brightness, image), expected, rtol=1e-6)


def test_contrast_stretches_about_the_mean_within_the_range(image):
    expected = per_channel(
        image, lambda x, f: np.clip((x - x.mean()) * f + x.mean(), x.min(), x.max())
    )
    np.testing.assert_allclose(changed(scale_contrast, image), expected, rtol=1e-4, atol=1e-5)


def numpy_gamma(x, exponent):
    bent = ((x - x.min()) / (x.max() - x.min())) ** exponent * (x.max() - x.min()) + x.min()
    return (bent - bent.mean()) / bent.std() * x.std() + x.mean()


@pytest.mark.parametrize("range_", [1.0, 1e-3, 1e4])
def test_gamma_bends_and_restores_the_statistics(image, range_):
    image = image * range_
    image[..., :2] = image.amin()  # as the background of masked images
    expected = per_channel(image, numpy_gamma)
    np.testing.assert_allclose(changed(gamma, image), expected, rtol=1e-4, atol=1e-4 * range_)


def test_inverted_gamma_is_gamma_of_the_negative(image):
    expected = per_channel(image, lambda x, exponent: -numpy_gamma(-x, exponent))
    np.testing.assert_allclose(changed(gamma_inverted, image), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transform", [scale_contrast, gamma, gamma_inverted])
def test_a_constant_channel_stays(transform):
    constant = torch.full((2, 2, 3, 3), 4.0)
    np.testing.assert_allclose(changed(transform, constant), constant, rtol=1e-6)


@pytest.mark.parametrize("transform", [scale_contrast, gamma, gamma_inverted])
def test_chunks_make_no_difference(image, transform, monkeypatch):
    whole = changed(transform, image)
    monkeypatch.setattr(intensity, "CPU_CHUNK", 16)
    torch.testing.assert_close(changed(transform, image), whole)


@pytest.mark.parametrize(("sigma", "radius"), [(0.5, 1), (0.6, 2), (0.9, 2), (1.0, 3), (2.0, 6)])
def test_blur_is_a_gaussian_with_reflecting_ends(sigma, radius):
    line = np.random.default_rng(0).normal(size=9)
    expected = ndimage.gaussian_filter1d(line, sigma, mode="mirror", radius=radius)
    bands = blur_matrices(torch.tensor([sigma]), 9)
    matrix = bands.matrices[0]
    assert bands.reach == radius
    np.testing.assert_allclose(matrix.numpy() @ line, expected, atol=1e-6)


def test_blur_of_several_widths_at_once():
    together = blur_matrices(torch.tensor([0.5, 1.0]), 8).matrices
    for matrix, sigma in zip(together, (0.5, 1.0), strict=True):
        alone = blur_matrices(torch.tensor([sigma]), 8).matrices[0]
        torch.testing.assert_close(matrix, alone)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_blur_of_axes_shorter_than_the_kernel(size):
    matrix = blur_matrices(torch.tensor([1.0]), size).matrices[0]
    torch.testing.assert_close(matrix.sum(1), torch.ones(size))
    assert (matrix >= 0).all()


def test_low_resolution_by_hand():
    # 4 voxels to 2: the nearest-exact samples are voxels 1 and 3; linear interpolation back.
    matrix = low_resolution_matrices(torch.tensor([0.5]), 4).matrices[0].numpy()
    expected = [[0, 1, 0, 0], [0, 0.75, 0, 0.25], [0, 0.25, 0, 0.75], [0, 0, 0, 1]]
    np.testing.assert_allclose(matrix, expected, atol=1e-6)


@pytest.mark.parametrize("zoom", [0.5, 0.62, 0.75, 0.811, 1.0])
@pytest.mark.parametrize("shape", [(7, 10, 9), (40, 3, 100)])
def test_low_resolution_equals_interpolating_the_volume(zoom, shape):
    volume = torch.randn(1, 1, *shape)
    size = [max(1, round(n * zoom)) for n in shape]
    coarse = torch.nn.functional.interpolate(volume, size=size, mode="nearest-exact")
    expected = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0]
    result = volume[0]
    for axis in range(3):
        bands = low_resolution_matrices(torch.tensor([zoom]), shape[axis])
        result = apply_along_axis(result, bands, axis)
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


def test_low_resolution_takes_the_voxels_that_interpolate_takes():
    for size in (1, 2, 5, 40, 97, 160):
        zoom = torch.linspace(0.5, 1, 40)
        matrices = low_resolution_matrices(zoom, size).matrices
        for value, matrix in zip(zoom.tolist(), matrices, strict=True):
            eye = torch.eye(size)[None]
            coarse = torch.nn.functional.interpolate(
                eye, size=max(1, round(size * value)), mode="nearest-exact"
            )
            fine = torch.nn.functional.interpolate(coarse, size=size, mode="linear")
            torch.testing.assert_close(matrix, fine[0].T, atol=2e-5, rtol=0)


def test_low_resolution_at_full_size_changes_nothing():
    assert torch.equal(low_resolution_matrices(torch.tensor([1.0]), 5).matrices[0], torch.eye(5))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(3, 4, 5), (70, 3, 2), (2, 101, 3), (3, 2, 64)])
def test_apply_along_axis_is_a_tensor_product(axis, shape):
    channels, size = torch.randn(2, *shape), shape[axis]
    band = (torch.arange(size) - torch.arange(size)[:, None]).abs() <= 4
    bands = Bands(matrices=torch.randn(2, size, size) * band, reach=4)
    pattern = ("pij,pjyx->piyx", "pij,pzjx->pzix", "pij,pzyj->pzyi")[axis]
    expected = torch.einsum(pattern, bands.matrices, channels)
    torch.testing.assert_close(apply_along_axis(channels, bands, axis), expected)
