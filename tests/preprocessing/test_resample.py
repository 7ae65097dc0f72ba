import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import resize

from segkit.preprocessing.resample import (
    apply_matrices,
    axis_matrices,
    resample_image,
    resample_segmentation,
    resampled_shape,
    separate_axis,
)

SHAPES = [
    ((9, 14, 11), (13, 7, 20)),
    ((1, 14, 11), (1, 20, 5)),
    ((5, 1, 8), (9, 3, 8)),
    ((6, 7, 8), (1, 7, 1)),
    ((2, 150, 3), (3, 97, 3)),
]


def noise(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference_resize(image, shape, order):
    return resize(image.astype(np.float64), shape, order, mode="edge", anti_aliasing=False)


@pytest.mark.parametrize(("old", "new"), SHAPES)
@pytest.mark.parametrize("order", [1, 3])
def test_joint_resampling_equals_skimage(old, new, order):
    image = noise((2, *old))
    found = resample_image(image, (1, 1, 1), (1, 1, 1), new, order)
    expected = np.stack([reference_resize(channel, new, order) for channel in image])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.ptp(image))


@pytest.mark.parametrize(("old", "new"), SHAPES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_separate_axis_is_slicewise_skimage_then_nearest(old, new, axis):
    spacing = tuple(5.0 if a == axis else 1.0 for a in range(3))
    image = noise((1, *old))
    found = resample_image(image, spacing, (1, 1, 1), new)[0]

    plane = tuple(size for a, size in enumerate(new) if a != axis)
    slices = [reference_resize(s, plane, 3) for s in np.moveaxis(image[0], axis, 0)]
    centres = (np.arange(new[axis]) + 0.5) * old[axis] / new[axis] - 0.5
    index = ndimage.map_coordinates(np.arange(old[axis]), [centres], order=0, mode="nearest")
    expected = np.moveaxis(np.stack([slices[i] for i in index]), 0, axis)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.ptp(image))


def test_values_stay_inside_the_input_range_of_each_channel():
    step = np.zeros((2, 8, 8, 8), np.float32)
    step[0, :, :, 4:], step[1, :, :, 4:] = 1, 100
    result = resample_image(step, (1, 1, 1), (1, 1, 0.4), (8, 8, 20))
    assert result[0].min() == 0
    assert result[0].max() == 1
    assert result[1].max() == 100


def test_separate_slices_are_clipped_to_their_own_range():
    image = np.zeros((1, 2, 8, 8), np.float32)
    image[0, 0, :, 4:], image[0, 1] = 1, 50
    result = resample_image(image, (5, 1, 1), (5, 1, 0.4), (2, 8, 20))
    assert result[0, 0].max() == 1


def test_equal_shape_is_returned_as_is():
    image, seg = noise((1, 3, 4, 5)), np.ones((1, 3, 4, 5), np.int16)
    assert resample_image(image, (1, 1, 1), (1, 1, 1.01), (3, 4, 5)) is image
    assert resample_segmentation(seg, (1, 1, 1), (1, 1, 1.01), (3, 4, 5)) is seg


@pytest.mark.parametrize(
    ("current", "new", "axis"),
    [
        ((1, 1, 1), (1, 1, 1), None),
        ((3, 1, 1), (1, 1, 1), None),  # exactly three is not more than three
        ((3.1, 1, 1), (1, 1, 1), 0),
        ((1, 3.1, 1), (5, 1, 1), 1),  # the current spacing decides first
        ((1, 1, 1), (1, 1, 4), 2),
        ((4, 4, 1), (1, 1, 1), None),  # a shared largest spacing
        ((4, 4, 1), (1, 1, 9), None),
        ((1, 1, 1), (4, 1, 4), None),
        ((999, 1, 1), (999, 1, 1), 0),
    ],
)
def test_separate_axis_rule(current, new, axis):
    assert separate_axis(current, new) == axis


def test_resampled_shape_rounds_half_to_even_and_keeps_a_voxel():
    assert resampled_shape((5, 7, 3), (1, 1, 1), (2, 2, 100)) == (2, 4, 1)


def test_matrices_of_unchanged_axes_are_none_and_do_nothing():
    array = noise((3, 4, 5))
    matrices = axis_matrices((3, 4, 5), (3, 4, 5), 1, None)
    assert matrices == (None, None, None)
    assert apply_matrices(array, matrices) is array


