"""From the logits of a first stage, or from files, to what the second stage's network is given."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from segkit.dataset.cases import Case
from segkit.dataset.description import load_description
from segkit.dataset.image_io import write_labels
from segkit.dataset.label_files import label_path, write_label_map
from segkit.dataset.orientation import reorient
from segkit.errors import UserError
from segkit.inference.case import CasePredictor
from segkit.inference.model import PREVIOUS_STAGE, Model, ModelSettings
from segkit.inference.predictor import PredictionSettings
from segkit.inference.previous import (
    GivenSegmentations,
    check_stages,
    load_previous,
    previous_folds,
    segment_for,
    with_class_channels,
)
from segkit.planning.plan import ConfigurationPlan, IntensityStatistics, NetworkPlan, Plan
from segkit.preprocessing.pipeline import preprocess_case
from segkit.types import Geometry, Volume

SHAPE = (12, 14, 10)
GEOMETRY = Geometry(
    spacing_mm=(1.0, 1.0, 1.5), direction=(0, 0, 1, -1, 0, 0, 0, 1, 0), origin=(3.0, 4.0, -5.0)
)
LABELS = {"labels": {"background": 0, "a": 5, "b": 2, "ignore": 9}}
REGIONS = {
    "labels": {"background": 0, "whole": [5, 2], "core": [2]},
    "regions_class_order": [5, 2],
}
STRUCTURES = {"labels": {"background": 0, "a": 1, "b": 2}, "label_encoding": "multilabel"}
DESCRIPTIONS = [LABELS, REGIONS, STRUCTURES]
STATISTICS = IntensityStatistics(
    mean=0.0, median=0.0, std=1.0, min=0.0, max=1.0, percentile_00_5=0.0, percentile_99_5=1.0
)


def configuration(spacing_mm, previous=None):
    return ConfigurationPlan(
        spacing_mm=spacing_mm,
        patch_size=(8, 8, 8),
        batch_size=2,
        median_shape=(12.0, 12.0, 12.0),
        normalization=("none",),
        normalize_inside_mask=(False,),
        batch_dice=False,
        previous_stage=previous,
        network=NetworkPlan(
            features_per_stage=(2, 4),
            strides=((1, 1, 1), (2, 2, 2)),
            kernel_sizes=((3, 3, 3), (3, 3, 3)),
            convs_per_stage=(1, 1),
            convs_per_decoder_stage=(1,),
        ),
    )


def make_plan(*, transpose=(1, 2, 0), orientation=None, force=True):
    return Plan(
        planner="default",
        dataset="Dataset001_Toy",
        channel_names=("MR",),
        transpose_forward=transpose,
        orientation=orientation,
        intensities=(STATISTICS,),
        force_invalid_to_background=force,
        configurations={
            "3d_lowres": configuration((2.0, 2.0, 2.0)),
            "3d_cascade_fullres": configuration((1.1, 1.0, 1.0), "3d_lowres"),
        },
    )


def make_model(folder, content, plan, name="3d_cascade_fullres", layout="integers"):
    folder.mkdir(parents=True, exist_ok=True)
    common = {"channel_names": {"0": "MR"}, "numTraining": 1, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**common, **content}))
    settings = ModelSettings(
        configuration=name,
        recipe="default",
        patch_size=(8, 8, 8),
        mirror_axes=(),
        label_layout=layout,
    )
    description = load_description(folder)
    return Model(folder=folder, settings=settings, plan=plan, description=description)


def image(rng, *, empty_border=False):
    array = rng.uniform(1, 2, (1, *SHAPE)).astype(np.float32)
    if empty_border:
        array[:, :2] = array[:, :, :, 8:] = 0
    return Volume(array=array, geometry=GEOMETRY)


def records(plan, volume):
    names = ("3d_lowres", "3d_cascade_fullres")
    return (preprocess_case(volume, None, plan, name).record for name in names)


@pytest.mark.parametrize("content", DESCRIPTIONS)
def test_logits_are_interpolated_once_from_grid_to_grid(tmp_path, content):
    plan = make_plan()
    low, full = records(plan, image(np.random.default_rng(0)))
    schema = make_model(tmp_path, content, plan).description.labels
    logits = torch.randn(schema.num_outputs, *low.shape_resampled)
    expected = functional.interpolate(logits[None], size=full.shape_resampled, mode="trilinear")[0]
    found = segment_for(logits, low, full, schema, None)
    if schema.overlapping:
        decided = (expected > 0).numpy()
    elif schema.has_regions:
        decided = np.where(expected[1] > 0, 2, np.where(expected[0] > 0, 1, 0))[None]
    else:
        decided = expected.argmax(0).numpy()[None]
    assert found.shape == (schema.seg_channels, *full.shape_resampled)
    # Rounding may decide where two logits are all but equal.
    assert (found == decided).mean() > 0.9999


def test_thick_slices_take_the_nearest_one():
    plan = make_plan(transpose=(0, 1, 2))
    low_plan = configuration((8.0, 2.0, 2.0))
    plan.configurations["3d_lowres"] = low_plan
    low, full = records(plan, image(np.random.default_rng(0)))
    schema = type("S", (), {"overlapping": True, "num_outputs": 1, "seg_channels": 1})
    logits = torch.zeros(1, *low.shape_resampled)
    logits[0, 0], logits[0, 1:] = 1, -1
    found = segment_for(logits, low, full, schema, None)
    sharp = found[0].any(axis=(1, 2)) == found[0].all(axis=(1, 2))
    assert sharp.all()
    assert 0 < found.mean() < 1


def test_invalid_voxels_are_background_where_the_plan_makes_them_so(tmp_path):
    volume = image(np.random.default_rng(0))
    volume.array[:, 4:8, 5:9, 0:6] = 0
    plan = make_plan()
    model = make_model(tmp_path, STRUCTURES, plan, "3d_lowres")
    work = predictor(model, lambda batch: torch.ones(len(batch), 2, *batch.shape[2:]))
    _, full = records(plan, volume)
    prediction = work.predict(work.prepare(volume))
    found = work.segment_for(prediction, full)
    assert not found.all()
    unforced = make_model(tmp_path, STRUCTURES, make_plan(force=False), "3d_lowres")
    free = predictor(unforced, work.forwards[0])
    assert free.segment_for(free.predict(free.prepare(volume)), full).all()


def predictor(model, forward, previous=None):
    extend = None
    if previous is not None:
        extend = partial(with_class_channels, channels=1, schema=model.description.labels)
    return CasePredictor(
        model=model,
        forwards=(forward,),
        settings=PredictionSettings(extend=extend),
        device=torch.device("cpu"),
        previous=previous,
    )


def threshold(schema):
    """A network: brighter voxels are the first class, the brightest the second."""

    def forward(batch):
        first, second = batch[:, :1] - 1.3, 2 * batch[:, :1] - 3.0
        outputs = [first, second] if schema.sigmoid else [torch.zeros_like(first), first, second]
        return torch.cat(outputs, 1)

    return forward


def believe(schema):
    """The network of a second stage that returns what it is told."""

    def forward(batch):
        assert batch.shape[1] == 1 + len(schema.classes)
        told = batch[:, 1:] - 0.5
        if schema.has_regions:
            told = torch.cat([torch.maximum(told[:, :1], told[:, 1:]), told[:, 1:]], 1)
        return told if schema.sigmoid else torch.cat([torch.zeros_like(told[:, :1]), told], 1)

    return forward


@pytest.mark.parametrize("content", DESCRIPTIONS)
@pytest.mark.parametrize("orientation", [None, "RAS"])
def test_the_second_stage_is_told_what_the_first_one_says(tmp_path, content, orientation):
    plan, volume = make_plan(orientation=orientation), image(np.random.default_rng(1))
    first = make_model(tmp_path / "first", content, plan, "3d_lowres")
    second = make_model(tmp_path / "second", content, plan)
    schema = second.description.labels
    low = predictor(first, threshold(schema))
    work = predictor(second, believe(schema), previous=low)
    prepared = work.prepare(volume)
    logits = work.predict(prepared).logits.numpy()
    told = low.segment_for(low.predict(low.prepare(volume)), prepared.record)
    found = (logits > 0) if schema.sigmoid else logits.argmax(0)[None]
    if schema.has_regions:
        found = np.where(found[1], 2, found[0])[None]
    assert len(np.unique(told)) >= 2
    np.testing.assert_array_equal(found, told)


@pytest.mark.parametrize("content", [LABELS, STRUCTURES])
def test_paired_classes_change_places_in_what_a_mirrored_tile_is_told(tmp_path, content):
    sided = {**content, "mirror_pairs": [["a", "b"]], "left_right_axis": "x"}
    plan, volume = make_plan(), image(np.random.default_rng(3))
    first = make_model(tmp_path / "first", sided, plan, "3d_lowres")
    second = make_model(tmp_path / "second", sided, plan)
    turned = replace(second.settings, mirror_axes=(0, 1, 2), swap_axis=2)
    second = replace(second, settings=turned)
    schema = second.description.labels
    low = predictor(first, threshold(schema))
    plain = predictor(second, believe(schema), previous=low)
    mirrored = plain.with_settings(0.5, mirror=True)
    expected, found = (work.predict(work.prepare(volume)).logits for work in (plain, mirrored))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def write_segmentation(folder, model, indices, case_id="a", geometry=GEOMETRY):
    schema, layout = model.description.labels, model.settings.label_layout
    path = label_path(folder, case_id, ".nii.gz", layout)
    labels = Volume(array=indices, geometry=geometry)
    write_label_map(path, labels, schema, layout, ".nii.gz")
    return Case(id=case_id, images=(folder / f"{case_id}_0000.nii.gz",), label=None)


@pytest.mark.parametrize(
    ("content", "layout"),
    [(LABELS, "integers"), (REGIONS, "integers"), (STRUCTURES, "masks"), (STRUCTURES, "folder")],
)
@pytest.mark.parametrize("orientation", [None, "RAS"])
def test_files_are_cropped_turned_and_resampled_as_labels_are(
    tmp_path, content, layout, orientation
):
    plan, rng = make_plan(orientation=orientation), np.random.default_rng(2)
    volume = image(rng, empty_border=True)
    model = make_model(tmp_path, content, plan, layout=layout)
    schema = model.description.labels
    highest = 1 if schema.overlapping else 2
    indices = rng.integers(0, highest + 1, (schema.seg_channels, *SHAPE)).astype(np.int16)
    case = write_segmentation(tmp_path, model, indices)
    expected = preprocess_case(volume, indices, plan, "3d_cascade_fullres")
    given = GivenSegmentations(folder=tmp_path, model=model)
    given.check([case])
    found = given.find(case, expected.record)
    known = expected.seg >= 0
    np.testing.assert_array_equal(found[known], expected.seg[known])
    assert set(np.unique(found)) == set(range(highest + 1))


def test_what_is_ignored_in_a_file_is_background(tmp_path):
    model = make_model(tmp_path, LABELS, make_plan())
    case = write_segmentation(tmp_path, model, np.zeros((1, *SHAPE), np.int16))
    write_labels(tmp_path / "a.nii.gz", np.full(SHAPE, 9, np.uint8), GEOMETRY)
    _, record = records(make_plan(), image(np.random.default_rng(0)))
    assert not GivenSegmentations(folder=tmp_path, model=model).find(case, record).any()


def test_files_on_another_grid_or_missing_are_refused(tmp_path):
    model = make_model(tmp_path, LABELS, make_plan())
    volume = image(np.random.default_rng(0))
    _, record = records(make_plan(), volume)
    given = GivenSegmentations(folder=tmp_path, model=model)
    case = write_segmentation(tmp_path, model, np.zeros((1, 12, 14, 9), np.int16))
    with pytest.raises(UserError, match=r"shape \(12, 14, 9\)"):
        given.find(case, record)
    labels = Volume(array=np.zeros((1, *SHAPE), np.int16), geometry=GEOMETRY)
    turned = reorient(labels, "LPS")
    case = write_segmentation(tmp_path, model, turned.array, geometry=turned.geometry)
    with pytest.raises(UserError, match="orientation LPS"):
        given.find(case, record)
    other = Case(id="other", images=(), label=None)
    with pytest.raises(UserError, match=r"no segmentation .* for other\n(.|\n)*a\.nii\.gz"):
        given.check([case, other])
    with pytest.raises(UserError, match="found by the names of image files"):
        given.find(None, record)


def test_a_folder_without_its_previous_stage_says_so(tmp_path):
    with pytest.raises(UserError, match="--previous-stage DIR"):
        load_previous(make_model(tmp_path, LABELS, make_plan()))


@pytest.mark.parametrize(
    ("folds", "expected"),
    [
        (("0", "1"), ("0", "1", "2")),
        (("1",), ("0", "1", "2")),
        (("all",), ("all",)),
        (("0", "all"), ("0", "1", "2")),
    ],
)
def test_which_folds_of_the_previous_stage_predict(tmp_path, folds, expected):
    for name in ("0", "1", "2", "all"):
        folder = tmp_path / PREVIOUS_STAGE / f"fold_{name}"
        folder.mkdir(parents=True)
        (folder / "final.pt").touch()
    assert previous_folds(make_model(tmp_path, LABELS, make_plan()), folds) == expected


def test_stages_must_agree_on_what_they_predict(tmp_path):
    plan = make_plan()
    first = make_model(tmp_path / "a", LABELS, plan, "3d_lowres")
    second = make_model(tmp_path / "b", LABELS, plan)
    check_stages(first, second.plan, second.description.labels)
    changed = {"labels": {"background": 0, "b": 2, "a": 5}}
    other = make_model(tmp_path / "c", changed, plan).description.labels
    with pytest.raises(UserError, match=r"another list of classes \(\['5 a', '2 b'\], now \['2 b'"):
        check_stages(first, plan, other)
    with pytest.raises(UserError, match="axis order"):
        check_stages(first, make_plan(transpose=(0, 1, 2)), second.description.labels)
