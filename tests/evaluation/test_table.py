from dataclasses import replace

import pytest

from segkit.evaluation.case import CaseScores
from segkit.evaluation.explanations import Explanation
from segkit.evaluation.summary import Summary, summarize
from segkit.evaluation.table import (
    absence,
    case_remarks,
    interval,
    lesion_remarks,
    mean_and_std,
    note,
    number,
    render_table,
)

OVERLAP = ("dice", "iou", "precision", "recall")


def make_summary(labels, regions=None, metrics=OVERLAP):
    """Build a summary from one mapping target -> list of (one value for all metrics) a block."""

    def of_case(block, i):
        return {name: dict.fromkeys(metrics, values[i]) for name, values in block.items()}

    count = len(next(iter(labels.values())))
    cases = tuple(
        CaseScores(case=f"case_{i}", labels=of_case(labels, i), regions=of_case(regions or {}, i))
        for i in range(count)
    )
    return Summary(
        dataset="Dataset001_Test",
        metrics=metrics,
        nsd_tolerance_mm=1.0,
        **summarize(cases, metrics),
        cases=cases,
        not_predicted=(),
        made_from="0" * 16,
    )


def test_rows_and_columns():
    table = render_table(make_summary({"liver": [0.5, 0.5], "tumour": [None, 1.0]}))
    assert table.splitlines() == [
        "label            Dice mean ± std          95% CI  n    IoU  precision  recall",
        "liver            0.500 ± 0.000    [0.500, 0.500]  2  0.500      0.500   0.500",
        "tumour           1.000                       n/a  1  1.000      1.000   1.000"
        "  n/a (absent in 1 of 2)",
        "",
        "foreground mean  0.750                               0.750      0.750   0.750",
    ]


def test_a_target_absent_everywhere():
    table = render_table(make_summary({"liver": [1.0] * 40, "tumour": [None] * 40}))
    row = next(line for line in table.splitlines() if line.startswith("tumour"))
    assert row.split()[:5] == ["tumour", "n/a", "n/a", "0", "n/a"]
    assert row.endswith("n/a (absent in 40 of 40)")


def test_nothing_defined_at_all():
    lines = render_table(make_summary({"liver": [None]})).splitlines()
    assert lines[-1].split() == ["foreground", "mean", *["n/a"] * 4]


def test_labels_and_regions_have_their_own_headings():
    lines = render_table(make_summary({"edema": [0.1]}, {"whole": [0.9]})).splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        "label",
        "edema",
        "",
        "region",
        "whole",
        "",
        "foreground",
    ]
    assert "0.900" in lines[-1]


def test_metrics_with_fewer_cases_say_so():
    summary = make_summary({"liver": [0.5, 0.5, None]})
    target = dict(summary.labels["liver"])
    target["precision"] = make_summary({"x": [0.5, None, None]}).labels["x"]["precision"]
    assert note(target) == "n/a (absent in 1 of 3), precision over 1"
    target["precision"] = make_summary({"x": [0.5, 0.5, 0.5]}).labels["x"]["precision"]
    assert note(target) == "n/a (absent in 1 of 3)"


def test_without_dice_the_first_metric_leads():
    table = render_table(make_summary({"liver": [2.5, 3.5]}, metrics=("hd95_mm", "nsd")))
    assert "HD95 mm mean ± std" in table
    assert "3.00 ± 0.50" in table


@pytest.mark.parametrize(
    ("value", "metric", "text"),
    [
        (None, "dice", "n/a"),
        (0.12345, "nsd", "0.123"),
        (1234.567, "volume_ref_ml", "1234.57"),
        (2.0, "lesion_tp", "2.00"),
    ],
)
def test_numbers(value, metric, text):
    assert number(value, metric) == text


def test_undefined_statistics_are_spelled_out():
    nothing = make_summary({"x": [None]}).labels["x"]["dice"]
    assert mean_and_std(nothing, "dice") == interval(nothing, "dice") == "n/a"


