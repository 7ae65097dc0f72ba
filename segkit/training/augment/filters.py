"""Filters of a small neighbourhood: sharpening, and the median. Channels are (n, *S)."""

from __future__ import annotations

import math

import torch

WINDOW_VALUES = {"cpu": 1 << 21}
"""Values gathered at once for a median; elsewhere than named as many as below."""
WINDOW_VALUES_ELSEWHERE = 1 << 26


def sharpen(channels: torch.Tensor, strength: torch.Tensor) -> None:
    """Add the negative Laplacian times its strength (n,), in place; edges go on outside."""
    ndim = channels.ndim - 1
    weight = strength.view(-1, *(1,) * ndim)
    result = channels * (1 + 2 * ndim * weight)
    for axis in range(1, ndim + 1):
        size = channels.shape[axis]
        for start, stop in ((0, size - 1), (1, size)):
            # Every voxel loses the neighbour on one side; at the edge, itself.
            moved = channels.narrow(axis, start, stop - start)
            edge = channels.narrow(axis, 0 if start == 0 else size - 1, 1)
            result.narrow(axis, 1 - start, stop - start).addcmul_(moved, weight, value=-1)
            result.narrow(axis, 0 if start == 0 else size - 1, 1).addcmul_(edge, weight, value=-1)
    channels.copy_(result)


def median(channels: torch.Tensor, size: int) -> torch.Tensor:
    """Median of every window of ``size`` voxels along all axes; the image is mirrored outside.

    As ``scipy.ndimage.median_filter``: an even window reaches a voxel further to the left, and of
    an even number of values the upper one of the middle two is taken.
    """
    ndim = channels.ndim - 1
    padded = channels
    for axis in range(1, ndim + 1):
        length = channels.shape[axis]
        around = torch.arange(-(size // 2), length + size - size // 2 - 1, device=channels.device)
        padded = padded.index_select(axis, _mirrored(around, length))
    windows = padded
    for axis in range(1, ndim + 1):
        windows = windows.unfold(axis, size, 1)
    count = size**ndim
    result = torch.empty_like(channels)
    for some, out in _slabs(windows, result, count):
        values = some.reshape(*out.shape, count)
        out.copy_(values.kthvalue(count // 2 + 1, dim=-1).values)
    return result


def _slabs(
    windows: torch.Tensor, result: torch.Tensor, count: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Divide channels, and those along their first axis, into parts of not too many values."""
    most = WINDOW_VALUES.get(result.device.type, WINDOW_VALUES_ELSEWHERE)
    rows = max(1, most // (count * math.prod(result.shape[2:])))
    parts = []
    for one, out in zip(windows, result, strict=True):
        parts += list(zip(one.split(rows), out.split(rows), strict=True))
    return parts


def _mirrored(index: torch.Tensor, size: int) -> torch.Tensor:
    """Mirror indices at the outer sides of the first and last voxel, as often as it takes."""
    folded = index.remainder(2 * size)
    return torch.minimum(folded, 2 * size - 1 - folded)
