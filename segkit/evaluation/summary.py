"""From two folders of label maps to one summary: statistics per target over the cases.

A target is a label, or a region where the dataset has regions; background is none. Undefined
values (see ``overlap`` and ``surface``) are left out of every statistic and counted.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from segkit.dataset.description import DatasetDescription
from segkit.errors import UserError, nearest
from segkit.evaluation.case import (
    METRICS,
    CasePair,
    CaseResult,
    CaseScores,
    EvaluationSettings,
    evaluate_case,
)
from segkit.evaluation.overlap import OVERLAP_METRICS
from segkit.evaluation.pairs import pair_files
from segkit.evaluation.statistics import Table, foreground_mean, tabulate
from segkit.files import content_hash, read_artifact, write_artifact, write_text
from segkit.parallel import choose_jobs, map_cases
from segkit.runtime import log
from segkit.structs import from_mapping, to_mapping

SUMMARY_VERSION = 1
DEFAULT_METRICS = tuple(metric for metric in METRICS if metric in OVERLAP_METRICS)
BYTES_PER_JOB = 5 << 29
"""Measured: 2.4 GB for a case of 512 x 512 x 300 voxels, while its labels are looked up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The content of summary.json."""

    dataset: str
    metrics: tuple[str, ...]
    nsd_tolerance_mm: float
    labels: Table
    regions: Table
    """Empty where the dataset has no regions."""
    foreground_mean: dict[str, float | None]
    """Mean over the regions, or the labels where there are none, of their means."""
    cases: tuple[CaseScores, ...]
    not_predicted: tuple[str, ...]
    """Cases with a reference and no prediction."""
    made_from: str
    """Hash of dataset.json, the settings and every file that was compared."""

    @property
    def targets(self) -> Table:
        """What ``foreground_mean`` is over: the regions, or the labels where there are none."""
        return self.regions or self.labels


def evaluate_folders(
    pred_dir: Path,
    ref_dir: Path,
    description: DatasetDescription,
    *,
    metrics: Sequence[str] | None = None,
    jobs: int | None = None,
    nsd_tolerance_mm: float = 1.0,
) -> Summary:
    """Compare every prediction in a folder with the reference of the same file name.

    Args:
        pred_dir: Holds CASE + ending; other files in it are left alone.
        ref_dir: Holds the references under the same names.
        description: The dataset; its labels, file ending and reader apply to both folders.
        metrics: Names out of :data:`METRICS`; None takes :data:`DEFAULT_METRICS` (surface
            distances take longer and are computed only when asked for).
        jobs: Worker processes; None chooses.
        nsd_tolerance_mm: Distance that still counts as on the surface (``nsd``).

    Raises:
        UserError: no prediction, a prediction without reference, shapes that differ, undeclared
            label values, an unknown metric.
    """
    pairs, not_predicted = pair_files(pred_dir, ref_dir, description.label_ending)
    if not_predicted:
        count, total = len(not_predicted), len(not_predicted) + len(pairs)
        text = "note: %d of %d references have no prediction and are left out, in %s"
        log.info(text, count, total, ref_dir)
    return evaluate_pairs(
        pairs,
        description,
        metrics=metrics,
        jobs=jobs,
        nsd_tolerance_mm=nsd_tolerance_mm,
        not_predicted=not_predicted,
    )


def evaluate_pairs(
    pairs: Sequence[CasePair],
    description: DatasetDescription,
    *,
    metrics: Sequence[str] | None = None,
    jobs: int | None = None,
    nsd_tolerance_mm: float = 1.0,
    not_predicted: Sequence[str] = (),
) -> Summary:
    """Compare each prediction with its reference; see :func:`evaluate_folders`.

    Args:
        pairs: What to compare; at least one.
        description: The dataset.
        metrics: Names out of :data:`METRICS`; None takes :data:`DEFAULT_METRICS`.
        jobs: Worker processes; None chooses.
        nsd_tolerance_mm: Distance that still counts as on the surface (``nsd``).
        not_predicted: Cases to name as missing in the summary.

    Raises:
        UserError: nothing to compare, shapes that differ, undeclared label values, an unknown
            metric.
    """
    if not pairs:
        raise UserError("there is no case to evaluate", fix="predict some cases first")
    settings = EvaluationSettings(
        schema=description.labels,
        metrics=check_metrics(metrics),
        nsd_tolerance_mm=_check_tolerance(nsd_tolerance_mm),
        reader=description.reader,
    )
    results = _evaluate(pairs, settings, jobs)
    scores = tuple(result.scores for result in results)
    sources = [description.hash(), to_mapping(settings), [r.source_hash for r in results]]
    return Summary(
        dataset=description.name,
        metrics=settings.metrics,
        nsd_tolerance_mm=settings.nsd_tolerance_mm,
        **summarize(scores, settings.metrics),
        cases=scores,
        not_predicted=tuple(not_predicted),
        made_from=content_hash(sources),
    )


def _evaluate(
    pairs: Sequence[CasePair], settings: EvaluationSettings, jobs: int | None
) -> list[CaseResult]:
    results: list[CaseResult] = map_cases(
        partial(evaluate_case, settings=settings),
        pairs,
        label="evaluate",
        jobs=choose_jobs(jobs, items=len(pairs), bytes_per_job=BYTES_PER_JOB),
        name=_case_name,
    )
    for warning in (text for result in results for text in result.warnings):
        log.warning("%s", warning)
    return results


def summarize(cases: Sequence[CaseScores], metrics: Sequence[str]) -> dict[str, Any]:
    """Compute the three blocks ``labels``, ``regions`` and ``foreground_mean`` of a summary."""
    labels = tabulate([case.labels for case in cases], metrics)
    regions = tabulate([case.regions for case in cases], metrics)
    mean = foreground_mean(regions or labels, metrics)
    return {"labels": labels, "regions": regions, "foreground_mean": mean}


def check_metrics(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the metrics asked for in their usual order, each once; None gives the default.

    Raises:
        UserError: an unknown name, or none at all.
    """
    if names is None:
        return DEFAULT_METRICS
    for name in names:
        if name not in METRICS:
            raise UserError(
                f"unknown metric {name!r}", where="--metrics", fix=nearest(name, METRICS)
            )
    if not names:
        fix = f"give some of {', '.join(METRICS)}"
        raise UserError("no metric was asked for", where="--metrics", fix=fix)
    return tuple(metric for metric in METRICS if metric in names)


