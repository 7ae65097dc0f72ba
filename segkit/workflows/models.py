"""From the models a user names to their networks in memory, ready to predict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from segkit import options as opt
from segkit.checkpoint import checkpoint_hash
from segkit.dataset.description import load_description
from segkit.errors import UsageError, UserError
from segkit.evaluation.postprocessing import RULES_FILE
from segkit.files import content_hash
from segkit.inference.case import CasePredictor
from segkit.inference.engines import (
    AUTO,
    choose_engine,
    find_engine,
    start_engine,
    trial_input,
)
from segkit.inference.engines.forward import EngineFailed
from segkit.inference.engines.openvino import check_int8
from segkit.inference.engines.ranges import NotCalibrated, load_ranges, ranges_file
from segkit.inference.ensemble import EnsemblePredictor
from segkit.inference.ensemble_folder import is_ensemble, load_ensemble
from segkit.inference.model import Model, load_model, load_networks, trained_folds
from segkit.inference.partners import check_partners
from segkit.inference.predictor import PredictionSettings
from segkit.inference.previous import (
    GivenSegmentations,
    Segmentations,
    load_previous,
    previous_folds,
    with_class_channels,
)
from segkit.precision import PrecisionName, choose_precision
from segkit.runtime import log
from segkit.workflows.common import open_workspace
from segkit.workflows.interop import with_imported
from segkit.workflows.postprocess import finish_of
from segkit.workspace import Workspace, find_dataset

Work = CasePredictor | EnsemblePredictor
"""One model or several in memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loading:
    """How models are loaded, whichever they are."""

    device: torch.device
    folds: tuple[str, ...] = ()
    """Folds to average; empty takes all that are trained."""
    checkpoint: str = "final"
    """``final``, ``best`` or ``last``."""
    precision: PrecisionName = "auto"
    engine: str = "torch"
    postprocess: bool = True
    """Take the rules along that a model folder has for what comes out."""
    previous_stage: Path | Segmentations | None = None
    """Where a cascade finds the segmentations it refines; None: the stage that it carries makes
    them."""


def load_models(folders: Mapping[Path, float], loading: Loading) -> Work:
    """Read model folders and bring their networks to the device.

    Args:
        folders: One model, or several that predict together and how much each counts.
        loading: How.

    Raises:
        UserError: no such model, fold or checkpoint, an engine that does not run it, or models
            that do not predict the same from the same channels; a previous stage that is missing,
            or given where there is no cascade.
    """
    try:
        return _load_models(folders, loading)
    except NotCalibrated as error:
        inside = [folder for folder in folders if folder in Path(str(error.where)).parents]
        fix = _how_to_quantize(inside or folders, loading)
        where = error.where or ", ".join(map(str, folders))
        raise UserError(error.what, where=where, fix=fix) from None


def flags_of_weights(loading: Loading) -> str:
    """Say on a command line which folds and checkpoint are meant, where not the usual ones."""
    folds = f" --folds {' '.join(loading.folds)}" if loading.folds else ""
    checkpoint = "" if loading.checkpoint == "final" else f" --checkpoint {loading.checkpoint}"
    return folds + checkpoint


def _how_to_quantize(folders: Iterable[Path], loading: Loading) -> str:
    weights = flags_of_weights(loading)
    commands = [f"segkit quantize -m {folder}{weights} -i IMAGES" for folder in folders]
    return f"{'; '.join(commands)} (some images like those that are to be predicted)"


def _load_models(folders: Mapping[Path, float], loading: Loading) -> Work:
    if any(is_ensemble(folder) for folder in folders):
        return _load_ensemble(folders, loading)
    members = [_load_model(folder, loading) for folder in folders]
    if loading.previous_stage is not None and not any(each.model.is_cascade for each in members):
        what = f"{members[0].model.settings.configuration} has no previous stage"
        fix = "leave it out, or give the model of a cascade"
        raise UserError(what, where="--previous-stage", fix=fix)
    if len(members) == 1:
        return _with_rules(members[0]) if loading.postprocess else members[0]
    if len({member.settings.engine for member in members}) > 1:
        # What an ensemble has predicted is told with one engine; every model runs in torch.
        members = [_load_model(folder, replace(loading, engine="torch")) for folder in folders]
    check_partners([member.model for member in members])
    return EnsemblePredictor(members=members, shares=tuple(folders.values()))


