"""Masked soft Dice + cross-entropy, over labels (softmax) or regions and structures (sigmoid).

Voxels that are invalid (-1) or ignored (K) enter neither term: they are absent from every sum and
count, and the gradient of their logits is exactly zero; where structures overlap, each channel has
a mask of its own. Nothing waits for the device.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.config import InvalidVoxels, LossConfig
from segkit.dataset.labels import BACKGROUND, INVALID, LabelSchema
from segkit.dataset.structures import PRESENT

SMALLEST_DIVISOR = 1e-8


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a batch of logits is compared with, masked voxels already zero everywhere.

    ``channels`` is (B, O, *S) float32, one-hot or membership of a region or structure; ``valid``
    is float32, 1 where the voxel counts: (B, 1, *S), or (B, O, *S) where structures overlap.
    """

    channels: Tensor
    valid: Tensor


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Logits against their target before anything is summed, alike for softmax and sigmoid.

    ``entropy`` (B, E, *S) is the cross-entropy of every voxel (softmax, E = 1) or of every voxel
    and channel (sigmoid, E = O), 0 at best; ``counted`` says how much each counts, 0 where masked,
    with E channels or one for all. Dice compares ``probabilities`` (B, C, *S) with ``target``, its
    channels weighted by ``weights`` (C,).
    """

    entropy: Tensor
    counted: Tensor
    probabilities: Tensor
    target: Target
    weights: Tensor | None


@dataclass(frozen=True, kw_only=True)
class SegmentationLoss:
    """Dice + cross-entropy over all deep-supervision outputs.

    Args:
        schema: What the indices of the segmentation mean.
        config: Weights of the terms, kind of cross-entropy, treatment of invalid voxels.
        batch_dice: Whether Dice sums over the batch.
        class_weights: (O,) weight of every network output, on the device of the logits; None
            weighs all alike.
    """

    schema: LabelSchema
    config: LossConfig
    batch_dice: bool
    class_weights: Tensor | None = None

    def __call__(self, outputs: Tensor | list[Tensor], seg: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, O, *S), finest first, against seg (B, 1 or O, *S).

        It is 0 with zero gradient where no voxel counts.
        """
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        seg = as_trained(seg, self.config.invalid_voxels)
        weights = deep_supervision_weights(len(outputs))
        losses = [
            weight * self._single(logits.float(), resize_segmentation(seg, logits.shape[2:]))
            for weight, logits in zip(weights, outputs, strict=True)
            if weight
        ]
        return torch.stack(losses).sum()

    def _single(self, logits: Tensor, seg: Tensor) -> Tensor:
        compare = compare_channels if self.schema.sigmoid else compare_labels
        compared = compare(logits, make_target(seg, self.schema), self.class_weights)
        smooth = self.config.dice_smooth
        cross_entropy = mean_cross_entropy(compared, self.config)
        dice = dice_loss(compared, batch_dice=self.batch_dice, smooth=smooth)
        return self.config.cross_entropy_weight * cross_entropy + self.config.dice_weight * dice


def as_trained(seg: Tensor, invalid_voxels: InvalidVoxels | None) -> Tensor:
    """Turn invalid voxels into background where they are trained as such; else ``seg`` as it is.

    Whatever judges the network while it trains looks at this. Null leaves them masked.
    """
    if invalid_voxels != "background":
        return seg
    return torch.where(seg == INVALID, BACKGROUND, seg)


def inverse_log_weights(shares: Mapping[str, float]) -> dict[str, float]:
    """Weigh rare targets more, but none above 51: 1 / ln(1.02 + share).

    The bounded weighting of ENet (Paszke et al. 2016). What never occurs is nothing to learn from:
    it weighs as little as the most frequent target, and 1 where nothing occurs. It does not weigh
    0, since an output that is never trained would find it anywhere.

    Args:
        shares: Share of the annotated voxels, in 0..1, of every target.
    """
    weights = {name: 1 / math.log(1.02 + share) for name, share in shares.items() if share}
    least = min(weights.values(), default=1.0)
    return {name: weights.get(name, least) for name in shares}


def deep_supervision_weights(outputs: int) -> list[float]:
    """Weights 1, 1/2, 1/4, ... summing to 1; the lowest resolution gets 0 when there are others."""
    weights = [0.5**i for i in range(outputs)]
    if outputs > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


