"""Elastic deformation, and sampling at any positions, linearly or of the nearest voxel.

``sampling`` is quicker for the positions of an affine map read linearly, which is the usual case.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F

from segkit.config.augment import Interpolation
from segkit.dataset.labels import INVALID
from segkit.training.augment.affine import AffineMap
from segkit.training.augment.sampling import CPU_BLOCK
from segkit.training.augment.separable import apply_along_axis, blur_matrices


def displacements(
    patch: tuple[int, ...], scale: float, strength: float, source: torch.Generator
) -> torch.Tensor:
    """Draw a smooth field of displacements, of mean 0.

    Noise is smoothed by a Gaussian (Simard et al., ICDAR 2003) and stretched to the largest
    displacement, as batchgenerators does.

    Args:
        patch: Spatial shape.
        scale: Standard deviation of the Gaussian, as a share of the patch along each axis.
        strength: Largest displacement along each axis, as a share of that deviation.
        source: Lives where the field is wanted.

    Returns:
        (ndim, *patch) float32 in voxels.
    """
    sigmas = [scale * size for size in patch]
    field = torch.randn((len(patch), *patch), generator=source, device=source.device)
    for axis, (size, sigma) in enumerate(zip(patch, sigmas, strict=True)):
        width = torch.full((len(patch),), sigma, device=source.device)
        field = apply_along_axis(field, blur_matrices(width, size), axis)
    flat = field.flatten(1)
    largest = torch.tensor([strength * sigma for sigma in sigmas], device=source.device)
    flat.mul_((largest / flat.abs().amax(1).clamp(min=1e-12))[:, None])
    flat.sub_(flat.mean(1, keepdim=True))
    return field


def positions(mapping: AffineMap, field: torch.Tensor) -> torch.Tensor:
    """Where the patch voxels, displaced first, lie in the source: (ndim, *patch) voxels."""
    axes = [torch.arange(size, device=field.device, dtype=field.dtype) for size in field.shape[1:]]
    displaced = field + torch.stack(torch.meshgrid(*axes, indexing="ij"))
    matrix = torch.tensor(mapping.matrix, device=field.device, dtype=field.dtype)
    origin = torch.tensor(mapping.origin, device=field.device, dtype=field.dtype)
    moved = matrix @ displaced.flatten(1) + origin[:, None]
    return moved.view_as(displaced)


def sample_image(
    image: torch.Tensor, where: torch.Tensor, interpolation: Interpolation
) -> torch.Tensor:
    """Read (C, *S) float32 at positions (ndim, *patch); 0 outside. Returns (C, *patch)."""
    if interpolation == "nearest":
        nearest = image.flatten(1).index_select(1, _nearest(where, image.shape[1:]))
        return nearest.mul_(_inside(where, image.shape[1:])).view(-1, *where.shape[1:])
    # The array extends from -1 to 1; the last axis comes first.
    sizes = torch.tensor(image.shape[1:], device=where.device, dtype=where.dtype)
    grid = (2 * where + 1) / sizes.view(-1, *(1,) * (where.ndim - 1)) - 1
    grid = grid.flip(0).movedim(0, -1)
    return F.grid_sample(image[None], grid[None], align_corners=False)[0]


def sample_labels(
    labels: torch.Tensor, where: torch.Tensor, interpolation: Interpolation
) -> torch.Tensor:
    """Read (L, *S) integers at positions (ndim, *patch); -1 where the position lies outside.

    Linear: the label with the largest linear weight, the lowest at a tie. Never a label that is
    not there. Returns (L, *patch).
    """
    if interpolation == "linear":
        blocks = where.flatten(1).split(_block(where.device), dim=1)
        result = torch.cat([_vote(labels, block) for block in blocks], dim=1)
    else:
        result = labels.flatten(1).index_select(1, _nearest(where, labels.shape[1:]))
    result.sub_(INVALID).mul_(_inside(where, labels.shape[1:])).add_(INVALID)
    return result.view(-1, *where.shape[1:])


def _block(device: torch.device) -> int:
    return CPU_BLOCK if device.type == "cpu" else 1 << 40


def _nearest(where: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Flat index (N,) of the nearest voxel."""
    index = torch.zeros((), dtype=torch.int64, device=where.device)
    for position, size in zip(where.flatten(1), shape, strict=True):
        index = index * size + (position + 0.5).floor_().clamp_(0, size - 1).long()
    return index


def _inside(where: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Whether positions lie within the array: (N,) bool."""
    inside = torch.ones((), dtype=torch.bool, device=where.device)
    for position, size in zip(where.flatten(1), shape, strict=True):
        inside = inside & (position >= -0.5) & (position <= size - 0.5)
    return inside


def _vote(labels: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """(L, N) winners among the 2^ndim neighbours of every position (ndim, N)."""
    shape = tuple(labels.shape[1:])
    lower = where.floor()
    fractions = where - lower
    corners, weights = [], []
    for steps in product((0, 1), repeat=len(shape)):
        index = torch.zeros((), dtype=torch.int64, device=where.device)
        weight = torch.ones((), device=where.device)
        for axis, (step, size) in enumerate(zip(steps, shape, strict=True)):
            index = index * size + (lower[axis] + step).clamp_(0, size - 1).long()
            weight = weight * (fractions[axis] if step else 1 - fractions[axis])
        corners.append(index)
        weights.append(weight)
    stacked = torch.stack(weights)
    rows = [torch.stack([row[index] for index in corners]) for row in labels.flatten(1)]
    return torch.stack([_decided(row, stacked) for row in rows])


def _decided(candidates: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Vote, on a CPU only where not all neighbours are alike."""
    if candidates.device.type != "cpu":
        return _heaviest(candidates, weights)
    result = candidates[0].clone()
    mixed = (candidates != candidates[0]).any(0).nonzero().flatten()
    result[mixed] = _heaviest(candidates[:, mixed], weights[:, mixed])
    return result


def _heaviest(candidates: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(N,) label with the largest sum of weights among candidates (2^ndim, N), lowest at a tie."""
    best, best_weight = candidates[0], torch.full_like(weights[0], -1.0)
    for label in candidates:
        weight = ((candidates == label) * weights).sum(0)
        better = (weight > best_weight) | ((weight == best_weight) & (label < best))
        best = torch.where(better, label, best)
        best_weight = torch.where(better, weight, best_weight)
    return best
