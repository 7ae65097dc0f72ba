"""What each post-processing rule would do to the scores of a case, without applying it.

Components are labelled once for a case and target. Every candidate rule then follows from a table
of voxel counts: how many voxels of which class meet which reference in pieces of which size. A
candidate is judged by true positives, predicted and reference voxels of every target it touches,
over annotated voxels only; sizes are of the whole piece, as they will be when a case has no
reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segkit.dataset.labels import LabelSchema
from segkit.evaluation.case import CasePair, read_pair
from segkit.evaluation.editing import Box, LabelEditor, edits_of, target_members
from segkit.evaluation.overlap import as_classes, confusion_matrix, overlap_counts
from segkit.evaluation.postprocessing import (
    Operation,
    Rule,
    apply_rule,
    doomed_pieces,
    voxel_mm3,
)

Counts = np.ndarray
"""(..., 3) int64: true positives, predicted and reference voxels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Candidates that are tried side by side; those of one target exclude each other."""

    targets: tuple[str | None, ...]
    operations: tuple[Operation, ...]
    thresholds_mm3: tuple[float, ...] = ()
    """Ascending; of ``remove_small``."""

    def rules(self, target: str | None) -> tuple[Rule, ...]:
        """List the candidates for a target, the least invasive first."""
        small = [
            Rule(operation="remove_small", target=target, min_mm3=volume)
            for volume in self.thresholds_mm3
            if "remove_small" in self.operations
        ]
        others: list[Operation] = [each for each in self.operations if each != "remove_small"]
        return (*small, *(Rule(operation=each, target=target) for each in others))


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """What the candidates for one target do to one case."""

    touched: tuple[int, ...]
    """Numbers of the targets whose scores may change."""
    counts: Counts
    """(candidates, touched, 3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseTrials:
    """One case, as the rules so far leave it, and what candidates would make of it."""

    before: Counts
    """(targets, 3)."""
    attempts: dict[str | None, Attempt]
    """Target -> its candidates; without those that change nothing in this case."""


def try_case(
    pair: CasePair, stage: Stage, so_far: Sequence[Rule], schema: LabelSchema, reader: str | None
) -> CaseTrials:
    """Read a case, apply the rules so far, and try the candidates of a stage.

    Raises:
        UserError: as for :func:`segkit.evaluation.case.evaluate_case`.
    """
    ref, pred = read_pair(pair, schema, reader)
    volume = voxel_mm3(pred.geometry)
    editor = LabelEditor(pred.array, schema)
    for rule in so_far:
        apply_rule(rule, editor, volume)
    return try_stage(ref.array, editor, stage, volume)


def try_stage(ref: np.ndarray, editor: LabelEditor, stage: Stage, voxel_mm3: float) -> CaseTrials:
    """Try the candidates of a stage on a label map.

    Args:
        ref: (1 or S, Z, Y, X) schema indices of the reference.
        editor: Holds the prediction, which is left as it is.
        stage: What to try.
        voxel_mm3: Volume of a voxel.
    """
    schema = editor.schema
    members = target_members(schema)
    pairs = zip(ref, editor.maps, strict=True)
    confusions = [confusion_matrix(*pair, schema.num_classes) for pair in pairs]
    before = np.concatenate([overlap_counts(each, members) for each in confusions])
    attempts = {}
    for target in stage.targets:
        touched, changes = _try_target(ref, editor, stage, target, voxel_mm3)
        if changes.any():
            counts = before[list(touched)] + changes
            attempts[target] = Attempt(touched=touched, counts=counts)
    return CaseTrials(before=before, attempts=attempts)


def _try_target(
    ref: np.ndarray, editor: LabelEditor, stage: Stage, target: str | None, voxel_mm3: float
) -> tuple[tuple[int, ...], Counts]:
    """Return the targets that may change, and by how much under each candidate."""
    parts = _parts(editor, stage, target, voxel_mm3)
    touched, changes = [], [np.zeros((len(stage.rules(target)), 0, 3), dtype=np.int64)]
    for edit in edits_of(editor.schema, target) if parts is not None else ():
        assert parts is not None
        members = target_members(editor.schema).astype(np.int64)
        # 1 where a target gains a voxel of class k, -1 where it loses it.
        gains = members[:, edit.filled if parts.filled else edit.removed] - members
        rows = np.flatnonzero(gains.any(axis=1))
        counted = _count(ref[edit.map], editor.maps[edit.map], parts, len(edit.member))
        changes.append(_changes(counted, gains[rows], members[rows]))
        touched += (rows + edit.map).tolist()
    return tuple(touched), np.concatenate(changes, axis=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    """Disjoint parts of a box, and which of them each candidate changes."""

    box: Box
    numbers: np.ndarray
    """(Z, Y, X): number of the part, 0 for none."""
    chosen: np.ndarray
    """(candidates, parts) bool, from part number 1."""
    filled: bool
    """What is chosen is filled, and not removed."""


def _parts(
    editor: LabelEditor, stage: Stage, target: str | None, voxel_mm3: float
) -> _Parts | None:
    """Sort the pieces of a target by what happens to them; None where it is not there."""
    if stage.operations == ("fill_holes",):
        assert target is not None
        if (found := editor.holes(target)) is None:
            return None
        return _Parts(box=found[0], numbers=found[1], chosen=np.array([[True]]), filled=True)
    if (pieces := editor.pieces(target)) is None:
        return None
    fates = np.array([doomed_pieces(rule, pieces, voxel_mm3) for rule in stage.rules(target)])
    # Pieces that share their fate under every candidate are counted together.
    keys, alike = np.unique((1 << np.arange(len(fates))) @ fates[:, 1:], return_inverse=True)
    chosen = keys[None] >> np.arange(len(fates))[:, None] & 1 > 0
    numbers = np.concatenate([[0], alike.ravel() + 1])[pieces.numbers]
    return _Parts(box=pieces.box, numbers=numbers, chosen=chosen, filled=False)


def _count(ref: np.ndarray, pred: np.ndarray, parts: _Parts, num_classes: int) -> np.ndarray:
    """Count the annotated voxels that candidates change.

    Returns:
        (candidates, K, K) int64: by class in the reference and class predicted.
    """
    inside = parts.numbers > 0
    # The ignored voxels are a row of their own, which is left out in the end.
    codes = parts.numbers[inside].astype(np.int64) - 1
    codes = codes * (num_classes + 1) + as_classes(ref[parts.box][inside], num_classes + 1)
    codes = codes * num_classes + pred[parts.box][inside]
    shape = (parts.chosen.shape[1], num_classes + 1, num_classes)
    counts = np.bincount(codes, minlength=math.prod(shape)).reshape(shape)[:, :-1]
    # As floats, which are exact up to 2^53: numpy multiplies matrices of integers slowly.
    chosen = parts.chosen.astype(np.float64) @ counts.reshape(len(counts), -1)
    return chosen.astype(np.int64).reshape(-1, *counts.shape[1:])


def _changes(counted: np.ndarray, gains: np.ndarray, members: np.ndarray) -> Counts:
    """Turn counts (candidates, K, K) into changes (candidates, targets, 3)."""
    predicted = counted.sum(axis=1) @ gains.T
    both = np.einsum("okm,ak,am->oa", counted, members, gains, optimize=True)
    return np.stack([both, predicted, np.zeros_like(both)], axis=-1)
