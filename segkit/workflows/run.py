"""Everything in one go: a user's dataset with ``run``, a made-up one with ``demo``."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from segkit import options as opt
from segkit.dataset.cases import Case
from segkit.dataset.demo import make_demo_dataset
from segkit.runtime import log
from segkit.workflows.common import OpenDataset, Outcome, open_dataset
from segkit.workflows.prediction import evaluate, evaluate_cases, predict
from segkit.workflows.prepare import plan_and_preprocess, validate
from segkit.workflows.training import (
    make_task,
    model_folder,
    train,
    train_task,
    validate_fold,
    validation_cases,
    validation_folder,
)

ALL_FOLDS = ("0", "1", "2", "3", "4")
DEMO_DATASET = "Dataset999_Demo"
DEMO_CONFIGURATION = "3d_fullres"


def run(options: opt.Run) -> Outcome:
    """Validate, plan, preprocess, train and cross-validate; see :class:`segkit.options.Run`."""
    common: dict[str, Any] = {
        name: getattr(options, name) for name in opt.Dataset.__dataclass_fields__
    }
    report = validate(opt.Validate(**common))
    if not report.ok:
        return report
    log.info("%s", report.text)
    only = (options.configuration,)
    choice = opt.PlanAndPreprocess(**common, planner=options.planner, configurations=only)
    log.info("%s", plan_and_preprocess(choice).text)
    dataset = open_dataset(options)
    predicted: list[tuple[Case, Path]] = []
    for fold in options.folds or ALL_FOLDS:
        predicted += _run_fold(dataset, options, fold)
    model = dataset.workspace.model(options.planner, options.configuration, _recipe_name(options))
    output = model / "crossval"
    return Outcome(text=evaluate_cases(dataset.description, predicted, output, jobs=options.jobs))


def _run_fold(dataset: OpenDataset, options: opt.Run, fold: str) -> list[tuple[Case, Path]]:
    """Train a fold that is not trained yet and validate it; says where its cases are predicted."""
    now = replace(options, started=time.monotonic())
    task = make_task(dataset, now, options.configuration, fold)
    folder = model_folder(dataset, task)
    if (folder / f"fold_{fold}" / "final.pt").exists() and not options.overwrite:
        log.info("fold %s is trained already; kept (--overwrite trains it anew)", fold)
    else:
        resumable = (folder / f"fold_{fold}" / "last.pt").exists() and not options.overwrite
        log.info("%s", train_task(dataset, task, replace(now, resume=resumable)))
    log.info("%s", validate_fold(dataset, task, options))
    output = validation_folder(folder, fold)
    return [(case, output) for case in validation_cases(dataset, task)]


def _recipe_name(options: opt.TrainingChoice) -> str:
    from segkit.config import load_recipe

    return load_recipe(options.recipe, options.settings).name


def demo(options: opt.Demo) -> Outcome:
    """Make a small dataset and go through all commands; see :class:`segkit.options.Demo`."""
    raw = options.output / "raw" / DEMO_DATASET
    if not (raw / "dataset.json").exists():
        log.info("making a synthetic dataset in %s", raw)
        make_demo_dataset(raw)
    workdir = options.output / "work"
    common: dict[str, Any] = {
        "workdir": workdir,
        "device": options.device,
        "jobs": options.jobs,
        "dataset": str(raw),
    }
    log.info("%s", validate(opt.Validate(**common)).text)
    only = (DEMO_CONFIGURATION,)
    log.info("%s", plan_and_preprocess(opt.PlanAndPreprocess(**common, configurations=only)).text)
    trained = train(
        opt.Train(
            **common,
            configuration=DEMO_CONFIGURATION,
            time_budget=options.time_budget,
            overwrite=True,
        )
    )
    log.info("%s", trained.text)
    return _judge_demo(options, raw, common)


def _judge_demo(options: opt.Demo, raw: Path, common: dict[str, Any]) -> Outcome:
    """Predict the demo's test images and compare them with their labels."""
    predictions = options.output / "predictions"
    predict(
        opt.Predict(
            workdir=common["workdir"],
            device=options.device,
            inputs=(raw / "imagesTs",),
            output=predictions,
            dataset=str(raw),
            configuration=DEMO_CONFIGURATION,
        )
    )
    table = evaluate(
        opt.Evaluate(
            jobs=options.jobs,
            predictions=predictions,
            references=raw / "labelsTs",
            description=raw / "dataset.json",
            output=options.output / "evaluation",
        )
    ).text
    report = options.output / "evaluation" / "report.html"
    return Outcome(text=f"{table}\n\nreport: {report}")
