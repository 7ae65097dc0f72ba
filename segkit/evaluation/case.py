"""One case: read the reference and the prediction, check that they match, score every target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.dataset.image_io import read_labels
from segkit.dataset.labels import BACKGROUND, INVALID, LabelSchema
from segkit.dataset.nonzero import bounding_box, box_slices
from segkit.errors import UserError
from segkit.evaluation.overlap import Scores, as_classes, confusion_matrix, overlap_scores
from segkit.evaluation.surface import SURFACE_METRICS, surface_scores
from segkit.files import file_hash
from segkit.types import Geometry, Spacing, Volume

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
)
"""Every known metric, in the order in which they are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CasePair:
    """A prediction and the reference it is compared with."""

    case: str
    pred: Path
    ref: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseScores:
    """All scores of one case: target name -> metric -> value (None where undefined)."""

    case: str
    labels: dict[str, Scores]
    regions: dict[str, Scores]


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseResult:
    """What a worker sends back: the scores, what to warn about, and the hash of both files."""

    scores: CaseScores
    warnings: tuple[str, ...]
    source_hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSettings:
    """Everything besides the files that the scores of a case depend on."""

    schema: LabelSchema
    metrics: tuple[str, ...]
    """Names out of :data:`METRICS`."""
    nsd_tolerance_mm: float = 1.0
    reader: str | None = None
    """Image reader class named in dataset.json; None chooses by file ending."""


def evaluate_case(pair: CasePair, settings: EvaluationSettings) -> CaseResult:
    """Read and score one case.

    Raises:
        UserError: a file is unreadable, holds undeclared values, or the shapes differ.
    """
    ref = read_labels(pair.ref, settings.reader)
    pred = read_labels(pair.pred, settings.reader)
    _check_shapes(pair, ref, pred)
    labels, regions = score_case(
        settings.schema.encode(ref.array[0], source=pair.ref),
        settings.schema.encode(_fill_invalid(pred.array[0]), source=pair.pred),
        ref.geometry,
        settings,
    )
    return CaseResult(
        scores=CaseScores(case=pair.case, labels=labels, regions=regions),
        warnings=geometry_warnings(pair.case, ref.geometry, pred.geometry),
        source_hash=file_hash(pair.ref) + file_hash(pair.pred),
    )


def score_case(
    ref: np.ndarray, pred: np.ndarray, geometry: Geometry, settings: EvaluationSettings
) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Score every label and every region of two maps (Z, Y, X) of schema indices.

    Returns:
        Label name -> scores, and region name -> scores.
    """
    schema = settings.schema
    labels = [label.name for label in schema.classes]
    regions = [region.name for region in schema.regions]
    members = np.concatenate([np.eye(schema.num_classes, dtype=bool)[1:], schema.region_members])
    confusion = confusion_matrix(ref, pred, schema.num_classes)
    scores = overlap_scores(confusion, members, voxel_ml(geometry))
    if any(metric in SURFACE_METRICS for metric in settings.metrics):
        surfaces = _surfaces(ref, pred, members, geometry.spacing_mm, settings)
        scores = [overlap | surface for overlap, surface in zip(scores, surfaces, strict=True)]
    asked = [{metric: target[metric] for metric in settings.metrics} for target in scores]
    return (
        dict(zip(labels, asked[: len(labels)], strict=True)),
        dict(zip(regions, asked[len(labels) :], strict=True)),
    )


def _surfaces(
    ref: np.ndarray,
    pred: np.ndarray,
    members: np.ndarray,
    spacing_mm: Spacing,
    settings: EvaluationSettings,
) -> list[Scores]:
    """Score surfaces; what the reference ignores is background on both sides."""
    num_classes = settings.schema.num_classes
    pred = np.where(ref == num_classes, BACKGROUND, as_classes(pred, num_classes))
    ref = as_classes(ref, num_classes)
    foreground = (ref != BACKGROUND) | (pred != BACKGROUND)
    if not foreground.any():
        return [dict.fromkeys(SURFACE_METRICS) for _ in members]
    # Many small targets in a large image: look only where there are any. The slice axis stays
    # whole, for its length tells a plane from a volume.
    box = (slice(None), *box_slices(bounding_box(foreground)[1:]))
    tolerance = settings.nsd_tolerance_mm
    return [
        surface_scores(target[ref[box]], target[pred[box]], spacing_mm, tolerance_mm=tolerance)
        for target in members
    ]


def voxel_ml(geometry: Geometry) -> float:
    """Return the volume of a voxel in millilitres; a plane counts as 1 mm thick."""
    thickness, height, width = geometry.spacing_mm
    return (thickness if geometry.stored_ndim == 3 else 1.0) * height * width / 1000


def geometry_warnings(case: str, ref: Geometry, pred: Geometry) -> tuple[str, ...]:
    """Name what differs between two grids of equal shape beyond rounding in the file formats."""
    tolerance = {
        "spacing_mm": 1e-3 * min(ref.spacing_mm),
        "origin": 1e-2 * min(ref.spacing_mm),
        "direction": 1e-3,
    }
    return tuple(
        f"{case}: {key} differs: reference {_text(expected)}, prediction {_text(found)}"
        for key, atol in tolerance.items()
        if not _close(expected := getattr(ref, key), found := getattr(pred, key), atol)
    )


def _close(expected: Sequence[float], found: Sequence[float], atol: float) -> bool:
    return np.allclose(expected, found, rtol=1e-5, atol=atol)


def _text(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _fill_invalid(raw: np.ndarray) -> np.ndarray:
    """Turn -1 of a prediction into background, before it could be read as ignore."""
    return np.where(raw == INVALID, BACKGROUND, raw)


def _check_shapes(pair: CasePair, ref: Volume, pred: Volume) -> None:
    if ref.shape != pred.shape:
        raise UserError(
            f"case {pair.case}: the prediction has shape {pred.shape} (z, y, x), "
            f"the reference {ref.shape}",
            where=pair.pred,
            fix="bring the prediction back to the grid of the image it was made from",
        )
