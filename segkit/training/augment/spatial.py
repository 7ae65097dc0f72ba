"""Rotation, scaling and the cut to the final patch; mirroring."""

from __future__ import annotations

import math

import torch

from segkit.config import AugmentConfig
from segkit.training.augment import draw
from segkit.training.augment.affine import affine_map, crop_start
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


def rotate_scale_crop(
    image: torch.Tensor,
    seg: torch.Tensor,
    settings: SpatialSettings,
    config: AugmentConfig,
    generator: torch.Generator,
) -> Batch:
    """Rotate and scale some samples, and cut all of them to the final patch.

    A sample that neither rotates nor scales is its centre crop, bit by bit.

    Args:
        image: (B, C, *S) float32.
        seg: (B, L, *S) integer, L label maps.
        settings: Patch and largest angle.
        config: Probabilities and the range of scaling.
        generator: Source of all choices.

    Returns:
        New tensors (B, C, *patch) and (B, L, *patch).
    """
    patch = settings.patch_size
    crop, crop_seg = centre_crop(image, patch), centre_crop(seg, patch)
    image_out, seg_out = image.new_empty(crop.shape), seg.new_empty(crop_seg.shape)
    angles, scaling = _draw_affine(image.shape[0], settings, config, generator)
    turns = (angles.any(1) | (scaling != 1)).tolist()
    for i in range(len(image)):
        if not turns[i]:
            image_out[i], seg_out[i] = crop[i], crop_seg[i]
            continue
        source, source_seg = _fold(image[i], seg[i], settings.dummy_2d)
        shown = patch[1:] if settings.dummy_2d else patch
        mapping = affine_map(angles[i], float(scaling[i]), tuple(source.shape[1:]), shown)
        turned, turned_seg = sample_affine(source, source_seg, mapping, shown)
        image_out[i] = turned.reshape(image_out.shape[1:])
        seg_out[i] = turned_seg.reshape(seg_out.shape[1:])
    return image_out, seg_out


def _draw_affine(
    count: int, settings: SpatialSettings, config: AugmentConfig, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Angles (B, 1 or 3) in radians and factors (B,), on the CPU; zeros and ones do nothing."""
    in_plane = settings.dummy_2d or len(settings.patch_size) == 2
    largest = math.radians(settings.max_angle_degrees)
    rotates = draw.fires(generator, (count,), config.p_rotation)
    scales = draw.fires(generator, (count,), config.p_scaling)
    angles = draw.uniform(generator, (count, 1 if in_plane else 3), (-largest, largest))
    scaling = draw.uniform(generator, (count,), config.scaling)
    angles = angles * rotates[:, None]
    return angles.cpu(), torch.where(scales, scaling, 1.0).cpu()


def _fold(image: torch.Tensor, seg: torch.Tensor, dummy_2d: bool) -> Batch:
    """Turn slices along axis 0 into channels where the transform is to treat them alike."""
    return (image.flatten(0, 1), seg.flatten(0, 1)) if dummy_2d else (image, seg)


def mirror(
    image: torch.Tensor, seg: torch.Tensor, axes: tuple[int, ...], generator: torch.Generator
) -> None:
    """Flip each sample along each of the spatial ``axes`` with probability 1/2, in place."""
    flips = draw.fires(generator, (image.shape[0], len(axes)), 0.5)
    for i, chosen in enumerate(flips.tolist()):
        turned = [axis + 1 for axis, flip in zip(axes, chosen, strict=True) if flip]
        if turned:
            image[i], seg[i] = image[i].flip(turned), seg[i].flip(turned)
