"""Where each output voxel of a rotated, scaled patch comes from: plain arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class AffineMap:
    """Voxel p of the output shows position ``matrix @ p + origin`` of the source array."""

    matrix: tuple[tuple[float, ...], ...]
    origin: tuple[float, ...]


def rotation_matrix(angles: torch.Tensor) -> torch.Tensor:
    """Rotation R2 R1 R0 about array axes 0, 1, 2 by three angles, or in the plane by one.

    Args:
        angles: (3,) or (1,) in radians.

    Returns:
        (3, 3) or (2, 2) float64.
    """
    if len(angles) == 1:
        return _in_plane(2, 0, 1, float(angles[0]))
    first = _in_plane(3, 1, 2, float(angles[0]))
    second = _in_plane(3, 2, 0, float(angles[1]))
    third = _in_plane(3, 0, 1, float(angles[2]))
    return third @ second @ first


def _in_plane(ndim: int, a: int, b: int, angle: float) -> torch.Tensor:
    matrix = torch.eye(ndim, dtype=torch.float64)
    matrix[a, a] = matrix[b, b] = math.cos(angle)
    matrix[a, b], matrix[b, a] = -math.sin(angle), math.sin(angle)
    return matrix


def crop_start(source: tuple[int, ...], patch: tuple[int, ...]) -> tuple[int, ...]:
    """First voxel of the centre crop.

    Raises:
        ValueError: the source is smaller than the patch.
    """
    if len(source) != len(patch) or any(s < p for s, p in zip(source, patch, strict=True)):
        raise ValueError(f"cannot cut a patch of {patch} out of an array of {source}")
    return tuple((s - p) // 2 for s, p in zip(source, patch, strict=True))


def affine_map(
    angles: torch.Tensor,
    scaling: float | torch.Tensor,
    source: tuple[int, ...],
    patch: tuple[int, ...],
) -> AffineMap:
    """Map patch voxels to the source, turning and scaling about the centre of the centre crop.

    Without rotation and scaling it is exactly the centre crop.

    Args:
        angles: (3,) or (1,) in radians.
        scaling: Above 1 the patch covers more of the source: objects become smaller. One factor
            for all axes of the patch, or one an axis.
        source: Spatial shape of the source.
        patch: Spatial shape of the output.
    """
    matrix = rotation_matrix(angles) * scaling
    middle = (torch.tensor(patch, dtype=torch.float64) - 1) / 2
    start = torch.tensor(crop_start(source, patch), dtype=torch.float64)
    origin = start + middle - matrix @ middle
    return AffineMap(
        matrix=tuple(tuple(row) for row in matrix.tolist()), origin=tuple(origin.tolist())
    )
