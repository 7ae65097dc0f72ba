"""Several models as one: their probabilities are averaged on the image's grid.

Every model has a grid of its own (spacing, axis order, crop). A slab of the image at a time, the
logits of each are brought there and made probabilities, which are averaged in float32 as nnU-Net
does it; no volume of probabilities is ever held, whatever the number of classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segkit.dataset.cases import Case
from segkit.dataset.image_io import read_image
from segkit.dataset.labels import BACKGROUND, LabelSchema
from segkit.inference.case import (
    CasePredictor,
    Decision,
    Finish,
    Prediction,
    finished,
    free_memory,
    or_in_main_memory,
    write_decision,
)
from segkit.inference.export import band, decide_shares, interpolate, slab_planes
from segkit.inference.model import Model
from segkit.inference.record import PredictionSource
from segkit.preprocessing.pipeline import (
    CaseRecord,
    PreprocessedCase,
    cropped_view,
    matrices_back,
)
from segkit.types import Volume

Prepared = tuple[PreprocessedCase, ...]
"""A case as each of several networks sees it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """What one model says of a case, and how much it counts."""

    logits: Tensor
    """(out, Z, Y, X) on the model's grid."""
    record: CaseRecord
    share: float
    """Relative to the others'; above 0."""
    invalid_zyx: np.ndarray | None
    """(Z, Y, X) bool in the stored grid: voxels where background is certain; None for none."""


@dataclass(frozen=True, kw_only=True)
class EnsemblePredictor:
    """Models that predict together; stands wherever a :class:`CasePredictor` does."""

    members: Sequence[CasePredictor]
    """Of the same labels, channels and file format; what they do alone when a case is finished
    is left undone."""
    shares: Sequence[float]
    finish: Finish | None = None

    @property
    def model(self) -> Model:
        """The first model: labels, files and layout are those of all."""
        return self.members[0].model

    @property
    def source(self) -> PredictionSource:
        """What the predictions depend on."""
        first = self.members[0].source
        members = [
            dataclasses.replace(each.source.members[0], share=share)
            for each, share in zip(self.members, self.shares, strict=True)
        ]
        rules = None if self.finish is None else self.finish.hash
        return dataclasses.replace(first, members=tuple(members), postprocessing=rules)

    @property
    def may_lack_channels(self) -> bool:
        """Whether cases may come without some of their channels: whether all models allow it."""
        return all(member.may_lack_channels for member in self.members)

    def with_settings(self, step: float, *, mirror: bool) -> EnsemblePredictor:
        """Return the same with another step, mirroring where training did or not at all."""
        members = [member.with_settings(step, mirror=mirror) for member in self.members]
        return dataclasses.replace(self, members=members)

    def check(self, cases: Sequence[Case]) -> None:
        """Find out what may be missing for cases; see ``CasePredictor.check``."""
        for member in self.members:
            member.check(cases)

    def read(self, case: Case) -> Prepared:
        """Read and preprocess the image of a case for every model; see ``CasePredictor.read``."""
        return self.prepare(read_image(case.images, self.model.description.reader), case)

    def prepare(self, volume: Volume, case: Case | None = None) -> Prepared:
        """Preprocess an image for every model; see ``CasePredictor.prepare``."""
        return tuple(member.prepare(volume, case) for member in self.members)

    def needs_all_memory(self, prepared: Prepared) -> bool:
        """Whether the logits of all models are large beside the memory that is free."""
        pairs = zip(self.members, prepared, strict=True)
        needed = sum(member.logits_bytes(each) for member, each in pairs)
        return 2 * needed > free_memory(self.members[0].device)

    def predict(self, prepared: Prepared) -> tuple[Prediction, ...]:
        """Predict a preprocessed case with every model."""
        pairs = zip(self.members, prepared, strict=True)
        return tuple(member.predict(each) for member, each in pairs)

    def write(
        self,
        predictions: Sequence[Prediction],
        output: Path,
        *,
        keep_probabilities: bool = False,
    ) -> None:
        """Write the label map of a case; see ``CasePredictor.write``."""
        decision = self.decide(predictions, with_probabilities=keep_probabilities)
        write_decision(output, decision, self.model, predictions[0].record.case)

    def decide(
        self, predictions: Sequence[Prediction], *, with_probabilities: bool = False
    ) -> Decision:
        """Decide every voxel by the mean probabilities; see ``CasePredictor.decide``."""
        return or_in_main_memory(
            lambda parts: self._decide(parts, with_probabilities), tuple(predictions)
        )

    def _decide(self, predictions: Sequence[Prediction], with_probabilities: bool) -> Decision:
        votes = [
            Vote(
                logits=prediction.logits,
                record=prediction.record,
                share=share,
                invalid_zyx=member.forced(prediction.invalid_zyx),
            )
            for member, prediction, share in zip(
                self.members, predictions, self.shares, strict=True
            )
        ]
        schema = self.model.description.labels
        shares = averaged_probabilities(votes, schema) if with_probabilities else None
        indices = votes_to_segmentation(votes, schema)
        # Certain only where it is so to all of them.
        sure = all(vote.invalid_zyx is not None for vote in votes)
        invalid = votes[0].invalid_zyx if sure else None
        return finished(indices, votes[0].record.geometry, self.finish, invalid), shares


@torch.inference_mode()
def votes_to_segmentation(votes: Sequence[Vote], schema: LabelSchema) -> np.ndarray:
    """Average probabilities and decide every voxel.

    Returns:
        Schema indices on the image's grid, (1, Z, Y, X) int16, or (S, Z, Y, X) int8 for
        structures.
    """
    dtype = np.int8 if schema.overlapping else np.int16
    indices = np.empty((schema.seg_channels, *votes[0].record.shape_stored), dtype=dtype)
    for planes, shares in averaged_slabs(votes, schema):
        indices[:, planes] = decide_shares(shares, schema).numpy(force=True)
    return indices


