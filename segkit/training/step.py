"""One step of training: gradients of its batches, and the update."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from segkit.errors import listing
from segkit.runtime import log
from segkit.training.parts import Batch, TrainingParts


def train_step(parts: TrainingParts, batches: Sequence[Batch], step: int) -> float:
    """Update the weights once, by the mean gradient of the batches; returns their mean loss.

    What is random depends on the loader's seed and the number of the batch alone, dropout
    included. Batches whose loss is no number are left out, and told; over none the loss is NaN,
    and the weights stay as they are.
    """
    losses = []
    for number, batch in enumerate(batches, start=step * len(batches)):
        loss = _batch_loss(parts, batch, number)
        # Read between forward and backward pass, where a device has most of the step ahead of it.
        losses.append(float(loss.detach()))
        if math.isfinite(losses[-1]):
            parts.stepper.backward(loss / len(batches))
        else:
            text = "step %d: the loss of %s is no number; left out"
            log.warning(text, step + 1, listing(sorted({*batch.cases})) or "its batch")
    if not any(map(math.isfinite, losses)):
        return math.nan
    parts.stepper.update()
    if parts.average is not None:
        parts.average.update(parts.network)
    return _mean([loss for loss in losses if math.isfinite(loss)])


def _batch_loss(parts: TrainingParts, batch: Batch, number: int) -> Tensor:
    generator = _generator([*parts.train_loader.settings.seed, number])
    image, seg = parts.augment(batch.image, batch.seg, generator)
    torch.manual_seed(generator.initial_seed())
    return parts.loss(parts.forward(image), seg)


def _generator(seed: list[int]) -> torch.Generator:
    """Seed from several integers, so that every batch has random numbers of its own."""
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
