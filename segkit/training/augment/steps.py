"""The intensity transforms by name: each draws what it needs, then changes the chosen rows.

One whose probability is 0 draws nothing and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from segkit.config import AugmentConfig, IntensityStep
from segkit.training.augment import choices, draw, intensity
from segkit.training.augment.blank import fill_boxes
from segkit.training.augment.choices import Batch, Chosen, ChosenBumps
from segkit.training.augment.filters import median, sharpen
from segkit.training.augment.local import add_gradient, bump_profiles, local_gamma
from segkit.training.augment.separable import (
    Bands,
    apply_along_axis,
    blur_matrices,
    low_resolution_matrices,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """An intensity transform and the probabilities it depends on."""

    probabilities: tuple[str, ...]
    """Keys of the recipe."""
    apply: Callable[[Batch], None]

    def occurs(self, config: AugmentConfig) -> bool:
        """Whether it ever changes anything."""
        return any(getattr(config, name) > 0 for name in self.probabilities)


def change_intensities(batch: Batch) -> None:
    """Apply all intensity transforms of a recipe in their order, in place."""
    for name in batch.config.intensity_order:
        if STEPS[name].occurs(batch.config):
            STEPS[name].apply(batch)


def _noise(batch: Batch) -> None:
    """Add noise, made where the image is."""
    chosen, image = choices.draw_noise(batch), batch.image
    source = draw.on_device(batch.generator, image.device)
    for rows, part in _chosen_rows(image.flatten(1), chosen.rows):
        intensity.add_noise(rows, _moved(chosen.values[part], image), source)


def _blur(batch: Batch) -> None:
    blurred, filtered = choices.draw_blur(batch)
    if len(blurred.rows):
        sizes = enumerate(batch.shape)
        bands = {axis: blur_matrices(blurred.values[:, axis], size) for axis, size in sizes}
        _multiply_axes(batch.image, blurred.rows, bands)
    for size in filtered.values.unique().tolist():
        alike = filtered.rows[filtered.values == size]
        for rows, _ in _chosen_rows(batch.image.flatten(0, 1), alike):
            rows.copy_(median(rows, size))


def _brightness(batch: Batch) -> None:
    _apply_pointwise(batch.image, choices.draw_brightness(batch), intensity.scale_brightness)


def _brightness_shift(batch: Batch) -> None:
    _apply_pointwise(batch.image, choices.draw_shift(batch), intensity.shift_brightness)


def _contrast(batch: Batch) -> None:
    clamped, unclamped = choices.draw_contrast(batch)
    _apply_pointwise(batch.image, clamped, intensity.scale_contrast)
    _apply_pointwise(batch.image, unclamped, intensity.scale_contrast_unclamped)


def _low_resolution(batch: Batch) -> None:
    chosen = choices.draw_low_resolution(batch)
    if len(chosen.rows):
        sizes = list(enumerate(batch.shape))[batch.first_axis :]
        bands = {axis: low_resolution_matrices(chosen.values, size) for axis, size in sizes}
        _multiply_axes(batch.image, chosen.rows, bands)


def _gamma(batch: Batch) -> None:
    _apply_pointwise(batch.image, choices.draw_gamma(batch), intensity.gamma)


def _gamma_inverted(batch: Batch) -> None:
    chosen = choices.draw_gamma(batch, inverted=True)
    _apply_pointwise(batch.image, chosen, intensity.gamma_inverted)


def _blank(batch: Batch) -> None:
    fill_boxes(batch.image.flatten(0, 1), choices.draw_blank(batch))


def _brightness_gradient(batch: Batch) -> None:
    _apply_locally(batch.image, choices.draw_gradient(batch), add_gradient)


def _local_gamma(batch: Batch) -> None:
    _apply_locally(batch.image, choices.draw_local_gamma(batch), local_gamma)


def _sharpen(batch: Batch) -> None:
    chosen = choices.draw_sharpen(batch)
    for rows, part in _chosen_rows(batch.image.flatten(0, 1), chosen.rows):
        sharpen(rows, _moved(chosen.values[part], batch.image))


def drop_channels(batch: Batch) -> None:
    """Set channels to 0, which is what a missing one is given to the network as."""
    rows = choices.draw_dropped(batch)
    batch.image.flatten(0, 1).index_fill_(0, rows.to(batch.image.device), 0.0)


STEPS: Mapping[IntensityStep, Step] = {
    "noise": Step(probabilities=("p_noise",), apply=_noise),
    "blur": Step(probabilities=("p_blur", "p_median"), apply=_blur),
    "brightness": Step(probabilities=("p_brightness",), apply=_brightness),
    "brightness_shift": Step(probabilities=("p_brightness_shift",), apply=_brightness_shift),
    "contrast": Step(probabilities=("p_contrast", "p_contrast_unclamped"), apply=_contrast),
    "low_resolution": Step(probabilities=("p_low_resolution",), apply=_low_resolution),
    "gamma_inverted": Step(probabilities=("p_gamma_inverted",), apply=_gamma_inverted),
    "gamma": Step(probabilities=("p_gamma",), apply=_gamma),
    "blank": Step(probabilities=("p_blank",), apply=_blank),
    "brightness_gradient": Step(
        probabilities=("p_brightness_gradient",), apply=_brightness_gradient
    ),
    "local_gamma": Step(probabilities=("p_local_gamma",), apply=_local_gamma),
    "sharpen": Step(probabilities=("p_sharpen",), apply=_sharpen),
}


def _apply_pointwise(
    image: torch.Tensor, chosen: Chosen, transform: Callable[[torch.Tensor, torch.Tensor], None]
) -> None:
    """Apply a transform of rows (n, V) that takes one number a row."""
    for rows, part in _chosen_rows(image.flatten(0, 1).flatten(1), chosen.rows):
        transform(rows, _moved(chosen.values[part], image))


def _apply_locally(
    image: torch.Tensor,
    chosen: ChosenBumps,
    transform: Callable[[torch.Tensor, list[torch.Tensor], torch.Tensor], None],
) -> None:
    """Apply a transform of channels (n, *S) that takes a Gaussian and a number for each."""
    profiles = bump_profiles(chosen.centre, chosen.extent, tuple(image.shape[2:]))
    for rows, part in _chosen_rows(image.flatten(0, 1), chosen.rows):
        moved = [_moved(profile[part], image) for profile in profiles]
        transform(rows, moved, _moved(chosen.values[part], image))


def _multiply_axes(image: torch.Tensor, chosen: torch.Tensor, bands: dict[int, Bands]) -> None:
    """Multiply axes of the chosen channels by their matrices."""
    for rows, part in _chosen_rows(image.flatten(0, 1), chosen):
        result = rows
        for axis, matrices in bands.items():
            result = apply_along_axis(result, matrices[part].to(image.device), axis)
        rows.copy_(result)


def _moved(values: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return values.to(image.device, non_blocking=True)


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