def resize_segmentation(seg: Tensor, shape: Sequence[int]) -> Tensor:
    """Bring (B, C, *S) to another grid by picking the nearest voxel (no label is invented)."""
    for axis, new in enumerate(shape, start=2):
        old = seg.shape[axis]
        if old != new:
            centres = 2 * torch.arange(new, device=seg.device) + 1
            seg = seg.index_select(axis, centres * old // (2 * new))
    return seg


def make_target(seg: Tensor, schema: LabelSchema) -> Target:
    """Expand a segmentation into masked target channels.

    Args:
        seg: (B, 1, *S) indices -1..K, or (B, O, *S) where structures overlap.
        schema: What they mean.
    """
    valid = (seg != INVALID) & (seg != schema.ignore_index)
    # No index of a class, region or structure is one of those, so the channels are masked already.
    if schema.overlapping:
        channels = (seg == PRESENT).float()
    elif schema.has_regions:
        channels = _region_channels(seg, schema)
    else:
        channels = _one_hot(seg, schema.num_classes)
    return Target(channels=channels, valid=valid.float())


def _one_hot(seg: Tensor, classes: int) -> Tensor:
    """(B, K, *S), written as floats at once: neither an integer nor a boolean copy is made."""
    indices = torch.arange(classes, dtype=seg.dtype, device=seg.device)
    channels = torch.empty((seg.shape[0], classes, *seg.shape[2:]), device=seg.device)
    return torch.eq(seg, _spread(indices, seg), out=channels)


def _region_channels(seg: Tensor, schema: LabelSchema) -> Tensor:
    """(B, R, *S), by comparing with numbers: a table would have to be copied to the device."""
    members = [row.nonzero()[0].tolist() for row in schema.region_members]
    inside = [reduce(operator.or_, (seg == index for index in region)) for region in members]
    return torch.cat(inside, dim=1).float()


def compare_labels(logits: Tensor, target: Target, weights: Tensor | None) -> Comparison:
    """Compare by softmax; a voxel counts as much as its class, Dice is of the foreground.

    Args:
        logits: (B, K, *S).
        target: One-hot channels.
        weights: (K,) of the classes, background first; None weighs all alike.
    """
    log_probabilities = F.log_softmax(logits, dim=1)
    counted = target.valid
    if weights is not None:
        counted = (target.channels * _spread(weights, logits)).sum(1, keepdim=True)
    return Comparison(
        entropy=-(log_probabilities * target.channels).sum(1, keepdim=True),
        counted=counted,
        probabilities=log_probabilities[:, 1:].exp(),
        target=Target(channels=target.channels[:, 1:], valid=target.valid),
        weights=None if weights is None else weights[1:],
    )


def compare_channels(logits: Tensor, target: Target, weights: Tensor | None) -> Comparison:
    """Compare every channel by a sigmoid of its own.

    Args:
        logits: (B, O, *S).
        target: Regions or structures.
        weights: (O,) of the channels; None weighs all alike.
    """
    return Comparison(
        entropy=F.binary_cross_entropy_with_logits(logits, target.channels, reduction="none"),
        counted=target.valid if weights is None else target.valid * _spread(weights, logits),
        probabilities=logits.sigmoid(),
        target=target,
        weights=weights,
    )


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """(O,) values as (1, O, 1, ...), to meet the channels of ``like``."""
    return values.reshape(1, -1, *[1] * (like.ndim - 2))


def mean_cross_entropy(compared: Comparison, config: LossConfig) -> Tensor:
    """Weighted mean of the cross-entropy over what counts; 0 where nothing does.

    ``focal`` multiplies by (1 - p)^gamma, p the probability of what is there (Lin et al. 2017,
    Focal Loss); ``topk`` keeps the hardest voxels (Wu et al. 2016, Bridging Category-level and
    Instance-level Semantic Image Segmentation).
    """
    entropy, counted = compared.entropy, compared.counted
    if config.cross_entropy == "focal":
        # Never 0, where the derivative of powers below 1 is infinite.
        missed = (-torch.expm1(-entropy)).clamp_min(SMALLEST_DIVISOR)
        entropy = missed**config.focal_gamma * entropy
    weighted = entropy * counted
    if config.cross_entropy == "topk":
        weighted, counted = _hardest(weighted, counted, config.topk_percent)
    channels_a_count = weighted.numel() // counted.numel()
    return weighted.sum() / (counted.sum() * channels_a_count).clamp_min(SMALLEST_DIVISOR)


def _hardest(weighted: Tensor, counted: Tensor, percent: float) -> tuple[Tensor, Tensor]:
    """Pick the given percentage, rounded up, of what counts, by weighted cross-entropy.

    How much counts is known to the device alone, so the largest share it could be is picked and
    the surplus zeroed.
    """
    counted = counted.expand_as(weighted).flatten()
    counts = counted > 0
    ranked = torch.where(counts, weighted.flatten(), -1.0)
    values, places = ranked.topk(math.ceil(ranked.numel() * percent / 100))
    chosen = torch.arange(len(values), device=values.device) < counts.sum() * (percent / 100)
    return values * chosen, counted[places] * chosen


def dice_loss(compared: Comparison, *, batch_dice: bool, smooth: float) -> Tensor:
    """1 - soft Dice, as the weighted mean over channels (and samples).

    Soft Dice follows Milletari et al. 2016 (V-Net) as summed by nnU-Net (Isensee et al. 2021). A
    channel without reference counts as perfect (smooth / smooth) when its predicted mass is far
    below ``smooth``, and as worst with ``smooth`` 0; one without any valid voxel does not count.
    0 where none counts.

    Args:
        compared: Probabilities and target.
        batch_dice: Sum over the batch, not only over space, before the ratio.
        smooth: Added to numerator and denominator.
    """
    probabilities, target = compared.probabilities, compared.target
    products = [probabilities * target.channels, probabilities * target.valid]
    axes = tuple(range(2, probabilities.ndim))
    sums = [x.sum(axes) for x in (*products, target.channels, target.valid)]
    if batch_dice:
        sums = [x.sum(0) for x in sums]
    intersection, predicted, reference, valid = sums
    ratio = (2 * intersection + smooth) / (reference + predicted + smooth).clamp_min(
        SMALLEST_DIVISOR
    )
    counted = (valid > 0).to(ratio.dtype).expand_as(ratio)
    if compared.weights is not None:
        counted = counted * compared.weights
    return (counted * (1 - ratio)).sum() / counted.sum().clamp_min(SMALLEST_DIVISOR)