def _load_ensemble(folders: Mapping[Path, float], loading: Loading) -> Work:
    """Load the members of a folder of models, and the rules that belong to them together."""
    folder, *others = folders
    if others:
        what = "a folder of several models predicts alone"
        fix = "give it without other models, or all models one by one"
        raise UsageError(what, where=folder, fix=fix)
    work = _load_models(load_ensemble(folder), replace(loading, postprocess=False))
    if not loading.postprocess:
        return work
    return replace(work, finish=finish_of(folder / RULES_FILE, work.model.description))


def _with_rules(work: CasePredictor) -> CasePredictor:
    model = work.model
    return replace(work, finish=finish_of(model.folder / RULES_FILE, model.description))


def _load_model(folder: Path, loading: Loading) -> CasePredictor:
    model = load_model(folder)
    if not model.is_cascade:
        return _start(model, loading)
    # Before its own networks are loaded, for it may be missing.
    previous = _previous_stage(model, loading)
    work = _start(model, loading)
    channels, schema = len(model.plan.channel_names), model.description.labels
    extend = partial(with_class_channels, channels=channels, schema=schema)
    return replace(work, settings=replace(work.settings, extend=extend), previous=previous)


def _previous_stage(model: Model, loading: Loading) -> CasePredictor | Segmentations:
    """Load what predicts first in a cascade, or find what did."""
    given = loading.previous_stage
    if isinstance(given, Path):
        return GivenSegmentations(folder=given, model=model)
    if given is not None:
        return given
    first = load_previous(model)
    own = loading.folds or trained_folds(model.folder, loading.checkpoint)
    return _start(first, replace(loading, folds=previous_folds(model, own), checkpoint="final"))


def _start(model: Model, loading: Loading) -> CasePredictor:
    """Start a model in the engine asked for, or the fastest that runs it."""
    segkits, outputs = model.network.class_ is None, model.description.labels.num_outputs
    name = choose_engine(loading.engine, loading.device.type, segkits=segkits, outputs=outputs)
    try:
        return _start_in(name, model, loading)
    except EngineFailed as error:
        if loading.engine != AUTO:
            raise
        # Repeated outside, where this exception no longer holds on to the memory.
        log.warning("%s; predicting with torch, which is slower", error.what)
    return _start_in("torch", model, loading)


def _start_in(name: str, model: Model, loading: Loading) -> CasePredictor:
    """Load the weights of a model and start its networks in an engine."""
    checkpoint = loading.checkpoint
    engine = find_engine(name, loading.device.type)
    if engine.quantized:
        check_int8(segkits=model.network.class_ is None)
    precision = choose_precision(loading.precision, loading.device)
    folds = loading.folds or tuple(trained_folds(model.folder, checkpoint))
    networks = load_networks(model, folds, checkpoint=checkpoint, device=loading.device)
    places = {fold: model.folder / f"fold_{fold}" for fold in folds}
    weights = {fold: checkpoint_hash(path / f"{checkpoint}.pt") for fold, path in places.items()}
    ranges = {}
    if engine.quantized:
        files = {fold: ranges_file(path, checkpoint) for fold, path in places.items()}
        ranges = {fold: load_ranges(path, weights[fold]) for fold, path in files.items()}
        # What is predicted depends on both.
        weights = {fold: content_hash([weights[fold], ranges[fold]]) for fold in folds}
    trial = trial_input(model.network, model.input_channels, model.settings.patch_size)
    return CasePredictor(
        model=model,
        forwards=[
            start_engine(
                name, network, trial, precision, ranges.get(fold), model.settings.patch_size
            )
            for fold, network in zip(folds, networks, strict=True)
        ],
        settings=PredictionSettings(precision=loading.precision, engine=name),
        device=loading.device,
        weights=weights,
        checkpoint=checkpoint,
    )


