"""Folds that are trained already: whether they are what is asked for, and alike."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segkit import options as opt
from segkit.config import apply_settings, as_setting, load_recipe, recipe_values
from segkit.errors import UserError, listing
from segkit.inference.model import PREVIOUS_STAGE
from segkit.runtime import log
from segkit.training.record import RunRecord, hash_of_cases, read_record
from segkit.training.task import TrainingTask

_NO_OTHER_MODEL = {
    *("compile", "deterministic", "precision", "final_validation"),
    *("schedule.checkpoint_every_minutes", "network.checkpointing"),
}
"""How a fold is computed and what is done besides: values that make no other model of it."""
PRETRAINED = "--pretrained"


def recorded(model: Path, fold: str) -> RunRecord | None:
    """Return what is known of how a fold is trained; None where it was not recorded."""
    folder = model / f"fold_{fold}"
    return read_record(folder) if (folder / "recipe.json").is_file() else None


def check_kept(model: Path, tasks: Sequence[TrainingTask], options: opt.TrainingChoice) -> None:
    """Refuse to take folds that are trained or begun for what is asked for, where they are not.

    Args:
        model: The model folder.
        tasks: A fold each.
        options: Of the command.

    Raises:
        UserError: naming the values that differ.
    """
    found: dict[str, list[str]] = {}
    begun_with: dict[str, Any] = {}
    for task in tasks:
        fold = str(task.fold)
        record = recorded(model, fold)
        if record is None or not any((model / f"fold_{fold}").glob("*.pt")):
            continue
        if record.trained_on not in (None, hash_of_cases(task.split.train)):
            what = f"fold {fold} was trained on other cases than today's splits give it"
            fix = "--overwrite trains it anew"
            raise UserError(what, where=model / f"fold_{fold}", fix=fix)
        asked, begun = recipe_values(task.recipe), _as_it_ends(model, fold, record, options)
        cascade = task.plan.previous_stage(task.configuration) is not None
        keys = [key for key in _differing([asked, begun]) if _matters(key, cascade=cascade)]
        told = [f"{as_setting(key, begun[key])} (now {_shown(asked[key])})" for key in keys]
        if (before := _pretrained(record)) != _named(options.pretrained):
            told.append(f"without {PRETRAINED}" if before is None else f"{PRETRAINED} {before}")
        if told:
            found.setdefault(", ".join(told), []).append(fold)
            begun_with |= {key: begun[key] for key in keys}
    if found:
        raise _not_as_asked(model, found, begun_with)


def _not_as_asked(
    model: Path, found: Mapping[str, Sequence[str]], begun_with: Mapping[str, Any]
) -> UserError:
    lines = [f"{_folds(folds)}: {values}" for values, folds in found.items()]
    what = f"folds of {model.name} were trained with other values: {'; '.join(lines)}"
    fix = "--overwrite trains them anew; "
    if begun_with:
        settings = shlex.join([as_setting(key, value) for key, value in begun_with.items()])
        # Of folds that differ among themselves no command keeps all.
        only_values = len(found) == 1 and PRETRAINED not in next(iter(found))
        fix += f"--set {settings} keeps them; " if only_values else ""
        fix += "values in a recipe file of your own (--recipe mine.yaml, or default+mine.yaml) "
        return UserError(what, where=model, fix=f"{fix}make a model beside this one")
    return UserError(what, where=model, fix=f"{fix}or train under another recipe name")


def _pretrained(record: RunRecord) -> str | None:
    return None if record.pretrained is None else _named(Path(record.pretrained.path))


def _named(model: Path | None) -> str | None:
    """Return the model folder of weights to begin with, of which a fold or checkpoint is given."""
    if model is None:
        return None
    path = model.resolve()
    path = path.parent if path.suffix == ".pt" else path
    return str(path.parent if path.name.startswith("fold_") else path)


def _as_it_ends(
    model: Path, fold: str, record: RunRecord, options: opt.TrainingChoice
) -> dict[str, Any]:
    """Return the values a fold was trained with, or will have been when it has gone on."""
    recipe = record.requested
    if not (model / f"fold_{fold}" / "final.pt").is_file():
        # Of what --set says only the schedule may change when a run goes on.
        with contextlib.suppress(UserError):
            schedule = apply_settings(recipe, options.all_settings).schedule
            recipe = replace(recipe, schedule=schedule)
    return recipe_values(recipe)


def _matters(key: str, *, cascade: bool) -> bool:
    """Whether another value makes another model; of ``cascade.*`` only where it is one."""
    return key not in _NO_OTHER_MODEL and (cascade or not key.startswith("cascade."))


def _differing(several: Sequence[Mapping[str, Any]]) -> list[str]:
    return [key for key in several[0] if any(one[key] != several[0][key] for one in several)]


def tell_mixture(model: Path, folds: Sequence[str]) -> None:
    """Warn where folds that are judged or averaged as one model were not trained alike."""
    records = {fold: recorded(model, fold) for fold in folds}
    known = {fold: record for fold, record in records.items() if record is not None}
    cascade = (model / PREVIOUS_STAGE).is_dir()
    values = {fold: _values_that_matter(record, cascade=cascade) for fold, record in known.items()}
    if not values or not (keys := _differing([*values.values()])):
        return
    text = "%s: its folds were not trained alike, but count as one model: %s"
    log.warning(text, model.name, "; ".join(_variants(key, values) for key in keys))


def _values_that_matter(record: RunRecord, *, cascade: bool) -> dict[str, Any]:
    values = recipe_values(record.requested)
    kept = {key: value for key, value in values.items() if _matters(key, cascade=cascade)}
    budget = record.budget_seconds
    kept["--time-budget"] = "none" if budget is None else f"{budget:g}s"
    return {**kept, PRETRAINED: _pretrained(record) or "none"}


def _variants(key: str, values: Mapping[str, Mapping[str, Any]]) -> str:
    """Say which folds have which value of a key."""
    folds: dict[str, list[str]] = {}
    for fold, of_fold in values.items():
        folds.setdefault(_shown(of_fold[key]), []).append(fold)
    variants = (f"{value} in {_folds(names)}" for value, names in folds.items())
    return f"{key} {', '.join(variants)}"


def _shown(value: Any) -> str:
    return as_setting("", value)[1:]


def _folds(names: Collection[str]) -> str:
    return f"fold{'s' * (len(names) > 1)} {listing([*names])}"


def same_as_others(model: Path, recipe: str, folds: Iterable[str]) -> list[str]:
    """Return the options by which a further fold is trained as others of a model were.

    Args:
        model: The model folder.
        recipe: Name of its recipe, which may be that of a file.
        folds: The others; the first whose record is there says how.
    """
    record = next(filter(None, (recorded(model, fold) for fold in folds)), None)
    if record is None:
        return _recipe_option(recipe)
    try:
        recipe = record.recipe or recipe
        usual = recipe_values(load_recipe(recipe))
    except UserError:  # a file that is gone, or whose place is not known
        return _recipe_option(recipe)
    values = recipe_values(record.requested)
    settings = [as_setting(key, values[key]) for key in _differing([values, usual])]
    options = _recipe_option(recipe)
    if record.budget_seconds is not None:
        options += ["--time-budget", f"{record.budget_seconds:g}s"]
    if record.pretrained is not None:
        options += [PRETRAINED, record.pretrained.path]
    return [*options, *(["--set", *settings] if settings else [])]


def _recipe_option(recipe: str) -> list[str]:
    return ["--recipe", recipe] if recipe != "default" else []
