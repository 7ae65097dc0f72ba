"""Lesion-wise detection: which connected components are found, missed or invented.

A lesion is a connected component of a target: 26-connected in a volume, 8-connected in a plane.
A reference lesion is found when the prediction overlaps it in one voxel or more; a predicted
lesion is false when it overlaps no reference lesion. These are the definitions of the ISLES 2022
challenge (Hernandez Petzsche et al. 2022, doi:10.1038/s41597-022-01875-5):

* ``lesion_tp``: reference lesions that are found,
* ``lesion_fp``: predicted lesions that are false,
* ``lesion_fn``: reference lesions that are missed,
* ``lesion_precision`` = TP / (TP + FP), undefined where nothing is predicted,
* ``lesion_recall`` = TP / (TP + FN), undefined where nothing is in the reference,
* ``lesion_f1`` = 2 TP / (2 TP + FP + FN), undefined where there is no lesion on either side.
"""

from __future__ import annotations

import numpy as np

from segkit.dataset.nonzero import bounding_box, box_slices
from segkit.evaluation.overlap import Scores, ratio

LESION_COUNTS = ("lesion_tp", "lesion_fp", "lesion_fn")
LESION_METRICS = (*LESION_COUNTS, "lesion_precision", "lesion_recall", "lesion_f1")
_NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)


def lesion_scores(mask_ref: np.ndarray, mask_pred: np.ndarray) -> Scores:
    """Compute :data:`LESION_METRICS` of two bool masks (Z, Y, X); empty masks hold no lesion."""
    box = box_slices(bounding_box(mask_ref | mask_pred))
    mask_ref, mask_pred = mask_ref[box], mask_pred[box]
    found, missed = _touched(mask_ref, mask_pred)
    _, false = _touched(mask_pred, mask_ref)
    return rate_lesions(found, false, missed)


def rate_lesions(found: int, false: int, missed: int) -> Scores:
    """Turn counts of lesions into :data:`LESION_METRICS`."""
    return {
        "lesion_tp": float(found),
        "lesion_fp": float(false),
        "lesion_fn": float(missed),
        "lesion_precision": ratio(found, found + false),
        "lesion_recall": ratio(found, found + missed),
        "lesion_f1": ratio(2 * found, 2 * found + false + missed),
    }


def _touched(mask: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """Count the components of a mask that the other one overlaps, and those it does not."""
    from scipy import ndimage

    components, count = ndimage.label(mask, _NEIGHBOURS)
    touched = np.zeros(count + 1, dtype=bool)
    touched[components[mask & other]] = True
    return (number := int(touched.sum())), count - number
