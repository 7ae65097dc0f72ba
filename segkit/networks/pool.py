"""Average pooling; for channels-last features on a CPU with windows added up in place.

torch pools such features in another layout, and in float32 alone: they are copied before and
after, in both directions, which takes five times as long.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segkit.networks.norm import is_channels_last_on_cpu
from segkit.precision import channels_last_format

_AVERAGE_POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}


def average_pool(features: Tensor, stride: tuple[int, ...]) -> Tensor:
    """Mean of every window of (B, C, *S), whose size is its stride; voxels left over are dropped.

    A stride of ones gives the features themselves.
    """
    if max(stride) == 1:
        return features
    if is_channels_last_on_cpu(features):
        result: Tensor = _ChannelsLastPool.apply(features, stride)
        return result
    return _AVERAGE_POOL[len(stride)](features, stride, stride)


class _ChannelsLastPool(torch.autograd.Function):
    """Sums in float32, whatever the features are."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, stride: tuple[int, ...]) -> Tensor:
        ctx.stride, ctx.shape = stride, features.shape
        total: Tensor | None = None
        for voxels in _window_voxels(features, stride):
            total = voxels.to(torch.float32, copy=True) if total is None else total.add_(voxels)
        assert total is not None
        return total.div_(math.prod(stride)).to(features.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        layout = channels_last_format(len(ctx.shape))
        downward = torch.zeros(ctx.shape, dtype=gradient.dtype).contiguous(memory_format=layout)
        share = gradient / math.prod(ctx.stride)
        for voxels in _window_voxels(downward, ctx.stride):
            voxels.copy_(share)
        return downward, None


def _window_voxels(features: Tensor, stride: tuple[int, ...]) -> Iterator[Tensor]:
    """View the first voxel of every window, then the second, and so on."""
    whole = [size // step * step for size, step in zip(features.shape[2:], stride, strict=True)]
    for offsets in itertools.product(*map(range, stride)):
        slices = (
            slice(first, stop, step)
            for first, stop, step in zip(offsets, whole, stride, strict=True)
        )
        yield features[(slice(None), slice(None), *slices)]
