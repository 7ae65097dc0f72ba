"""The whole pipeline, in nnU-Net's order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from segkit.config import AugmentConfig
from segkit.training.augment import draw
from segkit.training.augment.intensity import (
    add_noise,
    gamma,
    gamma_inverted,
    scale_brightness,
    scale_contrast,
)
from segkit.training.augment.separable import (
    apply_along_axis,
    blur_matrices,
    low_resolution_matrices,
)
from segkit.training.augment.settings import SpatialSettings
from segkit.training.augment.spatial import mirror, rotate_scale_crop

P_CHANNEL = 0.5
"""Chance of each channel of a sample that is blurred or coarsened."""


@dataclass(frozen=True)
class Augmenter:
    """Random transforms of a batch of sampled patches."""

    config: AugmentConfig
    settings: SpatialSettings
    mask_channels: tuple[bool, ...]
    """One a channel: set it to zero at invalid voxels (normalised inside the mask only)."""

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
        """
        if image.shape[1] != len(self.mask_channels):
            raise ValueError(
                f"image has {image.shape[1]} channels, mask_channels {len(self.mask_channels)}"
            )
        image, seg = rotate_scale_crop(image, seg, self.settings, self.config, generator)
        self._change_intensities(image, generator)
        mirror(image, seg, self.settings.mirror_axes, generator)
        if any(self.mask_channels):
            # A structure that is ignored in a case does not tell where it is invalid; others do.
            invalid = (seg < 0).any(1)
            for channel in (c for c, masked in enumerate(self.mask_channels) if masked):
                image[:, channel].masked_fill_(invalid, 0.0)
        return image, seg

    def _change_intensities(self, image: torch.Tensor, generator: torch.Generator) -> None:
        """Apply all intensity transforms in place."""
        config = self.config
        _noise(image, config, generator)
        _blur(image, config, generator)
        _scale(image, config.p_brightness, config.brightness, scale_brightness, generator)
        _scale(image, config.p_contrast, config.contrast, scale_contrast, generator)
        _low_resolution(image, config, generator, first_axis=int(self.settings.dummy_2d))
        _scale(image, config.p_gamma_inverted, config.gamma, gamma_inverted, generator)
        _scale(image, config.p_gamma, config.gamma, gamma, generator)


def _noise(image: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> None:
    chosen = draw.indices(draw.fires(generator, image.shape[:1], config.p_noise))
    std = draw.uniform(generator, (len(chosen),), config.noise_std)
    noise = draw.normal(generator, (len(chosen), *image.shape[1:]))
    _replace(image, chosen, lambda part: add_noise(part, std, noise.to(image.device)))


def _scale(
    image: torch.Tensor,
    p: float,
    bounds: draw.Range,
    transform: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    generator: torch.Generator,
) -> None:
    """Apply a transform that takes one factor a channel, drawn around 1."""
    chosen = draw.indices(draw.fires(generator, image.shape[:1], p))
    factor = draw.factor_around_one(generator, (len(chosen), image.shape[1]), bounds)
    _replace(image, chosen, lambda part: transform(part, factor))


def _blur(image: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> None:
    chosen = _choose_channels(image, config.p_blur, generator)
    sigma = draw.uniform(generator, (len(chosen), image.ndim - 2), config.blur_sigma)

    def blur(channels: torch.Tensor) -> torch.Tensor:
        for axis, size in enumerate(image.shape[2:]):
            matrices = blur_matrices(sigma[:, axis], size)
            channels = apply_along_axis(channels, matrices.to(image.device), axis)
        return channels

    _replace(image.flatten(0, 1), chosen, blur)


def _low_resolution(
    image: torch.Tensor, config: AugmentConfig, generator: torch.Generator, *, first_axis: int
) -> None:
    """Coarsen the axes from ``first_axis`` on."""
    chosen = _choose_channels(image, config.p_low_resolution, generator)
    zoom = draw.uniform(generator, (len(chosen),), config.low_resolution)

    def coarsen(channels: torch.Tensor) -> torch.Tensor:
        for axis in range(first_axis, image.ndim - 2):
            matrices = low_resolution_matrices(zoom, image.shape[axis + 2])
            channels = apply_along_axis(channels, matrices.to(image.device), axis)
        return channels

    _replace(image.flatten(0, 1), chosen, coarsen)


def _choose_channels(image: torch.Tensor, p: float, generator: torch.Generator) -> torch.Tensor:
    """Rows of the (B * C, *S) view: half of the channels of the samples that fire."""
    samples = draw.fires(generator, image.shape[:1], p)
    channels = draw.fires(generator, tuple(image.shape[:2]), P_CHANNEL)
    return draw.indices((samples[:, None] & channels).flatten())


def _replace(
    rows: torch.Tensor,
    chosen: torch.Tensor,
    transform: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """Overwrite the chosen rows with their transform."""
    if len(chosen):
        index = chosen.to(rows.device)
        rows.index_copy_(0, index, transform(rows.index_select(0, index)))
