"""Logits against their target, before anything is summed: by softmax or by sigmoids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segkit.training.targets import Target, spread

Kind = Literal["softmax", "sigmoid", "one_vs_rest"]
"""softmax: classes exclude each other; sigmoid: every channel is for itself; one_vs_rest: classes
exclude each other, but each is trained like a channel of its own."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Logits against their target before anything is summed, alike for softmax and sigmoid.

    ``entropy`` (B, E, *S) is the cross-entropy of every voxel (softmax, E = 1) or of every voxel
    and channel (sigmoid, E = O), never negative; ``counted`` says how much each counts, 0 where
    masked, with E channels or one for all. Dice compares ``probabilities`` (B, C, *S) with
    ``target``, its channels weighted by ``weights`` (C,).
    """

    entropy: Tensor
    counted: Tensor
    probabilities: Tensor
    target: Target
    weights: Tensor | None


def compare(
    kind: Kind, logits: Tensor, target: Target, weights: Tensor | None, smoothing: float = 0.0
) -> Comparison:
    """Compare in one of the ways; Dice is of the foreground, and knows no smoothing.

    Args:
        kind: The way.
        logits: (B, O, *S).
        target: One-hot, background first; or regions or structures.
        weights: (O,) of the channels; None weighs all alike. By softmax a voxel weighs as much as
            its class.
        smoothing: Share of the target that is spread over all possible answers before the
            cross-entropy (Szegedy et al. 2016, Rethinking the Inception Architecture).
    """
    if kind == "softmax":
        return _by_softmax(logits, target, weights, smoothing)
    in_dice = slice(1, None) if kind == "one_vs_rest" else slice(None)
    return _by_sigmoids(logits, target, weights, smoothing, in_dice)


def _by_softmax(
    logits: Tensor, target: Target, weights: Tensor | None, smoothing: float
) -> Comparison:
    log_probabilities = F.log_softmax(logits, dim=1)
    entropy = -(log_probabilities * target.channels).sum(1, keepdim=True)
    if smoothing:
        entropy = torch.lerp(entropy, -log_probabilities.mean(1, keepdim=True), smoothing)
    counted = target.valid
    if weights is not None:
        counted = (target.channels * spread(weights, logits)).sum(1, keepdim=True)
    return Comparison(
        entropy=entropy,
        counted=counted,
        probabilities=log_probabilities[:, 1:].exp(),
        target=Target(channels=target.channels[:, 1:], valid=target.valid),
        weights=None if weights is None else weights[1:],
    )


def _by_sigmoids(
    logits: Tensor,
    target: Target,
    weights: Tensor | None,
    smoothing: float,
    in_dice: slice,
) -> Comparison:
    """``in_dice``: the channels that Dice is over."""
    wanted = target.channels
    if smoothing:
        wanted = wanted * (1 - smoothing) + smoothing / 2
    return Comparison(
        entropy=F.binary_cross_entropy_with_logits(logits, wanted, reduction="none"),
        counted=target.valid if weights is None else target.valid * spread(weights, logits),
        probabilities=logits[:, in_dice].sigmoid(),
        target=Target(channels=target.channels[:, in_dice], valid=target.valid),
        weights=None if weights is None else weights[in_dice],
    )
