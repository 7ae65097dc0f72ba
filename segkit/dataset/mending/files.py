"""Mends of image and label files that are certain: their geometry, 255 for 1, rounding noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from segkit.dataset.cases import Case
from segkit.dataset.checks.geometry import SAME_VOXEL, compare_grids, farthest_centres, grid_of
from segkit.dataset.image_io import (
    companions,
    read_image,
    read_labels,
    read_masks,
    write_geometry,
    write_labels,
    write_masks,
)
from segkit.dataset.labels import LabelSchema
from segkit.dataset.mending.content import Mend
from segkit.dataset.orientation import reorient, reorient_array
from segkit.dataset.problems import Problem
from segkit.dataset.structures import PRESENT
from segkit.errors import UserError
from segkit.types import Volume

ROUNDING_NOISE = 0.01
"""Largest distance from an integer of every voxel of a label file that is rounded. What linear
interpolation leaves behind lies further away somewhere."""

_REORIENTED = "SK-G008"
GEOMETRY_CODES = frozenset({"SK-G002", "SK-G003", "SK-G004", _REORIENTED})
_FRACTIONS, _UNDECLARED = "SK-V002", "SK-V003"
_VALUE_CODES = frozenset({_FRACTIONS, _UNDECLARED})
MENDABLE_CODES = GEOMETRY_CODES | _VALUE_CODES
"""Problems of files that may have a certain mend."""
_WHITE = 255


@dataclass(frozen=True, kw_only=True)
class FileJob:
    """A file with problems that may be mended, and where the mended file goes."""

    file: Path
    name: str
    """For messages: relative to the data set's folder."""
    target: Path
    case: Case
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True)
class FileMends:
    """What became of the problems of one file."""

    mended: tuple[Mend, ...] = ()
    """Empty where no file was written."""
    left: tuple[Mend, ...] = ()
    mixed: bool = False
    """255 stands beside other labels, so that it means something of its own."""


def mend_file(
    schema: LabelSchema | None, reader: str | None, masks_of_255: bool, job: FileJob
) -> FileMends:
    """Write a mended file where that is certain.

    Args:
        schema: None where the labels are not understood; values stay then.
        reader: Image reader named in dataset.json.
        masks_of_255: Whether 255 may stand for the only label there can be.
        job: The file.

    Returns:
        What was mended and what was left: all of it where the file or the case's first image
        cannot be read. What is written was read again and found exact.
    """
    _discard(job.target)
    try:
        return _mend(schema, reader, masks_of_255, job)
    except UserError as error:
        _discard(job.target)
        so = f"not mended: {error.where or job.name}: {error.what}"
        line = partial(Mend, where=job.name, case=job.case.id)
        left = (line(code=each.code, message=f"{each.message}; {so}") for each in job.problems)
        return FileMends(left=tuple(left))


def _mend(
    schema: LabelSchema | None, reader: str | None, masks_of_255: bool, job: FileJob
) -> FileMends:
    read = partial(_read, job=job, schema=schema, reader=reader)
    volume, mends = read(job.file), FileMends()
    if schema is not None and _is_label(job):
        volume, mends = _mend_values(volume, job, schema, masks_of_255)
    rewritten, move = bool(mends.mended), None
    if (codes := {found.code for found in job.problems}) & GEOMETRY_CODES:
        image = read_image(job.case.images[:1], reader)
        if _REORIENTED in codes:
            stored, target = (each.geometry.orientation() for each in (volume, image))
            move = partial(reorient_array, source=stored, target=target)
            volume = reorient(volume, target)
        volume, mends = _mend_geometry(volume, image, job, mends)
    if not mends.mended:
        return mends
    failure = _write(volume, job, move, rewritten=rewritten)
    if failure is None and _same(read(job.target), volume, job):
        return mends
    _discard(job.target)
    reason = failure or "the file format cannot hold the result exactly"
    undone = (replace(line, message=f"{line.message}: not done, {reason}") for line in mends.mended)
    return replace(mends, mended=(), left=(*mends.left, *undone))


def _read(file: Path, *, job: FileJob, schema: LabelSchema | None, reader: str | None) -> Volume:
    """Read voxels in the file's own type; of labels in colour the grey values."""
    one_channel = schema is not None and (not schema.overlapping or _is_in_folder(job))
    labels = one_channel and _is_label(job)
    return read_labels(file, reader) if labels else read_masks(file, reader)


def _is_label(job: FileJob) -> bool:
    """Whether the file holds labels; an image and a region of interest do not."""
    return job.file == job.case.label or _is_in_folder(job)


def _discard(target: Path) -> None:
    """Delete what was written, so that the original is copied."""
    if target.exists():
        for file in (*companions(target), target):
            file.unlink()


def _is_in_folder(job: FileJob) -> bool:
    """Whether the file is one of a folder with one file a structure."""
    return job.file.parent == job.case.label


