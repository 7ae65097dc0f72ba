"""What a voxel means survives every stage: invalid, ignored and class stay apart; order is free."""

import itertools
import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage
from tiny import tiny_configuration, tiny_plan

from segkit.config import AugmentConfig, CascadeConfig
from segkit.dataset.cases import training_cases
from segkit.dataset.description import load_description
from segkit.dataset.image_io import read_image, read_labels, write_labels
from segkit.dataset.label_files import read_annotation, read_label_map, write_label_map
from segkit.inference.export import logits_to_segmentation
from segkit.preprocessing.locations import find_locations
from segkit.preprocessing.pipeline import preprocess_case
from segkit.training.augment import (
    Augmenter,
    CascadeAugmenter,
    sampled_patch_size,
    spatial_settings,
)
from segkit.training.patches import cut
from segkit.types import Geometry, Volume

BRATS = "Dataset110_BraTS2015"


def make_plan(spacing_mm, channels):
    configuration = tiny_configuration(
        channels=channels,
        spacing_mm=tuple(spacing_mm),
        normalize_inside_mask=(True,) * channels,
    )
    return tiny_plan(configuration, tuple(map(str, range(channels))))


def preprocessed(case, description):
    volume = read_image(case.images, description.reader)
    labels = read_annotation(case, description.labels, description.reader).array
    plan = make_plan(volume.geometry.spacing_mm, len(volume.array))
    ignore = description.labels.ignore_index
    return preprocess_case(volume, labels, plan, "3d_fullres", ignore_index=ignore)


@pytest.mark.parametrize("number", range(3))
def test_brats_is_invalid_exactly_where_it_is_empty_and_unlabelled(shared_data, number):
    description = load_description(shared_data(BRATS))
    case = training_cases(description)[number]
    made = preprocessed(case, description)

    read = [sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in case.images]
    images = np.stack(read).astype(np.float64)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(case.label)))
    filled = ndimage.binary_fill_holes((images != 0).any(axis=0))
    invalid = ~filled & (labels == 0)
    box = tuple(slice(start, stop) for start, stop in made.record.bbox)
    assert made.seg is not None
    np.testing.assert_array_equal(made.seg[0] == -1, invalid[box])
    outside = invalid.copy()
    outside[box] = True
    assert outside.all(), "the crop takes away nothing but invalid voxels"
    assert 0.2 < invalid.mean() < 0.95
    np.testing.assert_array_equal(made.seg[0][~invalid[box]], labels[box][~invalid[box]])

    for image, channel in zip(images, made.image, strict=True):
        valid = image[~invalid]
        expected = (image[box] - valid.mean()) / valid.std()
        # Black stays 0 inside the crop even where it is labelled, as it does in prediction.
        kept = filled[box]
        np.testing.assert_allclose(channel[kept], expected[kept], rtol=2e-4, atol=2e-4)
        assert (channel[~kept] == 0).all()


def brats_with_ignored_slabs(folder):
    """Labels of a case, cropped, with every fourth pair of rows ignored; (1, Z, Y, X) and K."""
    description = load_description(folder)
    seg = preprocessed(training_cases(description)[0], description).seg
    assert seg is not None
    x = np.nonzero(seg[0] > 0)[2]
    seg = np.array(seg[:, :, :, max(x.min() - 30, 0) : x.max() + 30])
    rows = np.arange(seg.shape[2]) % 8 < 2
    seg[:, :, rows] = np.where(seg[:, :, rows] == -1, -1, description.labels.ignore_index)
    return seg, description.labels.ignore_index


def coordinates(shape):
    """(4, *shape) float32: the position of every voxel along each axis, and 1."""
    axes = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return np.stack([*axes, np.ones(shape)]).astype(np.float32)


def shares(seg, position, labels):
    """Linear share of each label at positions (3, N) of a label map: (labels, N)."""
    lower = np.floor(position).astype(int)
    result = np.zeros((len(labels), position.shape[1]))
    for corner in itertools.product((0, 1), repeat=3):
        index = lower + np.array(corner)[:, None]
        weight = np.prod(1 - np.abs(position - index), axis=0)
        index = np.minimum(index, np.array(seg.shape)[:, None] - 1)
        found = seg[tuple(index)]
        result += np.where(found == np.array(labels)[:, None], weight, 0)
    return result


MOVED_ONLY = AugmentConfig(
    p_rotation=1.0,
    p_scaling=1.0,
    p_noise=0.0,
    p_blur=0.0,
    p_brightness=0.0,
    p_contrast=0.0,
    p_low_resolution=0.0,
    p_gamma_inverted=0.0,
    p_gamma=0.0,
)


