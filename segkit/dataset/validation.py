"""Every problem of a whole data set, found in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from segkit.dataset.cases import Case, find_cases, largest_case
from segkit.dataset.checks.case import check_case
from segkit.dataset.checks.content import check_content
from segkit.dataset.checks.expectations import Expectations
from segkit.dataset.checks.sides import propose_pairs
from segkit.dataset.checks.together import check_together
from segkit.dataset.description import (
    DatasetDescription,
    dataset_name,
    describe,
    locate,
    read_content,
)
from segkit.dataset.mending.content import mend_content
from segkit.dataset.problems import CODES, LABEL_CODES, Problem
from segkit.dataset.split_files import check_splits, given_splits
from segkit.parallel import choose_jobs, map_cases

__all__ = ["Problem", "Report", "validate_dataset"]

_SHOWN = 10
_LAYOUT_CODES = frozenset({"SK-D008", "SK-D009", "SK-D011"})
"""Problems that leave open which files belong to the data set."""
_UNUSABLE = {
    "SK-D010": "overwrite_image_reader_writer",
    "SK-D045": "unannotated",
    "SK-D047": "unannotated",
    **dict.fromkeys(("SK-D050", "SK-D051", "SK-D052", "SK-D053", "SK-D054"), "mirror_pairs"),
    "SK-D055": "left_right_axis",
}
"""Problems after which a key is treated as if it were not there."""
_BYTES_PER_JOB, _BYTES_PER_VOXEL, _BYTES_PER_STRUCTURE = 1 << 28, 24, 2
"""Memory of a worker, what a voxel of an image adds to it, and what its every mask adds."""
_FEW_CASES, _FEW_VOXELS = 8, 1 << 22
"""Fewer cases of fewer voxels each are checked about as soon as worker processes have started."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was found in a data set."""

    dataset: str
    cases: int
    """Training cases with images and a label file."""
    problems: tuple[Problem, ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Problems that must be mended."""
        return tuple(found for found in self.problems if found.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Problems that should be looked at."""
        return tuple(found for found in self.problems if found.severity == "warning")

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON content (``segkit validate --json``)."""
        return {
            "dataset": self.dataset,
            "ok": self.ok,
            "cases": self.cases,
            "errors": [found.to_json() for found in self.errors],
            "warnings": [found.to_json() for found in self.warnings],
        }

    def __str__(self) -> str:
        """Return the report as text: errors, warnings, and a closing line."""
        counts = f"{_count(self.errors, 'error')}, {_count(self.warnings, 'warning')}"
        verdict = "ready to use" if self.ok else "mend the errors"
        closing = f"{self.dataset}: {_count(range(self.cases), 'case')}, {counts}: {verdict}"
        blocks = [*_blocks("Errors", self.errors), *_blocks("Warnings", self.warnings), closing]
        return "\n".join(blocks)


def validate_dataset(
    folder: Path, *, jobs: int | None, content: dict[str, Any] | None = None
) -> Report:
    """Check dataset.json and all files of all training cases; nothing stops at the first fault.

    Args:
        folder: The data set's folder, or its JSON file.
        jobs: Worker processes; None takes what CPUs and memory allow.
        content: Taken for what the JSON file holds, which is not read then.
    """
    file = locate(folder)
    name = dataset_name(file)
    content, problems = (content, []) if content is not None else read_content(file)
    if content is None and problems:
        return Report(dataset=name, cases=0, problems=tuple(problems))
    problems += check_content(content, file)
    description, labels_known = best_guess(content, file)
    if description is None:
        return Report(dataset=name, cases=0, problems=tuple(problems))
    cases, misplaced = find_cases(description)
    expected = Expectations(
        channels=len(description.channel_names),
        labels=description.labels if labels_known else None,
        reader=description.reader,
        overlapping=description.labels.overlapping,
    )
    findings = map_cases(
        partial(check_case, expected),
        cases,
        label="validate",
        jobs=_choose_jobs(jobs, cases, description),
        name=lambda case: case.id,
    )
    problems += misplaced
    if labels_known:
        problems += propose_pairs(content, description.labels, file)
    problems += [found for finding in findings for found in finding.problems]
    if cases:
        problems += check_together(findings, expected.labels, file)
        problems += _check_splits(description, cases, misplaced)
    labelled = sum(case.label is not None for case in cases)
    return Report(dataset=name, cases=labelled, problems=tuple(problems))


def _check_splits(
    description: DatasetDescription, cases: Sequence[Case], misplaced: Sequence[Problem]
) -> list[Problem]:
    """Check the splits made by hand; a case that lacks a file is known all the same."""
    file = given_splits(description)
    broken = (found.case for found in misplaced if found.severity == "error" and found.case)
    known = {*(case.id for case in cases), *broken}
    return check_splits(file, known) if file.is_file() else []


def _choose_jobs(jobs: int | None, cases: Sequence[Case], description: DatasetDescription) -> int:
    """Pick the number of processes, which unlike threads outlive a reader that crashes."""
    voxels = largest_case(cases)
    if jobs is None and len(cases) < _FEW_CASES and voxels < _FEW_VOXELS:
        return 1
    needed = _BYTES_PER_JOB + _bytes_per_voxel(description) * voxels
    return choose_jobs(jobs, items=len(cases), bytes_per_job=needed)


def _bytes_per_voxel(description: DatasetDescription) -> int:
    return _BYTES_PER_VOXEL + _BYTES_PER_STRUCTURE * description.labels.seg_channels


def best_guess(content: Any, file: Path) -> tuple[DatasetDescription | None, bool]:
    """Describe the data set as far as it can be understood, to go on in spite of errors.

    Returns:
        The description, or None where not even the files can be told; and whether the labels
        are understood (they are empty else).
    """
    content = mend_content(content, file)[0] if isinstance(content, dict) else {}
    codes = {found.code for found in check_content(content, file) if found.severity == "error"}
    if "channel_names" not in content or "file_ending" not in content:
        return None, False
    labels_known = "labels" in content and not codes & LABEL_CODES
    if codes & _LAYOUT_CODES:
        return None, labels_known
    unusable = {key for code, key in _UNUSABLE.items() if code in codes}
    usable = {key: value for key, value in content.items() if key not in unusable}
    if not labels_known:
        usable = {**usable, "labels": {"background": 0}, "ignore_label": []}
    return describe(usable, file), labels_known


def _blocks(title: str, problems: Sequence[Problem]) -> list[str]:
    """Render problems, those with the same code and remedy under one heading."""
    if not problems:
        return []
    blocks = [f"{title} ({len(problems)})"]
    ordered = sorted(problems, key=lambda found: (found.code, found.fix))
    for (code, fix), group in groupby(ordered, key=lambda found: (found.code, found.fix)):
        alike = list(group)
        blocks.append(f"  {code} {CODES[code][1]}")
        lines = [f"{found.where}: {found.message}" for found in alike[:_SHOWN]]
        blocks += [f"    {line}" for line in "\n".join(lines).split("\n")]
        if len(alike) > _SHOWN:
            blocks.append(f"    ... and {len(alike) - _SHOWN} more (--json lists all)")
        blocks.append(f"    fix: {fix}")
    return [*blocks, ""]


def _count(items: Sequence[Any], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"
