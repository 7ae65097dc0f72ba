"""The largest batch that the device holds: the planned one is tried before a training begins.

A plan estimates memory from feature maps alone. Another program on the same GPU, full precision or
a network of the user's own may need more; better to learn that now than in the middle of a run.
"""

from __future__ import annotations

import gc
from dataclasses import replace

import torch

from segkit.errors import UserError
from segkit.runtime import log
from segkit.training.parts import load_batch
from segkit.training.patches import PatchSource
from segkit.training.setup import build_parts
from segkit.training.step import train_step
from segkit.training.task import TrainingTask

STEPS = 2
"""The optimiser's own memory is taken in the first step, and is there in the second."""


def with_batch_size(task: TrainingTask, size: int) -> TrainingTask:
    """Return the task with another batch size in its recipe."""
    sampling = replace(task.recipe.sampling, batch_size=size)
    return replace(task, recipe=replace(task.recipe, sampling=sampling))


def fitting_task(task: TrainingTask, source: PatchSource, device: torch.device) -> TrainingTask:
    """Lower the batch size, by quarters, until steps of real patches fit into memory.

    Args:
        task: As planned.
        source: Of patches.
        device: Where the task is trained.

    Returns:
        The task itself where it fits.

    Raises:
        UserError: not even a single patch fits.
    """
    size = task.batch_size
    while not _fits(with_batch_size(task, size), source, device):
        if size == 1:
            what = f"not even one patch of {list(task.patch_size)} fits into the memory of {device}"
            fix = "plan for less memory (segkit plan --gpu-memory-gb), use a smaller "
            fix += "sampling.patch_size, or end what else runs on the device"
            raise UserError(what, fix=fix)
        size = size * 3 // 4
    if size == task.batch_size:
        return task
    why = f"the planned {task.batch_size} do not fit into the memory of {device}"
    log.warning("batch size %d: %s; segkit plan --gpu-memory-gb plans for less", size, why)
    return with_batch_size(task, size)


def _fits(task: TrainingTask, source: PatchSource, device: torch.device) -> bool:
    try:
        _take_steps(task, source, device)
        fits = True
    except torch.cuda.OutOfMemoryError:
        fits = False
    # What a failed step held is only freed here, after the exception that referred to it.
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return fits


def _take_steps(task: TrainingTask, source: PatchSource, device: torch.device) -> None:
    """Have all in memory that a training has; the weights are thrown away."""
    parts = build_parts(task, source, device)
    for iteration in range(STEPS):
        train_step(parts, [load_batch(parts.train_loader, device)], iteration)
