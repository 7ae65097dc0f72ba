"""Training a fold, and judging it on its validation cases."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from segkit import options as opt
from segkit.config import CascadeConfig, apply_settings, load_recipe, whole_paths
from segkit.dataset.description import command
from segkit.dataset.label_files import LabelLayout, label_layout
from segkit.dataset.splits import Split
from segkit.errors import UsageError
from segkit.evaluation.table import render_table
from segkit.inference.model import ModelSettings, load_model, save_model
from segkit.networks.own import allow_code
from segkit.planning.fingerprint import load_fingerprint
from segkit.planning.frequencies import target_frequencies, unannotated_cases
from segkit.planning.plan import Plan
from segkit.report.progress_png import draw_progress
from segkit.runtime import log, prepare_torch, resolve_device
from segkit.training.lock import trained_by_one
from segkit.training.record import read_record
from segkit.training.run import RunSettings, check_folder, train_fold
from segkit.training.task import Fold, TrainingTask
from segkit.workflows.cascade import (
    Predictions,
    PreviousStage,
    carry,
    find_source,
    open_store,
    predictions,
    previous_stage,
)
from segkit.workflows.common import OpenDataset, Outcome, open_planned, same_training
from segkit.workflows.crossval import (
    describe_scores,
    find_folds,
    is_predicted,
    predict_fold,
    score_fold,
    score_folds,
)
from segkit.workflows.folds import chosen_folds, train_folds
from segkit.workflows.kept import check_kept, recorded, tell_mixture
from segkit.workflows.pretrained import read_pretrained
from segkit.workflows.splits import open_folds, open_split


def train(options: opt.Train) -> Outcome[Path]:
    """Train one fold; see :class:`segkit.options.Train`."""
    if options.resume and options.pretrained is not None:
        what = "a run that goes on has its weights already: --resume and --pretrained exclude"
        fix = "leave one out; --overwrite starts anew"
        raise UsageError(f"{what} each other", fix=fix)
    if options.resume and options.overwrite:
        fix = "give one of the two: --resume goes on, --overwrite begins anew"
        raise UsageError("a run that goes on is not replaced", where="--overwrite", fix=fix)
    dataset, plan = open_planned(options)
    folds = chosen_folds(options.fold, options.folds, len(open_splits(dataset)))
    if options.folds:
        return _train_several(dataset, plan, options, folds)
    if options.devices:
        raise UsageError("--devices is for several folds", fix="use --device, or add --folds all")
    task = make_task(dataset, plan, options, options.configuration, folds[0])
    if options.resume:
        task = continued_task(dataset, task, options)
    if plan.previous_stage(task.configuration) is None and task.recipe.cascade != CascadeConfig():
        text = "cascade.* of the recipe has no effect: %s has no previous stage"
        log.warning(text, task.configuration)
    replaced = folds if options.overwrite else ()
    text = train_task(dataset, task, options, resume=options.resume, replaced=replaced)
    folder = model_folder(dataset, task) / f"fold_{task.fold}"
    if not task.recipe.final_validation:
        return Outcome(text=text, result=folder)
    # A run that goes on keeps the budget it began with.
    if read_record(folder).budget_seconds is not None:
        log.info("the time budget is spent: no final validation; segkit crossval validates it")
        return Outcome(text=text, result=folder)
    return Outcome(text=f"{text}\n{validate_fold(dataset, task, options)}", result=folder)


def _train_several(
    dataset: OpenDataset, plan: Plan, options: opt.Train, folds: Sequence[str]
) -> Outcome[Path]:
    """Train folds, each in a process of its own, and sum up how they did."""
    task = make_task(dataset, plan, options, options.configuration, folds[0])
    folder = model_folder(dataset, task)
    text = "training folds %s of %s; one model of all cases is trained by --fold all"
    log.info(text, ", ".join(folds), folder.name)
    tasks = [make_task(dataset, plan, options, options.configuration, fold) for fold in folds]
    if options.overwrite:
        make_room(dataset, task, options, folds)
    elif not options.resume:
        check_kept(folder, tasks, options)
    train_folds(options, folds, folder)
    done = f"trained folds {', '.join(folds)}: {folder}"
    with own_code(task):
        trained = find_folds(dataset, load_model(folder), folds)
    tell_mixture(folder, folds)
    if not all(is_predicted(fold) for fold in trained):
        return Outcome(text=f"{done}\nsegkit crossval validates them", result=folder)
    summary = score_folds(dataset, trained, jobs=options.jobs)
    return Outcome(text=f"{done}\n{describe_scores(trained, summary)}", result=folder)


def make_task(
    dataset: OpenDataset, plan: Plan, options: opt.TrainingChoice, configuration: str, fold: str
) -> TrainingTask:
    """Gather plan, recipe and split of one fold.

    Raises:
        UserError: no such configuration or recipe, splits that do not fit, or a fold that is
            validated on what it is trained on.
    """
    chosen = fold_number(fold)
    split = open_split(dataset, chosen, allow_leaks=options.allow_leaks)
    plan.configuration(configuration)
    labels = dataset.description.labels
    fingerprint = load_fingerprint(dataset.workspace.fingerprint)
    return TrainingTask(
        plan=plan,
        configuration=configuration,
        schema=labels,
        split=split,
        fold=chosen,
        recipe=load_recipe(options.recipe, options.all_settings),
        sides=dataset.description.sides,
        frequencies=target_frequencies(fingerprint, labels),
        unannotated=unannotated_cases(fingerprint, labels),
    )


def fold_number(name: str) -> Fold:
    """Turn the name of a fold into its number, or ``"all"``."""
    return "all" if name == "all" else int(name)


def continued_task(
    dataset: OpenDataset, task: TrainingTask, options: opt.TrainingChoice
) -> TrainingTask:
    """Return the task with the recipe its run began with, and today's ``--set`` on top.

    The task is returned as it is where no run began.
    """
    fold_folder = model_folder(dataset, task) / f"fold_{task.fold}"
    if not (fold_folder / "recipe.json").exists():
        return task
    begun = read_record(fold_folder).requested
    return replace(task, recipe=apply_settings(begun, options.all_settings))


def open_splits(dataset: OpenDataset) -> tuple[Split, ...]:
    """Return the folds of a dataset; they are dealt where there are none."""
    return open_folds(dataset).splits


def model_folder(dataset: OpenDataset, task: TrainingTask) -> Path:
    """Folder of the model this task belongs to."""
    return dataset.workspace.model(task.plan.name, task.configuration, task.recipe.name)


def _how_to_resume(dataset: OpenDataset, task: TrainingTask, options: opt.TrainingChoice) -> str:
    """Write the command that goes on with a fold that is interrupted."""
    given = [task.configuration, "--fold", str(task.fold), *same_training(options)]
    before = options.previous_model
    more = ["--previous-model", str(before)] if before is not None else []
    more += ["--allow-leaks"] if options.allow_leaks else []
    more += ["--device", options.device] if options.device != "auto" else []
    return command("train", dataset.description, *given, *more, "--resume")


def train_task(
    dataset: OpenDataset,
    task: TrainingTask,
    options: opt.TrainingChoice,
    *,
    resume: bool,
    replaced: Collection[str],
    again: str | None = None,
) -> str:
    """Train one fold into its model folder.

    Args:
        dataset: The data set.
        task: To train the fold.
        options: Of the command.
        resume: Go on where it was interrupted.
        replaced: Folds that are trained anew by this command, this one among them.
        again: How to go on after an interruption; None: with the command for this fold.

    Returns:
        One line on how it went.
    """
    device = resolve_device(options.device)
    store = open_store(dataset, task)
    folder = model_folder(dataset, task)
    begin_with = None
    if options.pretrained is not None and not resume:
        name = dataset.description.name
        begin_with = read_pretrained(options.pretrained, str(task.fold), name)
    save = partial(_save_model, folder, dataset, task, replaced=replaced)
    resume_command = _how_to_resume(dataset, task, options)
    run = RunSettings(
        device=device,
        started=time.monotonic() if options.started is None else options.started,
        budget_seconds=options.time_budget,
        resume=resume,
        overwrite=options.overwrite,
        recipe=whole_paths(options.recipe),
        resume_command=resume_command,
        go_on=again or f"go on with: {resume_command}",
        pretrained=begin_with,
        announce=save,
    )
    fold_folder = folder / f"fold_{task.fold}"
    with trained_by_one(fold_folder):
        check_folder(fold_folder, run)
        save(only_check=True)
        if task.previous is None:
            task = with_previous_stage(dataset, task, options, replaced=replaced)
        # Only runs without a time budget can be repeated bit for bit.
        begun = recorded(folder, str(task.fold)) if resume else None
        budget = options.time_budget if begun is None else begun.budget_seconds
        prepare_torch("yield" if budget is not None else "tell")
        state = train_fold(task, store, fold_folder, run, draw=draw_progress)
    return f"trained {state.epoch} epochs ({state.iteration} steps): {fold_folder / 'final.pt'}"


def with_previous_stage(
    dataset: OpenDataset,
    task: TrainingTask,
    options: opt.TrainingChoice,
    *,
    replaced: Collection[str],
) -> TrainingTask:
    """Let a fold of a cascade learn from what its previous stage predicts; others stay as they are.

    Args:
        dataset: The data set.
        task: To train the fold.
        options: Name the previous stage's model, where it is not the usual one.
        replaced: Folds of the cascade that are trained anew, and need not fit to what was before.

    Raises:
        UserError: the previous stage is not trained, or is another one than other folds learned
            from.
    """
    folder = model_folder(dataset, task)
    before = previous_stage(task, folder, open_splits(dataset))
    if before is None:
        return task
    source = find_source(before, dataset, task, options)
    # Refuses other folds that do not fit, before anything changes.
    _save_model(folder, dataset, task, replaced=replaced, only_check=True)
    carry(before, source, replaced=replaced)
    return replace(task, previous=_predictions(before, dataset, task, options).labels)


def make_room(
    dataset: OpenDataset, task: TrainingTask, options: opt.Train | opt.Run, folds: Collection[str]
) -> None:
    """Let folds be trained anew together although what they are made from has changed.

    Each of them alone would be refused, for the others no longer fit it: those that do not are
    deleted.

    Raises:
        UserError: what any of them would be refused for as well.
    """
    folder = model_folder(dataset, task)
    if not any(folder.glob("fold_*/*.pt")):
        return
    for device in options.devices or (options.device,):
        resolve_device(device)
    open_store(dataset, task)
    before = previous_stage(task, folder, open_splits(dataset))
    source = None if before is None else find_source(before, dataset, task, options)
    with contextlib.ExitStack() as locks:
        for fold in folds:
            locks.enter_context(trained_by_one(folder / f"fold_{fold}"))
        _save_model(folder, dataset, task, replaced=folds)
        if before is not None and source is not None:
            carry(before, source, replaced=folds)


def _predictions(
    before: PreviousStage, dataset: OpenDataset, task: TrainingTask, options: opt.TrainingChoice
) -> Predictions:
    with own_code(task):
        return predictions(before, dataset, task, open_store(dataset, task), options.device)


def own_code(task: TrainingTask) -> contextlib.AbstractContextManager[None]:
    """Who trains a network with a recipe that names its code wants to run it."""
    own = task.network.class_
    return allow_code(*([own] if own else []))


def validate_fold(dataset: OpenDataset, task: TrainingTask, options: opt.TrainingChoice) -> str:
    """Predict and evaluate the validation cases of a fold; returns the table.

    Of fold all, which was trained on every case, there are none: scores on them would flatter.
    """
    if task.fold == "all":
        return "fold all was trained on every case: there is none to validate it on"
    with own_code(task):
        model = load_model(model_folder(dataset, task))
        (fold,) = find_folds(dataset, model, (str(task.fold),))
        predict_fold(dataset, fold, options.device)
    return render_table(score_fold(dataset, fold, jobs=options.jobs))


def _save_model(
    folder: Path,
    dataset: OpenDataset,
    task: TrainingTask,
    *,
    replaced: Collection[str],
    only_check: bool = False,
) -> None:
    settings = ModelSettings(
        configuration=task.configuration,
        recipe=task.recipe.name,
        patch_size=task.patch_size,
        mirror_axes=task.spatial.mirror_axes,
        swap_axis=task.swap_axis,
        may_lack_channels=task.recipe.augment.p_channel_dropout > 0,
        label_layout=_label_layout(dataset),
        network=task.network,
    )
    save_model(
        folder,
        settings,
        task.plan,
        dataset.description,
        replaced=replaced,
        only_check=only_check,
    )


def _label_layout(dataset: OpenDataset) -> LabelLayout:
    """How labels lie on disk, from the first training case that has any."""
    description = dataset.description
    label = next(case.label for case in dataset.cases if case.label is not None)
    return label_layout(label, description.labels, description.reader)
