"""Structures that overlap: bits and masks to channels and back, against arithmetic in Python."""

import numpy as np
import pytest

from segkit.dataset.labels import LabelClass, LabelSchema
from segkit.dataset.structures import (
    check_bitmask,
    decode_bitmask,
    decode_masks,
    encode_mask,
    encode_structures,
)
from segkit.errors import UserError


def schema(count, *, ignore=(), powers=False, left_out=()):
    """Structures s1, s2, ..., numbered in reverse order of declaration."""
    values = [2**i if powers else i + 1 for i in range(count)]
    classes = tuple(LabelClass(name=f"s{i + 1}", value=v) for i, v in enumerate(values))
    made = LabelSchema(classes=classes[::-1], overlapping=True, ignore_values=ignore)
    return made.without(left_out)


def random_channels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2, (count, 2, 3, 5)).astype(np.int8)


def test_bits_by_hand():
    # Declared are bit 1, then bit 0.
    raw = np.array([0, 1, 2, 3, 9], np.uint8).reshape(1, 1, 1, 5)
    channels = encode_structures(raw, schema(2, ignore=(9,)))
    assert channels.dtype == np.int8
    assert channels[:, 0, 0].tolist() == [[0, 0, 1, 1, 2], [0, 1, 0, 1, 2]]
    assert decode_bitmask(channels, schema(2)).tolist() == [[[0, 1, 2, 3, 0]]]
    assert decode_masks(channels, schema(2))[:, 0, 0].tolist() == [[0, 1, 0, 1, 0], [0, 0, 1, 1, 0]]


@pytest.mark.parametrize("powers", [False, True])
@pytest.mark.parametrize(
    ("count", "dtype"),
    [
        (1, np.uint8),
        (2, np.uint8),
        (8, np.uint8),
        (9, np.uint16),
        (16, np.uint16),
        (17, np.int32),
        (31, np.int32),
        (32, np.int64),
        (62, np.int64),
    ],
)
def test_random_structures_come_back(count, dtype, powers):
    made, channels = schema(count, powers=powers), random_channels(count, seed=count)
    bitmask = decode_bitmask(channels, made)
    assert bitmask.dtype == dtype
    # Bit i belongs to structure s(i + 1), declared last to first.
    expected = sum(channels[count - 1 - bit].astype(object) << bit for bit in range(count))
    assert (bitmask == expected).all()
    np.testing.assert_array_equal(encode_structures(bitmask[None], made), channels)
    masks = decode_masks(channels, made)
    np.testing.assert_array_equal(masks, channels[::-1])
    np.testing.assert_array_equal(encode_structures(masks, made), channels)
    np.testing.assert_array_equal(encode_structures(masks.astype(np.float32), made), channels)


def test_a_file_of_few_bits_is_read_with_many_structures_declared():
    raw = np.array([[[[0, 1, 255]]]], np.uint8)
    channels = encode_structures(raw, schema(20))
    assert channels.sum(axis=0).tolist() == [[[0, 1, 8]]]


def test_structures_left_out_are_read_past_and_written_empty():
    everything, some = schema(10), schema(10, left_out=("s3", "s10"))
    channels = random_channels(10)
    names = [structure.name for structure in everything.classes]
    gone = [names.index("s3"), names.index("s10")]
    kept = np.delete(channels, gone, axis=0)
    bitmask, masks = decode_bitmask(channels, everything)[None], decode_masks(channels, everything)
    np.testing.assert_array_equal(encode_structures(bitmask, some), kept)
    np.testing.assert_array_equal(encode_structures(masks, some), kept)
    emptied = channels.copy()
    emptied[gone] = 0
    assert (decode_bitmask(kept, some) == decode_bitmask(emptied, everything)).all()
    assert (decode_masks(kept, some) == decode_masks(emptied, everything)).all()


def test_ignore_stands_for_all_structures_in_a_bitmask_and_for_one_in_a_mask():
    made = schema(2, ignore=(200,))
    bits = np.array([-1, 200, 3], np.int16).reshape(1, 1, 1, 3)
    assert encode_structures(bits, made)[:, 0, 0].tolist() == [[2, 2, 1], [2, 2, 1]]
    masks = np.array([[200, 0], [1, -1]], np.int16).reshape(2, 1, 1, 2)
    assert encode_structures(masks, made)[:, 0, 0].tolist() == [[1, 2], [2, 0]]
    assert encode_mask(masks[0], made).tolist() == [[[2, 0]]]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ([[4]], "no structure has: 4"),
        ([[57]], "no structure has: 8, 16, 32"),
        ([[-3]], "never negative; the file holds -3"),
        ([[0], [2]], "other than 0 and 1: 2"),
        ([[0.5], [0]], "fractional"),
        ([[np.nan], [0]], "NaN"),
        ([[0], [1], [0]], "holds 3 masks; dataset.json declares 2"),
    ],
)
def test_what_is_no_label_is_refused(raw, told):
    array = np.array(raw).reshape(len(raw), 1, 1, 1)
    with pytest.raises(UserError, match=told) as error:
        encode_structures(array, schema(2), source="case.nii.gz")
    assert error.value.where == "case.nii.gz"


def test_a_mask_nobody_declared_must_be_empty():
    classes = (LabelClass(name="a", value=1), LabelClass(name="c", value=4))
    gap = LabelSchema(classes=classes, overlapping=True)
    masks = np.zeros((3, 1, 1, 2), np.uint8)
    assert encode_structures(masks, gap).shape == (2, 1, 1, 2)
    masks[1] = 1
    with pytest.raises(UserError, match="number 2"):
        encode_structures(masks, gap)


def test_more_structures_than_bits_need_masks():
    channels = random_channels(63)
    with pytest.raises(UserError, match="63 structures"):
        decode_bitmask(channels, schema(63))
    masks = decode_masks(channels, schema(63))
    np.testing.assert_array_equal(encode_structures(masks, schema(63)), channels)


def test_more_structures_than_an_integer_has_bits_need_masks():
    made, channels = schema(63), random_channels(63)
    np.testing.assert_array_equal(encode_structures(decode_masks(channels, made), made), channels)
    with pytest.raises(UserError, match="63 structures do not fit") as caught:
        encode_structures(np.zeros((1, 2, 3, 5), np.int64), made, source="case_1.nii.gz")
    assert "case_1.nii.gz" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "ignore", "fine"),
    [([1, 2, 4], 7, False), ([1, 2, 4], 8, True), ([1, 4], 2, True), ([1, 4], 5, False)],
)
def test_an_ignore_value_that_is_a_bitmask_itself_needs_masks(values, ignore, fine):
    classes = tuple(LabelClass(name=f"s{v}", value=v) for v in values)
    made = LabelSchema(classes=classes, overlapping=True, ignore_values=(ignore, -1))
    raw = np.array([[[[0, 1, ignore]]]], np.uint8)
    if fine:
        check_bitmask(made, "x")
        assert encode_structures(raw, made)[:, 0, 0, 2].tolist() == [2] * len(values)
        return
    with pytest.raises(UserError, match=f"ignore value {ignore} is also the bitmask"):
        encode_structures(raw, made, source="x")
    masks = np.zeros((made.structures_on_disk, 1, 1, 1), np.uint8)
    masks[0] = ignore
    assert encode_structures(masks, made)[:, 0, 0, 0].tolist() == [2] + [0] * (len(values) - 1)
