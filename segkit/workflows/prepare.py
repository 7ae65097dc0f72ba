"""The commands before training: plan, preprocess."""

from __future__ import annotations

from pathlib import Path

from segkit import options as opt
from segkit.files import check_writable
from segkit.planning.plan import Plan
from segkit.planning.planner import explain
from segkit.planning.sides import explain_sides
from segkit.preprocessing.dataset import preprocess_dataset
from segkit.workflows.common import (
    OpenDataset,
    Outcome,
    as_planned,
    open_dataset,
    open_planned,
)
from segkit.workflows.plans import plan_dataset
from segkit.workflows.splits import check_cases, check_splitting, settle_folds


def plan(options: opt.Plan) -> Outcome[Plan]:
    """Plan a dataset; see :class:`segkit.options.Plan`."""
    dataset = open_dataset(options)
    made = plan_and_split(dataset, options)
    return Outcome(text="\n".join(_explained(dataset, made)), result=made)


def preprocess(options: opt.Preprocess) -> Outcome[dict[str, Path]]:
    """Preprocess a dataset; see :class:`segkit.options.Preprocess`."""
    return _preprocess(*open_planned(options), options)


def plan_and_preprocess(options: opt.PlanAndPreprocess) -> Outcome[Plan]:
    """Plan, then preprocess."""
    dataset = open_dataset(options)
    made = plan_and_split(dataset, options)
    done = _preprocess(as_planned(dataset, made), made, options)
    return Outcome(text="\n".join([*_explained(dataset, made), done.text]), result=made)


def _explained(dataset: OpenDataset, made: Plan) -> list[str]:
    """List every decision: the plan's, and what becomes of left and right."""
    description = as_planned(dataset, made).description
    return [*explain(made), *explain_sides(made, description.labels, description.sides)]


def plan_and_split(dataset: OpenDataset, options: opt.Plan) -> Plan:
    """Plan a dataset and deal its folds.

    Raises:
        UserError: before anything is measured, options that make no sense or a work folder that
            cannot be written; later what only the images tell.
    """
    check_splitting(dataset, options)
    check_writable(dataset.workspace.folder)
    check_cases(dataset, overwrite=options.overwrite_splits)
    made = plan_dataset(dataset, options)
    settle_folds(dataset, options)
    return made


def _preprocess(
    dataset: OpenDataset, made: Plan, options: opt.Preprocess | opt.Plan
) -> Outcome[dict[str, Path]]:
    """Preprocess; gives the folder of every configuration, which some share."""
    users: dict[str, list[str]] = {}
    for name in options.configurations or made.configurations:
        users.setdefault(made.stored_as(name), []).append(name)
    folders = {name: dataset.workspace.preprocessed(made.name, name) for name in users}
    redone = preprocess_dataset(
        dataset.description, dataset.cases, made, folders, jobs=options.jobs
    )
    cases = len(dataset.cases)
    text = "\n".join(
        f"{', '.join(users[name])}: {count} case(s) preprocessed, {cases - count} unchanged, "
        f"in {folders[name]}"
        for name, count in redone.items()
    )
    stores = {name: folders[store] for store, names in users.items() for name in names}
    return Outcome(text=text, result=stores)
