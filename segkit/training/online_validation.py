"""How the network does on patches of the validation cases, after every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from segkit.training.online_metrics import dice_from_counts, overlap_counts
from segkit.training.parts import TrainingParts, load_batch
from segkit.training.patches import read_ahead
from segkit.training.targets import as_trained


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How the network does on validation patches."""

    loss: float | None
    """None where it is no number, or there was no patch."""
    dice: dict[str, float | None]
    """Of every target; None where nothing was seen of it."""
    complete: bool
    """Whether all patches were seen; targets come in turn, so that those of a part are others."""


@torch.no_grad()
def validate_online(
    parts: TrainingParts, epoch: int, *, seconds: float, check_interrupts: Callable[[], None]
) -> Validation:
    """Judge the network on the patches of one epoch.

    Args:
        parts: Network, loss and loader.
        epoch: Epochs completed before; each has patches of its own.
        seconds: When to break off, after one batch at least.
        check_interrupts: Asked before every batch.
    """
    network, loader = parts.evaluated.eval(), parts.validation_loader
    count, begun = len(loader.rounds.batches), time.monotonic()
    loader.iteration = epoch * count
    names = parts.schema.target_names
    counts = torch.zeros((3, len(names)), dtype=torch.int64, device=parts.device)
    losses: list[Tensor] = []
    for batch in read_ahead(partial(load_batch, loader, parts.device), count):
        check_interrupts()
        if losses and time.monotonic() - begun > seconds:
            break
        image, seg = parts.arrange(batch.image, batch.seg)
        logits = parts.precision.forward(network, image)
        losses.append(parts.loss(logits, seg))
        counts += overlap_counts(logits, as_trained(seg, parts.invalid_voxels), parts.schema)
    loss = float(torch.stack(losses).mean()) if losses else math.nan
    return Validation(
        loss=loss if math.isfinite(loss) else None,
        dice=dict(zip(names, dice_from_counts(counts), strict=True)),
        complete=len(losses) == count,
    )
