"""The U-Net (Ronneberger et al. 2015) with deep supervision, from lists of stages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from segkit.networks.blocks import (
    ConvUnit,
    PlainStage,
    ResidualStage,
    prediction_head,
    upsampling,
)
from segkit.planning.plan import NetworkPlan

_STAGE: dict[str, type[PlainStage] | type[ResidualStage]] = {
    "plain": PlainStage,
    "residual_encoder": ResidualStage,
}

HEADS = "decoder.heads."
"""What the names of all output layers begin with, in the state dict of a :class:`UNet`."""


class Encoder(nn.Module):
    """Stages of falling resolution; the residual encoder has a stem before the first."""

    def __init__(self, plan: NetworkPlan, *, channels_in: int) -> None:
        super().__init__()
        features = plan.features_per_stage
        if plan.kind == "plain":
            self.stem: nn.Module = nn.Identity()
            widths = [channels_in, *features]
        else:
            kernel = plan.kernel_sizes[0]
            ones = (1,) * len(kernel)
            self.stem = ConvUnit(channels_in, features[0], kernel=kernel, stride=ones)
            widths = [features[0], *features]
        self.stages = nn.ModuleList(
            _STAGE[plan.kind](before, after, count=count, kernel=kernel, stride=stride)
            for (before, after), count, kernel, stride in zip(
                pairwise(widths), plan.convs_per_stage, plan.kernel_sizes, plan.strides, strict=True
            )
        )

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of every stage, highest resolution first."""
        features = self.stem(image)
        skips = []
        for stage in self.stages:
            features = stage(features)
            skips.append(features)
        return skips


class Decoder(nn.Module):
    """Upsample, join with the skip, convolve; a head at every resolution. Deepest first."""

    def __init__(self, plan: NetworkPlan, *, channels_out: int) -> None:
        super().__init__()
        upward = list(reversed(plan.features_per_stage))
        kernels = list(reversed(plan.kernel_sizes))[1:]
        strides = list(reversed(plan.strides))[:-1]
        self.upsamplings = nn.ModuleList(
            upsampling(below, skip, stride=stride)
            for (below, skip), stride in zip(pairwise(upward), strides, strict=True)
        )
        self.stages = nn.ModuleList(
            PlainStage(2 * skip, skip, count=count, kernel=kernel, stride=(1,) * len(kernel))
            for skip, count, kernel in zip(
                upward[1:], plan.convs_per_decoder_stage, kernels, strict=True
            )
        )
        # All heads exist whether trained or not, so that one checkpoint fits both settings.
        self.heads = nn.ModuleList(
            prediction_head(skip, channels_out, ndim=len(kernels[0])) for skip in upward[1:]
        )

    def forward(self, skips: Sequence[torch.Tensor], *, all_scales: bool) -> list[torch.Tensor]:
        """Return logits, highest resolution first; only those unless ``all_scales``."""
        features, remaining = skips[-1], reversed(skips[:-1])
        logits: list[torch.Tensor] = []
        last = len(self.heads) - 1
        parts = zip(self.upsamplings, self.stages, self.heads, remaining, strict=True)
        for i, (upsample, stage, head, skip) in enumerate(parts):
            features = stage(torch.cat((upsample(features), skip), dim=1))
            if all_scales or i == last:
                logits.insert(0, head(features))
        return logits


class UNet(nn.Module):
    """Encoder and decoder.

    Every axis of the input must be a multiple of the product of the strides along it.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, *, deep_supervision: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.deep_supervision = deep_supervision

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """(B, in, *S) to logits (B, out, *S).

        In train mode with deep supervision: a list of stages - 1 logits, highest resolution
        first, entry i downsampled by the product of the strides of the first i + 1 stages.
        """
        every = self.training and self.deep_supervision
        logits: list[torch.Tensor] = self.decoder(self.encoder(image), all_scales=every)
        return logits if every else logits[0]
