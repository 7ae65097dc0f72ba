"""Whether the numbers of a plan fit together, wherever they came from: all faults at once.

Types, unknown keys and missing ones are found while a plan is read; here is what only shows in
several values together. Keys are named as in the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from segkit.dataset.orientation import reorient_view
from segkit.errors import UserError, nearest
from segkit.planning.topology import total_stride

if TYPE_CHECKING:
    from segkit.planning.plan import ConfigurationPlan, NetworkPlan, Plan

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Names that every file system takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that is wrong with a plan."""

    key: str
    """Where, as in ``configurations.2d.patch_size``."""
    what: str
    fix: str


def check_plan(plan: Plan, source: object) -> None:
    """Refuse a plan that cannot be followed.

    Args:
        plan: As read.
        source: File it was read from, for the message.

    Raises:
        UserError: naming every fault.
    """
    faults = list(plan_faults(plan))
    if not faults:
        return
    if len(faults) == 1:
        (fault,) = faults
        raise UserError(fault.what, where=f"{source}, key {fault.key}", fix=fault.fix)
    lines = [f"  {fault.key}: {fault.what} ({fault.fix})" for fault in faults]
    what = f"{len(faults)} values of the plan do not fit:"
    fix = "correct them, or plan again with 'segkit plan --overwrite', which discards all edits"
    raise UserError("\n".join([what, *lines]), where=source, fix=fix)


def plan_faults(plan: Plan) -> Iterator[Fault]:
    """Find everything in a plan that cannot be followed."""
    order = plan.transpose_forward
    if sorted(order) != [0, 1, 2]:
        what = f"must hold each of 0, 1 and 2 once, got {list(order)}"
        yield Fault(key="transpose_forward", what=what, fix="0, 1, 2 keeps the stored order")
    yield from _orientation_faults(plan.orientation)
    channels = len(plan.channel_names)
    yield from _one_a_channel("intensities", plan.intensities, channels)
    for name, configuration in plan.configurations.items():
        key = f"configurations.{name}"
        if not SAFE_NAME.fullmatch(name):
            fix = "use letters, digits, points, hyphens and underscores"
            yield Fault(key=key, what=f"{name!r} cannot name a folder", fix=fix)
        previous = configuration.previous_stage
        if previous is not None and previous not in plan.configurations:
            what = f"there is no configuration {previous!r} to come before"
            fix = nearest(previous, plan.configurations)
            yield Fault(key=f"{key}.previous_stage", what=what, fix=fix)
        for fault in configuration_faults(configuration, channels):
            yield Fault(key=f"{key}.{fault.key}", what=fault.what, fix=fault.fix)


def configuration_faults(configuration: ConfigurationPlan, channels: int) -> Iterator[Fault]:
    """Find what is wrong with a configuration of images with that many channels."""
    patch, axes = configuration.patch_size, len(configuration.patch_size)
    if axes not in (2, 3):
        what = f"needs 2 entries (y, x) or 3, got {list(patch)}"
        yield Fault(key="patch_size", what=what, fix="add or remove entries")
        return
    yield from _lengths(configuration, channels)
    yield from _positive("spacing_mm", configuration.spacing_mm)
    yield from _positive("median_shape", configuration.median_shape)
    yield from _positive("batch_size", [configuration.batch_size])
    sound = True
    for fault in network_faults(configuration.network, axes):
        sound = False
        yield Fault(key=f"network.{fault.key}", what=fault.what, fix=fault.fix)
    if sound:
        yield from _patch_faults(patch, configuration.network.strides)


