"""What is minimised."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from segkit.config.checks import check

InvalidVoxels = Literal["masked", "background"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Soft Dice plus cross-entropy, both masked."""

    dice_weight: float = 1.0
    cross_entropy_weight: float = 1.0
    dice_smooth: float = 1e-5
    """Added to numerator and denominator; with 0 what is absent and not predicted scores worst."""
    batch_dice: bool | None = None
    """Dice over the whole batch (true) or each sample (false); null takes the plan's."""
    deep_supervision: bool = True
    invalid_voxels: InvalidVoxels | None = None
    """Leave invalid (-1) voxels out of the loss, or train them as background as nnU-Net does. Null
    leaves them out where the plan makes them background in every prediction, and else trains them,
    so that the network knows what to say there."""
    class_weights: Literal["auto"] | dict[str, float] | None = None
    """Weight of classes, background included (softmax), or of regions or structures (sigmoid) in
    both terms; those left out weigh 1. auto: rare ones more, from the fingerprint."""
    cross_entropy: Literal["plain", "focal", "topk"] = "plain"
    """focal: hard voxels weigh more; topk: only the hardest count."""
    focal_gamma: float = 2.0
    topk_percent: float = 10.0
    """Share of the voxels that counts with topk."""
    label_smoothing: float = 0.0
    """Share of the target that cross-entropy spreads over all classes (or yes and no)."""
    one_vs_rest: bool = False
    """Train each class, background too, by a sigmoid and binary cross-entropy of its own, as
    regions and structures always are; the highest logit is predicted."""

    def __post_init__(self) -> None:
        for name in ("dice_weight", "cross_entropy_weight", "dice_smooth"):
            value = getattr(self, name)
            check(value >= 0, f"{name} must not be negative, got {value}")
        total = self.dice_weight + self.cross_entropy_weight
        check(total > 0, "dice_weight and cross_entropy_weight must not both be 0")
        given = self.class_weights
        for name, weight in given.items() if isinstance(given, dict) else ():
            fits = 0 <= weight < math.inf
            check(fits, f"class_weights must be 0 or more, got {weight} for {name!r}")
        gamma, percent = self.focal_gamma, self.topk_percent
        check(0 <= gamma < math.inf, f"focal_gamma must not be negative, got {gamma}")
        check(0 < percent <= 100, f"topk_percent must lie in (0, 100], got {percent}")
        smoothing = self.label_smoothing
        check(0 <= smoothing < 1, f"label_smoothing must lie in [0, 1), got {smoothing}")
        what = "focal wants sure answers and label_smoothing unsure ones: use one of them"
        check(not smoothing or self.cross_entropy != "focal", what)
        for kind, name in (("focal", "focal_gamma"), ("topk", "topk_percent")):
            changed = getattr(self, name) != self.__dataclass_fields__[name].default
            fits = self.cross_entropy == kind or not changed
            check(fits, f"{name} has no effect unless cross_entropy is {kind}")
