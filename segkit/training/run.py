"""Trains one fold from start (or from where it stopped) to its final checkpoint."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from segkit.checkpoint import load_checkpoint, save_checkpoint
from segkit.errors import UserError
from segkit.files import write_json
from segkit.runtime import StopRequested, deferred_interrupts, log
from segkit.structs import to_mapping
from segkit.training.clock import Clock
from segkit.training.compiling import with_compiled
from segkit.training.determinism import deterministic_algorithms
from segkit.training.hooks import (
    checkpoint_content,
    checkpointer,
    log_writer,
    reporter,
    restore,
    throttled,
    weights_content,
)
from segkit.training.loop import TrainingRun, train
from segkit.training.pace import FEW_STEPS
from segkit.training.parts import TrainingParts
from segkit.training.patches import PatchSource
from segkit.training.pretrained import (
    PRETRAINED_FILE,
    Pretrained,
    initialize_from,
)
from segkit.training.record import RunRecord, continued_record, hash_of_cases
from segkit.training.settling import settle
from segkit.training.setup import build_parts
from segkit.training.state import TrainingState
from segkit.training.task import TrainingTask


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a fold is trained, as opposed to what is trained."""

    device: torch.device
    started: float
    """Monotonic time at which the command began; a time budget counts from here."""
    budget_seconds: float | None = None
    resume: bool = False
    overwrite: bool = False
    recipe: str | None = None
    """Where the recipe was read from, for the record."""
    resume_command: str = "segkit train ... --resume"
    """Goes on with this fold."""
    go_on: str = "go on with --resume"
    """What is told of an interruption."""
    pretrained: Pretrained | None = None
    """What a new run begins with in place of random weights."""
    announce: Callable[[], None] = lambda: None
    """Writes what others must know of the model, once all that can be refused has been."""


def train_fold(
    task: TrainingTask,
    source: PatchSource,
    folder: Path,
    run: RunSettings,
    *,
    draw: Callable[[Path], None],
) -> TrainingState:
    """Train and leave ``final.pt`` (weights), ``last.pt``, ``best.pt`` and ``log.jsonl`` behind.

    An interruption (Ctrl-C, SIGTERM) writes ``last.pt`` first, so that nothing is lost.

    Args:
        task: Plan, recipe, fold and cases.
        source: Preprocessed cases.
        folder: The fold's folder.
        run: Device, time and what to do with what is already there.
        draw: Draws the progress picture of a fold folder.

    Raises:
        UserError: the folder holds a trained fold, or nothing to resume from; pretrained weights
            that do not fit at all; the loss diverged.
    """
    check_folder(folder, run)
    begun = continued_record(folder, task.recipe, run.budget_seconds) if run.resume else None
    budget = run.budget_seconds if begun is None else begun.budget_seconds
    with deterministic_algorithms(task.recipe.deterministic, budget_seconds=budget):
        record = begun or _begun_record(task, source, run)
        settled = replace(task, recipe=record.resolved)
        parts = build_parts(settled, source, run.device)
        state = _restored(parts, folder, run) if run.resume else _fresh(parts, task, folder, run)
        run.announce()
        write_json(folder / "recipe.json", to_mapping(record))
        if record.resolved.compile == "on":
            parts = with_compiled(parts, settled.input_shape)
        _train(parts, record, state, folder, run, draw=draw)
    return state


def _restored(parts: TrainingParts, folder: Path, run: RunSettings) -> TrainingState:
    """Load what a session before has saved."""
    state = restore(parts, load_checkpoint(folder / "last.pt", device=run.device))
    log.info("going on after epoch %d (%d steps)", state.epoch, state.iteration)
    return state


def _fresh(
    parts: TrainingParts, task: TrainingTask, folder: Path, run: RunSettings
) -> TrainingState:
    """Begin, with other weights where there are any, and clear what was there."""
    begun = None
    if run.pretrained is not None:
        begun = initialize_from(parts.network, run.pretrained, task)
        for line in begun.lines:
            log.info("%s", line)
    _clear(folder)
    if begun is not None:
        write_json(folder / PRETRAINED_FILE, begun.content)
    return TrainingState()


