"""Common spacing, axis order and median shape of a dataset (nnU-Net's rules, facts from cases)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segkit.errors import UserError
from segkit.planning.plan import SpacingRule
from segkit.types import Shape, Spacing

ANISOTROPY = 3.0
"""Ratio of spacings (and of sizes) beyond which an axis counts as a slice axis."""
LOWRES_STEP = 1.03
LOWRES_PATCH_SHARE = 0.25
"""A patch that sees less of the median case than this asks for a low resolution stage."""
LOWRES_MIN_GAIN = 2.0
"""A low resolution with more than 1/2 of the voxels is not worth a stage."""


def target_spacing(spacings_mm: Sequence[Spacing], shapes: Sequence[Shape]) -> tuple[Spacing, str]:
    """Choose the spacing all cases are resampled to, and say why.

    The median per axis; where one axis is more than 3 times coarser than the others *and* has
    less than a third of their voxels, its 10th percentile, so that thick slices are not forced
    on finer cases - but never finer than the other axes.

    Args:
        spacings_mm: (z, y, x) of every case.
        shapes: (z, y, x) of every case after cropping, before resampling.
    """
    spacings = np.array(spacings_mm, dtype=np.float64)
    target = np.median(spacings, axis=0)
    size = np.median(np.array(shapes, dtype=np.float64), axis=0)
    coarse = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarse]
    reason = f"the median of {len(spacings)} case(s)"
    finest = max(target[others])
    if target[coarse] > ANISOTROPY * finest and ANISOTROPY * size[coarse] < min(size[others]):
        median, candidate = target[coarse], np.percentile(spacings[:, coarse], 10)
        target[coarse] = candidate if candidate >= finest else finest + 1e-5
        if target[coarse] != median:
            reason += f", along {'zyx'[coarse]} the 10th percentile: slices are few and thick"
    return tuple(float(value) for value in target), reason


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonSpacing:
    """The grid of a dataset, (z, y, x)."""

    spacing_mm: Spacing
    ordering_mm: Spacing
    """What the axes are ordered by."""
    reason: str


def common_spacing(
    rule: SpacingRule, spacings_mm: Sequence[Spacing], shapes: Sequence[Shape]
) -> CommonSpacing:
    """Choose the spacing a dataset is planned for.

    Args:
        rule: ``median`` is nnU-Net's rule (:func:`target_spacing`); ``isotropic`` takes the finest
            of its values for every axis along which cases have more than a slice; ``original`` the
            rule's own, for cases that are not resampled; numbers are taken as they are.
        spacings_mm: (z, y, x) of every case.
        shapes: (z, y, x) of every case after cropping, before resampling.

    Raises:
        UserError: numbers that are no spacing.
    """
    if not isinstance(rule, str):
        given = check_spacing(rule)
        return CommonSpacing(spacing_mm=given, ordering_mm=given, reason="as asked for")
    planned, reason = target_spacing(spacings_mm, shapes)
    spacing = planned
    if rule == "isotropic":
        size = np.median(np.array(shapes, dtype=np.float64), axis=0)
        flat = [n == 1 for n in size]
        values = [mm for mm, alone in zip(planned, flat, strict=True) if not alone] or planned
        spacing = tuple(
            mm if alone else min(values) for mm, alone in zip(planned, flat, strict=True)
        )
        reason = f"the finest of {'x'.join(f'{mm:.4g}' for mm in values)}, {reason}"
    elif rule == "original":
        reason = f"only planned for, cases keep their own; {reason}"
    return CommonSpacing(spacing_mm=spacing, ordering_mm=planned, reason=reason)


def check_spacing(spacing_mm: Sequence[float]) -> Spacing:
    """Return the three numbers of a spacing.

    Raises:
        UserError: they are no spacing.
    """
    if len(spacing_mm) != 3 or not all(0 < value < math.inf for value in spacing_mm):
        what = f"a spacing is three positive numbers (z y x, in mm), got {list(spacing_mm)}"
        raise UserError(what, where="--spacing", fix="give for example 1 1 1")
    return tuple(float(value) for value in spacing_mm)


def slice_axis_first(spacing_mm: Spacing, median: Sequence[float]) -> tuple[int, int, int]:
    """Order the axes so that the coarsest comes first, the others as they were.

    An axis with a single voxel (planes stored as volumes) goes before any other: its spacing
    means nothing.
    """
    flat = [axis for axis, n in enumerate(median) if n == 1]
    coarse = flat[0] if flat else int(np.argmax(spacing_mm))
    first, second = (axis for axis in range(3) if axis != coarse)
    return coarse, first, second


def median_shape(
    spacings_mm: Sequence[Spacing], shapes: Sequence[Shape], target_mm: Spacing
) -> tuple[float, ...]:
    """Return the median over cases of the shape each has at the target spacing (per axis)."""
    resampled = [
        [round(old / new * n) for old, new, n in zip(spacing, target_mm, shape, strict=True)]
        for spacing, shape in zip(spacings_mm, shapes, strict=True)
    ]
    return tuple(float(value) for value in np.median(resampled, axis=0))


def coarser(spacing_mm: Spacing) -> Spacing:
    """Take one step towards a low resolution: fine axes first, then all together."""
    largest = max(spacing_mm)
    fine = [largest / value > 2 for value in spacing_mm]
    return tuple(
        value * LOWRES_STEP if chosen or not any(fine) else value
        for value, chosen in zip(spacing_mm, fine, strict=True)
    )


def shape_at(shape: Sequence[float], old_mm: Spacing, new_mm: Spacing) -> tuple[float, ...]:
    """Return a shape at another spacing, unrounded."""
    return tuple(n * (old / new) for n, old, new in zip(shape, old_mm, new_mm, strict=True))


def volume(shape: Sequence[float]) -> float:
    """Return the number of voxels of a shape."""
    return float(math.prod(shape))
