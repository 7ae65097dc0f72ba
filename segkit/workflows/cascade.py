"""The stages of a cascade: whose predictions the second one learns from, and making them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segkit import options as opt
from segkit.checkpoint import checkpoint_hash
from segkit.dataset.cases import Case
from segkit.dataset.description import command
from segkit.dataset.splits import Split
from segkit.errors import UserError, listing
from segkit.files import content_hash
from segkit.inference.bundle import bundle_previous
from segkit.inference.case import CasePredictor
from segkit.inference.model import PREVIOUS_STAGE, Model, load_model
from segkit.inference.next_stage import predict_for_next
from segkit.inference.previous import check_stages
from segkit.preprocessing.dataset import open_fresh
from segkit.preprocessing.pipeline import CaseRecord
from segkit.preprocessing.stage_store import StageStore
from segkit.preprocessing.store import PreprocessedStore
from segkit.runtime import log, prepare_torch, resolve_device
from segkit.training.task import TrainingTask
from segkit.workflows.common import OpenDataset, same_training
from segkit.workflows.models import Loading, load_models


@dataclass(frozen=True, kw_only=True)
class PreviousStage:
    """What comes before a fold of a cascade."""

    name: str
    """Of its configuration."""
    cascade: Path
    """Model folder of the cascade."""
    cases: Mapping[str, Sequence[str]]
    """Fold of the previous stage -> the cases it predicts, none of which it has seen."""

    @property
    def carried(self) -> Path:
        """Its model folder inside that of the cascade."""
        return self.cascade / PREVIOUS_STAGE

    def untrained(self, model: Path) -> list[str]:
        """Folds that are needed and not trained to the end in a model folder."""
        return [fold for fold in self.cases if not (model / f"fold_{fold}" / "final.pt").is_file()]


def previous_stage(
    task: TrainingTask, cascade: Path, splits: Sequence[Split]
) -> PreviousStage | None:
    """Say what comes before a fold; None where it is no cascade's.

    Raises:
        UserError: a case that every fold was trained on.
    """
    name = task.plan.previous_stage(task.configuration)
    if name is None:
        return None
    return PreviousStage(name=name, cascade=cascade, cases=_deal_cases(task, splits))


def _deal_cases(task: TrainingTask, splits: Sequence[Split]) -> dict[str, list[str]]:
    """Give every case to a fold that did not see it; all to ``all`` where that is trained."""
    cases = sorted({*task.split.train, *task.split.val})
    if task.fold == "all":
        return {"all": cases}
    leaving_out: dict[str, str] = {}
    for i, split in enumerate(splits):
        leaving_out = {**dict.fromkeys(split.val, str(i)), **leaving_out}
    if never := [case for case in cases if case not in leaving_out]:
        what = f"no fold leaves out {listing(never)}: every previous stage has seen what it would "
        what += "have to predict for the cascade to learn from"
        fix = "give splits in which every case is validated, or train both stages with --fold all"
        raise UserError(what, where="splits", fix=fix)
    folds = sorted(set(leaving_out.values()), key=int)
    dealt = {fold: [case for case in cases if leaving_out[case] == fold] for fold in folds}
    return {fold: cases for fold, cases in dealt.items() if cases}


def find_source(
    before: PreviousStage, dataset: OpenDataset, task: TrainingTask, options: opt.TrainingChoice
) -> Path:
    """Find the trained model of the previous stage.

    It is the one the user names, else the model of the same recipe; where that is gone, what the
    cascade carries already.

    Raises:
        UserError: folds that are not trained, or a model that does not fit.
    """
    usual = dataset.workspace.model(task.plan.name, before.name, task.recipe.name)
    source = options.previous_model or usual
    gone = options.previous_model is None and not source.exists()
    if gone and not before.untrained(before.carried):
        log.info("%s is gone; going on with %s", source, before.carried)
        source = before.carried
    if missing := before.untrained(source):
        raise UserError(
            f"{task.configuration} learns from predictions of {before.name}, {_state(missing)}",
            where=source,
            fix=_how_to_train(before, dataset, task, options, missing),
        )
    check_stages(load_model(source), task.plan, task.schema)
    return source


def _state(missing: Sequence[str]) -> str:
    if len(missing) == 1:
        return f"whose fold {missing[0]} is not trained"
    return f"whose folds {', '.join(missing)} are not trained"


def _how_to_train(
    before: PreviousStage,
    dataset: OpenDataset,
    task: TrainingTask,
    options: opt.TrainingChoice,
    missing: Sequence[str],
) -> str:
    """Write the commands that train what is missing, with the options the user gave."""
    same = same_training(options)
    folds = ("--fold", "all") if task.fold == "all" else ()
    one = command("train", dataset.description, before.name, "--fold", missing[0], *same)
    likewise = f" (and --fold {', '.join(missing[1:])})" if missing[1:] else ""
    everything = command("run", dataset.description, "-c", task.configuration, *folds, *same)
    return f"{one}{likewise}; or all at once: {everything}"


def carry(before: PreviousStage, source: Path, *, replaced: Collection[str]) -> None:
    """Make the model folder of the cascade carry the previous stage its folds learn from.

    Args:
        before: The previous stage.
        source: Its model folder.
        replaced: Folds of the cascade that are trained anew.

    Raises:
        UserError: other folds learned from another previous stage.
    """
    if source != before.carried:
        folders = [f"fold_{fold}" for fold in replaced]
        bundle_previous(before.cascade, source, list(before.cases), replaced=folders)


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What the previous stage predicts of training cases, in place of its networks."""

    store: StageStore
    made_from: Mapping[str, str]
    """Case -> hash of what it was predicted from."""

    def labels(self, case_id: str) -> np.ndarray:
        """Return label maps (1 or S, Z, Y, X) on the grid of the preprocessed case."""
        return self.store.labels(case_id)

    def save(self, case_id: str, labels: np.ndarray) -> None:
        """Keep a prediction."""
        self.store.save(case_id, labels, made_from=self.made_from[case_id])

    def find(self, case: Case | None, record: CaseRecord) -> np.ndarray:
        """Return the same for a case that is read again, whose grid is as it was."""
        assert case is not None
        labels = self.labels(case.id)
        assert labels.shape[1:] == record.shape_resampled, (case.id, labels.shape)
        return labels

    def hash(self) -> str:
        """Equal where all predictions are the same."""
        return content_hash(self.made_from)


