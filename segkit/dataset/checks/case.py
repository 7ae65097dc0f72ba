"""All problems in the files of one case: reading, geometry, voxels, labels, mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.dataset.cases import Case
from segkit.dataset.checks.expectations import Expectations, unreadable
from segkit.dataset.checks.geometry import Grid, check_forms, compare_grids, grid_of
from segkit.dataset.checks.label_values import LabelFindings, check_label_values
from segkit.dataset.duplicates import channel_hash
from segkit.dataset.image_io import read_image
from segkit.dataset.label_files import LabelLayout, count_masks, read_roi_mask
from segkit.dataset.nonzero import nonzero_mask
from segkit.dataset.problems import Problem, problem
from segkit.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found in one case."""

    case: Case
    problems: tuple[Problem, ...]
    present: frozenset[str] = frozenset()
    """Classes or structures that have a voxel."""
    layout: LabelLayout | None = None
    """How its labels are stored; None where they cannot be read."""
    largest_bitmask: int = 0
    """Largest integer read as a bitmask, ignore values aside; 0 where there is none."""
    orientation: str | None = None
    """Of the first image; None where it cannot be read."""
    axes: int | None = None
    """Axes of the first image as stored, 2 or 3; None as above."""
    image_hashes: tuple[str, ...] = ()
    """One a channel that is not constant."""
    labelled_voxels: int = 0
    """Inside the mask, where there is one; 0 where the labels have errors."""
    labelled_in_zero: int = 0
    """Those of them outside the nonzero mask."""


@dataclass(frozen=True, kw_only=True)
class _Images:
    """What was found in the images of one case."""

    problems: tuple[Problem, ...]
    grids: tuple[Grid, ...]
    hashes: tuple[str, ...]
    nonzero: np.ndarray | None
    """(Z, Y, X) bool: any channel differs from 0; None where not all could be read."""


def check_case(expected: Expectations, case: Case) -> Findings:
    """Read all files of a case and return everything that is wrong with them."""
    images = _check_images(expected, case)
    labels = check_label_values(expected, case)
    mask, mask_grids, misread = _read_mask(expected, case)
    grids = (*images.grids, *labels.grids, *mask_grids)
    problems = [*images.problems, *labels.problems, *misread]
    for grid in grids:
        problems += compare_grids(grid, grids[0], case) if grid is not grids[0] else []
        problems += check_forms(grid, case)
    labelled, annotated = _inside(mask, labels)
    problems += _check_annotated(annotated, mask, case)
    first = images.grids[0].geometry if images.grids else None
    return Findings(
        case=case,
        problems=tuple(problems),
        present=labels.present,
        layout=labels.layout,
        largest_bitmask=labels.largest_bitmask,
        orientation=first.orientation() if first else None,
        axes=first.stored_ndim if first else None,
        image_hashes=images.hashes,
        labelled_voxels=0 if labelled is None else int(labelled.sum()),
        labelled_in_zero=_count_in_zero(labelled, images.nonzero),
    )


def _check_images(expected: Expectations, case: Case) -> _Images:
    problems: list[Problem] = []
    grids: list[Grid] = []
    hashes: list[str] = []
    nonzero: np.ndarray | None = None
    channels = 0
    for file in case.images:
        try:
            volume = read_image([file], expected.reader)
        except UserError as error:
            problems.append(unreadable(error, file, case))
            continue
        grids.append(grid_of(volume, file))
        channels += len(volume.array)
        for i, channel in enumerate(volume.array):
            name = f"channel {i} of the file: " if len(volume.array) > 1 else ""
            found = _check_channel(channel, name, file, case)
            problems += found
            hashes += [] if found else [channel_hash(channel)]
        seen = (volume.array != 0).any(axis=0)
        nonzero = seen if nonzero is None or nonzero.shape != seen.shape else nonzero | seen
    complete = len(grids) == len(case.images)
    if complete and channels != expected.channels:
        problems.append(_wrong_channels(channels, grids, expected, case))
    usable = complete and len({grid.shape for grid in grids}) == 1
    return _Images(
        problems=tuple(problems),
        grids=tuple(grids),
        hashes=tuple(hashes),
        nonzero=nonzero if usable else None,
    )


