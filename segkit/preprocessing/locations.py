"""Sampled foreground voxels, so that the patch sampler need not search the label map."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from segkit.dataset.labels import LabelSchema

ANNOTATED = "annotated"
"""Key of the voxels somebody annotated; only cases with ignored voxels have it."""
_MIN_SAMPLES = 10_000
_MIN_SHARE = 0.01
_SEED = 1234

Locations = dict[int | str, np.ndarray]
"""Key -> (n, 3) int32 voxel coordinates z, y, x."""


def find_locations(seg: np.ndarray, schema: LabelSchema) -> Locations:
    """Draw voxels of every class (or region), all of them up to 10 000 and at least 1 %.

    Args:
        seg: (1, Z, Y, X) int16 schema indices, -1 where invalid.
        schema: The dataset's labels.

    Returns:
        Keys are class indices 1..K-1, or region indices 0..R-1 if the schema has regions; only
        what occurs has a key. A case with ignored voxels has ``ANNOTATED`` too: voxels neither
        ignored nor invalid, possibly none. The draw is seeded.
    """
    labels, ignore = seg[0], schema.ignore_index
    boxes = ndimage.find_objects(labels, max_label=ignore)
    targets = {k: [k] for k in range(1, ignore)}
    if schema.has_regions:
        members = schema.region_members
        targets = {r: np.flatnonzero(row).tolist() for r, row in enumerate(members)}
    generator = np.random.default_rng(_SEED)
    locations: Locations = {}
    for key, classes in targets.items():
        present = [k for k in classes if k > 0 and boxes[k - 1] is not None]
        if present:
            box = _union([boxes[k - 1] for k in present])
            mask = np.logical_or.reduce([labels[box] == k for k in present])
            offset = [axis.start for axis in box]
            locations[key] = _sample(mask, generator) + np.array(offset, dtype=np.int32)
    if boxes[ignore - 1] is not None:
        locations[ANNOTATED] = _sample((labels >= 0) & (labels < ignore), generator)
    return locations


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
