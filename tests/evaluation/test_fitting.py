"""Rules are adopted where they help cases they were not chosen on, and only there."""

import json

import numpy as np
import pytest

from segkit.dataset.description import load_description
from segkit.dataset.image_io import write_labels
from segkit.dataset.label_files import read_label_map
from segkit.evaluation.case import CasePair
from segkit.evaluation.fitting import (
    Candidates,
    dice_of,
    explain_trials,
    fit_postprocessing,
    judge,
)
from segkit.evaluation.postprocessing import Rule, apply_rules
from segkit.types import Geometry

GRID = Geometry(spacing_mm=(2.0, 1.0, 1.0))
GROUPS = np.repeat(np.arange(5), 2)
CASES = [CasePair(case=f"c{i}", pred=None, ref=None) for i in range(10)]
LARGEST = Rule(operation="keep_largest", target="a")


def tried(before, after, *, own=0):
    """Candidates from Dice (cases, touched) before, and (candidates, cases, touched) after."""
    dice = np.concatenate([np.asarray(before)[None], np.asarray(after)]).transpose(1, 0, 2)
    total = np.where(np.isnan(dice), 0, 20000)
    both = np.where(np.isnan(dice), 0, np.round(dice * 10000)).astype(int)
    counts = np.stack([both, total // 2, total // 2], axis=-1)
    np.testing.assert_allclose(dice_of(counts), dice)
    rules = [Rule(operation="remove_small", target="a", min_mm3=v + 1.0) for v in range(len(after))]
    return Candidates(
        target="a", rules=(None, *rules), counts=counts, own=own, names=("a", "b")[: dice.shape[-1]]
    )


def judged(before, after, **options):
    return judge(tried(before, after, **options), GROUPS, CASES)


def column(*values):
    return np.array(values, dtype=float)[:, None]


def two(a, b):
    return np.array([[a, b]] * 10)


HALF = column(*[0.5] * 10)


def test_a_gain_everywhere_is_adopted():
    after = HALF + column(*[0.02, 0.03] * 5)
    trial = judged(HALF, [HALF + 0.01, after, after])
    assert trial.adopted
    # Of equally good ones the least invasive.
    assert trial.rule.min_mm3 == 2
    assert (trial.dice_before, trial.dice_after) == (0.5, pytest.approx(0.525))


@pytest.mark.parametrize(
    ("gains", "told"),
    [
        ([0.0] * 10, "nothing helps"),
        ([-0.01] * 10, "nothing helps"),
        ([0.0005] * 10, "a gain of 0.0005 is below 0.001"),
        ([0.3, *[0.0] * 9], "a gain of 0.0000 is below 0.001"),
        ([0.3, *[0.0] * 8, 0.005], "the gain of 0.0305 hangs on one case: it is 0.0006 without c0"),
    ],
)
def test_what_helps_too_little_is_not(gains, told):
    trial = judged(HALF, [HALF + column(*gains)])
    assert not trial.adopted
    assert told in trial.why


def test_two_cases_are_enough_where_no_other_loses():
    # In different folds, so that each is judged under what the other speaks for.
    trial = judged(HALF, [HALF + column(0.1, *[0.0] * 8, 0.1)])
    assert trial.adopted
    assert trial.dice_after == pytest.approx(0.52)


def test_what_helps_only_the_cases_it_is_chosen_on_is_not_adopted():
    # Each candidate helps all folds but one, which it harms: chosen on the others, it harms it.
    after = [HALF + np.where(g == GROUPS, -0.15, 0.05)[:, None] for g in range(5)]
    assert np.mean(after[0]) > 0.5
    trial = judged(HALF, after)
    assert trial.rule is not None
    assert not trial.adopted
    assert trial.why == "a falls by 0.1500"
    assert trial.dice_after == pytest.approx(0.35)


def test_no_other_target_may_fall():
    before = two(0.5, 0.5)
    after = two(0.6, 0.4999)
    assert judged(before, [after]).why == "nothing helps"
    # The next best does not harm it.
    trial = judged(before, [after, two(0.55, 0.5)])
    assert (trial.adopted, trial.rule.min_mm3) == (True, 2)
    # In one fold it falls, but not over all; or on the other folds alone it looks harmless.
    after = two(0.6, 0.52)
    after[GROUPS == 3, 1] = 0.45
    assert judged(before, [after]).adopted
    after[GROUPS == 3, 1] = 0.42
    assert judged(before, [after]).why == "b falls by 0.0160"


def test_false_positives_in_cases_without_the_target_count_by_the_mean():
    before = HALF.copy()
    before[:3] = 0
    after = before.copy()
    after[:3] = np.nan
    trial = judged(before, [after])
    assert trial.adopted
    assert (trial.dice_before, trial.dice_after) == (pytest.approx(0.35), pytest.approx(0.5))
    # A target that is nowhere left has no mean to rise.
    assert not judged(column(*[0] * 10), [column(*[np.nan] * 10)]).adopted


def test_all_foreground_together_is_judged_by_the_mean_over_targets():
    trial = judged(two(0.5, 0.5), [two(0.5, 0.51)], own=None)
    assert trial.adopted
    assert trial.dice_after == pytest.approx(0.505)


def ball(centre, radius, shape):
    grids = np.ogrid[tuple(map(slice, shape))]
    return sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True)) <= radius**2


