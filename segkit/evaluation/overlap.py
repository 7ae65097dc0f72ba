"""Overlap of two label maps: everything follows from one confusion matrix.

Both maps hold schema indices (see ``dataset.labels``). Voxels the reference ignores are left
out altogether; invalid voxels and anything that is no class count as background.

Undefined metrics are None, never NaN and never a made-up 0 or 1:

==============================  ==============================================================
metric                          undefined when
==============================  ==============================================================
dice, iou                       neither reference nor prediction has a voxel
precision                       nothing is predicted
recall                          nothing is in the reference
volume_ref_ml, volume_pred_ml   never
all of them                     no voxel is annotated
==============================  ==============================================================
"""

from __future__ import annotations

import numpy as np

OVERLAP_METRICS = ("dice", "iou", "precision", "recall", "volume_ref_ml", "volume_pred_ml")

_AT_ONCE = 1 << 16
"""Voxels that are counted at once: few enough for the processor's cache."""

Scores = dict[str, float | None]
"""Metric name -> value, None where it is undefined."""


def confusion_matrix(ref: np.ndarray, pred: np.ndarray, num_classes: int) -> np.ndarray:
    """Count how often reference class i meets predicted class j.

    Args:
        ref: Schema indices of the reference, any shape and integer type; ``num_classes`` marks
            ignored voxels, any other value that is no class is background.
        pred: Schema indices of the prediction, same shape.
        num_classes: K, background included.

    Returns:
        (K, K) int64, rows reference, columns prediction; its sum is the number of voxels that
        are not ignored.
    """
    counts = np.zeros((num_classes + 1) * num_classes, dtype=np.int64)
    ref, pred = ref.ravel(), pred.ravel()
    for start in range(0, ref.size, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        # Background on both sides is most of an image: it is counted, not carried along as int64.
        relevant = (ref[part] != 0) | (pred[part] != 0)
        # The ignored voxels are a row of their own, which is left out in the end.
        pairs = as_classes(ref[part][relevant], num_classes + 1).astype(np.int64) * num_classes
        pairs += as_classes(pred[part][relevant], num_classes).astype(np.int64)
        counts += np.bincount(pairs, minlength=counts.size)
    counts[0] += ref.size - counts.sum()
    return counts.reshape(num_classes + 1, num_classes)[:-1]


def as_classes(indices: np.ndarray, num_classes: int) -> np.ndarray:
    """Turn whatever is no class 0..K-1 (invalid and ignored voxels) into background."""
    return np.where((indices >= 0) & (indices < num_classes), indices, 0)


def annotated_classes(
    ref: np.ndarray, pred: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Turn two maps into classes; what the reference ignores is background on both sides."""
    pred = np.where(ref == num_classes, 0, as_classes(pred, num_classes))
    return as_classes(ref, num_classes), pred


def overlap_scores(confusion: np.ndarray, members: np.ndarray, voxel_ml: float) -> list[Scores]:
    """Compute the overlap metrics of several targets, each a union of classes.

    Args:
        confusion: (K, K) counts from :func:`confusion_matrix`.
        members: (T, K) bool, whether class k belongs to target t: a row of the identity for a
            label, ``LabelSchema.region_members`` for regions.
        voxel_ml: Volume of a voxel in millilitres.

    Returns:
        One mapping of :data:`OVERLAP_METRICS` per target.
    """
    if not confusion.any():
        return [dict.fromkeys(OVERLAP_METRICS) for _ in members]
    counts: list[tuple[int, int, int]] = overlap_counts(confusion, members).tolist()
    return [_scores(*target, voxel_ml) for target in counts]


def overlap_counts(confusion: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Count the voxels of targets in both maps, in the prediction and in the reference.

    Args:
        confusion: (K, K) counts from :func:`confusion_matrix`.
        members: (T, K) bool, whether class k belongs to target t.

    Returns:
        (T, 3) int64.
    """
    rows = members.astype(np.int64)
    both = ((rows @ confusion) * rows).sum(axis=1)
    return np.stack([both, rows @ confusion.sum(axis=0), rows @ confusion.sum(axis=1)], axis=1)


def _scores(both: int, in_pred: int, in_ref: int, voxel_ml: float) -> Scores:
    return {
        "dice": ratio(2 * both, in_ref + in_pred),
        "iou": ratio(both, in_ref + in_pred - both),
        "precision": ratio(both, in_pred),
        "recall": ratio(both, in_ref),
        "volume_ref_ml": in_ref * voxel_ml,
        "volume_pred_ml": in_pred * voxel_ml,
    }


def ratio(numerator: int, denominator: int) -> float | None:
    """Divide; None where there is nothing to divide by."""
    return numerator / denominator if denominator else None