def predictions(
    before: PreviousStage,
    dataset: OpenDataset,
    task: TrainingTask,
    store: PreprocessedStore,
    device: str,
) -> Predictions:
    """Open what the previous stage that the cascade carries predicts; make what is not there.

    Args:
        before: The previous stage.
        dataset: The data set.
        task: To train the cascade.
        store: Preprocessed cases of the cascade.
        device: Where to predict.

    Raises:
        UserError: cases that cannot be predicted.
    """
    carried = load_model(before.carried)
    made_from = {
        case: _made_from(carried, fold, store, case)
        for fold, cases in before.cases.items()
        for case in cases
    }
    folder = _folder(store, carried, dataset, all_cases=task.fold == "all")
    found = Predictions(store=StageStore(folder), made_from=made_from)
    found.store.keep_only(dataset.case_ids)
    by_id = {case.id: case for case in dataset.cases}
    for fold, cases in before.cases.items():
        stale = [by_id[c] for c in cases if not found.store.is_made_from(c, made_from[c])]
        if not stale:
            continue
        unseen = "" if fold == "all" else "it has not seen "
        text = "%s, fold %s, predicts the %d case(s) %sfor %s to learn from"
        log.info(text, before.name, fold, len(stale), unseen, task.configuration)
        loading = Loading(
            device=resolve_device(device), folds=(fold,), precision=task.recipe.precision
        )
        prepare_torch()
        work = load_models({before.carried: 1.0}, loading).with_settings(0.5, mirror=True)
        assert isinstance(work, CasePredictor)
        predict_for_next(work, stale, store.record, found.save)
    return found


def _folder(
    store: PreprocessedStore, carried: Model, dataset: OpenDataset, *, all_cases: bool
) -> Path:
    settings, plan = carried.settings, carried.plan.name
    model = dataset.workspace.model(plan, settings.configuration, settings.recipe)
    return store.folder / PREVIOUS_STAGE / model.name / ("all" if all_cases else "crossval")


def _made_from(model: Model, fold: str, store: PreprocessedStore, case_id: str) -> str:
    """Hash what a prediction depends on: weights, plan, image and the grid it is brought to."""
    weights = checkpoint_hash(model.folder / f"fold_{fold}" / "final.pt")
    settings, source = model.settings, store.source(case_id)
    assert source is not None, case_id
    how = [model.made_from, settings.configuration, settings.patch_size, settings.mirror_axes]
    return content_hash([weights, how, source.settings, source.identity])


def open_store(dataset: OpenDataset, task: TrainingTask) -> PreprocessedStore:
    """Open the preprocessed cases of a task.

    Raises:
        UserError: some are missing or stale.
    """
    stored = task.plan.stored_as(task.configuration)
    folder = dataset.workspace.preprocessed(task.plan.name, stored)
    return open_fresh(folder, dataset.description, dataset.cases, task.plan, task.configuration)
