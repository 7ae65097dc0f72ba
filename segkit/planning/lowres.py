"""When a patch sees too little of a case: a low resolution stage, and a cascade on top of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from segkit.planning.patch import Budget, SizedNetwork, plan_patch
from segkit.planning.spacing import (
    LOWRES_MIN_GAIN,
    LOWRES_PATCH_SHARE,
    coarser,
    shape_at,
    volume,
)
from segkit.types import Shape, Spacing

FULLRES, LOWRES, CASCADE = "3d_fullres", "3d_lowres", "3d_cascade_fullres"
CASCADE_REASON = (
    f"{FULLRES}, whose network is also given the segmentation of {LOWRES}: same patch, batch and "
    "preprocessed cases"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LowresPlan:
    """A low resolution stage: spacing, median shape there, and its patch."""

    spacing_mm: Spacing
    median: tuple[float, ...]
    sized: SizedNetwork


def plan_lowres(
    spacing_mm: Spacing,
    median: Sequence[float],
    patch_size: Shape,
    cases: int,
    budget: Budget,
) -> LowresPlan | None:
    """Find the low resolution at which a patch sees a quarter of the median case.

    Args:
        spacing_mm: Full resolution, planned axis order.
        median: Median shape there.
        patch_size: Patch there.
        cases: Number of training cases.
        budget: As for the full resolution.

    Returns:
        None where the full resolution patch already sees that much, or where the low resolution
        would save less than half of the voxels.
    """
    found, spacing, shape = None, spacing_mm, tuple(median)
    while volume(patch_size) / volume(shape) < LOWRES_PATCH_SHARE:
        spacing = coarser(spacing)
        shape = shape_at(median, spacing_mm, spacing)
        rounded = tuple(float(round(n)) for n in shape)
        sized = plan_patch(spacing, rounded, volume(shape) * cases, budget)
        patch_size = sized.patch_size
        found = LowresPlan(spacing_mm=spacing, median=rounded, sized=sized)
    return None if volume(median) / volume(shape) < LOWRES_MIN_GAIN else found


def share_seen(patch_size: Shape, median: Sequence[float]) -> float:
    """Return the share of the median case that a patch sees, at most 1."""
    return min(1.0, volume(patch_size) / volume(median))


def why_lowres(seen: float, seen_low: float) -> str:
    """Say why there is a low resolution, from what patches see at full and at low resolution."""
    return (
        f"a patch of {FULLRES} sees {seen:.1%} of the median case, less than "
        f"{LOWRES_PATCH_SHARE:.0%}: here it sees {seen_low:.0%}, and {CASCADE} refines the result"
    )


def why_no_lowres(seen: float) -> str:
    """Say why there is none."""
    if seen >= LOWRES_PATCH_SHARE:
        why = f"a patch sees {seen:.0%} of the median case, {LOWRES_PATCH_SHARE:.0%} is enough"
    else:
        why = f"a patch sees {seen:.1%} of the median case, but a grid on which it sees "
        why += f"{LOWRES_PATCH_SHARE:.0%} has more than 1/{LOWRES_MIN_GAIN:.0f} of the voxels"
    return f"no {LOWRES} and no {CASCADE}: {why}"
