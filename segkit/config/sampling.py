"""Which patches are seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from segkit.config.checks import check


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """Which patches make a batch."""

    batch_size: int | None = None
    """Patches per step; null takes the plan's."""
    patch_size: tuple[int, ...] | None = None
    """Voxels in planned axis order; null takes the plan's."""
    max_patch_voxels: int | None = None
    """Shrink the planned patch to at most this many voxels, for small machines."""
    foreground_share: float = 0.33
    """Share of a batch whose patches are centred on a foreground voxel."""
    foreground: Literal["fixed", "probabilistic"] = "fixed"
    """fixed: the last patches of every batch, their number rounded (1 of 2 for a share of 0.33);
    probabilistic: each patch of a training batch with a chance of the share."""
    class_weights: dict[str, float] | None = None
    """Relative chance of each target (class, region or structure) to be the foreground a patch is
    centred on, among those present in the case; 1 where none is given, 0 is never."""
    case_weights: dict[str, float] | None = None
    """Relative chance of each training case to be drawn; 1 where none is given, 0 is never."""

    def __post_init__(self) -> None:
        check(self.batch_size is None or self.batch_size >= 1, "batch_size must be at least 1")
        size = self.patch_size or (1,)
        check(min(size) >= 1, f"patch_size must be positive, got {list(size)}")
        most = self.max_patch_voxels
        check(most is None or most >= 1, f"max_patch_voxels must be at least 1, got {most}")
        share = self.foreground_share
        check(0 <= share <= 1, f"foreground_share must lie in [0, 1], got {share}")
        for key in ("class_weights", "case_weights"):
            for name, weight in (getattr(self, key) or {}).items():
                check(0 <= weight < math.inf, f"{key} must be 0 or more, got {weight} for {name!r}")
