"""All problems in the files of one case: reading, geometry, voxels, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from segkit.dataset.cases import Case
from segkit.dataset.image_io import SPACING_TOLERANCE, read_image, read_labels
from segkit.dataset.labels import UNANNOUNCED_IGNORE, LabelSchema
from segkit.dataset.problems import Problem, problem
from segkit.errors import UserError
from segkit.types import Geometry, Shape, Volume

ORIGIN_TOLERANCE = 0.01
"""Largest distance between origins, in voxels."""
DIRECTION_TOLERANCE = 1e-3
"""Largest difference of an entry of the direction matrix."""
FRACTION_TOLERANCE = 1e-3
"""Largest distance of a label from an integer."""
_LISTED = 10


@dataclass(frozen=True, kw_only=True)
class Expectations:
    """What dataset.json promises about every case."""

    channels: int
    labels: LabelSchema | None
    """None leaves label values unchecked."""
    reader: str | None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found in one case."""

    problems: tuple[Problem, ...]
    values: frozenset[int] = frozenset()
    """Label values present."""
    orientation: str | None = None
    """Of the first image; None where it cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The grid of one file."""

    file: Path
    shape: Shape
    geometry: Geometry


def check_case(expected: Expectations, case: Case) -> Findings:
    """Read all files of a case and return everything that is wrong with them."""
    problems: list[Problem] = []
    grids: list[Grid] = []
    channels = 0
    for file in case.images:
        try:
            volume = read_image([file], expected.reader)
        except UserError as error:
            problems.append(_unreadable(error, file, case))
            continue
        channels += volume.array.shape[0]
        grids.append(Grid(file=file, shape=volume.shape, geometry=volume.geometry))
        problems += _check_voxels(volume.array, file, case)
    if len(grids) == len(case.images) and channels != expected.channels:
        what = f"the case has {channels} channels; dataset.json declares {expected.channels}"
        fix = "correct channel_names, or the files (save grey images as grey, without alpha)"
        where = case.images[0]
        problems.append(problem("SK-F012", what, where=where, fix=fix, case=case.id))
    orientation = grids[0].geometry.orientation() if grids else None
    values: frozenset[int] = frozenset()
    if case.label is not None:
        try:
            labels = read_labels(case.label, expected.reader)
        except UserError as error:
            problems.append(_unreadable(error, case.label, case))
        else:
            grids.append(Grid(file=case.label, shape=labels.shape, geometry=labels.geometry))
            found, values = _check_labels(labels, expected.labels, case.label, case)
            problems += found
    for other in grids[1:]:
        problems += compare_grids(other, grids[0], case)
    return Findings(problems=tuple(problems), values=values, orientation=orientation)


def _unreadable(error: UserError, file: Path, case: Case) -> Problem:
    fix = error.fix or "restore the file from its source"
    return problem("SK-F010", error.what, where=error.where or file, fix=fix, case=case.id)


def _check_voxels(array: np.ndarray, file: Path, case: Case) -> list[Problem]:
    found = []
    for i, channel in enumerate(array):
        name = f"channel {i} of the file: " if len(array) > 1 else ""
        lowest, highest = float(channel.min()), float(channel.max())
        if not np.isfinite(lowest + highest):
            count = int(channel.size - np.isfinite(channel).sum())
            what = f"{name}{count} of {channel.size} voxels are NaN or infinite"
            fix = "replace them, for example by the image's background value"
            found.append(problem("SK-V001", what, where=file, fix=fix, case=case.id))
        elif lowest == highest:
            what = f"{name}all voxels are {lowest:g}"
            fix = "check the export of this image; a constant image teaches nothing"
            found.append(problem("SK-V005", what, where=file, fix=fix, case=case.id))
    return found


