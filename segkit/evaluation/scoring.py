"""What is computed of every target: the names of the metrics, and the choices a user has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segkit.errors import UserError, nearest
from segkit.evaluation.lesions import LESION_METRICS
from segkit.evaluation.overlap import OVERLAP_METRICS

METRICS = (
    "dice",
    "iou",
    "precision",
    "recall",
    "hd95_mm",
    "assd_mm",
    "nsd",
    "volume_ref_ml",
    "volume_pred_ml",
    *LESION_METRICS,
)
"""Every known metric, in the order in which they are shown."""
SHARES = frozenset(
    ("dice", "iou", "precision", "recall", "nsd", "lesion_precision", "lesion_recall", "lesion_f1")
)
"""Metrics that run from 0 to 1, 1 the best."""
DEFAULT_METRICS = tuple(metric for metric in METRICS if metric in OVERLAP_METRICS)
"""Surface distances and lesions take longer and are computed only when asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """How targets are scored; see :func:`check_scoring`."""

    metrics: tuple[str, ...] = DEFAULT_METRICS
    """Names out of :data:`METRICS`."""
    nsd_tolerance_mm: float = 1.0
    """Distance that still counts as on the surface (``nsd``)."""
    absent_score: float | None = None
    """What :data:`SHARES` are for a target that is neither in the reference nor predicted (0..1);
    None leaves them undefined. Targets without an annotated voxel are undefined in any case."""
    named_values_only: bool = False
    """Values of label maps that are not declared count as background; else they are refused."""


DEFAULT_SCORING = Scoring()


def check_scoring(
    metrics: Sequence[str] | None = None,
    *,
    nsd_tolerance_mm: float = 1.0,
    absent_score: float | None = None,
) -> Scoring:
    """Check what a user asked for.

    Args:
        metrics: Names out of :data:`METRICS`; None takes :data:`DEFAULT_METRICS`.
        nsd_tolerance_mm: 0 or more.
        absent_score: 0..1 or None.

    Raises:
        UserError: an unknown metric, none at all, or a number out of range.
    """
    if not (math.isfinite(nsd_tolerance_mm) and nsd_tolerance_mm >= 0):
        fix = "give a distance in mm, 0 or more"
        what = f"NSD tolerance {nsd_tolerance_mm} mm"
        raise UserError(what, where="--nsd-tolerance-mm", fix=fix)
    if absent_score is not None and not 0 <= absent_score <= 1:
        fix = "give a score from 0 to 1, such as 1 for correctly empty"
        raise UserError(f"absent score {absent_score}", where="--absent-score", fix=fix)
    return Scoring(
        metrics=check_metrics(metrics),
        nsd_tolerance_mm=float(nsd_tolerance_mm),
        absent_score=None if absent_score is None else float(absent_score),
    )


def check_metrics(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the metrics asked for in their usual order, each once; None gives the default.

    Raises:
        UserError: an unknown name, or none at all.
    """
    if names is None:
        return DEFAULT_METRICS
    for name in names:
        if name not in METRICS:
            raise UserError(
                f"unknown metric {name!r}", where="--metrics", fix=nearest(name, METRICS)
            )
    if not names:
        fix = f"give some of {', '.join(METRICS)}"
        raise UserError("no metric was asked for", where="--metrics", fix=fix)
    return tuple(metric for metric in METRICS if metric in names)
