"""Score every target of one case: two maps of schema indices in, numbers out.

Structures that overlap are targets each on its own: a binary map with ignored voxels of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segkit.dataset.labels import LabelSchema
from segkit.evaluation.lesions import LESION_METRICS, lesion_scores
from segkit.evaluation.overlap import (
    Scores,
    annotated_classes,
    confusion_matrix,
    overlap_scores,
)
from segkit.evaluation.scoring import SHARES, Scoring
from segkit.evaluation.surface import SURFACE_METRICS, surface_scores
from segkit.types import Geometry, Spacing

_STRUCTURE = np.array([[False, True]])
"""Members of the only target of a binary map."""


def score_case(
    ref: np.ndarray, pred: np.ndarray, geometry: Geometry, schema: LabelSchema, scoring: Scoring
) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Score every label (or structure) and every region.

    Args:
        ref: (1, Z, Y, X) schema indices, or (S, Z, Y, X) of overlapping structures.
        pred: Same shape; what is no class counts as background.
        geometry: Of the reference.
        schema: What the indices mean.
        scoring: Which metrics.

    Returns:
        Label name -> scores, and region name -> scores.
    """
    if schema.overlapping:
        pairs = zip(ref, pred, strict=True)
        scores = [_score(*pair, _STRUCTURE, geometry, scoring)[0] for pair in pairs]
    else:
        labels = np.eye(schema.num_classes, dtype=bool)[1:]
        members = np.concatenate([labels, schema.region_members])
        scores = _score(ref[0], pred[0], members, geometry, scoring)
    names = [label.name for label in schema.classes]
    regions = [region.name for region in schema.regions]
    return (
        dict(zip(names, scores[: len(names)], strict=True)),
        dict(zip(regions, scores[len(names) :], strict=True)),
    )


def unannotated_targets(ref: np.ndarray, schema: LabelSchema) -> tuple[str, ...]:
    """Name the targets of which no voxel is annotated in a reference (1 or S, Z, Y, X)."""
    annotated = (ref != schema.ignore_index).any(axis=(1, 2, 3))
    names = [label.name for label in schema.classes]
    if schema.overlapping:
        return tuple(name for name, known in zip(names, annotated, strict=True) if not known)
    names += [region.name for region in schema.regions if region.name not in names]
    return () if annotated[0] else tuple(names)


def annotated_share(ref: np.ndarray, schema: LabelSchema) -> float:
    """Return the share (0..1) of the voxels of a reference (1 or S, Z, Y, X) that are scored.

    The others are ignored: nobody annotated them, or they lie outside the region of interest. For
    overlapping structures it is the mean over the structures.
    """
    return float(np.count_nonzero(ref != schema.ignore_index) / ref.size)


def voxel_ml(geometry: Geometry) -> float:
    """Return the volume of a voxel in millilitres; a plane counts as 1 mm thick."""
    thickness, height, width = geometry.spacing_mm
    return (thickness if geometry.stored_ndim == 3 else 1.0) * height * width / 1000


def _score(
    ref: np.ndarray,
    pred: np.ndarray,
    members: np.ndarray,
    geometry: Geometry,
    scoring: Scoring,
) -> list[Scores]:
    """Score the targets of one map (Z, Y, X); members (T, K) as for ``overlap_scores``."""
    confusion = confusion_matrix(ref, pred, members.shape[1])
    scores = overlap_scores(confusion, members, voxel_ml(geometry))
    asked = set(scoring.metrics)
    if asked & {*SURFACE_METRICS, *LESION_METRICS}:
        shapes = _shape_scores(ref, pred, members, geometry.spacing_mm, scoring)
        if not confusion.any():
            shapes = [dict.fromkeys(target) for target in shapes]
        scores = [overlap | shape for overlap, shape in zip(scores, shapes, strict=True)]
    return [
        {metric: _or_absent(target, metric, scoring) for metric in scoring.metrics}
        for target in scores
    ]


def _or_absent(scores: Scores, metric: str, scoring: Scoring) -> float | None:
    """Return a score; that of a target on neither side is what the user says it is worth."""
    absent = scores["volume_ref_ml"] == scores["volume_pred_ml"] == 0
    return scoring.absent_score if absent and metric in SHARES else scores[metric]


def _shape_scores(
    ref: np.ndarray, pred: np.ndarray, members: np.ndarray, spacing_mm: Spacing, scoring: Scoring
) -> list[Scores]:
    """Score surfaces and lesions."""
    from scipy import ndimage

    num_classes = members.shape[1]
    maps = annotated_classes(ref, pred, num_classes)
    # Many small targets in a large image: each is looked at where it is.
    boxes = [ndimage.find_objects(indices, max_label=num_classes - 1) for indices in maps]
    scores = []
    for target in members:
        classes = np.flatnonzero(target)
        box = _around([found[k - 1] for found in boxes for k in classes if found[k - 1]])
        masks = [_any_of(classes, indices[box]) for indices in maps]
        scores.append(_shapes_of(masks[0], masks[1], spacing_mm, scoring))
    return scores


def _any_of(classes: np.ndarray, indices: np.ndarray) -> np.ndarray:
    mask: np.ndarray = indices == classes[0]
    for index in classes[1:]:
        mask |= indices == index
    return mask


def _around(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """Return a box that holds all others; a voxel wide where there is none.

    The slice axis stays whole, for its length tells a plane from a volume.
    """
    start = (min((box[axis].start for box in boxes), default=0) for axis in (1, 2))
    stop = (max((box[axis].stop for box in boxes), default=1) for axis in (1, 2))
    return (slice(None), *map(slice, start, stop))


def _shapes_of(
    mask_ref: np.ndarray, mask_pred: np.ndarray, spacing_mm: Spacing, scoring: Scoring
) -> Scores:
    scores: Scores = {}
    if set(scoring.metrics) & set(SURFACE_METRICS):
        tolerance = scoring.nsd_tolerance_mm
        scores |= surface_scores(mask_ref, mask_pred, spacing_mm, tolerance_mm=tolerance)
    if set(scoring.metrics) & set(LESION_METRICS):
        scores |= lesion_scores(mask_ref, mask_pred)
    return scores
