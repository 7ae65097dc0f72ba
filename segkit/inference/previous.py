"""What the second stage of a cascade is told of the first: a label map on the second one's grid.

In training and in prediction alike it is made from the first stage's logits, which are brought to
the second stage's grid directly. Segmentations made elsewhere can be handed in as files, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from segkit.dataset.cases import Case
from segkit.dataset.label_files import label_path, read_label_map
from segkit.dataset.labels import BACKGROUND, LabelSchema
from segkit.errors import UserError, listing
from segkit.files import content_hash
from segkit.inference.export import logits_to_segmentation
from segkit.inference.model import PREVIOUS_STAGE, Model, load_model, trained_folds
from segkit.networks.inputs import add_class_channels
from segkit.planning.plan import Plan
from segkit.preprocessing.pipeline import CaseRecord, cropped_view
from segkit.preprocessing.resample import resample_segmentation


def segment_for(
    logits: Tensor,
    record: CaseRecord,
    target: CaseRecord,
    schema: LabelSchema,
    invalid: np.ndarray | None,
) -> np.ndarray:
    """Bring logits to the grid of another configuration and decide every voxel there.

    Args:
        logits: (out, Z, Y, X) on the first stage's grid; any device.
        record: What preprocessing did to the case for the first stage.
        target: The same for the second stage.
        schema: What the channels stand for.
        invalid: (Z, Y, X) bool on the second stage's grid, voxels that become background; None
            for no such rule.

    Returns:
        (1, *target.shape_resampled) int16 schema indices, or (S, ...) int8 for structures.
    """
    assert record.bbox == target.bbox, "both stages crop alike, to what is not zero"
    return logits_to_segmentation(logits, _as_if_stored(record, target), schema, invalid)


def _as_if_stored(record: CaseRecord, target: CaseRecord) -> CaseRecord:
    """Say how to come from the grid of ``record`` to that of ``target``, as if it were a file's."""
    shape = target.shape_resampled
    return replace(
        record,
        orientation=None,
        transpose_forward=(0, 1, 2),
        shape_stored=shape,
        shape_before_crop=shape,
        bbox=tuple((0, size) for size in shape),
        shape_after_crop=shape,
        spacing_mm=target.spacing_resampled_mm,
    )


class Segmentations(Protocol):
    """Knows what a previous stage says of a case."""

    def find(self, case: Case | None, record: CaseRecord) -> np.ndarray:
        """Return label maps (1 or S, *record.shape_resampled), schema indices."""

    def hash(self) -> str:
        """Equal for what says the same of all cases."""


@dataclass(frozen=True, kw_only=True)
class GivenSegmentations:
    """Segmentations of whole images, made elsewhere: CASE.ext as predictions are written."""

    folder: Path
    model: Model
    """What they are given to."""

    def find(self, case: Case | None, record: CaseRecord) -> np.ndarray:
        """Read the segmentation of a case and bring it to the grid of its record.

        Returns:
            (1, *record.shape_resampled) int16 schema indices, or (S, ...) int8 for structures;
            what is ignored in the file is background.

        Raises:
            UserError: there is none, it cannot be read, or it lies on another grid.
        """
        if case is None:
            what = "segmentations of a previous stage are found by the names of image files"
            raise UserError(what, where=self.folder, fix="predict files, or leave them out")
        description, path = self.model.description, self.path(case)
        schema = description.labels
        labels = read_label_map(path, schema, description.reader)
        orientation = labels.geometry.orientation(), record.geometry.orientation()
        if labels.shape != record.shape_stored or orientation[0] != orientation[1]:
            what = f"the segmentation has shape {labels.shape} (z, y, x) and orientation "
            what += f"{orientation[0]}, its image {record.shape_stored} and {orientation[1]}"
            raise UserError(what, where=path, fix="bring it to the grid of the image")
        known = np.where(labels.array == schema.ignore_index, BACKGROUND, labels.array)
        grids = record.spacing_mm, record.spacing_resampled_mm, record.shape_resampled
        return resample_segmentation(cropped_view(known.astype(labels.array.dtype), record), *grids)

    def path(self, case: Case) -> Path:
        """Where the segmentation of a case is looked for."""
        layout = self.model.settings.label_layout
        return label_path(self.folder, case.id, self.model.description.label_ending, layout)

    def hash(self) -> str:
        """Equal while no file in the folder changes."""
        files = ((path, path.stat()) for path in sorted(self.folder.rglob("*")) if path.is_file())
        return content_hash([(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in files])

    def check(self, cases: Sequence[Case]) -> None:
        """Find out before anything is predicted whether every case has one.

        Raises:
            UserError: naming those that have none.
        """
        if missing := [case.id for case in cases if not self.path(case).exists()]:
            what = f"no segmentation of the previous stage for {listing(missing)}"
            fix = f"name them as predictions are named: {self.path(cases[0]).name}"
            raise UserError(what, where=self.folder, fix=fix)


def with_class_channels(tile: Tensor, channels: int, schema: LabelSchema) -> Tensor:
    """Make the label maps that follow the image channels of a tile a channel a class.

    Whole cases hold label maps, so that memory does not grow with the number of classes.

    Args:
        tile: (C + 1 or S, Z, Y, X).
        channels: C, those of the image.
        schema: What the labels mean.
    """
    image, labels = tile[None, :channels], tile[None, channels:]
    return add_class_channels(image, labels, schema)[0]


def load_previous(model: Model) -> Model:
    """Read the model of the stage that predicts first, which a cascade carries in its folder.

    Raises:
        UserError: it is not there, is damaged, or does not belong to this model.
    """
    folder = model.folder / PREVIOUS_STAGE
    if not folder.is_dir():
        what = f"the previous stage of this {model.settings.configuration} is not in its folder"
        fix = "copy the whole model folder, or hand in its segmentations with --previous-stage DIR"
        raise UserError(what, where=folder, fix=fix)
    previous = load_model(folder)
    check_stages(previous, model.plan, model.description.labels)
    return previous


def previous_folds(model: Model, folds: Sequence[str]) -> tuple[str, ...]:
    """Return the folds of the previous stage that predict for folds of a cascade.

    A cascade trained on all cases goes with a previous stage trained on all; any other is given
    the average of all folds.

    Args:
        model: The cascade.
        folds: Of the cascade.
    """
    if list(folds) == ["all"]:
        return ("all",)
    return tuple(trained_folds(model.folder / PREVIOUS_STAGE))


def check_stages(first: Model, plan: Plan, schema: LabelSchema) -> None:
    """Refuse a previous stage whose segmentation means something else, or lies elsewhere.

    Args:
        first: The previous stage.
        plan: Of the cascade.
        schema: Of the cascade.

    Raises:
        UserError: other classes, image channels, axis order or orientation.
    """
    before = _meanings(first.plan, first.description.labels)
    after = _meanings(plan, schema)
    if different := [f"{n} ({before[n]}, now {after[n]})" for n in after if before[n] != after[n]]:
        what = f"the previous stage was trained with another {' and '.join(different)}"
        fix = "train both stages on the same data set, with plans made from the same cases"
        raise UserError(what, where=first.folder, fix=fix)


def _meanings(plan: Plan, schema: LabelSchema) -> dict[str, object]:
    """What the stages of a cascade must agree on."""
    return {
        "list of classes": [f"{one.value} {one.name}" for one in schema.classes],
        "list of image channels": plan.channel_names,
        "axis order": plan.transpose_forward,
        "orientation": plan.orientation,
    }
