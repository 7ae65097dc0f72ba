"""Blur and low resolution: both act on one axis at a time, hence are a matrix for each axis.

Every matrix is (P, n, n) for P channels at once: row i holds the weights with which output
voxel i takes from the input. One batched product per axis replaces loops over channels. Only
weights near the diagonal are not zero, so that blocks of rows need few columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

KERNEL_SIGMAS = 6.0
"""Length of the blur kernel in standard deviations (rounded to an odd number of voxels)."""
BLOCK = 32
"""Rows of a matrix that are multiplied at once, at least."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bands:
    """Matrices that are zero but for a band about the diagonal."""

    matrices: torch.Tensor
    """(P, n, n) float32; rows sum to 1."""
    reach: int
    """How far from the diagonal weights other than zero may lie."""

    def __getitem__(self, rows: slice) -> Bands:
        return Bands(matrices=self.matrices[rows], reach=self.reach)

    def to(self, device: torch.device) -> Bands:
        """Return the same on a device."""
        matrices = self.matrices.to(device, non_blocking=True)
        return Bands(matrices=matrices, reach=self.reach)


def blur_matrices(sigma: torch.Tensor, size: int) -> Bands:
    """Gaussian blur of an axis of ``size`` voxels with reflecting ends.

    Args:
        sigma: (P,) standard deviations in voxels.
        size: Voxels of the axis.
    """
    length = 2 * torch.floor((KERNEL_SIGMAS * sigma + 0.5) / 2) + 1
    radius = int(length.max()) // 2
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = weights * (offsets.abs() <= length[:, None] // 2)
    weights = weights / weights.sum(1, keepdim=True)
    taken = _reflect(torch.arange(size, device=sigma.device)[:, None] + offsets, size)
    return _bands(taken.expand(len(sigma), -1, -1), weights[:, None].expand(-1, size, -1))


def _bands(taken: torch.Tensor, weights: torch.Tensor) -> Bands:
    """Matrices from the columns (P, n, k) that each row takes, and their weights."""
    count, size, _ = taken.shape
    matrices = weights.new_zeros(count, size, size).scatter_add_(2, taken, weights)
    distance = (taken - torch.arange(size, device=taken.device)[:, None]).abs()
    return Bands(matrices=matrices, reach=int(distance.max()))


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    """Mirror indices at the centres of the first and last voxel, as often as it takes."""
    if size == 1:
        return torch.zeros_like(index)
    period = 2 * (size - 1)
    folded = index.remainder(period)
    return torch.minimum(folded, period - folded)


def low_resolution_matrices(zoom: torch.Tensor, size: int) -> Bands:
    """Nearest-neighbour downsampling followed by linear upsampling of an axis.

    Args:
        zoom: (P,) size of the coarse grid relative to the fine one.
        size: Voxels of the axis.
    """
    coarse = (zoom[:, None].double() * size).round().clamp_(min=1)
    position = (torch.arange(size, device=zoom.device) + 0.5) * (coarse / size) - 0.5
    position.clamp_(min=0)
    lower = position.floor()
    weight = (position - lower).float()
    upper = torch.minimum(lower + 1, coarse - 1)
    # The fine voxel that a coarse one was taken from; rounded as torch's interpolate does.
    step = (size / coarse).float()[:, :, None]
    taken = ((torch.stack([lower, upper], 2) + 0.5) * step.double()).float().long()
    return _bands(taken.clamp_(max=size - 1), torch.stack([1 - weight, weight], 2))


def apply_along_axis(channels: torch.Tensor, bands: Bands, axis: int) -> torch.Tensor:
    """Multiply spatial axis ``axis`` of channels (P, *S) by its matrices (P, n, n)."""
    shape, size = channels.shape, channels.shape[axis + 1]
    last = axis == channels.ndim - 2
    before = 1 if last else shape[1 : axis + 1].numel()
    columns = channels.reshape(shape[0], before, *((-1, size) if last else (size, -1)))
    result = torch.empty_like(columns)
    along = 3 if last else 2
    step = -(-size // max(1, size // BLOCK))
    for start in range(0, size, step):
        stop = min(start + step, size)
        low, high = max(start - bands.reach, 0), min(stop + bands.reach, size)
        part = columns.narrow(along, low, high - low)
        rows = bands.matrices[:, None, start:stop, low:high]
        result.narrow(along, start, stop - start).copy_(part @ rows.mT if last else rows @ part)
    return result.reshape(shape)