def _train(
    parts: TrainingParts,
    record: RunRecord,
    state: TrainingState,
    folder: Path,
    run: RunSettings,
    *,
    draw: Callable[[Path], None],
) -> None:
    schedule, budget = record.resolved.schedule, record.budget_seconds
    clock = Clock(
        total_iterations=schedule.steps,
        budget_seconds=budget,
        started=run.started,
        spent=state.seconds,
        longest_closing=state.longest_closing,
    )
    hooks = (
        log_writer(folder / "log.jsonl", state),
        checkpointer(folder, parts, schedule),
        reporter(None if budget else schedule.epochs),
        throttled(lambda: draw(folder), seconds=30),
    )
    nothing_left = run.resume and clock.progress(state.iteration) >= 1
    with deferred_interrupts() as check:
        training = TrainingRun(
            parts=parts, recipe=record.resolved, state=state, clock=clock, check_interrupts=check
        )
        try:
            train(training, hooks)
        except StopRequested:
            save_checkpoint(folder / "last.pt", checkpoint_content(parts, state))
            log.warning("interrupted after %d steps; %s", state.iteration, run.go_on)
            raise
        if clock.progress(state.iteration) < 1:
            text = "ended early: no better for %d epochs; best.pt is of epoch %s"
            log.info(text, state.epochs_without_progress(), state.best_epoch)
        save_checkpoint(folder / "last.pt", checkpoint_content(parts, state))
        save_checkpoint(folder / "final.pt", weights_content(parts, state))
        draw(folder)
        short = nothing_left or state.iteration < FEW_STEPS
        if budget is not None and short and clock.progress(state.iteration) >= 1:
            log.warning("%s", _too_short(run, budget, state, nothing_left=nothing_left))
        # A signal that came when all steps were taken ends what follows.
        check()


def _too_short(
    run: RunSettings, budget_seconds: float, state: TrainingState, *, nothing_left: bool
) -> str:
    """Say that a time budget ended a run that had hardly begun, or was not at its end."""
    why = "nothing was left of it to go on: all in all" if nothing_left else "only"
    what = f"the time budget of {budget_seconds:g} s is spent; {why} {state.iteration} steps were"
    use = "done, and the model may be of no use; go on with more time"
    return f"{what} {use}: {run.resume_command} --time-budget LONGER"


def check_folder(folder: Path, run: RunSettings) -> None:
    """Refuse to train over what is there, or to go on from nothing.

    Raises:
        UserError: the folder holds a trained fold, or nothing to resume from.
    """
    present = sorted(folder.glob("*.pt"))
    if run.resume and not (folder / "last.pt").exists():
        fix = "leave --resume out to start, or check the configuration, fold and recipe"
        raise UserError("nothing to resume: there is no last.pt", where=folder, fix=fix)
    if present and not run.resume and not run.overwrite:
        raise UserError(
            f"this fold was trained before ({', '.join(p.name for p in present)})",
            where=folder,
            fix="use --resume to go on, or --overwrite to start anew",
        )


def _begun_record(task: TrainingTask, source: PatchSource, run: RunSettings) -> RunRecord:
    left = None
    if run.budget_seconds is not None:
        left = run.budget_seconds - (time.monotonic() - run.started)
    return RunRecord(
        requested=task.recipe,
        resolved=settle(task, source, run.device, left),
        budget_seconds=run.budget_seconds,
        pretrained=None if run.pretrained is None else run.pretrained.origin,
        trained_on=hash_of_cases(task.split.train),
        recipe=run.recipe,
    )


def _clear(folder: Path) -> None:
    """Delete what an earlier training left, now that the new one is about to begin."""
    for predicted in folder.glob("validation*"):
        shutil.rmtree(predicted, ignore_errors=True)
    made = ("final.pt", "best.pt", "last.pt", "log.jsonl", "progress.png", PRETRAINED_FILE)
    for name in made:
        (folder / name).unlink(missing_ok=True)
