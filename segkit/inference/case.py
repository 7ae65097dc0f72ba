"""One case: image files in, label map file out, in three stages that may overlap."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segkit.dataset.cases import Case
from segkit.dataset.image_io import read_image
from segkit.dataset.label_files import write_label_map
from segkit.inference.engines import Forward
from segkit.inference.export import logits_to_segmentation, probabilities, save_probabilities
from segkit.inference.model import Model
from segkit.inference.predictor import PredictionSettings, predict_logits
from segkit.preprocessing.pipeline import (
    CaseRecord,
    PreprocessedCase,
    cropped_view,
    matrices_back,
    preprocess_case,
)
from segkit.preprocessing.resample import apply_matrices
from segkit.runtime import available_memory, log
from segkit.types import Volume


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What is written of a case; its image is not part of it, and need not stay in memory."""

    logits: Tensor
    """(out, Z, Y, X) float32 on the network's grid; any device."""
    record: CaseRecord
    invalid_zyx: np.ndarray
    """(Z, Y, X) bool in the stored grid: voxels without image information."""


@dataclass(frozen=True, kw_only=True)
class CasePredictor:
    """A model with its networks in memory, ready for any number of cases."""

    model: Model
    forwards: Sequence[Forward]
    """Of the network of every fold."""
    settings: PredictionSettings
    device: torch.device
    turn: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    """Whoever holds it uses the networks; an engine may not serve two threads at once."""

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
        configuration = self.model.settings.configuration
        return preprocess_case(volume, None, self.model.plan, configuration, case=case)

    def needs_all_memory(self, prepared: PreprocessedCase) -> bool:
        """Whether the logits of a case are large beside the memory that is free."""
        outputs = self.model.description.labels.num_outputs
        needed = outputs * math.prod(prepared.image.shape[1:]) * torch.float32.itemsize
        return 2 * needed > _free_memory(self.device)

    def predict(self, prepared: PreprocessedCase) -> Prediction:
        """Predict a preprocessed case; several threads take turns.

        Where the plan makes invalid voxels background, tiles of only such voxels stay zero.
        """
        record, invalid = prepared.record, self._forced(prepared.invalid_zyx)
        resampled = None if invalid is None else invalid_when_resampled(invalid, record)
        with self.turn:
            logits = predict_logits(
                self.forwards,
                prepared.image,
                self.model.settings.patch_size,
                self.settings,
                self.device,
                resampled,
            )
        return Prediction(logits=logits, record=record, invalid_zyx=prepared.invalid_zyx)

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
        labels, shares = self.decide(prediction, with_probabilities=keep_probabilities)
        if shares is not None:
            save_probabilities(output.with_name(f"{prediction.record.case}.npz"), shares)
        schema, layout = self.model.description.labels, self.model.settings.label_layout
        write_label_map(output, labels, schema, layout, self.model.description.label_ending)

    def decide(
        self, prediction: Prediction, *, with_probabilities: bool = False
    ) -> tuple[Volume, np.ndarray | None]:
        """Bring a prediction back to the grid of its image and decide every voxel.

        Logits on a device that is too small for it are taken to main memory, which is logged.

        Returns:
            Schema indices, (1, Z, Y, X) or (S, Z, Y, X) for structures; and the probabilities,
            (out, Z, Y, X) float32, or None where they are not asked for.
        """
        try:
            return self._decide(prediction, with_probabilities)
        except torch.cuda.OutOfMemoryError:
            # Repeated below, where this exception no longer holds on to the memory.
            pass
        device = prediction.logits.device
        log.warning("%s is too small for the label map; making it in main memory, slower", device)
        torch.cuda.empty_cache()
        in_memory = dataclasses.replace(prediction, logits=prediction.logits.cpu())
        return self._decide(in_memory, with_probabilities)

    def _decide(
        self, prediction: Prediction, with_probabilities: bool
    ) -> tuple[Volume, np.ndarray | None]:
        logits, record = prediction.logits, prediction.record
        schema, invalid = self.model.description.labels, self._forced(prediction.invalid_zyx)
        shares = probabilities(logits, record, schema, invalid) if with_probabilities else None
        indices = logits_to_segmentation(logits, record, schema, invalid)
        return Volume(array=indices, geometry=record.geometry), shares

    def _forced(self, invalid_zyx: np.ndarray) -> np.ndarray | None:
        """Return the voxels that the plan makes background."""
        return invalid_zyx if self.model.plan.force_invalid_to_background else None


def _free_memory(device: torch.device) -> int:
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
