"""The summary as plain text: what ``segkit evaluate`` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
}
"""Headings, in the order of the columns."""


def render_table(summary: Summary) -> str:
    """Lay the summary out in columns, labels and regions under their own headings.

    The first metric comes with its standard deviation, its 95% interval and the number of cases
    it is the mean of; the others as means. A row ends with what its means leave out.
    """
    metrics = summary.metrics
    blocks = [("label", summary.labels), ("region", summary.regions)]
    rows: list[Row] = []
    for kind, table in blocks:
        if table:
            rows += [[], _heading(kind, metrics)] if rows else [_heading(kind, metrics)]
            rows += [_row(name, target, metrics) for name, target in table.items()]
    rows += [[], _last_row(summary, metrics)]
    return _align(rows)


def number(value: float | None, metric: str) -> str:
    """Format a value; shares (0..1) get three decimals, mm and ml two, undefined ones ``n/a``."""
    if value is None:
        return "n/a"
    return f"{value:.2f}" if metric.endswith(("_mm", "_ml")) else f"{value:.3f}"


def mean_and_std(statistics: Statistics, metric: str) -> str:
    """Format ``mean ± std``, or ``n/a``."""
    if statistics.n == 0:
        return "n/a"
    return f"{number(statistics.mean, metric)} ± {number(statistics.std, metric)}"


def interval(statistics: Statistics, metric: str) -> str:
    """Format the 95% interval of the mean, or ``n/a`` where fewer than two cases tell of it."""
    if statistics.ci95 is None or statistics.n < 2:
        return "n/a"
    low, high = statistics.ci95
    return f"[{number(low, metric)}, {number(high, metric)}]"


def absence(statistics: Statistics) -> str:
    """Say in how many cases the metric is undefined; empty where it is defined in all."""
    if not statistics.undefined:
        return ""
    return f"n/a (absent in {statistics.undefined} of {statistics.undefined + statistics.n})"


def note(target: Mapping[str, Statistics]) -> str:
    """Say what the means of a row leave out: absent cases, and more of them for some metrics.

    Empty where nothing is left out.
    """
    first, *others = (metric for metric in TITLES if metric in target)
    fewer = [
        f"{TITLES[metric]} over {target[metric].n}"
        for metric in others
        if target[metric].n < target[first].n
    ]
    return ", ".join(filter(None, [absence(target[first]), *fewer]))


def _heading(kind: str, metrics: Sequence[str]) -> Row:
    first, *others = (TITLES[metric] for metric in metrics)
    return [kind, f"{first} mean ± std", "95% CI", "n", *others, ""]


def _row(name: str, target: Mapping[str, Statistics], metrics: Sequence[str]) -> Row:
    first, *others = metrics
    statistics = target[first]
    return [
        name,
        mean_and_std(statistics, first),
        interval(statistics, first),
        str(statistics.n),
        *(number(target[metric].mean, metric) for metric in others),
        note(target),
    ]


def _last_row(summary: Summary, metrics: Sequence[str]) -> Row:
    first, *others = (number(summary.foreground_mean[metric], metric) for metric in metrics)
    over = " (regions)" if summary.regions else ""
    return [f"foreground mean{over}", first, "", "", *others, ""]


def _align(rows: list[Row]) -> str:
    """Pad every column to its widest cell: names, means and notes left, the rest right."""
    columns = max(map(len, rows))
    widths = [max(len(row[i]) for row in rows if row) for i in range(columns)]
    numbers = [str.rjust] * (columns - 3)
    sides: list[Callable[[str, int], str]] = [str.ljust, str.ljust, *numbers, str.ljust]
    lines = (
        "  ".join(side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True))
        if row
        else ""
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