def _write(
    volume: Volume,
    job: FileJob,
    move: Callable[[np.ndarray], np.ndarray] | None,
    *,
    rewritten: bool,
) -> str | None:
    """Write the mended file; returns why not where that is impossible.

    Args:
        volume: What it shall hold.
        job: The file.
        move: How its voxels as stored come into that order; None where they are in it.
        rewritten: Whether they have other values, or another type, than as stored.
    """
    if rewritten and volume.array.min() < 0:
        return "label files with values below 0 are not written"
    job.target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not rewritten:
            write_geometry(job.file, job.target, volume.geometry, move)
        elif len(volume.array) > 1:
            write_masks(job.target, volume.array.astype(np.uint8), volume.geometry)
        else:
            write_labels(job.target, volume.array[0], volume.geometry)
    except UserError as error:
        return error.what
    return None


def _same(written: Volume, wanted: Volume, job: FileJob) -> bool:
    """Whether a file read again holds the very voxels, in the very place."""
    equal = np.array_equal(written.array, wanted.array, equal_nan=True)
    found, expected = (grid_of(volume, job.target) for volume in (written, wanted))
    return equal and not compare_grids(found, expected, job.case)


def _mend_geometry(
    volume: Volume, image: Volume, job: FileJob, mends: FileMends
) -> tuple[Volume, FileMends]:
    """Take over the image's geometry where that moves no voxel centre to another voxel."""
    far = farthest_centres(volume.geometry, image.geometry, volume.shape)
    certain = far <= SAME_VOXEL
    so = f"voxel centres differ by up to {far:.3g} voxels, more than {SAME_VOXEL:g}"
    if certain:
        so = f"voxel centres differ by at most {far:.3g} voxels: the image's geometry is written"
    line = partial(Mend, where=job.name, case=job.case.id)
    turned = "the axes are turned, then "
    lines = tuple(
        line(
            code=found.code,
            message=f"{found.message}; {turned if found.code == _REORIENTED else ''}{so}",
        )
        for found in job.problems
        if found.code in GEOMETRY_CODES
    )
    if not certain:
        return volume, replace(mends, left=(*mends.left, *lines))
    moved = replace(volume, geometry=image.geometry)
    return moved, replace(mends, mended=(*mends.mended, *lines))


def _mend_values(
    volume: Volume, job: FileJob, schema: LabelSchema, masks_of_255: bool
) -> tuple[Volume, FileMends]:
    """Round what is nearly whole, then take 255 for the only label there can be."""
    codes = {found.code for found in job.problems}
    line = partial(Mend, where=job.name, case=job.case.id)
    done: list[Mend] = []
    if not codes & _VALUE_CODES:
        return volume, FileMends()
    array = volume.array
    if not np.issubdtype(array.dtype, np.integer):
        array = np.rint(volume.array)
        noise = np.abs(volume.array - array)
        if not noise.max() <= ROUNDING_NOISE:
            count = int((noise > ROUNDING_NOISE).sum())
            what = f"{count} voxels lie further than {ROUNDING_NOISE:g} from an integer"
            return volume, FileMends(left=(line(code=_FRACTIONS, message=what),))
        if _FRACTIONS in codes:
            what = f"{int((noise > 0).sum())} voxels rounded, by at most {noise.max():.2g}"
            done.append(line(code=_FRACTIONS, message=what))
    label, left, mixed = _meaning_of_white(array, job, schema, masks_of_255)
    if label is not None:
        white = array == _WHITE
        array = np.where(white, label, array.astype(np.int64))
        what = f"255 is now {label} ({int(white.sum())} voxels)"
        done.append(line(code=_UNDECLARED, message=what))
    refused = () if left is None else (line(code=_UNDECLARED, message=left),)
    mends = FileMends(mended=tuple(done), left=refused, mixed=mixed)
    return (replace(volume, array=array) if done else volume), mends


def _meaning_of_white(
    array: np.ndarray, job: FileJob, schema: LabelSchema, masks_of_255: bool
) -> tuple[int | None, str | None, bool]:
    """Tell which label 255 stands for in a label file.

    Returns:
        The label, or None; why 255 stays, where it is not declared; and whether it stands beside
        other labels.
    """
    channels = [set(np.unique(channel).tolist()) for channel in array]
    mask = _is_in_folder(job) or len(array) > 1
    declared = set() if mask else {*schema.raw_values.tolist()}
    bits = schema.overlapping and not mask
    if _WHITE not in set().union(*channels) or bits or _WHITE in declared | {*schema.ignore_values}:
        return None, None, False
    if not mask and len(schema.classes) > 1:
        return None, f"255 may be any of {len(schema.classes)} classes", False
    if any(_WHITE in values and values - {0, _WHITE} for values in channels):
        return None, "255 stands beside other labels, so that it is none of them", True
    if not masks_of_255:
        return None, "255 stands beside other labels in another file", False
    return PRESENT if mask else schema.classes[0].value, None, False