@pytest.mark.parametrize("patch", [(14, 16, 12), (5, 20, 18)])
def test_augmentation_of_brats_never_turns_one_meaning_into_another(shared_data, patch):
    """100 patches a shape, whose image channels say which voxel of the case each came from.

    A channel of ones tells how much of a voxel came from inside. The label of every output voxel
    must be the one with the largest linear share at its position in the whole label map; what came
    from outside counts as invalid. So nothing that is invalid or ignored is ever read as a class
    (or the reverse) but by the vote of its neighbours, and nothing is averaged or rounded.
    """
    seg, ignore = brats_with_ignored_slabs(shared_data(BRATS))
    labels = list(range(-1, ignore + 1))
    settings = spatial_settings(patch, MOVED_ONLY)
    augmenter = Augmenter(MOVED_ONLY, settings, (False,) * 4)
    size = sampled_patch_size(settings, MOVED_ONLY)
    image = coordinates(seg.shape[1:])
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    boundary = np.argwhere(ndimage.generic_gradient_magnitude(seg[0], ndimage.sobel) != 0)
    seen = np.zeros(len(labels), int)
    for _ in range(10):
        corners = boundary[rng.integers(len(boundary), size=10)] - np.array(size) // 2
        # Some patches overhang the case.
        corners[:3] = [[-4, -5, -6], np.array(seg.shape[1:]) - 8, [2, -9, 30]]
        batch = torch.from_numpy(np.stack([cut(image, lower, size, 0) for lower in corners]))
        batch_seg = torch.from_numpy(np.stack([cut(seg, lower, size, -1) for lower in corners]))
        positions, result = augmenter(batch, batch_seg, generator)
        found = result.numpy().ravel()
        *weighted, inside = positions.movedim(1, 0).flatten(1).double().numpy()
        assert (found[inside < 1e-3] == -1).all()
        found, weighted, inside = (
            part[..., inside >= 1e-3] for part in (found, np.stack(weighted), inside)
        )
        share = shares(seg[0], np.clip(weighted / inside, 0, None), labels) * inside
        share[0] += np.where(found == -1, 1 - inside, 0)
        own = share[found + 1, np.arange(len(found))]
        assert (own >= share.max(axis=0) - 2e-3).all()
        seen += np.bincount(found + 1, minlength=len(labels))
    assert (seen[[0, 1, ignore + 1]] > 5000).all(), seen
    assert (seen[2:-1] > 20).sum() >= 3, seen


@pytest.mark.parametrize("patch", [(14, 16, 12), (5, 20, 18)])
def test_a_previous_stage_moves_exactly_with_image_and_labels(shared_data, patch):
    """The same trick for a cascade, whose previous stage is off by some voxels.

    Each class channel is 1 exactly where its class has the largest share at the position the
    image channels give, and nowhere outside; a copy of the labels stays a copy, bit by bit.
    """
    description = load_description(shared_data(BRATS))
    schema = description.labels
    seg, ignore = brats_with_ignored_slabs(shared_data(BRATS))
    shifted = np.maximum(np.roll(np.where(seg == ignore, 2, seg), (2, -3, 1), (1, 2, 3)), 0)
    settings = spatial_settings(patch, MOVED_ONLY)
    plain = Augmenter(MOVED_ONLY, settings, (False,) * 4, reference_maps=1)
    never = CascadeConfig(p_morphology=0.0, p_drop_component=0.0)
    augmenter = CascadeAugmenter(augment=plain, schema=schema, config=never)
    size = sampled_patch_size(settings, MOVED_ONLY)
    image, rng = coordinates(seg.shape[1:]), np.random.default_rng(3)
    corners = np.argwhere(shifted[0] > 0)
    corners = corners[rng.integers(len(corners), size=40)] - np.array(size) // 2
    corners[:8] = [-5, -4, -6]
    batch = torch.from_numpy(np.stack([cut(image, lower, size, 0) for lower in corners]))

    def augmented(previous):
        maps = [
            np.concatenate([cut(seg, low, size, -1), cut(previous, low, size, -1)])
            for low in corners
        ]
        return augmenter(batch, torch.from_numpy(np.stack(maps)), torch.Generator().manual_seed(3))

    joined, found = augmented(seg)
    assert torch.equal(joined[:, 4:], torch.cat([found == k for k in range(1, ignore)], 1).float())
    joined, again = augmented(shifted)
    assert torch.equal(found, again)
    assert joined.shape[1] == 4 + len(schema.classes)
    *weighted, inside = joined[:, :4].movedim(1, 0).flatten(1).double().numpy()
    channels = joined[:, 4:].movedim(1, 0).flatten(1).numpy()
    assert not channels[:, inside < 1e-3].any()
    seen = inside > 1 - 1e-4  # voxels made of such outside the patch too have no exact position
    labels = list(range(-1, ignore))
    share = shares(shifted[0], np.clip(np.stack(weighted)[:, seen], 0, None), labels)
    # Where the second largest share is as large, either may have won.
    ordered = np.sort(share, axis=0)
    clear = ordered[-1] > ordered[-2] + 2e-3
    winner = share.argmax(axis=0)[clear] - 1
    expected = winner == np.arange(1, ignore)[:, None]
    np.testing.assert_array_equal(channels[:, seen][:, clear] == 1, expected)
    assert clear.sum() > 0.5 * len(inside)
    assert (expected.sum(axis=1) > 50).sum() >= 3


