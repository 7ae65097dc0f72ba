import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from segkit.dataset.cases import Case
from segkit.dataset.orientation import reorient
from segkit.errors import UserError
from segkit.planning.plan import ConfigurationPlan, IntensityStatistics, NetworkPlan, Plan
from segkit.preprocessing.pipeline import (
    CaseRecord,
    cropped_view,
    mark_invalid,
    matrices_back,
    preprocess_case,
)
from segkit.preprocessing.resample import resample_image, resample_segmentation
from segkit.structs import from_mapping, to_mapping
from segkit.types import Geometry, Volume

STATISTICS = IntensityStatistics(
    mean=0, median=0, std=1, min=0, max=1, percentile_00_5=0, percentile_99_5=1
)
NETWORK = NetworkPlan(
    features_per_stage=(2,),
    strides=((1, 1, 1),),
    kernel_sizes=((3, 3, 3),),
    convs_per_stage=(2,),
    convs_per_decoder_stage=(),
)
CASE = Case(id="a", images=(Path("a_0000.nii"),), label=None)
LPS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
OBLIQUE = (0.0, 0.0, 1.0, 0.9950041653, -0.0998334166, 0.0, 0.0998334166, 0.9950041653, 0.0)


def make_plan(spacing, *, transpose=(0, 1, 2), orientation=None, schemes=("none",), inside=False):
    configuration = ConfigurationPlan(
        spacing_mm=spacing,
        patch_size=(4,) * len(spacing),
        batch_size=2,
        median_shape=(8.0,) * len(spacing),
        normalization=schemes,
        normalize_inside_mask=(inside,) * len(schemes),
        batch_dice=False,
        network=NETWORK,
    )
    return Plan(
        planner="default",
        dataset="Dataset001_Test",
        channel_names=tuple(map(str, range(len(schemes)))),
        transpose_forward=transpose,
        orientation=orientation,
        intensities=(STATISTICS,) * len(schemes),
        configurations={"it": configuration},
    )


def make_volume(shape=(6, 7, 8), *, spacing=(1.0, 1.0, 1.0), direction=LPS, channels=1, seed=0):
    """Noise inside, two zero voxels on every side."""
    image = np.zeros((channels, *shape), np.float32)
    inner = image[(slice(None), *[slice(2, n - 2) if n > 4 else slice(None) for n in shape])]
    inner[...] = np.random.default_rng(seed).uniform(1, 2, inner.shape)
    return Volume(array=image, geometry=Geometry(spacing_mm=spacing, direction=direction))


def test_crop_marks_and_keeps_values():
    volume = make_volume()
    volume.array[0, 2, 2, 2] = 0  # a corner of the box that holds nothing
    labels = np.zeros((1, 6, 7, 8), np.int16)
    labels[0, 3, 3, 3], labels[0, 2, 2, 2] = 1, 0
    case = preprocess_case(volume, labels, make_plan((1.0, 1.0, 1.0)), "it", case=CASE)
    assert case.record.bbox == ((2, 4), (2, 5), (2, 6))
    np.testing.assert_array_equal(case.image, volume.array[:, 2:4, 2:5, 2:6])
    assert case.seg is not None
    assert case.seg.dtype == np.int16
    assert case.seg[0, 0, 0, 0] == -1
    assert case.seg[0, 1, 1, 1] == 1
    assert (case.seg == -1).sum() == 1
    np.testing.assert_array_equal(case.invalid_zyx, volume.array[0] == 0)


def test_mark_invalid_leaves_annotated_voxels():
    labels = np.array([[[[0, 0, 1, 3]]]], np.int16)
    nonzero = np.array([[[[True, False, False, False]]]])
    assert mark_invalid(labels, nonzero).tolist() == [[[[0, -1, 1, 3]]]]


def test_invalid_voxels_do_not_enter_the_mean():
    volume = make_volume()
    volume.array[0, 2, 2, 2] = 0
    plan = make_plan((1.0, 1.0, 1.0), schemes=("zscore",))
    image = preprocess_case(volume, None, plan, "it").image
    inside = volume.array[0, 2:4, 2:5, 2:6] != 0
    assert abs(image[0][inside].mean()) < 1e-5
    assert abs(image[0][inside].std() - 1) < 1e-5


