"""How many voxels the classes of a case have, and which structures share voxels."""

from __future__ import annotations

import numpy as np

from segkit.dataset.labels import LabelSchema
from segkit.dataset.structures import PRESENT


def count_classes(
    indices: np.ndarray, valid: np.ndarray, labels: LabelSchema
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Count the voxels of every class (or structure), and those on which each is known.

    Args:
        indices: (1 or S, Z, Y, X) schema indices.
        valid: (Z, Y, X) bool, voxels that carry information.
        labels: What the indices mean.
    """
    ignored = indices == labels.ignore_index
    known = [int(np.count_nonzero(valid & ~channel)) for channel in ignored]
    if labels.overlapping:
        found = [int(np.count_nonzero(channel == PRESENT)) for channel in indices]
        return tuple(found), tuple(known)
    counts = np.bincount(indices[indices > 0], minlength=labels.num_classes)
    found = counts[1 : labels.num_classes].tolist()
    return tuple(found), tuple(known * len(found))


def count_combinations(indices: np.ndarray, labels: LabelSchema) -> dict[str, int]:
    """Count which structures share voxels: "liver+tumour" -> voxels, most frequent first.

    Args:
        indices: (S, Z, Y, X) schema indices.
        labels: An overlapping schema.
    """
    present = (indices == PRESENT).reshape(len(indices), -1)
    packed = np.packbits(present, axis=0)
    packed = packed[:, packed.any(axis=0)]
    if not packed.size:
        return {}
    # Neighbours mostly agree: runs are far fewer than voxels.
    changes = np.flatnonzero((packed[:, 1:] != packed[:, :-1]).any(axis=0)) + 1
    starts = np.concatenate([[0], changes])
    lengths = np.diff(starts, append=packed.shape[1])
    runs = packed[:, starts]
    _, first, kind = np.unique(_codes(runs), return_index=True, return_inverse=True)
    voxels = np.bincount(kind, weights=lengths).astype(np.int64)
    bits = np.unpackbits(runs[:, first], axis=0, count=len(indices)).astype(bool)
    names = np.array([structure.name for structure in labels.classes], dtype=object)
    order = np.argsort(-voxels, kind="stable")
    return {"+".join(names[bits[:, i]]): int(voxels[i]) for i in order}


def _codes(packed: np.ndarray) -> np.ndarray:
    """Return one integer a column (n,), equal where columns are equal; far faster to sort."""
    codes = np.zeros(packed.shape[1], dtype=np.int64)
    for row in packed:
        codes = codes << 8 | row
        if codes.max() >= 1 << 48:
            _, codes = np.unique(codes, return_inverse=True)
    return codes
