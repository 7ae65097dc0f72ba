import numpy as np
import pytest

from segkit.dataset.labels import LabelClass, LabelSchema, Region
from segkit.evaluation.case import (
    METRICS,
    EvaluationSettings,
    geometry_warnings,
    score_case,
    voxel_ml,
)
from segkit.evaluation.surface import surface_scores
from segkit.types import Geometry

SCHEMA = LabelSchema(
    classes=tuple(LabelClass(name=n, value=v) for n, v in (("a", 3), ("b", 7), ("c", 2))),
    regions=(
        Region(name="whole", members=(3, 7, 2), paint=3),
        Region(name="core", members=(7, 2), paint=7),
        Region(name="tip", members=(2,), paint=2),
    ),
    ignore_values=(255,),
)
GEOMETRY = Geometry(spacing_mm=(2.0, 0.5, 1.0))
TARGETS = {"a": {1}, "b": {2}, "c": {3}, "whole": {1, 2, 3}, "core": {2, 3}, "tip": {3}}


def count_voxels(ref, pred, members):
    """Count tp, fp, fn voxel by voxel; ignored voxels (4) are skipped."""
    tp = fp = fn = 0
    for r, p in zip(ref.ravel().tolist(), pred.ravel().tolist(), strict=True):
        if r == 4:
            continue
        tp += r in members and p in members
        fp += r not in members and p in members
        fn += r in members and p not in members
    return tp, fp, fn


def brute_force(ref, pred, members):
    tp, fp, fn = count_voxels(ref, pred, members)
    masks = (np.isin(ref, list(members)), np.isin(pred, list(members)) & (ref != 4))
    return {
        "dice": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None,
        "iou": tp / (tp + fp + fn) if tp + fp + fn else None,
        "precision": tp / (tp + fp) if tp + fp else None,
        "recall": tp / (tp + fn) if tp + fn else None,
        **surface_scores(*masks, GEOMETRY.spacing_mm),
        "volume_ref_ml": (tp + fn) * 0.001,
        "volume_pred_ml": (tp + fp) * 0.001,
    }


def random_map(rng, low, high):
    """Draw blocky maps in which classes are often absent."""
    shape = tuple(rng.integers(1, 6, size=3))
    indices = np.arange(low, high)
    present = rng.random(len(indices)) < 0.5
    present[1 if low < 0 else 0] = True
    return rng.choice(indices[present], size=shape).astype(np.int16)


@pytest.mark.parametrize("block", range(6))
def test_random_cases_agree_with_counting_voxel_by_voxel(block):
    settings = EvaluationSettings(schema=SCHEMA, metrics=METRICS)
    for seed in range(50 * block, 50 * block + 50):
        rng = np.random.default_rng(seed)
        ref = random_map(rng, -1, 5)  # -1 invalid, 4 ignored
        pred = rng.permuted(np.where(rng.random() < 0.5, ref, ref % 4).ravel()).reshape(ref.shape)
        pred = np.where(rng.random(ref.shape) < 0.5, ref, pred).astype(np.int16)
        labels, regions = score_case(ref, pred, GEOMETRY, settings)
        assert [*labels, *regions] == list(TARGETS)
        for name, scores in {**labels, **regions}.items():
            assert scores == pytest.approx(brute_force(ref, pred, TARGETS[name])), (seed, name)


def test_only_metrics_asked_for_in_that_order():
    settings = EvaluationSettings(schema=SCHEMA, metrics=("dice", "nsd"))
    zeros = np.zeros((2, 2, 2), dtype=np.int16)
    labels, regions = score_case(zeros, zeros, GEOMETRY, settings)
    assert list(labels["a"]) == list(regions["tip"]) == ["dice", "nsd"]
    assert set(labels["a"].values()) == {None}


def test_predictions_inside_ignored_voxels_do_not_count():
    ref = np.array([[[1, 1, 4, 4]]], dtype=np.int16)
    pred = np.array([[[1, 1, 1, 2]]], dtype=np.int16)
    settings = EvaluationSettings(schema=SCHEMA, metrics=METRICS)
    labels, _ = score_case(ref, pred, GEOMETRY, settings)
    assert (labels["a"]["dice"], labels["a"]["nsd"], labels["a"]["hd95_mm"]) == (1, 1, 0)
    assert labels["a"]["volume_pred_ml"] == 0.002
    assert labels["b"]["dice"] is None


def test_volume_of_a_voxel():
    assert voxel_ml(GEOMETRY) == 0.001
    plane = Geometry(spacing_mm=(999.0, 2.0, 3.0), stored_ndim=2)
    assert voxel_ml(plane) == 0.006


def test_geometry_warnings_name_what_differs():
    moved = Geometry(spacing_mm=(2.0, 0.5, 1.001), origin=(0.0, 0.0, 1.0))
    spacing, origin = geometry_warnings("x", GEOMETRY, moved)
    assert spacing == "x: spacing_mm differs: reference (2, 0.5, 1), prediction (2, 0.5, 1.001)"
    assert origin.startswith("x: origin differs")


def test_rounding_of_file_formats_is_no_mismatch():
    ref = Geometry(spacing_mm=(0.7, 0.7, 0.7), origin=(123.456789, -500.1, 800.2))
    rounded = Geometry(
        spacing_mm=tuple(float(np.float32(s)) for s in ref.spacing_mm),
        origin=tuple(float(np.float32(o)) for o in ref.origin),
        direction=tuple(d + 1e-6 for d in ref.direction),
    )
    assert geometry_warnings("x", ref, rounded) == ()
