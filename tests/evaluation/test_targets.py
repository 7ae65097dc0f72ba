import numpy as np
import pytest

from segkit.dataset.labels import LabelClass, LabelSchema, Region
from segkit.evaluation.scoring import METRICS, SHARES, Scoring
from segkit.evaluation.targets import (
    annotated_share,
    score_case,
    unannotated_targets,
    voxel_ml,
)
from segkit.types import Geometry

SCHEMA = LabelSchema(
    classes=tuple(LabelClass(name=n, value=v) for n, v in (("a", 3), ("b", 7), ("c", 2))),
    regions=(
        Region(name="whole", members=(3, 7, 2), paint=3),
        Region(name="tip", members=(2,), paint=2),
    ),
    ignore_values=(255,),
)
STRUCTURES = LabelSchema(classes=SCHEMA.classes, overlapping=True)
GEOMETRY = Geometry(spacing_mm=(2.0, 0.5, 1.0))


def score(ref, pred, schema=SCHEMA, **scoring):
    scoring = Scoring(**{"metrics": METRICS, **scoring})
    maps = (np.array(rows, dtype=np.int16)[:, None, None] for rows in (ref, pred))
    return score_case(*maps, GEOMETRY, schema, scoring)


def test_only_metrics_asked_for_in_that_order():
    labels, regions = score([[0, 0]], [[0, 0]], metrics=("dice", "nsd"))
    assert list(labels["a"]) == list(regions["tip"]) == ["dice", "nsd"]
    assert set(labels["a"].values()) == {None}


def test_predictions_inside_ignored_voxels_do_not_count():
    labels, _ = score([[1, 1, 4, 4]], [[1, 1, 1, 2]])
    assert (labels["a"]["dice"], labels["a"]["nsd"], labels["a"]["hd95_mm"]) == (1, 1, 0)
    assert labels["a"]["volume_pred_ml"] == 0.002
    assert labels["b"]["dice"] is None
    assert labels["b"]["lesion_fp"] == 0


def test_structures_are_scored_each_with_its_own_ignored_voxels():
    # 2 = ignored; the second structure is known in its first voxel only, the third nowhere.
    ref = [[1, 1, 0, -1], [1, 2, 2, 2], [2, 2, 2, 2]]
    pred = [[1, 0, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    labels, regions = score(ref, pred, STRUCTURES)
    assert regions == {}
    assert labels["a"]["dice"] == 0.5
    assert labels["b"]["dice"] == 1
    assert labels["b"]["volume_pred_ml"] == 0.001
    assert labels["c"] == dict.fromkeys(METRICS)


def test_targets_without_an_annotated_voxel_are_named():
    ref = np.full((3, 1, 1, 2), 2)
    ref[1, 0, 0, 0] = 0
    assert unannotated_targets(ref, STRUCTURES) == ("a", "c")
    assert unannotated_targets(np.array([[[[4, 0]]]]), SCHEMA) == ()
    assert unannotated_targets(np.array([[[[4, 4]]]]), SCHEMA) == ("a", "b", "c", "whole", "tip")


def test_the_annotated_share_is_the_mean_over_structures():
    ref = np.array([[0, 1, -1, 0], [1, 2, 2, 2], [2, 2, 2, 2]])[:, None, None]
    assert annotated_share(ref, STRUCTURES) == pytest.approx((1 + 0.25 + 0) / 3)
    assert annotated_share(np.array([[[[4, 0, 1, 1]]]]), SCHEMA) == 0.75


def test_nothing_annotated_is_undefined_whatever_absence_counts():
    labels, regions = score([[4, 4]], [[1, 0]], absent_score=1.0)
    assert labels["a"] == regions["whole"] == dict.fromkeys(METRICS)


def test_absent_score_is_for_targets_on_neither_side():
    labels, regions = score([[1, 0, 0]], [[1, 2, 0]], absent_score=1.0)
    assert {labels["c"][metric] for metric in SHARES} == {1}
    assert labels["c"]["hd95_mm"] is None
    assert labels["c"]["lesion_tp"] == labels["c"]["volume_pred_ml"] == 0
    # Predicted only: what was undefined stays so.
    assert (labels["b"]["dice"], labels["b"]["recall"], labels["b"]["nsd"]) == (0, None, None)
    assert regions["tip"]["dice"] == 1
    assert labels["a"] == score([[1, 0, 0]], [[1, 2, 0]])[0]["a"]


@pytest.mark.parametrize("absent_score", [0.0, 0.5])
def test_absent_score_may_be_any_share(absent_score):
    labels, _ = score([[0]], [[0]], absent_score=absent_score)
    assert labels["a"]["dice"] == labels["a"]["lesion_f1"] == absent_score


def test_volume_of_a_voxel():
    assert voxel_ml(GEOMETRY) == 0.001
    plane = Geometry(spacing_mm=(999.0, 2.0, 3.0), stored_ndim=2)
    assert voxel_ml(plane) == 0.006
