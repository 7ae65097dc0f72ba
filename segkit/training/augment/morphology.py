"""Binary morphology by balls of any radius, exact and on any device.

What lies within a distance of a mask needs no ball, but the squared distance to the mask, which is
found one axis at a time: two shifts for every voxel of the radius. Beyond the border there is
nothing to dilate from, and nothing that erodes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from segkit.dataset.nonzero import bounding_box, box_slices, widened

FAR = 1 << 14
"""Squared distance that stands for any beyond the radius; fits int16, also with a step added."""


def dilate(mask: Tensor, radius: float) -> Tensor:
    """Return the voxels at most ``radius`` voxels from a true one, (*S) bool."""
    squared = torch.where(mask, 0, FAR).to(torch.int16)
    for axis in range(mask.ndim):
        squared = _nearer_along(squared, axis, int(radius))
    return squared <= radius**2


def erode(mask: Tensor, radius: float) -> Tensor:
    """Return the voxels more than ``radius`` voxels from any false one, (*S) bool."""
    return ~dilate(~mask, radius)


def close(mask: Tensor, radius: float) -> Tensor:
    """Dilate, then erode: gaps and holes that no ball fits into are filled, (*S) bool."""
    return erode(dilate(mask, radius), radius)


def open_(mask: Tensor, radius: float) -> Tensor:
    """Erode, then dilate: what no ball fits into disappears, (*S) bool."""
    return dilate(erode(mask, radius), radius)


Operator = Callable[[Tensor, float], Tensor]
OPERATORS: tuple[Operator, ...] = (dilate, erode, close, open_)


def apply_near(operator: Operator, mask: Tensor, radius: float) -> Tensor:
    """Apply an operator, on a CPU only to the surroundings of what is true.

    To find these elsewhere would mean to wait for the device.
    """
    if mask.device.type != "cpu":
        return operator(mask, radius)
    box = surroundings(mask, 2 * int(radius) + 1)
    if box is None:
        return mask.clone()
    result = torch.zeros_like(mask)
    result[box] = operator(mask[box], radius)
    return result


def surroundings(mask: Tensor, margin: int) -> tuple[slice, ...] | None:
    """Return the box of what is true and ``margin`` voxels around; None where nothing is."""
    if not mask.any():
        return None
    return box_slices(widened(bounding_box(mask.numpy()), tuple(mask.shape), margin))


def _nearer_along(squared: Tensor, axis: int, reach: int) -> Tensor:
    """Return the least of ``squared`` at k voxels along the axis plus k^2, for all k in reach."""
    nearest, size = squared.clone(), squared.shape[axis]
    for step in range(1, min(reach, size - 1) + 1):
        seen = squared + step * step
        lower, upper = (nearest.narrow(axis, start, size - step) for start in (0, step))
        torch.minimum(lower, seen.narrow(axis, step, size - step), out=lower)
        torch.minimum(upper, seen.narrow(axis, 0, size - step), out=upper)
    return nearest
