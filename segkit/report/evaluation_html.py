"""An evaluation as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from segkit import __version__
from segkit.evaluation.case import CaseScores
from segkit.evaluation.lesions import LESION_METRICS
from segkit.evaluation.overlap import Scores
from segkit.evaluation.statistics import Statistics, Table
from segkit.evaluation.summary import Summary
from segkit.evaluation.table import (
    TITLES,
    absent_remark,
    case_remarks,
    interval,
    lesion_remarks,
    mean_and_std,
    note,
    number,
)
from segkit.files import write_text

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em;
  color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .3em .8em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
thead th { border-bottom: 2px solid #888 }
.note { color: #666 }
img { max-width: 100% }
"""
BORDER_LEGEND = (
    "At its border: within one voxel (26 neighbours in a volume, 8 in a plane) of the border that "
    "the label has in the reference."
)
LESION_LEGEND = (
    "A lesion is a connected component (26 neighbours in a volume, 8 in a plane). One of the "
    "reference is found when the prediction overlaps it in one voxel or more; a predicted one that "
    "overlaps none of the reference is false."
)


def write_evaluation_page(summary: Summary, path: Path) -> None:
    """Write the page of an evaluation, atomically."""
    write_text(path, evaluation_page(summary))


def evaluation_page(summary: Summary) -> str:
    """Return the page: tables with what their means leave out, Dice of all cases, worst cases."""
    title = f"Evaluation of {escape(summary.dataset)}"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    sections = [
        f"<h1>{title}</h1>",
        _facts(summary),
        _table("Regions", summary.regions, summary),
        _table("Labels", summary.labels, summary),
        _explanations(summary),
        _lesions(summary),
        _dice(summary),
        f'<p class="note">segkit {escape(__version__)}, made from {escape(summary.made_from)}</p>',
    ]
    body = "\n".join(filter(None, sections))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _facts(summary: Summary) -> str:
    facts = [f"{len(summary.cases)} cases"]
    if "nsd" in summary.metrics:
        facts.append(f"NSD tolerance {summary.nsd_tolerance_mm:g} mm")
    facts += absent_remark(summary)
    text = f"<p>{', '.join(facts)}. Mean ± standard deviation [95% interval of the mean].</p>"
    return "\n".join([text, *_list(case_remarks(summary))])


def _explanations(summary: Summary) -> str:
    if not summary.explanations:
        return ""
    heading = "Why labels score lower than the region around them"
    lines = [explanation.text for explanation in summary.explanations]
    return _section(heading, BORDER_LEGEND, lines)


def _lesions(summary: Summary) -> str:
    if not set(summary.metrics) & set(LESION_METRICS):
        return ""
    return _section("Lesions", LESION_LEGEND, lesion_remarks(summary))


def _section(heading: str, legend: str, lines: Sequence[str]) -> str:
    parts = [f"<h2>{heading}</h2>", f'<p class="note">{legend}</p>', *_list(lines)]
    return "\n".join(parts)


def _list(lines: Sequence[str]) -> list[str]:
    """Return a list of its own, or nothing where there is no line."""
    items = "\n".join(f"<li>{escape(line)}</li>" for line in lines)
    return [f"<ul>\n{items}\n</ul>"] if lines else []


def _table(heading: str, table: Table, summary: Summary) -> str:
    if not table:
        return ""
    rows = [
        [name]
        + [_mean(target[metric], metric) for metric in summary.metrics]
        + [note(target, summary.unannotated(name))]
        for name, target in table.items()
    ]
    if table is summary.targets:
        means = [number(summary.foreground_mean[metric], metric) for metric in summary.metrics]
        rows.append(["foreground mean", *means, ""])
    titles = ["", *(TITLES[metric] for metric in summary.metrics), "left out"]
    return f"<h2>{heading}</h2>\n{_html_table(titles, rows)}"


def _mean(statistics: Statistics, metric: str) -> str:
    if statistics.n == 0:
        return mean_and_std(statistics, metric)
    return f"{mean_and_std(statistics, metric)} {interval(statistics, metric)}"


def _html_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [_html_row("td", row) for row in rows]
    body = "\n".join(lines)
    return f"<table>\n<thead>{_html_row('th', titles)}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _html_row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _dice(summary: Summary) -> str:
    if "dice" not in summary.metrics:
        return '<p class="note">Dice was not computed: no picture, no ranking of cases.</p>'
    picture = base64.b64encode(dice_png(summary)).decode()
    return (
        "<h2>Dice of every case</h2>\n<p>Dots: cases; bar: quartiles; line: median.</p>\n"
        f'<img alt="Dice per target" '
        f'src="data:image/png;base64,{picture}">\n{_worst_table(summary)}'
    )


def _worst_table(summary: Summary) -> str:
    names = list(summary.targets)
    worst = worst_cases(summary)
    rows = [
        [case.case, number(mean, "dice")]
        + [number(target_scores(summary, case)[name]["dice"], "dice") for name in names]
        for case, mean in worst
    ]
    left_out = len(summary.cases) - len(worst)
    heading = "All cases" if not left_out else f"The {len(worst)} worst cases"
    return f"<h2>{heading}</h2>\n{_html_table(['case', 'mean Dice', *names], rows)}"


def worst_cases(summary: Summary, count: int = 10) -> list[tuple[CaseScores, float]]:
    """Return the ``count`` cases of lowest mean Dice over their defined targets, worst first.

    Cases without a defined target have no mean and do not appear.
    """
    means = []
    for case in summary.cases:
        scores = [target["dice"] for target in target_scores(summary, case).values()]
        defined = [score for score in scores if score is not None]
        if defined:
            means.append((case, sum(defined) / len(defined)))
    return sorted(means, key=lambda pair: pair[1])[:count]


def target_scores(summary: Summary, case: CaseScores) -> dict[str, Scores]:
    """Return the scores of a case's regions, or of its labels where there are no regions."""
    return case.regions if summary.regions else case.labels


def dice_png(summary: Summary) -> bytes:
    """Draw every case's Dice, one row a target, over the quartiles and the median, as a PNG."""
    names = list(summary.targets)
    figure = Figure(figsize=(9, 1.2 + 0.45 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    spread = np.random.default_rng(0)
    for row, name in enumerate(names):
        scores = [target_scores(summary, case)[name]["dice"] for case in summary.cases]
        if defined := [score for score in scores if score is not None]:
            low, median, high = np.percentile(defined, [25, 50, 75])
            axes.barh(row, high - low, left=low, height=0.6, color="#cfe0f0")
            axes.vlines(median, row - 0.3, row + 0.3, color="#1f4e79")
            heights = row + spread.uniform(-0.2, 0.2, len(defined))
            axes.scatter(defined, heights, s=12, color="#1f4e79", alpha=0.6)
    axes.set_yticks(range(len(names)), [_shorten(name) for name in names], parse_math=False)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.5), xlabel="Dice")
    axes.grid(axis="x", alpha=0.3)
    return _png(figure)


def _shorten(name: str, length: int = 40) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script the font lacks is drawn as boxes; the tables spell it.
        warnings.filterwarnings("ignore", message="Glyph")
        FigureCanvasAgg(figure).print_png(stream)
    return stream.getvalue()
