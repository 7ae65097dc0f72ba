"""An evaluation as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

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
from segkit.report import dice_plot

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em;
  color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .3em .8em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
thead th { border-bottom: 2px solid #888 }
.note { color: #666 }
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
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}{dice_plot.STYLE}</style>'
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
    if statistics.n < 2:
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
    cases = [target_scores(summary, case) for case in summary.cases]
    scores = {
        name: [dice for case in cases if (dice := case[name]["dice"]) is not None]
        for name in summary.targets
    }
    return (
        "<h2>Dice of every case</h2>\n<p>Dots: cases; bar: quartiles; line: median.</p>\n"
        f"{dice_plot.dice_svg(scores)}\n{_worst_table(summary)}"
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
