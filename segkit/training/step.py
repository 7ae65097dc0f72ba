"""One step of training: gradients of its batches, and the update."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from segkit.training.parts import Batch, TrainingParts


def train_step(parts: TrainingParts, batches: Sequence[Batch], step: int) -> float:
    """Update the weights once, by the mean gradient of the batches; returns their mean loss.

    What is random depends on the loader's seed and the number of the batch alone, dropout
    included. A batch whose loss is no number is left out; without any other the loss is NaN, and
    the weights stay as they are.
    """
    losses = []
    for number, batch in enumerate(batches, start=step * len(batches)):
        loss = _batch_loss(parts, batch, number)
        if loss is None:
            parts.troubles.leave_out(batch.cases)
            continue
        losses.append(float(loss.detach()))
        parts.stepper.backward(loss / len(batches))
    if not losses:
        return math.nan
    if not parts.stepper.update():
        parts.troubles.stalled += 1
    elif parts.average is not None:
        parts.average.update(parts.network)
    return sum(losses) / len(losses)


def _batch_loss(parts: TrainingParts, batch: Batch, number: int) -> Tensor | None:
    """Return the loss of an augmented batch, in float32 if need be; None if that is no number.

    It is read between forward and backward pass, when a device has most of a step ahead of it.
    """
    generator = batch_generator([*parts.train_loader.settings.seed, number])
    image, seg = parts.augment(batch.image, batch.seg, generator)
    reduced = parts.precision.dtype != torch.float32
    for exact in (False, True) if reduced else (False,):
        torch.manual_seed(generator.initial_seed())
        loss = parts.loss(parts.forward(image, exact=exact), seg)
        if loss.isfinite():
            parts.troubles.rescued += exact
            return loss
    return None


def batch_generator(seed: Sequence[int]) -> torch.Generator:
    """Seed from several integers, so that every batch has random numbers of its own."""
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
