"""Masked soft Dice + cross-entropy, over labels (softmax) or regions (sigmoid).

Voxels that are invalid (-1) or ignored (K) enter neither term: they are absent from every sum and
count, and the gradient of their logits is exactly zero. Soft Dice follows Milletari et al. 2016
(V-Net) as summed by nnU-Net (Isensee et al. 2021): over space, or over space and batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.config import LossConfig
from segkit.dataset.labels import BACKGROUND, INVALID, LabelSchema


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a batch of logits is compared with, masked voxels already zero everywhere.

    ``channels`` is (B, O, *S) float32, one-hot or region membership; ``valid`` is (B, 1, *S)
    float32, 1 where the voxel counts.
    """

    channels: Tensor
    valid: Tensor


def deep_supervision_weights(outputs: int) -> list[float]:
    """Weights 1, 1/2, 1/4, ... summing to 1; the lowest resolution gets 0 when there are others."""
    weights = [0.5**i for i in range(outputs)]
    if outputs > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


def make_target(seg: Tensor, schema: LabelSchema) -> Target:
    """Expand a segmentation (B, 1, *S) of indices -1..K into masked target channels."""
    valid = (seg != INVALID) & (seg != schema.ignore_index)
    index = torch.where(valid, seg, BACKGROUND).long()
    mask = valid.float()
    if schema.has_regions:
        members = torch.as_tensor(schema.region_members, dtype=torch.float32, device=seg.device)
        channels = torch.movedim(members.T[index[:, 0]], -1, 1) * mask
    else:
        shape = (seg.shape[0], schema.num_classes, *seg.shape[2:])
        channels = torch.zeros(shape, device=seg.device).scatter_(1, index, mask)
    return Target(channels=channels, valid=mask)


def resize_segmentation(seg: Tensor, shape: Sequence[int]) -> Tensor:
    """Bring (B, 1, *S) to another grid by picking the nearest voxel (no label is invented)."""
    if tuple(seg.shape[2:]) == tuple(shape):
        return seg
    return F.interpolate(seg.float(), size=tuple(shape), mode="nearest-exact").to(seg.dtype)


def soft_dice(probabilities: Tensor, target: Target, *, batch_dice: bool, smooth: float) -> Tensor:
    """Soft Dice coefficient averaged over channels (and samples).

    A channel without reference and without predicted mass counts as 1 (smooth / smooth).

    Args:
        probabilities: (B, O, *S) in 0..1.
        target: Same grid and channels.
        batch_dice: Sum over the batch before the ratio.
        smooth: Added to numerator and denominator.
    """
    axes = tuple(range(2, probabilities.ndim))
    intersection = (probabilities * target.channels).sum(axes)
    predicted = (probabilities * target.valid).sum(axes)
    reference = target.channels.sum(axes)
    if batch_dice:
        intersection, predicted, reference = (
            x.sum(0) for x in (intersection, predicted, reference)
        )
    ratio = (2 * intersection + smooth) / (reference + predicted + smooth).clamp_min(1e-8)
    return ratio.mean()


def label_terms(logits: Tensor, target: Target, *, batch_dice: bool, smooth: float) -> Terms:
    """Cross-entropy (mean over valid voxels) and 1 - soft Dice of the foreground classes."""
    log_probabilities = F.log_softmax(logits, dim=1)
    count = target.valid.sum().clamp_min(1)
    cross_entropy = -(log_probabilities * target.channels).sum() / count
    foreground = Target(channels=target.channels[:, 1:], valid=target.valid)
    probabilities = log_probabilities[:, 1:].exp()
    dice = soft_dice(probabilities, foreground, batch_dice=batch_dice, smooth=smooth)
    return Terms(cross_entropy=cross_entropy, dice=1 - dice)


def region_terms(logits: Tensor, target: Target, *, batch_dice: bool, smooth: float) -> Terms:
    """Binary cross-entropy (mean over valid voxels and regions) and 1 - soft Dice of regions."""
    each = F.binary_cross_entropy_with_logits(logits, target.channels, reduction="none")
    count = target.valid.sum().clamp_min(1) * logits.shape[1]
    cross_entropy = (each * target.valid).sum() / count
    dice = soft_dice(logits.sigmoid(), target, batch_dice=batch_dice, smooth=smooth)
    return Terms(cross_entropy=cross_entropy, dice=1 - dice)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The two parts of the loss, each a scalar tensor that is 0 at best."""

    cross_entropy: Tensor
    dice: Tensor


@dataclass(frozen=True, kw_only=True)
class SegmentationLoss:
    """Dice + cross-entropy over all deep-supervision outputs.

    Args:
        schema: What the indices of the segmentation mean.
        config: Weights and the treatment of invalid voxels.
        batch_dice: Whether Dice sums over the batch.
    """

    schema: LabelSchema
    config: LossConfig
    batch_dice: bool

    def __call__(self, outputs: Tensor | list[Tensor], seg: Tensor) -> Tensor:
        """Return the scalar loss of logits (B, O, *S), finest first, against seg (B, 1, *S)."""
        outputs = [outputs] if isinstance(outputs, Tensor) else outputs
        if self.config.invalid_voxels == "background":
            seg = torch.where(seg == INVALID, BACKGROUND, seg)
        weights = deep_supervision_weights(len(outputs))
        losses = [
            weight * self._single(logits.float(), resize_segmentation(seg, logits.shape[2:]))
            for weight, logits in zip(weights, outputs, strict=True)
            if weight
        ]
        return torch.stack(losses).sum()

    def _single(self, logits: Tensor, seg: Tensor) -> Tensor:
        compare = region_terms if self.schema.has_regions else label_terms
        target = make_target(seg, self.schema)
        terms = compare(logits, target, batch_dice=self.batch_dice, smooth=self.config.dice_smooth)
        return (
            self.config.cross_entropy_weight * terms.cross_entropy
            + self.config.dice_weight * terms.dice
        )
