"""How patches are varied."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from segkit.config.checks import check

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """nnU-Net's augmentations; ``p_`` is a probability per sample, ranges are uniform."""

    p_rotation: float = 0.2
    rotation_degrees: float | None = None
    """Largest angle; null takes nnU-Net's (30 in 3D; 180 or 15 in 2D)."""
    p_scaling: float = 0.2
    scaling: Range = (0.7, 1.4)
    """Above 1 objects become smaller."""
    p_noise: float = 0.1
    noise_std: Range = (0.0, 0.1)
    p_blur: float = 0.2
    blur_sigma: Range = (0.5, 1.0)
    p_brightness: float = 0.15
    brightness: Range = (0.75, 1.25)
    p_contrast: float = 0.15
    contrast: Range = (0.75, 1.25)
    p_low_resolution: float = 0.25
    low_resolution: Range = (0.5, 1.0)
    p_gamma_inverted: float = 0.1
    p_gamma: float = 0.3
    gamma: Range = (0.7, 1.5)
    mirror: bool = True
    """Flip every axis with probability 1/2; prediction then averages over flips too."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("p_"):
                check(0 <= value <= 1, f"{field.name} must lie in [0, 1], got {value}")
            elif isinstance(value, tuple):
                check(value[0] <= value[1], f"{field.name} must be [low, high], got {list(value)}")
        angle = self.rotation_degrees
        if angle is not None:
            check(0 <= angle <= 180, f"rotation_degrees must lie in [0, 180], got {angle}")
        check(self.noise_std[0] >= 0, f"noise_std must not be negative, got {self.noise_std}")
        for name in ("scaling", "blur_sigma", "low_resolution", "gamma"):
            low = getattr(self, name)[0]
            check(low > 0, f"{name} must be positive, got {low}")
        high = self.low_resolution[1]
        check(high <= 1, f"low_resolution must not exceed 1, got {high}")