def network_faults(network: NetworkPlan, axes: int | None = None) -> Iterator[Fault]:
    """Find what is wrong with a network.

    Args:
        network: Of a configuration.
        axes: How many the patch has; None where that is not known.
    """
    stages = len(network.features_per_stage)
    axes = axes or len(network.strides[0] if network.strides else ())
    if stages < 2:
        what = f"a U-Net needs at least 2 stages, got {stages}"
        yield Fault(key="features_per_stage", what=what, fix="add stages")
    expected = {
        "features_per_stage": stages,
        "strides": stages,
        "kernel_sizes": stages,
        "convs_per_stage": stages,
        "convs_per_decoder_stage": max(stages - 1, 0),
    }
    for key, count in expected.items():
        yield from _counts(key, getattr(network, key), count, stages)
    yield from _kernels_and_strides(network, axes)
    if not 0 <= network.dropout < 1:
        what = f"must lie in [0, 1), got {network.dropout}"
        yield Fault(key="dropout", what=what, fix="0 drops nothing")


def _counts(key: str, values: Sequence[object], count: int, stages: int) -> Iterator[Fault]:
    if len(values) != count:
        what = f"must have {count} entries for {stages} stages, got {len(values)}"
        yield Fault(key=key, what=what, fix="features_per_stage has one entry a stage")
    yield from _positive(key, [value for value in values if isinstance(value, int)])


def _kernels_and_strides(network: NetworkPlan, axes: int) -> Iterator[Fault]:
    for key in ("strides", "kernel_sizes"):
        entries = getattr(network, key)
        if odd := [list(entry) for entry in entries if len(entry) != axes]:
            what = f"every entry must have {axes} axes, got {odd[0]}"
            yield Fault(key=key, what=what, fix="2 axes for a 2D network, 3 for a 3D one")
        yield from _positive(key, [n for entry in entries for n in entry])
    if even := [list(k) for k in network.kernel_sizes if any(size % 2 == 0 for size in k)]:
        what = f"kernel sizes must be odd, got {even[0]}"
        yield Fault(key="kernel_sizes", what=what, fix="use 1, 3, 5, ...")
    if network.strides and set(network.strides[0]) != {1}:
        what = f"the first stride must be all ones, got {list(network.strides[0])}"
        yield Fault(key="strides", what=what, fix="the first stage keeps the patch's resolution")


def _lengths(configuration: ConfigurationPlan, channels: int) -> Iterator[Fault]:
    for key in ("spacing_mm", "median_shape"):
        values, axes = getattr(configuration, key), len(configuration.patch_size)
        if len(values) != axes:
            what = f"must have {axes} entries, as patch_size has, got {len(values)}"
            yield Fault(key=key, what=what, fix="add or remove entries")
    for key in ("normalization", "normalize_inside_mask"):
        yield from _one_a_channel(key, getattr(configuration, key), channels)


def _one_a_channel(key: str, values: Sequence[object], channels: int) -> Iterator[Fault]:
    if len(values) != channels:
        what = f"must have one entry a channel ({channels}), got {len(values)}"
        yield Fault(key=key, what=what, fix="add or remove entries")


def _positive(key: str, values: Sequence[float]) -> Iterator[Fault]:
    if wrong := [value for value in values if not 0 < value < math.inf]:
        fix = "give a number of 1 or more" if isinstance(wrong[0], int) else "give a number above 0"
        yield Fault(key=key, what=f"must be positive, got {wrong[0]}", fix=fix)


def _patch_faults(patch: Sequence[int], strides: Sequence[tuple[int, ...]]) -> Iterator[Fault]:
    divisor = list(total_stride(strides))
    multiples = [max(round(n / d), 1) * d for n, d in zip(patch, divisor, strict=True)]
    if any(n < 1 or n % d for n, d in zip(patch, divisor, strict=True)):
        what = f"{list(patch)} must be multiples of {divisor}, the product of the strides"
        yield Fault(key="patch_size", what=what, fix=f"use for example {multiples}")
    elif list(patch) == divisor:
        what = f"{list(patch)} leaves a single voxel at the lowest resolution"
        yield Fault(key="patch_size", what=what, fix="use larger multiples, or fewer strides of 2")


def _orientation_faults(code: str | None) -> Iterator[Fault]:
    if code is None:
        return
    try:
        reorient_view(np.empty((1, 1, 1)), code, code)
    except UserError as error:
        yield Fault(key="orientation", what=error.what, fix=error.fix or "")
