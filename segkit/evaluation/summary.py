"""From two folders of label maps to one summary: statistics per target over the cases.

A target is a label, a structure, or a region where the dataset has regions; background is none.
Undefined values (see ``overlap``, ``surface`` and ``lesions``) are left out of every statistic and
counted.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from segkit.dataset.description import DatasetDescription
from segkit.errors import UserError, listing
from segkit.evaluation.case import (
    CasePair,
    CaseResult,
    CaseScores,
    EvaluationSettings,
    evaluate_case,
)
from segkit.evaluation.explanations import Explanation, explain
from segkit.evaluation.lesions import LESION_COUNTS, rate_lesions
from segkit.evaluation.overlap import Scores
from segkit.evaluation.pairs import pair_files
from segkit.evaluation.scoring import DEFAULT_SCORING, Scoring
from segkit.evaluation.statistics import Table, foreground_mean, tabulate
from segkit.files import content_hash, read_artifact, write_artifact, write_text
from segkit.parallel import choose_jobs, map_cases, threads
from segkit.runtime import log
from segkit.structs import from_mapping, to_mapping

SUMMARY_VERSION = 1
BYTES_PER_JOB = 1 << 31
"""Measured for a case of 512 x 512 x 300 voxels: 0.5 GB where its labels are bytes, 0.8 GB with
surfaces, and 2.1 GB where they are float64, as some programs store them."""
BYTES_PER_STRUCTURE = 1 << 28
"""More for every structure that may overlap others; measured: 0.2 GB for the same case."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The content of summary.json."""

    dataset: str
    metrics: tuple[str, ...]
    nsd_tolerance_mm: float
    absent_score: float | None = None
    """What a target on neither side scores; None: nothing, it is undefined."""
    labels: Table
    """Classes, or structures that overlap."""
    regions: Table
    """Empty where the dataset has no regions."""
    foreground_mean: dict[str, float | None]
    """Mean over the regions, or the labels where there are none, of their means."""
    explanations: tuple[Explanation, ...] = ()
    """Why labels score lower than the region around them."""
    lesion_totals: dict[str, dict[str, Scores]] = field(default_factory=dict)
    """``labels`` and ``regions``: lesion metrics of all cases' lesions taken together; empty unless
    the three counts were asked for."""
    cases: tuple[CaseScores, ...]
    not_predicted: tuple[str, ...]
    """Cases with a reference and no prediction."""
    made_from: str
    """Hash of dataset.json, the settings and every file that was compared."""

    @property
    def targets(self) -> Table:
        """What ``foreground_mean`` is over: the regions, or the labels where there are none."""
        return self.regions or self.labels

    def unannotated(self, target: str) -> int:
        """Count the cases in which no voxel of a target is annotated."""
        return sum(target in case.unannotated for case in self.cases)


def evaluate_folders(
    pred_dir: Path,
    ref_dir: Path,
    description: DatasetDescription,
    *,
    scoring: Scoring = DEFAULT_SCORING,
    masks_dir: Path | None = None,
    jobs: int | None = None,
) -> Summary:
    """Compare every prediction in a folder with the reference of the same file name.

    Args:
        pred_dir: Holds CASE + ending (or, where structures overlap, folders CASE); other files in
            it are left alone.
        ref_dir: Holds the references under the same names.
        description: The dataset; its labels, file ending and reader apply to both folders.
        scoring: What to compute.
        masks_dir: Regions of interest, CASE + ending; outside them nothing counts. None takes the
            dataset's masksTr where ``ref_dir`` is its labelsTr.
        jobs: Worker threads; None chooses.

    Raises:
        UserError: no prediction, a prediction without reference, shapes that differ, undeclared
            label values.
    """
    pairs, not_predicted = pair_files([pred_dir], ref_dir, description, masks_dir=masks_dir)
    if not_predicted:
        count, total = len(not_predicted), len(not_predicted) + len(pairs)
        text = "note: %d of %d references have no prediction and are left out, in %s"
        log.info(text, count, total, ref_dir)
    return evaluate_pairs(
        pairs, description, scoring=scoring, jobs=jobs, not_predicted=not_predicted
    )


