"""How the segmentation a cascade is given is varied."""

from __future__ import annotations

from dataclasses import dataclass

from segkit.config.augment import Range
from segkit.config.checks import check

_LARGEST_RADIUS = 64.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CascadeConfig:
    """nnU-Net's augmentations of the previous stage's segmentation, so that it is not believed.

    ``p_`` is a probability per sample, ``p_..._per_class`` that of each class of such a sample.
    Without effect where the configuration has no previous stage.
    """

    p_morphology: float = 0.4
    p_morphology_per_class: float = 0.5
    """A class is dilated, eroded, opened or closed, with equal chance."""
    morphology_radius: Range = (1.0, 8.0)
    """Radius of the ball (2D: the disk) in voxels."""
    p_drop_component: float = 0.2
    p_drop_component_per_class: float = 0.5
    """One connected component of a class disappears."""
    drop_component_max_share: float = 0.15
    """Only components with less than this share of the patch's voxels disappear."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, float):
                check(0 <= value <= 1, f"{name} must lie in [0, 1], got {value}")
        low, high = self.morphology_radius
        fits = 0 <= low <= high <= _LARGEST_RADIUS
        most = f"[low, high] between 0 and {_LARGEST_RADIUS:g}"
        check(fits, f"morphology_radius must be {most}, got {[low, high]}")
