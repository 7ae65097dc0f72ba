"""nnU-Net's augmentations on whole batches, in torch, on any device.

A batch is sampled larger than the patch; the spatial step rotates, scales and cuts out the
middle, the intensity steps follow, then mirroring. All randomness comes from one generator.
"""

from segkit.training.augment.augmenter import Augmenter
from segkit.training.augment.cascade import CascadeAugmenter, as_input
from segkit.training.augment.extra import load_extra
from segkit.training.augment.settings import (
    SpatialSettings,
    sampled_patch_size,
    spatial_settings,
)
from segkit.training.augment.turns import LabelSwap

__all__ = [
    "Augmenter",
    "CascadeAugmenter",
    "LabelSwap",
    "SpatialSettings",
    "as_input",
    "load_extra",
    "sampled_patch_size",
    "spatial_settings",
]
