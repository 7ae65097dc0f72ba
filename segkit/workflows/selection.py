"""Which of the trained models, or which two together, do best on cases they have not seen."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segkit import options as opt
from segkit.checkpoint import checkpoint_hash
from segkit.errors import UserError, listing, nearest
from segkit.evaluation.fitting import explain_trials
from segkit.evaluation.postprocessing import RULES_FILE
from segkit.evaluation.summary import Summary
from segkit.evaluation.table import align, number
from segkit.files import content_hash, write_artifact
from segkit.inference.ensemble import EnsemblePredictor
from segkit.inference.ensemble_folder import ENSEMBLE_FILE, save_ensemble
from segkit.inference.files import ImagesGiven, Writing, predict_cases
from segkit.inference.model import Model, load_model, trained_folds
from segkit.inference.partners import check_partners
from segkit.networks.own import allow_code
from segkit.runtime import log
from segkit.workflows.common import OpenDataset, Outcome, check_replaceable, open_dataset
from segkit.workflows.crossval import (
    CrossValidation,
    TrainedFold,
    cases_of,
    described,
    find_folds,
    fit_rules,
    how_to_train,
    load_fold,
    predict_fold,
    score_folds,
)
from segkit.workflows.evaluation import evaluate_cases
from segkit.workflows.kept import tell_mixture
from segkit.workflows.splits import open_folds

BEST_FILE, BEST_VERSION = "find_best.json", 1
ENSEMBLES = "ensembles"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One model, or two that predict together, with their cross-validation."""

    members: tuple[tuple[TrainedFold, ...], ...]
    """All folds of every member."""
    folds: tuple[TrainedFold, ...]
    """Those whose output holds the predictions that were scored."""
    summary: Summary

    @property
    def name(self) -> str:
        """Names of the model folders."""
        return " + ".join(folds[0].model.folder.name for folds in self.members)

    @property
    def dice(self) -> float:
        """Foreground mean; below all others where it is undefined."""
        mean = self.summary.foreground_mean["dice"]
        return -1.0 if mean is None else mean


def find_best(options: opt.FindBest) -> Outcome[CrossValidation]:
    """Compare models by cross-validation; see :class:`segkit.options.FindBest`.

    Models that cannot be compared, and pairs that cannot predict together, are told and left out.
    """
    if options.output is not None:
        check_replaceable(options.output, ENSEMBLE_FILE, overwrite=True)
    dataset = open_dataset(options)
    with allow_code(*options.allow_code):
        models = _find_models(dataset, options)
        singles = [_judge_model(dataset, folds, options) for folds in models]
        pairs = [] if options.no_ensembles else [*itertools.combinations(singles, 2)]
        together = [_judge_pair(dataset, pair, options) for pair in pairs if _are_partners(pair)]
        candidates = [*singles, *together]
        if len({tuple(each.summary.targets) for each in singles}) > 1:
            log.warning("the models predict different structures; each mean is of its own")
        # The first of equal ones: a model alone before two.
        best = max(candidates, key=lambda candidate: candidate.dice)
        folder, told = _deploy(dataset, best, options)
    scores = {each.name: each.summary.foreground_mean["dice"] for each in candidates}
    content = {"scores": scores, "chosen": best.name, "folder": str(folder)}
    weights = [checkpoint_hash(fold.weights) for folds in models for fold in folds]
    path = dataset.workspace.folder / BEST_FILE
    write_artifact(path, content, version=BEST_VERSION, made_from=content_hash(weights))
    lines = [*_table(candidates, best), "", *told, f"predicts: segkit predict -m {folder}"]
    result = CrossValidation(model=folder, summary=best.summary)
    return Outcome(text="\n".join(lines), result=result)


def _find_models(dataset: OpenDataset, options: opt.FindBest) -> list[tuple[TrainedFold, ...]]:
    """Find the models that have all folds trained; the others are told, with the way out.

    Raises:
        UserError: there is none.
    """
    folds = options.folds or tuple(str(i) for i in range(len(open_folds(dataset).splits)))
    found = []
    folders = sorted((dataset.workspace.folder / "models").glob("*/model.json"))
    _check_names([folder.parent for folder in folders], options)
    for folder in folders:
        try:
            trained = _find_all_folds(dataset, folder.parent, folds, options)
        except UserError as error:
            log.warning("%s is left out\n%s", folder.parent.name, error)
            continue
        found += [trained] if trained else []
    if not found:
        fix = "train all folds first: segkit run, or segkit train --folds all"
        what = f"no model has all of the folds {', '.join(folds)} trained"
        raise UserError(what, where=dataset.workspace.folder / "models", fix=fix)
    return found


