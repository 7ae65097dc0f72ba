"""The whole pipeline, in nnU-Net's order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch

from segkit.config import AugmentConfig
from segkit.config.augment import Place
from segkit.training.augment.choices import Batch
from segkit.training.augment.extra import Extra
from segkit.training.augment.settings import SpatialSettings
from segkit.training.augment.spatial import rotate_scale_crop
from segkit.training.augment.steps import change_intensities, drop_channels
from segkit.training.augment.turns import LabelSwap, mirror, turn


@dataclass(frozen=True)
class Augmenter:
    """Random transforms of a batch of sampled patches."""

    config: AugmentConfig
    settings: SpatialSettings
    mask_channels: tuple[bool, ...]
    """One a channel: set it to zero at invalid voxels (normalised inside the mask only)."""
    reference_maps: int | None = None
    """How many of the label maps say what is invalid, the first ones; None: all."""
    swap: LabelSwap | None = None
    """Labels that change places between left and right."""
    extras: tuple[Extra, ...] = ()
    """Transforms from outside, each at its place."""

    @torch.no_grad()
    def __call__(
        self, image: torch.Tensor, seg: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment a batch; the inputs are left as they are.

        Args:
            image: (B, C, *S) float32 on any device, S at least the patch.
            seg: (B, L, *S) int16 or int8 on the same device, L label maps: 1, or one a structure;
                -1 invalid.
            generator: Source of all randomness; may live on the CPU.

        Returns:
            Image (B, C, *patch) and segmentation (B, L, *patch). What came from outside the
            sampled patch is 0 in the image and -1 in the segmentation.

        Raises:
            ValueError: S is smaller than the patch, or the channels are not ``mask_channels``'.
            UserError: a transform from outside fails, or returns what it should not.
        """
        if image.shape[1] != len(self.mask_channels):
            raise ValueError(
                f"image has {image.shape[1]} channels, mask_channels {len(self.mask_channels)}"
            )
        image, seg = rotate_scale_crop(image, seg, self.settings, self.config, generator)
        turn(image, seg, self.settings, self.config, generator)
        self._apply_extras("after_spatial", image, seg, generator)
        first_axis = int(self.settings.dummy_2d)
        batch = Batch(image=image, config=self.config, generator=generator, first_axis=first_axis)
        change_intensities(batch)
        self._apply_extras("after_intensity", image, seg, generator)
        mirror(image, seg, self.settings.mirror_axes, generator, self.swap)
        self._apply_extras("after_mirror", image, seg, generator)
        if any(self.mask_channels):
            # A structure that is ignored in a case does not tell where it is invalid; others do.
            # Arithmetic, for comparisons and fills by masks are slow on a CPU.
            reference = seg[:, : self.reference_maps].unbind(1)
            valid = reduce(torch.minimum, reference).clamp(-1, 0).add_(1).to(image.dtype)
            for channel in (c for c, masked in enumerate(self.mask_channels) if masked):
                image[:, channel].mul_(valid)
        if self.config.p_channel_dropout:
            drop_channels(batch)
        return image, seg

    def _apply_extras(
        self, place: Place, image: torch.Tensor, seg: torch.Tensor, generator: torch.Generator
    ) -> None:
        for extra in self.extras:
            if extra.config.place == place:
                extra(image, seg, generator)
