"""Building blocks of the U-Nets: convolution units and residual blocks, in 2D or 3D.

The number of dimensions follows from the kernel: ``(3, 3)`` is 2D, ``(1, 3, 3)`` is 3D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from segkit.networks.norm import channels_last_norm, is_channels_last_on_cpu
from segkit.networks.pool import average_pool
from segkit.types import Norm

Axes = tuple[int, ...]

LEAKY_SLOPE = 0.01
"""Slope of LeakyReLU for negative values."""
SMALLEST_EDGE_IN_BF16 = 3
"""Voxels an axis must have for CPUs to be trusted with bfloat16."""

CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED_CONV: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORM: dict[tuple[Norm, int], type[nn.Module]] = {
    ("instance", 2): nn.InstanceNorm2d,
    ("instance", 3): nn.InstanceNorm3d,
    ("batch", 2): nn.BatchNorm2d,
    ("batch", 3): nn.BatchNorm3d,
}
_DROPOUT: dict[int, type[nn.Module]] = {2: nn.Dropout2d, 3: nn.Dropout3d}


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitSettings:
    """What a convolution unit is made of."""

    norm: Norm = "instance"
    dropout: float = 0.0
    """Chance that a channel is dropped in training (Tompson et al. 2015)."""
    bias: bool = True
    activate: bool = True


PLAIN_UNIT = UnitSettings()


def convolution(
    channels_in: int, channels_out: int, *, kernel: Axes, stride: Axes, bias: bool = True
) -> nn.Module:
    """Convolution that keeps the shape at stride 1 (odd kernels)."""
    padding = tuple((size - 1) // 2 for size in kernel)
    return CONV[len(kernel)](
        channels_in, channels_out, kernel, stride=stride, padding=padding, bias=bias
    )


def upsampling(channels_in: int, channels_out: int, *, stride: Axes) -> nn.Module:
    """Transposed convolution whose kernel is its stride, so that its outputs never overlap."""
    return TRANSPOSED_CONV[len(stride)](channels_in, channels_out, stride, stride=stride)


def prediction_head(channels_in: int, channels_out: int, *, ndim: int) -> nn.Module:
    """1x1 convolution from features to logits."""
    ones = (1,) * ndim
    return convolution(channels_in, channels_out, kernel=ones, stride=ones)


def convolve(conv: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """Convolve in the number format of autocast, or in float32 where a CPU gets that wrong.

    With few voxels along an axis, the gradient of bfloat16 weights is then memory that nobody has
    written (torch 2.13 with oneDNN, 3D with two planes above all); forward is right.
    """
    rounded = features.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if rounded and torch.is_grad_enabled() and min(features.shape[2:]) < SMALLEST_EDGE_IN_BF16:
        with torch.autocast("cpu", enabled=False):
            return conv(features.float())
    return conv(features)


class ConvUnit(nn.Module):
    """Convolution, dropout, instance or batch norm and, unless switched off, LeakyReLU."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel: Axes,
        stride: Axes,
        settings: UnitSettings = PLAIN_UNIT,
    ) -> None:
        super().__init__()
        ndim, bias = len(kernel), settings.bias
        self.conv = convolution(channels_in, channels_out, kernel=kernel, stride=stride, bias=bias)
        self.dropout = _DROPOUT[ndim](settings.dropout) if settings.dropout else None
        self.norm = _NORM[settings.norm, ndim](channels_out, eps=1e-5, affine=True)
        self.slope = LEAKY_SLOPE if settings.activate else 1.0

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, channels_in, *S) to (B, channels_out, *S / stride)."""
        features = convolve(self.conv, features)
        if self.dropout is not None:
            features = self.dropout(features)
        norm = self.norm
        if isinstance(norm, _InstanceNorm) and is_channels_last_on_cpu(features):
            # What a convolution has just made nobody else holds, unless its gradient is to come.
            return channels_last_norm(
                features,
                norm.weight,
                norm.bias,
                eps=norm.eps,
                slope=self.slope,
                in_place=not torch.is_grad_enabled(),
            )
        features = norm(features)
        # In place is safe: a norm keeps its input, not its output, for the gradient.
        return features if self.slope == 1 else F.leaky_relu_(features, self.slope)


class PlainStage(nn.Module):
    """Convolution units one after another; the first changes channels and resolution."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel: Axes,
        strides: Sequence[Axes],
        settings: UnitSettings = PLAIN_UNIT,
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(
                ConvUnit(before, after, kernel=kernel, stride=stride, settings=settings)
                for (before, after), stride in zip(
                    pairwise([channels_in] + [channels_out] * len(strides)), strides, strict=True
                )
            )
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, channels_in, *S) to (B, channels_out, *S / strides)."""
        result: torch.Tensor = self.convs(features)
        return result


class ResidualBlock(nn.Module):
    """Two convolutions around a skip (He et al. 2016, basic block, average-pooled skip).

    The skip is pooled where the block strides, and projected where the channels change. Channels
    are dropped after the first convolution alone.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel: Axes,
        stride: Axes,
        settings: UnitSettings = PLAIN_UNIT,
    ) -> None:
        super().__init__()
        ones = (1,) * len(kernel)
        added = replace(settings, dropout=0.0, activate=False)
        skipped = replace(added, bias=False)
        widths = channels_in, channels_out
        self.conv1 = ConvUnit(*widths, kernel=kernel, stride=stride, settings=settings)
        self.conv2 = ConvUnit(
            channels_out, channels_out, kernel=kernel, stride=ones, settings=added
        )
        self.stride = stride
        self.project = (
            ConvUnit(*widths, kernel=ones, stride=ones, settings=skipped)
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
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel: Axes,
        strides: Sequence[Axes],
        settings: UnitSettings = PLAIN_UNIT,
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(before, after, kernel=kernel, stride=stride, settings=settings)
                for (before, after), stride in zip(
                    pairwise([channels_in] + [channels_out] * len(strides)), strides, strict=True
                )
            )
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, channels_in, *S) to (B, channels_out, *S / strides)."""
        result: torch.Tensor = self.blocks(features)
        return result


def first_only(stride: Axes, count: int) -> Sequence[Axes]:
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