def _check_channel(channel: np.ndarray, name: str, file: Path, case: Case) -> list[Problem]:
    lowest, highest = float(channel.min()), float(channel.max())
    if not np.isfinite(lowest + highest):
        count = int(channel.size - np.isfinite(channel).sum())
        what = f"{name}{count} of {channel.size} voxels are NaN or infinite"
        fix = "replace them, for example by the image's background value"
        return [problem("SK-V001", what, where=file, fix=fix, case=case.id)]
    if lowest == highest:
        what = f"{name}all voxels are {lowest:g}"
        fix = "check the export of this image; a constant image teaches nothing"
        return [problem("SK-V005", what, where=file, fix=fix, case=case.id)]
    return []


def _wrong_channels(
    channels: int, grids: Sequence[Grid], expected: Expectations, case: Case
) -> Problem:
    """Tell a 4D image from one with surplus colours."""
    declared = f"dataset.json declares {expected.channels}"
    flat = grids[0].geometry.stored_ndim == 2
    code, what = "SK-F012", f"the case has {channels} channels; {declared}"
    fix = "correct channel_names, or the files (save grey images as grey, without alpha)"
    if channels > expected.channels and not flat:
        code, what = "SK-G006", f"4D: the case has {channels} volumes; {declared} (3D each)"
        fix = (
            "store one 3D file a channel (CASE_0000, CASE_0001, ...) and declare each under "
            "channel_names; of a time series keep one volume a case"
        )
    return problem(code, what, where=grids[0].file, fix=fix, case=case.id)


def _read_mask(
    expected: Expectations, case: Case
) -> tuple[np.ndarray | None, tuple[Grid, ...], list[Problem]]:
    """Return where a case may be used, (Z, Y, X) bool; None without a mask."""
    if case.mask is None:
        return None, (), []
    try:
        volume = read_roi_mask(case.mask, expected.reader)
    except UserError as error:
        code = "SK-F010" if count_masks(case.mask, expected.reader) == 1 else "SK-G006"
        return None, (), [unreadable(error, case.mask, case, code)]
    return volume.array[0] != 0, (grid_of(volume, case.mask),), []


def _inside(
    mask: np.ndarray | None, labels: LabelFindings
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return where something is labelled and annotated inside the mask; None if unknown."""
    labelled, annotated = labels.labelled, labels.annotated
    if mask is None or labelled is None or annotated is None:
        return labelled, annotated
    return (labelled & mask, annotated & mask) if mask.shape == labelled.shape else (None, None)


def _check_annotated(
    annotated: np.ndarray | None, mask: np.ndarray | None, case: Case
) -> list[Problem]:
    what, where = "", case.label
    if mask is not None and not mask.any():
        what, where = "the mask is 0 everywhere, so nothing of this case is used", case.mask
    elif annotated is not None and not annotated.any():
        inside = " inside the mask" if mask is not None else ""
        what = f"every voxel{inside} is ignored, so nothing of this case is used"
    if not what:
        return []
    fix = "correct the file, or remove the case"
    return [problem("SK-V011", what, where=where, fix=fix, case=case.id)]


def _count_in_zero(labelled: np.ndarray | None, nonzero: np.ndarray | None) -> int:
    """Count labelled voxels outside the nonzero mask, as the fingerprint does.

    Holes are filled only where labelled voxels lie on zeros at all, which is rare.
    """
    if labelled is None or nonzero is None or labelled.shape != nonzero.shape:
        return 0
    if not (labelled & ~nonzero).any():
        return 0
    return int((labelled & ~nonzero_mask(nonzero[None])).sum())
