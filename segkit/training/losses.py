"""Masked soft Dice + cross-entropy, over labels (softmax) or regions and structures (sigmoid).

Voxels that are invalid (-1) or ignored (K) enter neither term: they are absent from every sum and
count, and the gradient of their logits is exactly zero; where structures overlap, each channel has
a mask of its own. Nothing waits for the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from segkit.config import LossConfig
from segkit.dataset.labels import LabelSchema
from segkit.training.comparison import Comparison, Kind, compare
from segkit.training.targets import as_trained, make_target, resize_segmentation

SMALLEST_DIVISOR = 1e-8


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
        config, target = self.config, make_target(seg, self.schema)
        kind = comparison_kind(self.schema, config)
        compared = compare(kind, logits, target, self.class_weights, config.label_smoothing)
        terms = []
        if config.cross_entropy_weight:
            terms.append(config.cross_entropy_weight * mean_cross_entropy(compared, config))
        if config.dice_weight:
            dice = dice_loss(compared, batch_dice=self.batch_dice, smooth=config.dice_smooth)
            terms.append(config.dice_weight * dice)
        return torch.stack(terms).sum()


def comparison_kind(schema: LabelSchema, config: LossConfig) -> Kind:
    """Say how logits are compared: by what overlaps, and by what the recipe wants."""
    if schema.sigmoid:
        return "sigmoid"
    return "one_vs_rest" if config.one_vs_rest else "softmax"


def deep_supervision_weights(outputs: int) -> list[float]:
    """Weights 1, 1/2, 1/4, ... summing to 1; the lowest resolution gets 0 when there are others."""
    weights = [0.5**i for i in range(outputs)]
    if outputs > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


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
