"""Predicting images."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from segkit import options as opt
from segkit.dataset.cases import Case, images_to_predict
from segkit.dataset.description import load_description
from segkit.dataset.image_io import KNOWN_ENDINGS
from segkit.dataset.label_files import LabelLayout, label_path
from segkit.errors import UsageError, UserError
from segkit.inference.case import CasePredictor, Prediction
from segkit.inference.engines import start_engine, trial_input
from segkit.inference.model import load_model, load_networks, trained_folds
from segkit.inference.predictor import PredictionSettings
from segkit.inference.stages import Stages, overlapped
from segkit.parallel import gather
from segkit.precision import choose_precision
from segkit.runtime import log, prepare_torch, resolve_device
from segkit.workflows.common import Outcome, open_workspace
from segkit.workspace import find_dataset


def predict(options: opt.Predict) -> Outcome:
    """Segment images; see :class:`segkit.options.Predict`."""
    if options.output.name.lower().endswith(KNOWN_ENDINGS):
        raise UsageError("-o is a folder, not a file", where=options.output, fix="give a folder")
    predictor = load_predictor(
        _model_folder(options),
        options.folds,
        device=resolve_device(options.device),
        checkpoint=options.checkpoint,
        settings=PredictionSettings(
            step=options.step, precision=options.precision, engine=options.engine
        ),
        mirror=not options.no_tta,
    )
    cases = images_to_predict(options.inputs, predictor.model.description)
    predict_cases(predictor, cases, options.output, keep_probabilities=options.save_probabilities)
    return Outcome(text=f"predicted {len(cases)} case(s), in {options.output}")


def load_predictor(
    folder: Path,
    folds: Sequence[str],
    *,
    device: torch.device,
    settings: PredictionSettings,
    checkpoint: str = "final",
    mirror: bool = True,
) -> CasePredictor:
    """Read a model folder and bring its networks to the device, ready to predict.

    Args:
        folder: The model folder.
        folds: Folds to average; empty takes all that are trained.
        device: Where to predict.
        settings: Step, precision and engine; the axes to mirror are the model's.
        checkpoint: ``final``, ``best`` or ``last``.
        mirror: Average over flips, where training flipped.

    Raises:
        UserError: no such model, fold or checkpoint, or an engine that does not run it.
    """
    prepare_torch()
    model = load_model(folder)
    settings = replace(settings, mirror_axes=model.settings.mirror_axes if mirror else ())
    channels, patch_size = len(model.plan.channel_names), model.settings.patch_size
    trial = trial_input(model.configuration.network, channels, patch_size)
    precision = choose_precision(settings.precision, device)
    forwards = [
        start_engine(settings.engine, network, trial, precision)
        for network in load_networks(model, folds, checkpoint=checkpoint, device=device)
    ]
    return CasePredictor(model=model, forwards=forwards, settings=settings, device=device)


def predict_cases(
    predictor: CasePredictor,
    cases: Sequence[Case],
    output: Path,
    *,
    keep_probabilities: bool = False,
) -> None:
    """Predict every case into ``output``; one that fails is named after the others are done.

    Raises:
        UserError: cases that failed, or an output that would overwrite an input.
    """
    ending = predictor.model.description.label_ending
    layout = predictor.model.settings.label_layout
    targets = {case.id: label_path(output, case.id, ending, layout).resolve() for case in cases}
    _check_targets(targets.values(), cases, output, layout)
    output.mkdir(parents=True, exist_ok=True)

    def write(case: Case, prediction: Prediction) -> None:
        predictor.write(prediction, targets[case.id], keep_probabilities=keep_probabilities)

    stages = Stages(
        read=predictor.read,
        compute=predictor.predict,
        write=write,
        alone=predictor.needs_all_memory,
    )
    gather(overlapped(cases, stages, _case_id), cases, "predict", _case_id)


def _case_id(case: Case) -> str:
    return case.id


def _check_targets(
    targets: Collection[Path], cases: Sequence[Case], output: Path, layout: LabelLayout
) -> None:
    """Refuse to write over, beside or into a folder of the images that are to be predicted."""
    inputs = {path.resolve() for case in cases for path in case.images}
    taken = inputs | {path.parent for path in inputs}
    if overwritten := sorted(taken & set(targets)):
        where = overwritten[0]
        raise UserError("the output would overwrite an input", where=where, fix="change -o")
    if output.resolve() in taken:
        fix = "choose a folder of its own for the label maps with -o"
        raise UserError("the output folder holds the input images", where=output, fix=fix)
    for there in targets:
        if there.exists() and there.is_dir() != (layout == "folder"):
            kinds = ("folder", "file") if there.is_dir() else ("file", "folder")
            what = "a {} is where a {} is to be written".format(*kinds)
            raise UserError(what, where=there, fix="take it away, or change -o")


def _model_folder(options: opt.Predict) -> Path:
    if (options.model is None) == (options.dataset is None):
        fix = "give a model folder with -m, or a dataset with -d and a configuration with -c"
        raise UsageError("give either -m MODEL or -d DATASET -c CONFIG", fix=fix)
    if options.model is not None:
        return options.model
    if options.configuration is None:
        raise UsageError("-d DATASET needs a configuration", fix="add for example -c 3d_fullres")
    assert options.dataset is not None
    description = load_description(find_dataset(options.dataset, options.raw_folders))
    workspace = open_workspace(options.workdir, description)
    if options.recipe is not None:
        from segkit.config import recipe_name

        recipe = recipe_name(options.recipe)
        return workspace.model(options.planner, options.configuration, recipe)
    return _only_model(workspace.model(options.planner, options.configuration, "default"))


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