def test_cases_that_nobody_annotated_are_told_apart_from_absence():
    statistics = make_summary({"x": [None, None, None, 0.5]}).labels["x"]["dice"]
    assert absence(statistics, "dice") == "n/a (absent in 3 of 4)"
    assert absence(statistics, "dice", 1) == "n/a (absent in 2, not annotated in 1 of 4)"
    assert absence(statistics, "dice", 3) == "n/a (not annotated in 3 of 4)"
    summary = make_summary({"liver": [0.5, None]})
    unknown = replace(summary.cases[1], unannotated=("liver",))
    table = render_table(replace(summary, cases=(summary.cases[0], unknown)))
    assert "n/a (not annotated in 1 of 2)" in table


@pytest.mark.parametrize("metric", ["precision", "recall", "hd95_mm", "nsd", "lesion_recall"])
def test_what_may_be_missed_or_invented_is_not_called_absent(metric):
    row = render_table(make_summary({"liver": [0.5, 0.5, None]}, metrics=(metric,))).splitlines()[1]
    assert row.endswith("n/a (undefined in 1 of 3)")


def test_what_absence_counts_as_is_said():
    summary = make_summary({"liver": [0.5, 1.0]})
    assert "counts as" not in render_table(summary)
    last = render_table(replace(summary, absent_score=1.0)).splitlines()[-1]
    assert last == "a target that is in neither reference nor prediction counts as 1, not as n/a"


def test_what_cases_leave_out_is_said():
    summary = make_summary({"liver": [0.5, 1.0, 1.0]})
    assert case_remarks(summary) == []
    known = [
        replace(case, annotated_share=share)
        for case, share in zip(summary.cases, (1.0, 0.25, 0.5), strict=True)
    ]
    summary = replace(summary, cases=tuple(known), not_predicted=tuple("abcdef"))
    assert render_table(summary).splitlines()[-2:] == [
        "6 references are left out, without a prediction: a, b, c, d and 2 more",
        "2 of 3 cases are scored on a part of their voxels only (38% on average): "
        "volumes are of that part",
    ]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "(0% "), (0.001, "(under 1% "), (0.42, "(42% "), (0.9999, "(over 99% ")],
)
def test_a_part_never_reads_as_all_or_nothing(share, text):
    summary = make_summary({"liver": [0.5]})
    (case,) = summary.cases
    (line,) = case_remarks(replace(summary, cases=(replace(case, annotated_share=share),)))
    assert text in line


def test_lesions_of_all_cases_are_added_up():
    metrics = ("dice", "lesion_tp", "lesion_fp", "lesion_fn", "lesion_f1")
    summary = make_summary({"ms": [2.0, 1.0, None]}, metrics=metrics)
    lines = render_table(summary).splitlines()
    assert "lesions found" in lines[0]
    assert lines[-1] == "ms: 3 of 6 lesions of all cases are found, 3 are false (lesion F1 0.500)"


def test_a_region_of_one_class_repeats_no_line():
    metrics = ("lesion_tp", "lesion_fp", "lesion_fn")
    summary = make_summary({"tip": [1.0]}, {"tip": [1.0], "whole": [2.0]}, metrics=metrics)
    assert [line.split(":")[0] for line in lesion_remarks(summary)] == ["tip", "whole"]


def test_explanations_stand_below_the_columns():
    summary = make_summary({"edema": [0.1]}, {"whole": [0.9]})
    why = Explanation(
        label="edema",
        region="whole",
        dice_label=0.1,
        dice_region=0.9,
        volume_label_ml=1.0,
        volume_region_ml=2.0,
        wrong_voxels=3,
        border=None,
        inherited=None,
        text="edema is below whole",
    )
    lines = render_table(replace(summary, explanations=(why,))).splitlines()
    assert lines[-2:] == ["", "edema is below whole"]
