"""Measuring one training case: its grid, its crop, its foreground intensities."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from segkit.dataset.cases import Case
from segkit.dataset.checks.geometry import compare_grids, read_grid
from segkit.dataset.duplicates import image_hashes
from segkit.dataset.image_io import read_image
from segkit.dataset.label_files import label_sources, read_annotation
from segkit.dataset.labels import LabelSchema
from segkit.dataset.nonzero import bounding_box, box_shape, nonzero_mask
from segkit.errors import UserError
from segkit.planning.counts import count_classes, count_combinations
from segkit.planning.intensities import CaseIntensities, summarize_case
from segkit.types import Volume

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseFingerprint:
    """What is measured of one training case."""

    case: str
    shape: tuple[int, int, int]
    """(z, y, x) in voxels, as are all triples here."""
    shape_after_crop: tuple[int, int, int]
    """Shape of the bounding box of the nonzero mask."""
    spacing_mm: tuple[float, float, float]
    orientation: str
    """The case's own code, whatever it was brought to."""
    labelled_voxels: int = 0
    """Voxels of a class (ignored ones left out)."""
    labelled_in_zero: int = 0
    """Those of them outside the nonzero mask. Zeros it encloses (0 HU inside a body) count as
    image."""
    class_voxels: tuple[int, ...] = ()
    """Voxels of every class or structure, in the order of dataset.json."""
    annotated_voxels: tuple[int, ...] = ()
    """Voxels on which each of them is known: neither invalid nor ignored. Where nothing overlaps
    all are the same."""
    combinations: dict[str, int] = field(default_factory=dict)
    """Overlapping structures only: voxels of every combination that occurs ("liver+tumour", or
    "liver" alone); they add up to ``labelled_voxels``."""
    intensities: tuple[CaseIntensities, ...] = ()
    """One a channel, over labelled voxels, or over all valid ones of a case without any; empty
    where the case has neither."""
    image_hashes: tuple[str, ...] = ()
    """One a channel that is not constant: images that occur twice are known by it."""
    notes: tuple[str, ...] = ()
    """What to warn about: origins or directions of image and annotations that differ."""
    identity: str = ""
    """Hash of the files and settings it was measured from."""


def measure_case(
    labels: LabelSchema,
    reader: str | None,
    channel_names: tuple[str, ...],
    item: tuple[Case, str],
) -> CaseFingerprint:
    """Measure one case as stored; runs in a worker process."""
    case, identity = item
    files = (*case.images[1:], *label_sources(case, labels), case.mask)
    notes = _compare(case, files, reader)
    volume = read_image(case.images, reader)
    label = read_annotation(case, labels, reader)
    _check(case, volume, channel_names)
    image = volume.array
    valid = nonzero_mask(image)
    labelled: np.ndarray = np.any((label.array > 0) & (label.array < labels.ignore_index), axis=0)
    counted = labelled if labelled.any() else valid
    class_voxels, annotated_voxels = count_classes(label.array, valid | labelled, labels)
    return CaseFingerprint(
        case=case.id,
        shape=triple(volume.shape),
        shape_after_crop=triple(box_shape(bounding_box(valid))),
        spacing_mm=triple(volume.geometry.spacing_mm),
        orientation=volume.geometry.orientation(),
        labelled_voxels=int(labelled.sum()),
        labelled_in_zero=int((labelled & ~valid).sum()),
        class_voxels=class_voxels,
        annotated_voxels=annotated_voxels,
        combinations=count_combinations(label.array, labels) if labels.overlapping else {},
        intensities=_intensities(image, counted),
        image_hashes=image_hashes(image),
        notes=notes,
        identity=identity,
    )


def _intensities(image: np.ndarray, counted: np.ndarray) -> tuple[CaseIntensities, ...]:
    if not counted.any():
        return ()
    return tuple(summarize_case(channel[counted]) for channel in image)


def _compare(case: Case, files: Iterable[Path | None], reader: str | None) -> tuple[str, ...]:
    """Refuse files on another grid than their first image; return what is merely suspicious."""
    image = read_grid(case.images[0], reader)
    others = (read_grid(file, reader) for file in files if file is not None)
    problems = [found for other in others for found in compare_grids(other, image, case)]
    if errors := [found for found in problems if found.severity == "error"]:
        first = errors[0]
        raise UserError(f"[{first.code}] {first.message}", where=first.where, fix=first.fix)
    return tuple(f"[{found.code}] {found.message} ({found.where})" for found in problems)


def _check(case: Case, volume: Volume, channel_names: tuple[str, ...]) -> None:
    channels = len(volume.array)
    if channels != len(channel_names):
        raise UserError(
            f"the image has {channels} channel(s), dataset.json names {len(channel_names)}",
            where=case.images[0],
            fix="make channel_names and the files agree",
        )
    if not np.isfinite(volume.array).all():
        what = "the image holds NaN or infinite values"
        raise UserError(what, where=case.images[0], fix="replace them, for example by 0")


def triple(values: Iterable[T]) -> tuple[T, T, T]:
    """Return three values as a tuple of three."""
    first, second, third = values
    return first, second, third
