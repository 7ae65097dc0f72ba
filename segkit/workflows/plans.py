"""Plans of a dataset: made, kept, and never overwritten where a user changed them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from segkit import options as opt
from segkit.dataset.description import load_description
from segkit.errors import UsageError, UserError, listing, nearest
from segkit.files import read_json
from segkit.interop.nnunet.planning import whole_plan
from segkit.interop.nnunet.plans import is_plans
from segkit.planning.checks import SAFE_NAME
from segkit.planning.fingerprint import Fingerprint, fingerprint_hash, update_fingerprint
from segkit.planning.plan import (
    PLAN_VERSION,
    Plan,
    PlanRequest,
    Side,
    SpacingRule,
    load_plan,
    plan_arguments,
    save_plan,
)
from segkit.planning.planner import PLANNERS, check_gpu_memory, make_plan
from segkit.planning.presets import planner_settings
from segkit.planning.spacing import check_spacing
from segkit.planning.transfer import transfer_plan
from segkit.runtime import log
from segkit.structs import differing_keys, to_mapping
from segkit.workflows.common import (
    OpenDataset,
    named_plan,
    no_plan,
    open_workspace,
    other_source,
    stale_plan,
)
from segkit.workspace import find_dataset

SPACING_RULES = ("median", "isotropic", "original")


def plan_dataset(dataset: OpenDataset, options: opt.Plan) -> Plan:
    """Plan as asked for, and write the plan.

    Raises:
        UserError: options that make no sense, or a plan of that name that was edited by hand.
    """
    request, source = _request(options), _source(options, dataset.description.channel_names)
    name = _checked_name(options, source, dataset.description.name)
    fingerprint = measure(dataset, options.jobs)
    planner = options.planner if source is None else "default"
    made = make_plan(fingerprint, dataset.description, planner=planner, request=request)
    if source is not None:
        moved = transfer_plan(source[1], made, fingerprint, request.intensities)
        made = replace(moved, taken_from=str(source[0])).sealed()
    made = replace(made, name=name)
    for configuration in options.configurations:
        made.configuration(configuration)
    _write(dataset, made, fingerprint, overwrite=options.overwrite)
    return made


def kept_plan(dataset: OpenDataset, options: opt.Run) -> Plan | None:
    """Return the plan that is there, made again as it was made where the data changed since.

    Returns:
        None where there is no plan of that name yet.

    Raises:
        UserError: it was edited by hand, and no longer is of these data; or there is neither a
            plan nor a planner of that name.
    """
    path = dataset.workspace.plan(options.planner)
    if options.planner not in PLANNERS and not path.is_file():
        raise no_plan(path, options.planner, dataset.description)
    if not path.is_file() or _is_of_another_version(path):
        return None
    fingerprint = measure(dataset, options.jobs)
    present = named_plan(path)
    asked = present.request
    if options.min_cases is not None:
        asked = replace(asked, min_cases=options.min_cases)
    other = other_source(present, path, dataset)
    if other is None and asked == present.request:
        log.info("following the plan %s", path)
        return present
    if present.edited or present.taken_from:
        raise stale_plan(present, path, dataset.description, other or "with another --min-cases")
    made = make_plan(fingerprint, dataset.description, planner=present.planner, request=asked)
    made = replace(made, name=present.name)
    _write(dataset, made, fingerprint, overwrite=False)
    return made


def measure(dataset: OpenDataset, jobs: int | None) -> Fingerprint:
    """Bring the fingerprint of a dataset up to date."""
    path = dataset.workspace.fingerprint
    return update_fingerprint(path, dataset.description, dataset.cases, jobs=jobs)


def _write(dataset: OpenDataset, made: Plan, fingerprint: Fingerprint, *, overwrite: bool) -> None:
    path = dataset.workspace.plan(made.name)
    if path.is_file() and not overwrite and not _is_of_another_version(path):
        _check_replaced(named_plan(path), made, path)
    save_plan(path, made, made_from=fingerprint_hash(fingerprint))
    log.info("plan written to %s", path)


def _check_replaced(present: Plan, made: Plan, path: Path) -> None:
    """Refuse to write over edits; say which other settings a plan was made with."""
    before, now = plan_arguments(present), plan_arguments(made)
    if present.edited:
        changed = _changes(present, made)
        what = "this plan was edited by hand"
        if changed:
            what += f"; planning again would change {listing(changed)}"
        fix = (
            "nothing is to be done to use it as it is; --plan-name NAME plans beside it, "
            "--overwrite discards the edits"
        )
        raise UserError(what, where=path, fix=fix)
    if before != now:
        log.warning("replaces the plan made with: segkit plan %s", " ".join(before) or "(defaults)")


def _changes(present: Plan, made: Plan) -> list[str]:
    """Dotted keys of a plan that another one would change."""
    told_apart = {"reasons", "planned", "name"}
    keys = differing_keys(to_mapping(present), to_mapping(made))
    return [key for key in keys if not told_apart & set(key.split("."))]


def _is_of_another_version(path: Path) -> bool:
    content = read_json(path)
    return not isinstance(content, dict) or content.get("format_version") != PLAN_VERSION


def _request(options: opt.Plan) -> PlanRequest:
    check_gpu_memory(options.gpu_memory_gb)
    rule = _spacing_rule(options.spacing)
    resampling: Any = options.resampling
    if rule == "original":
        if resampling != "cubic":
            what = f"--resampling {resampling} has no effect with --spacing original"
            raise UserError(what, fix="leave one of them out")
        resampling = "none"
    return PlanRequest(
        gpu_memory_gb=options.gpu_memory_gb,
        spacing=rule,
        resampling=resampling,
        min_cases=options.min_cases,
        intensities=cast(Side, options.intensities),
    )


def _spacing_rule(given: Any) -> SpacingRule:
    """Read ``--spacing``: a word, or three numbers."""
    values = (given,) if isinstance(given, str) else tuple(given)
    if all(isinstance(value, (int, float)) for value in values):
        return cast(SpacingRule, check_spacing(values))
    if len(values) == 1 and values[0] in SPACING_RULES:
        return cast(SpacingRule, values[0])
    word = next(str(value) for value in values if isinstance(value, str))
    what = f"{' '.join(map(str, values))!r} is no spacing"
    fix = f"give three numbers (z y x, in mm) or one word; {nearest(word, SPACING_RULES)}"
    raise UserError(what, where="--spacing", fix=fix)


def _source(options: opt.Plan, channel_names: tuple[str, ...]) -> tuple[Path, Plan] | None:
    """Find and read the plan that ``--from`` names: its file, and what it says.

    Plans of nnU-Net have no names of their channels, and are given those of the target.

    Raises:
        UserError: there is none, or options are given that only planning follows.
    """
    if options.source is None:
        if options.intensities != "source":
            raise UsageError("--intensities has no effect without --from", fix="leave it out")
        return None
    followed = ("gpu_memory_gb", "spacing", "resampling")
    usual = opt.Plan(dataset=options.dataset)
    if given := [name for name in followed if getattr(options, name) != getattr(usual, name)]:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"with --from they are the source's: {flags}", fix="leave them out")
    path = _source_file(options.source, options)
    if is_plans(read_json(path)):
        return path, whole_plan(path, channel_names, options.configurations)
    plan = load_plan(path)
    return path, plan if path.parent.name != "plans" else replace(plan, name=path.stem)


def _source_file(text: str, options: opt.Plan) -> Path:
    path = Path(text)
    if path.suffix == ".json" and path.name != "dataset.json" and path.is_file():
        return path.resolve()
    if (path / "model.json").is_file():
        return (path / "plan.json").resolve()
    if (path / "plans.json").is_file():  # where nnU-Net trained
        return (path / "plans.json").resolve()
    description = load_description(find_dataset(text, options.raw_folders))
    found = open_workspace(options.workdir, description).plan(options.planner)
    if not found.is_file():
        present = ", ".join(sorted(other.stem for other in found.parent.glob("*.json"))) or "none"
        fix = f"plans of {description.name}: {present}; --planner chooses, segkit plan makes one"
        raise UserError("the source is not planned", where=found, fix=fix)
    return found.resolve()


def _checked_name(options: opt.Plan, source: tuple[Path, Plan] | None, dataset: str) -> str:
    """Name of the new plan: as asked for, the planner's, or after the plan it is taken from.

    Raises:
        UserError: an unknown planner, another planner's name, or one that cannot be a folder's.
    """
    if source is None:
        planner_settings(options.planner)
        planner = usual = options.planner
    else:
        plan = source[1]
        own = plan.dataset == dataset
        planner, usual = plan.planner, plan.name if own else f"{plan.name}_from_{plan.dataset}"
    name = options.plan_name or usual
    if name in PLANNERS and name != planner:
        what = f"{name!r} is the name of another planner than {planner!r}"
        raise UserError(what, where="--plan-name", fix="choose another name")
    if not re.fullmatch(SAFE_NAME, name):
        fix = "use letters, digits, points, hyphens and underscores"
        raise UserError(f"{name!r} cannot name a plan", where="--plan-name", fix=fix)
    return name
