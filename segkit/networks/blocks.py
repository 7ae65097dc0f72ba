"""Building blocks of the U-Nets: convolution units and residual blocks, in 2D or 3D.

The number of dimensions follows from the kernel: ``(3, 3)`` is 2D, ``(1, 3, 3)`` is 3D.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from segkit.networks.norm import channels_last_norm, is_channels_last_on_cpu
from segkit.networks.pool import average_pool

Axes = tuple[int, ...]

LEAKY_SLOPE = 0.01
"""Slope of LeakyReLU for negative values."""

_CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED_CONV: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_INSTANCE_NORM: dict[int, type[nn.InstanceNorm2d | nn.InstanceNorm3d]] = {
    2: nn.InstanceNorm2d,
    3: nn.InstanceNorm3d,
}


def convolution(
    channels_in: int, channels_out: int, *, kernel: Axes, stride: Axes, bias: bool = True
) -> nn.Module:
    """Convolution that keeps the shape at stride 1 (odd kernels)."""
    padding = tuple((size - 1) // 2 for size in kernel)
    return _CONV[len(kernel)](
        channels_in, channels_out, kernel, stride=stride, padding=padding, bias=bias
    )


def upsampling(channels_in: int, channels_out: int, *, stride: Axes) -> nn.Module:
    """Transposed convolution whose kernel is its stride, so that its outputs never overlap."""
    return _TRANSPOSED_CONV[len(stride)](channels_in, channels_out, stride, stride=stride)


def prediction_head(channels_in: int, channels_out: int, *, ndim: int) -> nn.Module:
    """1x1 convolution from features to logits."""
    ones = (1,) * ndim
    return convolution(channels_in, channels_out, kernel=ones, stride=ones)


class ConvUnit(nn.Module):
    """Convolution, instance norm and, unless switched off, LeakyReLU."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel: Axes,
        stride: Axes,
        bias: bool = True,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.conv = convolution(channels_in, channels_out, kernel=kernel, stride=stride, bias=bias)
        self.norm = _INSTANCE_NORM[len(kernel)](channels_out, eps=1e-5, affine=True)
        self.slope = LEAKY_SLOPE if activate else 1.0

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, channels_in, *S) to (B, channels_out, *S / stride)."""
        features = self.conv(features)
        if is_channels_last_on_cpu(features):
            norm = self.norm
            return channels_last_norm(
                features, norm.weight, norm.bias, eps=norm.eps, slope=self.slope
            )
        # In place is safe: instance norm keeps its input, not its output, for the gradient.
        return F.leaky_relu_(self.norm(features), self.slope)


class PlainStage(nn.Module):
    """Convolution units one after another; the first changes channels and resolution."""

    def __init__(
        self, channels_in: int, channels_out: int, *, count: int, kernel: Axes, stride: Axes
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(
                ConvUnit(before, after, kernel=kernel, stride=step)
                for (before, after), step in zip(
                    pairwise([channels_in] + [channels_out] * count),
                    _first_only(stride, count),
                    strict=True,
                )
            )
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, channels_in, *S) to (B, channels_out, *S / stride)."""
        result: torch.Tensor = self.convs(features)
        return result


class ResidualBlock(nn.Module):
    """Two convolutions around a skip (He et al. 2016, basic block, average-pooled skip).

    The skip is pooled where the block strides, and projected where the channels change.
    """

    def __init__(self, channels_in: int, channels_out: int, *, kernel: Axes, stride: Axes) -> None:
        super().__init__()
        ones = (1,) * len(kernel)
        self.conv1 = ConvUnit(channels_in, channels_out, kernel=kernel, stride=stride)
        self.conv2 = ConvUnit(
            channels_out, channels_out, kernel=kernel, stride=ones, activate=False
        )
        self.stride = stride
        self.project = (
            ConvUnit(
                channels_in, channels_out, kernel=ones, stride=ones, bias=False, activate=False
            )
            if channels_in != channels_out
            else nn.Identity()
        )
        self.activation = nn.LeakyReLU(LEAKY_SLOPE, inplace=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, channels_in, *S) to (B, channels_out, *S / stride)."""
        skip = self.project(average_pool(features, self.stride))
        result: torch.Tensor = self.activation(self.conv2(self.conv1(features)) + skip)
        return result


class ResidualStage(nn.Module):
    """Residual blocks one after another; the first changes channels and resolution."""

    def __init__(
        self, channels_in: int, channels_out: int, *, count: int, kernel: Axes, stride: Axes
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(before, after, kernel=kernel, stride=step)
                for (before, after), step in zip(
                    pairwise([channels_in] + [channels_out] * count),
                    _first_only(stride, count),
                    strict=True,
                )
            )
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, channels_in, *S) to (B, channels_out, *S / stride)."""
        result: torch.Tensor = self.blocks(features)
        return result


def _first_only(stride: Axes, count: int) -> Sequence[Axes]:
    """``stride`` for the first of ``count`` layers, ones for all others."""
    return [stride] + [(1,) * len(stride)] * (count - 1)


@torch.no_grad()
def initialize(network: nn.Module) -> None:
    """Start all weights as nnU-Net does.

    Kaiming-normal (He et al. 2015) for the leaky slope, biases zero. The last norm of every
    residual block starts at zero, so that each block starts as its skip.
    """
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            for parameter in module.conv2.norm.parameters():
                nn.init.zeros_(parameter)
