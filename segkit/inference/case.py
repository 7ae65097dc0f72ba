"""One case: image files in, label map file out, in three stages that may overlap."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from segkit.dataset.cases import Case
from segkit.dataset.image_io import read_image
from segkit.dataset.label_files import write_label_map
from segkit.dataset.labels import BACKGROUND
from segkit.inference.engines.forward import Forward
from segkit.inference.export import logits_to_segmentation, probabilities, save_probabilities
from segkit.inference.model import Model
from segkit.inference.predictor import PredictionSettings, predict_logits
from segkit.inference.previous import GivenSegmentations, Segmentations, segment_for
from segkit.inference.record import MemberSource, PredictionSource
from segkit.precision import choose_precision
from segkit.preprocessing.pipeline import (
    CaseRecord,
    PreprocessedCase,
    cropped_view,
    matrices_back,
    preprocess_case,
)
from segkit.preprocessing.resample import apply_matrices
from segkit.runtime import available_memory, log
from segkit.types import Geometry, Volume

T = TypeVar("T")
Decision = tuple[Volume, np.ndarray | None]
"""Schema indices, (1, Z, Y, X) or (S, Z, Y, X) for structures; and the probabilities,
(out, Z, Y, X) float32, or None where they are not asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What is written of a case; its image is not part of it, and need not stay in memory."""

    logits: Tensor
    """(out, Z, Y, X) float32 on the network's grid; any device."""
    record: CaseRecord
    invalid_zyx: np.ndarray
    """(Z, Y, X) bool in the stored grid: voxels without image information."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finish:
    """What is done to label maps in the end, such as post-processing."""

    apply: Callable[[np.ndarray, Geometry], np.ndarray]
    """(1 or S, Z, Y, X) schema indices and their grid to the same; may change them in place."""
    hash: str
    """Of the rules."""
    summary: str
    """In words, for the log."""


@dataclass(frozen=True, kw_only=True)
class CasePredictor:
    """A model with its networks in memory, ready for any number of cases."""

    model: Model
    forwards: Sequence[Forward]
    """Of the network of every fold."""
    settings: PredictionSettings
    device: torch.device
    weights: Mapping[str, str] = field(default_factory=dict)
    """Fold -> hash of its checkpoint, and for integers of its ranges too."""
    checkpoint: str = "final"
    finish: Finish | None = None
    previous: CasePredictor | Segmentations | None = None
    """In a cascade: what predicts first, or knows what was predicted."""
    turn: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    """Whoever holds it uses the networks; an engine may not serve two threads at once."""

    @property
    def source(self) -> PredictionSource:
        """What the predictions depend on."""
        precision = choose_precision(self.settings.precision, self.device)
        member = MemberSource(
            model=self.model.folder.resolve().name,
            checkpoint=self.checkpoint,
            folds=dict(self.weights),
            made_from=self.model.made_from,
            previous=self._previous_hash(),
        )
        return PredictionSource(
            members=(member,),
            step=self.settings.step,
            mirrored=bool(self.settings.mirror_axes),
            precision=str(precision.dtype).removeprefix("torch."),
            engine=self.settings.engine,
            postprocessing=None if self.finish is None else self.finish.hash,
            label_layout=self.model.settings.label_layout,
            dataset=self.model.description.content,
            left_out=self.model.plan.left_out,
        )

    @property
    def may_lack_channels(self) -> bool:
        """Whether cases may come without some of their channels."""
        before = self.previous
        fits = not isinstance(before, CasePredictor) or before.may_lack_channels
        return fits and self.model.settings.may_lack_channels

    def with_settings(self, step: float, *, mirror: bool) -> CasePredictor:
        """Return the same with another step, mirroring where training did or not at all."""
        axes, swap = (
            (self.model.settings.mirror_axes, self.model.side_swap) if mirror else ((), None)
        )
        settings = dataclasses.replace(self.settings, step=step, mirror_axes=axes, swap=swap)
        previous = self.previous
        if isinstance(previous, CasePredictor):
            previous = previous.with_settings(step, mirror=mirror)
        return dataclasses.replace(self, settings=settings, previous=previous)

    def check(self, cases: Sequence[Case]) -> None:
        """Find out before anything is predicted what may be missing for cases.

        Raises:
            UserError: segmentations of a previous stage that were to be handed in.
        """
        if isinstance(self.previous, GivenSegmentations):
            self.previous.check(cases)

    def read(self, case: Case) -> PreprocessedCase:
        """Read and preprocess the image of a case.

        Raises:
            UserError: unreadable files, or channels that do not fit the model.
        """
        return self.prepare(read_image(case.images, self.model.description.reader), case)

    def prepare(self, volume: Volume, case: Case | None = None) -> PreprocessedCase:
        """Preprocess an image, (C, Z, Y, X), which is left as it is.

        Raises:
            UserError: channels that do not fit the model, or values that are not finite.
        """
        configuration, before = self.model.settings.configuration, self.previous
        made = preprocess_case(volume, None, self.model.plan, configuration, case=case)
        if before is None:
            return made
        if isinstance(before, CasePredictor):
            return dataclasses.replace(made, previous=before.prepare(volume, case))
        return dataclasses.replace(made, previous=before.find(case, made.record))

    def needs_all_memory(self, prepared: PreprocessedCase) -> bool:
        """Whether the logits of a case are large beside the memory that is free."""
        return 2 * self.logits_bytes(prepared) > free_memory(self.device)

    def logits_bytes(self, prepared: PreprocessedCase) -> int:
        """Memory that the logits of a case take."""
        outputs = self.model.description.labels.num_outputs
        return outputs * math.prod(prepared.image.shape[1:]) * torch.float32.itemsize

    def predict(self, prepared: PreprocessedCase) -> Prediction:
        """Predict a preprocessed case; several threads take turns.

        Where the plan makes invalid voxels background, tiles of only such voxels stay zero.
        """
        record, invalid = prepared.record, self.forced(prepared.invalid_zyx)
        resampled = None if invalid is None else invalid_when_resampled(invalid, record)
        image = self._with_previous(prepared)
        with self.turn:
            logits = predict_logits(
                self.forwards,
                image,
                self.model.settings.patch_size,
                self.settings,
                self.device,
                resampled,
            )
        return Prediction(logits=logits, record=record, invalid_zyx=prepared.invalid_zyx)

    def _with_previous(self, prepared: PreprocessedCase) -> np.ndarray:
        """Append what the previous stage says to the image; that stage may be asked first."""
        labels = prepared.previous
        if labels is None:
            return prepared.image
        if isinstance(labels, PreprocessedCase):
            assert isinstance(self.previous, CasePredictor)
            labels = self.previous.segment_for(self.previous.predict(labels), prepared.record)
        return np.concatenate([prepared.image, labels.astype(np.float32)])

    def _previous_hash(self) -> str | None:
        if isinstance(self.previous, CasePredictor):
            return self.previous.source.hash()
        return None if self.previous is None else self.previous.hash()

    def segment_for(self, prediction: Prediction, target: CaseRecord) -> np.ndarray:
        """Decide every voxel on the grid of the next stage; see :func:`.previous.segment_for`."""
        invalid = self.forced(prediction.invalid_zyx)
        resampled = None if invalid is None else invalid_when_resampled(invalid, target)
        schema = self.model.description.labels
        return segment_for(prediction.logits, prediction.record, target, schema, resampled)

    def write(
        self, prediction: Prediction, output: Path, *, keep_probabilities: bool = False
    ) -> None:
        """Write the label map of a case, on the grid of its image.

        Args:
            prediction: Of the case.
            output: Label file or folder to write, as ``label_files.label_path`` names it.
            keep_probabilities: Also write ``CASE.npz`` beside it.

        Raises:
            UserError: the place cannot be written.
        """
        decision = self.decide(prediction, with_probabilities=keep_probabilities)
        write_decision(output, decision, self.model, prediction.record.case)

    def decide(self, prediction: Prediction, *, with_probabilities: bool = False) -> Decision:
        """Bring a prediction back to the grid of its image, decide every voxel and finish.

        Logits on a device that is too small for it are taken to main memory, which is logged.
        """
        return or_in_main_memory(
            lambda parts: self._decide(parts[0], with_probabilities), (prediction,)
        )

    def _decide(self, prediction: Prediction, with_probabilities: bool) -> Decision:
        logits, record = prediction.logits, prediction.record
        schema, invalid = self.model.description.labels, self.forced(prediction.invalid_zyx)
        shares = probabilities(logits, record, schema, invalid) if with_probabilities else None
        indices = logits_to_segmentation(logits, record, schema, invalid)
        return finished(indices, record.geometry, self.finish, invalid), shares

    def forced(self, invalid_zyx: np.ndarray) -> np.ndarray | None:
        """Return the voxels that the plan makes background."""
        return invalid_zyx if self.model.plan.force_invalid_to_background else None


def finished(
    indices: np.ndarray, geometry: Geometry, finish: Finish | None, invalid_zyx: np.ndarray | None
) -> Volume:
    """Finish schema indices (1 or S, Z, Y, X); invalid voxels are background in any case."""
    if finish is not None:
        indices = finish.apply(indices, geometry)
        if invalid_zyx is not None:
            indices[:, invalid_zyx] = BACKGROUND
    return Volume(array=indices, geometry=geometry)


def write_decision(output: Path, decision: Decision, model: Model, case: str) -> None:
    """Write a label map as the model's labels were, and beside it ``CASE.npz`` where asked for.

    Raises:
        UserError: the place cannot be written.
    """
    labels, shares = decision
    if shares is not None:
        save_probabilities(output.with_name(f"{case}.npz"), shares)
    schema, ending = model.description.labels, model.description.label_ending
    write_label_map(output, labels, schema, model.settings.label_layout, ending)


def or_in_main_memory(
    decide: Callable[[Sequence[Prediction]], T], predictions: Sequence[Prediction]
) -> T:
    """Decide; where a device is too small for it, in main memory, which is logged."""
    try:
        return decide(predictions)
    except torch.cuda.OutOfMemoryError:
        # Repeated below, where this exception no longer holds on to the memory.
        pass
    device = predictions[0].logits.device
    log.warning("%s is too small for the label map; making it in main memory, slower", device)
    torch.cuda.empty_cache()
    return decide([dataclasses.replace(each, logits=each.logits.cpu()) for each in predictions])


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type != "cuda":
        return available_memory()
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def invalid_when_resampled(invalid_stored: np.ndarray, record: CaseRecord) -> np.ndarray:
    """Return the voxels of the network's grid that no valid voxel of the file is made from.

    Args:
        invalid_stored: (Z, Y, X) bool on the input file's grid.
        record: What preprocessing did to the case.

    Returns:
        (Z, Y, X) bool of shape ``record.shape_resampled``. Whatever the logits are there, linear
        interpolation back to the file's grid does not bring them to a valid voxel.
    """
    valid = ~cropped_view(invalid_stored, record)
    _, back = matrices_back(record)
    reached = apply_matrices(valid, tuple(None if m is None else m.T for m in back))
    return reached == 0