def save_summary(summary: Summary, folder: Path) -> None:
    """Write summary.json and cases.csv into ``folder``, each atomically."""
    content = to_mapping(summary)
    made_from = content.pop("made_from")
    path = folder / "summary.json"
    write_artifact(path, content, version=SUMMARY_VERSION, made_from=made_from)
    write_text(folder / "cases.csv", cases_csv(summary))


def load_summary(path: Path) -> Summary:
    """Read a summary.json.

    Raises:
        UserError: unreadable, of another format version, or not a summary.
    """
    content = read_artifact(path, version=SUMMARY_VERSION)
    header = ("format_version", "segkit_version")
    content = {key: value for key, value in content.items() if key not in header}
    return from_mapping(Summary, content, source=path)


def cases_csv(summary: Summary) -> str:
    """Return one row a case and target: case, kind, name, metrics; undefined cells are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "kind", "name", *summary.metrics])
    for case in summary.cases:
        for kind, targets in (("label", case.labels), ("region", case.regions)):
            for name, scores in targets.items():
                # csv writes None as an empty cell.
                writer.writerow([case.case, kind, name, *map(scores.get, summary.metrics)])
    return text.getvalue()


def _check_tolerance(tolerance_mm: float) -> float:
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        fix = "give a distance in mm, 0 or more"
        raise UserError(f"NSD tolerance {tolerance_mm} mm", where="--nsd-tolerance-mm", fix=fix)
    return float(tolerance_mm)


def _case_name(pair: CasePair) -> str:
    return pair.case
