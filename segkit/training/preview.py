"""The patches a fold is trained on first, as they are read and as the network is given them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice

import numpy as np
import torch

from segkit.training.augment.spatial import centre_crop
from segkit.training.parts import load_batch
from segkit.training.patches import PatchSource
from segkit.training.setup import build_augmenter, training_loader
from segkit.training.step import batch_generator
from segkit.training.task import TrainingTask


@dataclass(frozen=True, kw_only=True)
class PatchPair:
    """A patch before and after augmentation, 2 or 3 axes."""

    case: str
    image: np.ndarray
    """(C, *patch) float32."""
    seg: np.ndarray
    """(1 or S, *patch) schema indices."""
    augmented_image: np.ndarray
    augmented_seg: np.ndarray


def first_patches(task: TrainingTask, source: PatchSource, number: int) -> list[PatchPair]:
    """Return the first patches of a training run, drawn and augmented as there.

    In a cascade without what becomes of the previous stage's segmentation.

    Raises:
        UserError: settings that do not fit the data.
    """
    return list(islice(_patches(replace(task, previous=None), source), number))


def _patches(task: TrainingTask, source: PatchSource) -> Iterator[PatchPair]:
    loader, augment = training_loader(task, source), build_augmenter(task)
    for batch_number in count():
        batch = load_batch(loader, torch.device("cpu"))
        generator = batch_generator([*loader.settings.seed, batch_number])
        image, seg = augment(batch.image, batch.seg, generator)
        before = (centre_crop(tensor, task.patch_size) for tensor in (batch.image, batch.seg))
        arrays = [tensor.numpy() for tensor in (*before, image, seg)]
        for i, case in enumerate(batch.cases):
            yield PatchPair(
                case=case,
                image=arrays[0][i],
                seg=arrays[1][i],
                augmented_image=arrays[2][i],
                augmented_seg=arrays[3][i],
            )
