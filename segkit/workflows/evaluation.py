"""Judging predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from segkit import options as opt
from segkit.dataset.cases import Case
from segkit.dataset.description import DatasetDescription
from segkit.errors import UsageError, listing
from segkit.evaluation.case import CasePair
from segkit.evaluation.labels_alone import labels_alone
from segkit.evaluation.pairs import find_label_map
from segkit.evaluation.scoring import check_scoring
from segkit.evaluation.summary import Summary, evaluate_folders, evaluate_pairs, save_summary
from segkit.evaluation.table import render_table
from segkit.report.evaluation_html import write_evaluation_page
from segkit.runtime import log
from segkit.workflows.common import Outcome, read_description


def evaluate(options: opt.Evaluate) -> Outcome[Summary]:
    """Compare two folders of label maps; see :class:`segkit.options.Evaluate`."""
    scoring = check_scoring(
        options.metrics or None,
        nsd_tolerance_mm=options.nsd_tolerance_mm,
        absent_score=options.absent_score,
    )
    summary = evaluate_folders(
        options.predictions,
        options.references,
        _judged(options),
        scoring=replace(scoring, named_values_only=options.description is None),
        masks_dir=options.masks,
        jobs=options.jobs,
    )
    _write_report(summary, options.output or options.predictions)
    return Outcome(text=render_table(summary), result=summary)


def _judged(options: opt.Evaluate) -> DatasetDescription:
    """Return what is judged: a dataset.json, or the labels named on the command line."""
    if (options.description is None) == (not options.labels):
        fix = "give -d DATASET_JSON, or for example --labels 1 2"
        raise UsageError("what is judged: either a dataset.json or --labels", fix=fix)
    if options.description is None:
        return labels_alone(options.labels, options.predictions, options.ignore_label)
    if options.ignore_label is not None:
        fix = "leave it out: dataset.json says which label is ignored"
        raise UsageError("--ignore-label goes with --labels", fix=fix)
    return _judged_description(options.description)


def _judged_description(path: Path) -> DatasetDescription:
    """Read a dataset.json; beside a plan (a model folder), without what the plan leaves out."""
    description = read_description(path)
    if names := [structure.name for structure in description.labels.left_out]:
        plan = description.folder / "plan.json"
        log.info("not evaluated, as %s leaves them out: %s", plan, listing(names))
    return description


def evaluate_cases(
    description: DatasetDescription,
    predicted: Sequence[tuple[Case, Path]],
    output: Path,
    *,
    jobs: int | None,
) -> Summary:
    """Compare training cases, each predicted into a folder, with what is annotated of them.

    The reports are written to ``output``.
    """
    summary = evaluate_pairs(pairs_of(predicted, description), description, jobs=jobs)
    _write_report(summary, output)
    return summary


def pairs_of(
    predicted: Sequence[tuple[Case, Path]], description: DatasetDescription
) -> list[CasePair]:
    """Pair training cases, each predicted into a folder, with their references."""
    return [
        CasePair(
            case=case.id,
            pred=find_label_map(folder, case.id, description),
            ref=case.label,
            mask=case.mask,
            unannotated=case.unannotated,
        )
        for case, folder in predicted
        if case.label is not None
    ]


def _write_report(summary: Summary, folder: Path) -> None:
    """Write summary.json, cases.csv and report.html."""
    save_summary(summary, folder)
    write_evaluation_page(summary, folder / "report.html")
    log.info("report written to %s", folder / "report.html")
