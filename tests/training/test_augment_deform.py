"""Elastic deformation and sampling anywhere, against scipy; order 0 against single voxels."""

import numpy as np
import pytest
import torch

from segkit.config import AugmentConfig
from segkit.training.augment import deform, spatial_settings
from segkit.training.augment.affine import affine_map
from segkit.training.augment.deform import displacements, positions, sample_image, sample_labels
from segkit.training.augment.sampling import sample_affine
from segkit.training.augment.spatial import rotate_scale_crop
from tests.training.test_augment_spatial import blocks, oracle_image, oracle_labels

CASES = [((15, 18), (11, 10), [0.6]), ((9, 12, 10), (7, 8, 9), [0.4, -0.3, 0.9])]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=CASES)
def case(request):
    source, patch, angles = request.param
    mapping = affine_map(torch.tensor(angles), torch.tensor([1.3]), source, patch)
    field = displacements(patch, 0.2, 0.4, seeded())
    image = torch.randn(2, *source, generator=seeded())
    seg = blocks(source, [-1, 0, 1, 2, 7])[None]
    return image, seg, positions(mapping, field)


def test_linear_sampling_agrees_with_scipy(case):
    image, seg, where = case
    for channel, expected in zip(sample_image(image, where, "linear"), image.numpy(), strict=True):
        np.testing.assert_allclose(channel, oracle_image(expected, where.numpy()), atol=1e-4)
    labels = sample_labels(seg, where, "linear")
    assert labels.dtype == torch.int16
    expected = oracle_labels(seg[0].numpy(), where.numpy())
    assert (labels[0].numpy() == expected).mean() > 0.998


def test_the_nearest_voxel_is_read_and_nothing_outside(case):
    image, seg, where = case
    result, labels = sample_image(image, where, "nearest"), sample_labels(seg, where, "nearest")
    for place in np.ndindex(*where.shape[1:]):
        position = where[(slice(None), *place)].numpy()
        voxel = tuple(np.floor(position + 0.5).astype(int))
        inside = all(0 <= v < size for v, size in zip(voxel, seg.shape[1:], strict=True))
        assert labels[(0, *place)] == (seg[(0, *voxel)] if inside else -1)
        expected = image[(slice(None), *voxel)] if inside else torch.zeros(2)
        assert torch.equal(result[(slice(None), *place)], expected)


def test_without_displacements_it_is_the_affine_sampling():
    for source, patch, angles in CASES:
        mapping = affine_map(torch.tensor(angles), torch.tensor([1.1]), source, patch)
        where = positions(mapping, torch.zeros(len(patch), *patch))
        image, seg = torch.randn(1, *source, generator=seeded()), blocks(source, [0, 1, 3])[None]
        expected, labels = sample_affine(image, seg, mapping, patch)
        torch.testing.assert_close(
            sample_image(image, where, "linear"), expected, atol=1e-4, rtol=0
        )
        assert (sample_labels(seg, where, "linear") == labels).float().mean() > 0.998


def test_a_vote_of_all_cells_is_that_of_the_mixed_ones_and_the_rest():
    """What other devices do, for they must not wait to find out which are mixed."""
    candidates = torch.randint(0, 3, (8, 400), generator=seeded())
    candidates[:, ::2] = candidates[:1, ::2]
    weights = torch.rand(8, 400, generator=seeded())
    assert torch.equal(deform._heaviest(candidates, weights), deform._decided(candidates, weights))


def test_blocks_of_positions_make_no_difference(case, monkeypatch):
    _, seg, where = case
    whole = sample_labels(seg, where, "linear")
    monkeypatch.setattr(deform, "CPU_BLOCK", 7)
    assert torch.equal(sample_labels(seg, where, "linear"), whole)


@pytest.mark.parametrize("patch", [(40, 24), (24, 20, 16), (1, 12, 10)])
def test_displacements_are_as_strong_as_asked_smooth_and_of_mean_zero(patch):
    field = displacements(patch, 0.2, 0.5, seeded())
    assert field.shape == (len(patch), *patch)
    for component, size in zip(field, patch, strict=True):
        assert component.mean().abs() < 1e-5
        # The largest one, before the mean is taken away.
        assert 0.6 * 0.5 * 0.2 * size < component.abs().max() < 1.6 * 0.5 * 0.2 * size
    for axis, size in enumerate(patch):
        if size > 1:
            step = field.diff(dim=axis + 1).abs().amax(tuple(range(1, len(patch) + 1)))
            assert (step / (0.2 * size) < 0.25 * field.flatten(1).abs().amax(1)).all()


def test_displacements_by_the_formula():
    noise = torch.randn((1, 30), generator=seeded()).double().numpy()[0]
    from scipy import ndimage

    sigma = 0.1 * 30
    smooth = ndimage.gaussian_filter1d(noise, sigma, mode="mirror", radius=9)
    expected = smooth / np.abs(smooth).max() * 0.3 * sigma
    field = displacements((30,), 0.1, 0.3, seeded())
    np.testing.assert_allclose(field[0], expected - expected.mean(), atol=1e-5)


@pytest.mark.parametrize("patch", [(12, 10), (10, 9, 8), (3, 12, 11)])
@pytest.mark.parametrize("elastic", [0.0, 1.0])
def test_order_0_moves_image_and_labels_alike(patch, elastic):
    config = AugmentConfig(
        p_rotation=1,
        p_scaling=1,
        p_elastic=elastic,
        image_interpolation="nearest",
        label_interpolation="nearest",
    )
    settings = spatial_settings(patch, config)
    size = tuple(edge + 2 for edge in patch)
    size = (patch[0], *size[1:]) if settings.dummy_2d else size
    seg = blocks(size, [-1, 0, 1, 2, 3]).expand(6, 1, *size)
    image, labels = rotate_scale_crop(seg.float() + 5, seg, settings, config, seeded())
    outside = image == 0
    assert outside.any()
    assert torch.equal(labels[~outside], image[~outside].to(torch.int16) - 5)
    assert (labels[outside] == -1).all()


def test_elastic_deformation_of_slices_is_alike_in_all():
    config = AugmentConfig(p_rotation=0, p_scaling=0, p_elastic=1)
    settings = spatial_settings((4, 16, 16), config)
    plane = torch.randn(20, 20, generator=seeded())
    image, seg = plane.expand(2, 1, 4, 20, 20), torch.zeros(2, 1, 4, 20, 20, dtype=torch.int16)
    result, _ = rotate_scale_crop(image, seg, settings, config, seeded())
    assert torch.equal(result, result[:, :, :1].expand_as(result))
    assert not torch.equal(result[0], result[1])
    assert not torch.equal(result[0, 0, 0], plane[2:18, 2:18])


def test_one_sample_may_be_deformed_and_another_left():
    config = AugmentConfig(p_rotation=0, p_scaling=0, p_elastic=0.5)
    settings = spatial_settings((8, 8), config)
    image = torch.randn(200, 1, 10, 10, generator=seeded())
    seg = torch.zeros(200, 1, 10, 10, dtype=torch.int16)
    result, _ = rotate_scale_crop(image, seg, settings, config, seeded())
    left = (result == image[..., 1:9, 1:9]).flatten(1).all(1)
    assert left.float().mean().item() == pytest.approx(0.5, abs=0.12)
