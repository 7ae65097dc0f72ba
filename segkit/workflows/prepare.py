"""The commands before training: plan, preprocess."""

from __future__ import annotations

from segkit import options as opt
from segkit.dataset.splits import load_or_make_splits
from segkit.planning.fingerprint import fingerprint_hash, update_fingerprint
from segkit.planning.plan import Plan, save_plan
from segkit.planning.planner import explain, make_plan
from segkit.preprocessing.dataset import preprocess_dataset
from segkit.runtime import log
from segkit.workflows.common import (
    OpenDataset,
    Outcome,
    as_planned,
    open_dataset,
    open_planned,
)


def plan(options: opt.Plan) -> Outcome:
    """Plan a dataset; see :class:`segkit.options.Plan`."""
    return Outcome(text="\n".join(explain(_plan(open_dataset(options), options))))


def preprocess(options: opt.Preprocess) -> Outcome:
    """Preprocess a dataset; see :class:`segkit.options.Preprocess`."""
    return Outcome(text=_preprocess(*open_planned(options), options))


def plan_and_preprocess(options: opt.PlanAndPreprocess) -> Outcome:
    """Plan, then preprocess."""
    dataset = open_dataset(options)
    made = _plan(dataset, options)
    done = _preprocess(as_planned(dataset, made), made, options)
    return Outcome(text="\n".join([*explain(made), done]))


def _plan(dataset: OpenDataset, options: opt.Plan) -> Plan:
    workspace = dataset.workspace
    fingerprint = update_fingerprint(
        workspace.fingerprint, dataset.description, dataset.cases, jobs=options.jobs
    )
    made = make_plan(
        fingerprint,
        dataset.description,
        planner=options.planner,
        gpu_memory_gb=options.gpu_memory_gb,
        spacing_mm=options.spacing,
        min_cases=options.min_cases,
    )
    for name in options.configurations:
        made.configuration(name)
    path = workspace.plan(options.planner)
    save_plan(path, made, made_from=fingerprint_hash(fingerprint))
    load_or_make_splits(workspace.splits, dataset.given_splits, dataset.case_ids)
    log.info("plan written to %s", path)
    return made


def _preprocess(dataset: OpenDataset, made: Plan, options: opt.Preprocess | opt.Plan) -> str:
    users: dict[str, list[str]] = {}
    for name in options.configurations or made.configurations:
        users.setdefault(made.stored_as(name), []).append(name)
    folders = {name: dataset.workspace.preprocessed(options.planner, name) for name in users}
    redone = preprocess_dataset(
        dataset.description, dataset.cases, made, folders, jobs=options.jobs
    )
    cases = len(dataset.cases)
    return "\n".join(
        f"{', '.join(users[name])}: {count} case(s) preprocessed, {cases - count} unchanged, "
        f"in {folders[name]}"
        for name, count in redone.items()
    )
