"""Everything in one go: a user's dataset with ``run``, a made-up one with ``demo``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segkit import options as opt
from segkit.dataset.description import command
from segkit.errors import UsageError, listing
from segkit.evaluation.fitting import explain_trials
from segkit.evaluation.postprocessing import RULES_FILE
from segkit.inference.model import load_model
from segkit.planning.plan import Plan
from segkit.planning.planner import explain
from segkit.runtime import log
from segkit.training.task import TrainingTask
from segkit.workflows.common import (
    OpenDataset,
    Outcome,
    open_dataset,
    open_planned,
    same_training,
)
from segkit.workflows.crossval import (
    CrossValidation,
    describe_scores,
    find_folds,
    fit_rules,
    score_folds,
)
from segkit.workflows.evaluation import evaluate
from segkit.workflows.folds import (
    EVERY,
    OF_ALL_CASES,
    chosen_folds,
    same_command_again,
    train_folds,
)
from segkit.workflows.kept import check_kept, tell_mixture
from segkit.workflows.plans import kept_plan
from segkit.workflows.prediction import predict
from segkit.workflows.prepare import plan, plan_and_split, preprocess
from segkit.workflows.selection import find_best
from segkit.workflows.splits import check_cases, open_split, settle_folds
from segkit.workflows.training import (
    continued_task,
    fold_number,
    make_room,
    make_task,
    model_folder,
    open_splits,
    own_code,
    train,
    train_task,
    validate_fold,
    with_previous_stage,
)
from segkit.workflows.validation import validate

DEMO_DATASET = "Dataset999_Demo"


def run(options: opt.Run) -> Outcome[CrossValidation]:
    """Validate, plan, preprocess, train and cross-validate; see :class:`segkit.options.Run`."""
    common: dict[str, Any] = {
        name: getattr(options, name) for name in opt.Dataset.__dataclass_fields__
    }
    report = validate(opt.Validate(**common))
    if not report.ok:
        return Outcome(text=report.text, ok=False)
    log.info("%s", report.text)
    log.info("%s", "\n".join(explain(_planned(options))))
    dataset, made = open_planned(options)
    configurations = options.configurations or (_best_planned(made),)
    stages = _stages(made, options, configurations, len(open_splits(dataset)))
    for name in configurations:
        if (before := _before(made, options, name)) is not None:
            chosen = replace(options, folds=stages[name])
            _check_both_stages(dataset, made, chosen, (before, name))
    for fold in sorted(set().union(*stages.values())):
        open_split(dataset, fold_number(fold), allow_leaks=options.allow_leaks)
    for name, folds in stages.items():
        _check_kept(dataset, made, options, name, folds)
    only = opt.Preprocess(**common, planner=options.planner, configurations=tuple(stages))
    log.info("%s", preprocess(only).text)
    done = {}
    for name, folds in stages.items():
        done[name] = _train_and_judge(dataset, made, options, name, folds)
        if len(configurations) > 1 or name not in configurations:
            log.info("%s", done[name].text)
        judged = done[name].result
        # Those that are compared in the end are told of then.
        if judged is not None and (len(configurations) == 1 or name not in configurations):
            tell_mixture(judged.model, folds)
    last = configurations[-1]
    # The first stage of a cascade has all folds, whichever were asked for.
    folds = min((stages[name] for name in configurations), key=len)
    if len(configurations) == 1 or folds == OF_ALL_CASES:
        return done[last]
    task = make_task(dataset, made, options, last, folds[0])
    with own_code(task):
        return find_best(_comparison(options, configurations, task, folds))


def _stages(
    made: Plan, options: opt.Run, configurations: Sequence[str], every: int
) -> dict[str, tuple[str, ...]]:
    """Say which folds of which configurations are trained, in order: a cascade after its first.

    Raises:
        UsageError: folds that exclude each other, or weights to begin with for more than one.
    """
    folds = chosen_folds(options.fold, options.folds or (() if options.fold else EVERY), every)
    stages: dict[str, tuple[str, ...]] = {}
    for name in configurations:
        if (before := _before(made, options, name)) is not None:
            # A cascade learns from all folds of its previous stage, whichever of its own are
            # trained.
            stages[before] = folds if folds == OF_ALL_CASES else tuple(map(str, range(every)))
        stages.setdefault(name, folds)
    if options.pretrained is not None and len(configurations) > 1:
        what = f"weights to begin with fit one of {', '.join(configurations)}, not all"
        fix = "train them one after the other, with segkit train and --pretrained for one"
        raise UsageError(what, where="--pretrained", fix=fix)
    return stages


def _before(made: Plan, options: opt.Run, configuration: str) -> str | None:
    """Name what is trained before a cascade; None where that is given, or there is no cascade."""
    return made.previous_stage(configuration) if options.previous_model is None else None


def _check_both_stages(
    dataset: OpenDataset, made: Plan, options: opt.Run, stages: tuple[str, ...]
) -> None:
    """Refuse, before hours of training, what would not end well for both stages of a cascade."""
    before, configuration = stages
    if options.pretrained is not None:
        what = f"weights to begin with fit {before} or {configuration}, not both"
        fix = "train the stages one after the other, with segkit train and --pretrained for one"
        raise UsageError(what, where="--pretrained", fix=fix)
    task = make_task(dataset, made, options, configuration, options.folds[0])
    trained = {path.parent.name for path in model_folder(dataset, task).glob("fold_*/*.pt")}
    kept = sorted(trained - {f"fold_{fold}" for fold in options.folds} - {"fold_all"})
    if options.overwrite and kept and set(options.folds) != {"all"}:
        what = f"--overwrite would train {before} anew, but {listing(kept)} of {configuration} "
        what += "learned from what is there"
        alone = (configuration, "--fold", options.folds[0], *same_training(options))
        one = command("train", dataset.description, *alone)
        fix = f"leave --folds out to train all anew; or train a fold alone: {one} --overwrite"
        raise UsageError(what, where="--overwrite", fix=fix)


def _check_kept(
    dataset: OpenDataset, made: Plan, options: opt.Run, configuration: str, folds: tuple[str, ...]
) -> None:
    """Refuse folds that are there and would be kept, but are not what is asked for."""
    if not options.overwrite:
        tasks = [make_task(dataset, made, options, configuration, fold) for fold in folds]
        check_kept(model_folder(dataset, tasks[0]), tasks, options)


def _train_and_judge(
    dataset: OpenDataset, made: Plan, options: opt.Run, configuration: str, folds: tuple[str, ...]
) -> Outcome[CrossValidation]:
    """Train folds that are not trained yet, validate them and find the post-processing for them."""
    tasks = [make_task(dataset, made, options, configuration, fold) for fold in folds]
    model = model_folder(dataset, tasks[0])
    if options.devices:
        same = {name: getattr(options, name) for name in opt.TrainingChoice.__dataclass_fields__}
        several = opt.Train(**same, configuration=configuration, devices=options.devices)
        if options.overwrite:
            make_room(dataset, tasks[0], options, folds)
        train_folds(several, folds, model)
    for task in tasks:
        if not options.devices:
            _train_fold(dataset, task, replace(options, folds=folds))
        log.info("%s", validate_fold(dataset, task, options))
    if folds == OF_ALL_CASES:
        text = f"{configuration}: trained on every case, so there is none to validate it on"
        return Outcome(text=text, result=CrossValidation(model=model, summary=None))
    with own_code(tasks[0]):
        trained = find_folds(dataset, load_model(model), folds)
    summary = score_folds(dataset, trained, jobs=options.jobs)
    rules = fit_rules(dataset, trained, model / RULES_FILE, jobs=options.jobs)
    return Outcome(
        text="\n".join([describe_scores(trained, summary), "", *explain_trials(rules)]),
        result=CrossValidation(model=model, summary=summary),
    )


def _comparison(
    options: opt.Run, configurations: tuple[str, ...], task: TrainingTask, folds: tuple[str, ...]
) -> opt.FindBest:
    """Ask for a comparison of the models that were trained, alone and in pairs."""
    common = {name: getattr(options, name) for name in opt.Dataset.__dataclass_fields__}
    return opt.FindBest(
        **common,
        configurations=configurations,
        planners=(task.plan.name,),
        recipes=(task.recipe.name,),
        folds=folds,
    )


def _planned(options: opt.Run) -> Plan:
    """The plan that is there, with its settings and edits; else a new one."""
    dataset = open_dataset(options)
    check_cases(dataset, overwrite=options.overwrite_splits)
    kept = kept_plan(dataset, options)
    if kept is not None:
        settle_folds(dataset, options)
        return kept
    splitting: dict[str, Any] = {
        name: getattr(options, name) for name in opt.Splitting.__dataclass_fields__
    }
    chosen = opt.Plan(**splitting, planner=options.planner, min_cases=options.min_cases or 0)
    return plan_and_split(dataset, chosen)


def _best_planned(made: Plan) -> str:
    """The 3D configuration where there is one."""
    return "3d_fullres" if "3d_fullres" in made.configurations else "2d"


def _train_fold(dataset: OpenDataset, task: TrainingTask, options: opt.Run) -> None:
    """Train a fold that is not trained yet; one that was interrupted goes on."""
    folder = model_folder(dataset, task) / f"fold_{task.fold}"
    if (folder / "final.pt").exists() and not options.overwrite:
        text = "%s fold %s is trained already; kept (--overwrite trains it anew)"
        log.info(text, task.configuration, task.fold)
        return
    resume = (folder / "last.pt").exists() and not options.overwrite
    if resume:
        task = continued_task(dataset, task, options)
    replaced = options.folds if options.overwrite else ()
    again = same_command_again(overwrite=options.overwrite)
    task = with_previous_stage(dataset, task, options, replaced=replaced)
    count = len(task.split.train)
    log.info("%s fold %s: training on %d cases", task.configuration, task.fold, count)
    # A time budget is for the fold alone.
    now = replace(options, started=time.monotonic())
    done = train_task(dataset, task, now, resume=resume, replaced=replaced, again=again)
    log.info("%s", done)


def demo(options: opt.Demo) -> Outcome:
    """Make a small dataset and go through all commands; see :class:`segkit.options.Demo`."""
    from segkit.dataset.demo import make_demo_dataset

    raw = options.workdir / "raw" / DEMO_DATASET
    if not (raw / "dataset.json").exists():
        log.info("making a synthetic dataset in %s", raw)
        make_demo_dataset(raw)
    common: dict[str, Any] = {
        "workdir": options.workdir,
        "device": options.device,
        "jobs": options.jobs,
        "dataset": str(raw),
    }
    log.info("%s", validate(opt.Validate(**common)).text)
    log.info("%s", plan(opt.Plan(**common)).text)
    log.info("%s", preprocess(opt.Preprocess(**common, configurations=("3d_fullres",))).text)
    budget = options.time_budget
    chosen = opt.Train(**common, configuration="3d_fullres", time_budget=budget, overwrite=True)
    log.info("%s", train(chosen).text)
    return _judge_demo(options, raw)


def _judge_demo(options: opt.Demo, raw: Path) -> Outcome:
    """Predict the demo's test images and compare them with their labels."""
    results = options.workdir / DEMO_DATASET
    predict(
        opt.Predict(
            workdir=options.workdir,
            device=options.device,
            inputs=(raw / "imagesTs",),
            output=results / "predictions",
            dataset=str(raw),
            configurations=("3d_fullres",),
        )
    )
    table = evaluate(
        opt.Evaluate(
            jobs=options.jobs,
            predictions=results / "predictions",
            references=raw / "labelsTs",
            description=raw / "dataset.json",
            output=results / "evaluation",
        )
    ).text
    return Outcome(text=f"{table}\n\nreport: {results / 'evaluation' / 'report.html'}")
