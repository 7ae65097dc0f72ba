"""Raw values to indices and back, regions, ignore, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segkit.dataset.labels import LabelClass, LabelSchema, Region, bit_numbers, is_whole
from segkit.errors import UserError

SCHEMA = LabelSchema(
    classes=(LabelClass(name="b", value=200), LabelClass(name="a", value=7)), ignore_values=(255,)
)


def build(labels, **content):
    return LabelSchema.from_description(labels, {"labels": labels, **content})


def test_indices_follow_declaration_order():
    raw = np.array([0, 7, 200, 255, -1], dtype=np.int16)
    assert SCHEMA.encode(raw).tolist() == [0, 2, 1, 3, 3]
    assert SCHEMA.encode(raw).dtype == np.int16


def test_floats_that_are_integers_are_read():
    assert SCHEMA.encode(np.array([0.0, 7.0, 200.0])).tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([0, 1, 1, 9], r"1 \(2 voxels\), 9 \(1 voxels\)"),
        ([0, 300], r"300 \(1 voxels\)"),
        ([-7], r"-7 \(1 voxels\)"),
        ([0.5], "fractional"),
        ([float("nan")], "NaN"),
    ],
)
def test_other_values_are_refused(raw, message):
    with pytest.raises(UserError, match=message) as caught:
        SCHEMA.encode(np.array(raw), source="case_1.nii.gz")
    assert "case_1.nii.gz" in str(caught.value)


def test_whole_values_are_integers_but_for_noise():
    values = np.array([0, -2.0, 2.0005, 1.5, np.nan, np.inf])
    assert is_whole(values).tolist() == [True, True, True, False, False, False]
    assert is_whole(np.array([[3]], np.uint8)).tolist() == [[True]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32])
@pytest.mark.parametrize("largest", [200, 2**31 - 1])
def test_undeclared_values_are_named_in_every_number_type(dtype, largest):
    schema = LabelSchema(
        classes=(LabelClass(name="a", value=3), LabelClass(name="b", value=largest))
    )
    with pytest.raises(UserError, match=r"9 \(2 voxels\)"):
        schema.encode(np.array([0, 9, 3, 9], dtype=dtype))
    assert schema.encode(np.array([0, 3], dtype=dtype)).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int64, np.uint64, np.float32])
def test_any_number_type_is_read(dtype):
    schema = LabelSchema(classes=(LabelClass(name="a", value=3),))
    assert schema.encode(np.array([[0, 3]], dtype=dtype)).tolist() == [[0, 1]]


def test_decoding_gives_raw_values_and_background_for_invalid():
    assert SCHEMA.decode(np.array([-1, 0, 1, 2])).tolist() == [0, 0, 200, 7]
    assert SCHEMA.decode(np.array([0])).dtype == np.uint8
    large = LabelSchema(classes=(LabelClass(name="a", value=300),))
    assert large.decode(np.array([1])).dtype == np.uint16


@given(hnp.arrays(np.int64, (3, 4), elements=st.sampled_from([0, 7, 200])))
def test_round_trip(raw):
    assert (SCHEMA.decode(SCHEMA.encode(raw)) == raw).all()


def test_regions_are_unions_and_name_their_classes():
    schema = build(
        {"background": 0, "whole": [1, 2, 5], "core": [2, 5], "enhancing": 5},
        regions_class_order=[1, 2, 5],
    )
    assert [c.name for c in schema.classes] == ["label_1", "label_2", "enhancing"]
    assert schema.regions[1] == Region(name="core", members=(2, 5), paint=2)
    assert schema.region_members.tolist() == [
        [False, True, True, True],
        [False, False, True, True],
        [False, False, False, True],
    ]
    assert schema.paint_indices.tolist() == [1, 2, 3]
    assert schema.num_outputs == 3
    assert schema.target_names == ("whole", "core", "enhancing")


def test_lists_of_one_are_plain_labels():
    schema = build({"background": 0, "a": [1], "b": 2})
    assert not schema.has_regions
    assert schema.num_outputs == 3
    assert schema.target_names == ("a", "b")


@pytest.mark.parametrize(
    ("labels", "content", "values"),
    [
        ({"background": 0, "a": 1, "ignore": 9}, {}, (9,)),
        ({"background": 0, "a": 1}, {"ignore_label": 5}, (5,)),
        ({"background": 0, "a": 1}, {"ignore_label": [5, 6]}, (5, 6)),
        ({"background": 0, "a": 1}, {}, ()),
    ],
)
def test_ignore_is_announced_in_three_ways(labels, content, values):
    schema = build(labels, **content)
    assert schema.ignore_values == values
    assert schema.ignored_values == {*values, -1}
    assert schema.encode(np.array([*values, -1])).tolist() == [2] * (len(values) + 1)


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ([1, 2, 4, 8], [0, 1, 2, 3]),
        ([4, 1], [2, 0]),
        ([1, 2, 3], [0, 1, 2]),
        ([3, 1, 2, 4], [2, 0, 1, 3]),
        ([1, 2], [0, 1]),
        ([2**30], [30]),
    ],
)
def test_values_of_structures_are_bits_or_numbers(values, bits):
    assert bit_numbers(values) == bits


def test_overlapping_structures_have_a_channel_each():
    labels = {"background": 0, "whole": 1, "anterior": 2, "posterior": 4}
    schema = build(labels, label_encoding="multilabel")
    assert schema.overlapping
    assert schema.sigmoid
    assert not schema.has_regions
    assert (schema.num_outputs, schema.seg_channels) == (3, 3)
    assert (schema.num_classes, schema.ignore_index) == (2, 2)
    assert schema.target_names == ("whole", "anterior", "posterior")


def test_structures_left_out_keep_their_place_on_disk():
    labels = {"background": 0, "whole": 1, "anterior": 2, "posterior": 4}
    schema = build(labels, label_encoding="multilabel").without(["posterior", "whole"])
    assert schema.target_names == ("anterior",)
    assert schema.structure_bits == (1,)
    assert sorted(schema.left_out_bits) == [0, 2]
    assert schema.structures_on_disk == 3
    assert schema.without([]) == schema


@pytest.mark.parametrize("names", [["whole", "part"], ["whole"]])
def test_not_everything_can_be_left_out(names):
    labels = {"background": 0, "whole": 1, "part": 2}
    encoding = {"label_encoding": "multilabel"} if len(names) == 2 else {}
    with pytest.raises(ValueError, match="left out"):
        build(labels, **encoding).without(names)


@pytest.mark.parametrize("values", [(1, 2, 3), (3, 1, 2), (5, 2**21, 9)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32])
def test_a_large_map_is_encoded_value_by_value(values, dtype):
    kept = [value for value in (0, *values) if value < 100]
    schema = LabelSchema(classes=tuple(LabelClass(name=str(v), value=v) for v in values))
    raw = np.random.default_rng(0).choice(kept, (1, 70, 50, 40)).astype(dtype)
    expected = np.select([raw == value for value in values], [1, 2, 3], 0)
    assert np.array_equal(schema.encode(raw), expected)
    raw[0, -1, -1, -1] = 77
    with pytest.raises(UserError, match=r"77 \(1 voxels\)"):
        schema.encode(raw)


@pytest.mark.parametrize(
    "raw",
    [
        np.array([-(2**63), 2**63 - 1, 1]),
        np.array([2**63, 2**64 - 1, 1], np.uint64),
        np.array([1e30, 1.0]),
    ],
)
def test_extreme_values_are_undeclared_like_others(raw):
    with np.errstate(invalid="ignore"), pytest.raises(UserError, match="values not declared"):
        SCHEMA.encode(raw)
