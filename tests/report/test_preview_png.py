"""Sheets of augmented patches: colours by hand, names of what is there, one picture a patch."""

import numpy as np
import pytest
from PIL import Image

from segkit.dataset.labels import LabelSchema
from segkit.report.label_picture import IGNORED_COLOUR, INVALID_COLOUR, class_colours, outline
from segkit.report.preview_png import FINE, Sheet, _handles, _pictures, draw_labels, draw_preview
from segkit.training.preview import PatchPair

CLASSES = LabelSchema.from_description({"background": 0, "a": 4, "b": 7, "ignore": 9}, {})
STRUCTURES = LabelSchema.from_description(
    {"background": 0, "a": 1, "b": 2}, {"label_encoding": "multilabel"}
)
REGIONS = LabelSchema.from_description(
    {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, {"regions_class_order": [1, 2]}
)
A, B = class_colours(2)


def pair(seg, shape, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    images = [rng.normal(size=(channels, *shape)).astype(np.float32) for _ in range(2)]
    return PatchPair(
        case="c",
        image=images[0],
        seg=seg,
        augmented_image=images[1],
        augmented_seg=np.flip(seg, -1).copy(),
    )


def sheet(schema, spacing, channels=1):
    names = tuple(f"m{i}" for i in range(channels))
    return Sheet(title="t", schema=schema, channel_names=names, spacing_mm=spacing)


def test_an_outline_is_one_voxel_wide_and_open_at_the_border():
    mask = np.zeros((6, 6), bool)
    mask[1:5, 2:] = True
    picture = np.zeros((6, 6, 3))
    outline(picture, mask, (1.0, 0.0, 0.0))
    expected = np.zeros((6, 6), bool)
    expected[[1, 4], 2:5] = expected[1:5, 2] = True
    np.testing.assert_array_equal(picture[..., 0] == 1, expected)


def colours(labels, schema, size=6):
    picture = draw_labels(np.full((*labels.shape[1:], 3), 0.5), labels, schema)
    return {tuple(colour) for colour in picture.reshape(-1, 3).round(6)}


def test_classes_are_areas_and_invalid_has_its_own_colour_whole():
    labels = np.array([[[0, 1, 2, CLASSES.ignore_index, -1]]])
    picture = draw_labels(np.full((1, 5, 3), 0.5), labels, CLASSES)
    times = round(FINE / 5)
    assert picture.shape == (times, 5 * times, 3)
    found = picture[times // 2, times // 2 :: times]
    np.testing.assert_allclose(found[0], (0.5, 0.5, 0.5))
    np.testing.assert_allclose(found[4], INVALID_COLOUR)
    for colour, full in ((found[1], A), (found[2], B), (found[3], IGNORED_COLOUR)):
        np.testing.assert_allclose(colour, 0.55 * 0.5 + 0.45 * np.array(full))


def test_regions_and_structures_are_outlines_over_the_image():
    labels = np.zeros((1, 6, 6), int)
    labels[0, 1:5, 1:5], labels[0, 2:4, 2:4] = 1, 2
    labels[0, 0, 0] = -1
    seen = colours(labels, REGIONS)
    assert {tuple(np.round(c, 6)) for c in (A, B, INVALID_COLOUR, (0.5, 0.5, 0.5))} == seen
    overlapping = np.zeros((2, 6, 6), int)
    overlapping[0, 1:4, 1:4], overlapping[1, 2:5, 2:5] = 1, 1
    assert {tuple(np.round(c, 6)) for c in (A, B, (0.5, 0.5, 0.5))} == colours(
        overlapping, STRUCTURES
    )


@pytest.mark.parametrize(
    ("schema", "seg", "names"),
    [
        (CLASSES, [[[0, 2, -1]]], ["b", "invalid"]),
        (CLASSES, [[[1, 2, 3]]], ["a", "b", "ignored"]),
        (REGIONS, [[[0, 1, 0]]], ["whole"]),
        (REGIONS, [[[2, 3, 0]]], ["whole", "core", "ignored"]),
        (STRUCTURES, [[[0, 0, 0]], [[1, 2, -1]]], ["b", "ignored", "invalid"]),
        (CLASSES, [[[0, 0, 0]]], []),
    ],
)
def test_the_legend_names_what_is_there(schema, seg, names):
    handles = _handles([pair(np.array(seg), (1, 3))], schema)
    assert [handle.get_label() for handle in handles] == names


def test_a_volume_shows_its_most_labelled_slice_across_the_coarsest_axis():
    seg = np.zeros((1, 4, 5, 6), int)
    seg[0, :, :, 2] = 1
    shown = _pictures(pair(seg, (4, 5, 6)), sheet(CLASSES, (1.0, 1.0, 3.0)), 1)
    names = [name for name, _, _ in shown]
    assert names == ["c, x 3/6", "augmented, x 4/6"]
    assert shown[0][1].shape[0] / shown[0][1].shape[1] == 4 / 5
    flat = _pictures(pair(seg[:, 0], (5, 6), 2), sheet(CLASSES, (2.0, 1.0), 2), 2)
    assert [name for name, _, _ in flat] == ["c, m0", "augmented, m0", "c, m1", "augmented, m1"]
    assert flat[0][2] == 2.0


def test_both_pictures_have_the_same_black_and_white():
    dark = pair(np.zeros((1, 8, 8), int), (8, 8))
    dark.augmented_image[:] = dark.image.max() + 5
    _, (_, augmented, _) = _pictures(dark, sheet(CLASSES, (1.0, 1.0)), 1)
    assert (augmented == 1).all()


@pytest.mark.parametrize(
    ("schema", "channels", "spacing"),
    [
        (CLASSES, 1, (1.0, 1.0)),
        (REGIONS, 2, (3.0, 1.0, 1.0)),
        (STRUCTURES, 5, (1.0, 1.0, 1.0)),
    ],
)
def test_the_sheet_is_a_png_and_the_same_every_time(tmp_path, schema, channels, spacing):
    shape = (4, 6, 5)[-len(spacing) :]
    rng = np.random.default_rng(0)
    segs = [rng.integers(-1, 3, (schema.seg_channels, *shape)) for _ in range(2)]
    pairs = [pair(seg, shape, channels, seed) for seed, seg in enumerate(segs)]
    for name in ("a", "b"):
        draw_preview(tmp_path / "new" / f"{name}.png", pairs, sheet(schema, spacing, channels))
    first, second = (tmp_path / "new" / f"{name}.png" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as picture:
        assert min(picture.size) > 200
        assert len(np.unique(np.asarray(picture).reshape(-1, 4), axis=0)) > 10