def describe_work(work: Work) -> list[str]:
    """Say in a line a model which folds predict, and in one more how.

    Models that are mirrored along different axes say so each.
    """
    source = work.source
    members = (work,) if isinstance(work, CasePredictor) else work.members
    views = [2 ** len(member.settings.mirror_axes) for member in members]
    alike = len(set(views)) == 1
    lines = [
        f"model {told.model}: {_folds(told.folds)}, {told.checkpoint}.pt"
        + (f", weight {told.share:g}" if len(source.members) > 1 else "")
        + ("" if alike else f", {count} view{'s' * (count > 1)}")
        + _describe_previous(member)
        for told, member, count in zip(source.members, members, views, strict=True)
    ]
    shown = f"{views[0]} mirrored views" if alike else "the mirrored views of each model"
    engine = find_engine(source.engine, "cpu")
    rest = ", all else in " if engine.quantized else " in "
    mirrored = "not mirrored" if max(views) == 1 else f"averaged over {shown}"
    how = f"{source.engine}{rest}{source.precision} on {members[0].device}, step {source.step:g}"
    rules = [] if work.finish is None else [f"post-processing: {work.finish.summary}"]
    return [*lines, f"{how}, {mirrored}", *rules]


def _folds(folds: Iterable[str]) -> str:
    names = list(folds)
    return f"fold{'s' * (len(names) > 1)} {', '.join(names)}"


def _describe_previous(work: CasePredictor) -> str:
    if work.previous is None:
        return ""
    if isinstance(work.previous, CasePredictor):
        first = work.previous
        return f"; refines {first.model.settings.configuration}, {_folds(first.weights)}"
    return "; refines segmentations made before"


def chosen_folders(options: opt.Predict) -> tuple[Path, ...]:
    """Return the model folders that a user named, by path or by data set.

    Raises:
        UserError: neither or both are given, or there is no such model.
    """
    if bool(options.models) == (options.dataset is not None):
        fix = "give model folders with -m, or a dataset with -d and a configuration with -c"
        raise UsageError("give either -m MODEL or -d DATASET -c CONFIG", fix=fix)
    if options.dataset is None:
        return with_imported(options.models, options.configurations, options.workdir)
    description = load_description(find_dataset(options.dataset, options.raw_folders))
    workspace = open_workspace(options.workdir, description)
    if not options.configurations:
        return (_found_best(workspace, options),)
    return tuple(
        model_of(workspace, name, options.planner, options.recipe)
        for name in options.configurations
    )


def _found_best(workspace: Workspace, options: opt.Predict) -> Path:
    """Return what ``find_best`` chose, where nothing is said of the model."""
    chosen = options.recipe is not None or options.planner != "default"
    if chosen or not is_ensemble(workspace.best):
        fix = "add for example -c 3d_fullres, or let segkit find_best choose"
        raise UsageError("-d DATASET needs a configuration", fix=fix)
    log.info("using what find_best chose, %s", workspace.best)
    return workspace.best


def model_of(workspace: Workspace, configuration: str, plan: str, recipe: str | None) -> Path:
    """Return the folder of a model; without a recipe the default one's, else the only other.

    Raises:
        UserError: several, and none of the default recipe.
    """
    if recipe is not None:
        from segkit.config import recipe_name

        return workspace.model(plan, configuration, recipe_name(recipe))
    return _only_model(workspace.model(plan, configuration, "default"))


def _only_model(default: Path) -> Path:
    """Without --recipe: the default recipe's model, else the one other there is."""
    others = [
        path for path in sorted(default.parent.glob(f"{default.name}_*")) if trained_folds(path)
    ]
    if trained_folds(default) or not others:
        return default
    if len(others) > 1:
        recipes = ", ".join(path.name.removeprefix(f"{default.name}_") for path in others)
        raise UserError(
            f"several models: recipes {recipes}", where=default.parent, fix="choose with --recipe"
        )
    log.info("using the model %s", others[0])
    return others[0]
