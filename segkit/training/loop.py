"""The training loop: steps, online validation, and hooks after every epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from segkit.config import Recipe
from segkit.runtime import progress
from segkit.training.clock import Clock
from segkit.training.online_metrics import exponential_average, mean_defined
from segkit.training.online_validation import Validation, validate_online
from segkit.training.parts import Batch, TrainingParts, load_batch
from segkit.training.patches import read_ahead
from segkit.training.schedule import learning_rate
from segkit.training.state import EpochRecord, TrainingState
from segkit.training.step import train_step
from segkit.training.troubles import is_lost, usable

Hook = Callable[[TrainingState, EpochRecord], None]


def _never() -> None:
    """Nobody interrupts."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One fold in training: with what, how, how far, and until when."""

    parts: TrainingParts
    recipe: Recipe
    state: TrainingState
    clock: Clock
    check_interrupts: Callable[[], None] = _never
    """Asked between two steps, where state and weights agree; raises if the run is to stop."""


def train(run: TrainingRun, hooks: Sequence[Hook] = ()) -> None:
    """Train until the clock says so, or nothing gets better; hooks run after every epoch.

    Raises:
        UserError: the loss is no longer a number.
    """
    state, clock = run.state, run.clock
    while not _is_over(run):
        begun = time.monotonic()
        waited = _train_epoch(run)
        losses = usable(state.epoch_losses, run.parts.troubles, best=state.best_dice)
        closing = time.monotonic()
        validation = validate_online(
            run.parts,
            state.epoch,
            seconds=clock.validation_seconds(state.iteration),
            check_interrupts=run.check_interrupts,
        )
        record = _close_epoch(run, losses, validation, begun=begun, waited=waited)
        for hook in hooks:
            hook(state, record)
        clock.learn_reserve(time.monotonic() - closing)


def _is_over(run: TrainingRun) -> bool:
    """Whether there is no epoch to begin, or to close."""
    state, patience = run.state, run.recipe.schedule.early_stopping
    # A first step whatever the budget; losses left over from an interrupted session mean that
    # their epoch is to be closed.
    if not state.iteration or state.epoch_losses:
        return False
    if run.clock.progress(state.iteration) >= 1:
        return True
    return patience is not None and state.epochs_without_progress() >= patience


def _train_epoch(run: TrainingRun) -> float:
    """Take the steps of one epoch; returns the seconds spent waiting for data."""
    parts, state, clock = run.parts, run.state, run.clock
    parts.network.train()
    config = run.recipe.optimizer
    parts.train_loader.iteration = state.iteration * config.accumulate
    count = run.recipe.schedule.iterations_per_epoch - len(state.epoch_losses)
    load = partial(load_batch, parts.train_loader, parts.device)
    steps = _grouped(read_ahead(load, count * config.accumulate), config.accumulate)
    waited, last = 0.0, time.monotonic()
    try:
        told = progress(
            steps,
            f"epoch {state.epoch + 1}",
            total=count,
            closing_line=False,
            seconds_left=clock.seconds_left,
        )
        for batches in told:
            waited += time.monotonic() - last
            run.check_interrupts()
            done = clock.progress(state.iteration)
            # At least one step, so that there is an epoch to close.
            if done >= 1 and state.epoch_losses:
                break
            parts.stepper.set_learning_rate(learning_rate(done, state.iteration, config))
            state.epoch_losses.append(train_step(parts, batches, state.iteration))
            state.iteration += 1
            if is_lost(state.epoch_losses):
                break
            last = time.monotonic()
    finally:
        state.seconds, state.longest_closing = clock.seconds(), clock.longest_closing
    return waited


def _grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yield the batches of every step."""
    remaining = iter(batches)
    while group := list(islice(remaining, size)):
        yield group


def _close_epoch(
    run: TrainingRun, losses: list[float], validation: Validation, *, begun: float, waited: float
) -> EpochRecord:
    """Bring the state up to date and sum the epoch up; ``losses`` are those that are numbers."""
    state, clock = run.state, run.clock
    iterations = len(state.epoch_losses)
    mean = mean_defined(list(validation.dice.values()))
    # A mean over other targets is no step of the trend.
    state.close_epoch(exponential_average(state.ema_dice, mean if validation.complete else None))
    state.seconds = clock.seconds()
    run.parts.troubles.tell(state.epoch)
    seconds = time.monotonic() - begun
    return EpochRecord(
        epoch=state.epoch,
        iterations=iterations,
        learning_rate=run.parts.stepper.learning_rate,
        train_loss=sum(losses) / len(losses),
        validation_loss=validation.loss,
        dice=validation.dice,
        mean_dice=mean,
        ema_dice=state.ema_dice,
        seconds=seconds,
        data_wait_share=waited / seconds,
        eta_seconds=clock.eta_seconds(state.iteration),
    )