def test_labels_on_black_change_statistics_but_show_nothing():
    volume = make_volume()
    volume.array[0, 2, 2, 2:4] = 0
    labels = np.zeros((1, 6, 7, 8), np.int16)
    labels[0, 2, 2, 2] = 1
    plan = make_plan((1.0, 1.0, 1.0), schemes=("zscore",), inside=True)
    training, prediction = (preprocess_case(volume, x, plan, "it") for x in (labels, None))
    assert training.seg is not None
    assert training.seg[0, 0, 0, :2].tolist() == [1, -1]
    np.testing.assert_array_equal(training.image == 0, prediction.image == 0)
    box = volume.array[0, 2:4, 2:5, 2:6]
    valid = np.append(box[box != 0], 0)
    expected = (box[1, 1, 1] - valid.mean()) / valid.std()
    assert training.image[0, 1, 1, 1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("inside", [False, True])
def test_nnunets_rules_count_black_unless_it_is_masked(inside):
    volume = make_volume()
    volume.array[0, 2, 2, 2:5] = 0
    labels = np.zeros((1, 6, 7, 8), np.int16)
    labels[0, 2, 2, 2:4] = 1, 2  # 2 is ignored: to nnU-Net a label like any other
    plan = make_plan((1.0, 1.0, 1.0), schemes=("zscore",), inside=inside)
    plan = dataclasses.replace(plan, voxel_rules="nnunet")
    training = preprocess_case(volume, labels, plan, "it", ignore_index=2)
    prediction = preprocess_case(volume, None, plan, "it")
    assert training.seg is not None
    assert training.seg[0, 0, 0].tolist() == [1, 2, -1, 0]
    box = volume.array[0, 2:4, 2:5, 2:6]
    for case, black in ((training, 2), (prediction, 0)):
        counted = np.append(box[box != 0], np.zeros(black)) if inside else box
        expected = (box - counted.mean()) / counted.std()
        if inside:
            expected[0, 0, black:3] = 0
        np.testing.assert_allclose(case.image[0], expected, rtol=1e-4, atol=1e-5)


def test_nnunets_rules_leave_the_holes_of_planes_empty():
    volume = make_volume((1, 7, 8))
    volume.array[0, 0, 3, 4] = 0
    plan = make_plan((1.0, 1.0))
    for rules, holes in (("segkit", 0), ("nnunet", 1)):
        changed = dataclasses.replace(plan, voxel_rules=rules)
        case = preprocess_case(volume, np.zeros((1, 1, 7, 8), np.int16), changed, "it")
        assert case.seg is not None
        assert (case.seg == -1).sum() == holes


def test_prediction_has_no_segmentation():
    assert preprocess_case(make_volume(), None, make_plan((1.0, 1.0, 1.0)), "it").seg is None


def test_transpose_spacing_and_shapes():
    volume = make_volume((6, 7, 40), spacing=(1.0, 2.0, 0.5))
    plan = make_plan((1.0, 1.0, 1.0), transpose=(2, 0, 1))
    record = preprocess_case(volume, None, plan, "it").record
    assert record.shape_stored == (6, 7, 40)
    assert record.shape_before_crop == (40, 6, 7)
    assert record.shape_after_crop == (36, 2, 3)
    assert record.spacing_mm == (0.5, 1.0, 2.0)
    assert record.shape_resampled == (18, 2, 6)
    assert record.spacing_resampled_mm == (1.0, 1.0, 1.0)


def test_2d_configuration_keeps_the_spacing_across_slices():
    volume = make_volume((6, 7, 8), spacing=(7.3, 1.0, 1.0))
    case = preprocess_case(volume, None, make_plan((0.5, 0.5)), "it")
    assert case.image.shape == (1, 2, 6, 8)
    assert case.record.spacing_resampled_mm == (7.3, 0.5, 0.5)


def test_plane_stays_a_plane():
    volume = make_volume((1, 9, 9), spacing=(999.0, 1.0, 1.0))
    case = preprocess_case(volume, np.zeros((1, 1, 9, 9), np.int16), make_plan((0.5, 0.5)), "it")
    assert case.image.shape == (1, 1, 10, 10)
    assert case.record.bbox == ((0, 1), (2, 7), (2, 7))


def test_all_zero_image_keeps_the_full_box_and_is_all_invalid():
    volume = Volume(
        array=np.zeros((1, 3, 4, 5), np.float32), geometry=Geometry(spacing_mm=(1.0, 1.0, 1.0))
    )
    labels = np.zeros((1, 3, 4, 5), np.int16)
    plan = make_plan((1.0, 1.0, 0.5), schemes=("zscore",))
    case = preprocess_case(volume, labels, plan, "it")
    assert case.image.shape == (1, 3, 4, 10)
    assert np.isfinite(case.image).all()
    assert case.seg is not None
    assert (case.seg == -1).all()
    assert case.invalid_zyx.all()


@pytest.mark.parametrize("direction", [LPS, RAS, OBLIQUE])
@pytest.mark.parametrize("orientation", [None, "LPS", "RAS", "SAL"])
@pytest.mark.parametrize("transpose", list(itertools.permutations(range(3))))
def test_cropped_view_undoes_crop_transpose_and_orientation(direction, orientation, transpose):
    volume = make_volume((6, 7, 9), direction=direction, channels=2)
    schemes = ("none", "none")
    plan = make_plan((1.0, 1.0, 1.0), transpose=transpose, orientation=orientation, schemes=schemes)
    case = preprocess_case(volume, None, plan, "it")
    np.testing.assert_array_equal(cropped_view(volume.array, case.record), case.image)
    stored = np.zeros_like(volume.array)
    cropped_view(stored, case.record)[...] = case.image
    np.testing.assert_array_equal(stored, volume.array)
    one = np.zeros_like(stored[0])
    cropped_view(one, case.record)[...] = case.image[0]
    np.testing.assert_array_equal(one, volume.array[0])
    np.testing.assert_array_equal(case.invalid_zyx, volume.array[0] == 0)


def test_same_case_in_two_orientations_gives_the_same_arrays():
    volume = make_volume((6, 7, 9), spacing=(3.0, 2.0, 1.0))
    labels = np.random.default_rng(1).integers(0, 3, (1, 6, 7, 9)).astype(np.int16)
    turned = reorient(volume, "SRA")
    turned_labels = reorient(Volume(array=labels, geometry=volume.geometry), "SRA").array
    plan = make_plan((1.5, 1.5, 1.5), orientation="LPS")
    one = preprocess_case(volume, labels, plan, "it")
    other = preprocess_case(turned, turned_labels, plan, "it")
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.seg, other.seg)