def random_volume():
    """Noise with an empty border, and an empty corner inside the crop."""
    image = np.zeros((1, 8, 9, 7), np.float32)
    image[:, 1:7, 1:8, 1:6] = np.random.default_rng(0).uniform(1, 2, (1, 6, 7, 5))
    image[:, :4, :4, :4] = 0
    return Volume(array=image, geometry=Geometry(spacing_mm=(2.0, 1.0, 1.0)))


def describe(folder, labels, **extra):
    folder.mkdir()
    content = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, **labels},
        "numTraining": 1,
        "file_ending": ".nii.gz",
        **extra,
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return load_description(folder).labels


def stages(folder, schema, raw):
    """Bring raw labels to the preprocessed grid, and random logits to a file of raw labels.

    Every target (and the background) has the same logits whatever its place among the others.
    """
    volume, path = random_volume(), folder / "labels.nii.gz"
    write_labels(path, raw, volume.geometry)
    labels = read_label_map(path, schema).array
    plan = make_plan((1.0, 0.8, 1.5), 1)
    case = preprocess_case(volume, labels, plan, "3d_fullres", ignore_index=schema.ignore_index)
    names = schema.output_names
    shape = case.seg.shape[1:]
    logits = np.stack([np.random.default_rng(list(n.encode())).normal(size=shape) for n in names])
    indices = logits_to_segmentation(
        logits.astype(np.float32), case.record, schema, case.invalid_zyx
    )
    decided = Volume(array=indices, geometry=volume.geometry)
    write_label_map(path, decided, schema, "integers", ".nii.gz")
    return case, read_labels(path).array[0], find_locations(case.seg, schema)


def drawn(count):
    """Random class numbers 0..count (count: ignore), 0 where the image is empty."""
    numbers = np.random.default_rng(1).integers(0, count, (8, 9, 7))
    numbers[random_volume().array[0] == 0] = 0
    numbers[3:5, 2] = count
    return numbers


@pytest.mark.parametrize("values", [(1, 2, 3), (200, 7, 31)])
@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "a", "b"), ("b", "a", "c")])
def test_neither_order_nor_values_of_classes_matter(tmp_path, order, values):
    names, numbers = ("a", "b", "c"), drawn(4)
    value = dict(zip(names, values, strict=True))
    plain = describe(tmp_path / "plain", {"a": 1, "b": 2, "c": 3, "ignore": 4})
    other = describe(tmp_path / "other", {name: value[name] for name in order} | {"ignore": 99})
    case, written, places = stages(tmp_path, plain, numbers)
    moved, rewritten, places_moved = stages(tmp_path, other, np.array([0, *values, 99])[numbers])

    index = np.array([0, *(1 + order.index(name) for name in names), 4, -1])
    assert set(np.unique(case.seg)) == {-1, 0, 1, 2, 3, 4}
    np.testing.assert_array_equal(moved.seg, index[case.seg])
    np.testing.assert_array_equal(moved.image, case.image)
    np.testing.assert_array_equal(rewritten, np.array([0, *values])[written])
    for k in (1, 2, 3):
        np.testing.assert_array_equal(places_moved[index[k]], places[k])
    np.testing.assert_array_equal(places_moved["annotated"], places["annotated"])


@pytest.mark.parametrize("value", [(1, 2, 3), (200, 7, 31)])
def test_neither_order_nor_values_of_region_members_matter(tmp_path, value):
    a, b, c = value
    numbers = drawn(4)
    regions = {"whole": [1, 2, 3], "core": [2, 3], "inner": [3]}
    plain = describe(tmp_path / "plain", regions | {"ignore": 4}, regions_class_order=[1, 2, 3])
    regions = {"whole": [c, a, b], "core": [c, b], "inner": [c]}
    other = describe(tmp_path / "other", regions | {"ignore": 99}, regions_class_order=[a, b, c])
    case, written, places = stages(tmp_path, plain, numbers)
    moved, rewritten, places_moved = stages(tmp_path, other, np.array([0, a, b, c, 99])[numbers])
    np.testing.assert_array_equal(moved.seg, np.array([0, 2, 3, 1, 4, -1])[case.seg])
    np.testing.assert_array_equal(rewritten, np.array([0, a, b, c])[written])
    for region in range(3):
        np.testing.assert_array_equal(places_moved[region], places[region])


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_neither_order_nor_bits_of_structures_matter(tmp_path, order):
    bits, moved_bits = {"a": 1, "b": 2, "c": 4}, {"a": 16, "b": 1, "c": 4}
    numbers = drawn(8) % 8
    plain = describe(tmp_path / "plain", bits, label_encoding="multilabel")
    other = describe(
        tmp_path / "other", {n: moved_bits[n] for n in order}, label_encoding="multilabel"
    )

    def rebit(values):
        return sum(np.where(values & bits[n], moved_bits[n], 0) for n in "abc")

    case, written, places = stages(tmp_path, plain, numbers)
    moved, rewritten, places_moved = stages(tmp_path, other, rebit(numbers))
    place = ["abc".index(name) for name in order]
    np.testing.assert_array_equal(moved.seg, case.seg[place])
    np.testing.assert_array_equal(rewritten, rebit(written))
    assert places.keys() == places_moved.keys()
