"""Trains one fold from start (or from where it stopped) to its final checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from segkit.checkpoint import load_checkpoint, save_checkpoint
from segkit.config import Recipe, ScheduleConfig, recipe_mapping
from segkit.errors import UserError
from segkit.files import read_json, write_json
from segkit.runtime import log
from segkit.training.hooks import (
    checkpoint_content,
    checkpointer,
    log_writer,
    reporter,
    restore,
    throttled,
)
from segkit.training.loop import Clock, TrainingParts, TrainingState, train
from segkit.training.patches import PatchSource
from segkit.training.setup import TrainingTask, build_parts


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How a fold is trained, as opposed to what is trained."""

    device: torch.device
    started: float
    """Monotonic time at which the command began; a time budget counts from here."""
    budget_seconds: float | None = None
    resume: bool = False
    overwrite: bool = False


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
        UserError: the folder holds a trained fold, or nothing to resume from; the loss diverged.
    """
    _check_folder(folder, run)
    parts = build_parts(task, source, run.device)
    state = _resume(parts, task.recipe, folder, run) if run.resume else TrainingState()
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "recipe.json", recipe_mapping(task.recipe))
    schedule = task.recipe.schedule
    clock = Clock(
        total_iterations=schedule.epochs * schedule.iterations_per_epoch,
        budget_seconds=run.budget_seconds,
        started=run.started,
        spent=state.seconds,
    )
    hooks = (
        log_writer(folder / "log.jsonl", state),
        checkpointer(folder, parts, schedule),
        reporter(None if run.budget_seconds else schedule.epochs),
        throttled(lambda: draw(folder), seconds=30),
    )
    try:
        train(parts, task.recipe, state, clock, hooks)
    except KeyboardInterrupt:
        save_checkpoint(folder / "last.pt", checkpoint_content(parts, state))
        log.warning("interrupted; go on with --resume")
        raise
    save_checkpoint(folder / "last.pt", checkpoint_content(parts, state))
    weights = {"network": parts.network.state_dict(), "state": state.content()}
    save_checkpoint(folder / "final.pt", weights)
    draw(folder)
    return state


def _check_folder(folder: Path, run: RunSettings) -> None:
    present = sorted(folder.glob("*.pt"))
    if run.resume:
        if not (folder / "last.pt").exists():
            fix = "leave --resume out to start, or check the configuration, fold and recipe"
            raise UserError("nothing to resume: there is no last.pt", where=folder, fix=fix)
    elif present and not run.overwrite:
        raise UserError(
            f"this fold was trained before ({', '.join(p.name for p in present)})",
            where=folder,
            fix="use --resume to go on, or --overwrite to start anew",
        )
    else:
        for path in present:
            path.unlink()


def _resume(parts: TrainingParts, recipe: Recipe, folder: Path, run: RunSettings) -> TrainingState:
    before: dict[str, Any] = read_json(folder / "recipe.json")
    changed = _changed(before, recipe_mapping(replace(recipe, schedule=ScheduleConfig())))
    if changed:
        raise UserError(
            f"the run was begun with other values of {', '.join(changed)}",
            where=folder / "recipe.json",
            fix="resume with the same recipe and --set (only schedule may differ)",
        )
    state = restore(parts, load_checkpoint(folder / "last.pt", device=run.device))
    log.info("going on after epoch %d (%d steps)", state.epoch, state.iteration)
    return state


def _changed(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    names: list[str] = []
    for key in sorted(before.keys() | now.keys()):
        if prefix == "" and key in ("name", "schedule", "final_validation"):
            continue
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            names += _changed(old, new, f"{prefix}{key}.")
        elif old != new:
            names.append(f"{prefix}{key}")
    return names
