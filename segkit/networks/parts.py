"""The parts of a U-Net by what they do, whatever their names are in its state dict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from segkit.planning.plan import NetworkPlan

Side = Literal["encoder", "projection", "upsampling", "decoder", "output"]


class Part(NamedTuple):
    """A convolution with its norm, an upsampling or an output layer."""

    side: Side
    stage: int
    """0 has the highest resolution; what a decoder stage or upsampling leads to counts."""
    place: int = 0
    """Which one of the stage, in the order they are run in; blocks for projections."""


IMAGE = Part("encoder", 0)
"""What the image goes into."""


def unet_parts(plan: NetworkPlan) -> dict[Part, str]:
    """Return what the names of every part's tensors begin with.

    A plain and a residual encoder count alike: the n-th convolution of a stage is the n-th,
    the stem is the first of the first stage. Projections are on the skips of residual blocks.
    """
    return {**dict(_encoder_parts(plan)), **dict(_decoder_parts(plan))}


def _encoder_parts(plan: NetworkPlan) -> Iterator[tuple[Part, str]]:
    widths = (plan.features_per_stage[0], *plan.features_per_stage)
    for stage, count in enumerate(plan.convs_per_stage):
        prefix = f"encoder.stages.{stage}"
        if plan.kind == "plain":
            names = [f"{prefix}.convs.{i}" for i in range(count)]
        else:
            stem = ["encoder.stem"] if stage == 0 else []
            pairs = [f"{prefix}.blocks.{i}.conv{j}" for i in range(count) for j in (1, 2)]
            names = [*stem, *pairs]
            if widths[stage] != widths[stage + 1]:
                yield Part("projection", stage), f"{prefix}.blocks.0.project"
        yield from ((Part("encoder", stage, place), name) for place, name in enumerate(names))


def _decoder_parts(plan: NetworkPlan) -> Iterator[tuple[Part, str]]:
    """Decoder stages are numbered from the deepest."""
    deepest = len(plan.convs_per_decoder_stage) - 1
    for i, count in enumerate(plan.convs_per_decoder_stage):
        stage = deepest - i
        yield Part("upsampling", stage), f"decoder.upsamplings.{i}"
        for place in range(count):
            yield Part("decoder", stage, place), f"decoder.stages.{i}.convs.{place}"
        yield Part("output", stage), f"decoder.heads.{i}"
