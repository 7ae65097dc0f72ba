"""Blur and low resolution: both act on one axis at a time, hence are a matrix for each axis.

Every matrix is (P, n, n) for P channels at once: row i holds the weights with which output
voxel i takes from the input. One batched product per axis replaces loops over channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

KERNEL_SIGMAS = 6.0
"""Length of the blur kernel in standard deviations (rounded to an odd number of voxels)."""


def blur_matrices(sigma: torch.Tensor, size: int) -> torch.Tensor:
    """Gaussian blur of an axis of ``size`` voxels with reflecting ends.

    Args:
        sigma: (P,) standard deviations in voxels.
        size: Voxels of the axis.

    Returns:
        (P, size, size) float32; rows sum to 1.
    """
    length = 2 * torch.floor((KERNEL_SIGMAS * sigma + 0.5) / 2) + 1
    radius = int(length.max()) // 2
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = weights * (offsets.abs() <= length[:, None] // 2)
    weights = weights / weights.sum(1, keepdim=True)
    taken = F.one_hot(_reflect(offsets[:, None] + _voxels(size, sigma), size), size)
    return torch.einsum("po,oij->pij", weights, taken.to(weights.dtype))


def _voxels(size: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(size, device=like.device)


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    """Mirror indices at the centres of the first and last voxel, as often as it takes."""
    if size == 1:
        return torch.zeros_like(index)
    period = 2 * (size - 1)
    folded = index.remainder(period)
    return torch.minimum(folded, period - folded)


def low_resolution_matrices(zoom: torch.Tensor, size: int) -> torch.Tensor:
    """Nearest-neighbour downsampling followed by linear upsampling of an axis.

    Args:
        zoom: (P,) size of the coarse grid relative to the fine one.
        size: Voxels of the axis.

    Returns:
        (P, size, size) float32; rows sum to 1.
    """
    unit = torch.eye(size, device=zoom.device)[None]
    matrices = []
    for value in zoom.tolist():
        coarse = F.interpolate(unit, size=max(1, round(size * value)), mode="nearest-exact")
        matrices.append(F.interpolate(coarse, size=size, mode="linear", align_corners=False)[0].T)
    return torch.stack(matrices)


def apply_along_axis(channels: torch.Tensor, matrices: torch.Tensor, axis: int) -> torch.Tensor:
    """Multiply spatial axis ``axis`` of channels (P, *S) by its matrices (P, n, n)."""
    shape = channels.shape
    if axis == channels.ndim - 2:
        return (channels.flatten(1, -2) @ matrices.mT).reshape(shape)
    before = shape[1 : axis + 1].numel()
    columns = channels.reshape(shape[0], before, shape[axis + 1], -1)
    return (matrices[:, None] @ columns).reshape(shape)
