"""The summary as plain text: what ``segkit evaluate`` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from segkit.errors import listing
from segkit.evaluation.lesions import LESION_COUNTS
from segkit.evaluation.overlap import Scores
from segkit.evaluation.scoring import SHARES
from segkit.evaluation.statistics import Statistics
from segkit.evaluation.summary import Summary

Row = list[str]
TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "hd95_mm": "HD95 mm",
    "assd_mm": "ASSD mm",
    "nsd": "NSD",
    "volume_ref_ml": "ref ml",
    "volume_pred_ml": "pred ml",
    "lesion_tp": "lesions found",
    "lesion_fp": "lesions false",
    "lesion_fn": "lesions missed",
    "lesion_precision": "lesion precision",
    "lesion_recall": "lesion recall",
    "lesion_f1": "lesion F1",
}
"""Headings, in the order of the columns."""
UNDEFINED_IF_ABSENT = ("dice", "iou", "lesion_f1")
"""Undefined in annotated cases only where a target is on neither side; the other metrics also
where it is on one alone, so that a structure wholly missed is not said to be absent."""


def render_table(summary: Summary) -> str:
    """Lay the summary out in columns, labels and regions under their own headings.

    The first metric comes with its standard deviation, its 95% interval and the number of cases
    it is the mean of; the others as means. A row ends with what its means leave out. Below the
    columns stand, a line each, what the cases leave out, what absence counts as, the lesions of
    all cases, and why labels score lower than the region around them.
    """
    metrics = summary.metrics
    blocks = [("label", summary.labels), ("region", summary.regions)]
    rows: list[Row] = []
    for kind, table in blocks:
        if table:
            rows += [[], _heading(kind, metrics)] if rows else [_heading(kind, metrics)]
            rows += [_row(name, target, summary) for name, target in table.items()]
    rows += [[], _last_row(summary, metrics)]
    remarks = [*case_remarks(summary), *absent_remark(summary), *lesion_remarks(summary)]
    remarks += [explanation.text for explanation in summary.explanations]
    # Names, first means and notes to the left, the numbers between them to the right.
    sides = "<<" + ">" * (len(metrics) + 1) + "<"
    return "\n".join([align(rows, sides), *(["", *remarks] if remarks else [])])


def case_remarks(summary: Summary) -> list[str]:
    """Say which references have no prediction, and how many cases are scored on a part only."""
    lines = []
    if count := len(summary.not_predicted):
        which = "reference is" if count == 1 else "references are"
        names = listing(summary.not_predicted)
        lines.append(f"{count} {which} left out, without a prediction: {names}")
    if shares := [case.annotated_share for case in summary.cases if case.annotated_share < 1]:
        average = _percent(sum(shares) / len(shares))
        lines.append(
            f"{len(shares)} of {len(summary.cases)} cases are scored on a part of their voxels "
            f"only ({average} on average): volumes are of that part"
        )
    return lines


def _percent(share: float) -> str:
    """Format a share below 1, so that it reads neither as all nor, above 0, as nothing."""
    if 0 < share < 0.01:
        return "under 1%"
    return "over 99%" if share > 0.99 else f"{share:.0%}"


def absent_remark(summary: Summary) -> list[str]:
    """Say what a target on neither side counts as, in one line; none where it is undefined."""
    if summary.absent_score is None:
        return []
    score = f"{summary.absent_score:g}"
    return [f"a target that is in neither reference nor prediction counts as {score}, not as n/a"]


def lesion_remarks(summary: Summary) -> list[str]:
    """Say of every target how many lesions of all cases are found; none where not counted."""
    blocks = summary.lesion_totals.values()
    lines = [_lesion_remark(name, counts) for block in blocks for name, counts in block.items()]
    # A region of one class has the name and the voxels of that class.
    return list(dict.fromkeys(lines))


def _lesion_remark(name: str, counts: Scores) -> str:
    found, false, missed = (counts[count] or 0 for count in LESION_COUNTS)
    return (
        f"{name}: {found:.0f} of {found + missed:.0f} lesions of all cases are found, "
        f"{false:.0f} are false (lesion F1 {number(counts['lesion_f1'], 'lesion_f1')})"
    )


def number(value: float | None, metric: str) -> str:
    """Format a value; shares (0..1) get three decimals, all else two, undefined ones ``n/a``."""
    if value is None:
        return "n/a"
    return f"{value:.3f}" if metric in SHARES else f"{value:.2f}"


def mean_and_std(statistics: Statistics, metric: str) -> str:
    """Format ``mean ± std``, the value alone where it is of one case, or ``n/a``."""
    if statistics.n < 2:
        return number(statistics.mean, metric)
    return f"{number(statistics.mean, metric)} ± {number(statistics.std, metric)}"


def interval(statistics: Statistics, metric: str) -> str:
    """Format the 95% interval of the mean, or ``n/a`` where fewer than two cases tell of it."""
    if statistics.ci95 is None or statistics.n < 2:
        return "n/a"
    low, high = statistics.ci95
    return f"[{number(low, metric)}, {number(high, metric)}]"


def absence(statistics: Statistics, metric: str, unannotated: int = 0) -> str:
    """Say in how many cases a metric is undefined, and why; empty where it is defined in all."""
    if not statistics.undefined:
        return ""
    why = "absent" if metric in UNDEFINED_IF_ABSENT else "undefined"
    reasons = {why: statistics.undefined - unannotated, "not annotated": unannotated}
    listing = ", ".join(f"{why} in {count}" for why, count in reasons.items() if count)
    return f"n/a ({listing} of {statistics.undefined + statistics.n})"


def note(target: Mapping[str, Statistics], unannotated: int = 0) -> str:
    """Say what the means of a row leave out: some cases, and more of them for some metrics.

    Empty where nothing is left out.

    Args:
        target: Metric -> statistics of the row.
        unannotated: Cases in which no voxel of the target is annotated.
    """
    first, *others = (metric for metric in TITLES if metric in target)
    fewer = [
        f"{TITLES[metric]} over {target[metric].n}"
        for metric in others
        if target[metric].n < target[first].n
    ]
    return ", ".join(filter(None, [absence(target[first], first, unannotated), *fewer]))


def _heading(kind: str, metrics: Sequence[str]) -> Row:
    first, *others = (TITLES[metric] for metric in metrics)
    return [kind, f"{first} mean ± std", "95% CI", "n", *others, ""]


def _row(name: str, target: Mapping[str, Statistics], summary: Summary) -> Row:
    first, *others = summary.metrics
    statistics = target[first]
    return [
        name,
        mean_and_std(statistics, first),
        interval(statistics, first),
        str(statistics.n),
        *(number(target[metric].mean, metric) for metric in others),
        note(target, summary.unannotated(name)),
    ]


def _last_row(summary: Summary, metrics: Sequence[str]) -> Row:
    first, *others = (number(summary.foreground_mean[metric], metric) for metric in metrics)
    over = " (regions)" if summary.regions else ""
    return [f"foreground mean{over}", first, "", "", *others, ""]


_PAD: dict[str, Callable[[str, int], str]] = {"<": str.ljust, ">": str.rjust}


def align(rows: Sequence[Row], sides: str) -> str:
    """Pad every column to its widest cell.

    Args:
        rows: Of equally many cells; an empty row is an empty line.
        sides: To which side each column goes: ``<`` left, ``>`` right.
    """
    widths = [max(len(row[i]) for row in rows if row) for i in range(len(sides))]
    lines = (
        "  ".join(
            _PAD[side](cell, width) for side, cell, width in zip(sides, row, widths, strict=True)
        )
        if row
        else ""
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