def compare_grids(other: Grid, first: Grid, case: Case) -> list[Problem]:
    """Return the problems of a file whose grid differs from that of the first image."""
    told = partial(problem, where=other.file, case=case.id)
    if other.shape != first.shape:
        fix = "resample the file onto the grid of the first image (labels: nearest neighbour)"
        if sorted(other.shape) == sorted(first.shape):
            fix = "the axes are in another order: transpose the file's array"
        what = f"shape {other.shape} (z, y, x) differs from {first.shape} of {first.file.name}"
        return [told("SK-G001", what, fix=fix)]
    ours, theirs = other.geometry, first.geometry
    header = f"copy the header's geometry from {first.file.name} if the voxels do belong together"
    found = []
    if not np.allclose(ours.spacing_mm, theirs.spacing_mm, rtol=SPACING_TOLERANCE, atol=0):
        what = (
            f"spacing {_numbers(ours.spacing_mm)} mm (z, y, x) differs from "
            f"{_numbers(theirs.spacing_mm)} of {first.file.name} "
            f"(by more than {SPACING_TOLERANCE:g} of itself)"
        )
        found.append(told("SK-G002", what, fix=header))
    offset = np.subtract(ours.origin, theirs.origin)
    axes = np.reshape(theirs.direction, (3, 3)) * theirs.spacing_mm[::-1]
    voxels = float(np.linalg.norm(np.linalg.solve(axes, offset)))
    if voxels > ORIGIN_TOLERANCE:
        what = (
            f"the origin lies {voxels:.3g} voxels from that of {first.file.name} "
            f"(tolerance {ORIGIN_TOLERANCE:g})"
        )
        found.append(told("SK-G003", what, fix=header))
    turn = float(np.abs(np.subtract(ours.direction, theirs.direction)).max())
    if turn > DIRECTION_TOLERANCE:
        what = (
            f"the direction ({ours.orientation()}) differs by {turn:.3g} from that of "
            f"{first.file.name} ({theirs.orientation()}; tolerance {DIRECTION_TOLERANCE:g})"
        )
        found.append(told("SK-G004", what, fix=header))
    return found


def _numbers(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)


def _check_labels(
    labels: Volume, schema: LabelSchema | None, file: Path, case: Case
) -> tuple[list[Problem], frozenset[int]]:
    told = partial(problem, where=file, case=case.id)
    values, counts = np.unique(labels.array, return_counts=True)
    if not np.isfinite(values).all():
        count = counts[~np.isfinite(values)].sum()
        fix = "replace them by a declared value"
        return [told("SK-V001", f"{count} label voxels are NaN or infinite", fix=fix)], frozenset()
    found = []
    off = np.abs(values - np.rint(values)) > FRACTION_TOLERANCE
    if off.any():
        what = f"fractional values: {_listing(values[off], counts[off])}"
        fix = "export again with nearest-neighbour interpolation and an integer type"
        found.append(told("SK-V002", what, fix=fix))
    whole, counts = np.rint(values[~off]).astype(np.int64), counts[~off]
    if not (whole != 0).any() and not off.any():
        fix = "fine if nothing is there to segment; else annotate or remove the case"
        found.append(told("SK-V004", "all label voxels are background", fix=fix))
    if schema is not None:
        declared = [*schema.raw_values.tolist(), *schema.ignore_values, UNANNOUNCED_IGNORE]
        unknown = ~np.isin(whole, declared)
        if unknown.any():
            what = f"undeclared values: {_listing(whole[unknown], counts[unknown])}"
            fix = _undeclared_fix(whole[unknown], whole, schema)
            found.append(told("SK-V003", what, fix=fix))
        announced = UNANNOUNCED_IGNORE in schema.ignore_values
        if not announced and (marked := counts[whole == UNANNOUNCED_IGNORE]).size:
            what = (
                f"{marked[0]} label voxels are -1; they are read as ignore (nobody annotated them)"
            )
            fix = 'if that is meant, say so with "ignore_label": -1; else correct the file'
            found.append(told("SK-V008", what, fix=fix))
    return found, frozenset(whole.tolist())


def _listing(values: np.ndarray, counts: np.ndarray) -> str:
    pairs = list(zip(values.tolist(), counts.tolist(), strict=True))
    listed = ", ".join(f"{value:g} ({count} voxels)" for value, count in pairs[:_LISTED])
    return listed + (f" and {len(pairs) - _LISTED} more" if len(pairs) > _LISTED else "")


def _undeclared_fix(unknown: np.ndarray, present: np.ndarray, schema: LabelSchema) -> str:
    if unknown.tolist() == [255]:
        only = schema.classes[0] if len(schema.classes) == 1 else None
        if only is not None and only.value not in present:
            return (
                f"the mask was saved as 0 and 255: replace 255 by {only.value} in the label "
                f'files, or declare "{only.name}": 255'
            )
        return (
            'if 255 marks voxels that nobody annotated, add "ignore_label": 255; else correct '
            f"the file; declared: {schema.describe()}"
        )
    return f"declare them under labels, or correct the file; declared: {schema.describe()}"
