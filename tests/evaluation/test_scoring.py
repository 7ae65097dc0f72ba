from dataclasses import fields

import pytest

from segkit.errors import UserError
from segkit.evaluation.scoring import DEFAULT_METRICS, METRICS, SHARES, Scoring, check_scoring
from segkit.evaluation.table import TITLES, UNDEFINED_IF_ABSENT
from segkit.options import Evaluate


def test_defaults():
    assert check_scoring() == Scoring()
    assert DEFAULT_METRICS == (
        "dice",
        "iou",
        "precision",
        "recall",
        "volume_ref_ml",
        "volume_pred_ml",
    )
    assert set(METRICS) > SHARES


def test_every_metric_has_a_heading_and_is_listed_in_the_help():
    assert tuple(TITLES) == METRICS
    assert set(METRICS) > {*SHARES, *UNDEFINED_IF_ABSENT}
    listed = next(f.metadata["help"] for f in fields(Evaluate) if f.name == "metrics")
    assert tuple(listed.partition(" (")[0].split()) == METRICS


def test_metrics_come_in_their_usual_order_each_once():
    assert check_scoring(["lesion_f1", "dice", "lesion_f1"]).metrics == ("dice", "lesion_f1")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"metrics": ["hd95"]}, "did you mean 'hd95_mm'"),
        ({"metrics": []}, "no metric was asked for"),
        ({"nsd_tolerance_mm": -1.0}, "tolerance"),
        ({"nsd_tolerance_mm": float("nan")}, "tolerance"),
        ({"nsd_tolerance_mm": float("inf")}, "tolerance"),
        ({"absent_score": -0.1}, "absent score -0.1"),
        ({"absent_score": 1.1}, "absent score 1.1"),
        ({"absent_score": float("nan")}, "absent score nan"),
    ],
)
def test_mistakes_are_refused(choices, message):
    with pytest.raises(UserError) as raised:
        check_scoring(**choices)
    assert message in str(raised.value)
