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
    """``conv(cat((upsampling(below), skip)))``, as a sum over both."""

    def __init__(self, upsampling: Any, conv: Any) -> None:
        """Take over the weights of two layers.

        Args:
            upsampling: Transposed convolution whose kernel is its stride.
            conv: Convolution of stride 1 that keeps the shape.
        """
        super().__init__()
        ndim, width = conv.weight.ndim - 2, conv.out_channels
        of_below, of_skip = conv.weight.detach().tensor_split([upsampling.out_channels], dim=1)
        weight = _composed(upsampling.weight.detach(), of_below)
        channels, _, *kernel = weight.shape
        self.below: Any = TRANSPOSED_CONV[ndim](
            channels,
            width,
            tuple(kernel),
            stride=upsampling.stride,
            padding=conv.padding,
            bias=False,
        )
        self.skip = CONV[ndim](of_skip.shape[1], width, conv.kernel_size, padding=conv.padding)
        self.below.weight = nn.Parameter(weight)
        self.skip.weight, self.skip.bias = nn.Parameter(of_skip.contiguous()), conv.bias
        # A bias below is a channel of ones there, which shows at the border: beyond it are zeros.
        bias = upsampling.bias.detach().reshape(1, -1, *[1] * ndim)
        of_ones = _composed(bias.expand(1, -1, *upsampling.stride), of_below)
        self.of_ones = nn.Parameter(of_ones)
        self._offset: Tensor | None = None

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """(B, C, *S / stride) and (B, C_skip, *S) to (B, C_out, *S)."""
        if torch.jit.is_tracing():  # type: ignore[attr-defined]
            return self._for_any_shape(below, skip)
        result: Tensor = self.below(below)
        result += self.skip(skip)
        if self._offset is None or self._offset.shape[2:] != skip.shape[2:]:
            offset = self._upsampled(below.new_ones(1, 1, *below.shape[2:]), self.of_ones)
            self._offset = torch.empty_like(result[:1]).copy_(offset)
        result += self._offset
        return result

    def _for_any_shape(self, below: Tensor, skip: Tensor) -> Tensor:
        """Compute the same without what is kept for the shape of the last image."""
        joined = torch.cat((below, torch.ones_like(below[:, :1])), dim=1)
        result = self._upsampled(joined, torch.cat([self.below.weight, self.of_ones]))
        return result + self.skip(skip)

    def _upsampled(self, features: Tensor, weight: Tensor) -> Tensor:
        stride, padding = self.below.stride, self.below.padding
        return _TRANSPOSED[weight.ndim - 2](features, weight, stride=stride, padding=padding)


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