def _check_names(folders: Sequence[Path], options: opt.FindBest) -> None:
    """Refuse configurations, plans and recipes that no model has.

    Raises:
        UserError: naming the nearest that one has.
    """
    models = [model for folder in folders if (model := _readable(folder)) is not None]
    kinds = {
        "-c": (options.configurations, [model.settings.configuration for model in models]),
        "--planners": (options.planners, [model.plan.name for model in models]),
        "--recipes": (options.recipes, [model.settings.recipe for model in models]),
    }
    for flag, (asked, known) in kinds.items():
        if models and (unknown := [name for name in asked if name not in known]):
            what = f"no trained model has {listing([repr(name) for name in unknown])}"
            raise UserError(what, where=flag, fix=nearest(unknown[0], set(known)))


def _readable(folder: Path) -> Model | None:
    """Read a model folder; None where it cannot be, which is told later."""
    try:
        return load_model(folder)
    except UserError:
        return None


def _find_all_folds(
    dataset: OpenDataset, folder: Path, folds: Sequence[str], options: opt.FindBest
) -> tuple[TrainedFold, ...]:
    """Find the folds of a model; none where it is not meant, or where some are not trained.

    Raises:
        UserError: a model that cannot be read, or that was trained on other cases or labels.
    """
    model, trained = load_model(folder), trained_folds(folder)
    if not _is_meant(model, options) or not trained:
        return ()
    if missing := [fold for fold in folds if fold not in trained]:
        text = "%s is left out: folds %s are not trained; %s"
        way = how_to_train(dataset, model, missing[0])
        log.warning(text, model.folder.name, listing(missing), way)
        return ()
    tell_mixture(folder, folds)
    return tuple(find_folds(dataset, model, folds))


def _is_meant(model: Model, options: opt.FindBest) -> bool:
    settings = model.settings
    return (
        (not options.configurations or settings.configuration in options.configurations)
        and (not options.planners or model.plan.name in options.planners)
        and (not options.recipes or settings.recipe in options.recipes)
    )


def _judge_model(
    dataset: OpenDataset, folds: tuple[TrainedFold, ...], options: opt.FindBest
) -> Candidate:
    for fold in folds:
        predict_fold(dataset, fold, options.device)
    summary = score_folds(dataset, folds, jobs=options.jobs)
    return Candidate(members=(folds,), folds=folds, summary=summary)


def _are_partners(pair: tuple[Candidate, Candidate]) -> bool:
    """Whether two models can predict together; if not, it is told why."""
    try:
        check_partners([single.folds[0].model for single in pair])
    except UserError as error:
        log.warning("%s are not tried together\n%s", " + ".join(p.name for p in pair), error)
        return False
    return True


def _judge_pair(
    dataset: OpenDataset, pair: tuple[Candidate, Candidate], options: opt.FindBest
) -> Candidate:
    """Predict the cases of every fold by that fold of both models, and score them."""
    members = tuple(single.folds for single in pair)
    name = "+".join(folds[0].model.folder.name for folds in members)
    place = dataset.workspace.folder / ENSEMBLES / name
    folds = []
    for parts in zip(*members, strict=True):
        output = place / f"fold_{parts[0].fold}"
        works = [load_fold(dataset, part, options.device) for part in parts]
        work = EnsemblePredictor(members=works, shares=(1.0,) * len(works))  # type: ignore[arg-type]
        given = ImagesGiven(cases=parts[0].cases)
        predict_cases(work, given, output, Writing(keep_done=True, any_precision=True))
        folds.append(replace(parts[0], predicted_in=output))
    cases = list(cases_of(folds).values())
    description = described(dataset, folds[0].model)
    summary = evaluate_cases(description, cases, place / "crossval", jobs=options.jobs)
    return Candidate(members=members, folds=tuple(folds), summary=summary)


def _deploy(dataset: OpenDataset, best: Candidate, options: opt.FindBest) -> tuple[Path, list[str]]:
    """Gather what predicts best in a folder of its own, with the post-processing that helps it."""
    folder = options.output or dataset.workspace.best
    members = {folds[0].model.folder: 1.0 for folds in best.members}
    save_ensemble(folder, members, tuple(fold.fold for fold in best.folds))
    rules = fit_rules(dataset, best.folds, folder / RULES_FILE, jobs=options.jobs)
    return folder, explain_trials(rules)


def _table(candidates: Sequence[Candidate], best: Candidate) -> list[str]:
    """Lay out the mean of every candidate, and of every target."""
    targets = list(best.summary.targets)
    head = ["", "mean Dice", *targets]
    rows = [head]
    for each in candidates:
        # Models whose plans leave out structures lack them here.
        scores = each.summary.targets
        means = [scores[name]["dice"].mean if name in scores else None for name in targets]
        values = [each.summary.foreground_mean["dice"], *means]
        mark = "* " if each is best else "  "
        rows.append([mark + each.name, *(number(value, "dice") for value in values)])
    return align(rows, "<" * len(head)).splitlines()
