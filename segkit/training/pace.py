"""Batch size and momentum of short runs.

A time budget is better spent on many steps on few patches than on few steps on many, and momentum
must not average over a large part of the run. Measured on Hippocampus (2 CPU cores, 6 minutes,
fold 0, mean Dice): 0.801 with 239 steps of 7 patches, 0.839 with 800 steps of 2 patches, 0.848
with momentum 0.95 and learning rate 0.02 in place of 0.99 and 0.01.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from operator import ge

import torch

from segkit.config import OptimizerConfig
from segkit.planning.topology import total_stride
from segkit.runtime import log
from segkit.training.fitting import fitting_task, with_batch_size
from segkit.training.parts import load_batch
from segkit.training.patches import PatchSource
from segkit.training.setup import build_parts
from segkit.training.step import train_step
from segkit.training.task import TrainingTask, shrink_patch

SMALLEST_BATCH = 2
"""nnU-Net never plans fewer patches a step."""
ENOUGH_STEPS = 5000
"""With this many steps in the budget the planned batch size is kept."""
MOMENTUM_SHARE = 1 / 40
"""Largest share of a run over which momentum may average (1 / (1 - momentum) steps)."""
SMALLEST_MOMENTUM = 0.9
TIMING_SHARE = 0.05
"""Largest share of a time budget that timing steps of the whole patch may take."""
SMALL_PATCH = 1 / 8
"""Share of the patch that steps are timed on first."""
FEW_STEPS = 50
"""With fewer little is learned."""
SMALLEST_SIDE = 16
"""Of a patch that is advised, in voxels."""


def batch_size_for(seconds: float, seconds_per_sample: float, *, planned: int) -> int:
    """Choose the largest batch size, from 2 to the planned one, that leaves enough steps."""
    affordable = int(seconds / (seconds_per_sample * ENOUGH_STEPS))
    return min(planned, max(affordable, SMALLEST_BATCH))


def adapt_optimizer(config: OptimizerConfig, steps: float) -> OptimizerConfig:
    """Lower a momentum that averages over too many of ``steps``.

    The learning rate grows with the square root of what the effective one, lr / (1 - momentum),
    loses. From 4000 steps on nnU-Net's momentum of 0.99 stays as it is.
    """
    limit = max(1 - 1 / max(steps * MOMENTUM_SHARE, 1e-9), SMALLEST_MOMENTUM)
    adaptable = config.name == "sgd" and config.adapt_to_short_runs
    if not adaptable or config.momentum <= limit:
        return config
    gain = math.sqrt((1 - limit) / (1 - config.momentum))
    return replace(config, momentum=limit, learning_rate=config.peak_learning_rate * gain)


def seconds_per_sample(
    task: TrainingTask, source: PatchSource, device: torch.device, seconds: float
) -> float:
    """Time steps on the smallest batch, per patch.

    Steps of a small patch say what those of the whole one will take, about; these are timed too
    where that costs little of the budget.

    Args:
        task: What is to be trained.
        source: Of patches.
        device: Where it is trained.
        seconds: The budget.
    """
    small = with_small_patch(task)
    larger = math.prod(task.patch_size) / math.prod(small.patch_size)
    each = larger * _timed_sample(small, source, device)
    affordable = _TIMED * SMALLEST_BATCH * each <= TIMING_SHARE * seconds
    return _timed_sample(task, source, device) if larger > 1 and affordable else each


_TIMED = 2
"""Steps: one to warm up, and one that counts."""


def _timed_sample(task: TrainingTask, source: PatchSource, device: torch.device) -> float:
    size = min(SMALLEST_BATCH, task.batch_size)
    parts = build_parts(with_batch_size(task, size), source, device)
    begun = 0.0
    for iteration in range(_TIMED):
        begun = time.monotonic()
        batch = load_batch(parts.train_loader, device)
        train_step(parts, [batch], iteration)
    return (time.monotonic() - begun) / size


def with_small_patch(task: TrainingTask) -> TrainingTask:
    """Return the task with an eighth of its patch, or what the network can still halve.

    A class is only known to take the patch it was made for.
    """
    if task.network.class_ is not None:
        return task
    voxels = int(math.prod(task.patch_size) * SMALL_PATCH)
    size = shrink_patch(task.patch_size, total_stride(task.network.strides), voxels)
    sampling = replace(task.recipe.sampling, patch_size=size, max_patch_voxels=None)
    return replace(task, recipe=replace(task.recipe, sampling=sampling))


def with_pace(
    task: TrainingTask, source: PatchSource, device: torch.device, seconds: float | None
) -> TrainingTask:
    """Settle batch size and momentum of a run that begins.

    Args:
        task: A batch size given in its recipe is kept; a planned one is tried first on a GPU.
        source: To try and time a step.
        device: Likewise.
        seconds: What is left of the time budget; None where the schedule counts epochs.
    """
    steps: float = task.recipe.schedule.steps
    given = task.recipe.sampling.batch_size is not None
    if device.type == "cuda" and not given:
        task = fitting_task(task, source, device)
    if seconds is not None:
        log.info("timing steps, to choose a batch size for the time there is")
        each = seconds_per_sample(task, source, device, seconds)
        each *= task.recipe.optimizer.accumulate
        if not given:
            size = batch_size_for(seconds, each, planned=task.batch_size)
            task = with_batch_size(task, size)
        steps = max(seconds, 0.0) / (each * task.batch_size)
        log.info("batch size %d: about %d steps fit into the time", task.batch_size, steps)
        if steps < FEW_STEPS:
            log.warning("%s", _advice(task, steps))
    optimizer = adapt_optimizer(task.recipe.optimizer, steps)
    if optimizer != task.recipe.optimizer:
        text = "a short run: momentum %.3f, learning rate %.4f"
        log.info(text, optimizer.momentum, optimizer.learning_rate)
    return replace(task, recipe=replace(task.recipe, optimizer=optimizer))


def _advice(task: TrainingTask, steps: float) -> str:
    """Say what helps where too few steps fit into the time.

    A patch that would be too small to see anything is no help.
    """
    voxels = int(math.prod(task.patch_size) * max(steps, 1) / FEW_STEPS)
    smaller = shrink_patch(task.patch_size, total_stride(task.network.strides), voxels)
    enough = (min(SMALLEST_SIDE, n) for n in task.patch_size)
    remedy, own_class = "give more time", task.network.class_ is not None
    if not own_class and math.prod(smaller) <= voxels and all(map(ge, smaller, enough)):
        remedy += f", or a smaller patch: --set sampling.max_patch_voxels={voxels}"
    elif task.plan.planner != "cpu":
        remedy += ", or plan a smaller network: segkit plan_and_preprocess --planner cpu"
    return f"in fewer than {FEW_STEPS} steps little is learned; {remedy}"
