"""Rotation and scaling against scipy, label votes against a brute force, mirroring by counting."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from segkit.config import AugmentConfig
from segkit.training.augment import SpatialSettings, sampling, spatial_settings
from segkit.training.augment.affine import affine_map, crop_start, rotation_matrix
from segkit.training.augment.sampling import sample_affine
from segkit.training.augment.spatial import centre_crop, rotate_scale_crop
from segkit.training.augment.turns import mirror

ALWAYS = AugmentConfig(p_rotation=1, p_scaling=1)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def source_positions(mapping, patch):
    """(ndim, *patch) positions by the definition of AffineMap."""
    voxels = np.stack(np.meshgrid(*map(np.arange, patch), indexing="ij"))
    origin = np.array(mapping.origin).reshape(-1, *(1,) * len(patch))
    return np.tensordot(np.array(mapping.matrix), voxels, axes=1) + origin


def oracle_image(image, positions):
    return ndimage.map_coordinates(image, positions, order=1, mode="grid-constant", cval=0.0)


def oracle_labels(seg, positions):
    labels = np.unique(seg)
    weights = [oracle_image((seg == label).astype(np.float64), positions) for label in labels]
    result = labels[np.argmax(np.round(weights, 5), axis=0)]
    for position, size in zip(positions, seg.shape, strict=True):
        result = np.where((position < -0.5) | (position > size - 0.5), -1, result)
    return result


def blocks(shape, labels, seed=0):
    """A label map of 3-voxel blocks, int16."""
    random = np.random.default_rng(seed).choice(labels, [-(-size // 3) for size in shape])
    for axis in range(len(shape)):
        random = random.repeat(3, axis)
    return torch.from_numpy(random[tuple(map(slice, shape))].astype(np.int16))


@pytest.mark.parametrize(
    ("source", "patch", "angles"),
    [((15, 18), (11, 10), [0.6]), ((9, 12, 10), (7, 8, 9), [0.4, -0.3, 0.9])],
)
def test_sampling_agrees_with_scipy(source, patch, angles):
    image = torch.randn(2, *source, generator=torch.Generator().manual_seed(0))
    seg = blocks(source, [-1, 0, 1, 2, 7])[None]
    mapping = affine_map(torch.tensor(angles), 1.3, source, patch)
    positions = source_positions(mapping, patch)
    result, labels = sample_affine(image, seg, mapping, patch)
    for channel, expected in zip(result, image.numpy(), strict=True):
        np.testing.assert_allclose(channel, oracle_image(expected, positions), atol=1e-4)
    assert labels.dtype == torch.int16
    assert (labels[0].numpy() == -1).any()
    # The last digit decides a handful of near ties.
    assert (labels[0].numpy() == oracle_labels(seg[0].numpy(), positions)).mean() > 0.998


def test_no_rotation_and_no_scaling_is_the_centre_crop():
    image, seg = torch.randn(1, 9, 12, 10), blocks((9, 12, 10), [0, 1, 2])[None]
    mapping = affine_map(torch.zeros(3), 1.0, (9, 12, 10), (6, 8, 5))
    result, labels = sample_affine(image, seg, mapping, (6, 8, 5))
    assert torch.equal(result[None], centre_crop(image[None], (6, 8, 5)))
    assert torch.equal(labels[None], centre_crop(seg[None], (6, 8, 5)))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_quarter_turn_is_rot90(axis):
    image, seg = torch.randn(1, 6, 6, 6), blocks((6, 6, 6), [0, 1, 2])[None]
    angles = torch.zeros(3)
    angles[axis] = torch.pi / 2
    mapping = affine_map(angles, 1.0, (6, 6, 6), (6, 6, 6))
    result, labels = sample_affine(image, seg, mapping, (6, 6, 6))
    plane = {0: (2, 3), 1: (3, 1), 2: (1, 2)}[axis]
    torch.testing.assert_close(result, image.rot90(-1, plane), atol=1e-4, rtol=0)
    assert torch.equal(labels, seg.rot90(-1, plane))


def test_rotations_compose_from_axis_0_to_axis_2():
    a, b, c = (
        rotation_matrix(torch.tensor(angles)) for angles in ([0.2, 0, 0], [0, 0.3, 0], [0, 0, 0.4])
    )
    together = rotation_matrix(torch.tensor([0.2, 0.3, 0.4]))
    torch.testing.assert_close(together, c @ b @ a)
    torch.testing.assert_close(together @ together.T, torch.eye(3, dtype=torch.float64))


def test_scaling_above_one_makes_objects_smaller():
    seg = torch.zeros(1, 21, 21, dtype=torch.int16)
    seg[:, 5:16, 5:16] = 1
    mapping = affine_map(torch.zeros(1), 1.375, (21, 21), (15, 15))
    _, labels = sample_affine(torch.zeros(1, 21, 21), seg, mapping, (15, 15))
    expected = torch.zeros(1, 15, 15, dtype=torch.int16)
    expected[:, 4:11, 4:11] = 1  # positions 10 +- 1.375 * {0..3}; the fourth is at 5.5
    assert torch.equal(labels[:, 4:11, 4:11], expected[:, 4:11, 4:11])
    assert abs(int(labels.sum()) - 11**2 / 1.375**2) < 20


def test_an_axis_of_one_voxel():
    image, seg = torch.ones(1, 1, 7), torch.ones(1, 1, 7, dtype=torch.int16)
    mapping = affine_map(torch.tensor([0.05]), 1.0, (1, 7), (1, 5))
    result, labels = sample_affine(image, seg, mapping, (1, 5))
    positions = source_positions(mapping, (1, 5))
    np.testing.assert_allclose(result[0], oracle_image(np.ones((1, 7)), positions), atol=1e-6)
    assert (labels == 1).all()


@pytest.mark.parametrize(("size", "patch"), [((12, 12, 12), (10, 8, 9)), ((30, 25), (28, 25))])
def test_blocks_make_no_difference(size, patch, monkeypatch):
    image, seg = torch.randn(1, *size), blocks(size, [0, 1, 2])[None]
    angles = torch.tensor([0.3, 0.1, 0.2] if len(size) == 3 else [0.7])
    mapping = affine_map(angles, 1.1, size, patch)
    whole = sample_affine(image, seg, mapping, patch)
    monkeypatch.setattr(sampling, "CPU_BLOCK", 150)
    parts = sample_affine(image, seg, mapping, patch)
    torch.testing.assert_close(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


@pytest.mark.parametrize("dtype", [torch.int16, torch.int8])
@pytest.mark.parametrize("shape", [(5, 7), (4, 6, 5)])
def test_cells_of_one_label_are_told_from_others(shape, dtype):
    seg = blocks(shape, [-1, 0, 2, torch.iinfo(dtype).max - 1]).to(dtype)
    strides = list(seg.stride())
    known = sampling._agreed(seg.flatten(), strides)
    for cell in np.ndindex(*(size - 1 for size in shape)):
        labels = seg[tuple(slice(i, i + 2) for i in cell)].unique()
        found = known[int(np.dot(cell, strides))]
        assert found == labels[0] if len(labels) == 1 else found < -1


def test_votes_of_two_labels_equal_those_of_many():
    """The quick vote, and the one that takes all labels in turn, of random cells."""
    rng = torch.Generator().manual_seed(0)
    candidates = torch.randint(-1, 4, (8, 500), generator=rng).float()
    candidates[:, :200] = candidates[:, :200].clamp(1, 2)
    fractions = [torch.rand(500, generator=rng) for _ in range(3)]
    first = torch.zeros(500, dtype=torch.int32)
    cells = sampling.Cells(first=first, fractions=fractions, strides=[4, 2, 1], inside=None)
    weights = cells.weights()
    for i, winner in enumerate(sampling._heaviest_of_two(candidates.clone(), cells).tolist()):
        shares = [float(weights[candidates[:, i] == label, i].sum()) for label in range(-1, 4)]
        assert shares[int(winner) + 1] == pytest.approx(max(shares), abs=1e-5)
    expected = sampling._heaviest_of_two(candidates, cells)
    assert torch.equal(sampling._heaviest(candidates.clone(), weights), expected)


def test_equal_weights_go_to_the_lowest_label():
    seg = torch.tensor([[[3, 1]]], dtype=torch.int16).expand(1, 2, 2).contiguous()
    mapping = affine_map(torch.zeros(1), 1.0, (2, 2), (1, 1))
    between = dataclasses.replace(mapping, origin=(0.5, 0.5))
    _, labels = sample_affine(torch.zeros(1, 2, 2), seg, between, (1, 1))
    assert labels.item() == 1


def striped(size):
    """Class 1, ignore (3), class 2 and background side by side; nothing invalid."""
    stripes = torch.tensor([1, 3, 2, 0], dtype=torch.int16)
    columns = stripes[(torch.arange(size[-1]) // 3) % 4]
    return columns.expand(*size).contiguous()


@pytest.mark.parametrize("patch", [(24, 20), (12, 14, 10), (4, 16, 14)])
def test_200_augmentations_keep_ignored_invalid_and_classes_apart(patch):
    generator = torch.Generator().manual_seed(3)
    settings = spatial_settings(patch, ALWAYS)
    size = tuple(edge + 4 for edge in patch)
    size = (patch[0], *size[1:]) if settings.dummy_2d else size
    seg = striped(size)
    seg[..., :2, :] = -1  # and an invalid border
    labels = torch.tensor([-1, 0, 1, 2, 3])
    shares = torch.stack([(seg == label).float() for label in labels])
    batch, batch_seg = shares.expand(20, 5, *size), seg.expand(20, 1, *size)
    for _ in range(10):
        image, result = rotate_scale_crop(batch, batch_seg, settings, ALWAYS, generator)
        inside = image.sum(1, keepdim=True)
        assert set(result.unique().tolist()) <= set(labels.tolist())
        own = image.gather(1, result.long() + 1)
        # Each voxel carries the label with the largest share of it, invalid and ignore included.
        voted = inside > 0.5 + 1e-4
        assert (own >= image.amax(1, keepdim=True) - 1e-4)[voted].all()
        # What lies wholly in the array and in one label keeps it.
        pure, label = image.max(1, keepdim=True)
        assert torch.equal(result[pure > 0.999].long(), label[pure > 0.999] - 1)
        # What comes from outside is invalid.
        assert (result[inside < 0.12] == -1).all()


def test_nothing_becomes_invalid_but_what_comes_from_outside():
    generator = torch.Generator().manual_seed(4)
    settings = spatial_settings((12, 14, 10), ALWAYS)
    size = (14, 16, 12)
    seg, image = striped(size).expand(50, 1, *size), torch.ones(50, 1, *size)
    inside, result = rotate_scale_crop(image, seg, settings, ALWAYS, generator)
    # A voxel centre beyond the outer half voxel has at most half of its weight inside.
    assert (inside[result == -1] <= 0.5 + 1e-4).all()
    assert (inside[result >= 0] >= 0.125 - 1e-4).all()
    assert (result == -1).any()


def test_image_and_labels_stay_aligned():
    generator = torch.Generator().manual_seed(0)
    settings = spatial_settings((20, 20, 20), ALWAYS)
    seg = blocks((32, 32, 32), [0, 1, 2, 4]).expand(8, 1, 32, 32, 32)
    image, result = rotate_scale_crop(seg.float(), seg, settings, ALWAYS, generator)
    away_from_edges = ((image - image.round()).abs() < 1e-5) & (result >= 0)
    agree = image[away_from_edges].round() == result[away_from_edges]
    assert away_from_edges.float().mean() > 0.1
    assert agree.float().mean() > 0.99


def test_dummy_2d_treats_all_slices_alike_and_mixes_none():
    generator = torch.Generator().manual_seed(0)
    settings = spatial_settings((4, 16, 16), ALWAYS)
    assert settings.dummy_2d
    plane = torch.randn(20, 20)
    height = torch.arange(1.0, 5.0).reshape(4, 1, 1)
    image = torch.stack([plane.expand(4, 20, 20), height.expand(4, 20, 20)])[None]
    seg = blocks((20, 20), [0, 1, 2]).expand(1, 1, 4, 20, 20)
    result, labels = rotate_scale_crop(image, seg, settings, ALWAYS, generator)
    assert torch.equal(result[0, 0], result[0, 0, :1].expand(4, 16, 16))
    assert torch.equal(labels[0, 0], labels[0, 0, :1].expand(4, 16, 16))
    torch.testing.assert_close(
        result[0, 1] / result[0, 1, :1], height.expand(4, 16, 16), equal_nan=True
    )
    assert not torch.equal(result[0, 0, 0], plane[2:18, 2:18])


def test_untouched_samples_are_bit_exact_crops_and_36_percent_are_touched():
    config = AugmentConfig()
    generator = torch.Generator().manual_seed(0)
    settings = spatial_settings((6, 6), config)
    image, seg = torch.randn(3000, 1, 9, 8), torch.zeros(3000, 1, 9, 8, dtype=torch.int16)
    result, _ = rotate_scale_crop(image, seg, settings, config, generator)
    touched = (result != image[:, :, 1:7, 1:7]).flatten(1).any(1)
    assert touched.float().mean().item() == pytest.approx(1 - 0.8 * 0.8, abs=0.03)


def test_nothing_is_shared_with_the_input():
    config = AugmentConfig(p_rotation=0, p_scaling=0)
    settings = spatial_settings((6, 6), config)
    image, seg = torch.randn(2, 1, 6, 6), torch.zeros(2, 1, 6, 6, dtype=torch.int16)
    result, labels = rotate_scale_crop(image, seg, settings, config, torch.Generator())
    assert torch.equal(result, image)
    assert result.data_ptr() != image.data_ptr()
    assert labels.data_ptr() != seg.data_ptr()


def test_angles_reach_the_largest_and_no_further(monkeypatch):
    seen = []
    original = affine_map

    def spy(angles, scaling, *shapes):
        seen.append((angles, scaling))
        return original(angles, scaling, *shapes)

    monkeypatch.setattr("segkit.training.augment.spatial.affine_map", spy)
    settings = SpatialSettings(
        patch_size=(2, 2, 2), max_angle_degrees=30.0, dummy_2d=False, mirror_axes=()
    )
    image, seg = torch.zeros(500, 1, 2, 2, 2), torch.zeros(500, 1, 2, 2, 2, dtype=torch.int16)
    rotate_scale_crop(image, seg, settings, ALWAYS, torch.Generator().manual_seed(0))
    angles = torch.stack([angle for angle, _ in seen]).rad2deg()
    assert angles.shape == (500, 3)
    assert 29 < angles.max() <= 30
    assert -30 <= angles.min() < -29
    scales = torch.tensor([scale for _, scale in seen])
    assert 0.7 <= scales.min() < 0.71
    assert 1.39 < scales.max() <= 1.4


def test_a_source_smaller_than_the_patch_is_refused():
    with pytest.raises(ValueError, match=r"\(8, 8\).*\(7, 9\)"):
        crop_start((7, 9), (8, 8))


@pytest.mark.parametrize("shape", [(4, 3), (3, 4, 5)])
def test_mirroring_flips_image_and_labels_alike_with_half_probability(shape):
    axes = tuple(range(len(shape)))
    count = 2000
    values = torch.arange(float(np.prod(shape))).reshape(shape)
    image = values.expand(count, 2, *shape).clone()
    seg = values.to(torch.int16).expand(count, 1, *shape).clone()
    mirror(image, seg, axes, torch.Generator().manual_seed(0))
    assert torch.equal(image[:, :1].to(torch.int16), seg)
    assert torch.equal(image[:, 0], image[:, 1])
    for axis in axes:
        step = image[:, 0].select(axis + 1, 1) - image[:, 0].select(axis + 1, 0)
        flipped = (step < 0).flatten(1)
        assert (flipped.all(1) | ~flipped.any(1)).all()
        assert flipped[:, 0].float().mean().item() == pytest.approx(0.5, abs=0.04)


def test_mirroring_only_the_axes_asked_for():
    image = torch.arange(12.0).reshape(1, 1, 3, 4).expand(50, 1, 3, 4).clone()
    seg = image.to(torch.int16)
    mirror(image, seg, (), torch.Generator())
    assert torch.equal(image[0, 0], torch.arange(12.0).reshape(3, 4))
    mirror(image, seg, (1,), torch.Generator())
    assert torch.equal(
        image.sort(3).values[:, 0], torch.arange(12.0).reshape(3, 4).expand(50, 3, 4)
    )


@pytest.mark.parametrize("patch", [(10, 9), (8, 7, 6), (3, 12, 11)])
def test_every_structure_moves_as_it_would_alone(patch):
    settings = spatial_settings(patch, ALWAYS)
    size = tuple(edge + 2 for edge in patch)
    size = (patch[0], *size[1:]) if settings.dummy_2d else size
    seg = torch.stack([blocks(size, [-1, 0, 1, 2], seed) for seed in range(3)]).to(torch.int8)
    batch = seg.expand(4, 3, *size)
    image = torch.randn(4, 2, *size)

    def moved(labels):
        generator = torch.Generator().manual_seed(0)
        picture, result = rotate_scale_crop(image, labels, settings, ALWAYS, generator)
        mirror(picture, result, settings.mirror_axes, generator)
        return picture, result

    pictures, together = moved(batch)
    assert together.shape == (4, 3, *patch)
    assert together.dtype == torch.int8
    for channel in range(3):
        picture, alone = moved(batch[:, channel : channel + 1].to(torch.int16))
        assert torch.equal(together[:, channel : channel + 1], alone.to(torch.int8))
        assert torch.equal(picture, pictures)
    # What comes from outside is invalid for every structure.
    ones = torch.ones(4, 2, *size)
    present = torch.ones(4, 3, *size, dtype=torch.int8)
    inside, labels = rotate_scale_crop(
        ones, present, settings, ALWAYS, torch.Generator().manual_seed(1)
    )
    assert set(labels.unique().tolist()) <= {-1, 1}
    assert torch.equal(labels, labels[:, :1].expand_as(labels))
    assert (labels[:, 0][inside[:, 0] == 0] == -1).all()
