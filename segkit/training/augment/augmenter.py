"""The whole pipeline, in nnU-Net's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce

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
    Bands,
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
    reference_maps: int | None = None
    """How many of the label maps say what is invalid, the first ones; None: all."""

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
            # Arithmetic, for comparisons and fills by masks are slow on a CPU.
            reference = seg[:, : self.reference_maps].unbind(1)
            valid = reduce(torch.minimum, reference).clamp(-1, 0).add_(1).to(image.dtype)
            for channel in (c for c, masked in enumerate(self.mask_channels) if masked):
                image[:, channel].mul_(valid)
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
    """Add noise, made where the image is."""
    chosen = draw.indices(draw.fires(generator, image.shape[:1], config.p_noise))
    std = draw.uniform(generator, (len(chosen),), config.noise_std)
    source = draw.on_device(generator, image.device)
    for rows, part in _chosen_rows(image.flatten(1), chosen):
        add_noise(rows, std[part].to(image.device, non_blocking=True), source)


def _scale(
    image: torch.Tensor,
    p: float,
    bounds: draw.Range,
    transform: Callable[[torch.Tensor, torch.Tensor], None],
    generator: torch.Generator,
) -> None:
    """Apply a transform that takes one factor a channel, drawn around 1."""
    samples = draw.fires(generator, image.shape[:1], p)
    chosen = draw.indices(samples.repeat_interleave(image.shape[1]))
    factor = draw.factor_around_one(generator, (len(chosen),), bounds)
    for rows, part in _chosen_rows(image.flatten(0, 1).flatten(1), chosen):
        transform(rows, factor[part].to(image.device, non_blocking=True))


def _blur(image: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> None:
    chosen = _choose_channels(image, config.p_blur, generator)
    sigma = draw.uniform(generator, (len(chosen), image.ndim - 2), config.blur_sigma)
    if len(chosen):
        sizes = enumerate(image.shape[2:])
        bands = {axis: blur_matrices(sigma[:, axis], size) for axis, size in sizes}
        _multiply_axes(image, chosen, bands)


def _low_resolution(
    image: torch.Tensor, config: AugmentConfig, generator: torch.Generator, *, first_axis: int
) -> None:
    """Coarsen the axes from ``first_axis`` on."""
    chosen = _choose_channels(image, config.p_low_resolution, generator)
    zoom = draw.uniform(generator, (len(chosen),), config.low_resolution)
    if len(chosen):
        sizes = list(enumerate(image.shape[2:]))[first_axis:]
        bands = {axis: low_resolution_matrices(zoom, size) for axis, size in sizes}
        _multiply_axes(image, chosen, bands)


def _multiply_axes(image: torch.Tensor, chosen: torch.Tensor, bands: dict[int, Bands]) -> None:
    """Multiply axes of the chosen channels by their matrices."""
    for rows, part in _chosen_rows(image.flatten(0, 1), chosen):
        result = rows
        for axis, matrices in bands.items():
            result = apply_along_axis(result, matrices[part].to(image.device), axis)
        rows.copy_(result)


def _choose_channels(image: torch.Tensor, p: float, generator: torch.Generator) -> torch.Tensor:
    """Rows of the (B * C, *S) view: half of the channels of the samples that fire."""
    samples = draw.fires(generator, image.shape[:1], p)
    channels = draw.fires(generator, tuple(image.shape[:2]), P_CHANNEL)
    return draw.indices((samples[:, None] & channels).flatten())


def _chosen_rows(image: torch.Tensor, chosen: torch.Tensor) -> Iterator[tuple[torch.Tensor, slice]]:
    """Yield chosen rows to change in place, with their positions among the chosen ones.

    On a CPU one at a time, as views, which stay in the cache; elsewhere all at once.
    """
    if image.device.type == "cpu":
        for i, row in enumerate(chosen.tolist()):
            yield image[row : row + 1], slice(i, i + 1)
    elif len(chosen):
        index = chosen.to(image.device, non_blocking=True)
        rows = image.index_select(0, index)
        yield rows, slice(None)
        image.index_copy_(0, index, rows)