def make_cases(folder, content, *, cases=10, ignored=False):
    """One large a, two b of 14 and 66 mm3; predictions are wrong in three ways.

    A false a of 20 mm3, far away; a single voxel (2 mm3) of b; and a hole in a.
    """
    (folder / "dataset.json").write_text(
        json.dumps(
            {
                "channel_names": {"0": "MR"},
                "numTraining": cases,
                "file_ending": ".nii.gz",
                "labels": {"background": 0, "a": 1, "b": 2},
                **content,
            }
        )
    )
    shape, rng = (8, 20, 24), np.random.default_rng(0)
    for number in range(cases):
        a = ball((4, 6, 6), 3, shape)
        b = ball((3, 14, 5), 1, shape) | ball((4, 14, 18), 2, shape)
        ref = np.where(a, 1, np.where(b, 2, 0)).astype(np.uint8)
        pred = ref.copy()
        pred[2, 4:6, 18:23] = 1
        pred[rng.integers(0, 2), rng.integers(17, 20), rng.integers(10, 14)] = 2
        pred[4, 6, 6] = 0
        if ignored:
            ref[pred != ref] = 3
        for name, array in (("pred", pred), ("ref", ref)):
            write_labels(folder / name / f"c{number}.nii.gz", array, GRID)
    return [
        CasePair(case=f"c{i}", pred=folder / f"pred/c{i}.nii.gz", ref=folder / f"ref/c{i}.nii.gz")
        for i in range(cases)
    ]


def found_rules(content):
    return {str(rule) for rule in content.rules}


def test_rules_are_found_for_each_target(tmp_path):
    pairs = make_cases(tmp_path, {})
    description = load_description(tmp_path)
    folds = {pair.case: i % 3 for i, pair in enumerate(pairs)}
    content = fit_postprocessing(pairs, description, folds=folds, jobs=1)
    assert found_rules(content) == {
        "remove components of all foreground together below 5 mm3",
        "remove components of a below 50 mm3",
        "fill the holes of a",
    }
    for pair in pairs:
        pred, ref = (read_label_map(path, description.labels) for path in (pair.pred, pair.ref))
        found = apply_rules(content.rules, pred.array, pred.geometry, description.labels)
        np.testing.assert_array_equal(found, ref.array)
    told = explain_trials(content)
    assert len(told) == 3
    assert told[0].startswith("post-processing: remove components of all foreground together below")
    tried = [(trial.target, trial.adopted) for trial in content.trials]
    assert tried == [(None, True), ("a", True), ("b", False), ("a", True), ("b", False)]


def test_what_is_ignored_neither_scores_nor_decides(tmp_path):
    pairs = make_cases(
        tmp_path, {"labels": {"background": 0, "a": 1, "b": 2, "ignore": 3}}, ignored=True
    )
    content = fit_postprocessing(pairs, load_description(tmp_path), jobs=1)
    assert content.rules == ()
    assert {trial.why for trial in content.trials} == {"nothing helps"}


def test_a_few_cases_tell_nothing(tmp_path):
    pairs = make_cases(tmp_path, {}, cases=4)
    content = fit_postprocessing(pairs, load_description(tmp_path), jobs=1)
    assert (content.rules, content.trials) == ((), ())
    assert explain_trials(content) == ["post-processing: fewer than 5 cases, nothing tried"]
