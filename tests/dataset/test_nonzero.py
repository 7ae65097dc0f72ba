import numpy as np
import pytest
from scipy import ndimage

from segkit.dataset.nonzero import bounding_box, box_shape, box_slices, nonzero_mask


def hollow_cube(size=7, thickness=1):
    image = np.zeros((1, size, size, size), dtype=np.float32)
    image[0, 1:-1, 1:-1, 1:-1] = 5
    inner = slice(1 + thickness, -1 - thickness)
    image[0, inner, inner, inner] = 0
    return image


def test_any_channel_counts():
    image = np.zeros((2, 1, 3, 3), dtype=np.float32)
    image[0, 0, 0, 0], image[1, 0, 2, 2] = 1, -1
    mask = nonzero_mask(image)
    assert mask.dtype == bool
    assert mask.shape == (1, 3, 3)
    assert np.argwhere(mask).tolist() == [[0, 0, 0], [0, 2, 2]]


def test_a_closed_hole_is_filled_and_an_open_one_is_not():
    image = hollow_cube()
    assert nonzero_mask(image)[1:-1, 1:-1, 1:-1].all()
    assert nonzero_mask(image).sum() == 125
    image[0, 1, 3, 3] = 0  # a channel to the outside
    assert not nonzero_mask(image)[3, 3, 3]


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_a_plane_is_filled_in_two_dimensions(axis):
    image = np.expand_dims(hollow_cube()[:, 3], axis)
    assert nonzero_mask(image).sum() == 25
    assert nonzero_mask(image, fill_planes=False).sum() == 25 - 9


def test_one_filled_slice_among_empty_ones_is_no_plane():
    image = hollow_cube()
    image[:, :3] = image[:, 4:] = 0
    assert nonzero_mask(image).sum() == 25 - 9


def test_extremes():
    full = np.ones((1, 2, 3, 4), dtype=np.float32)
    assert nonzero_mask(full).all()
    assert not nonzero_mask(0 * full).any()
    line = np.zeros((1, 1, 1, 4))
    line[0, 0, 0, [0, 3]] = 1
    assert nonzero_mask(line).tolist() == [[[True, False, False, True]]]


def test_equals_filling_the_whole_array():
    rng = np.random.default_rng(0)
    for _ in range(50):
        shape = rng.integers(2, 9, size=3)
        image = (rng.random((2, *shape)) > rng.uniform(0.3, 0.8)).astype(np.float32)
        expected = ndimage.binary_fill_holes((image != 0).any(axis=0))
        np.testing.assert_array_equal(nonzero_mask(image), expected)


def test_bounding_box():
    mask = np.zeros((4, 5, 6), dtype=bool)
    assert bounding_box(mask) == ((0, 4), (0, 5), (0, 6))
    mask[1, 2, 3] = mask[2, 2, 5] = True
    box = bounding_box(mask)
    assert box == ((1, 3), (2, 3), (3, 6))
    assert mask[box_slices(box)].sum() == mask.sum()
    assert box_shape(box) == mask[box_slices(box)].shape == (2, 1, 3)


def test_the_image_is_left_alone():
    image = hollow_cube()
    before = image.copy()
    nonzero_mask(image)
    np.testing.assert_array_equal(image, before)
