"""Dice during training, from counts over validation patches; absent classes stay out of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from segkit.dataset.labels import LabelSchema
from segkit.training.targets import make_target


def overlap_counts(logits: Tensor, seg: Tensor, schema: LabelSchema) -> Tensor:
    """Count true positives, false positives and false negatives.

    Args:
        logits: (B, O, *S) at full resolution.
        seg: (B, 1, *S) indices, or a channel a structure; voxels invalid or ignored in a channel
            are left out of it.
        schema: Says what the channels are.

    Returns:
        (3, T) integers, on the device of the logits, of the T targets: regions, structures, or
        foreground classes.
    """
    target = make_target(seg, schema)
    if schema.sigmoid:
        predicted, reference = (logits > 0).float() * target.valid, target.channels
    else:
        chosen = logits.argmax(1, keepdim=True)
        predicted = torch.zeros_like(target.channels).scatter_(1, chosen, target.valid)[:, 1:]
        reference = target.channels[:, 1:]
    axes = (0, *range(2, logits.ndim))
    counts = [(predicted * reference).sum(axes), predicted.sum(axes), reference.sum(axes)]
    both, found, there = torch.stack(counts).long()
    return torch.stack([both, found - both, there - both])


def dice_from_counts(counts: Tensor) -> list[float | None]:
    """Dice of every target from (3, T) counts; None where the reference had nothing of it.

    Also where something was found: 0 on some epochs and undefined on others would blur the trend
    that the mean is to show.
    """
    true, false_positive, false_negative = counts.tolist()
    return [
        2 * tp / (2 * tp + fp + fn) if tp + fn else None
        for tp, fp, fn in zip(true, false_positive, false_negative, strict=True)
    ]


def mean_defined(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are defined; None over nothing."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def exponential_average(old: float | None, new: float | None, *, keep: float = 0.9) -> float | None:
    """Blend a new value into a running one; an undefined new value changes nothing."""
    if old is None or new is None:
        return new if old is None else old
    return keep * old + (1 - keep) * new
