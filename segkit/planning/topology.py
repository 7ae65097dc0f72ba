"""From spacing and patch size to the stages of a U-Net (Isensee et al., Nature Methods 2021).

An axis is pooled until its feature maps would fall below 4 voxels; coarsely sampled axes wait
until the finer ones have caught up, and are convolved (kernel 3 instead of 1) from then on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segkit.types import Spacing

MIN_EDGE = 4
"""Smallest edge of a feature map, in voxels."""
COMPARABLE = 2.0
"""Spacings within this factor of the finest are pooled and convolved together."""

Axes = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """Strides and kernels of every stage, highest resolution first."""

    patch_size: Axes
    """The given patch, padded so that every pooling divides it."""
    strides: tuple[Axes, ...]
    """Stride with which a stage begins; the first is all ones."""
    kernel_sizes: tuple[Axes, ...]

    @property
    def n_stages(self) -> int:
        """Stages of the encoder, bottleneck included."""
        return len(self.strides)

    @property
    def divisor(self) -> Axes:
        """What the patch must be a multiple of, per axis."""
        return total_stride(self.strides)


def total_stride(strides: Sequence[Axes]) -> Axes:
    """Product of the strides of all stages per axis, which a patch is a multiple of."""
    return tuple(math.prod(axis) for axis in zip(*strides, strict=True))


def plan_topology(spacing_mm: Spacing, patch_size: Sequence[float]) -> Topology:
    """Derive strides and kernels; any number of axes.

    Args:
        spacing_mm: Spacing per axis.
        patch_size: Wished patch per axis, in voxels; fractions are allowed (a median shape).

    Returns:
        The topology, whose patch is at least as large as the wish. A patch below 8 voxels on
        every axis gives a single stage.
    """
    spacing, size = list(spacing_mm), list(patch_size)
    axes = range(len(spacing))
    kernel = [1] * len(spacing)
    strides = [tuple(1 for _ in axes)]
    kernels: list[Axes] = []
    while pooled := _poolable_axes(spacing, size):
        finest = min(spacing)
        kernel = [3 if spacing[a] < COMPARABLE * finest else kernel[a] for a in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if a in pooled else 1 for a in axes))
        for axis in pooled:
            spacing[axis] *= 2
            size[axis] = math.ceil(size[axis] / 2)
    kernels.append(tuple(3 for _ in axes))
    divisor = total_stride(strides)
    padded = tuple(math.ceil(n / d) * d for n, d in zip(patch_size, divisor, strict=True))
    return Topology(patch_size=padded, strides=tuple(strides), kernel_sizes=tuple(kernels))


def _poolable_axes(spacing: Sequence[float], size: Sequence[float]) -> list[int]:
    """Axes long and fine enough for another pooling; a lone axis must be longer still."""
    long = [axis for axis, n in enumerate(size) if n >= 2 * MIN_EDGE]
    if not long:
        return []
    finest = min(spacing[axis] for axis in long)
    fine = [axis for axis in long if spacing[axis] < COMPARABLE * finest]
    if len(fine) == 1 and size[fine[0]] < 3 * MIN_EDGE:
        return []
    return fine
