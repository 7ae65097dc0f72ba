"""The training loop: steps, online validation, and hooks after every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segkit.config import InvalidVoxels, Recipe
from segkit.dataset.labels import LabelSchema
from segkit.errors import UserError
from segkit.precision import Precision
from segkit.runtime import deferred_interrupts, progress
from segkit.training.losses import as_trained
from segkit.training.online_metrics import (
    dice_from_counts,
    exponential_average,
    mean_defined,
    overlap_counts,
)
from segkit.training.optim import Stepper, poly_learning_rate
from segkit.training.patches import PatchLoader, read_ahead

Batch = tuple[Tensor, Tensor]
"""Image (B, C, *S) float32 and segmentation (B, 1 or S, *S), on the device."""
Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class TrainingParts:
    """Everything the loop uses, built outside and handed in."""

    network: nn.Module
    stepper: Stepper
    loss: Callable[[Tensor | list[Tensor], Tensor], Tensor]
    schema: LabelSchema
    invalid_voxels: InvalidVoxels | None = None
    """How the loss takes invalid voxels, and so the online Dice; None leaves them out."""
    augment: Augment
    train_loader: PatchLoader
    validation_loader: PatchLoader
    device: torch.device
    precision: Precision


@dataclass(kw_only=True)
class TrainingState:
    """What changes while training, and is kept in checkpoints."""

    epoch: int = 0
    """Epochs completed."""
    iteration: int = 0
    """Steps taken."""
    seconds: float = 0.0
    """Time spent so far, over all sessions of the run."""
    ema_dice: float | None = None
    best_dice: float | None = None
    epoch_losses: list[float] = field(default_factory=list)
    """Losses of the epoch under way."""

    def content(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One line of log.jsonl."""

    epoch: int
    iterations: int
    learning_rate: float
    train_loss: float
    validation_loss: float | None
    dice: dict[str, float | None]
    """Online Dice of each target on validation patches; null where it was absent."""
    mean_dice: float | None
    ema_dice: float | None
    seconds: float
    data_wait_share: float
    """Share of the epoch the loop waited for patches."""
    eta_seconds: float | None


class Clock:
    """How far the run is: by steps, or by the time spent when there is a budget."""

    def __init__(
        self, *, total_iterations: int, budget_seconds: float | None, started: float, spent: float
    ) -> None:
        self.total_iterations = total_iterations
        self.budget_seconds = budget_seconds
        self.started = started
        self.spent = spent
        self.longest_closing = 0.0
        self.reserve_seconds = 0.05 * (budget_seconds or 0.0)

    def seconds(self) -> float:
        """Time spent on the run, earlier sessions included."""
        return self.spent + time.monotonic() - self.started

    def progress(self, iteration: int) -> float:
        """Return 0 at the start; 1 or more when training must end."""
        if self.budget_seconds is None:
            return iteration / self.total_iterations
        return self.seconds() / max(self.budget_seconds - self.reserve_seconds, 1e-9)

    def out_of_time(self, keep: float = 0.0) -> bool:
        """Whether less than ``keep`` seconds of the budget are left."""
        return self.budget_seconds is not None and self.seconds() + keep > self.budget_seconds

    def learn_reserve(self, closing_seconds: float) -> None:
        """Set aside the most that the end of an epoch (validation, checkpoints) took so far."""
        self.longest_closing = max(self.longest_closing, closing_seconds)
        self.reserve_seconds = 1.25 * self.longest_closing + 1.0

    def eta_seconds(self, iteration: int) -> float | None:
        """Time to the end, from the progress so far."""
        done = self.progress(iteration)
        if self.budget_seconds is not None:
            return max(self.budget_seconds - self.seconds(), 0.0)
        return self.seconds() * (1 - done) / done if done > 0 else None


