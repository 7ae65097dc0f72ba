"""One case: image files in, label map file out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from segkit.dataset.cases import Case
from segkit.dataset.image_io import read_image
from segkit.dataset.label_files import write_label_map
from segkit.inference.export import logits_to_segmentation, probabilities, save_probabilities
from segkit.inference.model import Model
from segkit.inference.predictor import PredictionSettings, predict_logits
from segkit.preprocessing.pipeline import preprocess_case
from segkit.types import Volume


@dataclass(frozen=True, kw_only=True)
class CasePredictor:
    """A model with its networks in memory, ready for any number of cases."""

    model: Model
    networks: Sequence[nn.Module]
    settings: PredictionSettings
    device: torch.device

    def predict_files(self, case: Case, output: Path, *, keep_probabilities: bool = False) -> None:
        """Read, predict and write one case, on the grid of its image.

        Args:
            case: Image files, one a channel.
            output: Label file or folder to write, as ``label_files.label_path`` names it.
            keep_probabilities: Also write ``CASE.npz`` beside it.

        Raises:
            UserError: unreadable files, channels that do not fit the model, or the place cannot be
                written.
        """
        volume = read_image(case.images, self.model.description.reader)
        plan, configuration = self.model.plan, self.model.settings.configuration
        prepared = preprocess_case(volume, None, plan, configuration, case=case)
        logits = self.logits(prepared.image)
        schema = self.model.description.labels
        invalid = prepared.invalid_zyx if plan.force_invalid_to_background else None
        if keep_probabilities:
            shares = probabilities(logits, prepared.record, schema, invalid)
            save_probabilities(output.with_name(f"{case.id}.npz"), shares)
        indices = logits_to_segmentation(logits, prepared.record, schema, invalid)
        labels = Volume(array=indices, geometry=volume.geometry)
        layout, ending = self.model.settings.label_layout, self.model.description.label_ending
        write_label_map(output, labels, schema, layout, ending)

    def logits(self, image: np.ndarray) -> torch.Tensor:
        """Predict a preprocessed image (C, Z, Y, X); returns (out, Z, Y, X) float32."""
        patch_size = self.model.settings.patch_size
        return predict_logits(self.networks, image, patch_size, self.settings, self.device)
