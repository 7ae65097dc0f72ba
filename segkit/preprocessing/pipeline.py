"""One case from its stored grid to the network's grid, and the geometry of the way back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from segkit.dataset.cases import Case
from segkit.dataset.labels import BACKGROUND, INVALID
from segkit.dataset.nonzero import bounding_box, box_shape, box_slices, nonzero_mask
from segkit.dataset.orientation import reorient_grid, reorient_view
from segkit.errors import UserError
from segkit.planning.plan import ConfigurationPlan, Plan
from segkit.preprocessing.normalize import clear_outside, normalize
from segkit.preprocessing.resample import (
    axis_matrices,
    resample_image,
    resample_segmentation,
    resampled_shape,
    separate_axis,
)
from segkit.types import Geometry, Spacing, Volume

_LINEAR = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseRecord:
    """What export needs to bring a prediction back to the input file's grid.

    Shapes, box and spacings are in planned axis order unless said otherwise.
    """

    case: str = ""
    files: tuple[str, ...] = ()
    """Names of the image files, one a channel."""
    geometry: Geometry
    """Of the input file."""
    orientation: str | None
    """Code the arrays were brought to; None where they stayed as stored."""
    transpose_forward: tuple[int, int, int]
    shape_stored: tuple[int, ...]
    """(z, y, x) as in the file."""
    shape_before_crop: tuple[int, ...]
    bbox: tuple[tuple[int, int], ...]
    """Half-open (start, stop) of the crop."""
    shape_after_crop: tuple[int, ...]
    shape_resampled: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    """Before resampling."""
    spacing_resampled_mm: tuple[float, ...]
    keeps_axis_apart: bool = True
    """Whether a much coarser axis took the nearest neighbour, and will on the way back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessedCase:
    """A case as the network sees it."""

    image: np.ndarray
    """(C, Z, Y, X) float32, in planned axis order."""
    seg: np.ndarray | None
    """(1, Z, Y, X) int16 schema indices, or (S, Z, Y, X) int8 for structures, with -1 where
    invalid; None without labels."""
    record: CaseRecord
    invalid_zyx: np.ndarray
    """(Z, Y, X) bool in the *stored* grid: voxels without image information."""
    previous: PreprocessedCase | np.ndarray | None = None
    """In a cascade: the case as the previous stage takes it, or what that one predicts: label maps
    on this grid, as ``seg``."""


def preprocess_case(
    volume: Volume,
    labels: np.ndarray | None,
    plan: Plan,
    configuration: str,
    *,
    case: Case | None = None,
    ignore_index: int | None = None,
) -> PreprocessedCase:
    """Reorient, transpose, crop to nonzero, mark invalid voxels, normalise and resample.

    Args:
        volume: Image as read, (C, Z, Y, X).
        labels: (1, Z, Y, X) int16 schema indices on the same grid, or (S, Z, Y, X) int8 for
            structures; None for prediction.
        plan: The dataset's plan.
        configuration: Name of one of its configurations. A 2D one keeps the case's own spacing
            across slices.
        case: For the record and messages.
        ignore_index: Index of ignored voxels; where the image is empty, they are not taken for
            labelled (by nnU-Net's rules they are).

    Raises:
        UserError: channels, labels and plan do not fit together, or the image is not finite.
    """
    chosen = plan.configuration(configuration)
    files = tuple(path.name for path in case.images) if case else ()
    source, absent = ", ".join(files) or None, case.absent if case else ()
    volume = _with_absent(volume, absent)
    _check(volume, labels, len(chosen.normalization), source)
    mask_stored = nonzero_mask(volume.array, fill_planes=plan.voxel_rules == "segkit")
    mask, spacing_mm = _planned(volume, mask_stored[None], plan)
    record = _record(volume, mask[0], spacing_mm, plan, chosen)
    record = dataclasses.replace(record, case=case.id if case else "", files=files)
    index = (slice(None), *box_slices(record.bbox))
    grids = spacing_mm, record.spacing_resampled_mm, record.shape_resampled
    valid, seg = mask[index], None
    if labels is not None:
        seg = _planned(volume, labels, plan)[0][index]
        unknown = None if plan.voxel_rules == "nnunet" else ignore_index
        valid = valid | ((seg > BACKGROUND) & (seg != unknown)).any(axis=0)
        seg = resample_segmentation(mark_invalid(seg, valid), *grids, record.keeps_axis_apart)
    image = _planned(volume, volume.array, plan)[0][index]
    image = _normalized(image, mask[index][0], valid[0], plan, chosen, source)
    # Whatever 0 means to a channel that is there, the network knows absence as 0.
    image[list(absent)] = 0
    image = resample_image(
        image, *grids, chosen.interpolation_order, keep_apart=record.keeps_axis_apart
    )
    return PreprocessedCase(image=image, seg=seg, record=record, invalid_zyx=~mask_stored)


def _with_absent(volume: Volume, absent: tuple[int, ...]) -> Volume:
    """Put channels of zeros where some are absent, so that the others have their numbers."""
    if not absent:
        return volume
    complete = np.zeros((len(volume.array) + len(absent), *volume.shape), volume.array.dtype)
    present = [number for number in range(len(complete)) if number not in absent]
    complete[present] = volume.array
    return dataclasses.replace(volume, array=complete)


