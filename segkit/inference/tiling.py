"""Where the tiles of a sliding window lie and how they blend: pure arithmetic.

Tile positions and the Gaussian are nnU-Net's (Isensee et al., Nature Methods 2021). As a Gaussian
is a product over axes and the tiles form a grid, the summed importance of all tiles is a product
over axes too. Every tile can therefore carry weights that are already divided by that sum: what
tiles add up to is the blended result, and no volume of counts is ever kept.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segkit.types import Shape

SIGMA_SHARE = 1 / 8
"""Standard deviation of the importance, as a share of the patch edge."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One position of the window in a volume (Z, Y, X)."""

    slices: tuple[slice, ...]
    weights: tuple[np.ndarray, ...]
    """Per axis (patch edge,) float32; their outer product is the share of this tile in a voxel."""


def tile_starts(size: int, patch: int, step: float) -> tuple[int, ...]:
    """Return the first voxel of every tile along one axis, evenly spread from end to end.

    Args:
        size: Voxels of the image, at least ``patch``.
        patch: Voxels of the tile.
        step: Largest distance between neighbours as a share of the patch; never below one voxel.
    """
    stride = max(1.0, patch * step)
    count = math.ceil((size - patch) / stride) + 1
    spacing = (size - patch) / (count - 1) if count > 1 else 0.0
    return tuple(round(spacing * i) for i in range(count))


def importance(patch: int) -> np.ndarray:
    """Return the Gaussian along one axis, (patch,) float64 with maximum 1 at ``patch // 2``.

    Its smallest value is about exp(-8), so a product over three axes is never zero in float32.
    """
    distance = np.arange(patch) - patch // 2
    return np.exp(-0.5 * (distance / (SIGMA_SHARE * patch)) ** 2)


def blending_weights(size: int, patch: int, starts: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Return the weights of every tile along one axis, (patch,) float32 each.

    The weights of all tiles over a voxel add up to 1.
    """
    gaussian, total = importance(patch), np.zeros(size)
    for start in starts:
        total[start : start + patch] += gaussian
    return tuple((gaussian / total[start : start + patch]).astype(np.float32) for start in starts)


def make_tiles(shape: Shape, patch_size: Shape, step: float) -> list[Tile]:
    """Return the tiles that cover a volume, the last axis varying fastest.

    Args:
        shape: Volume (Z, Y, X), nowhere smaller than the patch.
        patch_size: Tile (Z, Y, X).
        step: Largest distance between neighbours as a share of the patch, in (0, 1].
    """
    axes = []
    for size, patch in zip(shape, patch_size, strict=True):
        starts = tile_starts(size, patch, step)
        slices = [slice(start, start + patch) for start in starts]
        axes.append(list(zip(slices, blending_weights(size, patch, starts), strict=True)))
    return [
        Tile(slices=tuple(s for s, _ in tile), weights=tuple(w for _, w in tile))
        for tile in itertools.product(*axes)
    ]


def symmetric_padding(shape: Shape, patch_size: Shape) -> tuple[tuple[int, int], ...]:
    """Return (before, after) per axis that brings a volume up to the patch.

    Nothing where it is large enough; an odd voxel goes to the end.
    """
    missing = [max(0, patch - size) for size, patch in zip(shape, patch_size, strict=True)]
    return tuple((count // 2, count - count // 2) for count in missing)
