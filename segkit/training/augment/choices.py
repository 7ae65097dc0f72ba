"""What intensity transforms choose by chance: whom they touch, and with which parameters.

All of it is drawn on the generator's device, in no time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from segkit.config import AugmentConfig
from segkit.training.augment import draw
from segkit.training.augment.blank import Boxes, draw_boxes


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Images that are changed in place, and what random choices depend on."""

    image: torch.Tensor
    """(B, C, *S) float32."""
    config: AugmentConfig
    generator: torch.Generator
    first_axis: int = 0
    """Low resolution coarsens the axes from this one on."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape."""
        return tuple(self.image.shape[2:])

    @property
    def samples(self) -> int:
        """B."""
        return len(self.image)

    def channels(self, samples: torch.Tensor, p_channel: float) -> torch.Tensor:
        """Choose channels of samples (B,) bool, as rows of the (B * C, *S) view."""
        return draw.channels(self.generator, samples, self.image.shape[1], p_channel)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """Rows that are changed, and the parameters (n, ...) of each."""

    rows: torch.Tensor
    """(n,) int64: samples for noise, else channels of samples (the (B * C, *S) view)."""
    values: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenBumps:
    """Rows that are changed around a place, the Gaussian there, and how much."""

    rows: torch.Tensor
    centre: torch.Tensor
    """(n, ndim) in voxels."""
    extent: torch.Tensor
    """(n, ndim) in voxels."""
    values: torch.Tensor


def draw_noise(batch: Batch) -> Chosen:
    """Choose samples, and one deviation for all channels of each."""
    config, generator = batch.config, batch.generator
    rows = draw.indices(draw.fires(generator, (batch.samples,), config.p_noise))
    return Chosen(rows=rows, values=draw.uniform(generator, (len(rows),), config.noise_std))


def draw_blur(batch: Batch) -> tuple[Chosen, Chosen]:
    """Choose channels to blur, with a width for every axis; and others to filter, with a size."""
    config, generator, ndim = batch.config, batch.generator, len(batch.shape)
    kind = draw.one_of(generator, batch.samples, (config.p_blur, config.p_median))
    rows = batch.channels(kind == 0, config.p_blur_channel)
    widths = ndim if config.blur_per_axis else 1
    sigma = draw.uniform(generator, (len(rows), widths), config.blur_sigma)
    blurred = Chosen(rows=rows, values=sigma.expand(-1, ndim))
    if not config.p_median:
        return blurred, _nothing(blurred)
    rows = batch.channels(kind == 1, config.p_median_channel)
    sizes = draw.integers(generator, (len(rows),), config.median_size)
    return blurred, Chosen(rows=rows, values=sizes)


def draw_brightness(batch: Batch) -> Chosen:
    """Choose samples, and a factor for every channel of each."""
    samples = draw.fires(batch.generator, (batch.samples,), batch.config.p_brightness)
    return _draw_factors(batch, batch.channels(samples, 1.0), batch.config.brightness)


def draw_gamma(batch: Batch, *, inverted: bool = False) -> Chosen:
    """Choose samples, and an exponent for every channel of each."""
    p = batch.config.p_gamma_inverted if inverted else batch.config.p_gamma
    samples = draw.fires(batch.generator, (batch.samples,), p)
    return _draw_factors(batch, batch.channels(samples, 1.0), batch.config.gamma)


def _draw_factors(batch: Batch, rows: torch.Tensor, bounds: draw.Range) -> Chosen:
    values = draw.factor_around_one(batch.generator, (len(rows),), bounds)
    return Chosen(rows=rows, values=values)


def draw_shift(batch: Batch) -> Chosen:
    """Choose channels, and what is added to each."""
    config, generator = batch.config, batch.generator
    samples = draw.fires(generator, (batch.samples,), config.p_brightness_shift)
    rows = batch.channels(samples, config.p_brightness_shift_channel)
    shifts = draw.normal(generator, (len(rows),), config.brightness_shift_std)
    return Chosen(rows=rows, values=shifts)