def test_record_survives_json():
    plan = make_plan((1.0, 1.0, 1.0), transpose=(2, 0, 1), orientation="RAS")
    record = preprocess_case(make_volume(), None, plan, "it", case=CASE).record
    text = json.dumps(to_mapping(record))
    assert from_mapping(CaseRecord, json.loads(text), source="test") == record


def test_refuses_wrong_channels_grids_and_nan():
    plan, volume = make_plan((1.0, 1.0, 1.0)), make_volume()
    with pytest.raises(UserError, match="2 channels, the plan expects 1"):
        preprocess_case(make_volume(channels=2), None, plan, "it")
    with pytest.raises(UserError, match="label map"):
        preprocess_case(volume, np.zeros((1, 6, 7, 9), np.int16), plan, "it")
    volume.array[0, 0, 0, 0] = np.nan
    with pytest.raises(UserError, match="NaN") as raised:
        preprocess_case(volume, None, plan, "it", case=CASE)
    assert raised.value.where == "a_0000.nii"
    with pytest.raises(UserError, match="3d_fullres is not planned"):
        preprocess_case(make_volume(), None, plan, "3d_fullres")


def test_input_is_left_alone():
    volume = make_volume()
    before = volume.array.copy()
    plan = make_plan((1.0, 1.0, 1.0), schemes=("zscore",))
    preprocess_case(volume, np.zeros((1, 6, 7, 8), np.int16), plan, "it")
    np.testing.assert_array_equal(volume.array, before)


def test_structures_are_invalid_where_the_image_is_empty_and_none_is_present():
    # Columns: nothing known; image; a structure present; one ignored; all ignored; image.
    labels = np.array([[0, 0, 1, 2, 2, 0], [0, 0, 0, 0, 2, 0]], np.int8).reshape(2, 1, 1, 6)
    image = np.array([0, 5, 0, 0, 0, 5], np.float32).reshape(1, 1, 1, 6)
    image = np.concatenate([image, image], axis=2)  # two rows, as holes of planes are filled
    volume = Volume(array=image, geometry=Geometry(spacing_mm=(1.0, 1.0, 1.0)))
    plan = make_plan((1.0, 1.0, 1.0), schemes=("zscore",))
    both = np.concatenate([labels, labels], axis=2)
    case = preprocess_case(volume, both, plan, "it", ignore_index=2)
    # The crop starts at the first voxel that is not empty.
    assert case.seg[:, 0, 0].tolist() == [[0, 1, 2, 2, 0], [0, 0, -1, 2, 0]]
    # The empty voxel with a structure counts: mean (5 + 0 + 5) / 3.
    deviation = np.std([5, 0, 5])
    np.testing.assert_allclose(case.image[0, 0, 0, 0], (5 - 10 / 3) / deviation, rtol=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.4, 1.2)])
