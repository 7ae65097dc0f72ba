"""Sampled foreground voxels, so that the patch sampler need not search the label map."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from segkit.dataset.labels import BACKGROUND, LabelSchema
from segkit.dataset.structures import PRESENT

ANNOTATED = "annotated"
"""Key of the voxels somebody annotated; only cases with voxels nobody did have it."""
_MIN_SAMPLES = 10_000
_MIN_SHARE = 0.01
_SEED = 1234

Locations = dict[int | str, np.ndarray]
"""Key -> (n, 3) int32 voxel coordinates z, y, x."""


def find_locations(seg: np.ndarray, schema: LabelSchema) -> Locations:
    """Draw voxels of every target, all of them up to 10 000 and at least 1 %.

    Args:
        seg: (1, Z, Y, X) int16 schema indices, -1 where invalid; for overlapping structures
            (S, Z, Y, X) int8 or int16, a binary label map each.
        schema: The dataset's labels.

    Returns:
        Keys are those of :func:`target_keys`; only what occurs has a key. A case with voxels that
        are ignored in every channel has ``ANNOTATED`` too: voxels that are neither ignored nor
        invalid in some channel, possibly none. The draw is seeded.
    """
    boxes = [ndimage.find_objects(channel, max_label=schema.ignore_index) for channel in seg]
    generator = np.random.default_rng(_SEED)
    locations: Locations = {}
    for key, (channel, indices) in _targets(schema).items():
        found = [(k, boxes[channel][k - 1]) for k in indices if k > BACKGROUND]
        present = {k: box for k, box in found if box is not None}
        if present:
            box = _union(list(present.values()))
            mask = np.logical_or.reduce([seg[channel][box] == k for k in present])
            offset = [axis.start for axis in box]
            locations[key] = _sample(mask, generator) + np.array(offset, dtype=np.int32)
    somewhere = all(boxes_of_channel[-1] is not None for boxes_of_channel in boxes)
    if somewhere and _everywhere(seg, schema.ignore_index).any():
        locations[ANNOTATED] = _sample(_annotated(seg, schema.ignore_index), generator)
    return locations


def target_keys(schema: LabelSchema) -> tuple[int, ...]:
    """Return the key of every target, in the order of ``schema.target_names``.

    Class indices 1..K-1, or the indices 0..T-1 of regions or overlapping structures.
    """
    return tuple(_targets(schema))


def _targets(schema: LabelSchema) -> dict[int, tuple[int, list[int]]]:
    """Key -> channel of the segmentation, and the indices that belong to the target there."""
    if schema.overlapping:
        return {s: (s, [PRESENT]) for s in range(schema.seg_channels)}
    if schema.has_regions:
        rows = enumerate(schema.region_members)
        return {r: (0, np.flatnonzero(row).tolist()) for r, row in rows}
    return {k: (0, [k]) for k in range(1, schema.num_classes)}


def _everywhere(seg: np.ndarray, index: int) -> np.ndarray:
    """Where every channel holds the index; channel by channel, to spare memory."""
    return functools.reduce(np.logical_and, (channel == index for channel in seg))


def _annotated(seg: np.ndarray, ignore: int) -> np.ndarray:
    """Where some channel is neither invalid nor ignored."""
    masks = ((channel >= BACKGROUND) & (channel < ignore) for channel in seg)
    return functools.reduce(np.logical_or, masks)


def _union(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    return tuple(
        slice(min(axis.start for axis in axes), max(axis.stop for axis in axes))
        for axes in zip(*boxes, strict=True)
    )


def _sample(mask: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw true voxels without replacement, in scan order; (n, 3) int32."""
    found = np.flatnonzero(mask)
    count = max(min(_MIN_SAMPLES, len(found)), math.ceil(_MIN_SHARE * len(found)))
    if count < len(found):
        found = np.sort(generator.choice(found, count, replace=False, shuffle=False))
    return np.stack(np.unravel_index(found, mask.shape), axis=1).astype(np.int32)