@torch.inference_mode()
def averaged_probabilities(votes: Sequence[Vote], schema: LabelSchema) -> np.ndarray:
    """Average probabilities; (out, Z, Y, X) float32 on the image's grid."""
    shape = (schema.num_outputs, *votes[0].record.shape_stored)
    result = np.empty(shape, dtype=np.float32)
    for planes, shares in averaged_slabs(votes, schema):
        result[:, planes] = shares.numpy(force=True)
    return result


def averaged_slabs(votes: Sequence[Vote], schema: LabelSchema) -> Iterator[tuple[slice, Tensor]]:
    """Yield planes of the image's first axis, and their mean probabilities (out, n, Y, X)."""
    depth, *plane = votes[0].record.shape_stored
    total = sum(vote.share for vote in votes)
    step = slab_planes(plane, votes[0].logits.device, together=schema.num_outputs)
    for start in range(0, depth, step):
        planes = slice(start, min(start + step, depth))
        mean = _shares(votes[0], planes, schema).mul_(votes[0].share)
        for vote in votes[1:]:
            mean.add_(_shares(vote, planes, schema).to(mean.device), alpha=vote.share)
        yield planes, mean.div_(total)


def _shares(vote: Vote, planes: slice, schema: LabelSchema) -> Tensor:
    """Return the probabilities of one model on planes of the image, (out, n, Y, X) float32."""
    certain = 0.0 if schema.sigmoid else 1.0
    shape = planes.stop - planes.start, *vote.record.shape_stored[1:]
    result = vote.logits.new_zeros((schema.num_outputs, *shape), dtype=torch.float32)
    result[BACKGROUND] = certain
    axes = _stored_axes(vote.record)
    rows, place = _place_in_slab(axes, vote.record, planes)
    if rows.start < rows.stop:
        logits = _resampled_rows(vote.logits, vote.record, _planned_axis(axes, 0), rows)
        shares = logits.sigmoid_() if schema.sigmoid else logits.softmax(dim=0)
        result[(slice(None), *place)] = _turned(shares, axes)
    if vote.invalid_zyx is not None:
        invalid = torch.from_numpy(vote.invalid_zyx[planes]).to(result.device)
        result.masked_fill_(invalid, 0)
        result[BACKGROUND].masked_fill_(invalid, certain)
    return result


Axes = tuple[tuple[int, bool], ...]
"""For every planned axis: the axis of the file it is, and whether it runs the other way."""


def _stored_axes(record: CaseRecord) -> Axes:
    """Tell how planned axes lie in the file, from what happens to a cube of numbered voxels."""
    cube, whole = np.arange(8).reshape(2, 2, 2), ((0, 2),) * 3
    small = dataclasses.replace(record, shape_stored=(2, 2, 2), bbox=whole)
    seen = cropped_view(cube, small)
    steps = [int(there - seen[0, 0, 0]) for there in (seen[1, 0, 0], seen[0, 1, 0], seen[0, 0, 1])]
    return tuple(((4, 2, 1).index(abs(step)), step < 0) for step in steps)


def _planned_axis(axes: Axes, stored: int) -> int:
    return [axis for axis, _ in axes].index(stored)


def _place_in_slab(
    axes: Axes, record: CaseRecord, planes: slice
) -> tuple[slice, tuple[slice, ...]]:
    """Say which rows of the crop lie in a slab, and which box of the slab the crop fills.

    The rows are of the planned axis that is the file's first; there may be none.
    """
    bounds = [slice(0)] * 3
    for (stored, flipped), (start, stop) in zip(axes, record.bbox, strict=True):
        size = record.shape_stored[stored]
        bounds[stored] = slice(size - stop, size - start) if flipped else slice(start, stop)
    first = slice(max(bounds[0].start, planes.start), min(bounds[0].stop, planes.stop))
    box = (slice(first.start - planes.start, first.stop - planes.start), *bounds[1:])
    if axes[_planned_axis(axes, 0)][1]:
        return slice(bounds[0].stop - first.stop, bounds[0].stop - first.start), box
    return slice(first.start - bounds[0].start, first.stop - bounds[0].start), box


def _resampled_rows(logits: Tensor, record: CaseRecord, axis: int, rows: slice) -> Tensor:
    """Bring logits to the grid before preprocessing, rows of one planned axis only; float32."""
    apart, matrices = matrices_back(record)
    others = [other for other in range(3) if other != axis]
    shape = [record.shape_after_crop[other] for other in others]
    matrix = matrices[axis]
    used, mix = (rows, None) if matrix is None else band(matrix[rows], logits.device)

    def resampled(planes: Tensor) -> Tensor:
        if apart in others and (chosen := matrices[apart]) is not None:
            # This axis takes the nearest neighbour: a row of its matrix names a single voxel.
            nearest = torch.from_numpy(chosen.argmax(axis=1)).to(planes.device)
            planes = planes.index_select(1 + others.index(apart), nearest)
        return interpolate(planes, mix, shape)

    channels = [resampled(channel[used]) for channel in logits.movedim(1 + axis, 1)]
    return torch.stack(channels).movedim(1, 1 + axis)


def _turned(planned: Tensor, axes: Axes) -> Tensor:
    """Turn (C, ...) in planned axes as the file has them."""
    order = [_planned_axis(axes, stored) for stored in range(3)]
    flips = [1 + stored for stored, flipped in axes if flipped]
    return planned.permute(0, *(1 + axis for axis in order)).flip(flips)