def test_structures_are_treated_each_like_a_binary_label_map(spacing):
    volume = make_volume((8, 9, 10))
    volume.array[0, 3, 3:5, 3:6] = 0
    volume.array[0, 2, 2, 2] = 0  # a corner, which is no hole
    labels = np.random.default_rng(0).integers(0, 3, (3, 8, 9, 10)).astype(np.int8)
    labels[:, volume.array[0] == 0] = 0
    plan = make_plan(spacing, transpose=(1, 0, 2), orientation="RAS")
    case = preprocess_case(volume, labels, plan, "it")
    assert case.seg is not None
    assert case.seg.dtype == np.int8
    alone = [preprocess_case(volume, channel[None], plan, "it").seg for channel in labels]
    np.testing.assert_array_equal(case.seg, np.concatenate(alone))
    assert (case.seg == -1).any()


def test_ignoring_empty_voxels_does_not_change_how_an_image_looks():
    volume = make_volume()
    volume.array[0, 2, 2, 2:4] = 0  # an edge of the box
    labels = np.zeros((1, 6, 7, 8), np.int16)
    labels[0, :, :, :4] = 3
    plan = make_plan((1.0, 1.0, 1.0), schemes=("zscore",), inside=True)
    made = preprocess_case(volume, labels, plan, "it", ignore_index=3)
    np.testing.assert_array_equal(made.image, preprocess_case(volume, None, plan, "it").image)
    assert made.seg is not None
    assert (made.seg[0, 0, 0] == 3).sum() == 2


def resampled(volume, labels, resampling, spacing=(1.0, 1.0, 1.0)):
    plan = make_plan(spacing)
    chosen = dataclasses.replace(plan.configuration("it"), resampling=resampling)
    plan = dataclasses.replace(plan, configurations={"it": chosen})
    return preprocess_case(volume, labels, plan, "it", case=CASE)


def test_every_kind_of_resampling():
    volume = make_volume((9, 8, 9), spacing=(4.0, 1.0, 1.3))
    labels = (volume.array > 1.5).astype(np.int16)
    grids = (4.0, 1.0, 1.3), (1.0, 1.0, 1.0), (20, 4, 6)
    cropped = volume.array[:, 2:7, 2:6, 2:7]
    kinds = {"cubic": (3, True), "linear": (1, True), "cubic_all_axes": (3, False)}
    kinds["linear_all_axes"] = (1, False)
    for kind, (order, apart) in kinds.items():
        made = resampled(volume, labels, kind)
        np.testing.assert_array_equal(made.image, resample_image(cropped, *grids, order, apart))
        expected = resample_segmentation(labels[:, 2:7, 2:6, 2:7], *grids, apart)
        np.testing.assert_array_equal(made.seg, expected)
        across, _ = matrices_back(made.record)
        assert across == (0 if apart else None)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0)])
def test_cases_that_are_not_resampled_keep_shape_and_spacing(spacing):
    volume = make_volume((9, 8, 9), spacing=(4.0, 1.0, 1.3))
    made = resampled(volume, (volume.array > 1.5).astype(np.int16), "none", spacing)
    np.testing.assert_array_equal(made.image, volume.array[:, 2:7, 2:6, 2:7])
    assert made.record.spacing_resampled_mm == (4.0, 1.0, 1.3)
    assert matrices_back(made.record)[1] == (None, None, None)


@pytest.mark.parametrize("scheme", ["ct", "zscore", "rescale_to_0_1", "rgb_to_0_1", "none"])
def test_absent_channels_are_zero_and_the_others_what_they_were(scheme):
    statistics = dataclasses.replace(STATISTICS, mean=-3.0, std=2.0, percentile_00_5=-9)
    plan = make_plan((1.0, 1.0, 1.5), schemes=(scheme,) * 3)
    plan = dataclasses.replace(plan, intensities=(statistics,) * 3)
    whole = make_volume(channels=3)
    full = preprocess_case(whole, None, plan, "it", case=CASE)
    part = dataclasses.replace(whole, array=whole.array[[0, 2]])
    case = dataclasses.replace(CASE, absent=(1,))
    result = preprocess_case(part, None, plan, "it", case=case)
    np.testing.assert_array_equal(result.image[[0, 2]], full.image[[0, 2]])
    assert (result.image[1] == 0).all()
    assert result.record == full.record
    with pytest.raises(UserError, match="2 channels, the plan expects 3"):
        preprocess_case(part, None, plan, "it", case=CASE)
