"""Sampled foreground voxels, so that the patch sampler need not search the label map."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np

from segkit.dataset.labels import BACKGROUND, LabelSchema
from segkit.dataset.structures import PRESENT
from segkit.types import Shape

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
    generator = np.random.default_rng(_SEED)
    locations: Locations = {}
    for channel, targets in itertools.groupby(_targets(schema).items(), key=lambda t: t[1][0]):
        voxels = _by_index(seg[channel], schema.ignore_index)
        for key, (_, indices) in targets:
            parts = [voxels[k] for k in indices if k > BACKGROUND and len(voxels[k])]
            if parts:
                found = parts[0] if len(parts) == 1 else np.sort(np.concatenate(parts))
                locations[key] = _sample(found, seg.shape[1:], generator)
    if _everywhere(seg, schema.ignore_index).any():
        annotated = np.flatnonzero(_annotated(seg, schema.ignore_index))
        locations[ANNOTATED] = _sample(annotated, seg.shape[1:], generator)
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


def _by_index(channel: np.ndarray, highest: int) -> list[np.ndarray]:
    """Return the flat voxels that hold 0 (none are listed), 1, ..., highest, in scan order."""
    voxels = np.flatnonzero(channel > BACKGROUND)
    indices = channel.ravel()[voxels]
    order = np.argsort(indices, kind="stable")
    starts = np.searchsorted(indices[order], np.arange(1, highest + 1))
    return np.split(voxels[order], starts)


def _sample(found: np.ndarray, shape: Shape, generator: np.random.Generator) -> np.ndarray:
    """Draw flat voxels without replacement, in scan order; (n, 3) int32 coordinates."""
    count = max(min(_MIN_SAMPLES, len(found)), math.ceil(_MIN_SHARE * len(found)))
    if count < len(found):
        found = np.sort(generator.choice(found, count, replace=False, shuffle=False))
    return np.stack(np.unravel_index(found, shape), axis=1).astype(np.int32)
