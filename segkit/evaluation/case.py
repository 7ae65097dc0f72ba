"""One case: read the reference and the prediction, check that they match, score every target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit.dataset.image_io import companions
from segkit.dataset.label_files import apply_mask, read_label_map, structure_files
from segkit.dataset.labels import LabelSchema
from segkit.errors import UserError
from segkit.evaluation.explanations import LabelErrors, label_errors
from segkit.evaluation.overlap import Scores
from segkit.evaluation.scoring import Scoring
from segkit.evaluation.targets import (
    annotated_share,
    score_case,
    unannotated_targets,
    voxel_ml,
)
from segkit.files import content_hash, file_hash
from segkit.types import Geometry, Volume


@dataclass(frozen=True, kw_only=True, slots=True)
class CasePair:
    """A prediction and the reference it is compared with."""

    case: str
    pred: Path
    ref: Path
    """Label files; for overlapping structures each may be a folder of one mask a structure."""
    mask: Path | None = None
    """Region of interest: where it is 0 the reference is ignored."""
    unannotated: tuple[str, ...] = ()
    """Overlapping structures nobody looked for in this case; their files may be missing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseScores:
    """All scores of one case: target name -> metric -> value (None where undefined)."""

    case: str
    labels: dict[str, Scores]
    regions: dict[str, Scores]
    unannotated: tuple[str, ...] = ()
    """Targets without an annotated voxel: all their scores are None."""
    annotated_share: float = 1.0
    """Share (0..1) of the reference's voxels that are scored, the rest being ignored; the mean over
    structures that overlap. Volumes are of this part. Summaries of before do not tell: 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseResult:
    """What a worker sends back: scores, errors, what to warn about, the hash of all files."""

    scores: CaseScores
    errors: tuple[LabelErrors, ...]
    """Of the labels with a region around them."""
    warnings: tuple[str, ...]
    undeclared: tuple[int, ...]
    """Values that count as background though nobody declared them."""
    source_hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSettings:
    """Everything besides the files that the scores of a case depend on."""

    schema: LabelSchema
    scoring: Scoring
    reader: str | None = None
    """Image reader class named in dataset.json; None chooses by file ending."""


def evaluate_case(pair: CasePair, settings: EvaluationSettings) -> CaseResult:
    """Read and score one case.

    The two may lie on disk in different layouts. -1 in a prediction is background, in a reference
    it is ignored.

    Raises:
        UserError: a file is unreadable, holds undeclared values, or the shapes differ.
    """
    schema = settings.schema
    undeclared: set[int] | None = set() if settings.scoring.named_values_only else None
    ref, pred = read_pair(pair, schema, settings.reader, undeclared=undeclared)
    labels, regions = score_case(ref.array, pred.array, ref.geometry, schema, settings.scoring)
    return CaseResult(
        scores=CaseScores(
            case=pair.case,
            labels=labels,
            regions=regions,
            unannotated=unannotated_targets(ref.array, schema),
            annotated_share=annotated_share(ref.array, schema),
        ),
        errors=label_errors(ref.array[0], pred.array[0], schema, voxel_ml(ref.geometry)),
        warnings=geometry_warnings(pair.case, ref.geometry, pred.geometry),
        undeclared=tuple(sorted(undeclared or ())),
        source_hash=pair_hash(pair),
    )


def read_pair(
    pair: CasePair,
    schema: LabelSchema,
    reader: str | None,
    *,
    undeclared: set[int] | None = None,
) -> tuple[Volume, Volume]:
    """Read reference and prediction as schema indices; outside its mask the reference is ignored.

    Args:
        pair: Their files.
        schema: What the values mean.
        reader: Image reader named in dataset.json.
        undeclared: Takes the values that are not declared; None refuses them.

    Raises:
        UserError: as for :func:`evaluate_case`.
    """
    # What is ignored in the prediction is no class, and so it counts as background.
    pred, ref = (
        read_label_map(path, schema, reader, unannotated=pair.unannotated, undeclared=undeclared)
        for path in (pair.pred, pair.ref)
    )
    _check_shapes(pair, ref, pred)
    return apply_mask(ref, pair.mask, schema, reader), pred


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


def _check_shapes(pair: CasePair, ref: Volume, pred: Volume) -> None:
    if ref.shape != pred.shape:
        raise UserError(
            f"case {pair.case}: the prediction has shape {pred.shape} (z, y, x), "
            f"the reference {ref.shape}",
            where=pair.pred,
            fix="bring the prediction back to the grid of the image it was made from",
        )


def pair_hash(pair: CasePair) -> str:
    """Hash what is compared: files, and the named files of folders."""
    contents: list[object] = []
    for path in (pair.ref, pair.pred, pair.mask):
        if path is not None and path.is_dir():
            named = structure_files(path).items()
            contents.append({name: [_file_hashes(file) for file in files] for name, files in named})
        else:
            contents.append(None if path is None else _file_hashes(path))
    return content_hash(contents)


def _file_hashes(path: Path) -> list[str]:
    return [file_hash(file) for file in (path, *companions(path))]
