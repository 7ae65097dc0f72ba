"""What the network will be given: a picture of augmented patches."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from segkit import options as opt
from segkit.errors import UsageError
from segkit.report.preview_png import MOST_CHANNELS, Sheet, draw_preview
from segkit.runtime import log, prepare_torch
from segkit.training.preview import first_patches
from segkit.training.task import TrainingTask
from segkit.workflows.cascade import open_store
from segkit.workflows.common import OpenDataset, Outcome, open_planned
from segkit.workflows.training import make_task

MOST_PATCHES = 60


def preview(options: opt.Preview) -> Outcome[Path]:
    """Draw the first training patches of a fold; see :class:`segkit.options.Preview`."""
    if not 1 <= options.patches <= MOST_PATCHES:
        what = f"a sheet has 1 to {MOST_PATCHES} patches, not {options.patches}"
        raise UsageError(what, where="--patches", fix="for example --patches 6")
    if options.output is not None and options.output.suffix.lower() != ".png":
        raise UsageError("the picture is a .png", where=options.output, fix="name it FILE.png")
    common: dict[str, Any] = {
        field.name: getattr(options, field.name) for field in dataclasses.fields(opt.Dataset)
    }
    asked = opt.Train(
        **common,
        configuration=options.configuration,
        planner=options.planner,
        fold=options.fold,
        recipe=options.recipe,
        settings=options.settings,
    )
    dataset, plan = open_planned(asked)
    task = make_task(dataset, plan, asked, options.configuration, options.fold)
    prepare_torch()
    pairs = first_patches(task, open_store(dataset, task), options.patches)
    if plan.previous_stage(options.configuration) is not None:
        log.info("the channels of the previous stage are not shown")
    if (more := len(plan.channel_names) - MOST_CHANNELS) > 0:
        log.info("the last %d channels are not shown", more)
    output = options.output or _default_output(dataset, task)
    draw_preview(output, pairs, _sheet(dataset, task))
    return Outcome(text=str(output), result=output)


def _sheet(dataset: OpenDataset, task: TrainingTask) -> Sheet:
    run = f"{dataset.description.name} {task.configuration}, recipe {task.recipe.name}"
    return Sheet(
        title=f"{run}, fold {task.fold}: patches as they are read (left) and augmented (right)",
        schema=task.schema,
        channel_names=task.plan.channel_names,
        spacing_mm=task.configured.spacing_mm,
    )


def _default_output(dataset: OpenDataset, task: TrainingTask) -> Path:
    name = f"{task.plan.name}_{task.configuration}_{task.recipe.name}.png"
    return dataset.workspace.folder / "previews" / name
