"""Upsampling and the convolution after it as one operation, for trained networks.

A convolution of joined features is the sum of a convolution of each, and nothing lies between a
transposed convolution and the convolution after it: both are a single transposed convolution with
a larger kernel. Each of its outputs sums over the few features below that it sees, not over
upsampled copies of them, and nothing is joined. The result is the same but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from segkit.networks.blocks import CONV, TRANSPOSED_CONV

Axes = tuple[int, ...]
Region = tuple[Any, ...]
"""Index of some voxels of (B, C, *S)."""


class FusedUpsampling(nn.Module):
    """``conv(cat((upsampling(below), skip)))``, as a sum over both.

    The bias of the upsampling adds a constant, and less at the border: the convolution sees zeros
    beyond, whose taps add nothing.
    """

    def __init__(self, upsampling: Any, conv: Any, *, traceable: bool) -> None:
        """Take over the weights of two layers, which stay as they are.

        Args:
            upsampling: Transposed convolution, 2D or 3D, whose kernel is its stride.
            conv: Convolution of stride 1 that keeps the shape.
            traceable: Let one more channel below, of ones, add what the bias does, for a trace
                must hold for any shape. Otherwise the border is corrected, which takes no time.
        """
        super().__init__()
        ndim = conv.weight.ndim - 2
        of_below, of_skip = conv.weight.detach().tensor_split([upsampling.out_channels], dim=1)
        weight = _composed(upsampling.weight.detach(), of_below)
        taps = torch.einsum("oc...,c->o...", of_below, upsampling.bias.detach())
        bias = taps.new_zeros(len(taps)) if conv.bias is None else conv.bias.detach()
        if traceable:
            ones = upsampling.bias.detach().reshape(1, -1, *[1] * ndim)
            ones = ones.expand(1, -1, *upsampling.stride)
            weight = torch.cat((weight, _composed(ones, of_below)))
        else:
            bias = bias + taps.flatten(1).sum(1)
        layout: dict[str, Any] = {"padding": conv.padding, "dtype": weight.dtype}
        self.below = _with_weights(
            TRANSPOSED_CONV[ndim], weight.transpose(0, 1), None, stride=upsampling.stride, **layout
        )
        self.skip = _with_weights(CONV[ndim], of_skip, bias, **layout)
        self.traceable = traceable
        self._taps = taps
        self._shape: Axes = ()
        self._border: list[tuple[Region, Tensor]] = []

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """(B, C, *S / stride) and (B, C_skip, *S) to (B, C_out, *S)."""
        if self.traceable:
            below = torch.cat((below, torch.ones_like(below[:, :1])), dim=1)
        result: Tensor = self.below(below)
        result += self.skip(skip)
        if not self.traceable:
            for region, missing in self._border_of(tuple(skip.shape[2:])):
                result[region] -= missing
        return result

    def _border_of(self, shape: Axes) -> list[tuple[Region, Tensor]]:
        """Return the regions at the border and what their missing taps (C_out, 1, ...) added.

        It is kept for the shape that came last: all tiles of an image have the same.
        """
        if shape != self._shape:
            self._border, self._shape = list(_missing(self._taps, shape)), shape
        return self._border


def _missing(taps: Tensor, shape: Axes) -> Iterator[tuple[Region, Tensor]]:
    """Yield where taps (C_out, *kernel) lie beyond (B, C_out, *shape), and their sum there."""
    whole = taps.flatten(1).sum(1)
    axes = [_seen(size, kernel) for size, kernel in zip(shape, taps.shape[1:], strict=True)]
    for parts in product(*axes):
        region: Region = (..., *(where for where, _ in parts))
        seen: Region = (..., *(part for _, part in parts))
        if taps[seen].shape != taps.shape:
            missing = whole - taps[seen].flatten(1).sum(1)
            yield region, missing.reshape(-1, *[1] * len(shape))


def _seen(size: int, kernel: int) -> list[tuple[slice, slice]]:
    """Divide an axis into slices whose voxels see the same taps of a kernel, and these."""
    reach = (kernel - 1) // 2
    edges = [*range(min(reach, size)), *range(max(reach, size - reach), size)]
    found = [
        (slice(i, i + 1), slice(max(reach - i, 0), min(size - i + reach, kernel))) for i in edges
    ]
    if size > 2 * reach:
        found.append((slice(reach, size - reach), slice(None)))
    return found


def _composed(upsampling: Tensor, conv: Tensor) -> Tensor:
    """Compose weights (C, between, *stride) and (C_out, between, *kernel).

    Returns:
        (C, C_out, *(stride + kernel - 1)), of a transposed convolution with that stride.
    """
    stride, kernel = upsampling.shape[2:], conv.shape[2:]
    mirrored = conv.flip(tuple(range(2, conv.ndim)))
    sizes = [s + k - 1 for s, k in zip(stride, kernel, strict=True)]
    composed = conv.new_zeros(len(upsampling), len(conv), *sizes)
    for tap in product(*map(range, stride)):
        window = tuple(slice(t, t + k) for t, k in zip(tap, kernel, strict=True))
        one: Region = (..., *tap)
        reached: Region = (..., *window)
        composed[reached] += torch.tensordot(upsampling[one], mirrored, dims=([1], [1]))
    return composed


def _with_weights(kind: Any, weight: Tensor, bias: Tensor | None, **options: Any) -> Any:
    """Make a convolution of weights (C_out, C_in, *kernel)."""
    width, channels, *kernel = weight.shape
    # Of one channel, so that no weights are drawn only to be thrown away.
    made = kind(1, 1, tuple(kernel), bias=bias is not None, **options)
    made.in_channels, made.out_channels = channels, width
    own = weight.transpose(0, 1) if made.transposed else weight
    made.weight = nn.Parameter(own.contiguous())
    made.bias = None if bias is None else nn.Parameter(bias)
    return made


def fusing_pays(upsampling: Any, conv: Any) -> bool:
    """Whether fewer multiplications are left; they are counted for an output and its channel."""
    below, between = upsampling.in_channels, upsampling.out_channels
    apart = between * math.prod(conv.kernel_size) + below * between / conv.out_channels
    sizes = zip(conv.kernel_size, upsampling.stride, strict=True)
    return below * math.prod((k + s - 1) / s for k, s in sizes) < apart
