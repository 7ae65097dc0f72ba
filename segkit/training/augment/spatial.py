"""Rotation, scaling, deformation and the cut to the final patch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from segkit.config import AugmentConfig
from segkit.training.augment import draw
from segkit.training.augment.affine import affine_map, crop_start
from segkit.training.augment.deform import displacements, positions, sample_image, sample_labels
from segkit.training.augment.sampling import sample_affine
from segkit.training.augment.settings import SpatialSettings

Batch = tuple[torch.Tensor, torch.Tensor]


def centre_crop(batch: torch.Tensor, patch: tuple[int, ...]) -> torch.Tensor:
    """View of the middle (B, C, *patch) of (B, C, *S).

    Raises:
        ValueError: S is smaller than the patch.
    """
    start = crop_start(tuple(batch.shape[2:]), patch)
    for axis, (first, size) in enumerate(zip(start, patch, strict=True)):
        batch = batch.narrow(axis + 2, first, size)
    return batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """How one sample is turned, scaled and deformed."""

    angles: torch.Tensor
    """(3,), or (1,) in a plane, radians."""
    scaling: torch.Tensor
    """(1,), or one factor an axis; above 1 objects become smaller."""
    elastic: tuple[float, float] | None = None
    """Scale and strength of the displacements."""


def draw_moves(
    count: int, settings: SpatialSettings, config: AugmentConfig, generator: torch.Generator
) -> list[Move | None]:
    """Draw the move of every sample; None for those that are left as they are."""
    angles, scaling = _draw_affine(count, settings, config, generator)
    turns = (angles.any(1) | (scaling != 1).any(1)).tolist()
    elastic: list[tuple[float, float] | None] = [None] * count
    if config.p_elastic:
        deforms = draw.fires(generator, (count,), config.p_elastic).tolist()
        scale = draw.uniform(generator, (count,), config.elastic_scale).tolist()
        strength = draw.uniform(generator, (count,), config.elastic_strength).tolist()
        elastic = [
            pair if deformed else None
            for deformed, pair in zip(deforms, zip(scale, strength, strict=True), strict=True)
        ]
    return [
        Move(angles=angles[i], scaling=scaling[i], elastic=elastic[i])
        if turns[i] or elastic[i] is not None
        else None
        for i in range(count)
    ]


def rotate_scale_crop(
    image: torch.Tensor,
    seg: torch.Tensor,
    settings: SpatialSettings,
    config: AugmentConfig,
    generator: torch.Generator,
) -> Batch:
    """Rotate, scale and deform some samples, and cut all of them to the final patch.

    A sample that is left as it is is its centre crop, bit by bit.

    Args:
        image: (B, C, *S) float32.
        seg: (B, L, *S) integer, L label maps.
        settings: Patch and largest angle.
        config: Probabilities, ranges and interpolation.
        generator: Source of all choices.

    Returns:
        New tensors (B, C, *patch) and (B, L, *patch).
    """
    patch = settings.patch_size
    crop, crop_seg = centre_crop(image, patch), centre_crop(seg, patch)
    image_out, seg_out = image.new_empty(crop.shape), seg.new_empty(crop_seg.shape)
    shown = patch[1:] if settings.dummy_2d else patch
    for i, move in enumerate(draw_moves(len(image), settings, config, generator)):
        if move is None:
            image_out[i], seg_out[i] = crop[i], crop_seg[i]
            continue
        source = _fold(image[i], seg[i], settings.dummy_2d)
        moved, moved_seg = _moved(source, move, shown, config, generator)
        image_out[i] = moved.reshape(image_out.shape[1:])
        seg_out[i] = moved_seg.reshape(seg_out.shape[1:])
    return image_out, seg_out


def _moved(
    source: Batch,
    move: Move,
    shown: tuple[int, ...],
    config: AugmentConfig,
    generator: torch.Generator,
) -> Batch:
    """Sample a patch of shape ``shown`` from (C, *S) and (L, *S), as one move has it."""
    image, seg = source
    mapping = affine_map(move.angles, move.scaling, tuple(image.shape[1:]), shown)
    linear = config.image_interpolation == config.label_interpolation == "linear"
    if move.elastic is None and linear:
        return sample_affine(image, seg, mapping, shown)
    field = image.new_zeros(len(shown), *shown)
    if move.elastic is not None:
        field = displacements(shown, *move.elastic, draw.on_device(generator, image.device))
    where = positions(mapping, field)
    return (
        sample_image(image, where, config.image_interpolation),
        sample_labels(seg, where, config.label_interpolation),
    )


def _draw_affine(
    count: int, settings: SpatialSettings, config: AugmentConfig, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Angles (B, 1 or 3) in radians and factors (B, 1 or ndim), on the CPU.

    Zeros and ones do nothing.
    """
    in_plane = settings.dummy_2d or len(settings.patch_size) == 2
    largest = math.radians(settings.max_angle_degrees)
    rotates = draw.fires(generator, (count,), config.p_rotation)[:, None]
    scales = draw.fires(generator, (count,), config.p_scaling)[:, None]
    shape = (count, 1 if in_plane else 3)
    angles = draw.uniform(generator, shape, (-largest, largest))
    factors = (2 if in_plane else 3) if config.scaling_per_axis else 1
    scaling = draw.uniform(generator, (count, factors), config.scaling)
    if config.p_rotation_axis < 1:
        rotates = rotates & draw.fires(generator, shape, config.p_rotation_axis)
    return (angles * rotates).cpu(), torch.where(scales, scaling, 1.0).cpu()


def _fold(image: torch.Tensor, seg: torch.Tensor, dummy_2d: bool) -> Batch:
    """Turn slices along axis 0 into channels where the transform is to treat them alike."""
    return (image.flatten(0, 1), seg.flatten(0, 1)) if dummy_2d else (image, seg)
