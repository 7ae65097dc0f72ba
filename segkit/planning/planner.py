"""From a fingerprint to a plan, with the reason of every decision.

The rules are those of nnU-Net v2 (Isensee et al., Nature Methods 2021; Isensee et al., MICCAI
2024 for the residual encoder presets); what differs between planners is in ``presets.py``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace

from segkit.dataset.description import DatasetDescription
from segkit.dataset.nonzero import BLACK_TOLERANCE
from segkit.errors import UserError
from segkit.planning.fingerprint import Fingerprint
from segkit.planning.frequencies import describe_structures, rare_structures
from segkit.planning.lowres import (
    CASCADE,
    CASCADE_REASON,
    FULLRES,
    LOWRES,
    plan_lowres,
    share_seen,
    why_lowres,
    why_no_lowres,
)
from segkit.planning.patch import Budget, SizedNetwork, plan_patch, times
from segkit.planning.plan import (
    ConfigurationPlan,
    Normalization,
    Plan,
    PlanRequest,
    Resampling,
    SpacingRule,
)
from segkit.planning.presets import PLANNERS, PlannerSettings, planner_settings
from segkit.planning.spacing import common_spacing, median_shape, slice_axis_first, volume
from segkit.types import Spacing

__all__ = ["PLANNERS", "PlannerSettings", "explain", "make_plan"]

NORMALIZATIONS: dict[str, Normalization] = {
    "ct": "ct",
    "nonorm": "none",
    "zscore": "zscore",
    "rescale_to_0_1": "rescale_to_0_1",
    "rgb_to_0_1": "rgb_to_0_1",
}
"""Normalisation by channel name (case does not matter); any other name means z-score."""
RESAMPLING: dict[Resampling, str] = {
    "linear": "images are interpolated linearly",
    "linear_all_axes": "images are interpolated linearly, also along a much coarser axis",
    "cubic_all_axes": "images are interpolated by cubic splines, also along a much coarser axis",
    "none": "images are not resampled",
}
MASKED_BELOW = 0.75
"""Cropping that leaves less than this share of a case makes z-score look inside the mask only."""
AXES = "zyx"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Space:
    """The grid all cases are brought to, in planned axis order."""

    spacing_mm: Spacing
    median: tuple[float, ...]
    cases: int
    transpose: tuple[int, int, int]
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Channels:
    """How intensities are normalised, one entry a channel."""

    normalization: tuple[Normalization, ...]
    inside_mask: tuple[bool, ...]
    reasons: tuple[str, ...]


def make_plan(
    fingerprint: Fingerprint,
    description: DatasetDescription,
    *,
    planner: str = "default",
    request: PlanRequest | None = None,
) -> Plan:
    """Plan ``2d`` and ``3d_fullres``, ``3d_lowres`` and ``3d_cascade_fullres`` where of use.

    Planes get ``2d`` only.

    Args:
        fingerprint: Of all training cases.
        description: Of the same dataset.
        planner: A name in :data:`PLANNERS`.
        request: What is wanted otherwise than by the rules.

    Raises:
        UserError: unknown planner, a spacing or memory that is not positive, too little memory, or
            structures that cannot be left out.
    """
    request = request or PlanRequest()
    left_out = rare_structures(fingerprint, description.labels, request.min_cases)
    budget = _budget(planner, description, left_out, request.gpu_memory_gb)
    space = _plan_space(fingerprint, request.spacing)
    channels = _plan_channels(fingerprint, description.channel_names)
    configurations = {"2d": _plan_2d(space, channels, budget)}
    if space.median[0] != 1:
        configurations |= _plan_3d(space, channels, budget)
    force, force_reason = _invalid_rule(fingerprint)
    made = Plan(
        planner=planner,
        request=request,
        dataset=description.name,
        channel_names=description.channel_names,
        transpose_forward=space.transpose,
        orientation=fingerprint.orientation,
        intensities=fingerprint.intensities,
        force_invalid_to_background=force,
        left_out=left_out,
        configurations=_resampled(configurations, request.resampling),
        reasons=(
            _orientation_reason(fingerprint),
            *space.reasons,
            *([RESAMPLING[request.resampling]] if request.resampling != "cubic" else []),
            *channels.reasons,
            force_reason,
            *describe_structures(
                fingerprint, description.labels.without(left_out), request.min_cases
            ),
            *_left_out(configurations, request.resampling),
        ),
    )
    return made.sealed()


def _resampled(
    configurations: dict[str, ConfigurationPlan], resampling: Resampling
) -> dict[str, ConfigurationPlan]:
    """Settle how cases come to the spacing; without resampling there is no low resolution."""
    return {
        name: replace(configuration, resampling=resampling)
        for name, configuration in configurations.items()
        if resampling != "none" or name not in (LOWRES, CASCADE)
    }


def _left_out(configurations: Collection[str], resampling: Resampling) -> tuple[str, ...]:
    """Say which configurations there cannot be."""
    if FULLRES not in configurations:
        return ("no 3D configuration: planes only",)
    if resampling == "none" and LOWRES in configurations:
        return (f"no {LOWRES} and no {CASCADE}: cases keep their own spacing",)
    return ()


def explain(plan: Plan) -> list[str]:
    """List every decision of a plan with its reason, one line each."""
    title = f"{plan.dataset}, planner {plan.planner}"
    if plan.name != plan.planner:
        title += f", plan {plan.name}"
    lines = [title, *plan.reasons]
    for name, configuration in plan.configurations.items():
        lines += [f"{name}: {reason}" for reason in configuration.reasons]
    return lines


def check_gpu_memory(gpu_memory_gb: float | None) -> None:
    """Refuse what is no amount of memory.

    Raises:
        UserError: zero, negative or infinite.
    """
    if gpu_memory_gb is not None and not 0 < gpu_memory_gb < math.inf:
        what = f"GPU memory must be a positive number of GB, got {gpu_memory_gb:g}"
        raise UserError(what, where="--gpu-memory-gb", fix="give for example 8")


def _budget(
    planner: str,
    description: DatasetDescription,
    left_out: tuple[str, ...],
    gpu_memory_gb: float | None,
) -> Budget:
    settings = planner_settings(planner)
    check_gpu_memory(gpu_memory_gb)
    heads = len(description.content["labels"]) - len(left_out)
    return Budget(settings=settings, heads=heads, gpu_memory_gb=gpu_memory_gb)


def _plan_space(fingerprint: Fingerprint, rule: SpacingRule) -> _Space:
    cases = fingerprint.cases
    spacings = [case.spacing_mm for case in cases]
    shapes = [case.shape_after_crop for case in cases]
    common = common_spacing(rule, spacings, shapes)
    spacing = common.spacing_mm
    median = median_shape(spacings, shapes, spacing)
    transpose = slice_axis_first(common.ordering_mm, median)
    planes = all(shape[0] == 1 for shape in shapes)
    grid = f"{times(spacing[1:])} (y, x)" if planes else f"{times(spacing)} (z, y, x)"
    order = ", ".join(AXES[axis] for axis in transpose)
    return _Space(
        spacing_mm=tuple(spacing[axis] for axis in transpose),
        median=tuple(median[axis] for axis in transpose),
        cases=len(cases),
        transpose=transpose,
        reasons=(
            f"spacing {grid} mm: {common.reason}",
            f"axis order {order}: the axis with the largest spacing comes first",
        ),
    )


def _plan_channels(fingerprint: Fingerprint, names: tuple[str, ...]) -> _Channels:
    schemes = tuple(NORMALIZATIONS.get(name.casefold(), "zscore") for name in names)
    share = fingerprint.median_relative_size_after_crop
    masked = share < MASKED_BELOW
    inside = tuple(masked and scheme == "zscore" for scheme in schemes)
    reasons = [
        f"channel {i} normalized by {scheme}: its name is {name!r}"
        for i, (scheme, name) in enumerate(zip(schemes, names, strict=True))
    ]
    where = "inside the nonzero mask" if any(inside) else "over the whole cropped image"
    why = f"cropping to nonzero voxels leaves {share:.0%} of a case (median)"
    if "zscore" in schemes:
        reasons.append(f"z-score {where}: {why}, the limit is {MASKED_BELOW:.0%}")
    return _Channels(normalization=schemes, inside_mask=inside, reasons=tuple(reasons))


def _plan_2d(space: _Space, channels: _Channels, budget: Budget) -> ConfigurationPlan:
    voxels = volume(space.median) * space.cases
    sized = plan_patch(space.spacing_mm[1:], space.median[1:], voxels, budget)
    reason = "Dice over the whole batch: a slice alone often lacks a class"
    return _configuration(space.spacing_mm[1:], space.median[1:], channels, sized, (True, reason))


def _plan_3d(space: _Space, channels: _Channels, budget: Budget) -> dict[str, ConfigurationPlan]:
    """Plan the full resolution, and a low one with a cascade where a patch sees too little."""
    voxels = volume(space.median) * space.cases
    sized = plan_patch(space.spacing_mm, space.median, voxels, budget)
    lowres = plan_lowres(space.spacing_mm, space.median, sized.patch_size, space.cases, budget)
    seen = share_seen(sized.patch_size, space.median)
    batch_dice = _batch_dice(seen, over_batch=lowres is not None)
    fullres = _configuration(space.spacing_mm, space.median, channels, sized, batch_dice)
    if lowres is None:
        return {FULLRES: replace(fullres, reasons=(*fullres.reasons, why_no_lowres(seen)))}
    seen_low = share_seen(lowres.sized.patch_size, lowres.median)
    low = _configuration(
        lowres.spacing_mm, lowres.median, channels, lowres.sized, _batch_dice(seen_low)
    )
    low = replace(low, reasons=(why_lowres(seen, seen_low), *low.reasons))
    cascade = replace(fullres, previous_stage=LOWRES, reasons=(CASCADE_REASON,))
    return {LOWRES: low, FULLRES: fullres, CASCADE: cascade}


def _batch_dice(seen: float, *, over_batch: bool = False) -> tuple[bool, str]:
    """Whether Dice is summed over the batch, and why; nnU-Net does where patches see little."""
    if over_batch:
        return True, f"Dice over the whole batch: a patch sees only {seen:.0%} of the median case"
    return False, f"Dice of each sample: a patch sees {seen:.0%} of the median case"


def _configuration(
    spacing_mm: Spacing,
    median: tuple[float, ...],
    channels: _Channels,
    sized: SizedNetwork,
    batch_dice: tuple[bool, str],
) -> ConfigurationPlan:
    median_reason = f"spacing {times(spacing_mm)} mm, where the median case has {times(median)}"
    return ConfigurationPlan(
        spacing_mm=spacing_mm,
        patch_size=sized.patch_size,
        batch_size=sized.batch_size,
        median_shape=median,
        normalization=channels.normalization,
        normalize_inside_mask=channels.inside_mask,
        batch_dice=batch_dice[0],
        network=sized.network,
        reasons=(median_reason + " voxels", *sized.reasons, batch_dice[1]),
    )


def _invalid_rule(fingerprint: Fingerprint) -> tuple[bool, str]:
    share = fingerprint.labelled_share_in_zero
    force = share <= BLACK_TOLERANCE
    rule = "always background" if force else "predicted like any other"
    rule += f" (loss.invalid_voxels {'masked' if force else 'background'})"
    why = f"{share:.3%} of the labelled voxels lie there, the limit is {BLACK_TOLERANCE:.2%}"
    return force, f"voxels outside the nonzero mask are {rule}: {why}"


def _orientation_reason(fingerprint: Fingerprint) -> str:
    codes = Counter(case.orientation for case in fingerprint.cases)
    if fingerprint.orientation is None:
        return "orientation as stored: the images are planes"
    if set(codes) == {fingerprint.orientation}:
        return f"orientation {fingerprint.orientation}: every case is stored so"
    listing = ", ".join(f"{code} {n}" for code, n in codes.most_common())
    why = "orientations are mixed" if len(codes) > 1 else "the reader asks for it"
    return f"every case is brought to {fingerprint.orientation}: {why} ({listing})"
