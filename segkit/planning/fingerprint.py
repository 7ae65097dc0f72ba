"""What planning needs to know of a data set: spacings, shapes, intensities.

The per-case results are kept in ``fingerprint.json`` under a hash of the case's files, so that a
changed or added case is the only one that is read again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from segkit.dataset.cases import Case, case_identity, largest_case
from segkit.dataset.description import DatasetDescription
from segkit.dataset.image_io import required_orientation
from segkit.dataset.orientation import reorient_array
from segkit.errors import UserError
from segkit.files import content_hash, write_artifact
from segkit.parallel import choose_jobs, map_cases
from segkit.planning.intensities import pool_cases
from segkit.planning.measure import CaseFingerprint, measure_case, triple
from segkit.planning.plan import IntensityStatistics
from segkit.runtime import cpu_count, log
from segkit.structs import read_struct, to_mapping

__all__ = [
    "CaseFingerprint",
    "Fingerprint",
    "dataset_hash",
    "description_hash",
    "extract_fingerprint",
    "fingerprint_hash",
    "load_fingerprint",
    "save_fingerprint",
    "update_fingerprint",
]

FINGERPRINT_VERSION = 4
_BYTES_PER_JOB, _BYTES_PER_VOXEL = 1 << 28, 24
"""Memory of a worker, and what a voxel of an image adds to it."""
_BYTES_PER_STRUCTURE = 4
"""What every further structure that may overlap adds for a voxel."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """What is measured of a data set.

    Where cases are brought to one orientation, their shapes and spacings are those afterwards.
    """

    cases: tuple[CaseFingerprint, ...]
    intensities: tuple[IntensityStatistics, ...]
    """One a channel: foreground voxels, every case weighing the same."""
    median_relative_size_after_crop: float
    """Median over cases of the share of voxels inside the crop, in (0, 1]."""
    labelled_share_in_zero: float
    """Share of labelled voxels outside the nonzero mask; 0 without labels."""
    class_names: tuple[str, ...] = ()
    """Names of the classes or structures that every case counts, in the order of dataset.json."""
    orientation: str | None = None
    """The code all cases are brought to; None for planes, which stay as stored."""
    description: str = ""
    """Of what dataset.json it was made: :func:`description_hash`."""


def extract_fingerprint(
    description: DatasetDescription,
    cases: Sequence[Case],
    *,
    jobs: int | None = None,
    previous: Fingerprint | None = None,
) -> Fingerprint:
    """Measure a data set; the result does not depend on the number of jobs.

    Foreground intensities are those of voxels of a class: ignored voxels never enter, nor do
    invalid ones. Mean, deviation and range are over all of them; percentiles are over at most
    a million voxels of a case and channel, drawn with a fixed seed where there are more.

    Args:
        description: Of the data set.
        cases: Its training cases.
        jobs: Worker processes; None chooses.
        previous: An earlier fingerprint, whose unchanged cases are not read again.

    Raises:
        UserError: unreadable files, channels that do not match ``channel_names``, an image and
            label of different shape, values that are not finite, undeclared labels; or every
            image is zero everywhere.
    """
    known = {case.identity: case for case in _as_stored(previous)}
    identities = _identities(description, cases)
    per_voxel = _BYTES_PER_VOXEL + _BYTES_PER_STRUCTURE * (description.labels.seg_channels - 1)
    todo = [i for i, identity in enumerate(identities) if identity not in known]
    measured = map_cases(
        partial(measure_case, description.labels, description.reader, description.channel_names),
        [(cases[i], identities[i]) for i in todo],
        label="fingerprint",
        jobs=choose_jobs(
            jobs,
            items=max(1, len(todo)),
            bytes_per_job=_BYTES_PER_JOB + per_voxel * largest_case(cases),
        ),
        name=lambda item: item[0].id,
    )
    known |= {case.identity: case for case in measured}
    found = [
        replace(known[identity], case=case.id)
        for case, identity in zip(cases, identities, strict=True)
    ]
    summary = _summarize(found, required_orientation(description.reader))
    names = tuple(one.name for one in description.labels.classes)
    return replace(summary, class_names=names, description=description_hash(description))


def update_fingerprint(
    path: Path, description: DatasetDescription, cases: Sequence[Case], *, jobs: int | None = None
) -> Fingerprint:
    """Bring ``fingerprint.json`` up to date, reading changed and new cases only.

    A file that cannot be used is made again, with a warning. See :func:`extract_fingerprint`.
    """
    previous = None
    if path.exists():
        try:
            previous = load_fingerprint(path)
        except UserError as error:
            log.warning("%s is made again: %s", path, error.what)
    fingerprint = extract_fingerprint(description, cases, jobs=jobs, previous=previous)
    for note in (note for case in fingerprint.cases for note in case.notes):
        log.warning("%s", note)
    if fingerprint != previous:
        made_from = _source_hash(description, [case.identity for case in fingerprint.cases])
        save_fingerprint(path, fingerprint, made_from=made_from)
    return fingerprint


def description_hash(description: DatasetDescription) -> str:
    """Hash what a fingerprint takes from dataset.json, besides which files make a case."""
    return content_hash([_settings(description), to_mapping(description.unannotated)])


def fingerprint_hash(fingerprint: Fingerprint) -> str:
    """Hash a fingerprint: what a plan is made from."""
    return content_hash(to_mapping(fingerprint))


def dataset_hash(description: DatasetDescription, cases: Sequence[Case]) -> str:
    """Hash dataset.json and the files of every case: what a fingerprint is made from."""
    return _source_hash(description, _identities(description, cases))


def save_fingerprint(path: Path, fingerprint: Fingerprint, *, made_from: str) -> None:
    """Write ``fingerprint.json``; ``made_from`` is the hash of dataset.json and all files."""
    content = to_mapping(fingerprint)
    write_artifact(path, content, version=FINGERPRINT_VERSION, made_from=made_from)


def load_fingerprint(path: Path) -> Fingerprint:
    """Read a fingerprint.

    Raises:
        UserError: missing, of another version, or with unknown or wrong keys.
    """
    return read_struct(Fingerprint, path, version=FINGERPRINT_VERSION)


def _source_hash(description: DatasetDescription, identities: Sequence[str]) -> str:
    return content_hash([description.hash(), list(identities)])


def _identities(description: DatasetDescription, cases: Sequence[Case]) -> list[str]:
    """Hash everything :func:`measure_case` depends on, for every case."""
    settings = _settings(description)
    with ThreadPoolExecutor(cpu_count()) as pool:  # hashing releases the interpreter lock
        return [content_hash([files, settings]) for files in pool.map(case_identity, cases)]


def _settings(description: DatasetDescription) -> list[Any]:
    """Gather what the measures of every case depend on."""
    return [to_mapping(description.labels), description.reader, len(description.channel_names)]


def _summarize(cases: Sequence[CaseFingerprint], required: str | None) -> Fingerprint:
    common = _common_orientation(cases, required)
    if common is not None:
        cases = [reoriented(case, case.orientation, common) for case in cases]
    kept = [math.prod(case.shape_after_crop) / math.prod(case.shape) for case in cases]
    labelled = sum(case.labelled_voxels for case in cases)
    in_zero = sum(case.labelled_in_zero for case in cases)
    return Fingerprint(
        cases=tuple(cases),
        intensities=_pool(cases),
        median_relative_size_after_crop=float(np.median(kept)),
        labelled_share_in_zero=in_zero / labelled if labelled else 0.0,
        orientation=common,
    )


def _pool(cases: Sequence[CaseFingerprint]) -> tuple[IntensityStatistics, ...]:
    chosen = [case for case in cases if case.labelled_voxels]
    if not chosen:
        log.warning("no case has a labelled voxel: intensity statistics are over whole images")
        chosen = [case for case in cases if case.intensities]
    if not chosen:
        what = "every training image is zero everywhere"
        raise UserError(what, where=", ".join(c.case for c in cases[:5]), fix="check the images")
    per_channel = zip(*(case.intensities for case in chosen), strict=True)
    return tuple(pool_cases(channel) for channel in per_channel)


def _common_orientation(cases: Sequence[CaseFingerprint], required: str | None) -> str | None:
    """The required code, else the most frequent one; None for planes, which have no third axis."""
    if all(case.shape[0] == 1 for case in cases):
        return None
    counts = Counter(case.orientation for case in cases)
    return required or min(counts, key=lambda code: (-counts[code], code))


def _as_stored(fingerprint: Fingerprint | None) -> list[CaseFingerprint]:
    """Undo the common orientation."""
    if fingerprint is None:
        return []
    common = fingerprint.orientation
    return [
        case if common is None else reoriented(case, common, case.orientation)
        for case in fingerprint.cases
    ]


def reoriented(case: CaseFingerprint, old: str, new: str) -> CaseFingerprint:
    """Permute shapes and spacing from the axes of one orientation code to those of another."""
    axes = axis_permutation(old, new)
    return replace(
        case,
        shape=_permuted(case.shape, axes),
        shape_after_crop=_permuted(case.shape_after_crop, axes),
        spacing_mm=_permuted(case.spacing_mm, axes),
    )


def axis_permutation(old: str, new: str) -> tuple[int, int, int]:
    """Say which array axis (z, y, x) of orientation ``old`` becomes each one of ``new``."""
    # An array whose extents name its axes tells where each of them goes.
    return triple(n - 1 for n in reorient_array(np.empty((1, 2, 3)), old, new).shape)


def _permuted(values: tuple[T, T, T], axes: tuple[int, int, int]) -> tuple[T, T, T]:
    return triple(values[axis] for axis in axes)
