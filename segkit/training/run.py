"""Trains one fold from start (or from where it stopped) to its final checkpoint."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from segkit.checkpoint import load_checkpoint, save_checkpoint
from segkit.errors import UserError, listing
from segkit.files import write_json
from segkit.planning.sides import explain_sides
from segkit.precision import choose_precision
from segkit.runtime import StopRequested, deferred_interrupts, log
from segkit.structs import to_mapping
from segkit.training.clock import Clock
from segkit.training.compiling import wants_compiling, with_compiled
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
from segkit.training.pace import with_pace
from segkit.training.parts import TrainingParts
from segkit.training.patches import PatchSource
from segkit.training.pretrained import (
    PRETRAINED_FILE,
    Pretrained,
    initialize_from,
)
from segkit.training.record import RunRecord, continued_record
from segkit.training.setup import TrainingTask, build_parts
from segkit.training.state import TrainingState


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a fold is trained, as opposed to what is trained."""

    device: torch.device
    started: float
    """Monotonic time at which the command began; a time budget counts from here."""
    budget_seconds: float | None = None
    resume: bool = False
    overwrite: bool = False
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
        record = begun or _begin(task, source, run)
        settled = replace(task, recipe=record.resolved)
        parts = build_parts(settled, source, run.device)
        state = _restored(parts, folder, run) if run.resume else _fresh(parts, task, folder, run)
        run.announce()
        write_json(folder / "recipe.json", to_mapping(record))
        if record.resolved.compile == "on":
            parts = with_compiled(parts, settled.input_shape)
        _train(parts, record, state, folder, started=run.started, draw=draw)
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
    *,
    started: float,
    draw: Callable[[Path], None],
) -> None:
    schedule = record.resolved.schedule
    clock = Clock(
        total_iterations=schedule.steps,
        budget_seconds=record.budget_seconds,
        started=started,
        spent=state.seconds,
        longest_closing=state.longest_closing,
    )
    hooks = (
        log_writer(folder / "log.jsonl", state),
        checkpointer(folder, parts, schedule),
        reporter(None if record.budget_seconds else schedule.epochs),
        throttled(lambda: draw(folder), seconds=30),
    )
    with deferred_interrupts() as check_interrupts:
        run = TrainingRun(
            parts=parts,
            recipe=record.resolved,
            state=state,
            clock=clock,
            check_interrupts=check_interrupts,
        )
        try:
            train(run, hooks)
        except StopRequested:
            save_checkpoint(folder / "last.pt", checkpoint_content(parts, state))
            log.warning("interrupted; go on with --resume")
            raise
        save_checkpoint(folder / "last.pt", checkpoint_content(parts, state))
        save_checkpoint(folder / "final.pt", weights_content(parts, state))
        draw(folder)
        check_interrupts()


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


def _begin(task: TrainingTask, source: PatchSource, run: RunSettings) -> RunRecord:
    left = None
    if run.budget_seconds is not None:
        left = run.budget_seconds - (time.monotonic() - run.started)
    _tell_what_is_settled(task)
    precision = choose_precision(task.recipe.precision, run.device).name
    settled = replace(task, recipe=replace(task.settled_recipe, precision=precision))
    recipe = with_pace(settled, source, run.device, left).recipe
    compiled = wants_compiling(recipe.compile, run.device, recipe.schedule.steps, left)
    return RunRecord(
        requested=task.recipe,
        resolved=replace(recipe, compile="on" if compiled else "off"),
        budget_seconds=run.budget_seconds,
        pretrained=None if run.pretrained is None else run.pretrained.origin,
    )


def _tell_what_is_settled(task: TrainingTask) -> None:
    """Say what plan and data decide where the recipe leaves it open, and what is left undone."""
    asked, loss = task.recipe.loss, task.loss
    if asked.invalid_voxels is None and loss.invalid_voxels == "background":
        why = "the plan predicts them like any other"
        log.info("loss.invalid_voxels: empty voxels are trained as background, for %s", why)
    if asked.class_weights == "auto" and isinstance(loss.class_weights, dict):
        weights = (f"{name} {weight:.3g}" for name, weight in loss.class_weights.items())
        log.info("loss.class_weights auto: %s", ", ".join(weights))
        if never := [name for name, share in (task.frequencies or {}).items() if not share]:
            text = "no training case has any %s: nothing to learn, so it weighs little in the loss"
            log.warning(text, listing(never))
    _tell_of_sides(task)
    if unannotated := [case for case in task.split.train if case in task.unannotated]:
        log.info("no voxel is annotated in %s: not drawn for training", listing(unannotated))
    if task.fold == "all":
        text = "fold all: the Dice during training is of cases that are trained on, as there is no "
        log.info("%s", text + "other; it says nothing of new ones")
        if task.recipe.schedule.early_stopping is not None:
            log.warning(
                "schedule.early_stopping cannot tell when training has gone on for too long"
            )
    if not task.recipe.schedule.validation_iterations:
        log.info("schedule.validation_iterations is 0: without a Dice there will be no best.pt")


def _tell_of_sides(task: TrainingTask) -> None:
    """Say what becomes of left and right, where labels tell them apart."""
    sides, spatial = task.patch_sides, task.spatial
    if not sides.matter or not task.recipe.augment.mirror:
        return
    if sides.axis in spatial.mirror_axes and sides.apart:
        text = "augment.mirror: axis %s runs between left and right, and is mirrored as asked for: "
        text += "labels that say left will lie right"
        log.warning(text, sides.axis)
    elif sides.apart:
        log.warning("%s", "; ".join(explain_sides(task.plan, task.schema, task.sides)))
    elif task.swap_axis is not None:
        text = "left and right: labels (%s) change places when axis %d of the patch is mirrored"
        names = listing([" / ".join(pair) for pair in sides.pairs])
        log.info(text, names, task.swap_axis)


def _clear(folder: Path) -> None:
    """Delete what an earlier training left, now that the new one is about to begin."""
    shutil.rmtree(folder / "validation", ignore_errors=True)
    made = ("final.pt", "best.pt", "last.pt", "log.jsonl", "progress.png", PRETRAINED_FILE)
    for name in made:
        (folder / name).unlink(missing_ok=True)
