"""What is settled when a run begins, and what is told of it."""

from __future__ import annotations

from dataclasses import replace

import torch

from segkit.config import Recipe
from segkit.errors import listing
from segkit.planning.sides import explain_sides
from segkit.precision import choose_precision
from segkit.runtime import log
from segkit.training.compiling import wants_compiling
from segkit.training.pace import with_pace
from segkit.training.patches import PatchSource
from segkit.training.task import TrainingTask


def settle(
    task: TrainingTask, source: PatchSource, device: torch.device, seconds: float | None
) -> Recipe:
    """Return the recipe with what it leaves to plan, data, device and time in numbers.

    Args:
        task: As asked for.
        source: To time steps, where there is a time budget.
        device: Where it is trained.
        seconds: What is left of the time budget; None without one.
    """
    _tell_what_is_settled(task)
    precision = choose_precision(task.recipe.precision, device).name
    settled = replace(task, recipe=replace(task.settled_recipe, precision=precision))
    recipe = with_pace(settled, source, device, seconds).recipe
    compiled = wants_compiling(recipe.compile, device, recipe.schedule.steps, seconds)
    return replace(recipe, compile="on" if compiled else "off")


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
            log.warning("schedule.early_stopping cannot tell when training goes on for too long")
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
