"""Upsampling and the convolution after it as one operation, for trained networks.

A convolution of joined features is the sum of a convolution of each, and nothing lies between a
transposed convolution and the convolution after it: both are a single transposed convolution with
a larger kernel. Each of its outputs sums over the few features below that it sees, not over
upsampled copies of them, and nothing is joined. The result is the same but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.networks.blocks import CONV, TRANSPOSED_CONV


class FusedUpsampling(nn.Module):
    """``conv(cat((upsampling(below), skip)))``, as a sum over both.

    The bias of the upsampling is the weight of one more channel below, of ones: it counts for less
    at the border, as the convolution sees zeros beyond.
    """

    def __init__(self, upsampling: Any, conv: Any, *, for_any_shape: bool) -> None:
        """Take over the weights of two layers.

        Args:
            upsampling: Transposed convolution whose kernel is its stride.
            conv: Convolution of stride 1 that keeps the shape.
            for_any_shape: Join the channel of ones in every pass, as a trace must, which holds for
                any shape. Otherwise what it adds is kept for the shape that came last.
        """
        super().__init__()
        ndim, width = conv.weight.ndim - 2, conv.out_channels
        of_below, of_skip = conv.weight.detach().tensor_split([upsampling.out_channels], dim=1)
        bias = upsampling.bias.detach().reshape(1, -1, *[1] * ndim)
        of_ones = bias.expand(1, -1, *upsampling.stride)
        weight = _composed(torch.cat((upsampling.weight.detach(), of_ones)), of_below)
        self.of_ones = None if for_any_shape else nn.Parameter(weight[-1:])
        weight = weight if for_any_shape else weight[:-1]
        self.below: Any = TRANSPOSED_CONV[ndim](
            len(weight),
            width,
            tuple(weight.shape[2:]),
            stride=upsampling.stride,
            padding=conv.padding,
            bias=False,
        )
        self.skip = CONV[ndim](of_skip.shape[1], width, conv.kernel_size, padding=conv.padding)
        self.below.weight = nn.Parameter(weight.contiguous())
        self.skip.weight, self.skip.bias = nn.Parameter(of_skip.contiguous()), conv.bias
        self._offset: Tensor | None = None

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """(B, C, *S / stride) and (B, C_skip, *S) to (B, C_out, *S)."""
        if self.of_ones is None:
            below = torch.cat((below, torch.ones_like(below[:, :1])), dim=1)
        result: Tensor = self.below(below)
        result += self.skip(skip)
        if self.of_ones is not None:
            result += self._added(below, result, self.of_ones)
        return result

    def _added(self, below: Tensor, result: Tensor, of_ones: Tensor) -> Tensor:
        """Return (1, C_out, *S), laid out as the result: what the channel of ones adds."""
        if self._offset is None or self._offset.shape[2:] != result.shape[2:]:
            ones = below.new_ones(1, 1, *below.shape[2:])
            stride, padding = self.below.stride, self.below.padding
            added = _TRANSPOSED[below.ndim - 2](ones, of_ones, stride=stride, padding=padding)
            self._offset = torch.empty_like(result[:1]).copy_(added)
        return self._offset


_TRANSPOSED: Mapping[int, Callable[..., Tensor]] = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _composed(upsampling: Tensor, conv: Tensor) -> Tensor:
    """Compose weights (C, between, *stride) and (C_out, between, *kernel).

    Returns:
        (C, C_out, *(stride + kernel - 1)), of a transposed convolution with that stride.
    """
    ndim = conv.ndim - 2
    mirrored = conv.double().transpose(0, 1).flip(tuple(range(2, ndim + 2)))
    return _TRANSPOSED[ndim](upsampling.double(), mirrored).to(conv.dtype)


def fusing_pays(upsampling: Any, conv: Any) -> bool:
    """Whether fewer multiplications are left; they are counted for an output and its channel."""
    below, between = upsampling.in_channels, upsampling.out_channels
    apart = between * math.prod(conv.kernel_size) + below * between / conv.out_channels
    sizes = zip(conv.kernel_size, upsampling.stride, strict=True)
    return below * math.prod((k + s - 1) / s for k, s in sizes) < apart