def draw_contrast(batch: Batch) -> tuple[Chosen, Chosen]:
    """Choose channels to stretch within their range, and others to stretch beyond it."""
    config = batch.config
    shares = config.p_contrast, config.p_contrast_unclamped
    kind = draw.one_of(batch.generator, batch.samples, shares)
    # Where nothing can be of the second kind, nothing more is drawn.
    kinds = (kind == 0, kind == 1) if config.p_contrast_unclamped else (kind == 0,)
    chosen = [
        _draw_factors(batch, batch.channels(some, config.p_contrast_channel), config.contrast)
        for some in kinds
    ]
    return chosen[0], chosen[1] if len(chosen) > 1 else _nothing(chosen[0])


def draw_low_resolution(batch: Batch) -> Chosen:
    """Choose channels, and how much coarser each becomes."""
    config, generator = batch.config, batch.generator
    samples = draw.fires(generator, (batch.samples,), config.p_low_resolution)
    rows = batch.channels(samples, config.p_low_resolution_channel)
    return Chosen(rows=rows, values=draw.uniform(generator, (len(rows),), config.low_resolution))


def draw_blank(batch: Batch) -> Boxes:
    """Choose channels, and the boxes that are filled in each."""
    config, generator = batch.config, batch.generator
    samples = draw.fires(generator, (batch.samples,), config.p_blank)
    rows = batch.channels(samples, config.p_blank_channel)
    return draw_boxes(rows, batch.shape, config, generator)


def draw_gradient(batch: Batch) -> ChosenBumps:
    """Choose channels, and the Gaussian that is added to each: where, how wide, how high."""
    config, generator = batch.config, batch.generator
    samples = draw.fires(generator, (batch.samples,), config.p_brightness_gradient)
    rows = batch.channels(samples, config.p_brightness_gradient_channel)
    centre, extent = _draw_bumps(batch, len(rows))
    low, high = config.brightness_gradient
    height = draw.either(generator, (len(rows),), (low, high), (-low, -high))
    return ChosenBumps(rows=rows, centre=centre, extent=extent, values=height)


def draw_local_gamma(batch: Batch) -> ChosenBumps:
    """Choose channels, the Gaussian that fades each in, and its exponent."""
    config, generator = batch.config, batch.generator
    samples = draw.fires(generator, (batch.samples,), config.p_local_gamma)
    rows = batch.channels(samples, config.p_local_gamma_channel)
    centre, extent = _draw_bumps(batch, len(rows))
    ranges = config.local_gamma_low, config.local_gamma_high
    exponent = draw.either(generator, (len(rows),), *ranges)
    return ChosenBumps(rows=rows, centre=centre, extent=extent, values=exponent)


def _nothing(like: Chosen) -> Chosen:
    return Chosen(rows=like.rows[:0], values=like.values[:0])


def _draw_bumps(batch: Batch, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres and extents (n, ndim) in voxels; a Gaussian is never narrower than a voxel."""
    shape = (count, len(batch.shape))
    size = torch.tensor(batch.shape, device=batch.generator.device)
    centre = draw.uniform(batch.generator, shape, batch.config.local_centre) * size
    extent = draw.log_uniform(batch.generator, shape, batch.config.local_extent) * size
    return centre, extent.clamp(min=1)


def draw_sharpen(batch: Batch) -> Chosen:
    """Choose channels, and how much each is sharpened."""
    config, generator = batch.config, batch.generator
    samples = draw.fires(generator, (batch.samples,), config.p_sharpen)
    rows = batch.channels(samples, config.p_sharpen_channel)
    return Chosen(rows=rows, values=draw.uniform(generator, (len(rows),), config.sharpen))


def draw_dropped(batch: Batch) -> torch.Tensor:
    """Choose the channels to drop, as rows; where chance would have all of a sample, one stays."""
    generator, shape = batch.generator, (batch.samples, batch.image.shape[1])
    dropped = draw.fires(generator, shape, batch.config.p_channel_dropout)
    kept = draw.integers(generator, shape[:1], (0, shape[1] - 1))
    dropped[dropped.all(1), kept[dropped.all(1)]] = False
    return draw.indices(dropped.flatten())