def test_logits_by_matrices_equal_resample_image():
    logits = noise((3, 6, 9, 7))
    axis = separate_axis((4, 1, 1), (1, 1, 1))
    matrices = axis_matrices((6, 9, 7), (11, 5, 12), 1, axis)
    found = np.stack([apply_matrices(channel, matrices) for channel in logits])
    expected = resample_image(logits, (4, 1, 1), (1, 1, 1), (11, 5, 12), order=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_apply_matrices_takes_a_view():
    array = noise((7, 9, 6)).transpose(2, 0, 1)
    matrices = axis_matrices(array.shape, (4, 10, 12), 3, None)
    expected = apply_matrices(np.ascontiguousarray(array), matrices)
    np.testing.assert_array_equal(apply_matrices(array, matrices), expected)


def assert_one_hot_vote(found, seg_zyx, new):
    """Brute force: every label's indicator, resized by skimage; the largest must have won.

    Among several the nearest neighbour wins; where it is none of them, any may.
    """
    labels = np.unique(seg_zyx)
    scores = np.stack([reference_resize(seg_zyx == k, new, 1) for k in labels])
    nearest = reference_resize(seg_zyx, new, 0)
    tied = scores >= scores.max(axis=0) - 1e-6
    each = labels[:, None, None, None]
    nearest_ties = (tied & (each == nearest)).any(axis=0)
    assert (found == nearest)[nearest_ties].all()
    assert (tied & (each == found)).any(axis=0).all()


@settings(max_examples=40, deadline=None)
@given(
    old=st.tuples(*[st.integers(1, 7)] * 3),
    new=st.tuples(*[st.integers(1, 9)] * 3),
    seed=st.integers(0, 1000),
)
def test_labels_equal_the_one_hot_vote(old, new, seed):
    seg = np.random.default_rng(seed).integers(-1, 5, old).astype(np.int16)
    found = resample_segmentation(seg[None], (1, 1, 1), (1, 1, 1), new)[0]
    assert found.dtype == np.int16
    assert_one_hot_vote(found, seg, new)
    # The order of the labels makes no difference, not even at a tie.
    order = np.random.default_rng(seed + 1).permutation(6).astype(np.int16)
    other = resample_segmentation(order[seg + 1][None], (1, 1, 1), (1, 1, 1), new)[0]
    np.testing.assert_array_equal(other, order[found + 1])


def test_separate_axis_votes_in_plane_only():
    seg = np.random.default_rng(3).integers(-1, 4, (4, 6, 5)).astype(np.int16)
    found = resample_segmentation(seg[None], (5, 1, 1), (1, 1, 1), (9, 8, 7))[0]
    centres = (np.arange(9) + 0.5) * 4 / 9 - 0.5
    index = ndimage.map_coordinates(np.arange(4), [centres], order=0, mode="nearest")
    for plane, i in zip(found, index, strict=True):
        assert_one_hot_vote(plane[None], seg[i][None], (1, 8, 7))


def test_vote_by_hand():
    seg = np.array([[[[1, 1, 2, 2]]]], np.int16)
    # Halved: each new voxel lies between two equal ones.
    assert resample_segmentation(seg, (1, 1, 1), (1, 1, 2), (1, 1, 2)).tolist() == [[[[1, 2]]]]
    # Half of each: the nearest neighbour wins, which is the right one.
    for pair in ([3, 1], [1, 3]):
        tie = np.array([[[pair]]], np.int16)
        halved = resample_segmentation(tie, (1, 1, 1), (1, 1, 2), (1, 1, 1))
        assert halved.item() == pair[1]


def test_no_new_label_appears_between_labels():
    seg = np.zeros((1, 4, 8, 8), np.int16)
    seg[..., 4:] = 7
    result = resample_segmentation(seg, (1, 1, 1), (0.6, 0.6, 0.6), (7, 13, 13))
    assert set(np.unique(result)) == {0, 7}


def test_every_structure_is_voted_on_by_itself_and_stays_int8():
    seg = np.random.default_rng(5).integers(-1, 3, (3, 4, 6, 5)).astype(np.int8)
    found = resample_segmentation(seg, (1, 1, 1), (1, 1, 1), (5, 8, 7))
    assert found.dtype == np.int8
    alone = [
        resample_segmentation(channel[None], (1, 1, 1), (1, 1, 1), (5, 8, 7)) for channel in seg
    ]
    np.testing.assert_array_equal(found, np.concatenate(alone))
    wide = resample_segmentation(seg.astype(np.int16), (1, 1, 1), (1, 1, 1), (5, 8, 7))
    np.testing.assert_array_equal(found, wide)
