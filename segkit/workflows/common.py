"""What the commands share: opening a dataset, reading its plan, saying how it went."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from segkit import options as opt
from segkit.dataset.cases import Case, training_cases
from segkit.dataset.description import DatasetDescription, command, load_description
from segkit.dataset.split_files import given_splits
from segkit.errors import UserError, nearest
from segkit.planning.fingerprint import description_hash, fingerprint_hash, load_fingerprint
from segkit.planning.plan import (
    Plan,
    load_plan,
    plan_arguments,
    plan_source,
    planned_description,
)
from segkit.planning.presets import PLANNERS
from segkit.workspace import Workspace, find_dataset

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[R]):
    """What a command has to say on stdout, and whether all is well (else exit code 1)."""

    text: str = ""
    ok: bool = True
    result: R | None = None
    """What it made, for the Python API."""


@dataclass(frozen=True, kw_only=True)
class OpenDataset:
    """A raw dataset and the workspace made from it."""

    description: DatasetDescription
    cases: tuple[Case, ...]
    workspace: Workspace

    @property
    def case_ids(self) -> tuple[str, ...]:
        """Ids of the training cases, sorted."""
        return tuple(case.id for case in self.cases)

    @property
    def given_splits(self) -> Path:
        """Where a user of nnU-Net puts splits made by hand."""
        return given_splits(self.description)


def open_dataset(options: opt.Dataset) -> OpenDataset:
    """Find a dataset, read its description and list its training cases.

    Raises:
        UserError: no such dataset, or its dataset.json or case files are at fault.
    """
    description = load_description(find_dataset(options.dataset, options.raw_folders))
    return OpenDataset(
        description=description,
        cases=training_cases(description),
        workspace=open_workspace(options.workdir, description),
    )


def open_planned(options: opt.Preprocess | opt.TrainingChoice) -> tuple[OpenDataset, Plan]:
    """Open a dataset as its plan wants it trained; see :func:`open_dataset`, :func:`read_plan`."""
    dataset = open_dataset(options)
    plan = read_plan(dataset, options.planner)
    return as_planned(dataset, plan), plan


def as_planned(dataset: OpenDataset, plan: Plan) -> OpenDataset:
    """Leave out the structures that the plan leaves out."""
    return replace(dataset, description=planned_description(dataset.description, plan))


def read_description(path: Path) -> DatasetDescription:
    """Read a dataset.json; beside a plan (a model folder), without what the plan leaves out."""
    description = load_description(path)
    plan = description.folder / "plan.json"
    return planned_description(description, load_plan(plan)) if plan.is_file() else description


def open_workspace(workdir: Path, description: DatasetDescription) -> Workspace:
    """Return the workspace of a dataset."""
    return Workspace(folder=workdir / description.name)


def read_plan(dataset: OpenDataset, planner: str) -> Plan:
    """Read the plan of that name (its planner's, unless it was given another).

    Raises:
        UserError: it is not planned yet, or planned from other cases, labels or channels, or from
            what the cases were before.
    """
    path, description = dataset.workspace.plan(planner), dataset.description
    if not path.is_file():
        raise no_plan(path, planner, description)
    plan = named_plan(path)
    if other := other_source(plan, path, dataset):
        raise stale_plan(plan, path, description, other)
    return plan


def named_plan(path: Path) -> Plan:
    """Read ``plans/NAME.json``: the file's name is the plan's, also where it was copied by hand."""
    return replace(load_plan(path), name=path.stem)


def stale_plan(plan: Plan, path: Path, description: DatasetDescription, other: str) -> UserError:
    """Say that a plan was made from (or with) something else, and how to bring it up to date."""
    again = command("plan", description, *plan_arguments(plan))
    what, fix = f"the plan was made {other}", f"run again, with the same --workdir: {again}"
    if plan.edited or plan.taken_from:
        why = f"is taken from {plan.taken_from}" if plan.taken_from else "was edited by hand"
        what += f"; it {why}, and is not made again by itself"
        name = ("--plan-name", plan.name)
        keep = command("plan", description, "--from", str(path), *name, "--overwrite")
        fix = f"keep its numbers for these data: {keep}; or plan anew: {again} --overwrite"
    return UserError(what, where=path, fix=fix)


def no_plan(path: Path, name: str, description: DatasetDescription) -> UserError:
    """Say that there is no plan of that name, and what there is."""
    present = [other.stem for other in path.parent.glob("*.json")]
    if name not in PLANNERS:
        make = command("plan", description, "--plan-name", name)
        fix = f"{nearest(name, {*PLANNERS, *present})} (or make it: {make})"
        return UserError(f"there is no plan {name!r}", where=path.parent, fix=fix)
    chosen = () if name == "default" else ("--planner", name)
    again = command("plan_and_preprocess", description, *chosen)
    fix = f"run with the same --workdir: {again}"
    return UserError("this dataset is not planned yet", where=path, fix=fix)


def other_source(plan: Plan, path: Path, dataset: OpenDataset) -> str | None:
    """Say what else a plan was made from; None where it is what the fingerprint measured now."""
    fingerprint = load_fingerprint(dataset.workspace.fingerprint)
    if tuple(sorted(case.case for case in fingerprint.cases)) != dataset.case_ids:
        return "from other training cases"
    if plan.channel_names != dataset.description.channel_names:
        return "for other channel names"
    if fingerprint.description != description_hash(dataset.description):
        return "for other labels (or reader, or unannotated structures)"
    if plan_source(path) != fingerprint_hash(fingerprint):
        return "from other files; they were measured again since"
    return None


def check_replaceable(output: Path, sign: str, *, overwrite: bool) -> None:
    """Refuse to replace anything but a model, and that only when asked.

    Args:
        output: The folder that is to be written.
        sign: A file by which a model of this kind is known.
        overwrite: Whether it may be replaced.

    Raises:
        UserError: something else lies there, or a model that must not be replaced.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / sign).is_file():
        what = f"the output exists and is no such model (no {sign})"
        raise UserError(what, where=output, fix="choose another -o")
    if not overwrite:
        fix = "choose another -o, or --overwrite"
        raise UserError("there is a model in the output folder", where=output, fix=fix)


def same_training(options: opt.TrainingChoice) -> list[str]:
    """Return the options by which another command trains in the same way, as a user types them."""
    same = ["-w", str(options.workdir), "--recipe", options.recipe]
    same += ["--planner", options.planner] if options.planner != "default" else []
    return [*same, *(["--set", *options.all_settings] if options.all_settings else [])]


def as_json(content: object) -> str:
    """Format a result for machines."""
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