def _record(
    volume: Volume,
    mask_zyx: np.ndarray,
    spacing_mm: Spacing,
    plan: Plan,
    configuration: ConfigurationPlan,
) -> CaseRecord:
    """Decide the crop and the new grid from the nonzero mask in planned axis order."""
    box = bounding_box(mask_zyx)
    new_spacing_mm = _target_spacing(spacing_mm, configuration)
    return CaseRecord(
        geometry=volume.geometry,
        orientation=plan.orientation,
        transpose_forward=plan.transpose_forward,
        shape_stored=volume.shape,
        shape_before_crop=mask_zyx.shape,
        bbox=box,
        shape_after_crop=box_shape(box),
        shape_resampled=resampled_shape(box_shape(box), spacing_mm, new_spacing_mm),
        spacing_mm=spacing_mm,
        spacing_resampled_mm=new_spacing_mm,
        keeps_axis_apart=configuration.keeps_axis_apart,
    )


def _normalized(
    image: np.ndarray,
    mask: np.ndarray,
    valid: np.ndarray,
    plan: Plan,
    configuration: ConfigurationPlan,
    source: object,
) -> np.ndarray:
    """Normalise (C, Z, Y, X); ``mask`` is where the image holds something, ``valid`` adds labels.

    By segkit's rules every statistic is over valid voxels, and labels have no say in what is
    cleared: an image looks the same in training and in prediction, where there are none. By
    nnU-Net's rules statistics are over valid voxels only where the others are cleared.
    """
    inside = configuration.normalize_inside_mask
    counted, kept = [valid] * len(inside), mask
    if plan.voxel_rules == "nnunet":
        everything = np.ones_like(valid)
        counted, kept = [valid if masked else everything for masked in inside], valid
    image = normalize(image, counted, configuration.normalization, plan.intensities, source)
    clear_outside(image, kept, inside)
    return image


def mark_invalid(labels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return labels with -1 where they are background and nothing is known; ignore is kept.

    Args:
        labels: (1 or S, Z, Y, X) schema indices.
        valid: (1, Z, Y, X) bool: the image holds something, or a class or structure is there
            (where one structure is present, the others are known to be absent).
    """
    return np.where((labels == BACKGROUND) & ~valid, labels.dtype.type(INVALID), labels)


def cropped_view(stored: np.ndarray, record: CaseRecord) -> np.ndarray:
    """Look at an array on the input file's grid as preprocessing turns and crops it.

    Args:
        stored: (Z, Y, X) or (C, Z, Y, X) of shape ``record.shape_stored``.
        record: Of the case.

    Returns:
        A view of shape ``record.shape_after_crop``, in planned axes; what is written into it
        lands in ``stored``.
    """
    if record.orientation is not None:
        stored = reorient_view(stored, record.geometry.orientation(), record.orientation)
    leading = (slice(None),) * (stored.ndim - 3)
    return _transposed(stored, record.transpose_forward)[leading + box_slices(record.bbox)]


def matrices_back(record: CaseRecord) -> tuple[int | None, tuple[np.ndarray | None, ...]]:
    """Return how linear interpolation leads from the network's grid back to the cropped one.

    Args:
        record: Of the case.

    Returns:
        The axis that takes the nearest neighbour, if any, and a matrix (after crop, resampled)
        for every axis, None where the axis stays as it is.
    """
    apart = None
    if record.keeps_axis_apart:
        apart = separate_axis(record.spacing_resampled_mm, record.spacing_mm)
    shapes = record.shape_resampled, record.shape_after_crop
    return apart, axis_matrices(*shapes, _LINEAR, apart)


def _planned(volume: Volume, array: np.ndarray, plan: Plan) -> tuple[np.ndarray, Spacing]:
    """Look at an array on the volume's grid in the planned orientation and axis order."""
    geometry, order = volume.geometry, plan.transpose_forward
    if plan.orientation is not None:
        array = reorient_view(array, geometry.orientation(), plan.orientation)
        geometry, _ = reorient_grid(geometry, volume.shape, plan.orientation)
    spacing_mm = tuple(float(geometry.spacing_mm[axis]) for axis in order)
    return _transposed(array, order), spacing_mm


def _transposed(array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """Put the last three axes in another order."""
    leading = array.ndim - 3
    return array.transpose(*range(leading), *(leading + axis for axis in order))


def _target_spacing(spacing_mm: Spacing, configuration: ConfigurationPlan) -> Spacing:
    """The planned spacing; the case's own across the slices of 2D configurations, or throughout."""
    if configuration.resampling == "none":
        return spacing_mm
    kept = len(spacing_mm) - len(configuration.spacing_mm)
    return (*spacing_mm[:kept], *configuration.spacing_mm)


def _check(volume: Volume, labels: np.ndarray | None, channels: int, source: object) -> None:
    if len(volume.array) != channels:
        what = f"the image has {len(volume.array)} channels, the plan expects {channels}"
        raise UserError(what, where=source, fix="give one file for every channel of dataset.json")
    if labels is not None and labels.shape[1:] != volume.shape:
        what = f"the image has shape {volume.shape}, its label map {labels.shape[1:]} (z, y, x)"
        raise UserError(what, where=source, fix="bring both to the same grid")
    if not np.isfinite(volume.array).all():
        fix = "replace these values in the file"
        raise UserError("the image holds NaN or infinity", where=source, fix=fix)