def evaluate_pairs(
    pairs: Sequence[CasePair],
    description: DatasetDescription,
    *,
    scoring: Scoring = DEFAULT_SCORING,
    jobs: int | None = None,
    not_predicted: Sequence[str] = (),
) -> Summary:
    """Compare each prediction with its reference; see :func:`evaluate_folders`.

    Args:
        pairs: What to compare; at least one.
        description: The dataset.
        scoring: What to compute.
        jobs: Worker threads; None chooses.
        not_predicted: Cases to name as missing in the summary.

    Raises:
        UserError: nothing to compare, shapes that differ, undeclared label values.
    """
    if not pairs:
        raise UserError("there is no case to evaluate", fix="predict some cases first")
    schema = description.labels
    settings = EvaluationSettings(schema=schema, scoring=scoring, reader=description.reader)
    results = _evaluate(pairs, settings, jobs)
    scores = tuple(result.scores for result in results)
    tables = summarize(scores, scoring.metrics)
    sources = [description.hash(), to_mapping(settings), [r.source_hash for r in results]]
    return Summary(
        dataset=description.name,
        metrics=scoring.metrics,
        nsd_tolerance_mm=scoring.nsd_tolerance_mm,
        absent_score=scoring.absent_score,
        **tables,
        explanations=explain(
            [result.errors for result in results],
            [case.labels for case in scores],
            [case.regions for case in scores],
        ),
        cases=scores,
        not_predicted=tuple(not_predicted),
        made_from=content_hash(sources),
    )


def _evaluate(
    pairs: Sequence[CasePair], settings: EvaluationSettings, jobs: int | None
) -> list[CaseResult]:
    if masked := sum(pair.mask is not None for pair in pairs):
        log.info("%d of %d cases are evaluated only inside their mask", masked, len(pairs))
    needed = BYTES_PER_JOB + BYTES_PER_STRUCTURE * (settings.schema.seg_channels - 1)
    jobs = choose_jobs(jobs, items=len(pairs), bytes_per_job=needed)
    with threads(jobs) as executor:
        results: list[CaseResult] = map_cases(
            partial(evaluate_case, settings=settings),
            pairs,
            label="evaluate",
            jobs=jobs,
            executor=executor,
            name=_case_name,
        )
    if undeclared := sorted({value for result in results for value in result.undeclared}):
        text = "note: not among the labels to judge, and so counted as background: %s"
        log.info(text, listing([str(value) for value in undeclared], 20))
    for warning in (text for result in results for text in result.warnings):
        log.warning("%s", warning)
    return results


def summarize(cases: Sequence[CaseScores], metrics: Sequence[str]) -> dict[str, Any]:
    """Compute ``labels``, ``regions``, ``foreground_mean`` and ``lesion_totals`` of a summary."""
    blocks = {"labels": [c.labels for c in cases], "regions": [c.regions for c in cases]}
    labels, regions = (tabulate(block, metrics) for block in blocks.values())
    counted = set(metrics) >= set(LESION_COUNTS)
    return {
        "labels": labels,
        "regions": regions,
        "foreground_mean": foreground_mean(regions or labels, metrics),
        "lesion_totals": {k: lesion_totals(v) for k, v in blocks.items()} if counted else {},
    }


def lesion_totals(cases: Sequence[Mapping[str, Scores]]) -> dict[str, Scores]:
    """Add up the lesion counts of all cases in which a target is annotated, and rate the sums."""
    targets = cases[0].keys() if cases else ()
    return {
        target: rate_lesions(
            *(int(sum(case[target][count] or 0 for case in cases)) for count in LESION_COUNTS)
        )
        for target in targets
    }


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


def _case_name(pair: CasePair) -> str:
    return pair.case
