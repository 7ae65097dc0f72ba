"""From label file through preprocessing to the predicted file: a perfect network gives it back."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from tiny import tiny_configuration, tiny_plan

from segkit.dataset.cases import Case
from segkit.dataset.description import load_description
from segkit.dataset.image_io import read_masks, write_labels
from segkit.dataset.image_io.sitk_io import write as write_image
from segkit.dataset.label_files import (
    label_layout,
    label_path,
    read_annotation,
    read_label_map,
    write_label_map,
)
from segkit.dataset.orientation import reorient
from segkit.inference import case as inference_case
from segkit.inference.case import CasePredictor, invalid_when_resampled
from segkit.inference.export import logits_to_segmentation
from segkit.inference.model import Model, ModelSettings, load_model, save_model
from segkit.inference.predictor import PredictionSettings
from segkit.planning.plan import planned_description
from segkit.preprocessing.pipeline import preprocess_case
from segkit.types import Geometry, Volume

SHAPE = (9, 7, 8)
GEOMETRY = Geometry(
    spacing_mm=(3.0, 1.0, 2.0), origin=(5.0, -6.0, 7.5), direction=(0, 0, 1, -1, 0, 0, 0, 1, 0)
)
CLASSES = {"labels": {"background": 0, "b": 200, "a": 7}}
REGIONS = {
    "labels": {"background": 0, "whole": [200, 7, 5], "core": [5, 7], "middle": 5},
    "regions_class_order": [200, 7, 5],
}
NAMES = ("left", "right", "front", "back", "deep", "wide", "thin", "long", "round", "flat")
STRUCTURES = {
    "labels": {"background": 0} | {name: 2**i for i, name in enumerate(NAMES)},
    "label_encoding": "multilabel",
}


def describe(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    common = {"channel_names": {"0": "MR"}, "numTraining": 1, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps({**common, **content}))
    return load_description(folder)


def make_plan(transpose=(0, 1, 2), orientation=None, spacing_mm=GEOMETRY.spacing_mm):
    configuration = tiny_configuration(
        spacing_mm=tuple(spacing_mm), patch_size=(4, 4, 4), normalize_inside_mask=(True,)
    )
    return tiny_plan(configuration, transpose_forward=transpose, orientation=orientation)


def make_settings(layout):
    return ModelSettings(
        configuration="3d_fullres",
        recipe="default",
        patch_size=(4, 4, 4),
        mirror_axes=(),
        label_layout=layout,
    )


def make_case(folder, schema, layout):
    """A case with an empty border, and random labels of all kinds where the image is not empty."""
    rng = np.random.default_rng(0)
    image = np.zeros(SHAPE, np.float32)
    inner = (slice(2, 8), slice(1, 6), slice(3, 8))
    image[inner] = 1 + rng.random((6, 5, 5))
    image[2, 1, 3] = 0
    highest = 2 if schema.overlapping else schema.num_classes
    indices = rng.integers(0, highest, (schema.seg_channels, *SHAPE)).astype(np.int16)
    indices[:, image == 0] = 0
    scan, label = folder / "a_0000.nii.gz", label_path(folder, "a", ".nii.gz", layout)
    write_image(scan, image, GEOMETRY)
    labels = Volume(array=indices, geometry=GEOMETRY)
    write_label_map(label, labels, schema, layout, ".nii.gz")
    return Case(id="a", images=(scan,), label=label), indices


def perfect_logits(seg, schema):
    """(out, Z, Y, X): positive where the target is, else negative."""
    if schema.has_regions:
        present = [np.isin(seg[0], np.flatnonzero(row)) for row in schema.region_members]
    elif schema.overlapping:
        present = list(seg == 1)
    else:
        present = [np.maximum(seg[0], 0) == k for k in range(schema.num_classes)]
    return torch.from_numpy(np.stack(present).astype(np.float32) - 0.5)


def predict(monkeypatch, model, case, output, **settings):
    """Predict with a network that knows the labels; returns them as preprocessed."""
    schema, reader = model.description.labels, model.description.reader
    volume = inference_case.read_image(case.images, reader)
    labels = read_annotation(case, schema, reader).array
    prepared = preprocess_case(volume, labels, model.plan, "3d_fullres")
    logits = perfect_logits(prepared.seg, schema)
    monkeypatch.setattr(inference_case, "predict_logits", lambda *_: logits)
    predictor = CasePredictor(
        model=model, forwards=(), settings=PredictionSettings(), device=torch.device("cpu")
    )
    found = predictor.read(case)
    predictor.write(predictor.predict(found), output, **settings)
    return prepared.seg


@pytest.mark.parametrize(
    ("transpose", "orientation"), [((0, 1, 2), None), ((2, 0, 1), None), ((1, 2, 0), "RAS")]
)
@pytest.mark.parametrize(
    ("content", "layout"),
    [
        (CLASSES, "integers"),
        (REGIONS, "integers"),
        (STRUCTURES, "integers"),
        (STRUCTURES, "masks"),
        (STRUCTURES, "folder"),
    ],
    ids=["classes", "regions", "bitmask", "masks", "folder"],
)
def test_a_perfect_network_gives_the_labels_back(
    tmp_path, monkeypatch, content, layout, transpose, orientation
):
    description = describe(tmp_path / "data", content)
    schema = description.labels
    case, indices = make_case(tmp_path / "data", schema, layout)
    spacing_mm = GEOMETRY.spacing_mm
    if orientation:
        grid = Volume(array=indices, geometry=GEOMETRY)
        spacing_mm = reorient(grid, orientation).geometry.spacing_mm
    plan = make_plan(transpose, orientation, [spacing_mm[axis] for axis in transpose])
    model = Model(
        folder=tmp_path, settings=make_settings(layout), plan=plan, description=description
    )
    output = label_path(tmp_path / "out", "a", ".nii.gz", layout)
    seg = predict(monkeypatch, model, case, output)
    assert len(seg) == schema.seg_channels
    assert (seg == -1).any()

    assert label_layout(output, schema) == layout
    np.testing.assert_array_equal(read_label_map(output, schema).array, indices)
    pairs = [(output, case.label)]
    if layout == "folder":
        pairs = [(output / f"{n}.nii.gz", case.label / f"{n}.nii.gz") for n in NAMES]
    for found, expected in pairs:
        assert found.read_bytes() == expected.read_bytes()
        assert read_masks(found).geometry == read_masks(expected).geometry


@pytest.mark.parametrize("layout", ["integers", "masks", "folder"])
def test_ignored_and_unannotated_structures_are_no_obstacle(tmp_path, monkeypatch, layout):
    description = describe(tmp_path / "data", STRUCTURES)
    case, indices = make_case(tmp_path / "data", description.labels, layout)
    mask = np.random.default_rng(3).integers(0, 2, SHAPE)
    write_labels(tmp_path / "mask.nii.gz", mask, GEOMETRY)
    case = dataclasses.replace(case, mask=tmp_path / "mask.nii.gz", unannotated=NAMES[2:4])
    model = Model(
        folder=tmp_path, settings=make_settings(layout), plan=make_plan(), description=description
    )
    output = label_path(tmp_path / "out", "a", ".nii.gz", layout)
    seg = predict(monkeypatch, model, case, output)
    assert (seg[2:4] == 2).all()
    expected = np.where(mask != 0, indices, 0)
    expected[2:4] = 0
    np.testing.assert_array_equal(read_label_map(output, description.labels).array, expected)


@pytest.mark.parametrize("layout", ["integers", "masks", "folder"])
def test_structures_the_plan_leaves_out_are_never_predicted(tmp_path, monkeypatch, layout):
    description = describe(tmp_path / "data", STRUCTURES)
    case, indices = make_case(tmp_path / "data", description.labels, layout)
    plan = dataclasses.replace(make_plan(), left_out=("left", "wide"))
    save_model(tmp_path / "model", make_settings(layout), plan, description)
    model = load_model(tmp_path / "model")
    schema = model.description.labels
    assert schema == planned_description(description, plan).labels
    assert (schema.num_outputs, model.settings.label_layout) == (8, layout)
    output = label_path(tmp_path / "out", "a", ".nii.gz", layout)
    predict(monkeypatch, model, case, output, keep_probabilities=True)
    kept = [name not in ("left", "wide") for name in NAMES]
    np.testing.assert_array_equal(read_label_map(output, schema).array, indices[kept])
    whole = read_label_map(output, description.labels).array
    assert not whole[np.logical_not(kept)].any()
    with np.load(output.with_name("a.npz")) as content:
        assert content["probabilities"].shape == (8, *SHAPE)
        np.testing.assert_array_equal(content["probabilities"] > 0.5, indices[kept])


@pytest.mark.parametrize("spacing_mm", [GEOMETRY.spacing_mm, (2.0, 1.5, 2.0), (9.0, 0.7, 3.0)])
@pytest.mark.parametrize(("transpose", "orientation"), [((0, 1, 2), None), ((2, 0, 1), "RAS")])
def test_logits_of_invalid_voxels_do_not_reach_the_label_map(
    tmp_path, transpose, orientation, spacing_mm
):
    schema = describe(tmp_path, CLASSES).labels
    case, _ = make_case(tmp_path, schema, "integers")
    volume = inference_case.read_image(case.images, None)
    volume.array[:, :, :4] = 0
    volume.array[:, 8, 1, 3] = 1
    plan = make_plan(transpose, orientation, spacing_mm)
    prepared = preprocess_case(volume, None, plan, "3d_fullres")
    invalid = invalid_when_resampled(prepared.invalid_zyx, prepared.record)
    assert invalid.shape == prepared.image.shape[1:]
    assert invalid.any()
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(schema.num_outputs, *invalid.shape)).astype(np.float32)
    before = logits_to_segmentation(logits, prepared.record, schema, prepared.invalid_zyx)
    logits[:, invalid] = 1e6 * rng.normal(size=(len(logits), invalid.sum()))
    after = logits_to_segmentation(logits, prepared.record, schema, prepared.invalid_zyx)
    np.testing.assert_array_equal(after, before)
    # Each of the others reaches it somewhere.
    for z, y, x in np.argwhere(~invalid):
        logits[:] = 0
        logits[2, z, y, x] = 1e9
        found = logits_to_segmentation(logits, prepared.record, schema, prepared.invalid_zyx)
        assert (found == 2).any()


def test_tiles_without_a_valid_voxel_are_skipped_only_where_the_plan_says_so(tmp_path):
    description = describe(tmp_path, CLASSES)
    case, _ = make_case(tmp_path, description.labels, "integers")
    for forced in (True, False):
        plan = dataclasses.replace(make_plan(), force_invalid_to_background=forced)
        settings = make_settings("integers")
        model = Model(folder=tmp_path, settings=settings, plan=plan, description=description)
        given = []

        def forward(batch, given=given):
            given.extend(batch)
            return torch.zeros(len(batch), 3, *batch.shape[2:])

        predictor = CasePredictor(
            model=model,
            forwards=[forward],
            settings=PredictionSettings(step=1.0),
            device=torch.device("cpu"),
        )
        prepared = predictor.read(case)
        prepared.invalid_zyx[:6] = True
        predictor.predict(prepared)
        tiles = math.prod(-(-n // 4) for n in prepared.image.shape[1:])
        assert len(given) == (tiles // 2 if forced else tiles)


def test_large_logits_need_all_memory(tmp_path, monkeypatch):
    description = describe(tmp_path, CLASSES)
    model = Model(
        folder=tmp_path,
        settings=make_settings("integers"),
        plan=make_plan(),
        description=description,
    )
    predictor = CasePredictor(
        model=model, forwards=(), settings=PredictionSettings(), device=torch.device("cpu")
    )
    prepared = predictor.read(make_case(tmp_path, description.labels, "integers")[0])
    logits = 3 * 4 * prepared.image[0].size
    for free, expected in [(2 * logits - 1, True), (2 * logits, False)]:
        monkeypatch.setattr(inference_case, "available_memory", lambda free=free: free)
        assert predictor.needs_all_memory(prepared) == expected


def test_a_device_too_small_for_the_label_map_leaves_it_to_main_memory(
    tmp_path, monkeypatch, caplog
):
    description = describe(tmp_path / "data", CLASSES)
    model = Model(
        folder=tmp_path,
        settings=make_settings("integers"),
        plan=make_plan(),
        description=description,
    )
    case, indices = make_case(tmp_path / "data", description.labels, "integers")
    tried = []

    def export(*given):
        tried.append(given)
        if len(tried) == 1:
            raise torch.cuda.OutOfMemoryError("no memory")
        return logits_to_segmentation(*given)

    monkeypatch.setattr(inference_case, "logits_to_segmentation", export)
    predict(monkeypatch, model, case, tmp_path / "a.nii.gz")
    assert len(tried) == 2
    assert "main memory" in caplog.text
    found = read_label_map(tmp_path / "a.nii.gz", description.labels).array
    np.testing.assert_array_equal(found, indices)


def test_a_model_folder_without_a_layout_predicts_integers(tmp_path):
    settings = make_settings("integers")
    save_model(tmp_path, settings, make_plan(), describe(tmp_path / "data", CLASSES))
    content = json.loads((tmp_path / "model.json").read_text())
    del content["label_layout"]
    (tmp_path / "model.json").write_text(json.dumps(content))
    assert load_model(tmp_path).settings == settings
