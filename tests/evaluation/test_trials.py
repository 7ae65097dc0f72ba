"""Candidates are judged from tables exactly as if they were applied."""

import numpy as np
import pytest
from test_postprocessing import CLASSES, CROSSING, GRID, NESTED, STRUCTURES, VOXEL, blobs

from segkit.evaluation.editing import LabelEditor
from segkit.evaluation.fitting import candidates, dice_of, thresholds_mm3
from segkit.evaluation.postprocessing import Rule, apply_rule, apply_rules
from segkit.evaluation.scoring import DEFAULT_SCORING
from segkit.evaluation.targets import score_case
from segkit.evaluation.trials import Stage, try_stage

VOLUMES = (3.0, 5.0, 10.0, 50.0, 1e5)


def stages(schema):
    pieces = ("remove_small", "keep_largest")
    return [
        Stage(targets=(None,), operations=pieces, thresholds_mm3=VOLUMES),
        Stage(targets=schema.target_names, operations=pieces, thresholds_mm3=VOLUMES),
        Stage(targets=schema.target_names, operations=("fill_holes",)),
    ]


def counted(ref, pred, schema):
    """(targets, 3) true positives, predicted and reference voxels, counted one by one."""
    rows = []
    for number, name in enumerate(schema.target_names):
        if schema.overlapping:
            masks = ref[number] == 1, pred[number] == 1
            known = ref[number] != schema.ignore_index
        else:
            members = np.array([number + 1])
            if schema.has_regions:
                region = next(r for r in schema.regions if r.name == name)
                members = np.flatnonzero(np.isin(schema.raw_values, region.members))
            masks = np.isin(ref[0], members), np.isin(pred[0], members)
            known = ref[0] != schema.ignore_index
        in_ref, in_pred = (mask & known for mask in masks)
        rows.append([(in_ref & in_pred).sum(), in_pred.sum(), in_ref.sum()])
    return np.array(rows)


def make_pair(seed, shape, schema):
    rng = np.random.default_rng(seed)
    pred, ref = blobs(rng, shape, schema), blobs(rng, shape, schema)
    agree = rng.random(pred.shape) < 0.6
    ref = np.where(agree, pred, ref)
    ref[rng.random(ref.shape) < 0.15] = schema.ignore_index
    ref[rng.random(ref.shape) < 0.05] = -1
    return ref, pred


@pytest.mark.parametrize("shape", [(5, 14, 16), (1, 20, 22)], ids=["volume", "plane"])
@pytest.mark.parametrize("schema", [CLASSES, NESTED, CROSSING, STRUCTURES], ids="cnxs")
def test_tables_tell_what_applying_does(schema, shape):
    checked = 0
    for seed in range(3):
        ref, pred = make_pair(seed, shape, schema)
        for stage in stages(schema):
            found = try_stage(ref, LabelEditor(pred, schema), stage, VOXEL)
            np.testing.assert_array_equal(found.before, counted(ref, pred, schema))
            for target in stage.targets:
                for number, rule in enumerate(stage.rules(target)):
                    after = found.before.copy()
                    if (attempt := found.attempts.get(target)) is not None:
                        after[list(attempt.touched)] = attempt.counts[number]
                    applied = apply_rules([rule], pred, GRID, schema)
                    expected = counted(ref, applied, schema)
                    np.testing.assert_array_equal(after, expected, err_msg=f"{rule} {seed}")
                    checked += (expected != found.before).any()
    assert checked > 20


def test_counts_give_the_dice_of_the_report():
    ref, pred = make_pair(0, (5, 14, 16), NESTED)
    found = try_stage(ref, LabelEditor(pred, NESTED), stages(NESTED)[0], VOXEL)
    _, regions = score_case(ref, pred, GRID, NESTED, DEFAULT_SCORING)
    assert dice_of(found.before).tolist() == [scores["dice"] for scores in regions.values()]


def test_a_case_where_nothing_changes_has_no_attempt():
    ref = np.zeros((1, 1, 3, 3), np.int16)
    pred = ref.copy()
    pred[0, 0, 1, 1] = 1
    stage = Stage(targets=("a", "b"), operations=("keep_largest",))
    assert try_stage(ref, LabelEditor(pred, CLASSES), stage, VOXEL).attempts == {}


def test_what_an_earlier_rule_has_taken_is_not_there():
    pred = np.array([1, 1, 0, 2], np.int16).reshape(1, 1, 1, -1)
    editor = LabelEditor(pred, CLASSES)
    apply_rule(Rule(operation="remove_small", target="a", min_mm3=9.0), editor, 1.0)
    assert editor.pieces("a") is None
    for stage in stages(CLASSES):
        found = try_stage(pred, editor, stage, 1.0)
        assert found.before[:, 1].tolist() == [0, 1, 0]
        assert "a" not in found.attempts


def test_candidates_go_from_the_least_to_the_most_invasive():
    stage = Stage(
        targets=("a",), operations=("remove_small", "keep_largest"), thresholds_mm3=(1.0, 2.0)
    )
    rules = stage.rules("a")
    assert [(rule.operation, rule.min_mm3) for rule in rules] == [
        ("remove_small", 1.0),
        ("remove_small", 2.0),
        ("keep_largest", None),
    ]
    # Two cases, of which one is touched.
    ref = np.zeros((1, 1, 1, 6), np.int16)
    pred = np.array([1, 1, 0, 1, 0, 0], np.int16).reshape(ref.shape)
    cases = [try_stage(ref, LabelEditor(each, CLASSES), stage, 1.0) for each in (pred, 0 * pred)]
    (found,) = candidates(cases, stage, CLASSES)
    assert (found.rules, found.names, found.own) == ((None, *rules), ("a",), 0)
    # To do nothing, below 1 mm3, below 2 mm3, the largest alone: 3, 3, 2 and 2 voxels are left.
    assert found.counts[:, :, 0, 1].tolist() == [[3, 3, 2, 2], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("voxel", "first", "last"),
    [(2.0, 5.0, 2e6), (0.3, 0.5, 2e5), (1e-9, 2e-9, 1e-3), (1.0, 2.0, 1e6)],
)
def test_volumes_tried_are_round_and_above_a_voxel(voxel, first, last):
    volumes = thresholds_mm3(voxel)
    assert (volumes[0], volumes[-1]) == (first, last)
    assert len(volumes) == 18
