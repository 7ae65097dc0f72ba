"""Everything in one go: a user's dataset with ``run``, a made-up one with ``demo``."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segkit import options as opt
from segkit.dataset.cases import Case
from segkit.dataset.description import command
from segkit.errors import UsageError, listing
from segkit.evaluation.summary import Summary
from segkit.evaluation.table import render_table
from segkit.planning.plan import Plan
from segkit.planning.planner import explain
from segkit.runtime import log
from segkit.workflows.common import OpenDataset, Outcome, open_dataset, open_planned
from segkit.workflows.evaluation import evaluate, evaluate_cases
from segkit.workflows.plans import kept_plan
from segkit.workflows.prediction import predict
from segkit.workflows.prepare import plan, plan_and_split, preprocess
from segkit.workflows.splits import open_split, settle_folds
from segkit.workflows.training import (
    continued_task,
    fold_number,
    make_task,
    model_folder,
    open_splits,
    train,
    train_task,
    validate_fold,
    validation_cases,
    validation_folder,
    with_previous_stage,
)
from segkit.workflows.validation import validate

DEMO_DATASET = "Dataset999_Demo"


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """A model, and how its folds did on the cases they were not trained on."""

    model: Path
    """Its folder."""
    summary: Summary | None
    """None where no case was left out: fold all is trained on every one."""


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
    configuration = options.configuration or _best_planned(made)
    every = tuple(str(i) for i in range(len(open_splits(dataset))))
    options = replace(options, folds=options.folds or every)
    before = made.previous_stage(configuration) if options.previous_model is None else None
    stages = (configuration,) if before is None else (before, configuration)
    first: tuple[str, ...] = ()
    if before is not None:
        _check_both_stages(dataset, made, options, stages)
        # A cascade learns from all folds of its previous stage, whichever of its own are trained.
        first = ("all",) * ("all" in options.folds) + every * (set(options.folds) != {"all"})
    for fold in dict.fromkeys((*first, *options.folds)):
        open_split(dataset, fold_number(fold), allow_leaks=options.allow_leaks)
    only = opt.Preprocess(**common, planner=options.planner, configurations=stages)
    log.info("%s", preprocess(only).text)
    if before is not None:
        log.info("%s", _run_folds(dataset, made, replace(options, folds=first), before).text)
    return _run_folds(dataset, made, options, configuration)


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
        one = command("train", dataset.description, configuration, "--fold", options.folds[0])
        fix = f"leave --folds out to train all anew; or train a fold alone: {one} --overwrite"
        raise UsageError(what, where="--overwrite", fix=fix)


def _run_folds(
    dataset: OpenDataset, made: Plan, options: opt.Run, configuration: str
) -> Outcome[CrossValidation]:
    """Train and validate folds; gives the scores of all their cases together."""
    predicted: dict[str, tuple[Case, Path]] = {}
    for fold in options.folds:
        model, cases = _run_fold(dataset, made, options, configuration, fold)
        predicted |= {case.id: (case, validation_folder(model, fold)) for case in cases}
    if not predicted:
        text = f"{configuration}: trained on every case, so there is none to validate it on"
        return Outcome(text=text, result=CrossValidation(model=model, summary=None))
    pairs = list(predicted.values())
    summary = evaluate_cases(dataset.description, pairs, model / "crossval", jobs=options.jobs)
    title = f"{configuration}: cross-validation over {len(pairs)} cases"
    return Outcome(
        text=f"{title}, each predicted by the fold without it\n{render_table(summary)}",
        result=CrossValidation(model=model, summary=summary),
    )


def _planned(options: opt.Run) -> Plan:
    """The plan that is there, with its settings and edits; else a new one."""
    dataset = open_dataset(options)
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


def _run_fold(
    dataset: OpenDataset, made: Plan, options: opt.Run, configuration: str, fold: str
) -> tuple[Path, list[Case]]:
    """Train a fold that is not trained yet and validate it; gives the model and those cases."""
    task = make_task(dataset, made, options, configuration, fold)
    folder = model_folder(dataset, task)
    if (folder / f"fold_{fold}" / "final.pt").exists() and not options.overwrite:
        text = "%s fold %s is trained already; kept (--overwrite trains it anew)"
        log.info(text, configuration, fold)
    else:
        resume = (folder / f"fold_{fold}" / "last.pt").exists() and not options.overwrite
        if resume:
            task = continued_task(dataset, task, options)
        replaced = options.folds if options.overwrite else ()
        task = with_previous_stage(dataset, task, options, replaced=replaced)
        log.info("%s fold %s: training on %d cases", configuration, fold, len(task.split.train))
        # A time budget is for the fold alone.
        now = replace(options, started=time.monotonic())
        log.info("%s", train_task(dataset, task, now, resume=resume))
    log.info("%s", validate_fold(dataset, task, options))
    return folder, validation_cases(dataset, task)


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
