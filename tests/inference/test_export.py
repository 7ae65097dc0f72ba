"""The way back: resampling, decision, crop, axes, orientation and raw values."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny import tiny_configuration, tiny_plan

from segkit.dataset.labels import LabelClass, LabelSchema, Region
from segkit.dataset.orientation import reorient
from segkit.errors import UserError
from segkit.inference import export
from segkit.inference.export import logits_to_segmentation, probabilities, save_probabilities
from segkit.planning.plan import Plan
from segkit.preprocessing.pipeline import CaseRecord, preprocess_case
from segkit.preprocessing.resample import resample_image
from segkit.types import Geometry, Volume

LPS = (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
RAS = (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)
TURNED = (0, 0, 1.0, -1.0, 0, 0, 0, 1.0, 0)


def labels(*values: int) -> LabelSchema:
    return LabelSchema(classes=tuple(LabelClass(name=f"c{v}", value=v) for v in values))


REGIONS = LabelSchema(
    classes=tuple(LabelClass(name=f"c{v}", value=v) for v in (1, 2, 3)),
    regions=(
        Region(name="whole", members=(1, 2, 3), paint=1),
        Region(name="core", members=(2, 3), paint=2),
        Region(name="enhancing", members=(3,), paint=3),
    ),
)


def segment(logits, record, schema, invalid) -> np.ndarray:
    """Return raw values (Z, Y, X), for labels and regions."""
    indices = logits_to_segmentation(logits, record, schema, invalid)
    assert (indices.dtype, len(indices)) == (np.int16, 1)
    return schema.decode(indices[0])


def record(shape, resampled=None, *, spacing_mm=(1.0, 1.0, 1.0), crop=None) -> CaseRecord:
    """Axes as stored; ``crop`` a box in ``shape``."""
    box = crop or tuple((0, size) for size in shape)
    after = tuple(stop - start for start, stop in box)
    resampled = resampled or after
    return CaseRecord(
        case="case",
        files=("case_0000.nii.gz",),
        geometry=Geometry(spacing_mm=spacing_mm),
        orientation=None,
        transpose_forward=(0, 1, 2),
        shape_stored=shape,
        shape_before_crop=shape,
        bbox=box,
        shape_after_crop=after,
        shape_resampled=resampled,
        spacing_mm=spacing_mm,
        spacing_resampled_mm=tuple(
            s * a / r for s, a, r in zip(spacing_mm, after, resampled, strict=True)
        ),
    )


def make_plan(transpose, orientation, spacing_mm) -> Plan:
    configuration = tiny_configuration(spacing_mm=spacing_mm, normalization=("none",))
    return tiny_plan(configuration, ("ct",), transpose_forward=transpose, orientation=orientation)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize(
    ("direction", "orientation"),
    [(LPS, None), (TURNED, None), (LPS, "LPS"), (RAS, "LPS"), (TURNED, "LPS"), (TURNED, "RAS")],
)
def test_what_preprocessing_did_to_the_labels_is_undone(transpose, direction, orientation):
    rng = np.random.default_rng(0)
    schema = labels(3, 7)
    raw = rng.choice([0, 3, 7], size=(9, 7, 8)).astype(np.uint8)
    image = np.zeros((1, 9, 7, 8), dtype=np.float32)
    inner = (slice(2, 8), slice(1, 6), slice(3, 8))
    image[(0, *inner)] = 1 + rng.random((6, 5, 5))
    raw[image[0] == 0] = 0
    volume = Volume(array=image, geometry=Geometry(spacing_mm=(3.0, 1.0, 2.0), direction=direction))
    spacing_mm = volume.geometry.spacing_mm
    if orientation:
        spacing_mm = reorient(volume, orientation).geometry.spacing_mm
    plan = make_plan(transpose, orientation, tuple(spacing_mm[axis] for axis in transpose))
    case = preprocess_case(volume, schema.encode(raw)[None], plan, "3d_fullres")

    assert case.record.shape_resampled == case.record.shape_after_crop
    assert sorted(case.record.shape_after_crop) == [5, 5, 6]
    one_hot = np.stack([case.seg[0] == k for k in range(3)]).astype(np.float32)
    result = segment(one_hot, case.record, schema, case.invalid_zyx)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, raw)


def test_the_running_maximum_is_the_argmax_of_all_resampled_logits():
    logits = np.random.default_rng(0).normal(size=(7, 6, 5, 8)).astype(np.float32)
    case = record((9, 8, 8), (6, 5, 8))
    grids = case.spacing_resampled_mm, case.spacing_mm, case.shape_after_crop
    full = resample_image(logits, *grids, order=1)
    result = segment(logits, case, labels(*range(1, 7)), None)
    assert len(np.unique(result)) == 7
    np.testing.assert_array_equal(result, full.argmax(axis=0))


@pytest.mark.parametrize("slab_voxels", [1, 100, 1 << 18])
@pytest.mark.parametrize(
    ("shape", "stored", "spacing_mm"),
    [
        ((6, 5, 8), (9, 8, 8), (1.0, 1.0, 1.0)),
        ((6, 5, 8), (4, 5, 3), (1.0, 1.0, 1.0)),
        ((3, 9, 7), (7, 12, 5), (9.0, 1.0, 1.0)),
        ((9, 3, 7), (12, 7, 5), (1.0, 9.0, 1.0)),
        ((9, 7, 3), (12, 5, 7), (1.0, 1.0, 9.0)),
    ],
)
def test_any_slab_gives_the_argmax_of_all_logits(
    monkeypatch, slab_voxels, shape, stored, spacing_mm
):
    monkeypatch.setitem(export._SLAB_VOXELS, "cpu", slab_voxels)
    logits = np.random.default_rng(0).normal(size=(300, *shape)).astype(np.float32)
    case = record(stored, shape, spacing_mm=spacing_mm)
    grids = case.spacing_resampled_mm, case.spacing_mm, case.shape_after_crop
    full = resample_image(logits, *grids, order=1)
    found = logits_to_segmentation(logits, case, labels(*range(1, 300)), None)[0]
    chosen = np.take_along_axis(full, found[None].astype(np.int64), axis=0)[0]
    # Another class may win only where the two are equal but for rounding.
    np.testing.assert_allclose(chosen, full.max(axis=0), atol=1e-5)
    assert found.max() > 255


def test_half_precision_is_interpolated_in_single():
    logits = torch.randn(5, 4, 5, 6, generator=torch.Generator().manual_seed(0)).half()
    case, schema = record((7, 6, 9), (4, 5, 6)), labels(1, 2, 3, 4)
    found = logits_to_segmentation(logits, case, schema, None)
    expected = logits_to_segmentation(logits.float(), case, schema, None)
    np.testing.assert_array_equal(found, expected)


def test_a_coarse_axis_takes_the_nearest_slice():
    # 5 mm slices beside 1 mm pixels: slices are repeated, never mixed.
    logits = np.zeros((2, 2, 1, 1), dtype=np.float32)
    logits[1, :, 0, 0] = [-1, 0.1]
    case = record((4, 1, 1), (2, 1, 1), spacing_mm=(5.0, 1.0, 1.0))
    result = segment(logits, case, labels(1), None)
    assert result[:, 0, 0].tolist() == [0, 0, 1, 1]


def test_linear_resampling_by_hand():
    # Four voxels at positions -0.25, 0.25, 0.75, 1.25 of two, the edge held: -1, -0.25, 1.25, 2.
    logits = np.zeros((2, 1, 1, 2), dtype=np.float32)
    logits[1, 0, 0] = [-1, 2]
    result = segment(logits, record((1, 1, 4), (1, 1, 2)), labels(1), None)
    assert result[0, 0].tolist() == [0, 0, 1, 1]


def test_equal_logits_go_to_the_first_class():
    logits = np.zeros((3, 1, 1, 2), dtype=np.float32)
    logits[1:, 0, 0, 1] = 1
    result = segment(logits, record((1, 1, 2)), labels(1, 2), None)
    assert result[0, 0].tolist() == [0, 1]


def test_regions_are_painted_in_order():
    columns = {  # whole, core, enhancing -> painted
        (-1, -1, -1): 0,
        (1, -1, -1): 1,
        (1, 1, -1): 2,
        (1, 1, 1): 3,
        (9, -1, 0.1): 3,
        (-1, 0.1, -1): 2,
        (0, 0, 0): 0,
    }
    logits = np.array(list(columns), dtype=np.float32).T.reshape(3, 1, 1, -1)
    result = segment(logits, record((1, 1, len(columns))), REGIONS, None)
    assert result[0, 0].tolist() == list(columns.values())


def test_a_region_painted_later_wins_whatever_its_paint_value():
    swapped = dataclasses.replace(REGIONS, regions=REGIONS.regions[::-1])
    logits = np.ones((3, 1, 1, 1), dtype=np.float32)
    assert segment(logits, record((1, 1, 1)), swapped, None).item() == 1


def test_outside_the_crop_and_invalid_voxels_are_background():
    logits = np.zeros((2, 1, 1, 3), dtype=np.float32)
    logits[1] = 1
    case = record((1, 1, 6), crop=((0, 1), (0, 1), (2, 5)))
    invalid = np.zeros((1, 1, 6), dtype=bool)
    invalid[0, 0, 3] = True
    schema = labels(5)
    assert segment(logits, case, schema, None)[0, 0].tolist() == [0, 0, 5, 5, 5, 0]
    assert segment(logits, case, schema, invalid)[0, 0].tolist() == [
        0,
        0,
        5,
        0,
        5,
        0,
    ]


@pytest.mark.parametrize(("value", "dtype"), [(255, np.uint8), (300, np.uint16)])
def test_values_above_255_need_a_wider_type(value, dtype):
    logits = np.array([0, 1], dtype=np.float32).reshape(2, 1, 1, 1)
    result = segment(logits, record((1, 1, 1)), labels(value), None)
    assert result.dtype == dtype
    assert result.item() == value


def test_tensors_of_inference_mode_are_taken_and_left_as_they_are():
    with torch.inference_mode():
        logits = torch.randn(3, 2, 4, 5)
    before = logits.clone()
    case, schema = record((2, 4, 5)), labels(1, 2)
    result = segment(logits, case, schema, None)
    np.testing.assert_array_equal(result, logits.argmax(0).numpy())
    assert torch.equal(logits, before)


def test_softmax_probabilities_agree_with_the_segmentation():
    logits = np.random.default_rng(0).normal(scale=50, size=(3, 3, 4, 4)).astype(np.float32)
    case = record((6, 6, 8), (3, 4, 4), crop=((0, 5), (1, 5), (0, 8)))
    invalid = np.random.default_rng(1).random((6, 6, 8)) < 0.2
    schema = labels(1, 2)
    result = probabilities(logits, case, schema, invalid)
    assert result.shape == (3, 6, 6, 8)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.sum(axis=0), 1, atol=1e-6)
    assert (result[0, 5] == 1).all()
    assert (result[1:, :, 0] == 0).all()
    segmentation = segment(logits, case, schema, invalid)
    np.testing.assert_array_equal(result.argmax(axis=0), segmentation)


def test_sigmoid_probabilities_are_zero_outside_the_crop():
    logits = np.array([0, 2, -1000], dtype=np.float32).reshape(3, 1, 1, 1)
    case = record((1, 1, 2), crop=((0, 1), (0, 1), (1, 2)))
    result = probabilities(logits, case, REGIONS)
    np.testing.assert_allclose(result[:, 0, 0, 1], [0.5, 1 / (1 + np.exp(-2)), 0], rtol=1e-6)
    assert (result[:, 0, 0, 0] == 0).all()


def test_saved_probabilities_come_back_bit_by_bit(tmp_path):
    values = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    save_probabilities(tmp_path / "case.npz", values)
    with np.load(tmp_path / "case.npz") as content:
        assert content.files == ["probabilities"]
        assert content["probabilities"].dtype == np.float32
        np.testing.assert_array_equal(content["probabilities"], values)
    assert [path.name for path in tmp_path.iterdir()] == ["case.npz"]


def test_a_place_for_probabilities_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the file"):
        save_probabilities(tmp_path / "file" / "case.npz", np.zeros((2, 1, 1, 1)))


@pytest.mark.parametrize("voxels", [1, 30, 100])
def test_slabs_of_probabilities_are_the_thinner_the_more_channels_there_are(monkeypatch, voxels):
    logits = np.random.default_rng(0).normal(size=(3, 4, 3, 2)).astype(np.float32)
    case, schema = record((8, 5, 2), (4, 3, 2), spacing_mm=(1.0, 1.2, 2.0)), labels(1, 2)
    expected = probabilities(logits, case, schema)
    sizes, copied = [], torch.Tensor.copy_
    monkeypatch.setattr(export, "_SLAB_VOXELS", {"cpu": voxels})
    monkeypatch.setattr(
        torch.Tensor, "copy_", lambda into, other: sizes.append(into.numel()) or copied(into, other)
    )
    np.testing.assert_allclose(probabilities(logits, case, schema), expected, rtol=1e-6)
    assert 3 * max(sizes) <= max(voxels, 3 * 5 * 2)


STRUCTURES = LabelSchema(
    classes=tuple(LabelClass(name=f"s{v}", value=v) for v in (1, 2, 3)), overlapping=True
)


def test_structures_are_decided_each_for_itself():
    logits = np.random.default_rng(0).normal(size=(3, 4, 5, 8)).astype(np.float32)
    case = record((9, 8, 8), (4, 5, 8), crop=((1, 7), (0, 8), (0, 8)))
    grids = case.spacing_resampled_mm, case.spacing_mm, case.shape_after_crop
    invalid = np.random.default_rng(1).random((9, 8, 8)) < 0.2
    found = logits_to_segmentation(logits, case, STRUCTURES, invalid)
    expected = np.zeros((3, 9, 8, 8), np.int8)
    expected[:, 1:7] = resample_image(logits, *grids, order=1) > 0
    expected[:, invalid] = 0
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, expected)
    assert (found.sum(axis=0) > 1).any()


def test_probabilities_of_structures_agree_with_the_segmentation():
    logits = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32)
    case = record((6, 6, 8), (3, 4, 4), crop=((0, 5), (1, 5), (0, 8)))
    invalid = np.random.default_rng(1).random((6, 6, 8)) < 0.2
    shares = probabilities(logits, case, STRUCTURES, invalid)
    assert (shares[:, invalid] == 0).all()
    assert (shares[:, 5] == 0).all()
    found = logits_to_segmentation(logits, case, STRUCTURES, invalid)
    np.testing.assert_array_equal(shares > 0.5, found)
