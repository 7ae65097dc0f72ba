"""A mended copy of a data set: what is certain is mended, all else is left and told."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from segkit.dataset.cases import Case, find_cases, largest_case
from segkit.dataset.description import DatasetDescription, locate, read_content
from segkit.dataset.mending.content import (
    Mend,
    changes,
    equal_duplicates,
    json_mend,
    mend_content,
)
from segkit.dataset.mending.copying import check_place, copy_rest, place_files, place_of
from segkit.dataset.mending.files import MENDABLE_CODES, FileJob, FileMends, mend_file
from segkit.dataset.problems import CODES
from segkit.dataset.validation import Report, best_guess, validate_dataset
from segkit.files import atomic_folder, write_json
from segkit.parallel import choose_jobs, map_cases

_COUNT_CODES = frozenset({"SK-D005", "SK-D012", "SK-F008"})
_NAME_CODES = frozenset({"SK-F016", "SK-F017", "SK-F018"})
"""Problems of files that leave no doubt which of them there are."""
_BYTES_PER_JOB, _BYTES_PER_VOXEL = 1 << 28, 40
"""Memory of a worker, and what a voxel of an image adds to it."""


@dataclass(frozen=True, kw_only=True)
class Mending:
    """What was mended, what was left, and what a check of the copy says."""

    report: Report
    """Of the copy; of the original where no copy was written."""
    mended: tuple[Mend, ...] = ()
    left: tuple[Mend, ...] = ()
    """Problems of a kind that can be mended, where it is not certain how."""
    out: Path | None = None
    """The copy; None where nothing could be mended."""

    @property
    def ok(self) -> bool:
        """Whether no error is left."""
        return self.report.ok

    def to_json(self) -> dict[str, Any]:
        """Return the report with lists of what was mended and what was left."""
        return {
            **self.report.to_json(),
            "written": None if self.out is None else str(self.out),
            "mended": [line.to_json() for line in self.mended],
            "left": [line.to_json() for line in self.left],
        }

    def __str__(self) -> str:
        """Return all lines, then the report."""
        title = f"Mended ({len(self.mended)}), written to {self.out}"
        if self.out is None:
            reason = "can be mended with certainty" if self.report.problems else "needs mending"
            title = f"Nothing {reason}; nothing was written"
        blocks = [title, *_blocks(self.mended), ""]
        if self.left:
            title = f"Left ({len(self.left)}), because no mend is certain"
            blocks += [title, *_blocks(self.left), ""]
        return "\n".join([*blocks, str(self.report)])


def mend_dataset(folder: Path, out: Path, *, jobs: int | None) -> Mending:
    """Write a mended copy of a data set, as far as mends are certain, and check it.

    The original is only read. An interruption leaves no ``out``.

    Args:
        folder: The data set's folder, or its JSON file.
        out: Folder for the copy; it does not exist, or is empty.
        jobs: Worker processes; None takes what CPUs and memory allow.

    Raises:
        UserError: ``out`` cannot be used, or something cannot be copied.
    """
    file = Path(os.path.normpath(locate(folder).absolute()))
    out = out.resolve()
    check_place(out, file.parent.resolve())
    content, doubtful = _read(file)
    if content is None:
        return Mending(report=validate_dataset(file, jobs=jobs), left=doubtful)
    content, in_json = _mend_json(content, file)
    report = validate_dataset(file, jobs=jobs, content=content)
    description, labels_known = best_guess(content, file)
    cases = find_cases(description)[0] if description else ()
    content, counted, uncounted = _mend_count(content, len(cases), report, file)
    in_json += counted
    if not in_json and not any(found.code in MENDABLE_CODES for found in report.problems):
        return Mending(report=report, left=uncounted)
    listed = (description.explicit_cases if description else None) or {}
    placed, places = place_files(listed, file.parent)
    with atomic_folder(out) as draft:
        in_files = []
        if description is not None:
            work = _jobs(cases, report, file.parent, draft, places)
            in_files = _mend_files(work, description, labels_known, jobs)
        mended = (*in_json, *(line for mends in in_files for line in mends.mended))
        left = (*uncounted, *(line for mends in in_files for line in mends.left))
        if not mended:
            shutil.rmtree(draft)
            return Mending(report=report, left=left)
        if in_json or placed != listed:
            write_json(draft / file.name, {**content, **({"dataset": placed} if placed else {})})
        copy_rest(file.parent, draft, places)
    checked = validate_dataset(out / file.name, jobs=jobs)
    return Mending(report=checked, mended=mended, left=left, out=out)


def _read(file: Path) -> tuple[dict[str, Any] | None, tuple[Mend, ...]]:
    """Read the JSON; None where nothing in it is certain, with the reason."""
    content, problems = read_content(file)
    if not isinstance(content, dict):
        return None, ()
    if problems and not equal_duplicates(file):
        reason = "nothing is mended before it is settled which is meant"
        return None, tuple(json_mend(found, reason, file) for found in problems)
    return content, ()


def _mend_json(content: Mapping[str, Any], file: Path) -> tuple[dict[str, Any], list[Mend]]:
    _, doubled = read_content(file)
    mended, lines = mend_content(content, file)
    return mended, [*(json_mend(found, "it is there once now", file) for found in doubled), *lines]


def _mend_count(
    content: dict[str, Any], count: int, report: Report, file: Path
) -> tuple[dict[str, Any], list[Mend], tuple[Mend, ...]]:
    """Write numTraining where nothing about the files is in doubt.

    Returns:
        The content, what was mended, and what was left.
    """
    wrong = [found for found in report.problems if found.code in _COUNT_CODES]
    known = _COUNT_CODES | _NAME_CODES
    codes = {found.code for found in report.problems if found.code.startswith("SK-F")} - known
    sure = count > 0 and not codes
    counted = {**content, "numTraining": count}
    done = changes(content, counted)
    if not sure:
        because = f" ({', '.join(sorted(codes))})" if codes else ""
        done = f"problems of the files{because} leave open what it is"
    lines = [
        Mend(
            code=found.code,
            where=file.name,
            message=f"{found.message}; {done}",
        )
        for found in wrong
    ]
    if not wrong or not sure:
        return content, [], tuple(lines)
    return counted, lines, ()


def _jobs(
    cases: Sequence[Case], report: Report, folder: Path, draft: Path, places: Mapping[Path, str]
) -> list[FileJob]:
    """Return a job for every file with problems that may be mended."""
    by_id = {case.id: case for case in cases}
    by_file = defaultdict(list)
    for found in report.problems:
        if found.code in MENDABLE_CODES and found.case in by_id:
            by_file[found.where].append(found)
    jobs = []
    for where, problems in by_file.items():
        # A file that belongs to several cases has several images to agree with.
        if len({found.case for found in problems}) == 1 and Path(where).is_file():
            place = place_of(Path(where), folder, places)
            job = FileJob(
                file=Path(where),
                name=place,
                target=draft / place,
                case=by_id[str(problems[0].case)],
                problems=tuple(problems),
            )
            jobs.append(job)
    return jobs


def _mend_files(
    work: Sequence[FileJob], description: DatasetDescription, labels_known: bool, jobs: int | None
) -> list[FileMends]:
    if not work:
        return []
    schema = description.labels if labels_known else None
    voxels = largest_case(job.case for job in work)
    workers = choose_jobs(
        jobs, items=len(work), bytes_per_job=_BYTES_PER_JOB + _BYTES_PER_VOXEL * voxels
    )

    def run(masks_of_255: bool) -> list[FileMends]:
        return map_cases(
            partial(mend_file, schema, description.reader, masks_of_255),
            work,
            label="mend",
            jobs=workers,
            name=lambda job: job.case.id,
        )

    done = run(True)
    # Where 255 stands beside other labels in one file, it may mean something else in all of them.
    return run(False) if any(mends.mixed for mends in done) else done


def _blocks(lines: Sequence[Mend]) -> list[str]:
    """Render all lines, those with the same code under one heading."""
    blocks = []
    for code, group in groupby(sorted(lines, key=lambda line: line.code), lambda line: line.code):
        blocks.append(f"  {code} {CODES[code][1]}")
        blocks += [f"    {line.where}: {line.message}" for line in group]
    return blocks
