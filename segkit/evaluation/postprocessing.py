"""Post-processing rules: what they are, how they are applied, and their file.

A rule removes pieces of a target or fills its holes (see ``editing``):

* ``keep_largest``: only the largest piece stays; of several equally large ones, all (as in
  nnU-Net, Isensee et al., Nature Methods 2021);
* ``remove_small``: pieces below a volume go;
* ``fill_holes``: what the target encloses becomes the target.

Rules are applied in order, each to what the one before has left. Volumes are in mm3, from the
spacing of the image; a plane counts as 1 mm thick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segkit.dataset.description import DatasetDescription, describe_predicted
from segkit.dataset.labels import LabelSchema
from segkit.errors import UserError, nearest
from segkit.evaluation.editing import LabelEditor, Pieces
from segkit.evaluation.targets import voxel_ml
from segkit.files import content_hash, write_artifact
from segkit.structs import read_struct, to_mapping
from segkit.types import Geometry

RULES_VERSION = 1
RULES_FILE = "postprocessing.json"
Operation = Literal["keep_largest", "remove_small", "fill_holes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One thing that is done to one target."""

    operation: Operation
    target: str | None
    """Class, region or structure; None: all foreground together."""
    min_mm3: float | None = None
    """``remove_small``: the smallest volume of a piece that stays."""

    def __post_init__(self) -> None:
        if (self.operation == "remove_small") != (self.min_mm3 is not None):
            raise ValueError("min_mm3 belongs to remove_small, and to nothing else")
        if self.min_mm3 is not None and not self.min_mm3 > 0:
            raise ValueError(f"min_mm3 must be above 0, got {self.min_mm3}")
        if self.operation == "fill_holes" and self.target is None:
            raise ValueError("fill_holes needs a target")

    def __str__(self) -> str:
        """In words."""
        of = "all foreground together" if self.target is None else self.target
        if self.operation == "keep_largest":
            return f"keep the largest component of {of}"
        if self.operation == "fill_holes":
            return f"fill the holes of {of}"
        return f"remove components of {of} below {self.min_mm3:g} mm3"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What was tried on a target, and what came of it on cases it was not chosen on."""

    target: str | None
    adopted: bool
    rule: Rule | None
    """The best on all cases; None where none helped."""
    dice_before: float | None
    dice_after: float | None
    """Mean Dice of the target (of all targets, for all foreground together) before, and after
    what was chosen on the other cases."""
    cases: int
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Postprocessing:
    """The content of ``postprocessing.json``."""

    rules: tuple[Rule, ...]
    trials: tuple[Trial, ...] = ()
    dataset: dict[str, Any] = field(default_factory=dict)
    """Content of dataset.json: what the labels mean."""
    left_out: tuple[str, ...] = ()
    """Structures of it that are not predicted."""
    weights: dict[str, str] = field(default_factory=dict)
    """Checkpoint, as a path from the file's folder -> hash: of the model whose predictions the
    rules were fitted on. Empty where that is unknown."""

    def hash(self) -> str:
        """Hash of the rules; how they were found does not matter."""
        return content_hash([to_mapping(rule) for rule in self.rules])

    def description(self, file: Path) -> DatasetDescription:
        """Return the data set that the rules were made for; ``file`` is where they were read."""
        return describe_predicted(self.dataset, self.left_out, file)


def apply_rules(
    rules: Sequence[Rule], indices: np.ndarray, geometry: Geometry, schema: LabelSchema
) -> np.ndarray:
    """Apply rules in order.

    Args:
        rules: For targets of the schema.
        indices: (1 or S, Z, Y, X) schema indices; left as they are.
        geometry: Of the image.
        schema: What the indices mean.

    Returns:
        New indices of the same type and shape; whatever is no class is background.
    """
    editor = LabelEditor(indices, schema)
    for rule in rules:
        apply_rule(rule, editor, voxel_mm3(geometry))
    return editor.maps.astype(indices.dtype, copy=False)


def apply_rule(rule: Rule, editor: LabelEditor, voxel_mm3: float) -> None:
    """Apply one rule to a label map in an editor."""
    if rule.operation == "fill_holes":
        assert rule.target is not None
        if (found := editor.holes(rule.target)) is not None:
            editor.fill(rule.target, *found)
    elif (pieces := editor.pieces(rule.target)) is not None:
        doomed = doomed_pieces(rule, pieces, voxel_mm3)
        if doomed.any():
            editor.remove(rule.target, pieces.box, doomed[pieces.numbers])


def doomed_pieces(rule: Rule, pieces: Pieces, voxel_mm3: float) -> np.ndarray:
    """Say of every piece whether a rule removes it, (n + 1,) bool; number 0 is none."""
    if rule.operation == "keep_largest":
        doomed: np.ndarray = pieces.sizes < pieces.sizes.max()
    else:
        assert rule.min_mm3 is not None
        doomed = pieces.sizes * voxel_mm3 < rule.min_mm3
    doomed[0] = False
    return doomed


def voxel_mm3(geometry: Geometry) -> float:
    """Return the volume of a voxel in mm3; a plane counts as 1 mm thick."""
    return 1000 * voxel_ml(geometry)


def check_rules(rules: Sequence[Rule], schema: LabelSchema, *, where: object) -> None:
    """Refuse rules for targets that a model does not have.

    Raises:
        UserError: naming the target.
    """
    for rule in rules:
        if rule.target is not None and rule.target not in schema.target_names:
            fix = nearest(rule.target, schema.target_names)
            raise UserError(f"there is no target {rule.target!r}", where=where, fix=fix)


def save_postprocessing(path: Path, content: Postprocessing, *, made_from: str) -> None:
    """Write rules; ``made_from`` is the hash of the label maps they were fitted on."""
    write_artifact(path, to_mapping(content), version=RULES_VERSION, made_from=made_from)


def load_postprocessing(path: Path) -> Postprocessing:
    """Read rules.

    Raises:
        UserError: unreadable, of another version, or not rules.
    """
    return read_struct(Postprocessing, path, version=RULES_VERSION)