Hook = Callable[[TrainingState, EpochRecord], None]


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One fold in training: with what, how, how far, and until when."""

    parts: TrainingParts
    recipe: Recipe
    state: TrainingState
    clock: Clock


def train(run: TrainingRun, hooks: Sequence[Hook] = ()) -> None:
    """Train until the clock says so; hooks run after every epoch.

    Ctrl-C and SIGTERM take effect between two steps, where state and weights agree.

    Raises:
        UserError: the loss is no longer a number.
        KeyboardInterrupt: after a signal.
    """
    state, clock = run.state, run.clock
    with deferred_interrupts() as check_interrupts:
        # A first step whatever the budget; losses left over from an interrupted session mean
        # that their epoch is to be closed.
        while not state.iteration or state.epoch_losses or clock.progress(state.iteration) < 1:
            begun = time.monotonic()
            waited = _train_epoch(run, check_interrupts)
            closing = time.monotonic()
            validation = _validate(run, check_interrupts)
            record = _close_epoch(run, validation, begun=begun, waited=waited)
            for hook in hooks:
                hook(state, record)
            clock.learn_reserve(time.monotonic() - closing)


def _train_epoch(run: TrainingRun, check_interrupts: Callable[[], None]) -> float:
    """Take the steps of one epoch; returns the seconds spent waiting for data."""
    parts, state, clock = run.parts, run.state, run.clock
    parts.network.train()
    parts.train_loader.iteration = state.iteration
    count = run.recipe.schedule.iterations_per_epoch - len(state.epoch_losses)
    batches = read_ahead(partial(load_batch, parts.train_loader, parts.device), count)
    losses: list[Tensor] = []
    waited, last = 0.0, time.monotonic()
    try:
        label = f"epoch {state.epoch + 1}"
        for batch in progress(batches, label, total=count, closing_line=False):
            waited += time.monotonic() - last
            check_interrupts()
            done = clock.progress(state.iteration)
            # At least one step, so that there is an epoch to close.
            if done >= 1 and (losses or state.epoch_losses):
                break
            _set_learning_rate(parts, poly_learning_rate(done, run.recipe.optimizer))
            losses.append(train_step(parts, batch, state.iteration))
            state.iteration += 1
            last = time.monotonic()
    finally:
        state.epoch_losses += [float(loss) for loss in losses]
        state.seconds = clock.seconds()
    return waited


def train_step(parts: TrainingParts, batch: Batch, iteration: int) -> Tensor:
    """Augment a batch, run the network and update the weights; returns the loss.

    What is random depends on the loader's seed and the iteration alone. Nothing waits for the
    device.
    """
    image, seg = batch
    seed = [*parts.train_loader.settings.seed, iteration]
    image, seg = parts.augment(image, seg, _generator(seed))
    outputs = parts.precision.forward(parts.network, image)
    loss = parts.loss(outputs, seg)
    parts.stepper.step(loss)
    return loss.detach()


@dataclass(frozen=True, kw_only=True)
class _Validation:
    """How the network does on validation patches."""

    loss: float | None
    """None where it is no number, or there was no patch."""
    dice: dict[str, float | None]
    """Of every target; None where nothing was seen of it."""
    complete: bool
    """Whether all patches were seen; targets come in turn, so that those of a part are others."""


@torch.no_grad()
def _validate(run: TrainingRun, check_interrupts: Callable[[], None]) -> _Validation:
    parts, state, clock = run.parts, run.state, run.clock
    parts.network.eval()
    loader = parts.validation_loader
    count = len(loader.rounds.batches)
    loader.iteration = state.epoch * count
    names = parts.schema.target_names
    counts = torch.zeros((3, len(names)), dtype=torch.int64, device=parts.device)
    losses: list[Tensor] = []
    for image, seg in read_ahead(partial(load_batch, loader, parts.device), count):
        check_interrupts()
        if losses and clock.out_of_time(keep=0.4 * clock.reserve_seconds):
            break
        logits = parts.precision.forward(parts.network, image)
        losses.append(parts.loss(logits, seg))
        counts += overlap_counts(logits, as_trained(seg, parts.invalid_voxels), parts.schema)
    loss = float(torch.stack(losses).mean()) if losses else math.nan
    return _Validation(
        loss=loss if math.isfinite(loss) else None,
        dice=dict(zip(names, dice_from_counts(counts), strict=True)),
        complete=len(losses) == count,
    )


def _close_epoch(
    run: TrainingRun, validation: _Validation, *, begun: float, waited: float
) -> EpochRecord:
    """Bring the state up to date and sum the epoch up."""
    state, clock = run.state, run.clock
    # A single overflow is skipped by the loss scaler of fp16; many mean that the weights are lost.
    finite = [loss for loss in state.epoch_losses if math.isfinite(loss)]
    if len(finite) <= len(state.epoch_losses) / 2:
        what = f"the training loss is no longer a number (epoch {state.epoch + 1})"
        fix = "use --set precision=fp32 or a lower --set optimizer.learning_rate"
        saved = "" if state.best_dice is None else "; best.pt holds the best weights so far"
        raise UserError(what, fix=fix + saved)
    iterations, state.epoch_losses = len(state.epoch_losses), []
    mean = mean_defined(list(validation.dice.values()))
    # A mean over other targets is no step of the trend.
    state.ema_dice = exponential_average(state.ema_dice, mean if validation.complete else None)
    state.epoch += 1
    state.seconds = clock.seconds()
    seconds = time.monotonic() - begun
    return EpochRecord(
        epoch=state.epoch,
        iterations=iterations,
        learning_rate=run.parts.stepper.optimizer.param_groups[0]["lr"],
        train_loss=sum(finite) / len(finite),
        validation_loss=validation.loss,
        dice=validation.dice,
        mean_dice=mean,
        ema_dice=state.ema_dice,
        seconds=seconds,
        data_wait_share=waited / seconds,
        eta_seconds=clock.eta_seconds(state.iteration),
    )


def load_batch(loader: PatchLoader, device: torch.device) -> Batch:
    """Draw the next patches and send them to the device, without waiting for them to arrive."""
    drawn = loader.generate_train_batch()
    image, seg = torch.from_numpy(drawn["image"]), torch.from_numpy(drawn["seg"])
    if device.type == "cuda":
        image, seg = image.pin_memory(), seg.pin_memory()
    return image.to(device, non_blocking=True), seg.to(device, non_blocking=True)


def _generator(seed: list[int]) -> torch.Generator:
    """Seed from several integers, so that every step has random numbers of its own."""
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def _set_learning_rate(parts: TrainingParts, learning_rate: float) -> None:
    for group in parts.stepper.optimizer.param_groups:
        group["lr"] = learning_rate
