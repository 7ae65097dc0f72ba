"""Colours of labels, by hand."""

import numpy as np
import pytest

from segkit.dataset.labels import LabelSchema
from segkit.report.label_picture import (
    IGNORED_COLOUR,
    INVALID_COLOUR,
    blend,
    busiest_slice,
    class_colours,
    grey,
    legend,
)

CLASSES = LabelSchema.from_description({"background": 0, "a": 4, "b": 7, "ignore": 9}, {})
STRUCTURES = LabelSchema.from_description(
    {"background": 0, "a": 1, "b": 2}, {"label_encoding": "multilabel"}
)
A, B = class_colours(2)


def test_every_colour_is_one_of_a_kind():
    colours = [*class_colours(60), IGNORED_COLOUR, INVALID_COLOUR]
    distances = [
        np.abs(np.subtract(x, y)).sum() for i, x in enumerate(colours) for y in colours[:i]
    ]
    assert min(distances) > 0.02
    saturation = [max(colour) - min(colour) for colour in colours]
    assert min(saturation[:-2]) > 0.5 > max(saturation[-2:])
    assert [name for name, _ in legend(CLASSES)] == ["a", "b", "ignored", "invalid"]


def test_labels_are_laid_over_the_picture():
    picture = np.full((1, 5, 3), 0.5)
    indices = np.array([[[0, 1, 2, CLASSES.ignore_index, -1]]])
    expected = [(0.5, 0.5, 0.5), A, B, IGNORED_COLOUR, INVALID_COLOUR]
    np.testing.assert_allclose(blend(picture, indices, CLASSES, strength=1.0)[0], expected)
    half = blend(picture, indices, CLASSES, strength=0.5)[0]
    np.testing.assert_allclose(half, 0.25 + 0.5 * np.array(expected))


def test_structures_that_overlap_mix():
    ignored = STRUCTURES.ignore_index
    indices = np.array([[[1, 0, 1, ignored, -1]], [[0, 1, 1, 0, -1]]])
    found = blend(np.zeros((1, 5, 3)), indices, STRUCTURES, strength=1.0)[0]
    mixed = np.add(A, B) / 2
    np.testing.assert_allclose(found, [A, B, mixed, IGNORED_COLOUR, INVALID_COLOUR])


def test_intensities_become_grey():
    shades = grey(np.arange(101.0).reshape(1, 101))
    assert shades.shape == (1, 101, 3)
    assert shades[0, :2].max() == 0
    assert shades[0, -2:].min() == 1
    np.testing.assert_allclose(shades[0, 50], 0.5)
    assert not grey(np.ones((2, 2))).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_busiest_slice(axis):
    indices = np.zeros((1, 4, 4, 4), int)
    assert busiest_slice(indices, CLASSES, axis) == 2
    np.moveaxis(indices[0], axis, 0)[3, 1] = 2
    np.moveaxis(indices[0], axis, 0)[1, 0, :2] = 1
    np.moveaxis(indices[0], axis, 0)[0] = CLASSES.ignore_index
    assert busiest_slice(indices, CLASSES, axis) == 3
    several = np.zeros((2, 4, 4, 4), int)
    np.moveaxis(several, axis + 1, 1)[:, 3, 1] = 1
    np.moveaxis(several, axis + 1, 1)[0, 1, :3, :2] = 1
    np.moveaxis(several, axis + 1, 1)[1, 0] = STRUCTURES.ignore_index
    assert busiest_slice(several, STRUCTURES, axis) == 1
