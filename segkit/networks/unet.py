"""The U-Net (Ronneberger et al. 2015) with deep supervision, from lists of stages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from segkit.networks.blocks import (
    ConvUnit,
    PlainStage,
    ResidualStage,
    UnitSettings,
    first_only,
    prediction_head,
    upsampling,
)
from segkit.networks.checkpointing import recomputed
from segkit.networks.fusing import FusedUpsampling, fusing_pays
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
        features, settings = plan.features_per_stage, unit_settings(plan)
        if plan.kind == "plain":
            self.stem: nn.Module = nn.Identity()
            widths = [channels_in, *features]
        else:
            kernel = plan.kernel_sizes[0]
            ones = (1,) * len(kernel)
            self.stem = ConvUnit(
                channels_in, features[0], kernel=kernel, stride=ones, settings=settings
            )
            widths = [features[0], *features]
        stages = zip(
            pairwise(widths), plan.convs_per_stage, plan.kernel_sizes, plan.strides, strict=True
        )
        self.stages = nn.ModuleList(
            _STAGE[plan.kind](
                *widths, kernel=kernel, strides=first_only(stride, count), settings=settings
            )
            for widths, count, kernel, stride in stages
        )

    def forward(self, image: torch.Tensor, *, checkpointing: bool = False) -> list[torch.Tensor]:
        """Return the features of every stage, highest resolution first."""
        keep = not checkpointing or isinstance(self.stem, nn.Identity)
        features = self.stem(image) if keep else recomputed(self.stem, self.stem, image)
        skips = []
        for stage in self.stages:
            features = recomputed(stage, stage, features) if checkpointing else stage(features)
            skips.append(features)
        return skips


class Decoder(nn.Module):
    """Upsample, join with the skip, convolve; a head at every resolution. Deepest first."""

    def __init__(self, plan: NetworkPlan, *, channels_out: int) -> None:
        super().__init__()
        upward = list(reversed(plan.features_per_stage))
        kernels = list(reversed(plan.kernel_sizes))[1:]
        strides = list(reversed(plan.strides))[:-1]
        settings = unit_settings(plan)
        self.upsamplings = nn.ModuleList(
            upsampling(below, skip, stride=stride)
            for (below, skip), stride in zip(pairwise(upward), strides, strict=True)
        )
        self.stages = nn.ModuleList(
            PlainStage(
                2 * skip,
                skip,
                kernel=kernel,
                strides=[(1,) * len(kernel)] * count,
                settings=settings,
            )
            for skip, count, kernel in zip(
                upward[1:], plan.convs_per_decoder_stage, kernels, strict=True
            )
        )
        # All heads exist whether trained or not, so that one checkpoint fits both settings.
        self.heads = nn.ModuleList(
            prediction_head(skip, channels_out, ndim=len(kernels[0])) for skip in upward[1:]
        )

    def forward(
        self, skips: Sequence[torch.Tensor], *, all_scales: bool, checkpointing: bool = False
    ) -> list[torch.Tensor]:
        """Return logits, highest resolution first; only those unless ``all_scales``."""
        features, remaining = skips[-1], reversed(skips[:-1])
        logits: list[torch.Tensor] = []
        last = len(self.heads) - 1
        parts = zip(self.upsamplings, self.stages, self.heads, remaining, strict=True)
        for i, (upsample, stage, head, skip) in enumerate(parts):
            run = partial(_upward, upsample, stage)
            if checkpointing:
                features = recomputed(run, stage, features, skip)
            else:
                features = run(features, skip)
            if all_scales or i == last:
                logits.insert(0, head(features))
        return logits


class UNet(nn.Module):
    """Encoder and decoder.

    Every axis of the input must be a multiple of the product of the strides along it.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        *,
        deep_supervision: bool,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.deep_supervision = deep_supervision
        self.checkpointing = checkpointing

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """(B, in, *S) to logits (B, out, *S).

        In train mode with deep supervision: a list of stages - 1 logits, highest resolution
        first, entry i downsampled by the product of the strides of the first i + 1 stages.
        """
        every = self.training and self.deep_supervision
        sparing = self.training and self.checkpointing and torch.is_grad_enabled()
        skips = self.encoder(image, checkpointing=sparing)
        logits: list[torch.Tensor] = self.decoder(skips, all_scales=every, checkpointing=sparing)
        return logits if every else logits[0]


def fuse_upsamplings(network: nn.Module, *, traceable: bool = False) -> None:
    """Leave out operations of a trained U-Net's decoder that its logits do not need.

    Wherever that saves multiplications, upsampling and first convolution of a stage become one.
    The network is changed in place, for prediction only; networks of other classes stay.

    Args:
        network: In eval mode.
        traceable: Whether it is going to be traced.
    """
    if not isinstance(network, UNet):
        return
    decoder: Any = network.decoder
    for i, (upsample, stage) in enumerate(zip(decoder.upsamplings, decoder.stages, strict=True)):
        first = stage.convs[0]
        if not isinstance(upsample, FusedUpsampling) and fusing_pays(upsample, first.conv):
            fused = FusedUpsampling(upsample, first.conv, traceable=traceable)
            decoder.upsamplings[i], first.conv = fused, nn.Identity()


def unit_settings(plan: NetworkPlan) -> UnitSettings:
    """What all convolution units of a planned U-Net are made of."""
    return UnitSettings(norm=plan.norm, dropout=plan.dropout)


def _upward(
    upsample: nn.Module, stage: nn.Module, features: torch.Tensor, skip: torch.Tensor
) -> torch.Tensor:
    """One step of the decoder, from the features below and the skip to those of the skip."""
    fused = isinstance(upsample, FusedUpsampling)
    joined = upsample(features, skip) if fused else torch.cat((upsample(features), skip), dim=1)
    result: torch.Tensor = stage(joined)
    return result
