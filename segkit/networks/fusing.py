"""Upsampling and the convolution after it as one operation, for trained networks.

A convolution of joined features is the sum of a convolution of each, and nothing lies between a
transposed convolution and the convolution after it: both are a single transposed convolution with
a larger kernel. Each of its outputs sums over the few features below that it sees, not over
upsampled copies of them, and nothing is joined. The result is the same but for rounding.
"""

from __future__ import annotations

import math
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
        composed = _composed(_with_bias(upsampling), of_below)
        channels, _, *kernel = composed.shape
        self.below = TRANSPOSED_CONV[ndim](
            channels,
            width,
            tuple(kernel),
            stride=upsampling.stride,
            padding=conv.padding,
            bias=False,
        )
        self.skip = CONV[ndim](of_skip.shape[1], width, conv.kernel_size, padding=conv.padding)
        self.below.weight = nn.Parameter(composed)
        self.skip.weight, self.skip.bias = nn.Parameter(of_skip.contiguous()), conv.bias

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """(B, C, *S / stride) and (B, C_skip, *S) to (B, C_out, *S)."""
        ones = torch.ones_like(below[:, :1])
        result: Tensor = self.below(torch.cat((below, ones), dim=1))
        result += self.skip(skip)
        return result


def _with_bias(upsampling: Any) -> Tensor:
    """Return the weights (C + 1, between, *stride) for one more channel below, of ones.

    At the border a bias counts for less, for the convolution sees zeros beyond: what a channel
    brings about is right there too.
    """
    weight, bias = upsampling.weight.detach(), upsampling.bias.detach()
    of_ones = bias.reshape(1, -1, *[1] * (weight.ndim - 2)).expand(1, *weight.shape[1:])
    return torch.cat((weight, of_ones))


def _composed(upsampling: Tensor, conv: Tensor) -> Tensor:
    """Compose weights (C, between, *stride) and (C_out, between, *kernel).

    Returns:
        (C, C_out, *(stride + kernel - 1)), of a transposed convolution with that stride.
    """
    ndim = conv.ndim - 2
    convolve = {2: F.conv_transpose2d, 3: F.conv_transpose3d}[ndim]
    mirrored = conv.double().transpose(0, 1).flip(tuple(range(2, ndim + 2)))
    composed: Tensor = convolve(upsampling.double(), mirrored)
    return composed.to(conv.dtype)


def fusing_pays(upsampling: Any, conv: Any) -> bool:
    """Whether fewer multiplications are left; they are counted for an output and its channel."""
    below, between = upsampling.in_channels, upsampling.out_channels
    apart = between * math.prod(conv.kernel_size) + below * between / conv.out_channels
    sizes = zip(conv.kernel_size, upsampling.stride, strict=True)
    return below * math.prod((k + s - 1) / s for k, s in sizes) < apart
