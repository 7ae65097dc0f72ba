"""Predicting images."""

from __future__ import annotations

from pathlib import Path

from segkit import options as opt
from segkit.dataset.description import load_description
from segkit.errors import UsageError, UserError
from segkit.inference.files import check_output_folder
from segkit.inference.model import trained_folds
from segkit.runtime import log
from segkit.workflows.common import Outcome, open_workspace
from segkit.workflows.predictor import Predictor
from segkit.workspace import find_dataset


def predict(options: opt.Predict) -> Outcome:
    """Segment images; see :class:`segkit.options.Predict`."""
    check_output_folder(options.output)
    predictor = Predictor.from_folder(
        _model_folder(options),
        folds=options.folds,
        checkpoint=options.checkpoint,
        device=options.device,
        precision=options.precision,
        engine=options.engine,
    )
    written = predictor.predict_files(
        options.inputs,
        options.output,
        save_probabilities=options.save_probabilities,
        step=options.step,
        tta=not options.no_tta,
    )
    return Outcome(text=f"predicted {len(written)} case(s), in {options.output}")


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
