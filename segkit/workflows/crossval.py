"""Cross-validation: trained folds predict the cases they have not seen, whole images at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit import options as opt
from segkit.config import load_recipe
from segkit.dataset.cases import Case
from segkit.dataset.description import DatasetDescription, command
from segkit.dataset.label_files import label_path
from segkit.dataset.splits import Split, split_for_fold
from segkit.errors import UserError, listing
from segkit.evaluation.postprocessing import Postprocessing
from segkit.evaluation.summary import Summary
from segkit.evaluation.table import number, render_table
from segkit.inference.files import ImagesGiven, Writing, predict_cases
from segkit.inference.model import Model, load_model, trained_folds
from segkit.inference.partners import check_traits, label_meanings
from segkit.networks.own import allow_code
from segkit.planning.plan import planned_description
from segkit.runtime import log, prepare_torch, resolve_device
from segkit.training.record import hash_of_cases, read_record
from segkit.training.task import TrainingTask
from segkit.workflows.cascade import open_store, predictions, previous_stage
from segkit.workflows.common import OpenDataset, Outcome, named_plan, open_dataset
from segkit.workflows.evaluation import evaluate_cases, pairs_of
from segkit.workflows.kept import same_as_others, tell_mixture
from segkit.workflows.models import Loading, Work, load_models, model_of
from segkit.workflows.postprocess import fit_and_save
from segkit.workflows.splits import open_folds

CROSSVAL = "crossval"


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """A model, and how its folds did on the cases they were not trained on."""

    model: Path
    """Its folder."""
    summary: Summary | None
    """None where no case was left out: fold all is trained on every one."""


@dataclass(frozen=True, kw_only=True)
class TrainedFold:
    """A fold of a model, with the cases it was not trained on."""

    model: Model
    split: Split
    fold: str
    checkpoint: str
    cases: tuple[Case, ...]
    predicted_in: Path | None = None
    """Where its cases are predicted, if not by it alone."""

    @property
    def weights(self) -> Path:
        """Its checkpoint."""
        return self.model.folder / f"fold_{self.fold}" / f"{self.checkpoint}.pt"

    @property
    def output(self) -> Path:
        """Where the predictions of its cases lie; those of every checkpoint have their folder."""
        if self.predicted_in is not None:
            return self.predicted_in
        return self.model.folder / f"fold_{self.fold}" / f"validation{suffix(self.checkpoint)}"


def suffix(checkpoint: str) -> str:
    """What is added to names of folders where it is not the final checkpoint that is judged."""
    return "" if checkpoint == "final" else f"_{checkpoint}"


def crossval(options: opt.Crossval) -> Outcome[Summary]:
    """Validate trained folds; see :class:`segkit.options.Crossval`."""
    dataset = open_dataset(options)
    folder = model_of(dataset.workspace, options.configuration, options.planner, options.recipe)
    if not (folder / "model.json").is_file():
        raise _untrained(dataset, folder, options)
    with allow_code(*options.allow_code):
        model = load_model(folder)
        folds = find_folds(dataset, model, options.folds, checkpoint=options.checkpoint)
        tell_mixture(folder, [fold.fold for fold in folds])
        for fold in folds:
            predict_fold(dataset, fold, options.device)
    summary = score_folds(dataset, folds, jobs=options.jobs)
    return Outcome(text=describe_scores(folds, summary), result=summary)


def _untrained(dataset: OpenDataset, folder: Path, options: opt.Crossval) -> UserError:
    """Say that there is no such model, and how it is trained; or that it is not even planned."""
    if (plan := dataset.workspace.plan(options.planner)).is_file():
        named_plan(plan).configuration(options.configuration)
    given = [options.configuration, "--folds", "all", "-w", str(options.workdir)]
    given += ["--planner", options.planner] if options.planner != "default" else []
    given += ["--recipe", options.recipe] if options.recipe is not None else []
    what = f"{options.configuration} is not trained yet"
    if others := sorted(path.parent.name for path in folder.parent.glob("*/model.json")):
        what += f"; models there: {listing(others)}"
    return UserError(what, where=folder, fix=command("train", dataset.description, *given))


def find_folds(
    dataset: OpenDataset, model: Model, folds: Sequence[str] = (), *, checkpoint: str = "final"
) -> list[TrainedFold]:
    """Find trained folds and the cases that each has not seen.

    Args:
        dataset: The data set.
        model: Of it.
        folds: Which; empty takes all that have the checkpoint.
        checkpoint: ``final``, ``best`` or ``last``.

    Raises:
        UserError: a fold that is not trained, was trained on other cases than today's splits say,
            or has seen all cases; a model of other labels.
    """
    ours = {"labels": label_meanings(described(dataset, model).labels)}
    theirs = {"labels": label_meanings(model.description.labels)}
    check_traits(theirs, ours, where=f"{model.folder} and {dataset.description.file}")
    there = trained_folds(model.folder, checkpoint)
    chosen = list(folds) or [fold for fold in there if fold != "all"]
    if not chosen:
        what = f"no fold has {checkpoint}.pt" + (", but fold all" if there else "")
        fix = "fold all has seen every case; train folds 0, 1, ... to cross-validate"
        raise UserError(what, where=model.folder, fix=fix if there else "train a fold first")
    return [_open_fold(dataset, model, fold, checkpoint) for fold in chosen]


def _open_fold(dataset: OpenDataset, model: Model, fold: str, checkpoint: str) -> TrainedFold:
    folder = model.folder / f"fold_{fold}"
    if fold == "all":
        fix = "cross-validate the folds 0, 1, ...; each is trained without the cases it predicts"
        raise UserError("fold all has seen every case", where=folder, fix=fix)
    if not (folder / f"{checkpoint}.pt").is_file():
        fix = f"train it first: {how_to_train(dataset, model, fold)}"
        raise UserError(f"fold {fold} has no {checkpoint}.pt", where=folder, fix=fix)
    split = split_for_fold(open_folds(dataset), int(fold), dataset.case_ids)
    record = read_record(folder) if (folder / "recipe.json").is_file() else None
    trained_on = None if record is None else record.trained_on
    if trained_on not in (None, hash_of_cases(split.train)):
        what = f"fold {fold} was trained on other cases than today's splits give it"
        fix = f"train it again: {how_to_train(dataset, model, fold, '--overwrite')}"
        raise UserError(what, where=folder, fix=fix)
    cases = tuple(case for case in dataset.cases if case.id in set(split.val))
    return TrainedFold(model=model, split=split, fold=fold, checkpoint=checkpoint, cases=cases)


def how_to_train(dataset: OpenDataset, model: Model, fold: str, *more: str) -> str:
    """Write the command that trains a fold of a model, as its other folds were trained."""
    settings = model.settings
    given = [settings.configuration, "--fold", fold, *more]
    given += ["--planner", model.plan.name] if model.plan.name != "default" else []
    given += ["-w", str(dataset.workspace.folder.parent)]
    there = sorted(path.parent.name for path in model.folder.glob("fold_*/*.pt"))
    folds = dict.fromkeys(name.removeprefix("fold_") for name in there)
    others = sorted(folds, key=lambda other: other == fold)
    same = same_as_others(model.folder, settings.recipe, others)
    return command("train", dataset.description, *given, *same)


def described(dataset: OpenDataset, model: Model) -> DatasetDescription:
    """Return the data set as a model predicts it: without what its plan leaves out."""
    return planned_description(dataset.description, model.plan)


def load_fold(dataset: OpenDataset, fold: TrainedFold, device: str) -> Work:
    """Bring the network of a fold to a device, as it predicts what it has not seen.

    A cascade refines what folds of its previous stage say that have not seen the cases either.
    Post-processing is left out: it is fitted on these predictions.
    """
    task = _as_task(dataset, fold)
    before = previous_stage(task, fold.model.folder, open_folds(dataset).splits)
    found = None
    if before is not None:
        found = predictions(before, dataset, task, open_store(dataset, task), device)
    loading = Loading(
        device=resolve_device(device),
        folds=(fold.fold,),
        checkpoint=fold.checkpoint,
        precision=task.recipe.precision,
        postprocess=False,
        previous_stage=found,
    )
    prepare_torch()
    return load_models({fold.model.folder: 1.0}, loading).with_settings(0.5, mirror=True)


def _as_task(dataset: OpenDataset, fold: TrainedFold) -> TrainingTask:
    """Return the task a fold was trained by, as far as it matters to predict."""
    model, folder = fold.model, fold.model.folder / f"fold_{fold.fold}"
    known = (folder / "recipe.json").is_file()
    return TrainingTask(
        plan=model.plan,
        configuration=model.settings.configuration,
        schema=model.description.labels,
        split=fold.split,
        fold=int(fold.fold),
        recipe=read_record(folder).requested if known else load_recipe("default"),
    )


def predict_fold(dataset: OpenDataset, fold: TrainedFold, device: str) -> None:
    """Predict the cases of a fold; what its weights have predicted before is kept.

    Raises:
        UserError: cases that failed, after the others are done.
    """
    given = ImagesGiven(cases=fold.cases)
    writing = Writing(keep_done=True, any_precision=True)
    predict_cases(load_fold(dataset, fold, device), given, fold.output, writing)


def is_predicted(fold: TrainedFold) -> bool:
    """Whether the label maps of all cases of a fold are there."""
    description, layout = fold.model.description, fold.model.settings.label_layout
    ending = description.label_ending
    return all(label_path(fold.output, case.id, ending, layout).exists() for case in fold.cases)


def score_fold(dataset: OpenDataset, fold: TrainedFold, *, jobs: int | None) -> Summary:
    """Score the predictions of one fold; the report lies beside them."""
    pairs = [(case, fold.output) for case in fold.cases]
    return evaluate_cases(described(dataset, fold.model), pairs, fold.output, jobs=jobs)


def score_folds(dataset: OpenDataset, folds: Sequence[TrainedFold], *, jobs: int | None) -> Summary:
    """Score the predictions of all folds together, and of each; the reports lie in the model."""
    for fold in folds:
        summary = score_fold(dataset, fold, jobs=jobs)
        mean = number(summary.foreground_mean["dice"], "dice")
        log.info("fold %s: mean Dice %s over %d cases", fold.fold, mean, len(fold.cases))
    model, pairs = folds[0].model, list(cases_of(folds).values())
    output = model.folder / f"{CROSSVAL}{suffix(folds[0].checkpoint)}"
    return evaluate_cases(described(dataset, model), pairs, output, jobs=jobs)


def fit_rules(
    dataset: OpenDataset, folds: Sequence[TrainedFold], path: Path, *, jobs: int | None
) -> Postprocessing:
    """Find post-processing rules on the predictions of folds, and write them to ``path``."""
    description = described(dataset, folds[0].model)
    pairs = pairs_of(list(cases_of(folds).values()), description)
    fold_of = {case.id: fold.fold for fold in folds for case in fold.cases}
    return fit_and_save(pairs, description, path, folds=fold_of, jobs=jobs)


def cases_of(folds: Sequence[TrainedFold]) -> dict[str, tuple[Case, Path]]:
    """Return case id -> case and the folder that it is predicted in; each counts once."""
    found: dict[str, tuple[Case, Path]] = {}
    doubled = []
    for fold in folds:
        doubled += [case.id for case in fold.cases if case.id in found]
        found = {**{case.id: (case, fold.output) for case in fold.cases}, **found}
    if doubled:
        text = "%d cases are left out by several folds; the first counts: %s"
        log.warning(text, len(doubled), listing(doubled))
    return found


def describe_scores(folds: Sequence[TrainedFold], summary: Summary) -> str:
    """Lay out the scores of all folds under a line that says what they are of."""
    names = ", ".join(fold.fold for fold in folds)
    of = f"{folds[0].model.folder.name}, {folds[0].checkpoint}.pt of fold"
    title = f"{of}{'s' * (len(folds) > 1)} {names}: {len(summary.cases)} cases"
    return f"{title}, each predicted by a fold that has not seen it\n{render_table(summary)}"
